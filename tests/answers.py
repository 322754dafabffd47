"""What a server sends, byte by byte: what a Model Lab would, and what no caller should.

Owns single answers, as functions of what was asked; who sends them is hostile.py's server. Every answer ends with its
connection.
"""

import contextlib
import json
import threading
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tests.processes import LIMIT_S

FILES = {"a.bin": bytes(range(256)) * 40, "sub/b.txt": b"of no account\n"}
# How often a drip brings its byte: far below any minimum, far above what a time-out between two bytes would notice.
DRIP_S = 0.05
_MANY_BYTES = 1 << 20


@dataclass(frozen=True)
class Asked:
    """One request. `head`: as it came, with all headers. `query`: decoded once."""

    head: bytes
    target: str

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    def header(self, name: str) -> str | None:
        """Return a header's value, None where there is none."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.strip().lower() == name.lower():
                return value.strip()
        return None

    @property
    def span(self) -> tuple[int, int | None]:
        """First byte and end (None: all) that the Range header asks for."""
        first, _, last = (self.header("range") or "bytes=0-").partition("=")[2].partition("-")
        return int(first), int(last) + 1 if last else None


# What is sent, piece by piece; then the connection is closed.
Answer = Callable[[Asked], Iterable[bytes]]


@dataclass
class Planted:
    """A run, and what is answered in place of the truth. `project` names it to the content endpoint and the index."""

    run_id: int
    project: str
    prefix: str
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    run: Answer | None = None
    listing: Answer | None = None
    index: Answer | None = None
    content: Answer | None = None


# --- answers as they should be ------------------------------------------------------------------------


def head(status: str, *headers: str | bytes) -> bytes:
    """Return an answer's head; `status` like "200 OK"."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    return b"".join((line.encode("latin-1") if isinstance(line, str) else line) + b"\r\n" for line in lines) + b"\r\n"


def ok(body: bytes, *headers: str | bytes, status: str = "200 OK") -> bytes:
    """Return a whole answer, JSON unless a header says otherwise."""
    told = any(str(each).lower().startswith("content-type") for each in headers)
    kind = () if told else ("Content-Type: application/json",)
    return head(status, f"Content-Length: {len(body)}", *kind, *headers) + body


NOT_FOUND = ok(b'{"errors":[{"title":"Generic Error","detail":"not found"}]}', status="404 Not Found")


def page(ids: Iterable[object]) -> bytes:
    """Return a page of runs with these ids."""
    rows = [{"id": each, "type": "runs", "attributes": run_attributes("1")} for each in ids]
    return json.dumps({"data": rows, "meta": {"page": {"number": 0, "next_number": None}}}).encode()


def run_attributes(project: object) -> dict[str, object]:
    """Return a completed run's attributes."""
    times = {f"{name}_at": "2026-05-16T09:10:00.5Z" for name in ("created", "completed", "updated")}
    return {"name": "hostile", "status": "completed", "project_id": project, **times}


def told_run(planted: Planted, **changes: object) -> bytes:
    """Return the attributes of a run, with these attributes changed; `id` changes its id."""
    number = changes.pop("id", str(planted.run_id))
    attributes = run_attributes(planted.project) | changes
    return json.dumps({"data": {"id": number, "type": "runs", "attributes": attributes}}).encode()


def listing(rows: Iterable[object], prefix: str = "0/artifacts") -> bytes:
    """Return a listing of these rows."""
    attributes = {"files": list(rows), "path_in_project": prefix}
    return json.dumps({"data": {"id": "1", "type": "artifacts", "attributes": attributes}}).encode()


def well(planted: Planted, kind: str) -> Answer:
    """Answer as a Model Lab does. `kind`: run, listing or content."""

    def answer(asked: Asked) -> Iterator[bytes]:
        if kind == "run":
            yield ok(told_run(planted))
        elif kind == "listing":
            yield ok(listing(rows_of(planted, asked.query.get("path", "").rstrip("/")), planted.prefix))
        else:
            name = asked.query.get("artifact_path", "").removeprefix(planted.prefix.rstrip("/") + "/")
            yield part(planted.files[name], asked) if name in planted.files else NOT_FOUND

    return answer


def rows_of(planted: Planted, directory: str) -> list[object]:
    """Return the rows of a run's directory."""
    start = directory + "/" if directory else ""
    below = [(name[len(start) :], body) for name, body in planted.files.items() if name.startswith(start)]
    names = dict.fromkeys(name.partition("/")[0] + "/" for name, _ in below if "/" in name)
    directories: list[object] = [{"path": start + name, "is_dir": True} for name in names]
    return directories + [{"path": start + n, "is_dir": False, "file_size": len(b)} for n, b in below if "/" not in n]


def part(body: bytes, asked: Asked) -> bytes:
    """Return an answer with the range that was asked for, or with all."""
    start, end = asked.span
    end = len(body) if end is None else min(end, len(body))
    kind = "Content-Type: application/octet-stream"
    if asked.header("range") is None:
        return ok(body, kind)
    if start >= len(body):
        return ok(b"", kind, f"Content-Range: bytes */{len(body)}", status="416 Range Not Satisfiable")
    return ok(
        body[start:end], kind, f"Content-Range: bytes {start}-{end - 1}/{len(body)}", status="206 Partial Content"
    )


# --- answers as no caller should give them ---------------------------------------------------------------


def raw(*pieces: bytes) -> Answer:
    """Send these bytes, whatever is asked."""
    return lambda _: iter(pieces)


class Reset(Exception):
    """Raised by an answer: the connection ends here, with RST."""


def endless(start: bytes, piece: bytes) -> Answer:
    """Send `start`, and then `piece` for as long as the client takes it."""

    def answer(_: Asked) -> Iterator[bytes]:
        yield start
        # Many at a time: the sending should not be what takes the time.
        many = piece * max(1, _MANY_BYTES // len(piece))
        while True:
            yield many

    return answer


def dripping(closed: threading.Event, start: bytes, byte: bytes = b"x") -> Answer:
    """Send `start`, and then `byte` every now and then until `closed`."""

    def answer(_: Asked) -> Iterator[bytes]:
        yield start
        while not closed.wait(DRIP_S):
            yield byte

    return answer


def bomb(size_mib: int, byte: bytes = b" ") -> Iterator[bytes]:
    """Yield the gzip of so many of one byte: the same packed block over and over, without work for the server."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = packer.compress(byte * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    yield b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    for _ in range(size_mib):
        yield block


def gzipped(data: bytes) -> bytes:
    """Return what `data` is in gzip."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return packer.compress(data) + packer.flush()


class Halt:
    """An answer that waits half-way for the test's word: what is done meanwhile is done meanwhile on any machine."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._go_on = threading.Event()

    def here(self) -> None:
        """Called by the answer: tell that it has come so far, and wait."""
        self._reached.set()
        assert self._go_on.wait(LIMIT_S)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Wait until the answer is there; it goes on after the context."""
        try:
            assert self._reached.wait(LIMIT_S), "the answer was never asked for"
            yield
        finally:
            self._go_on.set()
