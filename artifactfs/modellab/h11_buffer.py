"""The receive buffer of httpx's parser, without copying large pieces.

h11 appends every piece that a socket gives to one buffer and cuts it out again: of 512 MiB that is a quarter of the CPU
that a fetch costs. Here a large piece that meets an empty buffer is kept as it is, and handed out as it is where the
body has at least its length. Measured 2026-11-23, httpx 0.28.1, h11 0.16.0: with this, and without httpx's client,
the loop took 0.48 in place of 0.75 s of user CPU for 512 MiB.

Heads without end (1xx), none of which is the answer's, are refused: httpcore would read them all in one go, and
block the event loop.

This reaches into h11's private names, so releases that it was not tested with keep their own buffer.
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

# The most that one read of a socket takes. For 512 MiB, httpcore's 64 KiB cost 0.6-0.8 s of CPU, 512 KiB 0.3-0.35 s;
# of two blocks at a time one arrives as a whole, and is not copied together (measured 2026-11-23, httpx 0.28.1).
_READ_BYTES = 1 << 20
_HEAD_END = b"\r\n\r\n"
# Smaller pieces are cheaper to copy than to keep apart.
_LARGE_BYTES = 16 << 10
# Heads in one piece; an answer has one, and perhaps one before it.
_MAX_HEADS = 100
# The releases whose buffer this one is made for.
_KNOWN_RELEASES = ("0.14.", "0.15.", "0.16.")


class ChunkedReceiveBuffer(ReceiveBuffer):
    """h11's buffer, which hands out a large piece of a body uncopied."""

    def __init__(self) -> None:
        super().__init__()
        # A large piece; `_data` is empty as long as there is one.
        self._piece: bytes | memoryview | None = None
        self._heads = 0

    def __iadd__(self, piece: bytes | bytearray | memoryview) -> "ChunkedReceiveBuffer":
        self._heads = 0
        self._add(piece)
        return self

    def _add(self, piece: bytes | bytearray | memoryview) -> None:
        # A view is of memory where the piece is to stay (placed_bodies.py).
        keep = isinstance(piece, memoryview) or len(piece) >= _LARGE_BYTES
        if keep and not isinstance(piece, bytearray) and not self._data and self._piece is None:
            self._piece = piece
        else:
            self._unfold()
            self._data += piece

    def __len__(self) -> int:
        return len(self._data) if self._piece is None else len(self._piece)

    def __bytes__(self) -> bytes:
        return bytes(self._data if self._piece is None else self._piece)

    def maybe_extract_at_most(self, count: int) -> bytes | bytearray | memoryview | None:  # type: ignore[override]  # may be bytes
        if self._piece is not None and len(self._piece) <= count:
            piece, self._piece = self._piece, None
            return piece
        self._unfold()
        return super().maybe_extract_at_most(count)

    def maybe_extract_next_line(self) -> bytearray | None:
        self._unfold()
        return super().maybe_extract_next_line()

    def maybe_extract_lines(self) -> list[bytearray] | None:
        self._heads += 1
        if self._heads > _MAX_HEADS:
            raise h11.RemoteProtocolError("heads without an end")
        piece, self._piece = self._piece, None
        if piece is None:
            return super().maybe_extract_lines()
        piece = bytes(piece)
        head_bytes = piece.find(_HEAD_END, 0, _LARGE_BYTES) + len(_HEAD_END)
        if head_bytes < len(_HEAD_END) or len(piece) - head_bytes < _LARGE_BYTES:
            self._data += piece
            return super().maybe_extract_lines()
        self._data += piece[:head_bytes]
        lines = super().maybe_extract_lines()
        # `_data` is empty again, unless an empty line came before the head.
        self._add(piece[head_bytes:])
        return lines

    def is_next_line_obviously_invalid_request_line(self) -> bool:
        self._unfold()
        return super().is_next_line_obviously_invalid_request_line()

    def _unfold(self) -> None:
        if self._piece is not None:
            self._data += self._piece
            self._piece = None


def install() -> None:
    """Give every connection that httpx makes from now on this buffer, if the installed h11 is a known release."""
    httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = _READ_BYTES
    release: str = h11.__version__  # type: ignore[attr-defined]  # not in its __all__
    if not hasattr(parser, "ReceiveBuffer") or not release.startswith(_KNOWN_RELEASES):
        log.debug("this release of h11 is not known: large pieces of contents are copied once more")
        return
    parser.ReceiveBuffer = ChunkedReceiveBuffer
