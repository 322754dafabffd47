"""artifactfs.tree.catalog: /projects and /names, and what each look costs in requests (docs/semantics.md 1 and 7)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import Project
from artifactfs.tree.nodes import ArtifactDir, ProjectDir, Symlink
from artifactfs.tree.tree import Tree
from tests.fakes import MINUTE_NS, NOW_NS, FakeService, TurnedClock, run, walk

# What is listed behind the links of a project whose runs go on (docs/semantics.md 1.9).
BESIDE = [b"latest", b"runs.csv", b"runs.jsonl"]


@pytest.fixture
def service() -> FakeService:
    """Two projects: 10 with runs 1 and 2, 20 with run 3."""
    return FakeService(
        runs={1: run(1, name="base/line"), 2: run(2, name="base/line"), 3: run(3, project_id="20", name="")},
        catalogue={10: Project(10, "vision", NOW_NS - MINUTE_NS), 20: Project(20, "a/b")},
    )


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)


async def shown(tree: Tree, path: str) -> list[bytes]:
    return [entry.name for entry in (await tree.contents(await walk(tree, path))).entries]


async def absent(tree: Tree, path: str) -> float:
    with pytest.raises(errors.NoSuchEntry) as caught:
        await walk(tree, path)
    return caught.value.valid_s


async def test_projects_and_their_runs(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1: /projects has all of them, each its runs; two requests, and none for what is known from a page."""
    assert await shown(tree, "projects") == [b"10", b"20"]
    assert await shown(tree, "projects/10") == [b"1", b"2", *BESIDE]
    assert service.asked() == [("projects", 1000), ("runs", 200, 10)]
    link = await walk(tree, "projects/10/2")
    assert isinstance(link, Symlink)
    assert link.target == b"../../runs/2"
    assert isinstance(await walk(tree, "runs/2"), ArtifactDir)
    assert await shown(tree, "projects/10") == [b"1", b"2", *BESIDE]
    assert service.asked() == []


