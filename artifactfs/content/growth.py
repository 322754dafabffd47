"""Proves that a larger file continues a version: the known end of the version, and its first bytes, are still the same.

A size, a time or a validator proves nothing: a log that was rotated is larger again one day. So the end of what is
cached of the version (its last block), and its first bytes, are compared with the same range of the larger file, once
for each growth, before anything of the larger file is shown (docs/semantics.md 2.4). What the caches have lost is
compared by its digest (known_bytes.py). New bytes that come with the answer are kept. Where nothing of the version ever
came, no bytes can be mixed, and no request is made.
"""

from collections.abc import Sequence

import msgspec
import trio

from artifactfs import errors
from artifactfs.content.context import ContentContext
from artifactfs.content.known_bytes import Digest
from artifactfs.content.version_blocks import VersionBlocks
from artifactfs.domain import ArtifactRef, Chunk, ContentBody

# How often an answer may break off before the proof fails. Arbitrary.
_ATTEMPTS = 3


class Growth(msgspec.Struct, frozen=True):
    """A larger file that continues a version of `known_bytes`. `news`: its bytes from there on, as far as they came.

    `size_bytes`: its size; not larger than the version's where the listing runs ahead of the contents.
    `compared`: whether anything of the version was known.
    """

    size_bytes: int
    known_bytes: int
    validator: bytes | None = None
    news: bytes = b""
    compared: bool = True


class _Sample:
    """Known bytes [start, end) of the version."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end

    def differs(self, offset: int, chunk: Chunk) -> bool:
        """Whether a chunk at `offset` contradicts the sample. The chunks of an answer come in order."""
        first, last = max(offset, self.start), min(offset + len(chunk), self.end)
        return first < last and self._differs(first, memoryview(chunk)[first - offset : last - offset])

    def _differs(self, at: int, piece: memoryview) -> bool:
        """Whether a piece at `at`, which lies within the sample, contradicts it."""
        raise NotImplementedError


class _Cached(_Sample):
    """Bytes that are cached."""

    def __init__(self, start: int, data: memoryview) -> None:
        super().__init__(start, start + len(data))
        self._data = data

    def _differs(self, at: int, piece: memoryview) -> bool:
        return piece != self._data[at - self.start : at - self.start + len(piece)]


class LostBytes(_Sample):
    """Bytes of which only a digest is left: they are compared when all of them have come."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(digest.start, digest.end)
        self._digest = digest
        self._came = bytearray()

    def _differs(self, at: int, piece: memoryview) -> bool:
        if at - self.start > len(self._came):
            return False  # an answer for other bytes, which begins within these
        self._came[at - self.start :] = piece
        return at + len(piece) == self.end and self._digest.differs(memoryview(self._came))


class _News(msgspec.Struct):
    """The bytes behind the version's end `size`, as far as answers brought them, and the validators of these.

    `sources`: the validators of answers that brought any of the bytes.
    """

    size: int
    data: bytearray = msgspec.field(default_factory=bytearray)
    validator: bytes | None = None
    validators: set[bytes | None] = msgspec.field(default_factory=set)
    sources: set[bytes | None] = msgspec.field(default_factory=set)

    def begin(self, validator: bytes | None) -> None:
        """Take note of the next answer."""
        self.validators.add(validator)
        self.validator = validator or self.validator

    def take(self, validator: bytes | None, offset: int, chunk: Chunk) -> None:
        """Add the part of a chunk at `offset` that is behind the version's end, unless bytes before it lack."""
        offset -= self.size
        if offset <= len(self.data):
            self.data[max(0, offset) :] = chunk[max(0, -offset) :]
            if offset <= 0:
                self.sources.clear()
            if self.data:
                self.sources.add(validator)


