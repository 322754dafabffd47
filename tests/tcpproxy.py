"""A wire between a mount and a lab that a test can cut: in order, with RST, or silently.

A connection that was forgotten is what a laptop has in the morning: both ends are open, and nothing goes through.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

_PIECE = 65536
# l_onoff, l_linger (socket(7)): closing sends RST.
_RST = struct.pack("ii", 1, 0)


class _Pair:
    """A connection of a client, and ours to the lab for it."""

    def __init__(self, client: socket.socket, lab: socket.socket) -> None:
        self.client = client
        self.lab = lab
        self.forgotten = False


class TcpProxy:
    """Where it is, and how many connections it took."""

    def __init__(self, lab_port: int, port: int) -> None:
        self._lab_port = lab_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.taken = 0
        # All that clients sent, in pieces.
        self.sent: list[bytes] = []
        self._pairs: list[_Pair] = []
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self) -> None:
        """Take connections until `close`."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                pair = _Pair(client, socket.create_connection(("127.0.0.1", self._lab_port)))
                self.taken += 1
                self._pairs.append(pair)
                for source, target in ((pair.client, pair.lab), (pair.lab, pair.client)):
                    thread = threading.Thread(target=self._pump, args=(pair, source, target))
                    self._threads.append(thread)
                    thread.start()

    def cut(self, how: str) -> None:
        """Cut all connections of now: "forget" them without a word, "reset" them, or "close" them in order."""
        for pair in self._pairs:
            if how == "forget":
                pair.forgotten = True
                continue
            with contextlib.suppress(OSError):
                if how == "reset":
                    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                    pair.client.shutdown(socket.SHUT_RD)
                    pair.client.close()
                else:
                    pair.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End all connections and threads."""
        sockets = [self._listener, *(each for pair in self._pairs for each in (pair.client, pair.lab))]
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in sockets:
            each.close()

    def _pump(self, pair: _Pair, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                if source is pair.client:
                    self.sent.append(piece)
                if not pair.forgotten:
                    target.sendall(piece)
        if not pair.forgotten:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def tcp_proxy(lab_port: int, port: int = 0) -> Iterator[TcpProxy]:
    """Run a proxy on loopback, at a free port unless another one is given."""
    proxy = TcpProxy(lab_port, port)
    acceptor = threading.Thread(target=proxy.serve)
    acceptor.start()
    try:
        yield proxy
    finally:
        proxy.close()
        acceptor.join()
