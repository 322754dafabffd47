"""artifactfs.tree.walk.project_index: an index that fails, stalls, comes late or grows old (1.6, 3)."""

from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import IndexedFile
from artifactfs.tree.tree import Tree
from artifactfs.tree.tree_tuning import TreeTuning
from tests.fakes import CREATED_NS, MINUTE_NS, NOW_NS, FakeService, TurnedClock, finished_run, run
from tests.walking import count, entries, listed, look, many, mounted, node, truth, walk

Add = Callable[[Sequence[IndexedFile]], None]
ALL = 45  # directories of the run that is walked, the root among them
FEW = 9  # requests that a walk by the index costs at most


@pytest.fixture
def service() -> FakeService:
    service = FakeService(runs={1: run(1)}, latency_s=0.02)
    service.add_tree(1, many(40))
    return service


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return mounted(service, nursery)


def refuse(service: FakeService, error: Exception | None) -> None:
    """Have the index fail with an error, or no more."""
    service.refusals.pop(("index", "10"), None)
    if error is not None:
        service.refusals["index", "10"] = error


# --- one that is of no use ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("no", 404), errors.AccessDenied("no", 403), errors.BadRequest("no", 400),
        errors.ServerFailed("no", 500), errors.RateLimited("no", 3600.0), errors.TimedOut("no"),
        errors.ConnectionLost("no"), errors.TlsFailed("no"),
        errors.UnexpectedAnswer("HTML"), errors.AnswerTooLarge("huge"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_an_index_that_fails(
    error: Exception, tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.6: it costs one request, and none again for 300 s, whatever is wrong; then it is asked for again."""
    refuse(service, error)
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert count(asked, "index") == 1
    assert sorted(listed(asked)) == sorted(path for _, path in service.listings)
    refuse(service, None)
    for _ in range(4):
        await trio.sleep(70)
        assert await walk(tree, 1) == truth(service, 1)
        assert count(service.asked(), "index") == 0
    await trio.sleep(70)
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert count(asked, "index") == 1
    assert len(asked) <= FEW


async def test_an_index_without_files(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: an empty index is none."""
    for rows in ([], [IndexedFile("../x", 1), IndexedFile("a/", 0)]):
        service.projects["10"] = rows
        assert await walk(tree, 1) == truth(service, 1)
        asked = service.asked()
        assert (count(asked, "index"), len(listed(asked))) == (1, ALL)
        await trio.sleep(400)


async def test_an_index_that_is_huge(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """6.4: one that takes more memory than all of them may is given up."""
    tree = mounted(service, nursery, tuning=TreeTuning(max_index_bytes=3_000))
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert (count(asked, "index"), len(listed(asked))) == (1, ALL)


async def test_an_index_that_breaks_off(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """1.6: what came before an answer broke off in the middle is not taken for an index."""

    async def half(project_id: str, add: Add) -> None:
        service.log.append(("index", project_id))
        rows = service.projects[project_id]
        add(rows[: len(rows) // 2])
        await trio.sleep(0.1)
        raise errors.UnexpectedAnswer("it ends in the middle")

    service.project_files = half  # type: ignore[method-assign]  # it breaks off
    tree = mounted(service, nursery)
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert (count(asked, "index"), len(listed(asked))) == (1, ALL)


async def test_a_bug_in_reading_it(
    tree: Tree, service: FakeService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """5.5: a bug in reading an index is logged with its traceback, and costs no more than the index."""
    refuse(service, ZeroDivisionError("a bug"))
    assert await walk(tree, 1) == truth(service, 1)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info
    await trio.sleep(60)
    refuse(service, None)
    assert await walk(tree, 1) == truth(service, 1)


async def test_a_bug_in_checking_it(
    tree: Tree,
    service: FakeService,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5.5: a bug in checking an index is logged with its traceback, and costs no more than the index."""

    async def broken(*_: object) -> object:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(tree._directories, "list_direct", broken)
    assert await walk(tree, 1) == truth(service, 1)
    assert {record.levelname for record in caplog.records if record.exc_info} == {"ERROR"}


# --- what is waited for -------------------------------------------------------------------------------------


async def looks(tree: Tree, *paths: str) -> list[float]:
    """Look at directories one after the other; returns how long each took."""
    took = []
    for path in paths:
        place = await node(tree, 1, path)
        began = trio.current_time()
        await tree.contents(place)
        took.append(round(trio.current_time() - began, 3))
    return took


async def test_a_stalled_index_is_waited_for_once(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: the run's first listing waits half a second for it, and a traversal a second, all lookups together."""
    service.index_s = 10_000
    service.room = False
    began = trio.current_time()
    await node(tree, 1, "g0")
    assert trio.current_time() - began == pytest.approx(0.52)
    took = await looks(tree, "g0/d0", "g0/d1", "g0/d2", "g0/d3")
    assert took == [0.02, 1.02, 0.02, 0.02]
    assert await walk(tree, 1) == truth(service, 1)
    await trio.sleep(30)
    assert await walk(tree, 1) == truth(service, 1)
    assert count(service.asked(), "index") == 1
    # Given up after a minute, and not asked for again for five.
    await trio.sleep(320)
    assert await walk(tree, 1) == truth(service, 1)
    assert count(service.asked(), "index") == 0
    await trio.sleep(70)
    await walk(tree, 1)
    assert count(service.asked(), "index") == 1


async def test_who_has_an_old_listing_does_not_wait_for_an_index(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.2: an index that stalls is no reason to show an old listing, nor to take the service for one in trouble."""
    service.index_s = 0.5
    await walk(tree, 1)
    for index_s in (0.9, 10_000):
        service.index_s = index_s
        service.projects.clear()
        service.add_tree(1, {path: size + 1 for path, size in truth(service, 1).items() if size is not None})
        await trio.sleep(400)
        assert await walk(tree, 1) == truth(service, 1)
        assert not tree._health.is_degraded()


async def test_several_walkers_wait_together(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: who comes later waits for what is left of the same second."""
    service.index_s = 10_000
    places = [await node(tree, 1, f"g0/d{i}") for i in range(10)]
    began = trio.current_time()
    async with trio.open_nursery() as walkers:
        for place in places:
            walkers.start_soon(tree.contents, place)
            await trio.sleep(0.2)
    # The second of them asks; all are answered a second and a round trip later, or at once.
    assert trio.current_time() - began < 2.1


async def test_an_index_that_comes_late(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: one that takes longer than anybody waits serves who still walks when it comes."""
    service.room = False
    service.index_s = 1.5
    service.runs[2] = run(2)
    service.add_tree(2, many(40), prefix="second")
    assert await walk(tree, 1, pause_s=0.1) == truth(service, 1)
    assert len(service.asked()) < 20
    # And who walks another of its runs, later.
    await trio.sleep(5)
    assert await walk(tree, 2) == truth(service, 2)
    assert len(service.asked()) <= FEW


async def test_a_check_that_stalls(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: the samples are waited for no longer than the index; each look waits a second at most."""
    service.index_s = 0.9
    place = [await node(tree, 1, f"g0/d{i}") for i in range(4)]
    await tree.contents(place[0])
    real = service.list_directory

    async def slowly(run_id: int, path: str) -> object:
        await trio.sleep(20 if path not in ("g0/d1", "g0/d2", "g0/d3") else 0)
        return await real(run_id, path)

    service.list_directory = slowly  # type: ignore[method-assign, assignment]  # samples take 20 s, walkers do not
    service.choose = lambda paths, _: [path for path in paths if path.startswith("g3/")][:2]
    began = trio.current_time()
    for i, took in ((1, 1.02), (2, 1.04), (3, 0.02)):
        began = trio.current_time()
        await tree.contents(place[i])
        assert trio.current_time() - began <= took + 0.001, i


async def test_who_does_not_walk_does_not_wait(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: while somebody waits for the index of a project, a look at another run of it is one round trip."""
    service.runs[2] = run(2)
    service.add_tree(2, many(40), prefix="second")
    service.index_s = 10
    quiet = await node(tree, 2, "g0")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(walk, tree, 1)
        await trio.sleep(0.5)
        assert count(service.log, "index") == 1
        began = trio.current_time()
        await tree.contents(quiet)
        assert trio.current_time() - began == pytest.approx(service.latency_s)


async def test_not_more_than_two_at_once(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """5.4: indexes that stall take up two connections, not all: who walks many projects goes on by himself."""
    service.index_s = 50
    for run_id in range(2, 8):
        service.runs[run_id] = run(run_id, project_id=str(run_id))
        service.add_tree(run_id, many(12), project_id=str(run_id))
    async with trio.open_nursery() as nursery:
        for run_id in range(2, 8):
            nursery.start_soon(walk, tree, run_id)
    assert count(service.asked(), "index") == 2
    await trio.sleep(100)
    service.index_s = 0
    assert await walk(tree, 7) == truth(service, 7)
    assert count(service.asked(), "index") == 1


# --- while the service is in trouble ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [errors.ServerFailed("no", 503), errors.RateLimited("no", 60.0), errors.AccessDenied("no", 403)]
)
async def test_a_check_that_fails_leaves_it_open(
    error: errors.ServiceError,
    tree: Tree,
    service: FakeService,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1.6: a sample that cannot be had says nothing for the index nor against it: it is checked again later."""
    caplog.set_level("INFO")
    service.room = False
    service.refusals["listing", 1, "g3/d30"] = error
    service.choose = lambda _paths, _count: ["g3/d30"]
    for i in range(10):
        await look(tree, 1, f"g0/d{i}")
    asked = service.asked()
    assert count(asked, "index") == 1
    # Not once for every look.
    assert listed(asked).count("g3/d30") == 1
    assert not any("is wrong" in record.message for record in caplog.records)
    service.refusals.clear()
    await trio.sleep(6)
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert count(asked, "index") == 0
    assert len(asked) <= FEW


async def test_what_came_from_it_is_served_while_the_service_is_down(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.2: what was shown from the index is served when it is old and nothing fresh can be had."""
    before = await walk(tree, 1)
    service.broken = errors.ServerFailed("no", 503)
    await trio.sleep(100)
    assert await walk(tree, 1) == before


async def test_what_was_wrong_is_not_served_again(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: what was dropped stays dropped, old or not, when the service fails later."""
    service.projects["10"].append(IndexedFile("prefix/artifacts/g3/d35/ghost", 1, CREATED_NS))
    service.projects["10"] = [row for row in service.projects["10"] if not row.path.endswith("g2/d25/f1")]
    service.choose = lambda _paths, _count: ["g1/d10"]
    assert "g3/d35/ghost" in await walk(tree, 1)
    # Old by now, and still held; then the index is found to be wrong.
    place = await node(tree, 1, "g3/d35")
    await trio.sleep(59)
    await node(tree, 1, "g2/d25/f1")
    await trio.sleep(2)
    service.broken = errors.ServerFailed("no", 503)
    with pytest.raises(errors.ServerFailed):
        await tree.contents(place)


# --- how long it is believed --------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "ttl_s"), [(run(1), 60), (finished_run(1), 3600)])
async def test_time_to_live(which: object, ttl_s: float, service: FakeService, nursery: trio.Nursery,
                            autojump_clock: MockClock) -> None:  # fmt: skip
    """3.1: an index is believed as long as a listing of the run, from when it was asked for."""
    service.runs[1] = which  # type: ignore[assignment]  # a run
    service.index_s = 0.5
    tree = mounted(service, nursery)
    await walk(tree, 1)
    asked_at = trio.current_time()
    service.asked()
    contents = await tree.contents(await node(tree, 1, "g3"))
    # The kernel is told of names for a minute at most: they may have to be taken back.
    assert contents.left_s() <= min(60, ttl_s)
    await trio.sleep(ttl_s - 3)
    assert await walk(tree, 1) == truth(service, 1)
    assert count(service.asked(), "index") == 0
    await trio.sleep(asked_at + ttl_s + 1 - trio.current_time())
    assert await walk(tree, 1) == truth(service, 1)
    assert count(service.asked(), "index") == 1


async def test_a_run_that_ended_since(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.1: what an index says of a run that went on then is good for a minute, though the run has ended since."""
    service.runs |= {1: finished_run(1), 2: run(2)}
    service.add_tree(2, many(20), prefix="second")
    clock = TurnedClock()
    tree = Tree(
        service,
        site="test",
        nursery=nursery,
        clock=clock,
        wall_clock_ns=lambda: NOW_NS + int(clock() * 1e9),
        prefetch="auto",
    )
    await walk(tree, 1)
    # It goes on for a minute, and is walked when it has been finished for ten.
    service.projects.pop("10")
    service.add_tree(1, many(40))
    service.add_tree(2, many(30), prefix="second")
    service.runs[2] = run(2, "completed", completed_ns=NOW_NS + MINUTE_NS)
    await trio.sleep(20 * 60)
    service.asked()
    assert await walk(tree, 2) == truth(service, 2)
    assert count(service.asked(), "index") == 1


async def test_what_comes_of_it_is_as_old_as_it(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.1: a directory that is first looked at 50 s after the index came is asked for again 10 s later."""
    service.choose = lambda _paths, _count: ["g1/d10"]
    for i in range(4):
        await look(tree, 1, f"g0/d{i}")
    await trio.sleep(50)
    service.asked()
    await look(tree, 1, "g3/d35")
    assert ("listing", 1, "g3/d35") not in service.asked()
    contents = await tree.contents(await node(tree, 1, "g3/d35"))
    assert contents.left_s() <= 10
    await trio.sleep(10)
    await look(tree, 1, "g3/d35")
    assert ("listing", 1, "g3/d35") in service.asked()


async def test_a_wrong_one_is_asked_for_again(service: FakeService, nursery: trio.Nursery,
                                              autojump_clock: MockClock) -> None:  # fmt: skip
    """1.6: an index that was wrong about a run is asked for again after 300 s, though others may still believe it."""
    service.room = False
    service.runs |= {1: finished_run(1), 2: finished_run(2)}
    service.add_tree(2, many(40), prefix="second")
    tree = mounted(service, nursery)
    service.projects["10"].append(IndexedFile("prefix/artifacts/ghost", 1, CREATED_NS))
    await looks(tree, "g0/d0", "g0/d1", "g0/d2")
    assert await walk(tree, 2) == truth(service, 2)
    assert count(service.asked(), "index") == 1
    service.projects["10"].pop()
    await trio.sleep(200)
    await looks(tree, "g1/d10", "g1/d11", "g1/d12")
    asked = service.asked()
    assert (count(asked, "index"), len(listed(asked))) == (0, 4)
    await trio.sleep(101)
    await looks(tree, "g2/d20", "g2/d21", "g2/d22")
    assert count(service.asked(), "index") == 1
    assert await walk(tree, 1) == truth(service, 1)
    assert len(service.asked()) == 0


# --- refresh ------------------------------------------------------------------------------------------------


async def test_refresh(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.3: after a refresh an index is asked for again, also one that had failed, or was wrong."""
    service.projects["10"].append(IndexedFile("prefix/artifacts/ghost", 1, CREATED_NS))
    for error in (None, errors.ServerFailed("no", 503), errors.NotFound("no", 404)):
        refuse(service, error)
        assert await walk(tree, 1) == truth(service, 1)
        assert count(service.asked(), "index") == 1
        await trio.sleep(1)
        tree.mark_all_stale()
    refuse(service, None)
    service.projects["10"].pop()
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert count(asked, "index") == 1
    assert len(asked) <= FEW + 2


@pytest.mark.parametrize("at_s", [0.05, 0.3, 0.69, 0.71, 0.73])
async def test_refresh_in_the_middle(at_s: float, tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.3: what was asked for before a refresh, or made of that, is not shown after it."""
    service.index_s = 0.6
    before = truth(service, 1)
    shown: list[dict[str, int | None]] = []

    async def find() -> None:
        shown.append(await walk(tree, 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(find)
        await trio.sleep(at_s)
        service.listings.clear()
        service.projects.clear()
        service.add_tree(1, {path: size + 1 for path, size in many(40).items()}, created_ns=CREATED_NS + MINUTE_NS)
        tree.mark_all_stale()
    assert shown[0].keys() == before.keys()
    found = await entries(tree, 1)
    assert {path: entry.size_bytes for path, entry in found.items()} == truth(service, 1)
    assert all(entry.created_ns != CREATED_NS for entry in found.values())
