"""The content endpoint: an artifact's bytes from an offset on, checked against the answer's own head.

Nothing about this endpoint is documented (model-lab-api.md, 9-13): ranges may be granted or ignored, a length may be
missing, a redirect may lead to object storage, a proxy may send a login page. So each request has a Range until this
server has ignored one, and every answer is checked before its first byte counts.
"""

import contextlib
import hashlib
import logging
import re
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import httpx
import trio

from artifactfs import errors
from artifactfs.domain import ArtifactRef, Chunk, ContentBody
from artifactfs.modellab.streams import Stream
from artifactfs.modellab.transport import Transport
from artifactfs.util.urls import API_PREFIX, is_host, is_loopback

log = logging.getLogger(__name__)

_TARGET = f"{API_PREFIX}/artifacts/content"
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EXPECTED = frozenset({200, 206, 416}) | _REDIRECTS
# Past this a header is no Location (docs/semantics.md 6.4); signed links have one or two KiB.
_MAX_URL = 16 << 10
_JSON = "application/json"
# The cache key's part that tells versions apart, for a caching proxy between many mounts and the API: docs/fleets.md.
_VERSION = "Artifactfs-Version"
# The body of a redirect, say, that is read to its end, and for how long: a new connection costs more.
_SMALL_BYTES, _SMALL_S = 64 << 10, 1.0
# How every error of this API begins (model-lab-api.md, "Errors").
_PEEK_BYTES = 64
_ERROR = re.compile(rb'\s*\{\s*"errors"\s*:')


