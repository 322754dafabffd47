"""artifactfs.tree.stored_listings: times of before and after the index in one store, as a kill leaves them (2.3)."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from artifactfs.domain import Project
from artifactfs.metadata.metadata_format import scope_of
from artifactfs.metadata.metadata_store import MetadataStore, Record
from artifactfs.tree.nodes import Entry
from tests.fakes import FakeService, finished_run
from tests.stores import behind, store_in
from tests.walking import entries, many, mounted

SCOPE = scope_of("https://api.test", "one")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MetadataStore]:
    store = store_in(tmp_path)
    yield store
    store.close()


def times(found: dict[str, Entry]) -> set[int | None]:
    return {entry.mtime_ns for entry in found.values() if not entry.is_dir}


@pytest.mark.parametrize("first_is_own", [True, False])
async def test_some_listings_have_the_times_of_before_the_index(
    first_is_own: bool, store: MetadataStore, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """2.3, 8.2: a mount that was killed while its run changed to own times: the next one shows one sort of times."""
    service = FakeService({1: finished_run()}, catalogue={10: Project(10, "first")}, index_s=20.0)
    service.add_tree(1, many(40))
    metadata = behind(store, nursery)
    tree = mounted(service, nursery, store=metadata)
    by_run = times(await entries(tree, 1))
    await metadata.flush()
    early = {record.key: record for record in store.records(SCOPE, 1, "listing")}
    await trio.sleep(30.0)
    own = times(await entries(tree, 1))
    await metadata.flush()
    late = {record.key: record for record in store.records(SCOPE, 1, "listing")}
    assert len(by_run) == len(own) == 1
    assert by_run != own
    keys = sorted(early)
    mixed: list[Record] = []
    for number, key in enumerate(keys):
        value = late[key].value if (number < len(keys) // 2) == first_is_own else early[key].value
        mixed.append(msgspec.structs.replace(late[key], value=value))
    assert store.write(SCOPE, mixed)
    service.index_s = 0.0
    later = mounted(service, nursery, store=behind(store, nursery))
    await entries(later, 1)
    await later.wait_for_indexes()
    await trio.sleep(5.0)
    assert times(await entries(later, 1)) == own
