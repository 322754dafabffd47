"""artifactfs.tree.walk.run_walks: walks over the runs of a project (docs/semantics.md 1.6, 7)."""

from collections.abc import Iterable

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import IndexedFile
from artifactfs.tree.tree import Tree
from tests.fakes import FakeService, directory, finished_run, run
from tests.unit.project_index.harness import FEW, sample
from tests.walking import count, is_there, listed, many, mounted, truth, walk

RUNS = range(1, 31)


def prefix(run_id: int) -> str:
    return f"place{run_id}/artifacts"


@pytest.fixture
def service() -> FakeService:
    """30 runs of 22 directories, and a service that takes 20 ms. Of each run the last directories are chosen."""
    service = FakeService(latency_s=0.02, choose=lambda among, how_many: sorted(among)[-how_many:])
    for run_id in RUNS:
        service.runs[run_id] = finished_run(run_id)
        service.add_tree(run_id, many(20), prefix=prefix(run_id))
    return service


async def walk_over(tree: Tree, service: FakeService, run_ids: Iterable[int]) -> dict[int, list[str]]:
    """Walk runs one after the other, and check what they show; returns the directories that were listed of each."""
    await tree.contents(tree.runs)
    asked: list[tuple[object, ...]] = []
    for run_id in run_ids:
        assert await walk(tree, run_id) == truth(service, run_id)
    await trio.sleep(5)
    asked += service.asked()
    assert count(asked, "index") == 1
    assert count(asked, "run") == 0
    return {run_id: listed(asked, run_id) for run_id in RUNS}


@pytest.mark.parametrize("order", [1, -1])
async def test_two_requests_a_run(order: int, tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: after three runs, the root of each and one directory chosen at random, in either order of the runs."""
    began = trio.current_time()
    found = await walk_over(tree, service, RUNS[::order])
    counts = [len(found[run_id]) for run_id in RUNS[::order]]
    assert max(counts[:3]) <= FEW
    assert counts[3:] == [2] * (len(RUNS) - 3)
    assert all("" in paths for paths in found.values())
    # Prepared ahead, so that runs do not take two round trips each.
    assert trio.current_time() - began - 5 < len(RUNS) * service.latency_s


async def test_an_order_that_is_not_expected(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: the runs in any order: no more requests."""
    order = [*RUNS]
    for place in range(0, len(order), 2):
        order[place], order[-place] = order[-place], order[place]
    found = await walk_over(tree, service, order)
    assert sum(len(paths) for paths in found.values()) <= 3 * FEW + 2 * (len(RUNS) - 3)


async def test_a_walk_that_stops(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: runs that a walk does not come to: a dozen of them are prepared at most."""
    found = await walk_over(tree, service, RUNS[:6])
    assert 0 < sum(bool(paths) for paths in found.values()) - 6 <= 12


async def test_without_room(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: where requests would delay others, nothing is prepared; a run costs two requests all the same."""
    service.room = False
    found = await walk_over(tree, service, RUNS)
    assert [len(found[run_id]) for run_id in RUNS][3:] == [2] * (len(RUNS) - 3)


async def test_runs_that_go_on(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: of a run that is not settled, three directories are chosen, whatever is known of others."""
    service.runs |= {run_id: run(run_id) for run_id in RUNS}
    found = await walk_over(tree, service, RUNS)
    assert [len(found[run_id]) for run_id in RUNS][3:] == [4] * (len(RUNS) - 3)


@pytest.mark.parametrize("path", ["g0/d0", "ghost"])
async def test_an_index_that_is_wrong_about_a_late_run(
    path: str, tree: Tree, service: FakeService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """1.6: a run whose sample or root disagrees is listed by itself, and those after it are checked as the first."""
    caplog.set_level("INFO")
    sample(service, "g0/d0", "g0/d1", "g1/d11")
    service.projects["10"].append(IndexedFile(f"{prefix(10)}/{path}/ghost", 1, None))
    tree_of_all = {run_id: truth(service, run_id) for run_id in RUNS}
    await tree.contents(tree.runs)
    for run_id in RUNS:
        assert await walk(tree, run_id) == tree_of_all[run_id]
    assert [record.message for record in caplog.records if "is wrong about run 10" in record.message]
    asked = service.asked()
    assert len(listed(asked, 10)) == 23
    assert len(listed(asked, 30)) == 4


async def test_a_run_that_changed_since(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: what the index does not know beside the sample is found where it is looked up, as in any run."""
    service.listings[20, "g0/d5"] = directory({"f0": 500, "f1": 501, "f2": 502, "new": 1}, prefix=prefix(20))
    await tree.contents(tree.runs)
    for run_id in RUNS:
        await walk(tree, run_id)
    assert await is_there(tree, 20, "g0/d5/new")


async def test_runs_that_cannot_be_prepared(
    tree: Tree, service: FakeService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """5.3: a run that fails ahead of the walk fails when it is entered, and not before; no other does."""
    await tree.contents(tree.runs)
    service.refusals["listing", 12, ""] = errors.ServerFailed("no", 500)
    for run_id in RUNS:
        if run_id == 12:
            with pytest.raises(errors.ServerFailed):
                await walk(tree, run_id)
        else:
            assert await walk(tree, run_id) == truth(service, run_id)


async def test_off(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """7: without the index, nothing of another run is listed ahead."""
    tree = mounted(service, nursery, "tree")
    await tree.contents(tree.runs)
    for run_id in RUNS[:6]:
        assert await walk(tree, run_id) == truth(service, run_id)
    await trio.sleep(5)
    assert {call[1] for call in service.asked() if call[0] == "listing"} == set(RUNS[:6])
