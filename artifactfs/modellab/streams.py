"""An answer's body as it comes: from its connection, and with its Content-Encoding undone.

Most bodies stream; those of listings and of facts are kept whole until they are decoded, as far as there is room.

What is hard: a chunk may be a byte long, and many come at once; and what is compressed may be a thousand times as long.
"""

import io
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol, cast

import httpx
import trio

from artifactfs import errors
from artifactfs.modellab import error_mapping
from artifactfs.modellab.circuit_breaker import PendingRequest
from artifactfs.modellab.request_log import Line

# What a body is inflated to at a time.
_MAX_PIECE_BYTES = 1 << 20
# Pieces of a body between two turns of the event loop: a chunk may be a byte long, and many come at once.
_PIECES = 256
_CLOSE_S = 1.0


class BodyMemory:
    """Memory for buffered bodies: the oldest body always has enough, all others share `others_bytes`.

    So bodies cannot deadlock: the oldest proceeds, and after it the next.
    """

    def __init__(self, others_bytes: int) -> None:
        self._others_bytes = others_bytes
        # Bytes of each body, the oldest first.
        self._held: dict[RetainedBody, int] = {}
        self._freed = trio.Event()

    async def take(self, body: "RetainedBody", size_bytes: int) -> None:
        """Wait until a body may have so much more, and count it."""
        while not self._has(body, size_bytes):
            await self._freed.wait()
        self._held[body] = self._held.get(body, 0) + size_bytes

    def leave(self, body: "RetainedBody") -> None:
        """Release the memory of a body."""
        if self._held.pop(body, None) is not None:
            self._freed.set()
            self._freed = trio.Event()

    def _has(self, body: "RetainedBody", size_bytes: int) -> bool:
        oldest = next(iter(self._held), body)
        others_bytes = sum(self._held.values()) - self._held.get(oldest, 0)
        return body is oldest or others_bytes + size_bytes <= self._others_bytes


class RetainedBody:
    """A buffered body. Close it to free its bytes, even while a traceback refers to it."""

    def __init__(self, room: BodyMemory) -> None:
        self._room = room
        self._buffer = io.BytesIO()
        self.size_bytes = 0

    async def add(self, piece: bytes) -> None:
        """Keep a piece, when there is room for it."""
        await self._room.take(self, len(piece))
        self._buffer.write(piece)
        self.size_bytes += len(piece)

    def value(self) -> bytes:
        """Return all that came, without copying it."""
        return self._buffer.getvalue()

    def close(self) -> None:
        """Give its memory and its room back. A value that was taken lives as long as it is referred to."""
        self._buffer.close()
        self._room.leave(self)


class StreamObserver(Protocol):
    """Counts received bytes and broken bodies: the transport."""

    def now(self) -> float:
        """Return the time, in seconds of the mount's clock."""

    def received(self, size_bytes: int, wait: PendingRequest) -> None:
        """Count bytes of a body that came."""

    def count_broken_body(self) -> None:
        """Take note that a body ended before its end."""


class Stream:
    """An open answer of `Transport.open`: its head, and its body as it comes, undecoded. `line`: said when it ends.

    `wait`: its request's, which ends with it.
    """

    def __init__(
        self,
        transport: StreamObserver,
        response: httpx.Response,
        release: Callable[[], None],
        line: Line,
        wait: PendingRequest,
    ) -> None:
        self._transport = transport
        self._response = response
        self._release: Callable[[], None] | None = release
        self._line = line
        self._wait = wait
        # Until a reader asks for its body, nothing waits for that; and the head alone is an answer, too.
        wait.pause(transport.now())
        self._answered = True

    @property
    def status(self) -> int:
        """The HTTP status, one of those that were expected."""
        return self._response.status_code

    @property
    def headers(self) -> httpx.Headers:
        """The answer's headers."""
        return self._response.headers

    @property
    def url(self) -> httpx.URL:
        """The URL that was asked; may be signed, so it is never logged."""
        return self._response.url

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, without undoing any Content-Encoding. Raises ServiceError."""
        pieces = 0
        self._awaits_body()
        try:
            # Straight from the connection: httpx's own way to it costs, and only counts.
            async for chunk in cast("httpx.AsyncByteStream", self._response.stream):
                self._came(len(chunk))
                yield chunk
                self._wait.resume(self._transport.now())
                if (pieces := pieces + 1) % _PIECES == 0:
                    await trio.lowlevel.checkpoint()
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        self._answered = True

    async def decoded(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, its Content-Encoding undone. Raises ServiceError."""
        self._awaits_body()
        try:
            async with aclosing(decoded(self._response)) as pieces:
                async for piece in pieces:
                    self._came(len(piece))
                    yield piece
                    self._wait.resume(self._transport.now())
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        self._answered = True

    def _awaits_body(self) -> None:
        self._answered = False
        self._wait.resume(self._transport.now())

    def _came(self, size_bytes: int) -> None:
        self._transport.received(size_bytes, self._wait)
        self._line.size_bytes += size_bytes
        self._wait.pause(self._transport.now())

    def _failed(self, error: httpx.HTTPError) -> errors.ServiceError:
        self._transport.count_broken_body()
        if isinstance(error, httpx.ReadTimeout):
            self._wait.timed_out(self._transport.now())
        failure = error_mapping.error_from_exception(self.url.netloc.decode("ascii"), error)
        self._line.error = failure
        return failure

    async def aclose(self) -> None:
        """Give back the connection, or close it where the body was not read to its end."""
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
                await self._response.aclose()
        finally:
            if self._release is not None:
                release, self._release = self._release, None
                release()
                if self._answered:
                    self._wait.answered()
                else:
                    self._wait.given_up(self._transport.now())
                self._wait.ended()
                self._line.end()


async def decoded(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield a body as it comes, its Content-Encoding undone, in pieces of bounded size. Raises httpx.HTTPError.

    httpx undoes a piece at a time, and that may be a thousand times as long as what came: 1 GiB at once.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise httpx.DecodingError(f"Content-Encoding {encoding!r} was not asked for")
    inflater = None
    pieces = 0
    async with aclosing(
        cast("AsyncGenerator[bytes, None]", aiter(cast("httpx.AsyncByteStream", response.stream)))
    ) as it:
        async for chunk in it:
            if (pieces := pieces + 1) % _PIECES == 0:
                await trio.lowlevel.checkpoint()
            if encoding in ("identity", ""):
                yield chunk
                continue
            # Deflate comes with a header (RFC 1950), and without one from servers that took its name literally.
            if inflater is None and chunk:
                bare = encoding == "deflate" and chunk[0] & 0x0F != zlib.DEFLATED
                inflater = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
            rest = chunk
            # What follows the end of it is left out.
            while rest and inflater is not None and not inflater.eof:
                try:
                    piece = inflater.decompress(rest, _MAX_PIECE_BYTES)
                except zlib.error as error:
                    raise httpx.DecodingError(str(error)) from error
                rest = inflater.unconsumed_tail
                yield piece
    if inflater is not None:
        yield inflater.flush()
