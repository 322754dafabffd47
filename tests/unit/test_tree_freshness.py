"""artifactfs.tree.tree and listings: versions, and how long a listing stays fresh (semantics.md 2.3, 2.4, 3)."""

import msgspec
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import Run
from artifactfs.tree import listing
from artifactfs.tree.listing import TreeTimes
from artifactfs.tree.nodes import ArtifactFile, Entry, LookupResult, same_version
from artifactfs.tree.size_changes import DirectorySizes
from artifactfs.tree.tree import Tree
from tests.fakes import MINUTE_NS, NOW_NS, FakeService, TurnedClock, directory, finished_run, run


@pytest.fixture
def service() -> FakeService:
    return FakeService(runs={1: run(1)}, listings={(1, ""): directory({"f": 5}, ["d"]), (1, "d"): directory({"g": 1})})


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)


async def look(tree: Tree, path: str) -> LookupResult:
    found = LookupResult(tree.root, 0.0)
    for name in path.split("/"):
        found = await tree.lookup(found.node, name.encode())
    return found


async def entry(tree: Tree, path: str) -> Entry:
    return (await look(tree, path)).node.entry


# --- how long -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "ttl_s"),
    [
        (run(1, "running"), 60), (run(1, "paused"), 60), (run(1, "unresponsive", completed_ns=0), 60),
        (finished_run(1, minutes_ago=10.1), 3600), (finished_run(1, minutes_ago=9.9), 60),
        (run(1, "failed", completed_ns=NOW_NS - 11 * MINUTE_NS), 3600),
        (run(1, "killed", completed_ns=NOW_NS - 11 * MINUTE_NS), 3600),
        (run(1, "completed", updated_ns=NOW_NS - 11 * MINUTE_NS), 3600), (run(1, "completed", updated_ns=NOW_NS), 60),
        (run(1, "completed", updated_ns=None), 60), (run(1, "completed", completed_ns=NOW_NS + MINUTE_NS), 60),
    ],
)  # fmt: skip
async def test_time_to_live(
    which: Run, ttl_s: float, tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.1: 60 s, or an hour for a run finished for more than ten minutes; the kernel learns what is left."""
    service.runs[1] = which
    found = await look(tree, "runs/1/f")
    assert found.valid_s == pytest.approx(ttl_s)
    contents = await tree.contents((await look(tree, "runs/1")).node)
    assert contents.left_s() == pytest.approx(ttl_s)
    service.asked()
    await trio.sleep(ttl_s - 1)
    assert (await look(tree, "runs/1/f")).valid_s == pytest.approx(1)
    assert contents.left_s() == pytest.approx(1)
    assert service.asked() == []
    await trio.sleep(1)
    await look(tree, "runs/1/f")
    assert ("listing", 1, "") in service.asked()


async def test_times_as_configured(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.1: all times are settings."""
    times = TreeTimes(listing_ttl=7, finished_ttl=70, negative_ttl=3, stale_max=0)
    tree = Tree(
        service,
        site="test",
        nursery=nursery,
        clock=TurnedClock(),
        wall_clock_ns=lambda: NOW_NS,
        times=times,
        runs_listed=9,
    )
    service.runs[2] = finished_run(2)
    service.listings[2, ""] = directory({"f": 1})
    assert (await look(tree, "runs/1/f")).valid_s == pytest.approx(7)
    assert (await look(tree, "runs/2/f")).valid_s == pytest.approx(70)
    with pytest.raises(errors.NoSuchEntry) as absent:
        await look(tree, "runs/1/none")
    assert absent.value.valid_s == pytest.approx(3)
    service.asked()
    assert (await tree.contents(tree.runs)).left_s() == pytest.approx(7)
    assert service.asked() == [("runs", 9)]


async def test_the_kernel_caches_an_absence_for_at_most_ten_seconds(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.1: "not there" the kernel caches it for at most `negative_ttl`, and never longer than the listing is fresh."""
    await look(tree, "runs/1/f")
    for slept, told in ((0, 10), (54, 6)):
        await trio.sleep(slept)
        with pytest.raises(errors.NoSuchEntry) as absent:
            await look(tree, "runs/1/none")
        assert absent.value.valid_s == pytest.approx(told)


async def test_the_machine_slept(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.1: time goes on while the machine sleeps."""
    clock = TurnedClock()
    tree = Tree(service, site="test", nursery=nursery, clock=clock, wall_clock_ns=lambda: NOW_NS)
    await look(tree, "runs/1/f")
    service.listings[1, ""] = directory({"f": 6})
    clock.sleep_machine(61)
    assert (await entry(tree, "runs/1/f")).size_bytes == 6


async def test_a_page_is_as_old_as_its_question(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.1: what a page of runs says of a run counts from when the page was asked for."""
    service.latency_s = 20
    await tree.contents(tree.runs)
    assert (await tree.lookup(tree.runs, b"1")).valid_s == pytest.approx(40)


async def test_a_page_from_before_a_refresh(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.3: a page that was asked for before the refresh, and comes after it, makes no run fresh."""
    service.latency_s = 20
    async with trio.open_nursery() as callers:
        callers.start_soon(tree.contents, tree.runs)
        await trio.sleep(0.5)
        tree.mark_all_stale()
    service.asked()
    await tree.lookup(tree.runs, b"1")
    assert service.asked() == [("run", 1)]


# --- stale --------------------------------------------------------------------------------------------------


async def test_the_service_is_down(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.2: a passing error never makes something vanish: what was listed is served, for up to an hour."""
    await look(tree, "runs/1/f")
    service.broken = errors.ServerFailed("lab answered 503", 503)
    for _ in range(59):
        await trio.sleep(60)
        assert (await look(tree, "runs/1/f")).valid_s == 0
        with pytest.raises(errors.NoSuchEntry) as absent:
            await look(tree, "runs/1/none")
        assert absent.value.valid_s == 0
    await trio.sleep(61 + 60)
    with pytest.raises(errors.ServerFailed):
        await look(tree, "runs/1/f")


@pytest.mark.parametrize(
    "error", [errors.ServerFailed("x", 500), errors.RateLimited("x", 60.0), errors.AccessDenied("x", 403)]
)
async def test_an_error_is_not_an_absence(
    error: errors.ServiceError, tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.2: cold, the error is returned as it is, never cached, and the next look succeeds."""
    for broken_at in range(2):
        service.failures = [None] * broken_at + [error]
        with pytest.raises(type(error)):
            await look(tree, "runs/1/f")
        tree.mark_all_stale()
        await trio.sleep(0.1)
    assert (await entry(tree, "runs/1/f")).size_bytes == 5


async def test_refresh(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.3: after a refresh the next look at anything asks, and shows what came back."""
    await look(tree, "runs/1/f")
    await tree.contents(tree.runs)
    service.listings[1, ""] = directory({"new": 1})
    service.asked()
    await trio.sleep(1)
    tree.mark_all_stale()
    assert (await entry(tree, "runs/1/new")).size_bytes == 1
    with pytest.raises(errors.NoSuchEntry):
        await look(tree, "runs/1/f")
    assert service.asked() == [("run", 1), ("listing", 1, "")]


async def test_an_open_directory_does_not_change(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.4: contents are frozen when they are taken; a changed listing shows at the next look after the refresh."""
    node = (await look(tree, "runs/1")).node
    before = await tree.contents(node)
    service.listings[1, ""] = directory({"other": 1})
    await trio.sleep(60)
    after = await tree.contents(node)
    assert [e.name for e in before.entries] == [b"d", b"f"]
    assert [e.name for e in after.entries] == [b"other"]
    assert before.left_s() == 0


async def test_a_run_deleted_meanwhile(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.2: once its listing is old, a deleted run's directories are ENOENT, whatever is remembered of them."""
    node = (await look(tree, "runs/1/d")).node
    await tree.contents(node)
    del service.runs[1]
    await trio.sleep(60)
    with pytest.raises(errors.NoSuchEntry):
        await tree.contents(node)


# --- versions -----------------------------------------------------------------------------------------------


async def after_change(tree: Tree, service: FakeService, files: dict[str, int | None]) -> tuple[Entry, Entry]:
    """Return the entry of "f" before and after the run's root is listed again with these files."""
    before = await entry(tree, "runs/1/f")
    service.listings[1, ""] = directory(files)
    await trio.sleep(60)
    return before, await entry(tree, "runs/1/f")


async def test_an_unchanged_file_is_the_same_entry(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.4: nothing changed, nothing new: not even memory."""
    before, after = await after_change(tree, service, {"f": 5, "more": 1})
    assert after is before


async def test_a_changed_size_is_a_new_version(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.4: a file that shrank is another version, and another inode."""
    before, after = await after_change(tree, service, {"f": 4})
    assert after.size_bytes == 4
    assert after.number != before.number


async def test_a_file_that_grew_is_the_same(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.5: a file that grew keeps its number, shows when that was seen, and keeps the number without its listing."""
    before, after = await after_change(tree, service, {"f": 6, "g": 1})
    assert (after.number, after.size_bytes, after.mtime_ns) == (before.number, 6, NOW_NS)
    other = (await look(tree, "runs/1/g")).node
    assert isinstance(other, ArtifactFile)
    service.listings[1, ""] = directory({"f": 7, "g": 1})
    tree.record_size_conflict(other, None)
    assert (await entry(tree, "runs/1/f")).number == before.number


async def test_growth_that_comes_with_the_end_of_another_version(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """2.4: a file that grew while another one of its directory turned out to be another version keeps its number."""
    service.listings[1, ""] = directory({"f": 5, "g": 1})
    before = await entry(tree, "runs/1/f")
    other = (await look(tree, "runs/1/g")).node
    assert isinstance(other, ArtifactFile)
    service.listings[1, ""] = directory({"f": 7, "g": 1})
    tree.record_size_conflict(other, None)
    after = await entry(tree, "runs/1/f")
    assert (after.number, after.size_bytes) == (before.number, 7)


async def test_a_number_is_not_used_again(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.4: a file that grew and shrank to its first size has another number: it is not what it was at first."""
    before, grown = await after_change(tree, service, {"f": 6})
    _, first = await after_change(tree, service, {"f": 5})
    _, second = await after_change(tree, service, {"f": 4})
    assert grown.number == before.number
    assert len({before.number, first.number, second.number}) == 3


async def test_a_run_that_completes(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3: that the run completes gives all of its files the time of its end, changed or not."""
    service.listings[1, ""] = directory({"f": 5, "g": 5})
    first = await entry(tree, "runs/1/f")
    service.runs[1] = finished_run(1, minutes_ago=1)
    service.listings[1, ""] = directory({"f": 5, "g": 4, "h": 1})
    await trio.sleep(60)
    end_ns = NOW_NS - MINUTE_NS
    times = [(await entry(tree, f"runs/1/{name}")).mtime_ns for name in "fgh"]
    assert times == [end_ns] * 3
    assert first.mtime_ns != end_ns


async def test_a_size_that_becomes_known_completes(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.4: learning the size later completes a version: same inode, same time; unknowing it takes nothing away."""
    service.listings[1, ""] = directory({"f": None})
    service.runs[1] = run(1, created_ns=77)
    before = await entry(tree, "runs/1/f")
    service.listings[1, ""] = directory({"f": 5})
    await trio.sleep(60)
    after = await entry(tree, "runs/1/f")
    assert (after.number, after.mtime_ns, after.size_bytes) == (before.number, 77, 5)
    service.listings[1, ""] = directory({"f": None})
    await trio.sleep(60)
    assert await entry(tree, "runs/1/f") == msgspec.structs.replace(after, is_size_listed=False)


async def test_the_listing_of_a_directory_keeps_its_inode(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """2.4: a directory is no version: what is in it may change, and it stays the same inode."""
    before = await entry(tree, "runs/1/d")
    service.listings[1, "d"] = directory({"x": 1})
    service.runs[1] = finished_run(1)
    await trio.sleep(60)
    assert (await entry(tree, "runs/1/d")).number == before.number


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ((False, 5), (False, 5), True), ((False, None), (False, 5), True), ((False, 5), (False, None), True),
        ((False, 5), (False, 6), True), ((False, 0), (False, None), True), ((False, 5), (False, 4), False),
        ((True, None), (True, None), True), ((True, None), (False, None), False), ((False, 5), (True, None), False),
    ],
)  # fmt: skip
def test_what_a_version_is(old: tuple[bool, int | None], new: tuple[bool, int | None], same: bool) -> None:
    """2.4: a version of a file has its size, or grows; a kind never becomes another."""
    first, second = (Entry(b"x", is_dir, 9, 0, size) for is_dir, size in (old, new))
    assert same_version(first, second) is same


# --- listings -----------------------------------------------------------------------------------------------


async def test_the_servers_order_is_kept(autojump_clock: MockClock) -> None:
    """1.1: entries come in the server's order, and by name."""
    answer = directory({"z": 1, "a": 2, "m": 3})
    built = await listing.build(answer.children.by_name, run(1), "d", None, b"test", NOW_NS, DirectorySizes())
    assert isinstance(built.shown, tuple)
    assert [e.name for e in built.shown] == [b"z", b"a", b"m"]
    assert built.by_name[b"a"] is built.shown[1]
    assert len(built.by_name) == 3


async def test_a_large_listing_lets_others_run(autojump_clock: MockClock) -> None:
    """5.1: building 20,000 entries gives way to other tasks several times."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    answer = directory({f"f{i}": i for i in range(20_000)})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await listing.build(answer.children.by_name, run(1), "d", None, b"test", NOW_NS, DirectorySizes())
        nursery.cancel_scope.cancel()
    assert turns >= 5


def test_which_time_a_run_has() -> None:
    """2.3: files: completed, else created, else updated; the run's directory: updated first."""
    full = run(1, created_ns=1, completed_ns=2, updated_ns=3)
    assert (listing.file_time_ns(full), listing.run_time_ns(full)) == (2, 3)
    bare = run(1, created_ns=1, completed_ns=None, updated_ns=None)
    assert (listing.file_time_ns(bare), listing.run_time_ns(bare)) == (1, 1)
    zero = run(1, created_ns=1, completed_ns=0, updated_ns=0)
    assert (listing.file_time_ns(zero), listing.run_time_ns(zero)) == (0, 0)


@pytest.mark.parametrize("between", [{"d": 3}, {}], ids=["a file", "nothing"])
async def test_a_directory_that_came_again(
    between: dict[str, int | None], tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """2.4: a file in a directory that was gone for a while does not continue the one of before."""
    service.listings[1, "d/e"] = directory({"h": 0})
    service.listings[1, "d"] = directory({"g": 1}, ["e"])
    before = [await entry(tree, path) for path in ("runs/1/d/g", "runs/1/d/e/h")]
    await trio.sleep(61)
    service.listings[1, ""] = directory({"f": 5} | between)
    await entry(tree, "runs/1/f")
    await trio.sleep(61)
    service.listings[1, ""] = directory({"f": 5}, ["d"])
    service.listings[1, "d"] = directory({"g": 600}, ["e"])
    service.listings[1, "d/e"] = directory({"h": 600})
    after = [await entry(tree, path) for path in ("runs/1/d/g", "runs/1/d/e/h")]
    assert [was.number != now.number for was, now in zip(before, after, strict=True)] == [True, True]
