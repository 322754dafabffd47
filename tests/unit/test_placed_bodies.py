"""artifactfs.modellab.placed_bodies: bodies are received into memory where they may be, and right everywhere."""

import ssl
from collections.abc import Iterable

import httpcore
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from artifactfs import errors
from artifactfs.domain import ArtifactRef, Chunk
from artifactfs.modellab import placed_bodies, scattered_reads
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.transport import Transport
from tests.content_harness import noise
from tests.scripted import Connection, Network, scripted
from tests.unit.test_unsolicited import ROUTES, certified

__all__ = ["certified"]

DATA = noise(300_000)
HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-%d/%d\r\n" % (len(DATA) - 1, len(DATA))
LENGTH = b"Content-Length: %d\r\n\r\n" % len(DATA)
FILE = ArtifactRef("10", "p/artifacts/f.bin")


class Answering:
    """A server that sends each answer in these pieces, and lets the client read each before the next."""

    def __init__(self, pieces: Iterable[bytes], context: ssl.SSLContext | None, *, is_tunnel: bool) -> None:
        self._pieces = list(pieces)
        self._context = context
        self._is_tunnel = is_tunnel
        self.connections = 0

    async def __call__(self, connection: Connection) -> None:
        self.connections += 1
        if self._is_tunnel:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if self._context is not None:
            await connection.start_tls(self._context)
        while await connection.request() is not None:
            for piece in self._pieces:
                await connection.send(piece)
                await wait_all_tasks_blocked()
            if not self._pieces[-1]:
                return


class Taken:
    """A body that is read with room for its bytes; `gaps`: the chunks for which there is none."""

    def __init__(self, gaps: Iterable[int] = ()) -> None:
        self.memory = bytearray(len(DATA))
        self._gaps = set(gaps)
        self.at = 0
        self.chunks: list[Chunk] = []

    def room(self) -> list[memoryview]:
        if len(self.chunks) in self._gaps:
            return []
        starts = range(self.at, min(self.at + 100_000, len(DATA)), 40_000)
        return [memoryview(self.memory)[start : min(start + 40_000, self.at + 100_000)] for start in starts]

    async def get(self, transport: Transport) -> bytes:
        async with ContentEndpoint(transport, deadline_s=5).get(FILE, 0, len(DATA), size=len(DATA)) as body:
            body.receive_into(self.room)
            async for chunk in body.chunks:
                self.chunks.append(chunk)
                self.at += len(chunk)
        return b"".join(map(bytes, self.chunks))

    @property
    def placed(self) -> int:
        return sum(len(chunk) for chunk in self.chunks if isinstance(chunk, memoryview) and chunk.obj is self.memory)


class Way:
    """How a Transport comes to its server."""

    def __init__(self, name: str, certified: tuple[str, ssl.SSLContext]) -> None:
        self._url, self._proxy = ROUTES[name]
        self._ca_file, self._context = certified

    def serve(self, answer: Iterable[bytes]) -> Answering:
        is_tls = self._url.startswith("https")
        return Answering(answer, self._context if is_tls else None, is_tunnel=is_tls and self._proxy is not None)

    def transport(self, network: Network) -> Transport:
        return network.transport(self._url, proxy=self._proxy, ca_file=self._ca_file)


@pytest.fixture(params=ROUTES)
def way(request: pytest.FixtureRequest, certified: tuple[str, ssl.SSLContext]) -> Way:
    return Way(request.param, certified)


def pieces(count: int = 10) -> list[bytes]:
    step = len(DATA) // count
    return [DATA[at : at + step] for at in range(0, len(DATA), step)]


async def test_into_memory(way: Way, autojump_clock: MockClock) -> None:
    """4.1: what comes after the head is received where it belongs; each byte once. The connection is used again."""
    serve = way.serve([HEAD + LENGTH + DATA[:1000], DATA[1000:100_000], *[DATA[100_000:]]])
    async with scripted(serve) as network:
        sender = way.transport(network)
        for _ in range(3):
            taken = Taken()
            assert await taken.get(sender) == DATA
            assert taken.placed == len(DATA) - 1000
            assert taken.memory[1000:] == DATA[1000:]
    assert serve.connections == 1


@pytest.mark.parametrize("gaps", [{0}, {1, 3}, set(range(100))], ids=str)
async def test_without_room(gaps: set[int], way: Way, autojump_clock: MockClock) -> None:
    """4.1: where there is no room in a moment, the bytes come as they did."""
    async with scripted(way.serve([HEAD + LENGTH, *pieces()])) as network:
        taken = Taken(gaps)
        assert await taken.get(way.transport(network)) == DATA


async def test_nowhere(way: Way, autojump_clock: MockClock) -> None:
    """4.1: a body that is received into no memory, a listing's say, comes as it is."""
    async with scripted(way.serve([HEAD + LENGTH + DATA[:1000], DATA[1000:200_000], DATA[200_000:]])) as network:
        sender = way.transport(network)
        for _ in range(2):
            async with ContentEndpoint(sender, deadline_s=5).get(FILE, 0, len(DATA), size=len(DATA)) as body:
                assert b"".join([bytes(chunk) async for chunk in body.chunks]) == DATA
    assert len(network.connections) == 1


async def test_a_body_in_chunks(way: Way, autojump_clock: MockClock) -> None:
    """4.1: the frames of a body without a length are no content."""
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces()]
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    async with scripted(way.serve([head, *framed, b"0\r\n\r\n"])) as network:
        taken = Taken()
        assert await taken.get(way.transport(network)) == DATA
    assert not taken.placed


async def test_more_than_a_body(way: Way, autojump_clock: MockClock) -> None:
    """4.1: what follows a body is none of its bytes, and the connection is not used again."""
    serve = way.serve([HEAD + LENGTH, DATA[:-10], DATA[-10:] + b"HTTP/1.1 200 OK\r\n"])
    async with scripted(serve) as network:
        sender = way.transport(network)
        for _ in range(2):
            assert await Taken().get(sender) == DATA
    assert serve.connections == 2


async def test_a_body_that_breaks_off(way: Way, autojump_clock: MockClock) -> None:
    """4.1: the end of the connection is not the end of the body."""
    async with scripted(way.serve([HEAD + LENGTH, DATA[:-10], b""])) as network:
        with pytest.raises(errors.ConnectionLost):
            await Taken().get(way.transport(network))


async def test_a_body_that_stops(way: Way, autojump_clock: MockClock) -> None:
    """5.1: no bytes for a deadline are the end of a request."""
    async with scripted(way.serve([HEAD + LENGTH + DATA[:1000], DATA[1000:2000]])) as network:
        with pytest.raises(errors.TimedOut):
            await Taken().get(way.transport(network))


def test_records_can_be_decrypted(certified: tuple[str, ssl.SSLContext]) -> None:
    """The installed trio has the name that this rests on: otherwise each record of TLS is read by itself."""
    _, context = certified
    ours, _ = memory_stream_pair()
    stream = trio.SSLStream(ours, context, server_side=True)
    assert isinstance(scattered_reads._tls_of(stream), ssl.SSLObject)


def test_it_is_installed() -> None:
    """The installed httpcore has the name that this rests on: otherwise bodies are copied once more."""
    placed_bodies.install()
    assert httpcore.AsyncHTTP11Connection._receive_response_body is placed_bodies._receive_response_body
