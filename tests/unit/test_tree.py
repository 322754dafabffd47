"""artifactfs.tree.tree: lookup and children, by statement of semantics.md 1 and 2; what each costs in requests (7)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import DirectoryListing
from artifactfs.tree.inode_numbers import ROOT_NUMBER
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Node
from artifactfs.tree.safe_names import parse_id
from artifactfs.tree.tree import Tree
from tests.fakes import NOW_NS, FakeService, TurnedClock, directory, finished_run, run, walk


@pytest.fixture
def service() -> FakeService:
    """Run 1 with a file and two levels of directories, run 2 finished an hour ago and empty."""
    return FakeService(
        runs={1: run(1), 2: finished_run(2)},
        listings={
            (1, ""): directory({"a.txt": 5}, ["dir"]),
            (1, "dir"): directory({"b.bin": 7, "é": 1}, ["sub"]),
            (1, "dir/sub"): directory({"c": None}),
            (2, ""): directory(),
        },
    )


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)


async def shown(tree: Tree, node: Node) -> list[bytes]:
    return [entry.name for entry in (await tree.contents(node)).entries]


# --- the top ------------------------------------------------------------------------------------------------


async def test_the_root_costs_nothing(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: `ls MOUNT`, what desktops probe there, and `stat` of /runs: no request, as the service may be down."""
    service.broken = errors.Unreachable("down")
    assert await shown(tree, tree.root) == [b"runs", b"projects", b"names", b"by", b"search"]
    found = await tree.lookup(tree.root, b"runs")
    assert found.node is tree.runs
    assert found.valid_s > 60
    for name in (b".hidden", b".Trash-1000", b"autorun.inf", b"Runs", b"", b"\xff"):
        with pytest.raises(errors.NoSuchEntry) as absent:
            await tree.lookup(tree.root, name)
        assert absent.value.valid_s == 10.0
    assert service.asked() == []