async def prove(
    context: ContentContext,
    artifact: ArtifactRef,
    blocks: VersionBlocks,
    listed_bytes: int | None,
    *,
    moved: bool,
    doubted_bytes: int | None = None,
    is_second: bool = False,
) -> Growth:
    """Return how a file continues the version in `blocks`.

    `listed_bytes`: the size by the listing, None where an answer, or nothing, says that it grew. `moved`: its time says
    that it is another file, or a larger one, so its first bytes are compared even if it is as long. `doubted_bytes`: a
    smaller size that a listing gives; a body that comes to that is all of the file, whatever marks its end. Waits at
    most the deadline without progress. Raises Superseded for other contents, which are discarded; ServiceError.
    """
    size = blocks.known_bytes
    samples = await _samples(context, blocks)
    sampled = blocks.known.first, blocks.known.last
    blocks.proofs = number = blocks.proofs + 1
    if not samples:
        if blocks.must_match:
            # What readers were given may be wrong, so nothing can be compared with it.
            raise await blocks.supersede(listed_bytes)
        if listed_bytes is not None:
            return Growth(listed_bytes, size, compared=False)
    first = min(samples, key=lambda sample: sample.start, default=None)
    last = max(samples, key=lambda sample: sample.end, default=None)
    start, known_to = (last.start, last.end) if last is not None else (size, size)
    # News come with the answer where the known bytes reach to the version's end.
    block_bytes = context.tuning.block_bytes
    end = known_to
    if known_to == size:
        end = max(size + 1, min(listed_bytes or size + block_bytes, start + 2 * block_bytes))
    sizes, news = (listed_bytes, doubted_bytes), _News(size)
    found, whole = await _request(context, artifact, blocks, samples, start, end, sizes, news)
    if len(news.sources) > 1:
        # They may be of two files.
        found = msgspec.structs.replace(found, validator=None, news=b"")
    if last is not None and len(news.validators) > 1:
        # The size, or news, may be of a file that took the place of the one that was compared, or grew further.
        again, _ = await _request(context, artifact, blocks, samples, start, known_to, (known_to, None), _News(size))
        found = msgspec.structs.replace(found, validator=again.validator)
    if not whole and first is not None and first is not last and (moved or found.size_bytes > size):
        await _request(context, artifact, blocks, samples, first.start, first.end, sizes, _News(size))
    if samples and not whole and blocks.size is not None and found.size_bytes > size and not is_second:
        came = blocks.known.first, blocks.known.last
        if came != sampled:
            # Readers were given bytes of answers that were on their way: these are compared, too, and no more come.
            blocks.growths += 1
            return await prove(
                context, artifact, blocks, listed_bytes, moved=moved, doubted_bytes=doubted_bytes, is_second=True
            )
    if whole and blocks.size is None and listed_bytes is None:
        # Without a length such a body shows its size at its end, and it was not read so far.
        found = msgspec.structs.replace(found, size_bytes=size, news=b"")
    if samples:
        blocks.proven = max(blocks.proven, number)
        return found
    if blocks.known.last is not None:
        # Readers were given bytes while the answer was on its way, and these can be compared.
        return await prove(context, artifact, blocks, listed_bytes, moved=moved, doubted_bytes=doubted_bytes)
    return msgspec.structs.replace(found, compared=False)


async def _samples(context: ContentContext, blocks: VersionBlocks) -> list[_Sample]:
    """Return the first and the last bytes that are cached, each as far as they meet, or less; one where they do.

    Where bytes before or behind these came, and are cached no more, their digests, too.
    """
    block_bytes = context.tuning.block_bytes
    last = max(0, blocks.known_bytes - 1) // block_bytes
    await blocks.load({0, last}, ahead=False)
    highest = blocks.last_in_memory()
    last_known = last if blocks.block(last) is not None or highest is None else highest
    samples: list[_Sample] = []
    known = blocks.known
    for index, part in (0, 0), (last_known, -1):
        block = blocks.block(index)
        if block is None or not block.parts:
            continue
        start, end = block.parts[part]
        end = min(end, blocks.length_of(index))
        if (index, start) != (last_known, block.parts[-1][0]):
            end = min(end, start + context.tuning.head_bytes)
        if start < end and not any(sample.start == index * block_bytes + start for sample in samples):
            samples.append(_Cached(index * block_bytes + start, memoryview(block.data)[start:end]))
    if blocks.must_match:
        return samples
    if known.last is not None and known.last.end > max((sample.end for sample in samples), default=0):
        samples.append(LostBytes(known.last))
    if known.first is not None and known.first.start < min((sample.start for sample in samples), default=0):
        samples.append(LostBytes(known.first))
    return samples


