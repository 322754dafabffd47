"""An open file: one version, read in one pattern (access_pattern.py)."""

from collections.abc import Callable

from artifactfs import errors
from artifactfs.content.access_pattern import AccessPattern
from artifactfs.content.content_tuning import ContentTuning
from artifactfs.content.shared_file import SharedFile
from artifactfs.content.version_blocks import HasSuccessor
from artifactfs.domain import ContentVersion

# The longest body that is read for its length alone, where neither listings nor answers tell that. Arbitrary.
CHECKED_BYTES = 64 << 20


class SharedVersion:
    """A version that is open, and its SharedFile under the account of now: a switch replaces that (6.3)."""

    def __init__(self, current: SharedFile) -> None:
        self.current = current


class OpenFile:
    """One handle of one version. `read` may run several times at once; the kernel does that."""

    def __init__(self, shared: SharedVersion, tuning: ContentTuning, release: Callable[[], None]) -> None:
        self._shared = shared
        self._tuning = tuning
        self._release: Callable[[], None] | None = release
        self._pattern = AccessPattern(tuning)

    @property
    def size(self) -> int | None:
        """Bytes of the file; None if no answer tells its length."""
        return self._shared.current.blocks.size

    @property
    def was_read_whole(self) -> bool:
        """Whether it was read in order, from its start to its end."""
        return self.size is not None and self._pattern.is_of_whole(self.size)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of it is known but its size: no reader was given anything."""
        return self._shared.current.blocks.is_untouched

    @property
    def dead(self) -> bool:
        """Whether nothing more can be read of it."""
        return self._shared.current.dead

    @property
    def validator(self) -> bytes | None:
        """What names this version at the service; None before an answer, or where none names it."""
        return self._shared.current.blocks.validator

    async def grow(
        self, version: ContentVersion, max_age_s: float | None = None, *, doubted_bytes: int | None = None
    ) -> None:
        """Let the file grow to the size that a listing gives, if its contents are continued (shared_file.py)."""
        while True:
            try:
                return await self._shared.current.grow(version, max_age_s, doubted_bytes=doubted_bytes)
            except HasSuccessor:
                continue

    async def read_head(self, *, revalidate: bool) -> None:
        """Find the size where the listing does not give it; with `revalidate`, see that the server has this version.

        Costs at most one answer, and none if the head is cached. The size may stay unknown.
        """
        head_bytes = self._tuning.head_bytes
        if self.size is None:
            await self._shared.current.blocks.load_size()
        if self.size is None:
            await self._fetch(0, head_bytes, (0, head_bytes))
            self._shared.current.blocks.persist_size()
        end = min(head_bytes, self.size or 0)
        if revalidate and end and self._shared.current.try_view(0, end) is None:
            await self._fetch(0, end, (0, head_bytes))
        file, size = self._shared.current, self.size
        if revalidate and size and file.lacks_length and size <= min(CHECKED_BYTES, file.room_bytes):
            # Only the end of the body shows whether the listing runs ahead of the contents.
            await self._fetch(size - 1, size, (size - 1, size))

    async def read_to_end(self, most_bytes: int | None = None) -> None:
        """Find the size by reading the file to its end.

        Raises BodyTooLarge for a file of more than `most_bytes`, or than the caches have room for.
        """
        tuning, start, room_bytes = self._tuning, 0, self._shared.current.room_bytes
        while self.size is None and start < min(room_bytes, most_bytes or room_bytes):
            end = start + tuning.block_bytes
            await self._fetch(start, end, (start, end + tuning.extent_blocks * tuning.block_bytes))
            start = end
        if self.size is None:
            raise errors.BodyTooLarge("no answer tells the length of a body that no cache has room for")
        self._shared.current.blocks.persist_size()

    async def save_cached(self) -> None:
        """Save the blocks that memory has of the file to the disk, which may have evicted them."""
        blocks = self._shared.current.blocks
        for index in range((blocks.last_in_memory() or 0) + 1):
            block = blocks.block(index)
            if block is not None and block.count == blocks.length_of(index):
                await blocks.persist(index, block)

    def try_read(self, offset: int, size: int) -> bytes | memoryview | None:
        """Do what `read` does, if a block in memory has all of it; None otherwise. Does not wait."""
        file, end = self._shared.current, self._end(offset, size)
        if end <= offset or (view := file.try_view(offset, end)) is None:
            return None
        self._pattern.note(file, offset, end, self.size, is_cached=True)
        file.count_memory_read(end - offset)
        return view

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return `size` bytes from `offset`, less only at the end of the file.

        The view stays valid, and its bytes never change. Raises Superseded, ServiceError.
        """
        if (view := self.try_read(offset, size)) is not None:
            return view
        file = self._shared.current
        if (end := self._end(offset, size)) <= offset:
            return b""
        return await self._fetch(offset, end, self._pattern.note(file, offset, end, self.size, is_cached=False))

    def close(self) -> None:
        """Close the handle. With the last handle of a version its fetches end."""
        if self._release is not None:
            release, self._release = self._release, None
            release()

    async def _fetch(self, start: int, end: int, wanted: tuple[int, int]) -> bytes | memoryview:
        while True:
            try:
                return await self._shared.current.read(start, end, fetch=wanted)
            except HasSuccessor:
                # From the first byte, so that no read has bytes of both accounts. Project and path are the service's
                # own ids, which no two accounts share, so a reader with a part of the file may go on.
                continue

    def _end(self, offset: int, size: int) -> int:
        file_size = self.size
        return offset + size if file_size is None else min(offset + size, file_size)
