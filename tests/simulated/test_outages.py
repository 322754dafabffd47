"""3.1, 3.2, simulated: what a tree shows while its service is in trouble, with the real client, on a virtual clock.

The tree, the client and the emulator, in one process: an hour of trouble is over at once.
"""

import contextlib
from collections.abc import Awaitable, Callable

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.emulator.app import create_app
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.faults import Script
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Lab
from artifactfs.emulator.switches import Switches
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.transport import Transport
from artifactfs.tree.nodes import ArtifactDir, Node
from artifactfs.tree.tree import Tree
from tests.simulated.test_client_forms import KEYS

RUN = 7
DIRECTORIES = 8
DEADLINE_S = 30.0
# A refresh is waited for 1 s (docs/semantics.md 3.2); a look needs no time besides.
REFRESH_S = 1.0
LISTING_TTL_S = 60
STALE_MAX_S = 3600
LOST: dict[str, object] = {}
TROUBLES: dict[str, dict[str, object]] = {
    "fails": {"status": 500},
    "is too busy": {"status": 503},
    "limits the rate": {"rate_limit": {"reset_s": 2, "period": 2}},
    "stalls": {"stall": True},
    "loses connections": LOST,
}
# Within the deadline: no trouble, except for an old listing that is cached.
LATE: dict[str, object] = {"delay_s": 20.0}


class Wire(httpx.AsyncBaseTransport):
    """The emulator in this process; `lost`: each connection is reset before an answer."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.lost = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.lost:
            raise httpx.ReadError("reset")
        return await self._inner.handle_async_request(request)


class World:
    """A run of directories with a file each, and a tree of the service that has it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        lab, self.files = Lab(), MemoryTree("test")
        for number in range(DIRECTORIES):
            self.files.add(f"d{number}/f", number)
        lab.create(RUN, 10, self.files, status="running")
        app = create_app(lab, Switches())
        self.emulator: Emulator = app.state.emulator
        self.wire = Wire(httpx.ASGITransport(app=app))
        self.sender = Transport("http://127.0.0.1", KEYS, clock=trio.current_time, transport=self.wire)
        service = ModelLab(self.sender, deadline_s=DEADLINE_S)
        self.tree = Tree(service, site="test", nursery=nursery, clock=trio.current_time, prefetch="off")

    async def find(self) -> set[bytes]:
        """Return the paths below the run. Raises what the walk met."""
        found = set()
        todo: list[tuple[bytes, Node]] = [(b"", await self.look(str(RUN)))]
        while todo:
            path, node = todo.pop()
            assert isinstance(node, ArtifactDir)
            contents = await self.tree.contents(node)
            for entry in contents.entries:
                found.add(path + entry.name)
                if entry.is_dir:
                    todo.append((path + entry.name + b"/", contents.node_of(entry)))
        return found

    async def look(self, *names: str) -> Node:
        """Return the place at a path below /runs. Raises what looking it up raises."""
        node: Node = self.tree.root
        for name in ("runs", *names):
            node = (await self.tree.lookup(node, name.encode())).node
        return node

    def requests(self) -> int:
        """Return how many requests came, except for those that were lost."""
        requests: object = self.emulator.stats.told()["requests"]
        assert isinstance(requests, dict)
        return sum(requests.values())

    def trouble(self, then: dict[str, object], kind: str = "any") -> None:
        self.wire.lost = then is LOST
        self.emulator.script = Script.parse([{"match": {"kind": kind}, "then": then}])

    def heal(self) -> None:
        self.wire.lost = False
        self.emulator.script = Script.parse([])


async def soon(look: Callable[[], Awaitable[object]], expected: object) -> bool:
    """Tell whether a look sees what is expected within two deadlines; meanwhile it may fail for a passing reason."""
    for _ in range(int(2 * DEADLINE_S)):
        with contextlib.suppress(errors.PassingError):
            if await look() == expected:
                return True
        await trio.sleep(1)
    return False


WHOLE = {name for number in range(DIRECTORIES) for name in (b"d%d" % number, b"d%d/f" % number)}


@pytest.mark.parametrize("then", [*TROUBLES.values(), LATE], ids=[*TROUBLES, "answers late"])
async def test_an_old_tree_is_served(then: dict[str, object], nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.2: in any passing trouble a walk over old listings waits 1 s once; after it what changed shows soon."""
    world = World(nursery)
    assert await world.find() == WHOLE
    await trio.sleep(LISTING_TTL_S + 1)
    world.emulator.stats.reset()
    world.trouble(then)
    began = trio.current_time()
    assert await world.find() == WHOLE
    assert trio.current_time() - began <= REFRESH_S
    # Also a quarter of an hour later, and by another one.
    await trio.sleep(15 * 60)
    began = trio.current_time()
    assert await world.find() == WHOLE
    assert trio.current_time() - began <= REFRESH_S
    # Probes, and what was under way when the trouble showed: not each directory of each walk, four times.
    assert world.requests() <= 5 * DIRECTORIES
    world.heal()
    world.files.add("new", 1)
    assert await soon(world.find, WHOLE | {b"new"})


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_an_old_tree_is_not_served_for_ever(
    trouble: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """3.2: past `stale_max` the trouble is reported, within the deadline, and never as an absence."""
    world = World(nursery)
    assert await world.find() == WHOLE
    await trio.sleep(STALE_MAX_S + LISTING_TTL_S + 1)
    world.trouble(TROUBLES[trouble])
    began = trio.current_time()
    with pytest.raises(errors.PassingError):
        await world.find()
    assert trio.current_time() - began <= DEADLINE_S
    world.heal()
    assert await soon(world.find, WHOLE)


@pytest.mark.parametrize("kind", ["run", "listing"])
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_trouble_is_no_absence(
    trouble: str, kind: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """3.2: what no caller has seen yet fails with the trouble, and is there as soon as the trouble is over."""
    world = World(nursery)
    world.trouble(TROUBLES[trouble], kind)
    began = trio.current_time()
    with pytest.raises(errors.PassingError):
        await world.look(str(RUN), "d0", "f")
    assert trio.current_time() - began <= 2 * DEADLINE_S
    world.heal()
    assert await soon(world.find, WHOLE)
