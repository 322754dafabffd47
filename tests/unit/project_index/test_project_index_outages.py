"""artifactfs.tree.walk.project_index during an outage, and how long an index is trusted (docs/semantics.md 1.6, 3)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import IndexedFile
from artifactfs.tree.tree import Tree
from tests.fakes import CREATED_NS, MINUTE_NS, NOW_NS, FakeService, TurnedClock, finished_run, run
from tests.unit.project_index.harness import FEW, looks, refuse
from tests.walking import count, entries, listed, look, many, mounted, node, truth, walk

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


# --- how long it is trusted --------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "ttl_s"), [(run(1), 60), (finished_run(1), 3600)])
async def test_time_to_live(which: object, ttl_s: float, service: FakeService, nursery: trio.Nursery,
                            autojump_clock: MockClock) -> None:  # fmt: skip
    """3.1: an index is trusted as long as a listing of the run, from when it was asked for."""
    service.runs[1] = which  # type: ignore[assignment]  # a run
    service.index_s = 0.5
    tree = mounted(service, nursery)
    await walk(tree, 1)
    asked_at = trio.current_time()
    service.asked()
    contents = await tree.contents(await node(tree, 1, "g3"))
    # The kernel caches names for a minute at most: they may have to be taken back.
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
    """1.6: an index that was wrong about a run is asked for again after 300 s, though others may still trust it."""
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
