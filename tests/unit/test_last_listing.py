"""The last listing of a directory, which the next one continues: also where it is not served any more (2.4, 3.5)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.tree.listing import ListingSource
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile
from artifactfs.tree.tree import Tree
from tests.fakes import NOW_NS, FakeService, TurnedClock, directory, run, walk


@pytest.fixture
def service() -> FakeService:
    return FakeService(runs={1: run(1)}, listings={(1, ""): directory({"train.log": 100, "b.bin": 50})}, room=False)


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


def tree_of(service: FakeService, nursery: trio.Nursery, clock: TurnedClock, *, prefetch: str = "off") -> Tree:
    return Tree(service, site="test", nursery=nursery, clock=clock, wall_clock_ns=lambda: NOW_NS, prefetch=prefetch)


async def file_at(tree: Tree, path: str) -> ArtifactFile:
    node = await walk(tree, path)
    assert isinstance(node, ArtifactFile)
    return node


async def test_one_failure_after_a_contradiction(
    service: FakeService, nursery: trio.Nursery, clock: TurnedClock, autojump_clock: MockClock
) -> None:
    """2.4: contents contradicted the listing, and its next request failed: a file beside that grew is the same."""
    tree = tree_of(service, nursery, clock)
    before = (await file_at(tree, "runs/1/train.log")).entry
    other = await file_at(tree, "runs/1/b.bin")
    tree.record_size_conflict(other, None)
    service.listings[1, ""] = directory({"train.log": 150, "b.bin": 51})
    service.failures = [errors.ServerFailed("answered 503", 503)]
    with pytest.raises(errors.ServerFailed):
        await walk(tree, "runs/1/train.log")
    after = (await file_at(tree, "runs/1/train.log")).entry
    assert (after.number, after.size_bytes) == (before.number, 150)
    assert (await file_at(tree, "runs/1/b.bin")).entry.number != other.entry.number


@pytest.mark.parametrize("hours", [0.9, 2.0, 100.0])
async def test_the_machine_slept_while_a_file_grew(
    hours: float, service: FakeService, nursery: trio.Nursery, clock: TurnedClock, autojump_clock: MockClock
) -> None:
    """2.4, 3.5: a file that was appended to is the same file, however long no program looked at its directory."""
    tree = tree_of(service, nursery, clock)
    before = await file_at(tree, "runs/1/train.log")
    clock.sleep_machine(hours * 3600)
    service.listings[1, ""] = directory({"train.log": 150, "b.bin": 49})
    after = (await file_at(tree, "runs/1/train.log")).entry
    assert (after.number, after.size_bytes) == (before.entry.number, 150)
    assert (await file_at(tree, "runs/1/b.bin")).entry.size_bytes == 49
    clock.sleep_machine(hours * 3600)
    tree.record_size_conflict(before, 20)
    assert (await file_at(tree, "runs/1/train.log")).entry.number != before.entry.number


async def test_a_listing_of_the_index_after_the_machine_slept(
    service: FakeService, nursery: trio.Nursery, clock: TurnedClock, autojump_clock: MockClock
) -> None:
    """2.4: in a walk, too, which the index answers at once, a file that grew meanwhile is the same."""
    service.add_tree(1, {f"d{each}/f": 10 for each in range(9)})
    tree = tree_of(service, nursery, clock, prefetch="auto")

    async def walked() -> list[tuple[int, int | None, ListingSource]]:
        root, found = await walk(tree, "runs/1"), []
        assert isinstance(root, ArtifactDir)
        for number in range(9):
            node = (await tree.lookup(root, b"d%d" % number)).node
            (entry,) = (await tree.contents(node)).entries
            facts = tree.facts(node)
            assert facts is not None
            found.append((entry.number, entry.size_bytes, facts.source))
        return found

    before = await walked()
    assert ListingSource.INDEX in [source for *_, source in before]
    clock.sleep_machine(8 * 3600)
    service.projects.clear()
    service.add_tree(1, {f"d{each}/f": 20 for each in range(9)})
    after = await walked()
    assert ListingSource.INDEX in [source for *_, source in after]
    assert [(number, 20) for number, *_ in before] == [(number, size) for number, size, _ in after]
