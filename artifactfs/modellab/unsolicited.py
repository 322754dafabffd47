"""Connections that take bytes for an answer only if a request was sent before (docs/semantics.md 4.1).

HTTP/1.1 pairs answers with requests by nothing but their order. httpcore reuses a connection once an answer is
complete, whatever its parser, TLS or the socket still hold, and the next request gets that as its answer. So here a
connection is reused only if its last answer ended cleanly, and a request is sent only while no bytes have arrived that
could be mistaken for its answer. Bytes that cross a request on its way cannot be distinguished from an answer.

What is hard: decrypted bytes wait within TLS where a look at the socket shows nothing, and so does half a TLS record;
session tickets may arrive at any time, and belong to no answer.

Only httpcore's private names show the end of an answer. Where a release lacks them no end is ever seen, and each
connection serves one request: slower, and right.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import Any

import h11
import httpcore
import trio

from artifactfs.domain import Chunk, Room
from artifactfs.logs import NOTICE
from artifactfs.modellab import scattered_reads

log = logging.getLogger(__name__)

# How long a new connection waits for a greeting before its first request: a server that speaks first is no HTTP
# server. Over loopback a greeting takes a tenth of that (measured 2026-11-29); a TLS handshake takes far longer.
_GREETING_S = 0.002
# The most that the first read of an answer takes: what comes with its head is copied. Most heads have less than a KiB.
_HEAD_BYTES = 16 << 10
# The most that one read of a socket takes beneath TLS. For 512 MiB 256 KiB cost 1.75 s of CPU, 512 KiB 1.55 s, 1 MiB
# 1.4 s and 9,000 page faults more (measured 2026-11-29); trio's own 64 KiB are four records.
_ENCRYPTED_BYTES = 512 << 10
# Kind, version, length (RFC 8446, 5.1).
_RECORD_HEADER_BYTES = 5
_SOCKET_OPTION = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class _NothingThere(Exception):
    """Raised in place of waiting for bytes."""


class _AlreadyThere(Exception):
    """Raised in place of sending: bytes have arrived."""


class _Wire:
    """The socket of a connection. `dry`: reads do not wait; `strict`: nothing is sent after bytes have arrived."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self.socket = socket
        self.dry = False
        self.strict = False


class _Records(trio.abc.Stream):
    """The stream below TLS: a socket, or the TLS of a proxy. Knows whether the received bytes end with a record."""

    def __init__(self, below: trio.abc.Stream, wire: _Wire) -> None:
        self._below = below
        self._wire = wire
        self._is_bottom = isinstance(below, trio.SocketStream)
        # Of a partial record: the received part of its header, or the number of missing bytes.
        self._header = b""
        self._missing = 0

    @property
    def is_cut(self) -> bool:
        """Whether a partial record has arrived."""
        return bool(self._header or self._missing)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._is_bottom and self._wire.dry and not self._wire.socket.is_readable():
            raise _NothingThere
        piece = await self._below.receive_some(max_bytes or _ENCRYPTED_BYTES)
        at = 0
        while at < len(piece):
            if self._missing:
                step = min(self._missing, len(piece) - at)
                self._missing -= step
            else:
                step = min(_RECORD_HEADER_BYTES - len(self._header), len(piece) - at)
                self._header += piece[at : at + step]
                if len(self._header) == _RECORD_HEADER_BYTES:
                    self._missing = int.from_bytes(self._header[3:])
                    self._header = b""
            at += step
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_bottom and self._wire.strict and self._wire.socket.is_readable():
            raise _AlreadyThere
        await self._below.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._below.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._below.aclose()