async def test_names(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1: /names has the same, by name: what is equal, empty or holds a slash is distinguished by its id."""
    assert await shown(tree, "names") == [b"vision~10", b"a_b~20"]
    assert await shown(tree, "names/vision~10") == [b"base_line~1", b"base_line~2", *BESIDE]
    assert await shown(tree, "names/a_b~20") == [b"~3", *BESIDE]
    assert service.asked() == [("projects", 1000), ("runs", 200, 10), ("runs", 200, 20)]
    link = await walk(tree, "names/vision~10/base_line~2")
    assert isinstance(link, Symlink)
    assert link.target == b"../../runs/2"
    assert service.asked() == []


async def test_both_share_their_pages(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: what /projects has brought costs /names nothing, and a listing of all runs knows each of them."""
    await shown(tree, "projects/10")
    await shown(tree, "projects")
    service.asked()
    await shown(tree, "names")
    await shown(tree, "names/vision~10")
    assert service.asked() == []


async def test_what_is_not_listed_is_asked_for_by_its_id(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1: a project and a run can be entered without a listing: one request each, and none the second time."""
    for _ in range(2):
        assert isinstance(await walk(tree, "names/vision~10/base_line~1"), Symlink)
    assert service.asked() == [("project", 10), ("run", 1)]
    assert isinstance(await walk(tree, "projects/20/3"), Symlink)
    assert service.asked() == [("project", 20), ("run", 3)]


async def test_what_is_not_there(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.2: what cannot be an id is not there without a request; another's run, or another name, is not there either."""
    for path in ("projects/.hidden", "projects/010", "names/.Trash-1000", "names/vision", "names/vision~0"):
        assert await absent(tree, path) == 10.0
    assert service.asked() == []
    assert await absent(tree, "names/other~10") == 10.0
    assert service.asked() == [("project", 10)]
    assert await absent(tree, "projects/10/3") == 10.0
    assert await absent(tree, "projects/10/.hidden") == 10.0
    assert service.asked() == [("run", 3)]
    assert await absent(tree, "projects/77") == 10.0
    assert service.asked() == [("project", 77)]


async def test_what_is_new_can_be_entered(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.2: as in /runs, a project or run that came since the last listing is asked for by its id."""
    await shown(tree, "projects")
    await shown(tree, "projects/10")
    service.asked()
    service.catalogue[30] = Project(30, "new")
    service.runs[4711] = run(4711, project_id="30")
    assert isinstance(await walk(tree, "projects/30/4711"), Symlink)
    assert service.asked() == [("project", 30), ("run", 4711)]


async def test_a_listing_of_some_says_nothing_of_others(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1: a project has more runs than are listed, and each of them can be entered."""
    service.runs = {number: run(number) for number in range(1, 500)}
    assert len(await shown(tree, "projects/10")) == 200 + len(BESIDE)
    service.asked()
    assert isinstance(await walk(tree, "projects/10/499"), Symlink)
    assert service.asked() == [("run", 499)]


async def test_times_and_numbers(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3, 2.4: a project's own time, else the mount's; a link has its run's; a renamed run is another link."""
    project, other = await walk(tree, "projects/10"), await walk(tree, "projects/20")
    assert (project.entry.mtime_ns, other.entry.mtime_ns) == (NOW_NS - MINUTE_NS, NOW_NS)
    link = await walk(tree, "names/vision~10/base_line~1")
    assert link.entry.mtime_ns == NOW_NS
    assert (await walk(tree, "projects/10/1")).entry.number != link.entry.number
    await trio.sleep(61)
    service.runs[1] = run(1, name="better")
    assert (await walk(tree, "names/vision~10/better~1")).entry.number != link.entry.number
    assert await absent(tree, "names/vision~10/base_line~1") > 0


async def test_a_shelf_of_a_service_in_trouble(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.2: an old page is served while the service is down; a first look fails, and says how."""
    assert await shown(tree, "projects/10") == [b"1", b"2", *BESIDE]
    await trio.sleep(100)
    service.broken = errors.ConnectionRefused("down")
    assert await shown(tree, "projects/10") == [b"1", b"2", *BESIDE]
    shelf = await walk(tree, "projects/10")
    assert isinstance(shelf, ProjectDir)
    with pytest.raises(errors.ConnectionRefused):
        await walk(tree, "projects/20")


async def test_a_refresh_reaches_all_of_it(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.3: after `expire` every page is asked for again."""
    await shown(tree, "names")
    await shown(tree, "names/vision~10")
    service.catalogue[30] = Project(30, "new")
    service.runs[5] = run(5, name="new")
    await trio.sleep(1)
    tree.mark_all_stale()
    assert b"new~30" in await shown(tree, "names")
    assert b"new~5" in await shown(tree, "names/vision~10")


async def test_a_refresh_of_a_project_that_was_renamed(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.3: after a refresh of its old name /names shows the new one, and that can be entered."""
    assert b"vision~10" in await shown(tree, "names")
    shelf = await walk(tree, "names/vision~10")
    service.catalogue[10] = Project(10, "sight")
    await trio.sleep(1)
    tree.refresh(shelf)
    assert await shown(tree, "names") == [b"sight~10", b"a_b~20"]
    assert await absent(tree, "names/vision~10") > 0
    assert isinstance(await walk(tree, "names/sight~10"), ProjectDir)


async def test_runs_of_odd_ids_are_left_out(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.2: what cannot be entered is not shown."""
    service.runs[2**63] = run(2**63)
    service.catalogue[0] = Project(0, "zero")
    assert await shown(tree, "projects") == [b"10", b"20"]
    assert await shown(tree, "projects/10") == [b"1", b"2", *BESIDE]
    assert len(await shown(tree, "runs")) == 3


async def test_links_of_a_large_shelf_cost_nothing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """7: what a page reported is known, of however many runs: as many are remembered as rows of pages are."""
    count = 25_000
    service = FakeService(
        runs={number: run(number, name="sweep") for number in range(1, count + 1)},
        catalogue={10: Project(10, "vision")},
    )
    tree = Tree(
        service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS, runs_listed=count
    )
    names = await shown(tree, "projects/10")
    assert names[count:] == BESIDE
    service.asked()
    shelf = await walk(tree, "projects/10")
    for name in names[:count]:
        assert isinstance((await tree.lookup(shelf, name)).node, Symlink)
        assert tree.try_lookup(tree.runs, name) is not None
    assert service.asked() == []