async def _request(
    context: ContentContext,
    artifact: ArtifactRef,
    blocks: VersionBlocks,
    samples: Sequence[_Sample],
    start: int,
    end: int,
    sizes: tuple[int | None, int | None],
    news: _News,
) -> tuple[Growth, bool]:
    """Request bytes [start, end), and compare them; returns also whether the answer was the whole file.

    `sizes`: see `prove`, listed and doubted. A server may grant less than was asked for: the rest is requested, too.
    """
    attempt, renewed_at, size = 1, start, sizes[0] if sizes[0] is not None else blocks.size
    # One deadline for all attempts and answers: only bytes renew it.
    with trio.CancelScope(deadline=trio.current_time() + context.deadline_s) as scope:
        while True:
            try:
                async with context.service.get(artifact, start, end, size=size) as body:
                    found = await _compare(context, blocks, samples, body, end, sizes, scope, news)
                    if isinstance(found, Growth):
                        return found, body.whole
                    start, end, attempt = found, max(end, found + 1), 1
                    if start - renewed_at >= context.tuning.min_progress_bytes:
                        renewed_at, scope.deadline = start, trio.current_time() + context.deadline_s
                    continue
            except errors.ConnectionLost:
                if attempt == _ATTEMPTS:
                    raise
            await trio.sleep(context.backoff_s(attempt))
            attempt += 1
    raise errors.TimedOut(f"no content came for {context.deadline_s:g} s")


async def _compare(
    context: ContentContext,
    blocks: VersionBlocks,
    samples: Sequence[_Sample],
    body: ContentBody,
    end: int,
    sizes: tuple[int | None, int | None],
    scope: trio.CancelScope,
    news: _News,
) -> Growth | int:
    """Return how the file continues the version, or from which offset on more must be asked for to know that."""
    size, total, (listed_bytes, doubted_bytes) = news.size, body.total, sizes
    if total is not None and total < size:
        raise await blocks.supersede(total)
    # Of a body that comes whole the news are kept, as it would come whole again for them.
    enough = size + context.tuning.full_body_ahead_bytes if body.whole else end
    if total is not None:
        enough = min(enough, total)
    elif listed_bytes is not None:
        enough = min(enough, max(size, listed_bytes))
    at, progress_at = body.start, body.start
    news.begin(body.validator)
    while at < enough and (chunk := await anext(body.chunks, None)) is not None:
        if any(sample.differs(at, chunk) for sample in samples):
            raise await blocks.supersede(total, body.validator)
        news.take(body.validator, at, chunk)
        context.stats.fetched_bytes += min(len(chunk), max(0, size - at))
        at += len(chunk)
        blocks.came_to_compare(at - body.start)
        if at - progress_at >= context.tuning.min_progress_bytes:
            progress_at, scope.deadline = at, trio.current_time() + context.deadline_s
    known_to = max((min(sample.end, end) for sample in samples), default=0)
    if body.whole and total is None and at < size and (body.is_framed or at == doubted_bytes):
        raise await blocks.supersede(at)
    if not body.whole and body.start < at < (enough if total is None else known_to) and at == body.end:
        # Less was granted, or the file ends here: the answer for what is behind shows which.
        return at
    is_of_end = not body.whole and at >= end >= max((sample.end for sample in samples), default=0)
    if is_of_end and total is None and (listed_bytes is None or at < listed_bytes):
        # An answer for bytes behind the end tells the size. Doubled, so that few requests come to that.
        return max(2 * at, size) if listed_bytes is None else listed_bytes - 1
    if at < max(known_to, min(enough, body.end or 0)):
        raise errors.ConnectionLost("an answer ended before what is known of the file")
    if body.whole and not body.is_framed and listed_bytes is not None and at < enough:
        # It may have been cut. Without a listed size, what came is there, and the next look may bring more.
        raise errors.ShortBody(f"the connection ended after {at} of {listed_bytes} bytes")
    if total is None:
        total = max(at, listed_bytes or 0) if at >= enough else at
    return Growth(max(total, size), size, news.validator, bytes(news.data[: max(0, total - size)]))
