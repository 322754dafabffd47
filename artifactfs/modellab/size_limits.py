"""How large an answer may be (semantics.md 6.4). Each limit is an argument, so that tests need no large answers."""

import msgspec


class SizeLimits(msgspec.Struct, frozen=True):
    """Bytes and rows. Past a limit, the answer is refused with AnswerTooLarge or UnexpectedAnswer."""

    # A listing of 1,000,000 entries is about 100 MB; a larger answer is not a listing.
    body_bytes: int = 256 << 20
    # All buffered bodies except the oldest share this: 300,000 entries.
    shared_bytes: int = 16 << 20
    # What bodies need up to this size is not counted there: 1,000 entries.
    small_bytes: int = 64 << 10
    # Rows of a listing (EFBIG).
    rows: int = 1_000_000
    # Bodies up to this size are decoded without counting their values first.
    uncounted_bytes: int = 8 << 20
    # A larger malformed answer is refused: lenient decoding takes several times its size.
    lenient_bytes: int = 64 << 20
    # A project's listing, which is decoded as a stream: 1,400,000 files.
    index_bytes: int = 256 << 20


DEFAULTS = SizeLimits()
