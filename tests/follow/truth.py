"""What a file of the soak has held: versions whose bytes say where they belong, and the checks against them.

A byte is a function of version and offset: lines of 16 bytes, `<version> <offset>`. A version that comes of a
truncation has its parent's bytes in front of the cut: that two files begin alike proves nothing. The driver writes the
journal, one line a version, before the service has the version.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

_LINE = b"%04d %010d\n"
LINE_BYTES = 16
_HEAD = re.compile(rb"\d{4} 0000000000\n")
_STEP_BYTES = 1 << 20  # how much is compared at once; arbitrary


@dataclass(frozen=True)
class Version:
    """A version; one that comes of a truncation has the first `cut` bytes of `parent`."""

    number: int
    parent: int = 0
    cut: int = 0

    def line(self) -> str:
        return json.dumps(vars(self)) + "\n"


class Journal:
    """All versions of one file, as far as its journal tells at the moment."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._versions: dict[int, Version] = {}
        self._read_bytes = 0

    def versions(self) -> list[int]:
        """Return the numbers of all versions so far, in order."""
        with open(self._path, "rb") as file:
            file.seek(self._read_bytes)
            whole, _, _ = file.read().rpartition(b"\n")
        for line in whole.splitlines():
            version = Version(**json.loads(line))
            self._versions[version.number] = version
        self._read_bytes += len(whole) + 1 if whole else 0
        return sorted(self._versions)

    def content(self, number: int, start: int, end: int) -> bytes:
        """Return the bytes [start, end) that a version has, if it has so many. Version 0 has none."""
        if number == 0:
            return b""
        version = self._versions[number]
        inherited = self.content(version.parent, start, min(end, version.cut)) if start < version.cut else b""
        return inherited + content(number, max(start, version.cut), end)

    def continuing(self, number: int, size: int) -> list[int]:
        """Return a version, and the later ones that came of it by truncations that left its first `size` bytes."""
        found = [number]
        for each in self.versions():
            version = self._versions[each]
            if version.parent in found and version.cut >= size:
                found.append(each)
        return found

    def fitting(self, data: bytes, start: int, among: Iterable[int]) -> list[int]:
        """Return the versions that have these bytes at this offset."""
        return [number for number in among if self.content(number, start, start + len(data)) == data]


def content(number: int, start: int, end: int) -> bytes:
    """Return the bytes [start, end) of a version that was never cut."""
    if end <= start:
        return b""
    first = start // LINE_BYTES * LINE_BYTES
    return b"".join(_LINE % (number, at) for at in range(first, end, LINE_BYTES))[start - first : end - first]


class Wrong(AssertionError):
    """Bytes that no version has at this place."""


class Stream:
    """What a program prints that follows a file by name: a version from its start, and then a later one, and so on.

    A version may end anywhere behind its first line, as the program sees the next one before it has read all of the
    last. A file that was cut where the program had not been yet, and grew again, may be read on: all that was read is
    in it, as in a local file. So, and as versions with a common beginning cannot be told apart at first, the stream may
    be in several at once.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._at: set[tuple[int, int]] = {(0, 0)}  # (version, offset) of each version that it may be in; 0: none yet
        self._rest = b""  # what was not checked: it may be the beginning of a first line
        self.bytes = 0

    def feed(self, data: bytes) -> None:
        """Take what was printed next. Raises Wrong."""
        self._rest += data
        self.bytes += len(data)
        while head := _HEAD.search(self._rest):
            self._at = self._after(self._rest[: head.start()])
            oldest = min(number for number, _ in self._at)
            later = [number for number in self._journal.versions() if number > oldest]
            self._at = {(number, LINE_BYTES) for number in self._journal.fitting(head[0], 0, later)}
            self._rest = self._rest[head.end() :]
            if not self._at:
                raise Wrong(f"{head[0]!r} begins no later version than {oldest}")
        if len(self._rest) >= LINE_BYTES:
            self._at = self._after(self._rest[: 1 - LINE_BYTES])
            self._rest = self._rest[1 - LINE_BYTES :]

    def is_at(self, number: int, size: int) -> bool:
        """Say whether all of a version has been printed last."""
        try:
            at = self._after(self._rest)
        except Wrong:
            return False
        return any(there == size and number in self._journal.continuing(each, there) for each, there in at)

    def _after(self, data: bytes) -> set[tuple[int, int]]:
        """Return where the stream may be after these bytes, of which none begin a version. Raises Wrong."""
        at = self._at
        for start in range(0, len(data), _STEP_BYTES):
            piece = data[start : start + _STEP_BYTES]
            may_be = {(each, size) for number, size in at for each in self._journal.continuing(number, size)}
            at = {(each, size + len(piece)) for each, size in may_be if self._journal.fitting(piece, size, [each])}
            if not at:
                known = max(self._common(each, size, piece) for each, size in may_be)
                raise Wrong(f"{known} bytes after {sorted(may_be)}: {piece[known : known + 64]!r}")
        return at

    def _common(self, number: int, size: int, piece: bytes) -> int:
        """Return how many bytes of `piece` are those of a version at an offset."""
        wanted = self._journal.content(number, size, size + len(piece))
        return next(
            (at for at, (one, other) in enumerate(zip(wanted, piece, strict=False)) if one != other), len(wanted)
        )
