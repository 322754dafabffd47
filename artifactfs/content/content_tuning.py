"""The sizes and waits of reading and caching. They are passed in, so that tests turn them and patch nothing."""

import msgspec

# The unit of fetching and caching. Large enough that a file costs the disk and the service little per byte, small
# enough that a random read moves little: 100 of them move 50 MiB.
BLOCK_BYTES = 512 << 10


class ContentTuning(msgspec.Struct, frozen=True):
    """Each default has its reason beside it; tests scale all of them down together."""

    block_bytes: int = BLOCK_BYTES
    # The range of one request, at most. A sequential reader has several requests under way.
    extent_blocks: int = 32
    # The cost of reading a few KiB at the start of a file, at most (docs/semantics.md 4.5).
    head_bytes: int = 128 << 10
    # The read-ahead of a sequential reader, at most: at 20 ms a request it keeps a gigabit line and more busy.
    window_bytes: int = 32 << 20
    # Access counts as sequential from offset 0, or after this many bytes in a row: a reader may want only one tensor of
    # a checkpoint. A window that grows twice as fast saves 60 of 1,200 ms for 512 MiB at 20 ms (measured 2026-11-23).
    steady_bytes: int = 4 << 20
    # The read-ahead before that, at most. Arbitrary; the kernel itself reads up to 1 MiB more than it is asked for.
    tentative_bytes: int = 1 << 20
    # The kernel has several reads of one reader under way, and they overtake each other: a step of at most this size,
    # forward or back, is no seek.
    slack_bytes: int = 1 << 20
    # Fewer bytes within a deadline are no progress (docs/semantics.md 5.1). Arbitrary.
    min_progress_bytes: int = 16 << 10
    # How far a full body runs ahead of its readers. Arbitrary.
    full_body_ahead_bytes: int = 8 << 20
    # Bytes that wait to be written to the disk, at most.
    disk_queue_bytes: int = 24 << 20
    # How long a block waits for the others of its group, with which it costs the disk far less.
    group_wait_s: float = 0.5


DEFAULTS = ContentTuning()
