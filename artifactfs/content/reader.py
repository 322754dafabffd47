"""An open file: one version, and the pattern in which it is read.

The pattern decides how much is fetched for a read (docs/semantics.md 4.5):

- A few KiB at the start (a file manager finds out the type): 128 KiB.
- Random access: the blocks that the read touches.
- Sequential access: a read-ahead window that grows with what was read. It is twice as much from offset 0, or after
  4 MiB in a row. Otherwise, since one tensor of a checkpoint may be all that is wanted, it is as much again, and at
  most 1 MiB.
"""

from collections.abc import Callable

from artifactfs import errors
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
        # Sequential access: where it began, how far it came, and how far ahead of it fetches are under way.
        self._sequence_start = 0
        self._sequence_end = 0
        self._ahead_to = 0

    @property
    def size(self) -> int | None:
        """Bytes of the file; None if no answer tells its length."""
        return self._shared.current.blocks.size

    @property
    def was_read_whole(self) -> bool:
        """Whether it was read in order, from its start to its end."""
        return self.size is not None and self._sequence_start == 0 and self._sequence_end >= self.size

    @property
    def dead(self) -> bool:
        """Whether nothing more can be read of it."""
        return self._shared.current.dead

    @property
    def validator(self) -> bytes | None:
        """What names this version at the service; None before an answer, or where none names it."""
        return self._shared.current.blocks.validator

    async def grow(self, version: ContentVersion, max_age_s: float | None = None, *, doubted: bool = False) -> None:
        """Let the file grow to the size that a listing gives, if its contents are continued (shared_file.py)."""
        while True:
            try:
                return await self._shared.current.grow(version, max_age_s, doubted=doubted)
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
            await self._fetch(0, head_bytes, head_bytes)
            await self._shared.current.blocks.persist_size()
        end = min(head_bytes, self.size or 0)
        if revalidate and end and self._shared.current.try_view(0, end) is None:
            await self._fetch(0, end, head_bytes)
        file, size = self._shared.current, self.size
        if revalidate and size and file.lacks_length and size <= min(CHECKED_BYTES, file.room_bytes):
            # Only the end of the body shows whether the listing runs ahead of the contents.
            await self._fetch(size - 1, size, size)

    async def read_to_end(self, most_bytes: int | None = None) -> None:
        """Find the size by reading the file to its end.

        Raises BodyTooLarge for a file of more than `most_bytes`, or than the caches have room for.
        """
        tuning, start, room_bytes = self._tuning, 0, self._shared.current.room_bytes
        while self.size is None and start < min(room_bytes, most_bytes or room_bytes):
            end = start + tuning.block_bytes
            await self._fetch(start, end, end + tuning.extent_blocks * tuning.block_bytes)
            start = end
        if self.size is None:
            raise errors.BodyTooLarge("no answer tells the length of a body that no cache has room for")
        await self._shared.current.blocks.persist_size()

    def try_read(self, offset: int, size: int) -> bytes | memoryview | None:
        """Do what `read` does, if a block in memory has all of it; None otherwise. Does not wait."""
        file, end = self._shared.current, self._end(offset, size)
        if end <= offset or (view := file.try_view(offset, end)) is None:
            return None
        self._note(file, offset, end, is_cached=True)
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
        return await self._fetch(offset, end, self._note(file, offset, end, is_cached=False))

    def close(self) -> None:
        """Close the handle. With the last handle of a version its fetches end."""
        if self._release is not None:
            release, self._release = self._release, None
            release()

    async def _fetch(self, start: int, end: int, fetch_to: int) -> bytes | memoryview:
        while True:
            try:
                return await self._shared.current.read(start, end, fetch_to=fetch_to)
            except HasSuccessor:
                # From the first byte, so that no read has bytes of both accounts. Project and path are the service's
                # own ids, which no two accounts share, so a reader with a part of the file may go on.
                continue

    def _end(self, offset: int, size: int) -> int:
        file_size = self.size
        return offset + size if file_size is None else min(offset + size, file_size)

    def _note(self, file: SharedFile, offset: int, end: int, *, is_cached: bool) -> int:
        """Take note of a read and start read-ahead; returns the offset up to which to fetch for this read.

        `is_cached`: nothing will be fetched for it.
        """
        tuning = self._tuning
        block_bytes, head_bytes, slack_bytes = tuning.block_bytes, tuning.head_bytes, tuning.slack_bytes
        if not self._sequence_start <= offset <= max(self._sequence_end, self._ahead_to) + slack_bytes or (
            offset < self._sequence_end - slack_bytes
        ):
            if self._ahead_to > self._sequence_end:
                file.on_seek()
            self._sequence_start = self._sequence_end = self._ahead_to = offset
        self._sequence_end = max(self._sequence_end, end)
        if self._sequence_start == 0 and self._sequence_end <= head_bytes and end - offset < head_bytes:
            return head_bytes
        block_end = -(-end // block_bytes) * block_bytes
        read_bytes = self._sequence_end - self._sequence_start
        # The first read does not show a pattern, unless it is a large one at the start.
        if read_bytes > end - offset or (self._sequence_start == 0 and read_bytes >= head_bytes):
            steady = (self._sequence_start == 0 and read_bytes > end - offset) or read_bytes >= tuning.steady_bytes
            wish = read_bytes * 2 if steady else min(read_bytes, tuning.tentative_bytes)
            window = min(tuning.window_bytes, file.readahead_capacity(), max(wish, block_bytes))
            if window < block_bytes:
                return block_end
            goal = -(-(self._sequence_end + window) // block_bytes) * block_bytes
            is_first = self._ahead_to == self._sequence_start
            if is_first and goal - offset <= tuning.steady_bytes and not is_cached:
                # The first window comes with this read, not in a second request beside it.
                self._ahead_to = goal
                return goal
            # Once half of the window is used up, so that requests are few and large.
            if self._ahead_to < self._sequence_end + window // 2:
                start = max(self._ahead_to, block_end)
                self._ahead_to = max(self._ahead_to, file.start_readahead(start, goal))
        return block_end
