"""Stores of blocks for tests, and a look at their files."""

import os
from collections.abc import Callable
from pathlib import Path

from artifactfs.content import block_format
from artifactfs.content.block_format import Block, Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.content_tuning import BLOCK_BYTES

KEY = bytes(range(16))
OTHER = bytes(range(1, 17))
DATA = b"a tensor, or the piece of one" * 3
PAGE = 4096


def anything(_stamp: Provenance) -> bool:
    return True


def store_in(path: Path, *, max_bytes: int = 1 << 30, min_free: int = 0, block_bytes: int = BLOCK_BYTES) -> BlockStore:
    return BlockStore(str(path), max_bytes=max_bytes, min_free_bytes=min_free, block_bytes=block_bytes)


def stamp_of(store: BlockStore) -> Provenance:
    return Provenance(12.5, store.session, b"v" * 16, b"r" * 16)


def load(store: BlockStore, key: bytes, index: int, accept: Callable[[Provenance], bool] = anything) -> Block | None:
    (found,) = store.load(key, [index], accept)
    return found


def block_files(path: Path) -> list[Path]:
    return sorted(path.glob("blocks-1/*/*/*"))


def mount_path(store: BlockStore, key: bytes, first: int, count: int) -> str:
    name = key.hex()
    return os.path.join(store.directory, "blocks-1", name[:2], name[2:], block_format.file_name(first, count))


SMALL = 1 << 10
