"""A run of many directories, a store, and mounts over it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from artifactfs.domain import Project
from artifactfs.metadata.metadata_store import MetadataStore
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.tree.tree import Tree
from tests.fakes import FakeService, finished_run
from tests.stores import behind, store_in
from tests.unit.stored_listings.harness import Mount
from tests.walking import many, mounted


@pytest.fixture
def service() -> FakeService:
    """A finished run of 40 directories in project 10."""
    service = FakeService({1: finished_run()}, catalogue={10: Project(10, "first")})
    service.add_tree(1, many(40))
    return service


@pytest.fixture
def store(tmp_path: Path) -> MetadataStore:
    return store_in(tmp_path)


@pytest.fixture
async def mount(service: FakeService, store: MetadataStore, nursery: trio.Nursery) -> AsyncIterator[Mount]:
    """Make a tree over the store, as a mount that begins does."""

    def make(prefetch: str = "auto", account: str = "one") -> tuple[Tree, WriteBehind]:
        metadata = behind(store, nursery, account)
        return mounted(service, nursery, prefetch, store=metadata), metadata

    yield make
    store.close()
