"""Runs that were settled, and go on: their listings are no longer as good as those of a settled run (3.1)."""

import msgspec
import pytest
import trio
from trio.testing import MockClock

from artifactfs.domain import Run
from artifactfs.tree.nodes import ATTRIBUTES_S, ArtifactDir
from artifactfs.tree.tree import Tree
from tests.fakes import MINUTE_NS, NOW_NS, FakeService, TurnedClock, directory, finished_run, run, walk

ENDED = finished_run(1)
LISTING = ("listing", 1, "")


@pytest.fixture
def service() -> FakeService:
    return FakeService(runs={1: ENDED}, listings={(1, ""): directory({"train.log": 100})})


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    clock = TurnedClock()
    return Tree(
        service,
        site="test",
        nursery=nursery,
        clock=clock,
        wall_clock_ns=lambda: NOW_NS + int(trio.current_time() * 1e9),
    )


async def root_of(tree: Tree) -> ArtifactDir:
    node = await walk(tree, "runs/1")
    assert isinstance(node, ArtifactDir)
    return node


async def sizes(tree: Tree, root: ArtifactDir) -> dict[bytes, int | None]:
    return {each.name: each.size_bytes for each in (await tree.contents(root)).entries}


async def test_a_settled_run_that_goes_on(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.1: once a row says that the run goes on, its listing is asked for again, and is at most a minute old."""
    root = await root_of(tree)
    assert await sizes(tree, root) == {b"train.log": 100}
    assert tree.attributes_left_s(root, followed=False) == ATTRIBUTES_S
    service.runs[1] = run(1, "running", updated_ns=NOW_NS)
    service.listings[1, ""] = directory({"train.log": 200, "new.ckpt": 5})
    await tree.contents(tree.runs)
    assert tree.attributes_left_s(root, followed=False) < ATTRIBUTES_S
    assert await sizes(tree, root) == {b"train.log": 200, b"new.ckpt": 5}
    assert tree.attributes_left_s(root, followed=False) <= tree.live_ttl_s
    service.listings[1, ""] = directory({"train.log": 300})
    await trio.sleep(60)
    assert await sizes(tree, root) == {b"train.log": 300}


async def test_a_listing_that_was_requested_by_the_row_before(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.1: a listing that comes when a row has said that the run goes on is fresh for a minute, not for an hour."""
    root = await root_of(tree)
    service.latency_s = 5.0
    async with trio.open_nursery() as callers:
        callers.start_soon(tree.contents, root)
        await trio.sleep(1)
        service.runs[1] = run(1, "running", updated_ns=NOW_NS)
        service.latency_s = 0.0
        await tree.contents(tree.runs)
    service.listings[1, ""] = directory({"train.log": 200})
    await trio.sleep(60)
    assert await sizes(tree, root) == {b"train.log": 200}


@pytest.mark.parametrize(
    ("row", "is_listed"),
    [
        (msgspec.structs.replace(ENDED, completed_ns=NOW_NS - 20 * MINUTE_NS), True),
        (msgspec.structs.replace(ENDED, status="failed"), True),
        (msgspec.structs.replace(ENDED, completed_ns=NOW_NS), True),
        (msgspec.structs.replace(ENDED, name="another", updated_ns=NOW_NS), False),
        (ENDED, False),
    ],
)  # fmt: skip
async def test_which_rows_end_a_listing(
    row: Run, is_listed: bool, tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.1: a run that went on and ended again meanwhile is listed again; one that was only edited is not."""
    resumed: list[int] = []
    tree.watch_times(resumed.append)
    root = await root_of(tree)
    await tree.contents(root)
    service.runs[1] = row
    await tree.contents(tree.runs)
    # The kernel had the attributes of its files for an hour.
    assert resumed == ([1] if is_listed else [])
    service.asked()
    await tree.contents(root)
    assert service.asked() == ([LISTING] if is_listed else [])
