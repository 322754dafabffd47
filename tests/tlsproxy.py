"""A proxy that is every host behind it: takes CONNECT, speaks TLS with a certificate of its own, passes on to a lab.

So a mount of a real site's name can be tested: the name, the certificate, what goes through the proxy in the clear.
"""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator

from tests.harness import run

_PIECE = 65536


def certificate(directory: str, *names: str) -> tuple[str, str]:
    """Make a self-signed certificate for these host names. Returns the paths of certificate and key."""
    cert, key = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    alternatives = ",".join(f"IP:{name}" if name[0].isdigit() else f"DNS:{name}" for name in names)
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={alternatives}",
    ).ok()  # fmt: skip
    return cert, key


class TlsProxy:
    """Where it is, and what clients sent it before TLS began: all that a proxy sees."""

    def __init__(self, lab_port: int, cert: str, key: str, *, connect: bool) -> None:
        self._lab_port = lab_port
        self._connect = connect
        # The names that clients asked for (SNI).
        self.names: list[str | None] = []
        self.present(cert, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen: list[bytes] = []
        # What they sent inside of it, in pieces.
        self.sent: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def present(self, cert: str, key: str) -> None:
        """Show this certificate to a client that connects from now on."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(cert, key)
        self._context.sni_callback = lambda _socket, name, _context: self.names.append(name)

    def drop(self) -> None:
        """End all connections: a caller that wants to go on has to come again."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Take connections until `close`."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                self._start(self._converse, client)

    def close(self) -> None:
        """End all connections and threads."""
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]  # called with what it takes
        self._threads.append(thread)
        thread.start()

    def _converse(self, client: socket.socket) -> None:
        # A client that does not like the certificate just goes.
        with contextlib.suppress(OSError, ssl.SSLError):
            if self._connect:
                head = b""
                while b"\r\n\r\n" not in head and (piece := client.recv(_PIECE)):
                    head += piece
                self.seen.append(head)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            secured = self._context.wrap_socket(client, server_side=True)
            self._sockets.append(secured)
            lab = socket.create_connection(("127.0.0.1", self._lab_port))
            self._sockets.append(lab)
            self._start(_pump, lab, secured)
            _pump(secured, lab, self.sent)


def _pump(source: socket.socket, target: socket.socket, note: list[bytes] | None = None) -> None:
    with contextlib.suppress(OSError, ssl.SSLError, ValueError):
        while piece := source.recv(_PIECE):
            if note is not None:
                note.append(piece)
            target.sendall(piece)
    with contextlib.suppress(OSError, ssl.SSLError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tls_proxy(lab_port: int, cert: str, key: str, *, connect: bool = True) -> Iterator[TlsProxy]:
    """Run a proxy on loopback; without `connect` it is a plain TLS server in front of the lab."""
    proxy = TlsProxy(lab_port, cert, key, connect=connect)
    acceptor = threading.Thread(target=proxy.serve)
    acceptor.start()
    try:
        yield proxy
    finally:
        proxy.close()
        acceptor.join()
