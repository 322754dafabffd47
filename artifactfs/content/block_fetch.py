"""One fetch of consecutive bytes, from its request to its end."""

from collections.abc import Callable


class BlockFetch:
    """Bytes [start, end) of the file; [at, end) are to come.

    `at` moves on as bytes come. `upto`: the end of what is missing; the bytes behind it are cached. `ahead`: no read
    waits for it. `finish` marks it as `done` and releases what it holds.
    """

    def __init__(self, start: int, end: int, *, ahead: bool, finish: Callable[["BlockFetch"], None]) -> None:
        self.start, self.end = start, end
        self.ahead = ahead
        self.at = start
        self.upto = end
        self.done = False
        self.error: Exception | None = None
        self.give_back: Callable[[], None] | None = None
        self.finish = finish

    def blocks(self, block_bytes: int) -> range:
        """Return the indices of the blocks that it brings bytes of."""
        return range(self.start // block_bytes, -(-self.end // block_bytes))