class GuardedStream(httpcore.AsyncNetworkStream):
    """A connection for one request at a time. Free for another one only after `answered`."""

    def __init__(self, stream: trio.abc.Stream, wire: _Wire, layers: tuple[_Records, ...] = ()) -> None:
        self._stream = stream
        self._wire = wire
        self._layers = layers
        self._is_new = True
        self._is_free = False
        self._is_head_due = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as httpcore has it
        if self._is_head_due:
            self._is_head_due = False
            max_bytes = min(max_bytes, _HEAD_BYTES)
        stream = self._stream
        with _errors_of(httpcore.ReadTimeout, httpcore.ReadError), trio.fail_after(_or_ever(timeout)):
            if not isinstance(stream, trio.SSLStream):
                return await stream.receive_some(max_bytes)  # type: ignore[return-value]  # never a bytearray
            # No more than a record comes, but an object of the size that is asked for is made for it.
            first = await stream.receive_some(min(max_bytes, scattered_reads.RECORD_BYTES))
            return scattered_reads.with_rest(stream, bytes(first), max_bytes)

    async def read_into(
        self,
        room: Room,
        max_bytes: int,
        timeout: float | None,  # noqa: ASYNC109 - as in `read`
    ) -> list[Chunk]:
        """Receive into the start of `room()`, and return that part of it; do as `read` does where that cannot be."""
        stream, socket = self._stream, self._wire.socket
        await trio.lowlevel.checkpoint()
        with _errors_of(httpcore.ReadTimeout, httpcore.ReadError):
            if isinstance(stream, trio.SSLStream):
                found = scattered_reads.decrypt(stream, room)
                if found is None:
                    with trio.fail_after(_or_ever(timeout)):
                        first = await stream.receive_some(scattered_reads.RECORD_BYTES)
                    found = scattered_reads.decrypt(stream, room, bytes(first)) or [b""]
            else:
                found = scattered_reads.receive(socket, room)
                if found is None:
                    with trio.fail_after(_or_ever(timeout)):
                        while found is None:
                            await trio.lowlevel.wait_readable(socket)
                            found = scattered_reads.receive(socket, room)
        return found or [await self.read(max_bytes, timeout)]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as httpcore has it
        """Send a request. Raises ConnectionNotAvailable, for another connection, if its answer would be ambiguous."""
        if not buffer:
            return
        with _errors_of(httpcore.WriteTimeout, httpcore.WriteError), trio.fail_after(_or_ever(timeout)):
            if self._is_new:
                await self._refuse_greeting()
            elif not self._is_free or await self._has_more():
                self._is_free = False
                raise httpcore.ConnectionNotAvailable
            # A second look, at the socket: TLS yields between the first and the sending. On a new one, bytes may be a
            # ticket.
            self._wire.strict = not self._is_new
            self._is_new = self._is_free = False
            self._is_head_due = True
            try:
                await self._stream.send_all(buffer)
            except _AlreadyThere:
                raise httpcore.ConnectionNotAvailable from None

    async def answered(self) -> bool:
        """Record that an answer has ended, with nothing left in the parser. Returns whether nothing follows it."""
        self._is_free = not await self._has_more()
        return self._is_free

    async def aclose(self) -> None:
        self._is_new = self._is_free = False
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
    ) -> httpcore.AsyncNetworkStream:
        records = _Records(self._stream, self._wire)
        stream = trio.SSLStream(records, ssl_context, server_hostname=server_hostname, https_compatible=True)
        try:
            with _errors_of(httpcore.ConnectTimeout, httpcore.ConnectError), trio.fail_after(_or_ever(timeout)):
                await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(self._stream)
            raise
        return GuardedStream(stream, self._wire, (*self._layers, records))

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            # httpcore closes an idle connection that is readable. It asks for each of them twice in a request, 30 calls
            # of poll(2), and `write` looks at the one that is used.
            return not self._is_free
        if info == "ssl_object":
            return self._stream if isinstance(self._stream, trio.SSLStream) else None
        return self._wire.socket if info == "socket" else None

    async def _refuse_greeting(self) -> None:
        with trio.move_on_after(_GREETING_S):
            if await self._stream.receive_some(1):
                raise httpcore.RemoteProtocolError("bytes arrived before a request was sent")
            raise httpcore.RemoteProtocolError("closed before a request was sent")
        if not self._layers and self._wire.socket.is_readable():
            raise httpcore.RemoteProtocolError("bytes arrived before a request was sent")

    async def _has_more(self) -> bool:
        """Whether there is anything to read, the end of the connection included. Does not wait."""
        if not self._layers:
            return self._wire.socket.is_readable()
        self._wire.dry = True
        try:
            await self._stream.receive_some(1)
        except _NothingThere:
            return any(layer.is_cut for layer in self._layers)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True
        finally:
            self._wire.dry = False
        return True


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Makes GuardedStreams. `backend` replaces the network in tests: its streams have sockets."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._backend = backend or httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[_SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        socket = stream.get_extra_info("socket")
        return GuardedStream(trio.SocketStream(socket), _Wire(socket))


_httpcores_own: Callable[[httpcore.AsyncHTTP11Connection], Awaitable[None]] | None = getattr(
    httpcore.AsyncHTTP11Connection, "_response_closed", None
)


async def _response_closed(self: httpcore.AsyncHTTP11Connection) -> None:
    """Close a connection if bytes follow its answer; else do as httpcore does."""
    stream, parser = (getattr(self, name, None) for name in ("_network_stream", "_h11_state"))
    if (
        isinstance(stream, GuardedStream)
        and isinstance(parser, h11.Connection)
        and parser.our_state is parser.their_state is h11.DONE
    ):
        left, _ = parser.trailing_data
        if left:
            log.warning(
                "%d bytes arrived after the end of an answer: the connection is closed, and they are not used; the "
                "server, or a proxy in between, is out of step",
                len(left),
                extra=NOTICE,
            )
        if left or not await stream.answered():
            await self.aclose()
            return
    if _httpcores_own is not None:
        await _httpcores_own(self)


def install() -> None:
    """Make httpcore report the end of each answer to its GuardedStream, as far as the installed release can."""
    if _httpcores_own is not None:
        httpcore.AsyncHTTP11Connection._response_closed = _response_closed  # type: ignore[method-assign]  # its own name


@contextmanager
def _errors_of(late: type[Exception], broken: type[Exception]) -> Iterator[None]:
    """Raise trio's exceptions as httpcore's."""
    try:
        yield
    except trio.TooSlowError as error:
        raise late(error) from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise broken(error) from error


def _or_ever(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds
