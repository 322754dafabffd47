"""Any bytes, cut anywhere, behind any answer: each request gets the body of its own answer, and nothing else."""

import contextlib
import ssl
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs import errors
from artifactfs.modellab.h11_buffer import _LARGE_BYTES
from artifactfs.modellab.retry import RetryPolicy
from tests.scripted import Connection, scripted
from tests.tlsproxy import certificate

# httpcore leaves its generators to the collector where a body is not read to its end.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
FOREIGN = b"FOREIGN" * 9
# What no request asked for: whole answers, and parts of answers.
FOREIGN_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 63\r\n\r\n" + FOREIGN,
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-62/63\r\nContent-Length: 63\r\n\r\n" + FOREIGN,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3f\r\n" + FOREIGN + b"\r\n0\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 63\r\n\r\n" + FOREIGN,
    b"HTTP/1.1 204 No Content\r\n\r\n",
    EARLY,
    EARLY + b"HTTP/1.1 200 OK\r\n\r\n" + FOREIGN,
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (9 * _LARGE_BYTES) + FOREIGN * (_LARGE_BYTES // 7),
    b"0\r\n\r\n",
    b"\r\n",
    FOREIGN,
]
foreign = st.one_of(
    st.just(b""),
    st.sampled_from(FOREIGN_ANSWERS),
    st.tuples(st.sampled_from(FOREIGN_ANSWERS), st.integers(1, 60)).map(lambda drawn: drawn[0][: drawn[1]]),
    st.lists(st.sampled_from(FOREIGN_ANSWERS), max_size=3).map(b"".join),
    st.binary(min_size=1, max_size=40),
)


@dataclass(frozen=True)
class Exchange:
    """An answer, and what comes behind it. `now`: how many of the foreign bytes come with the answer; the rest comes
    after the client has read it. `cuts`: where all that is cut, `turns`: turns of the loop between the pieces.
    """

    status: str
    framing: str
    size: int
    early: int
    foreign: bytes
    now: int
    cuts: tuple[int, ...]
    turns: int
    way: str


exchanges = st.builds(
    Exchange,
    status=st.sampled_from(["200 OK", "200 OK", "206 Partial Content", "404 Not Found", "204 No Content"]),
    framing=st.sampled_from(["length", "length", "chunks", "trailers"]),
    size=st.one_of(st.sampled_from([0, 1, _LARGE_BYTES - 1, _LARGE_BYTES, 3 * _LARGE_BYTES]), st.integers(0, 200)),
    early=st.sampled_from([0, 0, 1, 3]),
    foreign=foreign,
    now=st.one_of(st.just(1 << 30), st.integers(0, 80)),
    cuts=st.lists(st.one_of(st.integers(0, 300), st.integers(0, 4 * _LARGE_BYTES)), max_size=6).map(tuple),
    turns=st.sampled_from([0, 1, 30]),
    way=st.sampled_from(["get", "stream", "first piece"]),
)


