"""The pattern in which one handle reads its file. It decides how much is fetched for a read (docs/semantics.md 4.5).

Reads that follow each other are a run. A jump begins the next run.

- A few KiB at the start of the file (a file manager finds out the type), or at any other place: 128 KiB. A first read
  of more: its own bytes, as it may be a page fault of a mapping, for which the kernel reads 128 KiB.
- A run from offset 0: 2 MiB from its second read on, then twice as much as was read.
- A run from another offset: a little, since one tensor of a checkpoint may be all that is wanted; after 5 MiB twice as
  much as was read. Where runs are short and alike, each is fetched whole, and no more.
- Runs at equal distances, forwards or backwards: the next runs, twice as many with each, several at once; of runs that
  leave nothing between them no more than of one run. (Some processors' memcpy reads a mapping from its end.)

What is hard: the kernel reads ahead, too, and has several reads of one reader under way, which overtake each other.
"""

from typing import Protocol

from artifactfs.content.content_tuning import ContentTuning

# The unit of what is fetched at equal distances, and how much these may differ: this part of 128 KiB. Arbitrary; pages
# are 4 KiB, and few distances are a number of pages.
_FINE = 8


class Readahead(Protocol):
    """The part of a SharedFile that fetches ahead."""

    def start_readahead(self, start: int, end: int) -> int:
        """Begin to fetch [start, end) ahead of a reader; returns how far that is done."""

    def readahead_capacity(self) -> int:
        """Return the largest read-ahead of a reader, in bytes."""

    def on_seek(self) -> None:
        """What was fetched ahead will not be read soon."""

    def is_cached(self, offset: int) -> bool:
        """Whether memory has the byte at an offset."""

    @property
    def lacks_ranges(self) -> bool:
        """Whether the service is known to send whole bodies only."""


