"""One fetch of consecutive blocks, from its request to its end."""

from collections.abc import Callable


class BlockFetch:
    """Blocks [first, last], bytes [at, end) of the file.

    `at` moves on as bytes come. `upto`: the end of what is missing; the bytes behind it are cached. `ahead`: no read
    waits for it. `finish` marks it as `done` and releases what it holds.
    """

    def __init__(
        self, first: int, last: int, start: int, end: int, *, ahead: bool, finish: Callable[["BlockFetch"], None]
    ) -> None:
        self.first, self.last, self.end = first, last, end
        self.ahead = ahead
        self.at = start
        self.upto = end
        self.done = False
        self.error: Exception | None = None
        self.give_back: Callable[[], None] | None = None
        self.finish = finish
