"""The body of an answer: its memory, its Content-Encoding, and its stream.

Bodies of contents stream; those of listings and metadata are in memory as a whole until they are decoded, as far as
there is room. What is hard: a chunk may be a byte long, many arrive at once, and a compressed body may inflate
a thousandfold.
"""

import io
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

import httpx
import trio

from artifactfs.domain import Chunk, Room
from artifactfs.errors import ServiceError, TimedOut
from artifactfs.modellab import error_mapping, placed_bodies
from artifactfs.modellab.circuit_breaker import PendingRequest, pause, resume

# The longest piece that a body is inflated to at a time.
_MAX_PIECE_BYTES = 1 << 20
# Chunks of a body between two turns of the event loop: a chunk may be a byte long, and many arrive at once.
_CHUNKS = 256
# Pieces that are inflated between two turns: 1 ms each where they are full.
_PIECES = 4
# The start of a member of a gzip body, of which there may be several (RFC 1952).
_GZIP = b"\x1f\x8b"
# Bytes that are read of an error's body: enough for a sentence.
_MAX_ERROR_BYTES = 64 << 10
_CLOSE_S = 1.0


class BodyMemory:
    """Memory for buffered bodies: the oldest body always has enough, all others share `others_bytes`.

    So bodies cannot deadlock: the oldest proceeds, and after it the next.
    """

    def __init__(self, others_bytes: int) -> None:
        self._others_bytes = others_bytes
        # The oldest first.
        self._bodies: dict[io.BytesIO, None] = {}
        self._freed = trio.Event()

    async def append(self, body: io.BytesIO, piece: bytes, wait_s: float) -> None:
        """Write a piece to the end of a body, when there is room for it. Raises TimedOut after `wait_s` seconds."""
        with trio.move_on_after(max(0.0, wait_s)):
            while True:
                oldest, *others = self._bodies or (body,)
                if body is oldest or sum(each.tell() for each in others) + len(piece) <= self._others_bytes:
                    self._bodies[body] = None
                    body.write(piece)
                    return
                await self._freed.wait()
        raise TimedOut("other large listings took all the memory that there is for them")

    def release(self, body: io.BytesIO) -> None:
        """Free a body's room for others, if it has any."""
        if body in self._bodies:
            del self._bodies[body]
            self._freed.set()
            self._freed = trio.Event()


class Stream:
    """An open answer of `Transport.open`: its head, and its body as a stream.

    `received` is called with the size of each piece; `on_closed` once, with the received bytes and the error.
    """

    def __init__(
        self,
        response: httpx.Response,
        request: PendingRequest,
        clock: Callable[[], float],
        received: Callable[[int], None],
        on_closed: Callable[[int, ServiceError | None], None],
    ) -> None:
        self._response = response
        self._request = request
        self._clock = clock
        self._received = received
        self._on_closed = on_closed
        self._is_closed = False
        self._size_bytes = 0
        self._error: ServiceError | None = None
        # The head alone is an answer, too. Nothing waits for the body until a reader requests it.
        self._is_answered = True
        pause(request, clock())

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
        """The URL of the request; may be signed, so it is never logged."""
        return self._response.url

    def receive_into(self, room: Room) -> None:
        """Receive the body, whose length the head gives, into `room()`; call it before the first chunk."""
        placed_bodies.place(self._response, room)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yield the body as it arrives, its Content-Encoding undone. Raises ServiceError."""
        self._is_answered = False
        resume(self._request, self._clock())
        try:
            async with aclosing(decoded(self._response)) as pieces:
                async for piece in pieces:
                    self._received(len(piece))
                    self._size_bytes += len(piece)
                    pause(self._request, self._clock())
                    yield piece
                    resume(self._request, self._clock())
        except httpx.HTTPError as error:
            if isinstance(error, httpx.ReadTimeout):
                self._request.breaker.on_timeout(self._request, self._clock())
            self._error = error_mapping.error_from_exception(self.url.netloc.decode("ascii"), error)
            raise self._error from error
        self._is_answered = True

    async def aclose(self) -> None:
        """Give back the connection, or close it where the body was not read to its end."""
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
                await self._response.aclose()
        finally:
            if not self._is_closed:
                self._is_closed = True
                breaker = self._request.breaker
                if self._is_answered:
                    breaker.on_answered(self._request)
                else:
                    breaker.on_abandoned(self._request, self._clock())
                breaker.on_ended(self._request)
                self._on_closed(self._size_bytes, self._error)


async def decoded(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield a body as it arrives, its Content-Encoding undone, in pieces of bounded size. Raises httpx.HTTPError.

    httpx inflates a whole chunk at once, which may be 1 GiB then; and its own way to the connection costs CPU.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise httpx.DecodingError(f"Content-Encoding {encoding!r} was not asked for")
    inflater, behind, is_over = None, b"", False
    count = pieces = 0
    async with aclosing(
        cast("AsyncGenerator[bytes, None]", aiter(cast("httpx.AsyncByteStream", response.stream)))
    ) as chunks:
        async for chunk in chunks:
            if (count := count + 1) % _CHUNKS == 0:
                await trio.lowlevel.checkpoint()
            if encoding in ("identity", ""):
                yield chunk
                continue
            rest, behind = behind + chunk, b""
            while rest and not is_over:
                # A small chunk may be thousands of pieces, and many of them empty.
                if (pieces := pieces + 1) % _PIECES == 0:
                    await trio.lowlevel.checkpoint()
                if inflater is None:
                    # Deflate comes with a header (RFC 1950), and without one from servers that took its name literally.
                    bare = encoding == "deflate" and rest[0] & 0x0F != zlib.DEFLATED
                    inflater = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
                elif inflater.eof:
                    if encoding == "deflate" or not rest.startswith(_GZIP[: len(rest)]):
                        is_over = True  # bytes after the end of the compressed body are left out
                        break
                    if len(rest) < len(_GZIP):
                        behind = rest
                        break
                    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
                try:
                    piece = inflater.decompress(rest, _MAX_PIECE_BYTES)
                except zlib.error as error:
                    raise httpx.DecodingError(str(error)) from error
                rest = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
                yield piece
    if inflater is not None:
        yield inflater.flush()


async def start_of(response: httpx.Response, received: Callable[[int], None]) -> bytes:
    """Return the beginning of an error's body, empty where it breaks off, and close the answer."""
    body = bytearray()
    try:
        async with aclosing(response), aclosing(decoded(response)) as pieces:
            async for piece in pieces:
                received(len(piece))
                body += piece
                if len(body) > _MAX_ERROR_BYTES:
                    break
    except httpx.HTTPError:
        return b""  # the status says enough
    return bytes(body)
