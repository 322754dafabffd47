"""Answers that were requested before a refresh, an absence or a contradiction, and come after it (semantics.md 3.3)."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import DirectoryListing, Run
from artifactfs.tree import invalidation_times
from artifactfs.tree.invalidation_times import InvalidationTimes
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile
from artifactfs.tree.stored_values import RecalledValue
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from artifactfs.tree.tree import Tree
from tests.fakes import FakeService, directory, finished_run, run, walk
from tests.swr_caches import Source, add_value, cache_of, value
from tests.walking import mounted

SLOW_S = 3.0


class Answering(FakeService):
    """Answers as things are when they are asked for; pages and the `slow` directories come after SLOW_S."""

    slow: tuple[str, ...] = ()

    async def list_runs(self, count: int) -> list[Run]:
        found = await super().list_runs(count)
        await trio.sleep(SLOW_S)
        return found

    async def list_directory(self, run_id: int, path: str) -> DirectoryListing:
        is_slow = path in self.slow
        found = await super().list_directory(run_id, path)
        await trio.sleep(SLOW_S if is_slow else 0.0)
        return found


def tree_of(service: FakeService, nursery: trio.Nursery, *, prefetch: str = "off") -> Tree:
    """Return a tree whose validation of an index chooses `d7` first."""
    service.choose = lambda names, count: sorted(names, key=lambda name: name != "d7")[:count]
    return mounted(service, nursery, prefetch)


async def test_a_page_from_before_a_refresh_of_a_run(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.3: a page that comes after the refresh of a run, and was requested before, does not undo it."""
    service = Answering(runs={1: finished_run(1)}, listings={(1, ""): directory({"f": 5})})
    tree = tree_of(service, nursery)
    node = await walk(tree, "runs/1")
    async with trio.open_nursery() as callers:
        callers.start_soon(tree.contents, tree.runs)
        await trio.sleep(1)
        service.runs[1] = run(1, "running")
        tree.refresh(node)
    await tree.lookup(tree.runs, b"1")
    known = tree.known_run(1)
    assert known is not None
    assert known.status == "running"


