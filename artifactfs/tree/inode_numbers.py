"""Inode numbers: digests of site, run, path, kind and version, the same after a remount (docs/semantics.md 2.4).

They need no table and no disk. They have 60 bits: some readers take st_ino for signed, and CPython keeps these in 32
bytes, larger ones in 48.
"""

import hashlib
import itertools
from typing import Protocol

ROOT_NUMBER = 1
_NUMBERS = (1 << 60) - 1


class ChildNumber(Protocol):
    """See `children`."""

    def __call__(self, name: bytes, is_dir: bool, size_bytes: int | None, created_ns: int | None = None) -> int:
        """Return a number."""


def fixed(site: bytes, path: bytes) -> int:
    """Return the number of a static node, by its path from the mount's root, without a leading slash."""
    return _number(hashlib.blake2b(b"%b\0%b" % (site, path), digest_size=8))


def of_run(site: bytes, run_id: int) -> int:
    """Return the number of a run's root."""
    return _number(hashlib.blake2b(_prefix(site, run_id, "") + b"\0d", digest_size=8))


def children(site: bytes, run_id: int, directory: str) -> ChildNumber:
    """Return a function (name, is_dir, size_bytes, created_ns) -> number for the names in one directory.

    `created_ns` is given only for a file that was seen before with the same size and another time. Which time is known
    first depends on the source of the listing, and must not change the number after a remount.
    """
    start = hashlib.blake2b(_prefix(site, run_id, directory) + b"/", digest_size=8)

    def number(name: bytes, is_dir: bool, size_bytes: int | None, created_ns: int | None = None) -> int:
        digest = start.copy()
        # A name holds no NUL, so different (name, kind, size, time) have different digests.
        digest.update(name + (b"\0d" if is_dir else b"\0f%d" % size_bytes if size_bytes is not None else b"\0f?"))
        if created_ns is not None:
            digest.update(b"\0%d" % created_ns)
        return _number(digest)

    return number


def packed(site: bytes, run_id: int, directory: str, directories: list[bytes], files: list[bytes]) -> list[int]:
    """Return the numbers of the children of a directory: of its directories, and of its files.

    `files`: of each file name, size in decimal and a third field, one after the other.
    """
    start = hashlib.blake2b(_prefix(site, run_id, directory) + b"/", digest_size=8)
    numbers: list[int] = []
    files_told = map(b"\0f".join, zip(files[:-1:3], files[1::3], strict=False))
    for told in itertools.chain((name + b"\0d" for name in directories), files_told):
        digest = start.copy()
        digest.update(told)
        numbers.append(_number(digest))
    return numbers


def _prefix(site: bytes, run_id: int, directory: str) -> bytes:
    return b"%b\0%d\0%b" % (site, run_id, b"/" + directory.encode() if directory else b"")


def _number(digest: "hashlib.blake2b") -> int:
    # Not shifted: the result would keep the memory of what it was shifted from.
    number = int.from_bytes(digest.digest(), "big") & _NUMBERS
    # 0 is "no inode" and 1 the root of a FUSE mount.
    return number if number > ROOT_NUMBER else number + 2
