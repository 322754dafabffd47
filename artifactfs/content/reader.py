"""An open file: one version, and the pattern in which it is read.

What is fetched for a read depends on the pattern. A glance (a few KiB at the start: a file manager asks what type it
is) fetches 128 KiB and no more. A random read fetches the blocks that it touches. A sequential reader gets a window
ahead of it that grows with what it has read, so what is fetched in vain is bounded by that (semantics 4.5): at most
twice as much as was read by one who reads from the start of the file, or has read 4 MiB in a row; of one who may want
a tensor out of a checkpoint as much again, and no more than 1 MiB.
"""

from collections.abc import Callable

from artifactfs.content.shared_file import SharedFile
from artifactfs.content.tuning import ContentTuning


class OpenFile:
    """One handle of one version. `read` may run several times at once; the kernel does that."""

    def __init__(self, source: SharedFile, tuning: ContentTuning, release: Callable[[], None]) -> None:
        self._source = source
        self._tuning = tuning
        self._release: Callable[[], None] | None = release
        # Where the run of sequential reads began, where it has come to, and how far ahead of it fetches are under way.
        self._run_start = 0
        self._run_end = 0
        self._ahead_to = 0

    @property
    def size(self) -> int | None:
        """Bytes of the file; None for one whose length no answer tells."""
        return self._source.size

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return `size` bytes from `offset` on, less only at the end of the file.

        The view stays good; its bytes never change. Raises Superseded, ServiceError.
        """
        end = offset + size
        if self._source.size is not None:
            end = min(end, self._source.size)
        if end <= offset:
            return b""
        found = self._source.at_hand(offset, end)
        fetch_to = self._note(offset, end, at_hand=found is not None)
        if found is not None:
            self._source.read_at_hand(end - offset)
            return found
        return await self._source.read(offset, end, fetch_to=fetch_to)

    def close(self) -> None:
        """Close the handle; what nobody else reads is no longer fetched."""
        if self._release is not None:
            release, self._release = self._release, None
            release()

    def _note(self, offset: int, end: int, *, at_hand: bool) -> int:
        """Take note of a read; begins what is to be fetched ahead, and returns to where to fetch for this one.

        `at_hand`: nothing will be fetched for it.
        """
        tuning = self._tuning
        block_bytes, head_bytes, slack_bytes = tuning.block_bytes, tuning.head_bytes, tuning.slack_bytes
        if not self._run_start <= offset <= max(self._run_end, self._ahead_to) + slack_bytes or (
            offset < self._run_end - slack_bytes
        ):
            if self._ahead_to > self._run_end:
                self._source.on_seek()
            self._run_start = self._run_end = self._ahead_to = offset
        self._run_end = max(self._run_end, end)
        if self._run_start == 0 and self._run_end <= head_bytes and end - offset < head_bytes:
            return head_bytes
        block_end = -(-end // block_bytes) * block_bytes
        read_bytes = self._run_end - self._run_start
        # The first read of all tells nothing yet, but a large one at the start is no glance.
        if read_bytes > end - offset or (self._run_start == 0 and read_bytes >= head_bytes):
            steady = (self._run_start == 0 and read_bytes > end - offset) or read_bytes >= tuning.steady_bytes
            wish = read_bytes * 2 if steady else min(read_bytes, tuning.tentative_bytes)
            window = min(tuning.window_bytes, self._source.readahead_capacity(), max(wish, block_bytes))
            if window < block_bytes:
                return block_end
            goal = -(-(self._run_end + window) // block_bytes) * block_bytes
            if self._ahead_to == self._run_start and goal - offset <= tuning.steady_bytes and not at_hand:
                # The first: with what is asked for now, not in a second request beside it.
                self._ahead_to = goal
                return goal
            # Not for every read: once half of the window is used up, so that requests are few and large.
            if self._ahead_to < self._run_end + window // 2:
                start = max(self._ahead_to, block_end)
                self._ahead_to = max(self._ahead_to, self._source.ahead(start, goal))
        return block_end