async def test_a_page_from_before_an_absence(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """1.2: a run that was found to be gone does not come back with a page that was requested before."""
    service = Answering(runs={1: finished_run(1), 2: run(2)})
    tree = tree_of(service, nursery)
    async with trio.open_nursery() as callers:
        callers.start_soon(tree.contents, tree.runs)
        await trio.sleep(1)
        del service.runs[1]
        with pytest.raises(errors.NoSuchEntry):
            await tree.lookup(tree.runs, b"1")
    for _ in range(2):
        with pytest.raises(errors.NoSuchEntry):
            await tree.lookup(tree.runs, b"1")
        await trio.sleep(60)


async def _walked(tree: Tree, root: ArtifactDir) -> None:
    for number in range(5):
        await tree.contents((await tree.lookup(root, b"d%d" % number)).node)


@pytest.mark.parametrize("how", ["refresh", "contradiction"])
async def test_a_sample_from_before(how: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.3, 4.1: a directory listed to check the index, and refreshed or contradicted since, is listed again."""
    service = Answering(runs={1: run(1)}, room=False)
    service.add_tree(1, {f"d{each}/f": 10 for each in range(9)})
    tree = tree_of(service, nursery, prefetch="auto")
    file = await walk(tree, "runs/1/d7/f")
    assert isinstance(file, ArtifactFile)
    await trio.sleep(61)
    service.slow = ("d7",)
    root = await walk(tree, "runs/1")
    assert isinstance(root, ArtifactDir)
    async with trio.open_nursery() as callers:
        service.asked()
        callers.start_soon(_walked, tree, root)
        await trio.sleep(1.5)
        assert service.asked().count(("listing", 1, "d7")) == 1
        service.slow = ()
        service.listings[1, "d7"] = directory({"f": 20, "new": 1})
        if how == "refresh":
            tree.refresh(file.directory)
        else:
            tree.record_size_conflict(file, None)
        await trio.sleep(SLOW_S)
    found = [(each.name, each.size_bytes) for each in (await tree.contents(file.directory)).entries]
    assert found == [(b"f", 20), (b"new", 1)]


async def test_an_answer_from_before_a_refresh_ends_no_directory(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """3.2, 3.3: a directory that an outdated answer lacks, and a later one has, stays as it was listed since."""
    service = Answering(runs={1: run(1)}, listings={(1, "d"): directory({"f": 10})})
    service.listings[1, ""] = directory(dirs=["d"])
    tree = tree_of(service, nursery)
    root, below = await walk(tree, "runs/1"), await walk(tree, "runs/1/d")
    await trio.sleep(61)
    service.listings[1, ""], service.slow = directory(), ("",)
    async with trio.open_nursery() as callers:
        callers.start_soon(tree.contents, root)
        await trio.sleep(0.5)
        service.listings[1, ""], service.slow = directory(dirs=["d"]), ()
        tree.refresh(root)
        for node in (root, below):
            await tree.contents(node)
        await trio.sleep(SLOW_S)
    service.broken = errors.ServerFailed("answered 503", 503)
    assert [each.name for each in (await tree.contents(below)).entries] == [b"f"]


async def test_an_answer_from_before_a_refresh_ends_no_file(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """2.4, 3.3: nor is a file another one that such an answer lacks, and that grew since."""
    service = Answering(runs={1: run(1)}, listings={(1, ""): directory()})
    tree = tree_of(service, nursery)
    root = await walk(tree, "runs/1")
    await tree.contents(root)
    await trio.sleep(61)
    service.slow = ("",)
    numbers = set()
    async with trio.open_nursery() as callers:
        callers.start_soon(tree.contents, root)
        await trio.sleep(0.5)
        service.slow = ()
        for size in (10, 20):
            service.listings[1, ""] = directory({"log": size})
            tree.refresh(root)
            numbers.add((await tree.lookup(root, b"log")).node.entry.number)
        await trio.sleep(SLOW_S)
    service.listings[1, ""] = directory({"log": 30})
    tree.refresh(root)
    numbers.add((await tree.lookup(root, b"log")).node.entry.number)
    assert len(numbers) == 1


@pytest.mark.parametrize("is_void", [True, False])
async def test_an_answer_from_before_the_end_of_the_run(
    is_void: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """2.3: once all files of a run show when it ended, an answer that was requested before does not undo that."""
    service = Answering(runs={1: run(1)}, listings={(1, "d"): directory({"g": 1}, ["e"])})
    service.listings[1, ""] = directory({"f": 5}, ["d"])
    tree = tree_of(service, nursery)
    root, below, file = [await walk(tree, path) for path in ("runs/1", "runs/1/d", "runs/1/f")]
    await trio.sleep(61)
    service.slow = ("d",)
    async with trio.open_nursery() as callers:
        callers.start_soon(tree.contents, below)
        await trio.sleep(0.5)
        service.runs[1] = ended = finished_run(1, minutes_ago=1)
        tree.refresh(root if is_void else file)
        await tree.contents(root)
        await trio.sleep(SLOW_S)
    found = [*(await tree.contents(root)).entries, *(await tree.contents(below)).entries]
    assert {each.mtime_ns for each in found} == {ended.completed_ns}


async def test_a_listing_from_before_a_contradiction_does_not_answer_for_a_direct_one(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """4.1: after a contradiction the directory is listed on its own, though a listing from before comes meanwhile."""
    service = Answering(runs={1: run(1)}, room=False)
    service.add_tree(1, {f"d{each}/f": 10 for each in range(9)})
    tree = tree_of(service, nursery, prefetch="auto")
    file = await walk(tree, "runs/1/d0/f")
    root = await walk(tree, "runs/1")
    assert isinstance(file, ArtifactFile)
    assert isinstance(root, ArtifactDir)
    await _walked(tree, root)
    service.slow = ("d0",)
    tree.mark_suspect(file.directory)
    async with trio.open_nursery() as callers:
        callers.start_soon(tree.contents, file.directory)
        await trio.sleep(0.5)
        service.listings[1, "d0"] = directory({"f": 20})
        service.slow = ()
        tree.record_size_conflict(file, None)
        await trio.sleep(SLOW_S)
    found = [(each.name, each.size_bytes) for each in (await tree.contents(file.directory)).entries]
    assert found == [(b"f", 20)]


# --- one cache ----------------------------------------------------------------------------------------------

Cache = StaleWhileRevalidateCache[str, int]
HOW: dict[str, Callable[[Cache], None]] = {
    "marked": lambda cache: cache.mark_stale("k"),
    "refreshed": lambda cache: cache.mark_stale_where(lambda key: key == "k"),
    "invalidated": lambda cache: cache.invalidate("k"),
}


@pytest.mark.parametrize("how", [*HOW, "absent"])
@pytest.mark.parametrize("is_cached", [True, False])
async def test_what_was_requested_before_is_not_stored(
    how: str, is_cached: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """3.3: a value of another answer counts if it was requested later, whether the key was cached or not."""
    source = Source()
    cache = cache_of(source, nursery)
    if is_cached:
        await value(cache)
    await trio.sleep(61)
    requested_at = trio.current_time()
    await trio.sleep(1)
    if how == "absent":
        source.error = errors.NotFound("no")
        with pytest.raises(errors.NoSuchEntry):
            await value(cache)
    else:
        HOW[how](cache)
    await trio.sleep(1)
    cache.store("k", 70, requested_at)
    assert cache.get_fresh("k") is None
    assert cache.is_outdated("k", requested_at)
    assert (cache.get_any("k") is None) == (how in ("absent", "invalidated") or not is_cached)
    if how == "absent":
        with pytest.raises(errors.NoSuchEntry):
            await value(cache)
    cache.store("other", 80, requested_at)
    assert await value(cache, "other") == 80
    cache.store("k", 90, trio.current_time())
    assert await value(cache) == 90


async def test_a_fetch_that_seemed_to_hang_is_older_than_a_refresh(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """3.3: what another fetch took the place of, and a refresh came after, does not answer the next one."""
    source = Source()
    cache = cache_of(source, nursery)
    source.latency_s = 5.0
    with trio.move_on_after(0.1):
        await value(cache)
    await trio.sleep(1.5)
    with trio.move_on_after(0.1):
        await value(cache)
    cache.mark_stale_where(lambda _key: True)
    assert await value(cache) == 3
    assert (await cache.get("k")).value == 3


class Stored:
    """What an earlier mount stored: a fresh value, which is read when the gate opens."""

    def __init__(self) -> None:
        self.gate = trio.Event()

    async def recall(self, key: str) -> RecalledValue[int]:
        await self.gate.wait()
        return RecalledValue(7, trio.current_time(), trio.current_time() + 60.0)

    def save(self, key: str, value: int, before: int | None, requested_at: float, is_stale: bool) -> None: ...
    def remove(self, key: str) -> None: ...
    def mark_stale(self, key: str) -> None: ...


async def test_a_value_that_is_marked_while_it_is_recalled(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.2: a stored value that is marked stale while it is read does not become fresh."""
    source = Source()
    cache = cache_of(source, nursery)
    cache.stored = stored = Stored()
    found: list[int] = []

    async with trio.open_nursery() as callers:
        callers.start_soon(add_value, found, cache)
        await trio.sleep(1)
        cache.mark_stale("k")
        stored.gate.set()
    assert found == [1]


def test_the_times_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.3: what is forgotten of one key counts for all: an answer from before it is outdated."""
    monkeypatch.setattr(invalidation_times, "_MAX_KEYS", 3)
    monkeypatch.setattr(invalidation_times, "_MAX_CONDITIONS", 2)
    times = InvalidationTimes[str]()
    for now, key in enumerate("abca", start=1):
        invalidation_times.add(times, key, float(now))
    assert [invalidation_times.is_outdated(times, key, 1.5) for key in "abcz"] == [True, True, True, False]
    assert not invalidation_times.is_outdated(times, "a", 4.0)
    invalidation_times.add(times, "d", 5.0)
    assert [invalidation_times.is_outdated(times, "z", then) for then in (1.9, 2.0)] == [True, False]
    for then in (6.0, 7.0, 8.0):
        invalidation_times.add_where(times, lambda key: key == "y", then)
    assert [invalidation_times.is_outdated(times, "z", then) for then in (5.9, 6.0)] == [True, False]
    assert [invalidation_times.is_outdated(times, "y", then) for then in (7.9, 8.0)] == [True, False]
    assert (len(times.by_key), len(times.by_condition)) == (3, 2)
