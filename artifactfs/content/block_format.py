"""The format of a file in the cache: a header, and the bytes of one block or of a group of blocks.

The header names the version and the index, so that a file in the wrong place is refused. It has checksums of itself and
of each block, so that bit flips, cut files and crashes are noticed. Of a block that is there in parts, a table of the
parts comes before their bytes. Behind the blocks come the place of the file that
they are of (cache_places.py) and its checksum; blocks that an earlier version wrote have no place. block_store.py
decides which files are written and evicted. Everything here blocks, and raises OSError for failures of the disk.
"""

import contextlib
import errno
import os
import re
import struct
from collections.abc import Iterator, Sequence

import msgspec
from xxhash import xxh3_64_intdigest as _checksum

from artifactfs.content.block_buffers import Buffer, NewBuffer
from artifactfs.content.cache_places import DIGEST_BYTES, place_in

# Blocks in one file, once all of them are there. The first index is a multiple of it.
GROUP_BLOCKS = 8

_MAGIC = b"AFSBLK1\n"
# Of a file with one block in parts: the number of parts, start and end of each, then their bytes.
_PARTS_MAGIC = b"AFSPRT1\n"
_NUMBER, _PART = struct.Struct("<I"), struct.Struct("<II")
# magic, key, first index, blocks, bytes, time of the fetch, session, validator, run, checksum of each block; then the
# header's own checksum
_HEADER = struct.Struct(f"<8s16sQIId8s16s16s{GROUP_BLOCKS}Q")
HEADER_BYTES = _HEADER.size + 8
_GROUP_SUFFIX = "-group"
_NAME = re.compile(rf"[0-9a-f]{{8,}}(?:{_GROUP_SUFFIX})?")
_NONE = bytes(16)
# What one call writes: larger ones have ext4 ask for page-cache folios of megabytes, which the kernel takes from memory
# that was not used before; that is slow where a host must give it first. In a guest of Linux 6.18, 512 MiB cost 0.14 s
# of system time in calls of 128 KiB, 0.12 s of 256 or 512 KiB, and 0.34-0.61 s of 4 MiB (measured 2026-11-29). Each
# call hands the interpreter's lock over twice.
_WRITE_BYTES = 512 << 10
# A path of the service is far shorter (docs/semantics.md 6.4).
_MAX_PLACE_BYTES = 1 << 20


# Parts of a block that are there: (start, end) each, in order.
Parts = tuple[tuple[int, int], ...]


class Provenance(msgspec.Struct, frozen=True):
    """The origin of a block: what identifies its version, when it was fetched, by which mount, and how much of it.

    `validator`: of the answer; `content_stamp`: see ContentVersion; each None where there was none.
    `fetched_at`: seconds since the epoch. `session`: the mount that fetched it. `parts`: the bytes [start, end) of the
    block that were fetched, in order; None for its first bytes.
    """

    fetched_at: float
    session: bytes
    validator: bytes | None = None
    content_stamp: bytes | None = None
    parts: Parts | None = None

    def contradicts(self, content_stamp: bytes | None) -> bool:
        """Whether the block and a version have stamps that differ."""
        return None not in (self.content_stamp, content_stamp) and self.content_stamp != content_stamp


class Block(msgspec.Struct):
    """The first `len(data)` bytes of a block, or those of its parts, and their provenance."""

    data: Buffer
    stamp: Provenance


def file_name(first: int, count: int) -> str:
    """Return the name of the file that holds `count` blocks from index `first` on."""
    return f"{first:08x}{_GROUP_SUFFIX if count > 1 else ''}"


def is_name(name: str) -> bool:
    """Whether a file of this name holds blocks."""
    return _NAME.fullmatch(name) is not None


def count_in(name: str) -> int:
    """Return how many blocks a file of this name holds."""
    return GROUP_BLOCKS if name.endswith(_GROUP_SUFFIX) else 1


def first_in(name: str) -> int:
    """Return the index of the first block in a file of this name, which must be one (`is_name`)."""
    return int(name.removesuffix(_GROUP_SUFFIX), 16)


def extra_bytes(key: bytes, stamp: Provenance | None = None) -> int:
    """Return how much longer than its blocks a file of this version is."""
    place = place_in(key)
    table = _NUMBER.size + len(stamp.parts) * _PART.size if stamp is not None and stamp.parts is not None else 0
    return HEADER_BYTES + table + (len(place) + 8 if place else 0)


def read_place(fd: int) -> bytes:
    """Return the place of the file that blocks are of; empty where it is missing or damaged."""
    raw = os.pread(fd, _HEADER.size, 0)
    if len(raw) != _HEADER.size:
        return b""
    return _place_behind(fd, HEADER_BYTES + _HEADER.unpack(raw)[4]) or b""


