"""artifactfs.tree.walk.traversals: when a traversal begins, when it ends, its line in the log (semantics.md 7)."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from artifactfs.domain import RequestUsage
from artifactfs.tree.tree import Tree
from artifactfs.tree.walk.traversals import Traversals, level
from tests.fakes import FakeService, TurnedClock, finished_run, run
from tests.walking import look, many, mounted, node, walk


class Meter:
    """What the service was asked so far, as a test says."""

    cost = RequestUsage({})

    def __call__(self) -> RequestUsage:
        return self.cost


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
async def walks(nursery: trio.Nursery, meter: Meter) -> Traversals:
    return Traversals(nursery=nursery, clock=TurnedClock(), cost=meter)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("walked")]


# --- what a walk is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "expected"), [("", 1), ("a", 2), ("a/b", 3), ("a/b/c", 4)])
def test_levels(path: str, expected: int) -> None:
    """7: the root of a run is its first level."""
    assert level(path) == expected


@pytest.mark.parametrize(
    ("paths", "gap_s", "is_walk"),
    [
        (["", "a", "b"], 0.1, False), (["", "a", "b", "c"], 0.1, True), (["", "a", "b", "c"], 0.7, False),
        (["", "a", "b", "c"], 0.6, True), (["", "a", "a/b"], 0.1, False), (["", "a", "a/b", "a/c"], 0.1, True),
        (["a/b", "a/c"], 1.9, True), (["a/b", "a/c"], 2.1, False), (["a/b"], 0.0, False), (["a/b/c/d"], 0.0, False),
        (["a/b", "a/b/c"], 0.1, True), (["a/b", "c", "a/d"], 0.9, True),
        # The same again is no other directory.
        (["a/b", "a/b", "a/b", "a/b", "a/b"], 0.1, False), (["a", "b", "c", "a", "b", "c", "a"], 0.1, False),
    ],
)  # fmt: skip
async def test_what_a_walk_is(
    paths: list[str], gap_s: float, is_walk: bool, walks: Traversals, autojump_clock: MockClock
) -> None:
    """7: two directories from the third level on, or four of any, within two seconds."""
    for path in paths:
        assert walks.walk(1) is None
        walks.asked(1, path)
        if path != paths[-1]:
            await trio.sleep(gap_s)
    assert (walks.walk(1) is not None) is is_walk
    assert walks.walk(2) is None


async def test_runs_are_apart(walks: Traversals, autojump_clock: MockClock) -> None:
    """7: a look into each of many runs is a walk in none of them."""
    for run_id in range(1, 3000):
        walks.asked(run_id, "a/b")
        assert walks.walk(run_id) is None
    # Of runs long ago nothing is known any more.
    walks.asked(1, "a/c")
    assert walks.walk(1) is None


async def test_what_the_service_took_does_not_count(walks: Traversals, autojump_clock: MockClock) -> None:
    """7: the two seconds are the walker's own: on a slow service he walks, too."""
    for path in ("", "a", "a/b"):
        with walks.asking(1, path):
            await trio.sleep(10)
    assert walks.walk(1) is None
    with walks.asking(1, "a/c"):
        assert walks.walk(1) is not None