def own_body(number: int, size: int) -> bytes:
    return (b"own %d;" % number * (size // 6 + 1))[:size]


def own_answer(number: int, exchange: Exchange) -> bytes:
    body = b"" if exchange.status.startswith("204") else own_body(number, exchange.size)
    head = EARLY * exchange.early + b"HTTP/1.1 %b\r\n" % exchange.status.encode()
    if exchange.status.startswith("204"):
        return head + b"\r\n"
    if exchange.framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part)
    trailer = b"X: y\r\n" if exchange.framing == "trailers" else b""
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


# The path of a certificate, and a server's context with it.
Certified = tuple[str, ssl.SSLContext]


class Server:
    """Answers request `/N` with exchange N, and says first on the connections that are to be greeted."""

    def __init__(self, exchanges: list[Exchange], greetings: dict[int, bytes], tls: ssl.SSLContext | None) -> None:
        self._exchanges = exchanges
        self._greetings = greetings
        self._tls = tls
        # Of each connection, what comes behind its last answer, and how.
        self._late: dict[Connection, tuple[Exchange, bytes]] = {}
        self.asked: list[int] = []

    async def serve(self, connection: Connection) -> None:
        if self._tls is not None:
            await connection.start_tls(self._tls)
        await connection.send(self._greetings.get(connection.number, b""))
        while (head := await connection.request()) is not None:
            number = int(head.split()[1].removeprefix(b"/"))
            self.asked.append(number)
            exchange = self._exchanges[number]
            now, late = exchange.foreign[: exchange.now], exchange.foreign[exchange.now :]
            connection.wire.hold = True
            await connection.send(own_answer(number, exchange))
            await connection.send(now)
            if late and self._tls is not None:
                # Half of a TLS record may come with the answer, and the rest of it later.
                await connection.send(late)
                raw, kept = connection.wire.kept, len(connection.wire.kept) - len(late) // 2
                connection.wire.kept, late = raw[:kept], raw[kept:]
            connection.wire.hold = False
            self._late[connection] = exchange, late
            await connection.wire.release(exchange.cuts, exchange.turns)

    async def send_late(self) -> None:
        """Send what comes behind answers after the client has them."""
        for connection, (exchange, late) in self._late.items():
            connection.wire.kept = late
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await connection.wire.release(exchange.cuts, exchange.turns)
        self._late.clear()


SHORT_BACKOFF = RetryPolicy(backoff_s=lambda _attempt: 0.01)


async def converse(exchanges: list[Exchange], greetings: dict[int, bytes], certified: Certified, scheme: str) -> None:
    server = Server(exchanges, greetings, certified[1] if scheme == "https" else None)
    async with scripted(server.serve) as network:
        # One certificate is read in a hundredth of the time of a bundle.
        sender = network.transport(f"{scheme}://127.0.0.1:1", ca_file=certified[0], retry_policy=SHORT_BACKOFF)
        for number, exchange in enumerate(exchanges):
            status = int(exchange.status[:3])
            expected = b"" if status == 204 else own_body(number, exchange.size)
            try:
                if exchange.way == "get":
                    found = await sender.get("listing", f"/{number}", deadline_s=30)
                else:
                    stream = await sender.open(
                        "content", f"/{number}", headers={}, deadline_s=30, expected=frozenset({200, 204, 206})
                    )
                    found = b""
                    async with contextlib.aclosing(stream.chunks()) as chunks:
                        async for chunk in chunks:
                            found += chunk
                            if exchange.way == "first piece":
                                break
                    await stream.aclose()
                    assert expected.startswith(found)
                    if exchange.way == "first piece":
                        found = expected
                assert found == expected
                assert status < 300
            except errors.NotFound:
                assert status == 404
            except errors.ConnectionLost:
                # Only a server that speaks before it is asked gets no further than that.
                assert greetings
            await server.send_late()
    # Each request was answered once: bytes that belong to nothing cost a connection, no request.
    if not greetings:
        assert server.asked == list(range(len(exchanges)))
    # After an answer that something follows, a connection is not used again.
    for connection in network.connections:
        numbers = [int(head.split()[1].removeprefix(b"/")) for head in connection.requests]
        assert not any(exchanges[number].foreign for number in numbers[:-1])
        assert not (greetings.get(connection.number) and numbers)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    cert, key = certificate(str(tmp_path_factory.mktemp("tls")), "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


def run(exchanges: list[Exchange], greetings: dict[int, bytes], certified: Certified, scheme: str) -> None:
    trio.run(converse, exchanges, greetings, certified, scheme, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=250)
@given(st.lists(exchanges, min_size=2, max_size=5))
def test_any_bytes_behind_any_answer(certified: Certified, exchanges: list[Exchange]) -> None:
    """4.1: bytes behind an answer, in the same piece or later, belong to no request; each gets its own answer."""
    run(exchanges, {}, certified, "http")


@settings(max_examples=100)
@given(st.lists(exchanges, min_size=2, max_size=4), st.dictionaries(st.integers(0, 4), foreign, max_size=3))
def test_any_bytes_before_any_request(
    certified: Certified, exchanges: list[Exchange], greetings: dict[int, bytes]
) -> None:
    """4.1: bytes that a server sends before it was asked are no answer."""
    run(exchanges, {number: said for number, said in greetings.items() if said}, certified, "http")


@settings(max_examples=100)
@given(st.lists(exchanges, min_size=2, max_size=4))
def test_any_bytes_behind_any_answer_of_tls(certified: Certified, exchanges: list[Exchange]) -> None:
    """4.1: the same within TLS, whose records are cut anywhere."""
    run(exchanges, {}, certified, "https")