@contextlib.contextmanager
def opened(name: str, directory: int) -> Iterator[int]:
    """Open a file with blocks, and nothing else in its place. Raises OSError."""
    # A pipe is not waited for.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _place_behind(fd: int, end: int) -> bytes | None:
    """Return the place behind blocks that end at an offset; empty where there is nothing, None if it is damaged."""
    if (length := os.fstat(fd).st_size - end) == 0:
        return b""
    if not 8 < length <= _MAX_PLACE_BYTES:
        return None
    raw = os.pread(fd, length, end)
    return raw[:-8] if _checksum(raw[:-8]) == int.from_bytes(raw[-8:], "little") else None


def read(
    fd: int,
    key: bytes,
    first: int,
    count: int,
    wanted: Sequence[int],
    block_bytes: int,
    new_buffer: NewBuffer = bytearray,
) -> list[Block] | None:
    """Read the blocks `wanted` from a file that should hold `count` from `first` on; None if it is damaged.

    `new_buffer`: makes the memory that a block is read into.
    """
    raw = os.pread(fd, HEADER_BYTES, 0)
    if len(raw) != HEADER_BYTES or _checksum(raw[:-8]) != int.from_bytes(raw[-8:], "little"):
        return None
    magic, its_key, its_first, its_count, length, *rest = _HEADER.unpack_from(raw)
    in_parts = magic == _PARTS_MAGIC and count == 1
    if (magic, its_key, its_first, its_count) != (magic if in_parts else _MAGIC, key[:DIGEST_BYTES], first, count):
        return None
    # The table of parts is no longer than the block, unless they are tiny; then they are fetched again.
    longest = block_bytes * (2 if in_parts else count)
    if not 0 < length <= longest or (count > 1 and length != longest):
        return None
    if _place_behind(fd, HEADER_BYTES + length) is None:
        return None
    fetched_at, session, *digests = rest[:4]
    checksums = rest[4:]
    stamp = Provenance(fetched_at, session, *(digest if digest != _NONE else None for digest in digests))
    blocks: list[Block] = []
    for run in _runs(wanted):
        starts = [(index - first) * block_bytes for index in run]
        buffers = [new_buffer(length if in_parts else min(block_bytes, length - start)) for start in starts]
        # A short read is a cut file. (A signal may cause one too: then the blocks are fetched again.)
        if os.preadv(fd, buffers, HEADER_BYTES + starts[0]) != sum(map(len, buffers)):
            return None
        for index, data in zip(run, buffers, strict=True):
            if _checksum(data) != checksums[index - first]:
                return None
            block = _unpacked(data, stamp, block_bytes) if in_parts else Block(data, stamp)
            if block is None:
                return None
            blocks.append(block)
    return blocks


def _unpacked(data: Buffer, stamp: Provenance, block_bytes: int) -> Block | None:
    """Return a block in parts; None where the table is not one of parts in order that have these bytes."""
    (number,) = _NUMBER.unpack_from(data) if len(data) >= _NUMBER.size else (0,)
    table = _NUMBER.size + number * _PART.size
    if not number or len(data) < table:
        return None
    parts = tuple((start, end) for start, end in _PART.iter_unpack(data[_NUMBER.size : table]))
    places = [place for part in parts for place in part]
    if (
        places != sorted(places)
        or places[-1] > block_bytes
        or sum(end - start for start, end in parts) != len(data) - table
    ):
        return None
    return Block(data[table:], msgspec.structs.replace(stamp, parts=parts))


def _runs(indices: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices, each with those that follow it without a gap."""
    run: list[int] = []
    for index in indices:
        if run and index != run[-1] + 1:
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def write(fd: int, key: bytes, first: int, blocks: Sequence[bytes | Buffer], stamp: Provenance) -> None:
    """Write blocks from index `first` on into an empty file."""
    if (parts := stamp.parts) is not None:
        blocks = [b"".join([_NUMBER.pack(len(parts)), *(_PART.pack(*part) for part in parts), *blocks])]
    checksums = [_checksum(block) for block in blocks] + [0] * (GROUP_BLOCKS - len(blocks))
    header = _HEADER.pack(
        _MAGIC if parts is None else _PARTS_MAGIC,
        key[:DIGEST_BYTES],
        first,
        len(blocks),
        sum(len(block) for block in blocks),
        stamp.fetched_at,
        stamp.session,
        stamp.validator or _NONE,
        stamp.content_stamp or _NONE,
        *checksums,
    )
    place = place_in(key)
    behind = place + _checksum(place).to_bytes(8, "little") if place else b""
    together: list[memoryview] = []
    for part in (header, _checksum(header).to_bytes(8, "little"), *blocks, behind):
        for start in range(0, len(part), _WRITE_BYTES):
            together.append(memoryview(part)[start : start + _WRITE_BYTES])
            if sum(map(len, together)) >= _WRITE_BYTES:
                _write(fd, together)
                together = []
    _write(fd, together)


def _write(fd: int, pieces: Sequence[memoryview]) -> None:
    if os.writev(fd, pieces) != sum(map(len, pieces)):
        raise OSError(errno.ENOSPC, "the disk took only part of a block")
