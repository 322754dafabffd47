"""A fetch of blocks, which readers wait for, and what an answer to it may show of the file's size."""

from collections.abc import Callable


class UnprovenContent(Exception):
    """An answer may be of another version, which only a proof shows (growth.py).

    `held`: what it brought of the bytes that it was requested for; they count if a proof succeeds that began when
    `proofs` had begun (VersionMemory).
    """

    held: bytes = b""
    proofs = 0


class LargerContent(UnprovenContent):
    """An answer is of a larger file, which may continue the version. `total`: its size in bytes, where it says that."""

    def __init__(self, total: int | None) -> None:
        super().__init__(total)
        self.total = total


class OtherValidator(UnprovenContent):
    """An answer has another validator than the version."""

    def __init__(self, validator: bytes) -> None:
        super().__init__()
        self.validator = validator


class SmallerContent(Exception):
    """An answer is of a smaller file. `whole`: it is a whole body; `is_first`: see VersionBlocks.is_untouched."""

    def __init__(self, size: int, *, whole: bool, is_first: bool) -> None:
        super().__init__(size)
        self.size = size
        self.whole = whole
        self.is_first = is_first


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
