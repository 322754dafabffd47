"""artifactfs.tree.walk.project_index: when an index is fetched, and traversals by it (docs/semantics.md 1.6)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs.tree.tree import Tree
from tests.fakes import CREATED_NS, FakeService, directory, finished_run, run
from tests.unit.project_index_harness import sample
from tests.walking import count, entries, listed, look, many, mounted, node, truth, walk


@pytest.fixture
def service() -> FakeService:
    """A run of 40 directories of 3 files, four to ten to a parent, and a service that takes 20 ms."""
    service = FakeService(runs={1: run(1)}, latency_s=0.02)
    service.add_tree(1, many(40))
    return service


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return mounted(service, nursery)


# --- a good one ---------------------------------------------------------------------------------------------


async def test_a_walk_by_the_index(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6, 7: a walk over 45 directories costs a handful of requests, and shows what is there."""
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert count(asked, "index") == 1
    # The run; the root, one of the second and two of the third level; the index; three samples.
    assert len(asked) <= 9
    # And again for nothing.
    assert await walk(tree, 1) == truth(service, 1)
    assert service.asked() == []


async def test_deep_paths(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: 40 levels down costs a few round trips, not 40 in a row."""
    service.runs[2] = run(2)
    service.add_tree(2, {"/".join(f"level{i}" for i in range(40)) + "/f": 5}, prefix="second")
    began = trio.current_time()
    found = await node(tree, 2, "/".join(f"level{i}" for i in range(40)) + "/f")
    assert found.entry.size_bytes == 5
    assert len(service.asked()) <= 9
    assert trio.current_time() - began <= 8 * service.latency_s


@pytest.mark.parametrize("looks", [["g0/d0"], ["g0", "g1"], ["g0/d0", "g0/d0", "g0/d0"]])
async def test_what_is_no_traversal(
    looks: list[str], tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """7: a look at one deep directory, or at three of any, is no walk: the index is not asked for."""
    for path in looks:
        await look(tree, 1, path)
    assert count(service.asked(), "index") == 0


@pytest.mark.parametrize("looks", [["g0/d0", "g0/d1"], ["g0", "g1", "g2"]])
async def test_what_is_a_traversal(
    looks: list[str], tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """7: two directories from the third level on, or four of any, within two seconds: the index is asked for."""
    for path in looks:
        await look(tree, 1, path)
    assert count(service.asked(), "index") == 1


async def test_a_slow_reader(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: one directory a second is no walk."""
    for path in ("g0", "g0/d0", "g1", "g1/d10", "g2", "g2/d20"):
        await look(tree, 1, path)
        await trio.sleep(2.1)
    assert count(service.asked(), "index") == 0


async def test_off_and_tree(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """7: prefetch = tree and off never ask for the index."""
    for prefetch in ("tree", "off"):
        assert await walk(mounted(service, nursery, prefetch), 1) == truth(service, 1)
        asked = service.asked()
        assert count(asked, "index") == 0
        assert sorted(listed(asked)) == sorted(path for run_id, path in service.listings if run_id == 1)


async def test_times_are_the_files_own(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3: a file's time is its `created_at` where the index gave it before it was shown, else its run's."""
    service.runs[1] = finished_run(1)
    found = await entries(tree, 1)
    times = {path: entry.mtime_ns for path, entry in found.items() if not entry.is_dir}
    # The two directories that were looked at before the traversal could be recognised.
    early = {path for path in times if path.startswith("g0/d0/")}
    assert {path for path, time in times.items() if time != CREATED_NS} == early
    assert {times[path] for path in early} == {service.runs[1].completed_ns}
    # A time once shown stays.
    await trio.sleep(3600)
    assert {path: e.mtime_ns for path, e in (await entries(tree, 1)).items() if not e.is_dir} == times


async def test_the_samples_have_their_times(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3: also what was listed on its own to check the index shows its files' own times."""
    sample(service, "g3/d30")
    found = await entries(tree, 1)
    assert "g3/d30" in listed(service.asked())
    assert found["g3/d30/f0"].mtime_ns == CREATED_NS


async def test_two_walkers_one_index(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: several walkers of one run ask for one index, and check it once."""
    found: list[dict[str, int | None]] = []

    async def one() -> None:
        found.append(await walk(tree, 1))

    async with trio.open_nursery() as walkers:
        for _ in range(5):
            walkers.start_soon(one)
    assert found == [truth(service, 1)] * 5
    asked = service.asked()
    assert count(asked, "index") == 1
    assert len(asked) <= 9


async def test_several_runs_of_a_project(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: one index serves the runs of its project, long after it was asked for; each run checks it for itself."""
    service.runs |= {2: run(2), 3: run(3)}
    service.add_tree(2, many(20), prefix="second")
    service.add_tree(3, many(20), prefix="third")
    service.listings[3, "g0"] = directory({}, ["d0", "other"], "third")
    service.listings[3, "g0/other"] = directory({"x": 1}, [], "third")
    for run_id in (1, 2, 3):
        assert await walk(tree, run_id) == truth(service, run_id)
        asked = service.asked()
        assert count(asked, "index") == (run_id == 1)
        assert (len(asked) <= 9) is (run_id != 3)
        await trio.sleep(10)
    # That it was wrong about one says nothing of the others.
    assert await walk(tree, 2) == truth(service, 2)
    assert service.asked() == []


async def test_two_runs_with_one_prefix(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: two runs that claim the same place in their project both show it."""
    service.runs[2] = run(2)
    service.add_tree(2, many(40), project_id="none")
    assert await walk(tree, 1) == await walk(tree, 2) == truth(service, 1)


@pytest.mark.parametrize("prefix", ["", "/", "a", "a/b/c/d", "a/", "/abs", "./a", "é/x y", "lost/g0", "deep/" * 60])
async def test_any_prefix(prefix: str, tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: `path_in_project` is opaque: none, with slashes, odd."""
    service.runs[2] = run(2, project_id="20")
    service.add_tree(2, many(30), project_id="20", prefix=prefix)
    assert await walk(tree, 2) == truth(service, 2)
    assert len(service.asked()) <= 9


@pytest.mark.parametrize("prefix", ["../x", "a/../b", "a//b", "x" * 300, "\ud800", "a\0b", "."])
async def test_a_prefix_that_no_index_can_have(
    prefix: str, tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.3, 1.6: rows in places that no tree can hold are no index; directories are listed one by one."""
    service.runs[2] = run(2, project_id="20")
    service.add_tree(2, many(12), project_id="20", prefix=prefix)
    assert await walk(tree, 2) == truth(service, 2)
    assert len(listed(service.asked(), 2)) == 15


@pytest.mark.parametrize("project_id", ["", ".", "..", "a/b", "../../runs", "x" * 300])
async def test_a_project_that_cannot_be_asked_for(
    project_id: str, tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.3: an id that would lead elsewhere is not put into a URL; the walk does without."""
    service.runs[2] = run(2, project_id=project_id)
    service.add_tree(2, many(12), project_id=project_id)
    assert await walk(tree, 2) == truth(service, 2)
    assert count(service.asked(), "index") == 0
