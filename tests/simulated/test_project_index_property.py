"""The index in the tree against any history: changes, wrong indexes, failures, refreshes, time (1.6, 2.3, 3)."""

import zlib
from collections.abc import Callable

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import IndexedFile
from artifactfs.tree.nodes import ArtifactDir, Entry
from artifactfs.tree.tree import Tree
from tests.fakes import FakeService, run
from tests.walking import entries, is_there, mounted, node, truth, walk

# What is there from beginning to end, and what comes and goes.
STABLE = {f"g{i}/d{j}/keep{k}": 10 * i + j for i in range(3) for j in range(3) for k in range(2)} | {"top": 5}
MOVING = [*(f"g{i}/d{j}/move" for i in range(3) for j in range(4)), "g0/move", "move", "g9/d9/move"]
FAILURES: list[Exception] = [
    errors.ServerFailed("no", 503),
    errors.RateLimited("no", 5.0),
    errors.NotFound("no", 404),
    errors.AnswerTooLarge("huge"),
]


class World:
    """A service whose only run changes, and whose index may be anything made of what there ever was."""

    def __init__(self) -> None:
        self.service = FakeService(runs={1: run(1)}, latency_s=0.02)
        self.files: dict[str, int] = dict(STABLE)
        self.failing = False
        self.publish()

    def publish(self, keep: Callable[[str], bool] = lambda _path: True, more: dict[str, int] | None = None) -> None:
        """Make the listings those of the files, and the index of those that are to be in it, and more."""
        self.service.listings.clear()
        self.service.projects.clear()
        self.service.add_tree(1, self.files)
        rows = [row for row in self.service.projects["10"] if keep(row.path.removeprefix("prefix/artifacts/"))]
        rows += [IndexedFile(f"prefix/artifacts/{path}", size) for path, size in (more or {}).items()]
        self.service.projects["10"] = rows


async def step(tree: Tree, world: World, what: str, which: int) -> None:
    service = world.service
    moving = MOVING[which % len(MOVING)]
    if what == "change":
        world.files[moving] = which
        world.publish()
    elif what == "remove":
        world.files.pop(moving, None)
        world.publish()
    elif what == "partial":
        world.publish(lambda path: zlib.crc32(b"%d %b" % (which, path.encode())) % 3 != 0)
    elif what == "ghosts":
        world.publish(more={f"{moving}{which}": 1, "g1/d1/ghost": which})
    elif what == "old":
        kept = list(service.projects["10"])
        world.files[moving] = which
        world.publish()
        service.projects["10"] = kept
    elif what == "fails":
        service.refusals["index", "10"] = FAILURES[which % len(FAILURES)]
    elif what == "works":
        service.refusals.clear()
    elif what == "slow":
        service.index_s = which % 5 * 0.5
    elif what == "wait":
        await trio.sleep((0.5, 3, 30, 65, 400)[which % 5])
    elif what == "refresh":
        tree.mark_all_stale()
    elif what == "walk":
        await entries(tree, 1)


def check_one_clock(tree: Tree, world: World) -> None:
    """Check that no file shows the run's time while another shows its own, among all listings that are fresh now."""
    run_ns = world.service.runs[1].created_ns
    times = set()
    # In one order, whatever the hash seed: a look may change what the next one sees.
    for path in sorted({"", *(path.rpartition("/")[0] for path in (*STABLE, *MOVING))}):
        contents = tree.try_list(ArtifactDir(1, path, Entry(b"", True, 0, 0), 0))
        times |= {entry.mtime_ns for entry in (contents.entries if contents else ()) if not entry.is_dir}
    assert run_ns not in times or times == {run_ns}, times


STEPS = st.tuples(
    st.sampled_from(
        [
            "change",
            "remove",
            "partial",
            "ghosts",
            "old",
            "fails",
            "works",
            "slow",
            "wait",
            "wait",
            "refresh",
            "walk",
            "walk",
        ]
    ),
    st.integers(0, 30),
)


@given(st.lists(STEPS, max_size=12))
def test_any_history(history: list[tuple[str, int]]) -> None:
    """1.6, 2.3: whatever an index says, a name that is there is found, and one run shows one clock.

    What is shown is the truth once all is old.
    """

    async def main() -> None:
        world = World()
        async with trio.open_nursery() as nursery:
            tree = mounted(world.service, nursery)
            for what, which in history:
                await step(tree, world, what, which)
                check_one_clock(tree, world)
                for path, size in list(STABLE.items())[which % 5 :: 5]:
                    assert (await node(tree, 1, path)).entry.size_bytes == size, (what, path)
                assert not await is_there(tree, 1, "g0/d0/never")
            world.publish()
            await trio.sleep(500)
            assert await walk(tree, 1) == truth(world.service, 1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


@settings(max_examples=50)
@given(st.lists(STEPS, max_size=6), st.lists(STEPS, min_size=1, max_size=6))
def test_any_history_in_the_middle_of_a_walk(before: list[tuple[str, int]], during: list[tuple[str, int]]) -> None:
    """1.6, 3.3: the same while a process walks all the time; no traversal fails or hangs."""

    async def main() -> None:
        world = World()
        async with trio.open_nursery() as nursery:
            tree = mounted(world.service, nursery)
            for what, which in before:
                await step(tree, world, what, which)
            async with trio.open_nursery() as walkers:
                walkers.start_soon(keep_walking, tree)
                for what, which in during:
                    await trio.sleep(0.03 * (which % 4))
                    await step(tree, world, what, which)
                    check_one_clock(tree, world)
                    for path, size in list(STABLE.items())[which % 5 :: 5]:
                        assert (await node(tree, 1, path)).entry.size_bytes == size, (what, path)
                walkers.cancel_scope.cancel()
            world.publish()
            await trio.sleep(500)
            assert await walk(tree, 1) == truth(world.service, 1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def keep_walking(tree: Tree) -> None:
    """Walk again and again; a directory that goes meanwhile is no fault."""
    while True:
        try:
            await entries(tree, 1, pause_s=0.01)
            await trio.sleep(1)
        except errors.NoSuchEntry:
            await trio.sleep(0.01)