async def test_runs_newest_first(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1: /runs shows the runs last updated in the service's order; a listed run is entered without asking for it."""
    service.runs = {7: run(7), 3: run(3), 5: run(5)}
    assert await shown(tree, tree.runs) == [b"7", b"3", b"5"]
    assert service.asked() == [("runs", 200)]
    contents = await tree.contents(tree.runs)
    assert isinstance(contents.node_of(contents.entries[1]), ArtifactDir)
    found = await tree.lookup(tree.runs, b"3")
    assert found.node == contents.node_of(contents.entries[1])
    assert service.asked() == []


async def test_a_run_that_is_not_listed_can_be_entered(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.2, 7: stat of an unknown run is one request, entering and listing it one more, warm none."""
    node = (await tree.lookup(tree.runs, b"1")).node
    assert service.asked() == [("run", 1)]
    assert await shown(tree, node) == [b"dir", b"a.txt"]
    assert service.asked() == [("listing", 1, "")]
    await tree.lookup(tree.runs, b"1")
    await shown(tree, node)
    assert service.asked() == []


@pytest.mark.parametrize(
    "name",
    [b"", b"0", b"01", b"+1", b"-1", b" 1", b"1 ", b"1.0", b"1e3", b"0x1", b"1_000", b"x", b"1\n",
     b"9223372036854775808", b"9" * 30, "\u0661".encode(), b"\xff", b".hidden", b".Trash-1000",
     b"autorun.inf", b".", b".."],
)  # fmt: skip
async def test_what_cannot_be_a_run_costs_no_request(
    name: bytes, tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.2: a run's name is a decimal integer of 1 to 2^63-1 without sign or leading zero; anything else is ENOENT."""
    with pytest.raises(errors.NoSuchEntry) as absent:
        await tree.lookup(tree.runs, name)
    assert absent.value.valid_s == 10.0
    assert service.asked() == []


def test_the_bounds_of_a_runs_id() -> None:
    """1.2: the least and the greatest."""
    assert parse_id(b"1") == 1
    assert parse_id(b"9223372036854775807") == 2**63 - 1
    assert parse_id(b"9223372036854775808") is None


async def test_a_deleted_run_is_not_there(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.2: 404 or deleted_at (the client makes both NotFound) is ENOENT, asked once in `negative_ttl`."""
    for _ in range(3):
        with pytest.raises(errors.NoSuchEntry):
            await tree.lookup(tree.runs, b"99")
    assert service.asked() == [("run", 99)]
    await trio.sleep(10)
    service.runs[99] = run(99)
    await tree.lookup(tree.runs, b"99")
    assert service.asked() == [("run", 99)]


async def test_impossible_ids_in_a_page_are_left_out(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.2: what could not be looked up is not shown either."""
    service.runs = {0: run(0), -1: run(-1), 2**63: run(2**63), 5: run(5)}
    assert await shown(tree, tree.runs) == [b"5"]


# --- below a run --------------------------------------------------------------------------------------------


async def test_a_directory_is_one_listing(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.1: a directory is one call with its path, and all its names, there or not, are answered from it."""
    node = await walk(tree, "runs/1/dir")
    assert service.asked() == [("run", 1), ("listing", 1, "")]
    assert await shown(tree, node) == [b"sub", b"b.bin", "é".encode()]
    assert service.asked() == [("listing", 1, "dir")]
    found = await tree.lookup(node, b"b.bin")
    assert isinstance(found.node, ArtifactFile)
    assert found.node.path == "dir/b.bin"
    assert isinstance((await tree.lookup(node, "é".encode())).node, ArtifactFile)
    for name in (b"nothing", b".hidden", b"B.BIN", "e\u0301".encode(), b"%C3%A9", b"\xff", b"", b"b.bin/"):
        with pytest.raises(errors.NoSuchEntry):
            await tree.lookup(node, name)
    assert service.asked() == []


async def test_a_deep_path(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.1: a path of D directories below a run costs the run and D listings."""
    found = await walk(tree, "runs/1/dir/sub/c")
    assert isinstance(found, ArtifactFile)
    assert (found.path, found.directory.path, found.directory.run_id) == ("dir/sub/c", "dir/sub", 1)
    assert service.asked() == [("run", 1), ("listing", 1, ""), ("listing", 1, "dir"), ("listing", 1, "dir/sub")]


async def test_below_a_file_there_is_nothing(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """A file has neither names nor contents: ENOTDIR, without a request."""
    node = await walk(tree, "runs/1/a.txt")
    service.asked()
    with pytest.raises(errors.NotADirectory):
        await tree.lookup(node, b"x")
    with pytest.raises(errors.NotADirectory):
        await tree.contents(node)
    assert service.asked() == []


async def test_many_lookups_at_once_are_one_listing(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.1: `ls -l` of a cold directory is one call, however many names are looked up at once."""
    node = await walk(tree, "runs/1/dir")
    service.asked()
    service.latency_s = 2
    async with trio.open_nursery() as callers:
        for name in (b"b.bin", b"sub", "é".encode()):
            callers.start_soon(tree.lookup, node, name)
        callers.start_soon(tree.contents, node)
    assert service.asked() == [("listing", 1, "dir")]


async def test_a_vanished_directory_takes_its_parents_listing_along(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.1: where a directory that the parent named is a 404, the parent is asked again, and the name is gone."""
    node = await walk(tree, "runs/1/dir/sub")
    del service.listings[1, "dir/sub"]
    service.listings[1, "dir"] = directory({"b.bin": 7})
    service.asked()
    with pytest.raises(errors.NoSuchEntry):
        await tree.contents(node)
    with pytest.raises(errors.NoSuchEntry):
        await walk(tree, "runs/1/dir/sub")
    assert service.asked() == [("listing", 1, "dir/sub"), ("listing", 1, "dir")]


# --- attributes ---------------------------------------------------------------------------------------------


async def test_kinds_and_sizes(tree: Tree, autojump_clock: MockClock) -> None:
    """2.1, 2.2: a directory has no size, a file has the service's, or none that is known."""
    file, sub, unknown = [(await walk(tree, p)).entry for p in ("runs/1/a.txt", "runs/1/dir", "runs/1/dir/sub/c")]
    assert (file.is_dir, file.size_bytes) == (False, 5)
    assert (sub.is_dir, sub.size_bytes) == (True, None)
    assert (unknown.is_dir, unknown.size_bytes) == (False, None)


async def test_times(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3: ours have the time of the mount, a run's directory `updated_at`, a file the run's end or beginning."""
    service.runs[2] = run(2, "completed", created_ns=100, completed_ns=200, updated_ns=300)
    service.listings[2, ""] = directory({"f": 1}, ["d"])
    service.runs[1] = run(1, created_ns=100, updated_ns=300)
    assert tree.root.entry.mtime_ns == tree.runs.entry.mtime_ns == NOW_NS
    assert (await walk(tree, "runs/2")).entry.mtime_ns == 300
    assert (await walk(tree, "runs/2/f")).entry.mtime_ns == 200
    assert (await walk(tree, "runs/2/d")).entry.mtime_ns == 200
    assert (await walk(tree, "runs/1/a.txt")).entry.mtime_ns == 100


async def test_times_are_never_invented(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3: a run without any time has the epoch, not the present."""
    service.runs[1] = run(1, created_ns=None, updated_ns=None)
    assert (await walk(tree, "runs/1")).entry.mtime_ns == 0
    assert (await walk(tree, "runs/1/a.txt")).entry.mtime_ns == 0


# --- inode numbers ------------------------------------------------------------------------------------------


def many() -> FakeService:
    """Two runs whose paths are made to be confused with each other."""
    names: list[str] = ["a", "b", "ab", "1", "d", "f", "d5", "f5"]
    files = {name: size for size, name in enumerate(names)}
    listings: dict[tuple[int, str], DirectoryListing] = {}
    for run_id in (1, 11):
        listings[run_id, ""] = directory(files, ["x", "xx", "x1"])
        for path in ("x", "xx", "x1"):
            listings[run_id, path] = directory({"a": None, "xa": None, "1a": None, "b": 1, "x": 1}, ["d"])
            listings[run_id, f"{path}/d"] = directory({"a": 0})
    return FakeService(runs={1: run(1), 11: run(11)}, listings=listings)


async def numbers(site: str, nursery: trio.Nursery) -> dict[tuple[object, ...], int]:
    """Return the inode number of every place, by kind and path."""
    service = many()
    tree = Tree(service, site=site, nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)
    found: dict[tuple[object, ...], int] = {}
    todo: list[tuple[str, Node]] = [("", tree.root)]
    while todo:
        path, node = todo.pop()
        found[path, node.entry.is_dir] = node.entry.number
        if node.entry.is_dir:
            contents = await tree.contents(node)
            todo += [(f"{path}/{e.name.decode()}", contents.node_of(e)) for e in contents.entries]
    return found


async def test_inode_numbers(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """2.4: the same after a remount, never shared within a mount, other ones on another site, 63 bits."""
    first = await numbers("datadoghq.com", nursery)
    assert len(first) == 6 + 2 * (1 + 8 + 3 + 3 * 6 + 3)
    assert await numbers("datadoghq.com", nursery) == first
    assert len(set(first.values())) == len(first)
    assert all(ROOT_NUMBER <= number < 2**63 for number in first.values())
    assert [place for place, number in first.items() if number == ROOT_NUMBER] == [("", True)]
    other = await numbers("datadoghq.eu", nursery)
    assert set(first.values()) & set(other.values()) == {ROOT_NUMBER}


async def test_the_same_name_as_file_and_directory(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.4: an inode stands for a kind too: a file that becomes a directory is another inode."""
    service.listings[1, ""] = directory({"a.txt": None})
    before = (await walk(tree, "runs/1/a.txt")).entry.number
    service.listings[1, ""] = directory({}, ["a.txt"])
    await trio.sleep(60)
    after = (await walk(tree, "runs/1/a.txt")).entry
    assert after.is_dir
    assert after.number != before
