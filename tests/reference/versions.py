"""The versions of a file in the reference model: their bytes tell which they are, and where in it."""

import functools
from dataclasses import dataclass, replace

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Version:
    """A version of a file, as far as it has come. Its bytes tell which it is, and where in it they are.

    `kept`: (end, number of the version) of what a truncation left of others, in front of its own bytes.
    """

    number: int
    size: int
    kept: tuple[tuple[int, int], ...] = ()

    def grown(self, count: int) -> "Version":
        """Return the same version with so many bytes more."""
        return replace(self, size=self.size + count)

    def cut(self, number: int, size: int) -> "Version":
        """Return another version: the first `size` bytes of this one."""
        parts = (*self.kept, (self.size, self.number))
        starts = (0, *(end for end, _ in parts))
        kept = tuple((min(end, size), its) for (end, its), start in zip(parts, starts, strict=False) if start < size)
        return Version(number, size, kept)

    def read(self, start: int, count: int) -> bytes:
        """Return what a read gives: less than `count` bytes at the end only."""
        end = max(start, min(start + count, self.size))
        found = b""
        for stop, number in (*self.kept, (self.size, self.number)):
            at = start + len(found)
            if at < min(stop, end):
                found += _text(number, at, min(stop, end))
        return found


def _text(number: int, start: int, end: int) -> bytes:
    chunks = range(start // _CHUNK, -(-end // _CHUNK))
    return b"".join(_chunk(number, it) for it in chunks)[start % _CHUNK :][: end - start]


@functools.lru_cache(512)
def _chunk(number: int, chunk: int) -> bytes:
    return b"".join(b"v%04d %08d \n" % (number, at) for at in range(chunk * _CHUNK, (chunk + 1) * _CHUNK, 16))
