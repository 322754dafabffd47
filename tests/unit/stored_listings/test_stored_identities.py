"""artifactfs.tree over a metadata store: sizes, times and inode numbers over a remount (semantics.md 2, 8.1, 8.2)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs.domain import IndexedFile
from artifactfs.tree.nodes import ArtifactFile
from tests.fakes import CREATED_NS, FakeService, run
from tests.fakes import directory as listed_directory
from tests.unit.stored_listings.harness import Mount, seen
from tests.walking import entries, look, node


async def test_a_size_that_contents_told_is_stored(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """2.2, 8.1: sizes that no listing gives are as they were shown last."""
    service.listings[1, "g0/d0"] = listed_directory({"f": None})
    tree, metadata = mount("off")
    file = await node(tree, 1, "g0/d0/f")
    assert isinstance(file, ArtifactFile)
    tree.record_size(file, 77)
    await metadata.flush()
    later, _ = mount("off")
    assert (await look(later, 1, "g0/d0"))["f"].size_bytes == 77


async def test_what_changed_between_two_mounts_has_a_number_of_its_own(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """2.4: a larger file is only the same file if its contents were compared, which no later mount can do."""
    service.runs[1] = run()
    service.listings[1, ""] = listed_directory({"log": 10, "same": 5})
    before = await seen(mount, service, prefetch="off")
    service.listings[1, ""] = listed_directory({"log": 20, "same": 5})
    tree, _ = mount("off")
    now = await look(tree, 1)
    assert now["same"].number == before["same"].number
    assert now["log"].number != before["log"].number


@pytest.mark.parametrize("how", ["slow", "outdated", "offline"])
async def test_what_was_shown_as_stored_goes_on(
    how: str, mount: Mount, service: FakeService, autojump_clock: MockClock
) -> None:
    """2.4, 8.2: a file that programs saw as it was stored is the same when it grows; also where an answer is void that
    came meanwhile (3.3), and where they saw it offline (8.5).
    """
    service.runs[1] = run()
    service.listings[1, ""] = listed_directory({"log": 10})
    before = await seen(mount, service, prefetch="off")
    tree, _ = mount("off")
    if how == "offline":
        tree.go_offline()
    root = await node(tree, 1)
    service.latency_s = 5.0
    assert (await look(tree, 1))["log"] == before["log"]
    if how == "outdated":
        tree.refresh(root)
        await trio.sleep(6.0)
    service.listings[1, ""] = listed_directory({"log": 20})
    await trio.sleep(6.0)
    service.latency_s = 0.0
    if how == "offline":
        tree.go_online()
    await trio.sleep(61.0)
    now = (await look(tree, 1))["log"]
    assert (now.number, now.size_bytes) == (before["log"].number, 20)


async def test_what_was_stored_beside_it_goes_on_as_well(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """2.4, 8.2: so is one in a directory whose listing was read from the store with another one."""
    service.listings[1, "g0"] = listed_directory({"log": 10})
    before = await seen(mount, service, prefetch="off")
    tree, _ = mount("off")
    assert (await look(tree, 1, "g0"))["log"] == before["g0/log"]
    service.listings[1, "g0"] = listed_directory({"log": 20})
    tree.mark_all_stale()
    assert (await look(tree, 1, "g0"))["log"].number == before["g0/log"].number


async def test_a_rejected_index_leaves_nothing_in_the_store(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """1.6, 8.1: what came from an index that turned out to be wrong is not there after a remount."""
    service.listings[1, "g0/d1"] = listed_directory({"other": 1})
    tree, metadata = mount()
    await entries(tree, 1)
    await tree.wait_for_indexes()
    assert set(await look(tree, 1, "g0/d1")) <= {"other", "f0", "f1", "f2"}
    await trio.sleep(1.0)
    await entries(tree, 1)
    await node(tree, 1, "g0/d1/other")
    await metadata.flush()
    later, _ = mount()
    assert set(await look(later, 1, "g0/d1")) == {"other"}


async def test_another_file_of_the_same_size_has_its_own_time(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """2.3, 4.3: of a run that goes on, no time of before the mount is shown for what the service has now."""
    service.runs[1] = run()
    service.listings[1, ""] = listed_directory({"log": 10})
    service.projects["10"] = [IndexedFile("prefix/artifacts/log", 10, CREATED_NS)]
    assert (await seen(mount, service))["log"].created_ns == CREATED_NS
    service.projects["10"] = [IndexedFile("prefix/artifacts/log", 10, CREATED_NS + 5)]
    tree, _ = mount()
    assert (await look(tree, 1))["log"].created_ns == CREATED_NS + 5
