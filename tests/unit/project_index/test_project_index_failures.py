"""artifactfs.tree.walk.project_index: an index that fails, stalls or comes late (docs/semantics.md 1.6)."""

from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import IndexedFile
from artifactfs.tree.tree import Tree
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.packed_index import PackedIndex
from tests.fakes import FakeService, directory, run
from tests.unit.project_index.harness import FEW, looks, refuse
from tests.walking import count, listed, many, mounted, node, truth, walk

Add = Callable[[Sequence[IndexedFile]], None]
ALL = 45  # directories of the run that is walked, the root among them


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


async def test_indexes_that_fail_are_bounded(
    service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """1.6: of many projects whose index fails, the first are forgotten."""
    tree = mounted(service, nursery, tuning=TreeTuning(max_index_bytes=10_000))
    for each in range(100, 120):
        service.runs[each] = run(each, project_id=str(each))
        service.listings[each, ""] = directory({"f": 1})
        await tree.contents(await node(tree, each))
        await tree.wait_for_indexes()
    known = [index.project_id for index in tree.state().indexes]
    assert 1 < len(known) < 20
    assert known[-1] == "119"


@pytest.mark.parametrize("room_bytes", [0, 500, 999, 1000, 2000])
async def test_an_index_that_barely_fits(
    room_bytes: int, service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """6.4: it is taken whole, or given up; in both cases the walk ends."""
    files = PackedIndex()
    files.add(service.projects["10"])
    tree = mounted(service, nursery, tuning=TreeTuning(max_index_bytes=files.size_bytes + room_bytes))
    assert await walk(tree, 1) == truth(service, 1)
    await tree.wait_for_indexes()
    assert [index.state for index in tree.state().indexes] == ["trusted" if room_bytes >= 1000 else "failed"]


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


async def test_a_stalled_index_is_waited_for_once(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6, 2.3: the first listing with a file waits half a second for it; a traversal a second, all together."""
    service.index_s = 10_000
    service.room = False
    began = trio.current_time()
    await node(tree, 1, "g0")
    assert trio.current_time() - began == pytest.approx(0.04)
    took = await looks(tree, "g0/d0", "g0/d1", "g0/d2", "g0/d3")
    assert trio.current_time() - began == pytest.approx(0.52 + 1.02 + 0.02 + 0.02)
    assert took[1:] == [1.02, 0.02, 0.02]
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


async def test_an_old_listing_is_served_without_the_index(
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
        assert not tree._health.is_degraded


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
    """1.6: an index that takes longer than its callers wait serves the traversals that go on when it comes."""
    service.room = False
    service.index_s = 1.5
    service.runs[2] = run(2)
    service.add_tree(2, many(40), prefix="second")
    assert await walk(tree, 1, pause_s=0.1) == truth(service, 1)
    assert len(service.asked()) < 20
    # And a traversal of another of its runs, later.
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


async def test_a_single_look_does_not_wait(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: while a process waits for the index of a project, a look at another run of it is one round trip."""
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
    """5.4: indexes that stall take up two connections, not all: a traversal of many projects goes on by itself."""
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
