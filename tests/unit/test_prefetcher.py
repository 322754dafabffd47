"""artifactfs.tree.walk.prefetcher: listings fetched ahead, where there is no index (docs/semantics.md 5.4, 7)."""

from collections.abc import Callable, Iterable

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import DirectoryListing, RequestUsage
from artifactfs.tree.nodes import ArtifactDir, Entry
from artifactfs.tree.tree import Tree
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.prefetcher import Prefetcher
from artifactfs.tree.walk.traversals import Traversal
from tests.fakes import FakeService, directory, finished_run, run
from tests.walking import count, listed, look, many, mounted, node, truth, walk

FLIGHTS = 14


class BusyService(FakeService):
    """A service that keeps count of how many listings it is asked for at once."""

    most = 0
    now = 0

    async def list_directory(self, run_id: int, path: str) -> DirectoryListing:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().list_directory(run_id, path)
        finally:
            self.now -= 1


@pytest.fixture
def service() -> BusyService:
    service = BusyService(runs={1: run(1)}, latency_s=0.02)
    service.add_tree(1, many(400))
    return service


@pytest.fixture
async def tree(service: BusyService, nursery: trio.Nursery) -> Tree:
    return mounted(service, nursery, "tree")


async def begin(tree: Tree, service: FakeService) -> list[str]:
    """Look at four directories, the last of which makes it a walk; returns what else was listed."""
    looked_at = ["", "g0", "g0/d0", "g0/d1"]
    for path in looked_at[:-1]:
        await look(tree, 1, path)
    service.asked()
    await look(tree, 1, looked_at[-1])
    await trio.sleep(1.5)
    return [path for path in listed(service.asked()) if path not in looked_at]


# --- what it is for -----------------------------------------------------------------------------------------


