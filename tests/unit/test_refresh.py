"""artifactfs.tree: a requested refresh (semantics.md 3.3): which entries are fetched again, how long callers wait."""

import errno
import threading

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import Project
from artifactfs.fuse import kernel_dentries as kernel_names
from artifactfs.fuse.kernel_dentries import KernelDentries
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.nodes import LookupResult, Node
from artifactfs.tree.swr_cache import REFRESH_WAIT_S, REQUESTED_WAIT_S, StaleWhileRevalidateCache
from artifactfs.tree.tree import Tree
from tests.fakes import NOW_NS, FakeService, TurnedClock, run, until
from tests.swr_caches import Source, cache_of


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def health() -> BackendHealth:
    return BackendHealth()


@pytest.fixture
async def cache(nursery: trio.Nursery, source: Source, health: BackendHealth) -> StaleWhileRevalidateCache[str, int]:
    return cache_of(source, nursery, health)


async def value(cache: StaleWhileRevalidateCache[str, int], key: str = "k") -> int:
    return (await cache.get(key)).value


# --- one cache ----------------------------------------------------------------------------------------------


async def test_refreshed_keys_are_requested_again(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """3.3: values and absences whose keys are meant are asked for at the next look; others are trusted."""
    for key in ("a", "b"):
        await value(cache, key)
    source.error = errors.NotFound("x")
    for key in ("c", "d"):
        with pytest.raises(errors.NoSuchEntry):
            await value(cache, key)
    source.error = None
    source.asked.clear()
    cache.mark_stale_where(lambda key: key in "ac")
    assert [await value(cache, key) for key in "ab"] == [5, 2]
    assert await value(cache, "c") == 6
    with pytest.raises(errors.NoSuchEntry):
        await value(cache, "d")
    assert source.asked == ["a", "c"]


async def test_what_was_under_way_does_not_count(
    cache: StaleWhileRevalidateCache[str, int], source: Source, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """3.3: an answer to what was asked before the refresh is for who waited; the next look asks again."""
    source.latency_s = 0.5
    nursery.start_soon(value, cache)
    await trio.sleep(0.1)
    cache.mark_stale_where(lambda _: True)
    await trio.sleep(1)
    assert await value(cache) == 2


@pytest.mark.parametrize("way", ["asked_anew", "expire"])
async def test_the_caller_of_a_refresh_waits_longer(
    way: str, cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """3.3: a service that takes longer than a second is waited for after a refresh, though not for ever."""
    await value(cache)
    if way == "expire":
        await trio.sleep(1)
        cache.mark_all_stale()
    else:
        cache.mark_stale_where(lambda _: True)
    source.latency_s = REFRESH_WAIT_S * 3
    assert await value(cache) == 2
    source.latency_s = REQUESTED_WAIT_S * 2
    cache.mark_stale_where(lambda _: True)
    start = trio.current_time()
    assert await value(cache) == 2
    assert trio.current_time() - start == pytest.approx(REQUESTED_WAIT_S)


async def test_in_trouble_one_look_waits(
    cache: StaleWhileRevalidateCache[str, int], source: Source, health: BackendHealth, autojump_clock: MockClock
) -> None:
    """3.3, 5.1: of a service in trouble the first look after a refresh waits; others but a probe have the old value."""
    for key in "abc":
        await value(cache, key)
    health.on_failure("other", trio.current_time())
    source.latency_s = REQUESTED_WAIT_S * 2
    cache.mark_stale_where(lambda _: True)
    waits = []
    for key in "abc":
        start = trio.current_time()
        await value(cache, key)
        waits.append(trio.current_time() - start)
    assert waits == [pytest.approx(REQUESTED_WAIT_S), pytest.approx(REFRESH_WAIT_S), 0.0]
    assert health.stale_served == 3


async def test_a_refresh_that_fails_leaves_the_old(
    cache: StaleWhileRevalidateCache[str, int], source: Source, health: BackendHealth, autojump_clock: MockClock
) -> None:
    """3.2: where the service fails for a passing reason, what was known is served, and that it is old is reported."""
    await value(cache)
    source.error = errors.ServerFailed("x")
    cache.mark_stale_where(lambda _: True)
    since = trio.current_time()
    assert await value(cache) == 1
    assert (health.degraded_since, health.stale_served) == (since, 1)
    source.error = None
    await trio.sleep(10)
    await value(cache)  # the probe, without a caller
    await until(lambda: health.degraded_since is None)
    assert await value(cache) == 3
    assert (health.degraded_since, health.recovered_at) == (None, trio.current_time())


# --- the tree -----------------------------------------------------------------------------------------------


@pytest.fixture
def service() -> FakeService:
    service = FakeService(runs={1: run(1), 2: run(2)}, catalogue={10: Project(10, "p"), 11: Project(11, "q")})
    for run_id in (1, 2):
        service.add_tree(run_id, {"a": 1, "d/b": 1, "d/e/c": 1, "dx/f": 1}, prefix=f"{run_id}/artifacts")
    return service


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)


async def place(tree: Tree, path: str) -> Node:
    found = LookupResult(tree.root, 0.0)
    for name in filter(None, path.split("/")):
        found = await tree.lookup(found.node, name.encode())
    return found.node


PLACES = (
    "runs", "runs/1", "runs/1/d", "runs/1/d/e", "runs/1/dx", "runs/2", "runs/2/d", "projects", "projects/10",
    "names/p~10", "projects/11",
)  # fmt: skip


async def look_at_all(tree: Tree, service: FakeService) -> list[tuple[object, ...]]:
    for path in PLACES:
        await tree.contents(await place(tree, path))
    return sorted(service.asked(), key=str)


RUN_1 = {("run", 1), ("listing", 1, ""), ("listing", 1, "d"), ("listing", 1, "d/e"), ("listing", 1, "dx")}


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("runs/1", RUN_1),
        ("runs/1/d", {("run", 1), ("listing", 1, "d"), ("listing", 1, "d/e")}),
        ("runs/1/d/e", {("run", 1), ("listing", 1, "d/e")}),
        ("runs/1/a", {("run", 1), ("listing", 1, "")}),
        ("runs/1/d/b", {("run", 1), ("listing", 1, "d")}),
        ("projects/10", {("runs", 200, 10), ("project", 10), ("run", 1), ("run", 2)}),
        ("names/p~10", {("runs", 200, 10), ("project", 10), ("run", 1), ("run", 2), ("projects", 1000)}),
        ("projects", {("runs", 200, 10), ("runs", 200, 11), ("runs", 200), ("projects", 1000)}),
    ],
)
async def test_the_requests_of_a_refresh(
    path: str, asked: set[tuple[object, ...]], tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """3.3: the next look at a place and at what is below asks the service, once each; nothing else does."""
    await look_at_all(tree, service)
    assert await look_at_all(tree, service) == []
    node = await place(tree, path)
    await trio.sleep(1)
    tree.refresh(node)
    again = await look_at_all(tree, service)
    assert set(again) >= asked - {("project", 10)}
    assert {call for call in again if call[0] == "listing"} == {call for call in asked if call[0] == "listing"}
    assert len(set(again)) == len(again)
    assert await look_at_all(tree, service) == []


@pytest.mark.parametrize("path", ["", "runs"])
async def test_a_refresh_of_all(path: str, tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.3: of the mount, or of /runs: everything is asked for again."""
    first = await look_at_all(tree, service)
    node = await place(tree, path)
    await trio.sleep(1)
    tree.refresh(node)
    again = await look_at_all(tree, service)
    assert {call for call in again if call[0] == "listing"} == {call for call in first if call[0] == "listing"}
    assert ("runs", 200) in again


async def test_facts_send_no_request(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.6: what is known of a listing: its age, whose it is, how much is in it; without a listing nothing."""
    directory = await place(tree, "runs/1/d")
    assert tree.facts(directory) is None
    await tree.contents(directory)
    await trio.sleep(10)
    service.asked()
    facts = tree.facts(directory)
    assert facts is not None
    assert (facts.age_s, facts.left_s) == pytest.approx((10, 50))
    assert (facts.source.value, facts.entries) == ("own", 2)
    in_it = tree.facts(await place(tree, "runs/1/d/b"))
    assert in_it == facts
    for path in ("runs", "projects/10", "names"):
        node = await place(tree, path)
        await tree.contents(node)
        known = tree.facts(node)
        assert known is not None
        assert known.age_s == 0
    assert tree.facts(tree.root) is None
    state = tree.state()
    assert (state.listings, state.entries, state.runs, state.projects) == (2, 5, 2, 2)


# --- the kernel's names -------------------------------------------------------------------------------------


@pytest.fixture
def no_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_names, "_new_epoch", lambda: False)


async def test_names_are_dropped_one_by_one(no_epochs: None) -> None:
    """3.4: without epochs each name is dropped, in a thread; one that the kernel does not know is as good."""
    dropped: list[tuple[int, bytes]] = []

    def invalidate(parent: int, name: bytes) -> None:
        dropped.append((parent, name))
        if name == b"unknown":
            raise OSError(errno.ENOENT, "x")
        if name == b"odd":
            raise OSError(errno.EIO, "x")

    names = KernelDentries(invalidate)
    wanted = [(1, b"runs"), (1, b"unknown"), (1, b"odd"), (2, b"7")]
    assert await names.drop(wanted)
    assert dropped == wanted
    assert not names.is_stuck


async def test_attributes_are_dropped(no_epochs: None) -> None:
    """2.3: each inode's attributes are dropped, and none of its pages; one that the kernel does not know is as good."""
    dropped: list[tuple[int, bool]] = []

    def invalidate_inode(inode: int, attributes_only: bool) -> None:
        dropped.append((inode, attributes_only))
        if inode in (7, 8):
            raise OSError(errno.ENOENT if inode == 7 else errno.EIO, "x")

    kernel = KernelDentries(invalidate_inode=invalidate_inode)
    await kernel.drop_attributes(range(2, 2_500))
    assert dropped == [(inode, True) for inode in range(2, 2_500)]
    kernel.end()
    await kernel.drop_attributes([1])
    assert len(dropped) == 2_498


async def test_pages_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.6: with each inode's attributes; a kernel that waits for a read in flight is waited for a limited time."""
    free = threading.Event()
    dropped: list[tuple[int, bool]] = []

    def invalidate_inode(inode: int, attributes_only: bool) -> None:
        dropped.append((inode, attributes_only))
        if inode == 9:
            free.wait(30)

    kernel = KernelDentries(invalidate_inode=invalidate_inode)
    assert await kernel.drop_pages([2, 3])
    assert dropped == [(2, False), (3, False)]
    monkeypatch.setattr(kernel_names, "_WAIT_S", 0.05)
    assert not await kernel.drop_pages([9])
    assert kernel.is_stuck
    free.set()
    with trio.fail_after(30):
        while kernel.is_stuck:  # noqa: ASYNC110 - the thread signals nothing
            await trio.sleep(0.01)


async def test_at_the_end_the_kernel_gets_no_notification(no_epochs: None) -> None:
    """5.6: what is closed is not written to: a thread that comes late does nothing."""
    dropped: list[bytes] = []
    names = KernelDentries(lambda _parent, name: dropped.append(name))
    names.end()
    assert await names.drop([(1, b"runs")])
    names._drop(1, b"runs")
    assert dropped == []


async def test_a_kernel_that_waits_is_left_alone(no_epochs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.4: where the kernel waits for a process, the mount waits for a limited time, and logs it."""
    free = threading.Event()
    monkeypatch.setattr(kernel_names, "_WAIT_S", 0.05)

    def invalidate(_parent: int, _name: bytes) -> None:
        free.wait(30)

    names = KernelDentries(invalidate)
    assert not await names.drop([(1, b"runs")])
    assert names.is_stuck
    free.set()
    with trio.fail_after(30):
        while names.is_stuck:  # noqa: ASYNC110 - the thread signals nothing
            await trio.sleep(0.01)


def test_without_a_device_there_are_no_epochs() -> None:
    """3.4: a process that serves no mount writes nowhere."""
    assert kernel_names._device() is None
    assert not kernel_names._new_epoch()
