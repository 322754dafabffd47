"""A network without a network: each connection of a Transport is a socket pair whose other end a test speaks for.

The sockets are the kernel's, so that what httpcore asks of them (is there anything to read?) is true; there is no
latency and no port. Time is trio's: with a MockClock thousands of conversations take seconds.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import httpcore
import trio

from artifactfs.modellab import unsolicited
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret
from tests.fakes import TurnedClock

KEYS = Credentials(Secret("api-s3cr3t"), Secret("app-s3cr3t"))
_PIECE = 65536


class HeldStream(trio.abc.Stream):
    """The server's end of a connection, below its TLS. While `hold` is set, what is sent is kept in `kept`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.hold = False
        self.kept = b""
        self._turn = trio.Lock()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.kept += bytes(data)
        if not self.hold:
            await self.release([])

    async def release(self, cuts: Iterable[int], turns: int = 0) -> None:
        """Send what is kept, cut there, and let others run for so many turns between the pieces."""
        async with self._turn:
            data, self.kept = self.kept, b""
            ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
            for start, end in zip([0, *ends], ends, strict=False):
                if start < end:
                    await self._stream.send_all(data[start:end])
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Connection:
    """The server's end of one connection; `number` counts from 0. `requests`: the heads that came on it."""

    def __init__(self, stream: trio.abc.Stream, number: int) -> None:
        self.number = number
        self.wire = HeldStream(stream)
        self.stream: trio.abc.Stream = self.wire
        self.requests: list[bytes] = []
        self._rest = b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        stream = trio.SSLStream(self.stream, context, server_side=True, https_compatible=True)
        await stream.do_handshake()
        self.stream = stream

    async def request(self) -> bytes | None:
        """Return the next request's head; None where the client has gone."""
        while b"\r\n\r\n" not in self._rest:
            piece = await self.stream.receive_some(_PIECE)
            if not piece:
                return None
            self._rest += piece
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        self.requests.append(head)
        return head

    async def send(self, data: bytes) -> None:
        """Send this in one piece."""
        if data:
            await self.stream.send_all(data)


Serve = Callable[[Connection], Awaitable[None]]


class _Wire(httpcore.AsyncNetworkStream):
    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket

    def get_extra_info(self, info: str) -> Any:
        return self._socket if info == "socket" else None


class Network(httpcore.AsyncNetworkBackend):
    """Whatever is connected to, `serve` speaks for it. `connections`: all that were made."""

    def __init__(self, nursery: trio.Nursery, serve: Serve) -> None:
        self._nursery = nursery
        self._serve = serve
        self.connections: list[Connection] = []
        self.senders: list[Transport] = []

    async def connect_tcp(self, *_where: object, **_how: object) -> httpcore.AsyncNetworkStream:
        ours, theirs = trio.socket.socketpair()
        connection = Connection(trio.SocketStream(theirs), len(self.connections))
        self.connections.append(connection)
        self._nursery.start_soon(self._converse, connection)
        return _Wire(ours)

    async def _converse(self, connection: Connection) -> None:
        # A client that hangs up, or does not like what it hears, just goes.
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._serve(connection)
        finally:
            await trio.aclose_forcefully(connection.wire)

    def transport(self, url: str = "http://127.0.0.1:1", **options: Any) -> Transport:
        """Return a Transport that has this network."""
        sender = Transport(url, KEYS, clock=TurnedClock(), **options)
        if "shares" not in options:
            pool = sender._connections._sender._pool  # type: ignore[attr-defined]  # as connections.py does
            pool._network_backend = unsolicited.GuardedNetwork(self)
        self.senders.append(sender)
        return sender


@contextlib.asynccontextmanager
async def scripted(serve: Serve) -> AsyncIterator[Network]:
    """Make such a network; ends with all its transports and connections."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, serve)
        yield network
        for sender in network.senders:
            await sender.aclose()
        nursery.cancel_scope.cancel()
