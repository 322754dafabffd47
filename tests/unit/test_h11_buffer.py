"""artifactfs.modellab.h11_buffer: what h11's own buffer gives, by other means; and that the installed h11 uses it."""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from unittest.mock import patch

import h11
import h11._connection as parser
import httpcore
import pytest
from h11._receivebuffer import ReceiveBuffer
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from artifactfs.modellab import h11_buffer
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.h11_buffer import ChunkedReceiveBuffer
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret
from tests.fakes import TurnedClock

LARGE = h11_buffer._LARGE_BYTES
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"

# --- the buffer ---------------------------------------------------------------------------------------------

# What may come: line ends in all forms and places, and runs that are large for a limit of 8 bytes.
texts = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"a", b"bc" * 5, b"\x16", b" "]), max_size=12
)
pieces = st.tuples(st.just("add"), texts.map(b"".join), st.sampled_from([bytes, bytearray]))
extractions = st.one_of(
    st.tuples(st.just("at most"), st.integers(0, 40)),
    st.tuples(st.sampled_from(["line", "lines", "invalid", "length", "bytes", "bool"])),
)


def do(buffer: ReceiveBuffer, step: tuple[object, ...]) -> object:
    """Do one step and return what can be seen of it."""
    name, *arguments = step
    if name == "add":
        data, kind = arguments
        before = id(buffer)
        buffer += kind(data)  # type: ignore[operator]
        assert id(buffer) == before
        return len(buffer)
    if name == "at most":
        found = buffer.maybe_extract_at_most(arguments[0])  # type: ignore[arg-type]
        return None if found is None else bytes(found)
    ways: dict[object, Callable[[], object]] = {
        "line": buffer.maybe_extract_next_line,
        "lines": buffer.maybe_extract_lines,
        "invalid": buffer.is_next_line_obviously_invalid_request_line,
        "length": lambda: len(buffer),
        "bytes": lambda: bytes(buffer),
        "bool": lambda: bool(buffer),
    }
    return ways[name]()


@given(steps=st.lists(st.one_of(pieces, pieces, extractions), max_size=40))
def test_it_gives_what_h11s_own_gives(steps: list[tuple[object, ...]]) -> None:
    """4.1: any pieces, taken out in any ways, come out as they do of h11's own buffer."""
    with patch.object(h11_buffer, "_LARGE_BYTES", 8):
        own, ours = ReceiveBuffer(), ChunkedReceiveBuffer()
        for step in steps:
            assert do(ours, step) == do(own, step), step
        assert bytes(ours) == bytes(own)


def test_a_large_piece_is_handed_out_as_it_came() -> None:
    """A piece of which all belongs to the body is never copied."""
    buffer = ChunkedReceiveBuffer()
    for piece in (bytes(LARGE), bytes(1 << 20)):
        buffer += piece
        assert len(buffer) == len(piece)
        assert buffer.maybe_extract_at_most(len(piece) + 5) is piece
        assert len(buffer) == 0
        assert buffer.maybe_extract_at_most(5) is None


def test_what_follows_a_head_is_copied_once() -> None:
    """A piece that begins with the head: the lines, then the rest of it as one."""
    body = bytes(range(256)) * 4096
    buffer = ChunkedReceiveBuffer()
    buffer += HEAD % len(body) + body
    lines = buffer.maybe_extract_lines()
    assert lines is not None
    assert b"|".join(lines) == b"HTTP/1.1 200 OK|Content-Length: 1048576"
    assert not buffer._data
    rest = buffer.maybe_extract_at_most(len(body))
    assert type(rest) is bytes
    assert rest == body


def test_nothing_of_a_buffer_is_shared() -> None:
    """A bytearray belongs to who gave it, and may change."""
    buffer = ChunkedReceiveBuffer()
    piece = bytearray(LARGE)
    buffer += piece
    piece[0] = 1
    assert buffer.maybe_extract_at_most(LARGE) == bytes(LARGE)


# --- h11 with it --------------------------------------------------------------------------------------------


def events(kind: type[ReceiveBuffer], stream: bytes, cuts: list[int]) -> list[tuple[object, ...]]:
    """Return what h11 makes of the answers to pipelined requests that come in pieces, and how it ends."""
    found: list[tuple[object, ...]] = []
    with patch.object(parser, "ReceiveBuffer", kind):
        connection = h11.Connection(h11.CLIENT)
    assert type(connection._receive_buffer) is kind
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    body = b""
    ends = [*sorted(cuts), len(stream)]
    for start, end in zip([0, *ends], ends, strict=False):
        if start == end:
            continue
        connection.receive_data(stream[start:end])
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                return [*found, ("body", body), ("error", str(error))]
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.Response):
                found.append(("head", event.status_code, list(event.headers)))
            elif isinstance(event, h11.EndOfMessage):
                found.append(("end", body, list(event.headers)))
                body = b""
            elif event is h11.PAUSED:
                # Left over for the next request.
                connection.start_next_cycle()
                connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
                connection.send(h11.EndOfMessage())
            else:
                break
    return [*found, ("body", body), ("left", connection.trailing_data[0])]


