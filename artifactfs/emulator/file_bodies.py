"""The bytes of made-up files: a pure function of (name's ending, seed, size, offset), so nothing is stored.

Owns what a generated file contains. Does not know runs, trees or HTTP.

Hard: content must tell a right read from a wrong one. One mebibyte of noise repeated would make a client that
serves block 3 for block 4 look right, so every mebibyte of a file is the noise rotated by its own amount. And a file
that grows must keep its first bytes: noise and lines do, whatever the size; the other kinds are made for one size.
"""

import functools
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator

CHUNK = 1 << 20  # bytes; the unit of noise and of what is sent at once (arbitrary: more is not faster)

# Twice one mebibyte of fixed noise: any rotation of it is then one contiguous slice, which costs no copy.
_NOISE = memoryview(b"".join(hashlib.blake2b(i.to_bytes(8, "big")).digest() for i in range(CHUNK // 64)) * 2)

TEXT_LIMIT = 4 << 20  # bytes; larger documents and pictures are noise, because each is made as a whole

# Endings of files that a person opens to look at. Lines are cut at the size: a longer file continues a shorter one.
_LINES = (".txt", ".log", ".csv", ".yaml", ".yml", ".py")
_STEPS, _JSON_STEPS, _NOTES = b"step %06d loss %.6f\n", b'{"step": %6d, "loss": %.6f}\n', b"- note %06d loss %.6f\n"
# All lines of a form have one length, so that an offset tells the line: their numbers start again at this one.
_NUMBERS = 1_000_000


def seed(key: str) -> int:
    """Return the seed (64 bits) of the content that `key` names. Any string will do, lone surrogates included."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def pieces(name: str, seed: int, size: int, start: int, end: int) -> Iterator[memoryview]:
    """Yield bytes [start, end) of a file of `size` bytes, in pieces of at most 1 MiB that borrow and do not copy.

    `name` only decides between noise and something readable: `.json`, `.md`, `.png` and kinds of lines.
    """
    lower = name.lower()
    if lower.endswith((*_LINES, ".jsonl")):
        yield from _lines(_JSON_STEPS if lower.endswith(".jsonl") else _STEPS, seed, start, end)
        return
    whole = _readable(name, seed, size)
    if whole is not None:
        view = memoryview(whole)
        for offset in range(start, end, CHUNK):
            yield view[offset : min(end, offset + CHUNK)]
        return
    while start < end:
        chunk, within = divmod(start, CHUNK)
        turn = _turn(seed, chunk)
        count = min(end - start, CHUNK - within)
        yield _NOISE[turn + within : turn + within + count]
        start += count


def _turn(seed: int, chunk: int) -> int:
    """Return how far (bytes, below 1 MiB) the noise is rotated in the file's mebibyte number `chunk`."""
    key = seed.to_bytes(8, "big") + chunk.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big") % CHUNK


def _readable(name: str, seed: int, size: int) -> bytes | None:
    lower = name.lower()
    if size > TEXT_LIMIT or not lower.endswith((".json", ".md", ".png")):
        return None
    return _made(lower[lower.rindex(".") :], seed, size)


# Ranges of one file arrive one after the other: the few texts read last are kept, at most 16 * TEXT_LIMIT bytes.
@functools.lru_cache(maxsize=16)
def _made(ending: str, seed: int, size: int) -> bytes:
    if ending == ".json":
        return _json(seed, size)
    if ending == ".png":
        return _png(seed, size)
    head = f"# Notes\n\nMade up by the artifactfs emulator (seed {seed:016x}).\n\n".encode()
    return _ended(head + b"".join(_lines(_NOTES, seed, 0, size)), size)


def _lines(form: bytes, seed: int, start: int, end: int) -> Iterator[memoryview]:
    """Yield bytes [start, end) of the endless text of numbered lines."""
    while start < end:
        block_bytes = CHUNK // len(form % (0, 0)) * len(form % (0, 0))
        block, within = divmod(start, block_bytes)
        count = min(end - start, block_bytes - within)
        yield memoryview(_line_block(form, seed, block))[within : within + count]
        start += count


# Ranges of one file arrive one after the other: the blocks used last are kept, at most 16 MiB.
@functools.lru_cache(maxsize=16)
def _line_block(form: bytes, seed: int, block: int) -> bytes:
    """Return the lines of block number `block`: as many whole lines as fit in 1 MiB."""
    count = CHUNK // len(form % (0, 0))
    first, base = block * count, seed * 2654435761
    return b"".join(
        form % (number % _NUMBERS, (base + number * 40503) % 1_000_003 / 250_000)
        for number in range(first, first + count)
    )


def _ended(text: bytes, size: int) -> bytes:
    return text[: size - 1] + b"\n" if size else b""


def _json(seed: int, size: int) -> bytes:
    """Return a JSON document of exactly `size` bytes, valid from 2 bytes on."""
    if size < 2:
        return b"0"[:size]
    rows: list[bytes] = []
    length = len(b"{\n\n}\n")
    while True:
        value = (seed * 2654435761 + len(rows) * 40503) % 1_000_003
        row = f'  "entry_{len(rows):05d}": {json.dumps(value / 1_000_003)}'.encode()
        if length + len(row) + 2 > size:
            break
        rows.append(row)
        length += len(row) + 2
    if not rows:
        return b"{" + b" " * (size - 2) + b"}"
    document = b"{\n" + b",\n".join(rows) + b"\n"
    return document + b" " * (size - len(document) - 2) + b"}\n"


def _png(seed: int, size: int) -> bytes:
    """Return a picture of 16 by 16 pixels in one colour, padded behind its end mark, which viewers ignore."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + seed.to_bytes(8, "big")[:3] * 16
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    picture = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(row * 16)) + part(b"IEND", b"")
    return (picture + bytes(max(0, size - len(picture))))[:size]