async def test_a_walk_is_listed_ahead(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """7: a walk over 441 directories takes a fraction of the time, costs one request each, and at most 14 at once."""
    began = trio.current_time()
    assert await walk(tree, 1) == truth(service, 1)
    assert trio.current_time() - began < 441 * service.latency_s / 8
    asked = service.asked()
    assert sorted(listed(asked)) == sorted(path for _, path in service.listings)
    assert len(asked) == 442
    assert 10 < service.most <= FLIGHTS + 1  # one is the walker's own


async def test_off(service: BusyService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """7: with prefetch = off only what was looked at is requested, one after the other."""
    tree = mounted(service, nursery, "off")
    assert await begin(tree, service) == []
    assert await walk(tree, 1) == truth(service, 1)
    assert service.most == 1


async def test_only_in_a_walk(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """7: who looks at three directories gets three, and who takes his time, too."""
    for path in ("", "g0", "g0/d0", "g1", "g1/d10"):
        await look(tree, 1, path)
        await trio.sleep(2.1)
    assert listed(service.asked()) == ["", "g0", "g0/d0", "g1", "g1/d10"]


async def test_nearest_first(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """7: what is beside the walker comes before what is beside his parents, and both before what is below those."""
    ahead = await begin(tree, service)
    # What goes out at the same moment has no order: 14 first, then the rest.
    beside = {f"g0/d{i}" for i in range(2, 10)}
    assert set(ahead[:FLIGHTS]) == beside | {f"g{i}" for i in range(1, 7)}
    # What is below what was listed ahead comes before what is farther away.
    assert set(ahead[FLIGHTS:]) == {f"g1/d{i}" for i in range(10, 14)}
    # And what is below the walker comes before all.
    service.add_tree(1, {f"deep/a{i}/b{j}/f": 1 for i in range(3) for j in range(3)})
    service.listings[1, ""] = directory({}, ["deep", *(f"g{i}" for i in range(40))])
    await trio.sleep(61)
    await look(tree, 1, "")
    await look(tree, 1, "g0")
    service.asked()
    await look(tree, 1, "deep")
    await look(tree, 1, "deep/a1")
    await trio.sleep(1)
    asked = [path for path in listed(service.asked()) if path not in ("deep", "deep/a1")]
    nearest = {"deep/a1/b0", "deep/a1/b1", "deep/a1/b2", "deep/a0", "deep/a2"}
    assert set(asked[:FLIGHTS]) == nearest | {f"g0/d{i}" for i in range(9)}
    assert set(asked[FLIGHTS:]) == {"deep/a0/b0", "deep/a0/b1", "deep/a0/b2", "deep/a2/b0"}


async def test_what_lies_below_what_was_listed_ahead(
    tree: Tree, service: BusyService, autojump_clock: MockClock
) -> None:
    """7: listing ahead goes on below what it listed, so that a deep and narrow tree gains, too."""
    ahead = await begin(tree, service)
    assert "g1" in ahead
    service.runs[2] = run(2)
    service.add_tree(2, {f"{'x/' * depth}f": 1 for depth in range(20)}, prefix="second")
    began = trio.current_time()
    assert await walk(tree, 2) == truth(service, 2)
    assert trio.current_time() - began <= 23 * service.latency_s


# --- how far ------------------------------------------------------------------------------------------------


async def test_bounded_ahead(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """7: 16 directories ahead of the traversal, and two more for each that it has visited."""
    ahead = await begin(tree, service)
    assert len(ahead) == 16 + 2 * 1
    for i in range(2, 10):
        await look(tree, 1, f"g0/d{i}")  # of what is listed already
        await trio.sleep(0.4)
    assert len(listed(service.asked())) == 2 * 8 + 8  # the eight that were looked at are not ahead any more


async def test_at_most_fourteen_at_once(service: BusyService, nursery: trio.Nursery,
                                        autojump_clock: MockClock) -> None:  # fmt: skip
    """7: at most 14 requests ahead at once, of all walks together."""
    service.latency_s = 0.5
    for run_id in (2, 3, 4):
        service.runs[run_id] = run(run_id)
        service.add_tree(run_id, many(100))
    tree = mounted(service, nursery, "tree")
    async with trio.open_nursery() as walkers:
        for run_id in (1, 2, 3, 4):
            walkers.start_soon(walk, tree, run_id)
        await trio.sleep(10)
        walkers.cancel_scope.cancel()
    assert FLIGHTS <= service.most <= FLIGHTS + 4


async def test_a_directory_of_many_directories(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """5.1: 100,000 directories below the walker are not gone through at once."""
    service.runs[2] = run(2)
    service.add_tree(2, {"a/b/f": 1, "a/c/f": 1}, prefix="second")
    service.listings[2, ""] = directory({}, ["a", *(f"d{i}" for i in range(100_000))], "second")
    for path in ("a", "a/b"):
        await look(tree, 2, path)
    place = await node(tree, 2)
    await look(tree, 2, "a/c")
    (ahead,) = tree._prefetch._ahead.values()  # type: ignore[union-attr]  # it is there
    assert isinstance(place, ArtifactDir)
    await tree.contents(place)
    assert len(ahead.queue) < 10
    assert len(ahead.queued) < 100


async def test_all_is_cached_already(nursery: trio.Nursery, service: BusyService, autojump_clock: MockClock) -> None:
    """5.1: where thousands of directories are available, they are passed over in small steps."""
    tree = mounted(service, nursery, "tree", TreeTuning(prefetch_steps=10))
    service.runs[1] = finished_run(1)
    await walk(tree, 1)
    service.add_tree(1, {**many(400), "new/a/b/c/f": 1, "new/a/d/f": 1})
    place = await node(tree, 1)
    assert isinstance(place, ArtifactDir)
    tree.mark_suspect(place)
    service.asked()
    await look(tree, 1, "new")
    await look(tree, 1, "new/a")
    await look(tree, 1, "new/a/d")
    await trio.sleep(1.5)
    assert listed(service.asked()) == ["", "new", "new/a", "new/a/d", "new/a/b", "new/a/b/c"]


# --- when it stops ------------------------------------------------------------------------------------------


async def test_it_stops_when_the_walk_pauses(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """7: only while a process keeps walking: two seconds without a look end it."""
    service.latency_s = 1.0
    for path in ("g0/d0", "g0/d1"):
        await look(tree, 1, path)
    await trio.sleep(2.1)
    service.asked()
    await trio.sleep(100)
    assert service.asked() == []
    assert not tree._prefetch._ahead  # type: ignore[union-attr]  # nothing is kept of it


async def test_a_wait_for_an_answer_does_not_end_a_traversal(
    tree: Tree, service: BusyService, autojump_clock: MockClock
) -> None:
    """7: who looks at a directory every five seconds since the service takes as long walks all the same."""
    service.latency_s = 5.0
    began = trio.current_time()
    await walk(tree, 1)
    assert trio.current_time() - began < 441 * 5.0 / 6
    # And nothing is listed so far ahead that it is old when he comes, and must be listed again.
    asked = listed(service.asked())
    assert len(asked) <= len(set(asked)) + 20


async def test_there_is_no_room(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """5.4: no request ahead while others wait or the rate limit runs low; and again when there is room."""
    service.room = False
    assert await begin(tree, service) == []
    await look(tree, 1, "g0/d0")
    service.room = True
    await trio.sleep(0.5)
    assert len(listed(service.asked())) > 10


@pytest.mark.parametrize("error", [errors.ServerFailed("no", 503), errors.RateLimited("no", 5.0)])
async def test_a_request_ahead_fails(
    error: Exception, tree: Tree, service: BusyService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """5.4: then none are sent ahead for a second; then it goes on."""
    caplog.set_level("INFO")
    service.refusals["listing", 1, "g0/d5"] = error
    assert len(await begin(tree, service)) == FLIGHTS
    assert any("listing ahead in run 1 pauses for 1 s" in record.getMessage() for record in caplog.records)
    service.refusals.clear()
    for i in range(301, 305):
        await trio.sleep(0.4)
        await look(tree, 1, f"g30/d{i}")
    await trio.sleep(0.4)
    assert len(listed(service.asked())) > 10


async def test_a_directory_ahead_is_gone(
    tree: Tree, service: BusyService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """3.1: one that is named and not there says nothing of the others."""
    caplog.set_level("INFO")
    service.refusals["listing", 1, "g0/d5"] = errors.NotFound("no", 404)
    await begin(tree, service)
    await look(tree, 1, "g20/d200")
    await trio.sleep(0.4)
    assert "pauses" not in caplog.text


async def test_the_service_is_in_trouble(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """5.4: nothing is requested ahead of a service that does not answer."""
    looked_at = [await node(tree, 1, path) for path in ("", "g0", "g1", "g2")]
    for place in looked_at:
        await tree.contents(place)
        await trio.sleep(5)
    await trio.sleep(61)
    service.asked()
    service.broken = errors.ServerFailed("no", 503)
    for place in looked_at:
        await tree.contents(place)  # the old one is served
    assert tree._walks.walk(1)
    await trio.sleep(1)
    assert len(service.asked()) <= 4


async def test_a_bug(tree: Tree, service: BusyService, autojump_clock: MockClock,
                     caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    """5.5: a bug in listing ahead is logged with its traceback, and only ends listing ahead."""
    service.refusals["listing", 1, "g0/d5"] = ZeroDivisionError("a bug")
    await begin(tree, service)
    assert any(record.levelname == "ERROR" and record.exc_info for record in caplog.records)
    service.refusals.clear()
    assert await walk(tree, 1) == truth(service, 1)


# --- beside others ------------------------------------------------------------------------------------------


async def test_a_caller_during_a_fetch_joins_it(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """7: who wants what is on its way waits for the same answer; nothing is asked for twice."""
    service.latency_s = 0.5
    for path in ("g0/d0", "g0/d1"):
        await look(tree, 1, path)
    place = await node(tree, 1, "g0/d2")
    await trio.sleep(0.3)
    began = trio.current_time()
    await tree.contents(place)
    assert trio.current_time() - began <= 0.2 + 1e-6
    await trio.sleep(5)
    asked = listed(service.asked())
    assert len(asked) == len(set(asked))


async def test_what_a_reader_got_meanwhile(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """7: a directory that a reader's request brings before the prefetch has begun is not asked for again."""
    below = {b"d": Entry(b"d", True, 2, 0)}
    at_begin_and_after: list[dict[bytes, Entry] | None] = [None, {}]
    fetched = []

    class Listings:
        def fresh_entries(self, run_id: int, place: str) -> dict[bytes, Entry] | None:
            return at_begin_and_after.pop(0)

        def all_fresh_entries(self, run_id: int) -> Iterable[tuple[str, dict[bytes, Entry]]]:
            return []

        async def fetch(self, run_id: int, place: str) -> dict[bytes, Entry]:
            fetched.append(place)
            return {}

        def may_prefetch(self, run_id: int) -> bool:
            return True

    traversal = Traversal(1, 0.0, 0.0, RequestUsage({}))
    prefetcher = Prefetcher(Listings(), nursery=nursery, walk=lambda _: traversal, tuning=TreeTuning())
    prefetcher.on_read(1, "", below)
    await trio.testing.wait_all_tasks_blocked()
    assert (at_begin_and_after, fetched, prefetcher.listed) == ([], [], 0)


async def test_two_walkers(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """7: two walkers of one run ask for no directory twice."""
    async with trio.open_nursery() as walkers:
        for _ in range(3):
            walkers.start_soon(walk, tree, 1)
    asked = listed(service.asked())
    assert len(asked) == len(set(asked)) == 441


async def test_a_slow_walker(tree: Tree, service: BusyService, autojump_clock: MockClock) -> None:
    """7: a walk at one directory a second is listed ahead to its end, but not so far that it is old when he comes."""
    service.latency_s = 0.2
    began = trio.current_time()
    assert await walk(tree, 1, pause_s=1.0) == truth(service, 1)
    assert trio.current_time() - began < 441 * (1.0 + 0.2 / 10)
    assert len(listed(service.asked())) <= 441 + 20


# --- and the index ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "check"),
    [
        ("awaited", lambda asked: listed(asked) == ["", "g0", "g0/d0"]),
        ("trusted", lambda asked: len(listed(asked)) <= 8),
        ("wrong", lambda asked: len(listed(asked)) > 16),
    ],
)
async def test_there_is_an_index(
    state: str,
    check: Callable[[list[tuple[object, ...]]], bool],
    service: BusyService,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:
    """7: nothing is listed ahead while an index is trusted, or awaited; where it is wrong, it is."""
    tree = mounted(service, nursery)
    service.index_s = 0.9 if state == "awaited" else 0.0
    if state == "wrong":
        service.projects["10"] = service.projects["10"][10:]
    async with trio.open_nursery() as walkers:
        walkers.start_soon(walk, tree, 1)
        await trio.sleep(0.8)
        asked = service.asked()
        assert count(asked, "index") == 1
        assert check(asked)


async def test_an_index_that_is_found_wrong_in_the_middle(
    service: BusyService, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """7: a walk whose index turns out to be wrong is listed ahead from then on."""
    tree = mounted(service, nursery)
    service.projects["10"] = [row for row in service.projects["10"] if not row.path.endswith("/g0/d3/f1")]
    service.choose = lambda _paths, _count: ["g30/d300"]
    for i in range(4):
        await look(tree, 1, f"g0/d{i}")
    assert count(service.asked(), "listing") <= 6
    assert (await node(tree, 1, "g0/d3/f1")).entry.size_bytes == 301
    await look(tree, 1, "g0/d4")
    began = trio.current_time()
    assert await walk(tree, 1) == truth(service, 1)
    assert trio.current_time() - began < 441 * service.latency_s / 8
