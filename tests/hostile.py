"""A server that says what no decent one does: it sends byte by byte what a test writes.

What it is asked for that nothing is planted for, it answers well: a run, its listing, its contents, so that a test can
see that a mount still works. It keeps all that it received, head by head: the test of where keys go. Every connection
serves one request, unless something is to follow its answer (`behind`). Plain sockets, because a library for servers
refuses to send what this one has to.
"""

import contextlib
import socket
import struct
import threading
import urllib.parse
from collections.abc import Iterator

from tests.answers import FILES, NOT_FOUND, Answer, Asked, Planted, Reset, ok, page, raw, well
from tests.processes import LIMIT_S

API = "/api/v2/model-lab-api"
_PIECE_BYTES = 64 << 10
# l_onoff, l_linger (socket(7)): closing sends RST.
_RST = struct.pack("ii", 1, 0)
_MAX_HEAD_BYTES = 8 << 20


class HostileServer:
    """Where it is, what is planted, and what it received."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.received: list[Asked] = []
        # Connections that were taken.
        self.accepted = 0
        # Bytes sent of answers, by the path that was asked for.
        self.sent: dict[str, int] = {}
        self.closed = threading.Event()
        # In place of everything: of the page of runs, and of what is no part of the API.
        self.runs: Answer | None = None
        self.other: Answer | None = None
        # What goes together with each answer, in a piece behind it, on a connection that then goes on.
        self.behind: Answer | None = None
        self._planted: dict[int, Planted] = {}
        self._next_run = 100_001
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def plant(
        self,
        *,
        run: Answer | None = None,
        listing: Answer | None = None,
        index: Answer | None = None,
        content: Answer | None = None,
        project: str | None = None,
        prefix: str | None = None,
        files: dict[str, bytes] | None = None,
    ) -> int:
        """Make a run that nothing else uses, in a project of its own, with these answers. Returns its id."""
        run_id = self._next_run
        self._next_run += 1
        self._planted[run_id] = Planted(
            run_id,
            str(run_id) if project is None else project,
            f"{run_id:032x}/artifacts" if prefix is None else prefix,
            dict(FILES) if files is None else files,
            run,
            listing,
            index,
            content,
        )
        return run_id

    def of(self, run_id: int) -> Planted:
        return self._planted[run_id]

    def heal(self, run_id: int) -> None:
        """Take away what is planted for a run, except for its names."""
        planted = self._planted[run_id]
        planted.run = planted.listing = planted.index = planted.content = None

    def asked(self, part: str) -> list[Asked]:
        """Return the requests whose target holds `part`."""
        return [each for each in self.received if part in each.target]

    def interject(self, data: bytes) -> None:
        """Send this on every connection that is open, as far as its client's socket takes it: it may never read."""
        with self._lock:
            clients = list(self._open)
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(data, socket.MSG_DONTWAIT)

    # --- answering --------------------------------------------------------------------------------

    def _answer(self, asked: Asked) -> Answer:
        nothing = raw(NOT_FOUND)
        if not asked.path.startswith(API + "/"):
            return self.other or nothing
        parts = asked.path[len(API) + 1 :].split("/")
        if parts == ["runs"]:
            return self.runs or raw(ok(page([])))
        if parts == ["artifacts", "content"]:
            project = asked.query.get("project_id")
            planted = next((each for each in self._planted.values() if each.project == project), None)
            return (planted.content or well(planted, "content")) if planted else nothing
        number = urllib.parse.unquote(parts[1]) if len(parts) > 1 else ""
        if parts[0] == "projects":
            planted = next((each for each in self._planted.values() if each.project == number), None)
            return planted.index if planted and planted.index else nothing
        planted = self._planted.get(int(number)) if number.isdecimal() else None
        if planted is None:
            return nothing
        if parts[2:] == ["artifacts"]:
            return planted.listing or well(planted, "listing")
        return planted.run or well(planted, "run")

    def serve(self) -> None:
        """Take connections until `close`."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                thread = threading.Thread(target=self._converse, args=[client])
                with self._lock:
                    self._open.add(client)
                    self._threads.append(thread)
                thread.start()

    def _converse(self, client: socket.socket) -> None:
        # A client that has enough just goes.
        with contextlib.suppress(OSError), client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                asked = self._read(client)
                if asked is None:
                    return
                self.received.append(asked)
                if (behind := self.behind) is None:
                    break
                self._answer_and_more(client, asked, behind)
            try:
                for piece in self._answer(asked)(asked):
                    client.sendall(piece)
                    with self._lock:
                        self.sent[asked.path] = self.sent.get(asked.path, 0) + len(piece)
            except Reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                return
            client.shutdown(socket.SHUT_WR)
            client.settimeout(LIMIT_S)
            while client.recv(_PIECE_BYTES):  # a close with something unread would be a reset
                continue
        with self._lock:
            self._open.discard(client)

    def _answer_and_more(self, client: socket.socket, asked: Asked, behind: Answer) -> None:
        answer = b"".join(self._answer(asked)(asked)).replace(b"Connection: close\r\n", b"", 1)
        client.sendall(answer + b"".join(behind(asked)))

    def _read(self, client: socket.socket) -> Asked | None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD_BYTES:
            piece = client.recv(_PIECE_BYTES)
            if not piece:
                return None
            head += piece
        return Asked(head, head.split(b" ", 2)[1].decode("latin-1"))

    def close(self) -> None:
        """End all connections and threads."""
        self.closed.set()
        with self._lock:
            ends = [self._listener, *self._open]
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """Run one on loopback."""
    server = HostileServer()
    acceptor = threading.Thread(target=server.serve)
    acceptor.start()
    try:
        yield server
    finally:
        server.close()
        acceptor.join()