class ContentEndpoint:
    """Content of artifacts through one `Transport`. `deadline_s` bounds the wait for a head and between pieces.

    `name_versions`: send each artifact's version along. Off unless a setting asks for it: the API has no such header.
    """

    def __init__(self, transport: Transport, *, deadline_s: float, name_versions: bool = False) -> None:
        self._transport = transport
        self._deadline_s = deadline_s
        self._name_versions = name_versions
        # Whether this server grants ranges; None while unknown.
        self.ranges: bool | None = None

    @property
    def is_saturated(self) -> bool:
        """Whether requests wait for others to end."""
        return self._transport.is_saturated

    @property
    def is_offline(self) -> bool:
        """Whether every request fails at once, since the mount works offline."""
        return self._transport.breaker.offline is not None

    def can_prefetch(self) -> bool:
        """Whether a request that no program waits for may be sent."""
        return self._transport.can_prefetch("content")

    @asynccontextmanager
    async def get(
        self, artifact: ArtifactRef, start: int, end: int | None, *, size: int | None
    ) -> AsyncIterator[ContentBody]:
        """Ask for bytes [start, end) (`end` None: to the end) of an artifact of `size` bytes (None: unknown).

        Yields a Body that begins at `start`, or at 0 with `get_buffered` set. Raises ServiceError; UnexpectedAnswer for
        what is not the artifact; NotFound, BadRequest and ServerFailed may all mean that it is gone.
        """
        headers = {"Accept": "application/octet-stream, application/json", "Accept-Encoding": "identity"}
        if self.ranges is not False:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        stream = await self._follow(artifact, headers)
        if stream.status == 416 and _unsatisfied_total(stream.headers.get("content-range", "")) is None:
            # It has no such byte, so it is shorter, or empty. How long it is shows a request without a range.
            await _let_go(stream)
            headers.pop("Range", None)
            stream = await self._follow(artifact, headers)
        try:
            async with aclosing(stream.chunks()) as chunks:
                body = self._body(stream, chunks, artifact, start, end, size)
                if body.whole and body.total != size and _kind(stream) == _JSON:
                    # The length proves nothing, but each error of this API begins in the same way.
                    first = b""
                    while len(first) < _PEEK_BYTES and (piece := await anext(chunks, b"")):
                        first += piece
                    if _ERROR.match(first):
                        raise errors.UnexpectedAnswer("JSON came in place of the content: an error with a good status?")
                    body.chunks = _LedBy(first, chunks)
                if "Range" in headers:
                    self._note(body, start, end, size)
                yield body
        finally:
            await stream.aclose()

    async def _follow(self, artifact: ArtifactRef, headers: dict[str, str]) -> Stream:
        """Send the request, and follow redirects: https only, and never with the keys to another origin."""
        query = {"project_id": artifact.project_id, "artifact_path": artifact.path}
        target = url = _TARGET + "?" + "&".join(f"{k}={urllib.parse.quote(v, safe='')}" for k, v in query.items())
        # Only to the configured origin, where the caching proxy is: never to a redirect's target.
        named = self._name_versions and artifact.version
        sent = headers | {_VERSION: artifact.version} if named else headers
        for _ in range(_MAX_REDIRECTS + 1):
            stream = await self._transport.open(
                "content", url, headers=sent, deadline_s=self._deadline_s, expected=_EXPECTED, target=target
            )
            if stream.status not in _REDIRECTS:
                return stream
            try:
                url, sent = self._target(stream), headers
            finally:
                await _let_go(stream)
        raise errors.UnexpectedAnswer(f"more than {_MAX_REDIRECTS} redirects for an artifact's content")

    def _target(self, stream: Stream) -> str:
        location = stream.headers.get("location", "")
        if not location or len(location) > _MAX_URL:
            raise errors.UnexpectedAnswer("a redirect for an artifact's content without a usable target")
        try:
            target = stream.url.join(location)
            # httpx accepts hosts that can only fail later, and slowly: "[oops", or a label of 300 letters.
            named = target.host and is_host(target.raw_host.decode(), target.netloc.decode())
        except (httpx.InvalidURL, ValueError):  # ValueError: a name that begins with xn-- and is nothing encoded
            named = False
        if not named or not (target.port is None or 0 < target.port < 1 << 16):
            raise errors.UnexpectedAnswer("a redirect for an artifact's content to what is no URL")
        # http only from a loopback API to loopback: anything else could be read and changed on the way.
        local = is_loopback(stream.url.host) and stream.url.scheme == "http"
        if target.scheme != "https" and not (target.scheme == "http" and local and is_loopback(target.host)):
            raise errors.UnexpectedAnswer(
                f"a redirect for an artifact's content to {target.scheme}:, which is not followed"
            )
        if target.userinfo:
            raise errors.UnexpectedAnswer("a redirect for an artifact's content with a user name in it")
        return str(target)

    def _body(
        self,
        stream: Stream,
        chunks: AsyncIterator[Chunk],
        artifact: ArtifactRef,
        start: int,
        end: int | None,
        size: int | None,
    ) -> ContentBody:
        """Check an answer's head against the request."""
        headers = stream.headers
        if (encoding := headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
            raise errors.UnexpectedAnswer(f"content came {encoding}-encoded though it was asked for as it is")
        if stream.status == 416:
            total = _unsatisfied_total(headers.get("content-range", ""))
            if total is None or total > start:
                raise errors.UnexpectedAnswer(f"the server refuses bytes from {start} on")
            return ContentBody(start, start, total, False, None, chunks)
        if stream.status == 206:
            first, last, total = _content_range(headers.get("content-range", ""))
            if first != start or (end is not None and last > end):
                raise errors.UnexpectedAnswer(f"asked for bytes from {start} on, got bytes {first} to {last - 1}")
            if (length := _length(headers)) is not None and length != last - first:
                if length < last - first:
                    raise errors.ShortBody(f"a body of {length} bytes came for a range of {last - first}")
                raise errors.UnexpectedAnswer("an answer whose length contradicts its range")
            body = ContentBody(first, last, total, False, _validator(headers), chunks)
            if length is not None:
                body.receive_into = stream.receive_into
            return body
        if _is_part(headers.get("content-range", "")):
            raise errors.UnexpectedAnswer("part of the content came as if it were the whole")
        total = _length(headers)
        self._refuse_other_kinds(_kind(stream), artifact, total, size)
        is_framed = total is not None or "transfer-encoding" in headers
        return ContentBody(0, total, total, True, _validator(headers), chunks, is_framed)

    def _note(self, body: ContentBody, start: int, end: int | None, size: int | None) -> None:
        """Record whether this server grants ranges. A full answer to a full request shows nothing."""
        # Some servers that grant ranges answer so for an empty file, whose size no listing gives.
        sizes = [each for each in (size, body.total) if each is not None]
        asked_for_all = start == 0 and (end is None or any(end >= each for each in sizes))
        if not body.whole and body.end != start:
            self.ranges = True
        elif body.whole and self.ranges is None and not asked_for_all:
            self.ranges = False
            log.info("this server ignores ranges: contents are fetched whole")

    @staticmethod
    def _refuse_other_kinds(kind: str, artifact: ArtifactRef, total: int | None, size: int | None) -> None:
        """Refuse a login page or an error in place of the artifact (model-lab-api.md, 13)."""
        if total is not None and total == size:
            return
        name = artifact.path.rpartition("/")[2].lower()
        if kind == _JSON and None not in (total, size) and "json" not in name and "ipynb" not in name:
            raise errors.UnexpectedAnswer("JSON came in place of the content: an error with a good status?")
        if kind in ("text/html", "application/xhtml+xml") and not name.endswith((".html", ".htm", ".xhtml")):
            raise errors.UnexpectedAnswer("an HTML page came in place of the content: a login page or a proxy's error?")


class _LedBy:
    """A piece that was read ahead, and the rest of its body. Not a generator: it would stay unclosed."""

    def __init__(self, first: bytes, rest: AsyncIterator[Chunk]) -> None:
        self._first = first
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await anext(self._rest)


def _kind(stream: Stream) -> str:
    kind: str = stream.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower()


def _content_range(text: str) -> tuple[int, int, int | None]:
    """Return first, last + 1 and the total (None for `*`) of a Content-Range. Raises UnexpectedAnswer."""
    match = re.fullmatch(r"\s*bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\s*", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise errors.UnexpectedAnswer("a partial answer that does not say which part it is")
    first, last = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if first >= last or (total is not None and last > total):
        raise errors.UnexpectedAnswer("a partial answer with an impossible range")
    return first, last, total


async def _let_go(stream: Stream) -> None:
    """Close an answer whose body says nothing; a small one is read to its end, so that its connection is used again."""
    try:
        if (length := _length(stream.headers)) is not None and length <= _SMALL_BYTES:
            with trio.move_on_after(_SMALL_S), contextlib.suppress(errors.ServiceError):
                async with aclosing(stream.chunks()) as chunks:
                    async for _ in chunks:
                        pass
    finally:
        await stream.aclose()


def _is_part(text: str) -> bool:
    """Whether a Content-Range is of a part; not if it makes no sense: beside a good 200 it says nothing then."""
    try:
        first, last, total = _content_range(text)
    except errors.UnexpectedAnswer:
        return False
    return first != 0 or total not in (None, last)


def _unsatisfied_total(text: str) -> int | None:
    match = re.fullmatch(r"\s*bytes\s+\*/(\d{1,19})\s*", text, re.IGNORECASE | re.ASCII)
    return int(match[1]) if match else None


def _length(headers: httpx.Headers) -> int | None:
    text = headers.get("content-length", "")
    if "transfer-encoding" in headers or not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    return int(text)


def _validator(headers: httpx.Headers) -> bytes | None:
    """Return a digest of a strong ETag, or else of Last-Modified; None where there is neither.

    A weak ETag promises nothing about bytes. Either has to prove that it changes with them (docs/semantics.md 4.1).
    """
    etag = headers.get("etag", "").strip()
    if etag.startswith('"'):
        return hashlib.blake2b(b"E" + etag.encode("utf-8", "replace"), digest_size=16).digest()
    if modified := headers.get("last-modified", "").strip():
        return hashlib.blake2b(b"L" + modified.encode("utf-8", "replace"), digest_size=16).digest()
    return None
