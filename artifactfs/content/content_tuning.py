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
    # The cost of reading a few KiB at the start of a file, or elsewhere, at most (docs/semantics.md 4.5).
    head_bytes: int = 128 << 10
    # The read-ahead of a sequential reader, at most: at 20 ms a request it keeps a gigabit line and more busy.
    window_bytes: int = 32 << 20
    # What it is continued by. The next request must be on its way while those before it still come: with 16 MiB, the
    # latency of each was a gap, and 512 MiB took 1.25 s in place of 1.1 s at 20 ms a request; 4 MiB cost more CPU.
    step_bytes: int = 8 << 20
    # A file that is fetched whole where a program begins to read it in large pieces, at most. Arbitrary.
    whole_bytes: int = 1 << 20
    # What is fetched of a larger file that a program reads on from its start. A program that reads 1 MiB of each 4 may
    # have begun there; at 20 ms a request, 1 MiB took 512 MiB 20 ms longer.
    first_window_bytes: int = 2 << 20
    # From another offset on, access counts as sequential after this many bytes in a row. A reader may want only one
    # tensor of a checkpoint, of 4 MiB say, around which the kernel reads another 256 KiB.
    steady_bytes: int = 5 << 20
    # The read-ahead before that, at most: a tenth of such a tensor.
    tentative_bytes: int = 256 << 10
    # Runs at equal distances that are fetched at once, at most: a request each. Arbitrary.
    max_runs: int = 16
    # The kernel has several reads of one reader under way, and they overtake each other: a step of at most this size,
    # forward or back, is no seek.
    slack_bytes: int = 256 << 10
    # Fewer bytes within a deadline are no progress (docs/semantics.md 5.1). Arbitrary.
    min_progress_bytes: int = 16 << 10
    # How far a full body runs ahead of its readers. Arbitrary.
    full_body_ahead_bytes: int = 8 << 20
    # Bytes that wait to be written to the disk, at most.
    disk_queue_bytes: int = 24 << 20
    # How long a block waits for the others of its group, with which it costs the disk far less.
    group_wait_s: float = 0.5
    # How long any other block waits for more of its kind, to be written with them by one call of a thread.
    batch_wait_s: float = 0.05


DEFAULTS = ContentTuning()
