"""artifactfs.modellab.unsolicited: what came before a request was sent, or behind an answer, answers no request."""

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpcore
import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab import connections, unsolicited
from tests.scripted import Connection, Network, scripted
from tests.tlsproxy import certificate

FOREIGN = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nforeign"
# How a Transport comes to its server: the API's URL, the proxy, what the proxy is asked for.
ROUTES = {
    "plain": ("http://127.0.0.1:1", None),
    "forward proxy": ("http://lab.test", "http://proxy.test:3128"),
    "TLS": ("https://lab.test", None),
    "TLS in a tunnel": ("https://lab.test", "http://proxy.test:3128"),
}
Behind = Callable[[Connection, int], Awaitable[None]]


def answer(number: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nown %d" % number


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ssl.SSLContext]:
    """The path of a certificate, and a server's context with it."""
    cert, key = certificate(str(tmp_path_factory.mktemp("tls")), "lab.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


class Route:
    """One way to a server that answers request `/N` with "own N"; `behind` sends what follows an answer."""

    def __init__(self, name: str, certified: tuple[str, ssl.SSLContext], behind: Behind) -> None:
        self._url, self._proxy = ROUTES[name]
        self._ca_file, self._context = certified
        self._behind = behind
        self._is_tls = self._url.startswith("https")

    def begin(self, network: Network) -> None:
        self.network = network
        self.sender = network.transport(self._url, proxy=self._proxy, ca_file=self._ca_file)

    async def serve(self, connection: Connection) -> None:
        if self._is_tls and self._proxy is not None:
            head = await connection.request()
            assert head is not None
            assert head.startswith(b"CONNECT lab.test:443 ")
            connection.requests.clear()
            await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if self._is_tls:
            await connection.start_tls(self._context)
        while (head := await connection.request()) is not None:
            number = int(head.split()[1].rpartition(b"/")[2])
            await connection.send(answer(number))
            await self._behind(connection, number)

    async def get(self, number: int) -> bytes:
        return await self.sender.get("listing", f"/{number}", deadline_s=30)

    @property
    def asked(self) -> list[int]:
        """Return the number of requests on each connection."""
        return [len(connection.requests) for connection in self.network.connections]


@asynccontextmanager
async def route_to(name: str, certified: tuple[str, ssl.SSLContext], behind: Behind) -> AsyncIterator[Route]:
    route = Route(name, certified, behind)
    async with scripted(route.serve) as network:
        route.begin(network)
        yield route


async def nothing(_connection: Connection, _number: int) -> None:
    pass


async def foreign(connection: Connection, _number: int) -> None:
    await connection.send(FOREIGN)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_clean_connection_is_used_again(
    route: str, certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock
) -> None:
    """7: answers that end cleanly cost one connection. Fails where httpcore, httpx or h11 are made otherwise.

    Then bytes are right all the same, only slower: look what changed there (unsolicited.py).
    """
    async with route_to(route, certified, nothing) as to:
        assert [await to.get(number) for number in range(5)] == [b"own %d" % number for number in range(5)]
        assert to.asked == [5]


@pytest.mark.parametrize("route", ROUTES)
async def test_an_answer_behind_an_answer(
    route: str, certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """4.1: a second answer, which comes with the first in a write (and a TLS record) of its own, is not trusted."""
    async with route_to(route, certified, foreign) as to:
        assert [await to.get(number) for number in range(3)] == [b"own 0", b"own 1", b"own 2"]
        assert to.asked == [1, 1, 1]


async def test_an_answer_in_the_same_piece(
    certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """4.1: the same in one piece of the socket; the log says what is wrong, without what came."""

    async def serve(connection: Connection) -> None:
        while await connection.request() is not None:
            await connection.send(answer(0) + FOREIGN)

    async with scripted(serve) as network:
        sender = network.transport(ca_file=certified[0])
        assert [await sender.get("listing", "/0", deadline_s=30) for _ in range(2)] == [b"own 0", b"own 0"]
        assert len(network.connections) == 2
    assert f"{len(FOREIGN)} bytes arrived after the end of an answer" in caplog.text
    assert "foreign" not in caplog.text


@pytest.mark.parametrize("pause_s", [0.001, 1.0])
@pytest.mark.parametrize("route", ROUTES)
async def test_an_answer_on_an_idle_connection(
    route: str, pause_s: float, certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock
) -> None:
    """4.1: it comes a moment or a second after the first was read: that connection is not used again."""

    async def late(connection: Connection, number: int) -> None:
        await trio.sleep(pause_s)
        await connection.send(FOREIGN)

    async with route_to(route, certified, late) as to:
        for number in range(3):
            assert await to.get(number) == b"own %d" % number
            await trio.sleep(2 * pause_s)
        assert to.asked == [1, 1, 1]


@pytest.mark.parametrize("route", ROUTES)
async def test_an_answer_between_the_look_and_the_request(
    route: str, certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.1: it comes after the pool has found the connection idle: the request goes by another one, and at once."""
    monkeypatch.setattr(unsolicited.GuardedStream, "get_extra_info", _never_readable)
    async with route_to(route, certified, nothing) as to:
        assert await to.get(0) == b"own 0"
        await to.network.connections[0].send(FOREIGN)
        before = trio.current_time()
        assert await to.get(1) == b"own 1"
        assert trio.current_time() - before < 0.1
        assert to.asked == [1, 1]


def _never_readable(stream: unsolicited.GuardedStream, info: str) -> object:
    return stream._wire.socket if info == "socket" else None


@pytest.mark.parametrize("route", ["TLS", "TLS in a tunnel"])
async def test_an_answer_while_tls_packs_the_request(
    route: str, certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.1: it comes when all but the sending is done: the request goes by another connection."""
    async with route_to(route, certified, nothing) as to:
        assert await to.get(0) == b"own 0"
        send_all, coming = unsolicited._Records.send_all, [FOREIGN]

        async def overtaken(records: unsolicited._Records, data: bytes) -> None:
            if coming:
                await to.network.connections[0].send(coming.pop())
            await send_all(records, data)

        monkeypatch.setattr(unsolicited._Records, "send_all", overtaken)
        assert await to.get(1) == b"own 1"
        assert to.asked == [1, 1]


@pytest.mark.parametrize("tls", [False, True])
async def test_a_server_that_speaks_first(
    tls: bool, certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock
) -> None:
    """4.1: an answer that is there before the request is none: no request is sent, and the caller gets an error."""

    async def serve(connection: Connection) -> None:
        if tls:
            await connection.start_tls(certified[1])
        await connection.send(FOREIGN)
        await connection.request()

    async with scripted(serve) as network:
        sender = network.transport("https://lab.test" if tls else "http://127.0.0.1:1", ca_file=certified[0])
        with pytest.raises(errors.ConnectionLost):
            await sender.get("listing", "/0", deadline_s=30)
    assert len(network.connections) > 1
    assert not any(connection.requests for connection in network.connections)


async def test_tls_within_tls(certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock) -> None:
    """4.1: through a proxy that is itself spoken to by TLS, no byte is overlooked in either layer."""
    context = ssl.create_default_context(cafile=certified[0])
    go_on = trio.Event()

    async def serve(connection: Connection) -> None:
        await connection.start_tls(certified[1])
        await connection.start_tls(certified[1])
        await connection.request()
        await connection.send(answer(0))
        await go_on.wait()
        await connection.send(FOREIGN)
        await connection.request()

    async with scripted(serve) as network:
        stream = await unsolicited.GuardedNetwork(network).connect_tcp("lab.test", 443)
        for _ in range(2):
            stream = await stream.start_tls(context, "lab.test")
        assert isinstance(stream, unsolicited.GuardedStream)
        await stream.write(b"GET /0 HTTP/1.1\r\n\r\n")
        assert await stream.read(1000) == answer(0)
        assert await stream.answered()
        assert not stream.get_extra_info("is_readable")
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not await stream.answered()
        with pytest.raises(httpcore.ConnectionNotAvailable):
            await stream.write(b"GET /1 HTTP/1.1\r\n\r\n")
        await stream.aclose()


@pytest.mark.parametrize("part", [slice(3), slice(-10)], ids=["of its header", "of its body"])
async def test_half_a_record_counts(
    part: slice, certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock
) -> None:
    """4.1: the first bytes of a TLS record are bytes that came, though nothing of it can be read yet."""

    async def serve(connection: Connection) -> None:
        await connection.start_tls(certified[1])
        while await connection.request() is not None:
            connection.wire.hold = True
            await connection.send(answer(0))
            clean, connection.wire.kept = connection.wire.kept, b""
            await connection.send(FOREIGN)
            connection.wire.kept = clean + connection.wire.kept[part]
            connection.wire.hold = False
            await connection.wire.release([])

    async with scripted(serve) as network:
        sender = network.transport("https://lab.test", ca_file=certified[0])
        assert [await sender.get("listing", "/0", deadline_s=30) for _ in range(3)] == [b"own 0"] * 3
        assert [len(connection.requests) for connection in network.connections] == [1, 1, 1]


# --- where the installed releases are made otherwise -------------------------------------------------------


async def test_an_httpcore_that_tells_no_end(
    certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.1: where no end of an answer can be seen, each connection serves one request."""
    monkeypatch.setattr(httpcore.AsyncHTTP11Connection, "_response_closed", unsolicited._httpcores_own)
    monkeypatch.setattr(unsolicited, "install", lambda: None)
    async with route_to("TLS", certified, foreign) as to:
        assert [await to.get(number) for number in range(3)] == [b"own 0", b"own 1", b"own 2"]
        assert to.asked == [1, 1, 1]


@pytest.mark.parametrize("name", ["_h11_state", "_network_stream"])
async def test_an_httpcore_with_other_names(
    name: str, certified: tuple[str, ssl.SSLContext], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.1: the same where its parser or its stream is called otherwise."""

    def lacking(connection: object, wanted: str, default: object) -> object:
        return default if wanted == name else getattr(connection, wanted, default)

    monkeypatch.setattr(unsolicited, "getattr", lacking, raising=False)
    async with route_to("plain", certified, nothing) as to:
        assert [await to.get(number) for number in range(3)] == [b"own 0", b"own 1", b"own 2"]
        assert to.asked == [1, 1, 1]


async def test_an_httpx_that_takes_no_network(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """4.1: where answers come by a connection that is not guarded, none is used twice, and the log says so."""
    made: list[int] = []

    class Unguarded(httpx.AsyncBaseTransport):
        def __init__(self, *, limits: httpx.Limits, **_settings: object) -> None:
            assert limits.max_keepalive_connections is not None
            made.append(limits.max_keepalive_connections)

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=b"body", extensions={"network_stream": object()})

    monkeypatch.setattr(httpx, "AsyncHTTPTransport", Unguarded)
    caplog.set_level(logging.WARNING)
    sender = connections.Connections(ssl.create_default_context(), None, trio.current_time)
    for _ in range(3):
        await sender.send(httpx.URL("http://127.0.0.1:1/"), {}, 5.0)
    assert [bool(count) for count in made] == [True, False]
    assert caplog.text.count("each serves one request only") == 1