class AccessPattern:
    """See the module. All offsets and lengths are in bytes."""

    def __init__(self, tuning: ContentTuning) -> None:
        self._tuning = tuning
        # The run of now: where it began, how far it came, and how far ahead of it fetches are under way.
        self._start = self._end = self._ahead_to = 0
        # Whether it began behind bytes that were fetched for another one, so that two runs take turns.
        self._takes_turns = False
        # The run before: its length, and whether the one before that was as long. 0: there was none.
        self._length = 0
        self._is_length_known = False
        # From the start of the run before to that of this one, and how often in a row it was the same.
        self._stride = 0
        self._repeats = 0
        # How many runs after this one are being fetched, by the stride.
        self._runs_ahead = 0

    def note(self, file: Readahead, offset: int, end: int, size: int | None, *, is_cached: bool) -> tuple[int, int]:
        """Take note of a read of [offset, end), and start read-ahead; returns the range to fetch for this read.

        `is_cached`: nothing will be fetched for it.
        """
        tuning = self._tuning
        slack_bytes, unit = tuning.slack_bytes, tuning.head_bytes
        if not self._start <= offset <= self._end + slack_bytes or offset < self._end - slack_bytes:
            self._jump(file, offset)
        self._end = max(self._end, end)
        read_bytes = self._end - self._start
        if read_bytes == end - offset:
            start, fetch_to = self._begin(file, offset, end, size)
            self._ahead_to = min(fetch_to, -(-end // unit) * unit) if is_cached else fetch_to
            return start, fetch_to
        if read_bytes < (tuning.steady_bytes if self._start else tuning.first_window_bytes):
            if self._end <= self._ahead_to:
                return offset, end
            return offset, self._continue(file, end, read_bytes, is_cached=is_cached)
        return offset, self._stream(file, end, read_bytes)

    def is_of_whole(self, size: int) -> bool:
        """Whether a file of this size was read in order, from its start to its end."""
        return self._start == 0 and self._end >= size

    def _jump(self, file: Readahead, offset: int) -> None:
        """Begin a run, and compare it with those before it."""
        tolerance = self._tuning.head_bytes // _FINE
        stride, length = offset - self._start, self._end - self._start
        if length and abs(stride - self._stride) <= tolerance:
            self._repeats += 1
            self._runs_ahead = max(0, self._runs_ahead - 1)
        else:
            if self._ahead_to > self._end or self._runs_ahead:
                file.on_seek()
            self._repeats = self._runs_ahead = 0
        self._stride = stride if length else 0
        self._is_length_known = abs(length - self._length) <= tolerance
        self._length = length
        self._start = self._end = self._ahead_to = offset

    def _begin(self, file: Readahead, offset: int, end: int, size: int | None) -> tuple[int, int]:
        """Return the range to fetch for the first read of a run."""
        tuning, unit = self._tuning, self._tuning.head_bytes
        if self._repeats:
            unit //= _FINE
            if not file.lacks_ranges:
                self._fetch_runs(file)
        if self._is_length_known and self._length <= tuning.first_window_bytes:
            end = max(end, offset + self._length)
        self._takes_turns = offset > 0 and file.is_cached(offset - 1)
        if self._takes_turns:
            return offset, self._block_end(end)
        if end - offset < unit:
            return offset // unit * unit, -(-end // unit) * unit
        if offset == 0 and size is not None and size <= tuning.whole_bytes:
            return 0, size
        return offset, end

    def _continue(self, file: Readahead, end: int, read_bytes: int, *, is_cached: bool) -> int:
        """Start read-ahead for a run that may end soon; returns the offset up to which to fetch for this read."""
        tuning, capacity = self._tuning, file.readahead_capacity()
        expected_end = self._start + self._length
        if self._start == 0 and not self._length:
            goal = tuning.first_window_bytes
        elif self._end < expected_end <= self._start + tuning.first_window_bytes:
            goal = expected_end
        elif self._takes_turns:
            goal = self._block_end(end)
        else:
            goal = self._end + min(read_bytes, tuning.tentative_bytes)
        goal = max(end, min(goal, self._end + capacity))
        if is_cached:
            self._ahead_to = max(end, file.start_readahead(self._end, goal))
            return end
        # It comes with this read, not in a second request beside it.
        self._ahead_to = goal
        return goal

    def _stream(self, file: Readahead, end: int, read_bytes: int) -> int:
        """Start read-ahead for a sequential reader; returns the offset up to which to fetch for this read."""
        tuning, block_end = self._tuning, self._block_end(end)
        window = min(tuning.window_bytes, file.readahead_capacity(), read_bytes * 2)
        # Once there is room for a large request, or half of a small window: requests are few, and several under way.
        step_bytes = min(window // 2, tuning.step_bytes)
        if window >= tuning.block_bytes and self._ahead_to < self._end + window - step_bytes:
            goal = self._block_end(self._end + window)
            self._ahead_to = max(self._ahead_to, file.start_readahead(max(self._ahead_to, block_end), goal))
        return block_end

    def _fetch_runs(self, file: Readahead) -> None:
        """Fetch the next runs, by the stride, once half of those that were fetched ahead are read."""
        tuning, stride, length = self._tuning, self._stride, self._length
        unit = tuning.head_bytes // _FINE
        wanted = min(1 << min(self._repeats, 16), min(tuning.window_bytes, file.readahead_capacity()) // length)
        if abs(stride) - length >= tuning.head_bytes:
            wanted = min(wanted, tuning.max_runs)
        else:
            # One stretch, read in steps: as of a sequential reader, one tensor of it may be all that is wanted.
            read_bytes = (self._repeats + 1) * length
            ahead_bytes = tuning.tentative_bytes if read_bytes < tuning.steady_bytes else read_bytes * 2
            wanted = min(wanted, ahead_bytes // length)
        if self._runs_ahead > wanted // 2:
            return
        ranges: list[tuple[int, int]] = []
        for start in sorted(self._start + stride * number for number in range(self._runs_ahead + 1, wanted + 1)):
            first, end = max(0, start // unit * unit), -(-(start + length) // unit) * unit
            # A small gap costs less than another request.
            if ranges and first - ranges[-1][1] < tuning.head_bytes:
                ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
            elif end > 0:
                ranges.append((first, end))
        for start, end in ranges:
            file.start_readahead(start, end)
        self._runs_ahead = max(self._runs_ahead, wanted)

    def _block_end(self, end: int) -> int:
        block_bytes = self._tuning.block_bytes
        return -(-end // block_bytes) * block_bytes
