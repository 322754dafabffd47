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
        """Return the bytes [start, end) that a version has, if it has so many."""
        version = self._versions[number]
        inherited = self.content(version.parent, start, min(end, version.cut)) if start < version.cut else b""
        return inherited + content(number, max(start, version.cut), end)

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
    last. Versions with a common beginning cannot be told apart at first: so the stream may be in several at once.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._at: list[tuple[int, int]] = []  # (version, offset) of each version that it may be in
        self._taken = b""  # the last line's worth of what was checked
        self._rest = b""  # what was not
        self.bytes = 0

    def feed(self, data: bytes) -> None:
        """Take what was printed next. Raises Wrong."""
        self._rest += data
        self.bytes += len(data)
        while self._rest and self._step():
            continue

    def is_at(self, number: int, size: int) -> bool:
        """Say whether all of a version has been printed last."""
        return not self._rest and (number, size) in self._at

    def _step(self) -> bool:
        """Check a piece. Returns whether to go on."""
        piece = self._rest[:_STEP_BYTES]
        common = {at: self._common(at, piece) for at in self._at}
        longest = max(common.values(), default=0)
        if longest == len(piece):
            self._at = [(number, offset + longest) for (number, offset), count in common.items() if count == longest]
            self._rest = self._rest[longest:]
            self._taken = (self._taken + piece)[-LINE_BYTES:]
            return True
        oldest = min((number for number, _ in self._at), default=0)
        later = [number for number in self._journal.versions() if number > oldest]
        # The first bytes of the next version may be those that the last one would have had there.
        data, end = self._taken + self._rest, len(self._taken) + longest
        for begin in range(end, max(end - LINE_BYTES, -1), -1):
            head = data[begin : begin + LINE_BYTES]
            if _HEAD.fullmatch(head) and (fitting := self._journal.fitting(head, 0, later)):
                self._at = [(number, 0) for number in fitting]
                self._taken, self._rest = b"", data[begin:]
                return True
        if len(self._rest) < longest + LINE_BYTES:
            return False  # The line that begins the next version is not there as a whole.
        raise Wrong(f"after {self._at}: {self._rest[longest : longest + 64]!r}")

    def _common(self, at: tuple[int, int], piece: bytes) -> int:
        """Return how many bytes of `piece` are those of a version at an offset."""
        number, offset = at
        wanted = self._journal.content(number, offset, offset + len(piece))
        if wanted == piece:
            return len(piece)
        low, high = 0, len(piece)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if wanted[:middle] == piece[:middle] else (low, middle - 1)
        return low