async def test_only_what_is_not_cached_counts(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """7: a look at what is cached costs nothing, and is no traversal."""
    service = FakeService(runs={1: run(1)})
    service.add_tree(1, many(10))
    tree = mounted(service, nursery)
    await walk(tree, 1)
    await trio.sleep(5)
    await walk(tree, 1)
    assert tree._walks.walk(1) is None


# --- how long it goes on ------------------------------------------------------------------------------------


async def begin(walks: Traversals, run_id: int = 1) -> None:
    walks.asked(run_id, "a/b")
    walks.asked(run_id, "a/c")
    assert walks.walk(run_id) is not None


async def test_it_ends_two_seconds_after_the_last_look(walks: Traversals, autojump_clock: MockClock) -> None:
    """7: a look goes on with it, at what is cached or not; two seconds without one end it."""
    await begin(walks)
    looks = (partial(walks.on_read, 1, "a/b"), partial(walks.asked, 1, "x"), partial(walks.on_read, 1, "x"))
    for look_at in looks:
        await trio.sleep(1.9)
        first = walks.walk(1)
        look_at()
        assert walks.walk(1) is first is not None
    await trio.sleep(1.9)
    assert walks.walk(1) is not None
    await trio.sleep(0.2)
    assert walks.walk(1) is None
    # And what was before does not begin another.
    walks.on_read(1, "a/c")
    walks.asked(1, "a/d")
    assert walks.walk(1) is None


async def test_a_second_look_is_no_step(walks: Traversals, autojump_clock: MockClock) -> None:
    """7: a directory counts once in a walk, except for one that had to be asked for again."""
    assert not walks.on_read(1, "a")
    await begin(walks)
    assert walks.on_read(1, "a/c")
    assert not walks.on_read(1, "a/c")
    assert walks.on_read(1, "a")
    walks.asked(1, "a/c")
    assert walks.on_read(1, "a/c")
    walk = walks.walk(1)
    assert walk is not None
    assert walk.on_read == 3
    # Repeated looks at what is cached do not continue a traversal.
    for _ in range(3):
        await trio.sleep(0.9)
        walks.on_read(1, "a")
    assert walks.walk(1) is None


async def test_it_does_not_end_during_a_wait(walks: Traversals, autojump_clock: MockClock) -> None:
    """7: a wait for an answer, or for a rate limit, does not end a traversal."""
    await begin(walks)
    with walks.asking(1, "a/d"):
        await trio.sleep(100)
        assert walks.walk(1) is not None
    await trio.sleep(1.9)
    assert walks.walk(1) is not None
    await trio.sleep(3)
    assert walks.walk(1) is None


async def test_a_look_that_is_given_up(walks: Traversals, autojump_clock: MockClock) -> None:
    """7: one that ended with an error, or was cancelled, is waited for no more."""
    await begin(walks)
    with trio.move_on_after(5), walks.asking(1, "a/d"):
        await trio.sleep(100)
    with pytest.raises(OSError, match="no"), walks.asking(1, "a/e"):
        raise OSError("no")
    await trio.sleep(5)
    assert walks.walk(1) is None


# --- what the log says --------------------------------------------------------------------------------------


async def test_what_it_cost(
    walks: Traversals, meter: Meter, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """7: when a walk ends the log says what it cost: directories, seconds, requests by kind, pauses, bytes."""
    caplog.set_level("INFO")
    meter.cost = RequestUsage({"run": 3, "listing": 5}, 1_000, 1.0)
    await begin(walks)
    for i in range(30):
        walks.on_read(1, f"a/{i}")
        await trio.sleep(0.1)
    meter.cost = RequestUsage({"run": 3, "listing": 12, "index": 1}, 1_000 + 500 * 1024, 3.5)
    assert said(caplog) == []
    await trio.sleep(3)
    assert said(caplog) == [
        "walked 32 directories of run 1 in 2.9 s; requests of this mount meanwhile: 1 index, 7 listing; "
        "2.5 s of pauses, all waits together; 500 KiB received"
    ]


async def test_a_walk_that_cost_nothing(
    walks: Traversals, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """7: a walk of looks that never open a directory counts these."""
    caplog.set_level("INFO")
    await begin(walks)
    walks.asked(1, "a/d")
    await trio.sleep(3)
    assert said(caplog) == [
        "walked 3 directories of run 1 in 0.0 s; requests of this mount meanwhile: none; "
        "0.0 s of pauses, all waits together; 0 KiB received"
    ]


async def test_one_line_a_walk(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """7: a `find`, however long, is one line in the log; two in two runs are two."""
    caplog.set_level("INFO")
    service = FakeService(runs={1: finished_run(1), 2: finished_run(2)}, latency_s=0.02)
    service.add_tree(1, many(100))
    service.add_tree(2, many(100), prefix="second")
    tree = mounted(service, nursery)
    for run_id in (1, 2):
        await walk(tree, run_id, pause_s=1.0)
    await trio.sleep(5)
    first, second = said(caplog)
    assert first.startswith("walked 10")
    assert "of run 1 in" in first
    assert "of run 2 in" in second
    assert "index" not in second


async def test_deep_looks(tree_of_one: Tree, autojump_clock: MockClock) -> None:
    """7: a look at one deep file is none; a new path of four levels is."""
    await look(tree_of_one, 1, "g0/d0")
    assert tree_of_one._walks.walk(1) is None
    await node(tree_of_one, 1, "g1/d10/f0")
    assert tree_of_one._walks.walk(1) is not None


@pytest.fixture
async def tree_of_one(nursery: trio.Nursery) -> Tree:
    service = FakeService(runs={1: run(1)}, latency_s=0.02)
    service.add_tree(1, many(20))
    return mounted(service, nursery, "off")
