"""What httpx's parser has received and not yet handed out, without copying large pieces.

h11 appends every piece that a socket gives to one buffer and cuts it out again: of 512 MiB that is a quarter of what
the fetching costs. Here a large piece that meets an empty buffer is kept as it came, and handed out as it is where
the body goes at least as far. Measured 2026-11-23, httpx 0.28.1, h11 0.16.0: with this, and without httpx's client,
the loop took 0.48 in place of 0.75 s of user CPU for 512 MiB.

And who sends heads without end, none of which is the answer's (1xx), is refused: httpcore would read them all in one
go, and nothing else would run meanwhile.

This reaches into h11, which promises nothing of its inside: a release that is made otherwise keeps its own buffer.
"""

import logging

import h11
import httpcore

try:
    import h11._connection as parser
    from h11._receivebuffer import ReceiveBuffer
except ImportError:  # `install` then leaves everything as it is
    parser = None  # type: ignore[assignment]
    ReceiveBuffer = object  # type: ignore[misc, assignment]

log = logging.getLogger(__name__)

# What one read of a socket takes at most. httpcore's 64 KiB cost it 0.6-0.8 s of CPU for 512 MiB, 512 KiB 0.3-0.35 s;
# of two blocks at a time one comes as a whole, and need not be copied together (measured 2026-11-23, httpx 0.28.1).
_READ_BYTES = 1 << 20
_HEAD_END = b"\r\n\r\n"
# Smaller pieces are cheaper to copy than to keep apart.
_LARGE_BYTES = 16 << 10
# Heads in what comes at once; an answer has one, and perhaps one before it.
_MAX_HEADS = 100
# The buffer that this was written for: what it can do, and what it holds (h11 0.14 to 0.16).
_KNOWN_METHODS = frozenset(
    {
        "__init__",
        "__iadd__",
        "__bool__",
        "__len__",
        "__bytes__",
        "_extract",
        "maybe_extract_at_most",
        "maybe_extract_next_line",
        "maybe_extract_lines",
        "is_next_line_obviously_invalid_request_line",
    }
)
_KNOWN_STATE = frozenset({"_data", "_next_line_search", "_multiple_lines_search"})


class ChunkedReceiveBuffer(ReceiveBuffer):
    """h11's buffer, that hands a large piece of a body out as it came."""

    def __init__(self) -> None:
        super().__init__()
        # Comes before nothing: `_data` is empty as long as there is a piece.
        self._piece: bytes | None = None
        self._heads = 0

    def __iadd__(self, piece: bytes | bytearray) -> "ChunkedReceiveBuffer":
        self._heads = 0
        self._add(piece)
        return self

    def _add(self, piece: bytes | bytearray) -> None:
        if not self._data and self._piece is None and isinstance(piece, bytes) and len(piece) >= _LARGE_BYTES:
            self._piece = piece
        else:
            self._unfold()
            self._data += piece

    def __len__(self) -> int:
        return len(self._data) if self._piece is None else len(self._piece)

    def __bytes__(self) -> bytes:
        return bytes(self._data) if self._piece is None else self._piece

    def maybe_extract_at_most(self, count: int) -> bytes | bytearray | None:  # type: ignore[override]  # may be bytes
        """Return the next `count` bytes, or as many as there are; None if there are none."""
        if self._piece is not None and len(self._piece) <= count:
            piece, self._piece = self._piece, None
            return piece
        self._unfold()
        return super().maybe_extract_at_most(count)

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the next line, if it is there as a whole."""
        self._unfold()
        return super().maybe_extract_next_line()

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines up to the next empty one, if they are there as a whole."""
        self._heads += 1
        if self._heads > _MAX_HEADS:
            raise h11.RemoteProtocolError("heads without an end")
        piece, self._piece = self._piece, None
        if piece is None:
            return super().maybe_extract_lines()
        head_bytes = piece.find(_HEAD_END, 0, _LARGE_BYTES) + len(_HEAD_END)
        if head_bytes < len(_HEAD_END) or len(piece) - head_bytes < _LARGE_BYTES:
            self._data += piece
            return super().maybe_extract_lines()
        self._data += piece[:head_bytes]
        lines = super().maybe_extract_lines()
        # What follows the head: `_data` is empty again, unless an empty line came before.
        self._add(piece[head_bytes:])
        return lines

    def is_next_line_obviously_invalid_request_line(self) -> bool:
        """Tell whether what comes next cannot be a head."""
        self._unfold()
        return super().is_next_line_obviously_invalid_request_line()

    def _unfold(self) -> None:
        if self._piece is not None:
            self._data += self._piece
            self._piece = None


def install() -> None:
    """Have every connection that httpx makes from now on receive so, as far as the installed h11 is one we know."""
    httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = _READ_BYTES
    if not hasattr(parser, "ReceiveBuffer") or not _is_known():
        log.debug("this h11 is made otherwise: large pieces of contents are copied once more")
        return
    parser.ReceiveBuffer = ChunkedReceiveBuffer


def _is_known() -> bool:
    methods = {name for name, value in vars(ReceiveBuffer).items() if callable(value)}
    return methods == _KNOWN_METHODS and getattr(ReceiveBuffer(), "__dict__", {}).keys() == _KNOWN_STATE