def chunked(body: bytes, sizes: list[int]) -> bytes:
    found, at = b"", 0
    for size in [*sizes, len(body)]:
        if part := body[at : at + size]:
            found += b"%x;ext=1\r\n%s\r\n" % (len(part), part)
        at += size
    return found + b"0\r\nTrailer: yes\r\n\r\n"


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Draw an answer with a length or in chunks, whose body has what looks like heads and line ends in it."""
    some = st.sampled_from([b"\r\n\r\n", b"\n\n", b"0\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n", b"x" * 30, b"\x00" * 99])
    body = b"".join(draw(st.lists(some, max_size=20)))
    end = draw(st.sampled_from([b"\r\n", b"\n"]))
    before = draw(st.sampled_from([b"", b"", b"HTTP/1.1 103 Early" + end + end]))
    head = before + b"HTTP/1.1 200 OK" + end + b"X: " + b"y" * draw(st.integers(0, 80)) + end
    if draw(st.booleans()):
        return head + b"Content-Length: %d" % len(body) + end + end + body
    sizes = draw(st.lists(st.integers(1, 200), max_size=5))
    return head + b"Transfer-Encoding: chunked" + end + end + chunked(body, sizes)


@given(stream=st.lists(answers(), min_size=1, max_size=3).map(b"".join), data=st.data())
def test_h11_sees_the_same_answers(stream: bytes, data: st.DataObject) -> None:
    """4.1: lengths, chunks, several answers in one piece: the same heads, bodies and rests, however they are cut."""
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    extra = data.draw(st.sampled_from([b"", b"", b"junk that is no answer\r\n\r\n", b"HTTP/1.1 2"]))
    for limit in (8, 64):
        with patch.object(h11_buffer, "_LARGE_BYTES", limit):
            ours = events(ChunkedReceiveBuffer, stream + extra, cuts)
        assert ours == events(ReceiveBuffer, stream + extra, cuts)


@pytest.mark.parametrize("large", [1 << 20, 3 * LARGE])
def test_h11_sees_large_answers(large: int) -> None:
    """4.1: pieces as large as those of a socket: bodies with a length and in chunks, one after another, are right."""
    body = bytes(range(256)) * (large // 256)
    first, second = HEAD % len(body) + body, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    stream = first + second + chunked(body, [large // 3, 5, large // 2]) + HEAD % 4 + b"last"
    for step in (large, large + 7, LARGE, LARGE - 1, len(stream)):
        found = events(ChunkedReceiveBuffer, stream, list(range(step, len(stream), step)))
        assert [event[1] for event in found if event[0] == "end"] == [body, body, b"last"]
        assert found[-1] == ("left", b"")


# --- the installed releases ---------------------------------------------------------------------------------


class Wire(httpcore.AsyncNetworkStream):
    """A connection that gives prepared pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.asked: list[int] = []

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as httpcore has it
        self.asked.append(max_bytes)
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as httpcore has it
        pass

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, info: str) -> object:
        return None


class Network(httpcore.AsyncNetworkBackend):
    """Connects to one wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def connect_tcp(self, *_where: object, **_how: object) -> Wire:
        return self.wire


@pytest.fixture
def installed() -> Iterator[None]:
    """Undo what a test installs."""
    before = parser.ReceiveBuffer  # type: ignore[attr-defined]
    yield
    parser.ReceiveBuffer = before  # type: ignore[attr-defined]


async def test_the_installed_releases_do_not_copy(autojump_clock: MockClock, installed: None) -> None:
    """What a socket gives is what `Stream.chunks` yields: a later httpx, httpcore or h11 that copies fails this test.

    Then bytes are right all the same, only slower: look what changed there (received.py).
    """
    keys = Credentials(Secret("a"), Secret("b"))
    body = [bytes([number]) * (1 << 18) for number in range(4)]
    wire = Wire([HEAD % sum(map(len, body)), *body])
    transport = Transport("http://127.0.0.1:1", keys, clock=TurnedClock())
    transport._connections._sender._pool._network_backend = Network(wire)  # type: ignore[attr-defined]
    stream = await transport.open("content", "/x", headers={}, deadline_s=30, expected=frozenset({200}))
    chunks = [chunk async for chunk in stream.chunks()]
    await stream.aclose()
    await transport.aclose()
    assert len(chunks) == len(body)
    assert all(chunk is piece for chunk, piece in zip(chunks, body, strict=True))
    assert set(wire.asked) == {h11_buffer._READ_BYTES}


def test_it_is_installed(installed: None) -> None:
    """Every connection of h11's that is made from then on has the buffer; once more changes nothing."""
    for _ in range(2):
        h11_buffer.install()
        assert type(h11.Connection(h11.CLIENT)._receive_buffer) is ChunkedReceiveBuffer


@pytest.mark.parametrize("release", ["0.13.0", "0.17.0", "1.0"])
def test_another_h11_keeps_its_own(installed: None, release: str, caplog: pytest.LogCaptureFixture) -> None:
    """A release that the buffer was not made for is left alone, and the debug log says so."""
    caplog.set_level(logging.DEBUG, "artifactfs")
    parser.ReceiveBuffer = ReceiveBuffer  # type: ignore[attr-defined]
    with patch.object(h11, "__version__", release):
        h11_buffer.install()
    assert parser.ReceiveBuffer is ReceiveBuffer  # type: ignore[attr-defined]
    assert "h11" in caplog.text


@pytest.mark.parametrize("missing", ["h11._connection", "h11._receivebuffer"])
def test_an_h11_without_these_modules(installed: None, missing: str) -> None:
    """A release without the names that are reached for: nothing fails."""
    parser.ReceiveBuffer = ReceiveBuffer  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("received_without", h11_buffer.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, {missing: None}):
        spec.loader.exec_module(module)
    module.install()
    assert parser.ReceiveBuffer is ReceiveBuffer  # type: ignore[attr-defined]
