"""Directories that a listing names, and the service says are gone: what happens to the rest of that listing (3.2)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ListedChild
from artifactfs.tree.listing import SLICE
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Entry
from artifactfs.tree.tree import Tree
from artifactfs.tree.walk.index_validation import agrees
from tests.fakes import NOW_NS, FakeService, TurnedClock, directory, run, walk

BROKEN = errors.ServerFailed("answered 503", 503)


@pytest.fixture
def service() -> FakeService:
    return FakeService(
        runs={1: run(1)},
        listings={
            (1, ""): directory({"train.log": 100}, ["ckpt-1", "ckpt-2"]),
            (1, "ckpt-1"): directory({"w": 1}, ["deep"]),
            (1, "ckpt-1/deep"): directory({"x": 10}),
        },
    )


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)


async def directory_at(tree: Tree, path: str) -> ArtifactDir:
    node = await walk(tree, path)
    assert isinstance(node, ArtifactDir)
    return node


async def names(tree: Tree, node: ArtifactDir) -> list[bytes]:
    return [each.name for each in (await tree.contents(node)).entries]


async def look_in_vain(tree: Tree, node: ArtifactDir) -> None:
    with pytest.raises(errors.NoSuchEntry):
        await tree.lookup(node, b"w")


async def test_a_vanished_directory_is_noticed_once(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """7: while the absence is known, looks at what is gone, and at what is beside it, cost no more requests."""
    root, gone = await directory_at(tree, "runs/1"), await directory_at(tree, "runs/1/ckpt-1")
    del service.listings[1, "ckpt-1"]  # and the parent's listing still has it
    service.asked()
    for _ in range(20):
        await look_in_vain(tree, gone)
        await tree.lookup(root, b"train.log")
        await trio.sleep(0.1)
    assert service.asked() == [("listing", 1, "ckpt-1"), ("listing", 1, "")]


async def test_what_is_beside_a_vanished_directory_stays(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.2, 2.4: a failure after that hides nothing else, does not show the name, and a file that grows is the same."""
    root, gone = await directory_at(tree, "runs/1"), await directory_at(tree, "runs/1/ckpt-1")
    file = await walk(tree, "runs/1/train.log")
    assert isinstance(file, ArtifactFile)
    del service.listings[1, "ckpt-1"]
    await look_in_vain(tree, gone)
    service.broken = BROKEN
    assert await names(tree, root) == [b"ckpt-2", b"train.log"]
    service.broken = None
    service.listings[1, ""] = directory({"train.log": 150}, ["ckpt-2"])
    await trio.sleep(61)
    await tree.lookup(root, b"train.log")  # without a wait while the service is in trouble
    await trio.sleep(1)
    grown = (await tree.lookup(root, b"train.log")).node
    assert (grown.entry.number, grown.entry.size_bytes) == (file.entry.number, 150)
    tree.ensure_current(file)


async def test_a_directory_that_vanished_and_came_again(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """2.4: what comes under the name later does not continue what was there, whatever the parent's listing says."""
    gone = await directory_at(tree, "runs/1/ckpt-1")
    before = (await walk(tree, "runs/1/ckpt-1/deep/x")).entry
    there = service.listings.pop((1, "ckpt-1"))
    await trio.sleep(61)
    await look_in_vain(tree, gone)
    service.listings[1, "ckpt-1"], service.listings[1, "ckpt-1/deep"] = there, directory({"x": 20})
    await trio.sleep(11)
    after = (await walk(tree, "runs/1/ckpt-1/deep/x")).entry
    assert (after.size_bytes, after.number == before.number) == (20, False)


async def test_a_listing_that_is_newer_than_the_absence(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.2: a parent's listing that was requested later keeps the name; it is asked for again all the same."""
    root, gone = await directory_at(tree, "runs/1"), await directory_at(tree, "runs/1/ckpt-1")
    service.refusals = {("listing", 1, "ckpt-1"): errors.NotFound("gone", 404)}
    await trio.sleep(61)
    await tree.lookup(tree.runs, b"1")
    async with trio.open_nursery() as callers:
        service.latency_s = 5.0
        callers.start_soon(look_in_vain, tree, gone)
        await trio.sleep(1)
        service.latency_s = 0.0
        assert await names(tree, root) == [b"ckpt-1", b"ckpt-2", b"train.log"]
    service.broken = BROKEN
    assert await names(tree, root) == [b"ckpt-1", b"ckpt-2", b"train.log"]


async def test_a_run_that_vanished(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.2: once a run is known to be gone, its directories are ENOENT, although their listings are fresh."""
    root = await directory_at(tree, "runs/1")
    await trio.sleep(50)
    await tree.contents(root)
    await trio.sleep(20)
    del service.runs[1]
    with pytest.raises(errors.NoSuchEntry):
        await tree.lookup(tree.runs, b"1")
    with pytest.raises(errors.NoSuchEntry):
        await tree.contents(root)


async def test_a_name_goes_while_a_listing_is_compared(autojump_clock: MockClock) -> None:
    """5.5: a large listing that is compared with the index may lose a name meanwhile."""
    own = {b"d%d" % each: Entry(b"d%d" % each, True, each, 0) for each in range(3 * SLICE)}
    found: list[bool] = []

    async def compare() -> None:
        found.append(await agrees(own, {b"d0": ListedChild(b"d0", True)}))

    async with trio.open_nursery() as callers:
        callers.start_soon(compare)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        del own[b"d1"]
    assert found == [True]
