"""Proves that a larger file continues a version: the known end of the version, and its first bytes, are still the same.

A size, a time or a validator proves nothing: a log that was rotated is larger again one day. So the end of what is
cached of the version (its last block), and its first bytes, are compared with the same range of the larger file, once
for each growth, before anything of the larger file is shown (docs/semantics.md 2.4). New bytes that come with the
answer are kept. Where nothing of the version is cached, and no reader was given anything, no bytes can be mixed, and
no request is made.
"""

from collections.abc import Sequence

import msgspec
import trio

from artifactfs import errors
from artifactfs.content.context import ContentContext
from artifactfs.content.version_blocks import VersionBlocks
from artifactfs.domain import ArtifactRef, Chunk, ContentBody

# How often an answer may break off before the proof fails. Arbitrary.
_ATTEMPTS = 3


class Growth(msgspec.Struct, frozen=True):
    """A larger file that continues a version. `news`: its bytes from the version's end on, as far as they came.

    `size_bytes`: its size; not larger than the version's where the listing runs ahead of the contents.
    `compared`: whether anything of the version was known.
    """

    size_bytes: int
    validator: bytes | None = None
    news: bytes = b""
    compared: bool = True


class _Sample(msgspec.Struct, frozen=True):
    """Known bytes of the version, from offset `start` on."""

    start: int
    data: memoryview

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def differs(self, offset: int, chunk: Chunk) -> bool:
        """Whether a chunk at `offset` contradicts the sample."""
        first, last = max(offset, self.start), min(offset + len(chunk), self.end)
        if first >= last:
            return False
        return memoryview(chunk)[first - offset : last - offset] != self.data[first - self.start : last - self.start]


async def prove(
    context: ContentContext,
    artifact: ArtifactRef,
    blocks: VersionBlocks,
    listed_bytes: int | None,
    *,
    moved: bool,
    doubted_bytes: int | None = None,
) -> Growth:
    """Return how a file continues the version in `blocks`, which has a size.

    `listed_bytes`: the size by the listing, None where an answer, or nothing, says that it grew. `moved`: its time says
    that it is another file, or a larger one, so its first bytes are compared even if it is as long. `doubted_bytes`: a
    smaller size that a listing gives; a body that comes to that is all of the file, whatever marks its end. Waits at
    most the deadline without progress. Raises Superseded for other contents, which are discarded; ServiceError.
    """
    size = blocks.size or 0
    samples = await _samples(context, blocks)
    if not samples:
        if blocks.received or blocks.must_match:
            # The caches have lost what the readers were given, so nothing can be compared with it.
            raise await blocks.supersede(listed_bytes)
        if listed_bytes is not None:
            return Growth(listed_bytes, compared=False)
    start, known_to = (samples[-1].start, samples[-1].end) if samples else (size, size)
    # News come with the answer where the known bytes reach to the version's end.
    block_bytes = context.tuning.block_bytes
    end = known_to
    if known_to == size:
        end = max(size + 1, min(listed_bytes or size + block_bytes, start + 2 * block_bytes))
    sizes = listed_bytes, doubted_bytes
    found, whole = await _request(context, artifact, blocks, samples, start, end, sizes)
    if not whole and len(samples) > 1 and (moved or found.size_bytes > size):
        await _request(context, artifact, blocks, samples, samples[0].start, samples[0].end, sizes)
    return found if samples else msgspec.structs.replace(found, compared=False)


async def _samples(context: ContentContext, blocks: VersionBlocks) -> list[_Sample]:
    """Return the first and the last bytes that are cached, each as far as they meet, or less; one where they do."""
    block_bytes = context.tuning.block_bytes
    last = max(0, (blocks.size or 0) - 1) // block_bytes
    await blocks.load({0, last}, ahead=False)
    highest = blocks.last_in_memory()
    last_known = last if blocks.block(last) is not None or highest is None else highest
    samples: list[_Sample] = []
    for index, part in (0, 0), (last_known, -1):
        block = blocks.block(index)
        if block is None or not block.parts:
            continue
        start, end = block.parts[part]
        end = min(end, blocks.length_of(index))
        if (index, start) != (last_known, block.parts[-1][0]):
            end = min(end, start + context.tuning.head_bytes)
        if start < end and not any(sample.start == index * block_bytes + start for sample in samples):
            samples.append(_Sample(index * block_bytes + start, memoryview(block.data)[start:end]))
    return samples


async def _request(
    context: ContentContext,
    artifact: ArtifactRef,
    blocks: VersionBlocks,
    samples: Sequence[_Sample],
    start: int,
    end: int,
    sizes: tuple[int | None, int | None],
) -> tuple[Growth, bool]:
    """Request bytes [start, end), and compare them; returns also whether the answer was the whole file.

    `sizes`: see `prove`, listed and doubted. A server may grant less than was asked for: the rest is requested, too.
    """
    attempt = 1
    while True:
        try:
            with trio.CancelScope(deadline=trio.current_time() + context.deadline_s) as scope:
                size = sizes[0] if sizes[0] is not None else blocks.size
                async with context.service.get(artifact, start, end, size=size) as body:
                    found = await _compare(context, blocks, samples, body, end, sizes, scope)
                    if isinstance(found, Growth):
                        return found, body.whole
                    start, attempt = found, 1
                    continue
            raise errors.TimedOut(f"no content came for {context.deadline_s:g} s")
        except errors.ConnectionLost:
            if attempt == _ATTEMPTS:
                raise
        await trio.sleep(context.backoff_s(attempt))
        attempt += 1


async def _compare(
    context: ContentContext,
    blocks: VersionBlocks,
    samples: Sequence[_Sample],
    body: ContentBody,
    end: int,
    sizes: tuple[int | None, int | None],
    scope: trio.CancelScope,
) -> Growth | int:
    """Return how the file continues the version, or from which offset on more must be asked for to know that."""
    size, total, (listed_bytes, doubted_bytes) = blocks.size or 0, body.total, sizes
    if total is not None and total < size:
        raise await blocks.supersede(total)
    # Of a body that comes whole the news are kept, as it would come whole again for them.
    enough = size + context.tuning.full_body_ahead_bytes if body.whole else end
    if total is not None:
        enough = min(enough, total)
    elif listed_bytes is not None:
        enough = min(enough, max(size, listed_bytes))
    at, progress_at, news = body.start, body.start, bytearray()
    while at < enough and (chunk := await anext(body.chunks, None)) is not None:
        if any(sample.differs(at, chunk) for sample in samples):
            raise await blocks.supersede(total, body.validator)
        news += chunk[max(0, size - at) :]
        context.stats.fetched_bytes += min(len(chunk), max(0, size - at))
        at += len(chunk)
        if at - progress_at >= context.tuning.min_progress_bytes:
            progress_at, scope.deadline = at, trio.current_time() + context.deadline_s
    known_to = max((min(sample.end, end) for sample in samples), default=0)
    if body.whole and total is None and at < size and (body.is_framed or at == doubted_bytes):
        raise await blocks.supersede(at)
    if not body.whole and body.start < at < known_to and at == body.end:
        return at
    if at < max(known_to, min(enough, body.end or 0)):
        raise errors.ConnectionLost("an answer ended before what is known of the file")
    if total is None:
        total = max(at, listed_bytes or 0) if at >= enough else at
    return Growth(max(total, size), body.validator, bytes(news[: max(0, total - size)]))
