"""artifactfs.tree.tree: what the tree tells of contents, and learns from them (docs/semantics.md 2.2, 2.4, 4.1)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ArtifactRef
from artifactfs.tree.nodes import ArtifactFile
from artifactfs.tree.tree import Tree
from artifactfs.tree.tree_tuning import TreeTuning
from tests.fakes import MINUTE_NS, NOW_NS, FakeService, TurnedClock, directory, finished_run, run


@pytest.fixture
def service() -> FakeService:
    return FakeService(
        runs={1: run(1), 2: finished_run(2)},
        listings={(1, ""): directory({"f": 5, "unknown": None}), (2, ""): directory({"f": 5}, ["d"]),
                  (2, "d"): directory({"é%": 1})},
    )  # fmt: skip


def mounted(
    service: FakeService, nursery: trio.Nursery, tuning: TreeTuning | None = None, *, moves: bool = False
) -> Tree:
    """Return a tree. `moves`: its wall clock does."""
    return Tree(
        service,
        site="test",
        nursery=nursery,
        clock=TurnedClock(),
        wall_clock_ns=lambda: NOW_NS + int(trio.current_time() * 1e9) * moves,
        tuning=tuning or TreeTuning(),
    )


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return mounted(service, nursery)


async def file(tree: Tree, path: str) -> ArtifactFile:
    node = (await tree.lookup(tree.root, b"runs")).node
    for name in path.split("/"):
        node = (await tree.lookup(node, name.encode())).node
    assert isinstance(node, ArtifactFile)
    return node


# --- where a file is -------------------------------------------------------------------------------------


async def test_where_a_content_is(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """The proven composition: `path_in_project` and the path, the run's project; no request for a listed run."""
    found = await file(tree, "2/d/é%")
    service.asked()
    assert (await tree.locate_content(found)).artifact == ArtifactRef("10", "prefix/artifacts/d/é%")
    assert service.asked() == []


async def test_where_a_content_is_after_many_runs(
    service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """An inode outlives what is remembered of its run: it is located from its listing, or that is asked for again."""
    tree = mounted(service, nursery, TreeTuning(max_runs=1))
    found = await file(tree, "1/f")
    await file(tree, "2/f")
    assert (await tree.locate_content(found)).artifact == ArtifactRef("10", "prefix/artifacts/f")
    for path in ("1/f", "2/f"):
        tree.mark_suspect((await file(tree, path)).directory)
    await file(tree, "2/f")
    service.asked()
    assert (await tree.locate_content(found)).artifact == ArtifactRef("10", "prefix/artifacts/f")
    assert ("listing", 1, "") in service.asked()


async def test_a_settled_runs_contents_have_a_stamp(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """4.3: content of a run finished for ten minutes is good until that run's times change; others have none."""
    assert (await tree.locate_content(await file(tree, "1/f"))).content_stamp is None
    first = (await tree.locate_content(await file(tree, "2/f"))).content_stamp
    assert first is not None
    service.runs[2] = run(2, "completed", completed_ns=service.runs[2].completed_ns, updated_ns=NOW_NS + 1)
    await trio.sleep(3600)
    second = (await tree.locate_content(await file(tree, "2/f"))).content_stamp
    assert second not in (None, first)
    service.runs[2] = run(2, "completed", completed_ns=NOW_NS - 5 * MINUTE_NS)
    await trio.sleep(3600)
    assert (await tree.locate_content(await file(tree, "2/f"))).content_stamp is None


# --- what an open may rely on -------------------------------------------------------------------------------


async def test_a_superseded_version_is_reported(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.4: `open` of a version that the cached listing no longer shows is ESTALE; asking costs nothing."""
    before = await file(tree, "1/f")
    tree.ensure_current(before)
    service.listings[1, ""] = directory({"f": 4})
    await trio.sleep(60)
    after = await file(tree, "1/f")
    service.asked()
    tree.ensure_current(after)
    with pytest.raises(errors.Superseded):
        tree.ensure_current(before)
    service.listings[1, ""] = directory({})
    await trio.sleep(60)
    with pytest.raises(errors.NoSuchEntry):
        await file(tree, "1/f")
    with pytest.raises(errors.Superseded):
        tree.ensure_current(after)
    tree.record_size_conflict(before, None)
    tree.ensure_current(before)  # nothing cached says otherwise


# --- what contents teach ------------------------------------------------------------------------------------


async def test_a_size_that_was_found(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.2, 2.4: a size that `open` found completes the version: same inode, shown at the next look, kept later."""
    before = await file(tree, "1/unknown")
    service.asked()
    record_size = tree.record_size(before, 77)
    assert record_size.entry.size_bytes == 77
    assert record_size.entry.number == before.entry.number
    assert (await file(tree, "1/unknown")).entry == record_size.entry
    assert service.asked() == []
    await trio.sleep(60)
    assert (await file(tree, "1/unknown")).entry == record_size.entry
    assert ("listing", 1, "") in service.asked()


async def test_an_open_directory_does_not_change_by_it(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.4: what `opendir` took is frozen, whatever is learned afterwards."""
    found = await file(tree, "1/unknown")
    contents = await tree.contents(found.directory)
    tree.record_size(found, 77)
    assert [entry.size_bytes for entry in contents.entries] == [5, None]


async def test_a_content_that_contradicts_its_listing(
    service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """4.1: the listing is dropped; where a fresh one still disagrees, the content's length counts."""
    tree = mounted(service, nursery, moves=True)
    before = await file(tree, "1/f")
    service.asked()
    tree.record_size_conflict(before, 6)
    after = await file(tree, "1/f")
    assert service.asked() == [("listing", 1, "")]
    assert after.entry.size_bytes == 6
    assert after.entry.number != before.entry.number
    tree.ensure_current(after)
    # As long as the listing says what it said then.
    await trio.sleep(60)
    assert (await file(tree, "1/f")).entry.size_bytes == 6
    service.listings[1, ""] = directory({"f": 9})
    await trio.sleep(60)
    assert (await file(tree, "1/f")).entry.size_bytes == 9


async def test_a_listing_that_catches_up(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """4.1: where the fresh listing agrees with the content, nothing is amended."""
    before = await file(tree, "1/f")
    service.listings[1, ""] = directory({"f": 6})
    tree.record_size_conflict(before, 6)
    after = await file(tree, "1/f")
    assert after.entry.size_bytes == 6
    assert after.entry.number != before.entry.number


async def test_a_contradiction_without_a_size(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """4.1: another validator at the same size: the listing is asked for again, and counts."""
    before = await file(tree, "1/f")
    service.asked()
    tree.record_size_conflict(before, None)
    assert (await file(tree, "1/f")).entry.size_bytes == 5
    assert service.asked() == [("listing", 1, "")]
