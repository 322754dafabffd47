"""A metadata store for the tests of the tree: the real one, without threads."""

from pathlib import Path

import trio

from artifactfs.metadata.metadata_store import MetadataStore
from artifactfs.metadata.write_behind import WriteBehind
from tests.content_harness import inline
from tests.fakes import NOW_NS


def store_in(directory: Path, max_bytes: int = 256 << 20) -> MetadataStore:
    """Return an open store in a directory, whose clock is that of the tests of the tree."""
    store = MetadataStore(str(directory), max_bytes=max_bytes, clock=lambda: NOW_NS / 1e9)
    assert store.open()
    return store


def behind(store: MetadataStore, nursery: trio.Nursery, account: str = "one") -> WriteBehind:
    """Return the store as a tree uses it."""
    return WriteBehind(store, f"https://api.test\0{account}", nursery, inline)
