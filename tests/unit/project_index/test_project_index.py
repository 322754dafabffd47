"""artifactfs.tree.walk.project_index: when an index is fetched, and traversals by it (docs/semantics.md 1.6)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs.tree.nodes import PackedEntries
from artifactfs.tree.tree import Tree
from tests.fakes import CREATED_NS, FakeService, directory, finished_run, run
from tests.unit.project_index.harness import sample
from tests.walking import count, entries, listed, look, many, mounted, node, truth, walk

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


@pytest.mark.parametrize("looks", [["g0/d0"], ["g0", "g1"], ["g0/d0", "g0/d0", "g0/d0"], ["g0", "g1", "g2"]])
async def test_a_run_is_entered(looks: list[str], tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: the index is requested once, beside the run's first listing, and its samples only for a traversal."""
    for path in looks:
        await look(tree, 1, path)
    asked = service.asked()
    assert set(asked[:3]) == {("run", 1), ("index", "10"), ("listing", 1, "")}
    assert count(asked, "index") == 1
    samples = set(listed(asked)) - {"", *looks, *(path.partition("/")[0] for path in looks)}
    assert (len(samples) == 3) is (len(looks) == 3 and len(set(looks)) == 3)


async def test_one_index_in_a_time_to_live(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: however many directories of a project are listed, its index is requested once in `listing_ttl`."""
    service.runs[2] = run(2)
    service.add_tree(2, many(20), prefix="second")
    for minute in range(3):
        for path in ("g0", "g0/d0", "g1", "g1/d10"):
            await look(tree, 1, path)
            await look(tree, 2, path)
            await trio.sleep(10)
        assert count(service.asked(), "index") == 1, minute
        await trio.sleep(21)


async def test_off_and_tree(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """7: prefetch = tree and off never ask for the index."""
    for prefetch in ("tree", "off"):
        assert await walk(mounted(service, nursery, prefetch), 1) == truth(service, 1)
        asked = service.asked()
        assert count(asked, "index") == 0
        assert sorted(listed(asked)) == sorted(path for run_id, path in service.listings if run_id == 1)


async def test_times_are_the_files_own(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3: every file of a run shows its `created_at` from the start, whichever directory is opened first."""
    service.runs[1] = finished_run(1)
    await look(tree, 1, "g3/d30")
    found = await entries(tree, 1)
    times = {path: entry.mtime_ns for path, entry in found.items() if not entry.is_dir}
    assert set(times.values()) == {CREATED_NS}
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


async def test_a_walk_when_all_is_stale(service: FakeService, tree: Tree, autojump_clock: MockClock) -> None:
    """2.4, 7: what the new index has as the old one stays as it is, packed; anything else is another version."""
    service.runs[1] = finished_run(1)
    sample(service, "g0/d9")

    async def shown(path: str) -> object:
        return (await tree.contents(await node(tree, 1, path))).shown

    await walk(tree, 1)
    before, other = await shown("g2/d29"), await shown("g3/d30")
    assert isinstance(before, PackedEntries)
    assert isinstance(other, PackedEntries)
    await trio.sleep(3601)
    service.projects.clear()
    service.add_tree(1, {**many(40), "g3/d30/f1": 77})
    service.asked()
    assert await walk(tree, 1) == truth(service, 1)
    assert len(service.asked()) <= 9
    assert await shown("g2/d29") is before
    assert await shown("g3/d30") is not other
