"""What is too large, or failed with a pause that the service asks for: when it is asked for again (3.2)."""

import contextlib
from collections.abc import Callable

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.size_limits import DEFAULTS
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from artifactfs.tree.tree import Tree
from tests.fakes import walk
from tests.swr_caches import Source, cache_of, value
from tests.unit.test_client import connect, listing, row

Cache = StaleWhileRevalidateCache[str, int]
ENDINGS: dict[str, Callable[[Cache], None]] = {
    "refreshed": lambda cache: cache.mark_stale_where(lambda key: key == "k"),
    "all": lambda cache: cache.mark_all_stale(),
    "marked": lambda cache: cache.mark_stale("k"),
    "invalidated": lambda cache: cache.invalidate("k"),
    "cleared": lambda cache: cache.clear(),
}


async def _failed(cache: Cache, key: str = "k") -> None:
    with pytest.raises(errors.ServiceError):
        await cache.get(key)
    with pytest.raises(errors.ServiceError):
        await cache.refetch(key)


@pytest.mark.parametrize("is_stale", [True, False])
async def test_what_is_too_large_answers_for_a_moment(
    is_stale: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """3.2: what is too large is asked for once in two seconds, however many ask; other keys are not concerned."""
    source = Source()
    cache = cache_of(source, nursery)
    if is_stale:
        await value(cache)
        await trio.sleep(61)
    source.asked.clear()
    source.error, source.latency_s = errors.AnswerTooLarge("no"), 0.5
    async with trio.open_nursery() as callers:
        for _ in range(20):
            callers.start_soon(_failed, cache)
    for _ in range(18):
        await trio.sleep(0.1)
        await _failed(cache)
    assert source.asked == ["k"]
    source.error = None
    await value(cache, "other")
    await trio.sleep(0.3)
    assert await value(cache) == source.answers
    assert source.asked == ["k", "other", "k"]


@pytest.mark.parametrize("how", ENDINGS)
async def test_a_refresh_asks_at_once(how: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.3: a refresh ends a pause, and one that was on its way."""
    source = Source()
    cache = cache_of(source, nursery)
    source.error = errors.AnswerTooLarge("no")
    await _failed(cache)
    source.error = None
    ENDINGS[how](cache)
    assert await value(cache) == source.answers
    await trio.sleep(61)
    source.error, source.latency_s = errors.AnswerTooLarge("no"), 0.8
    async with trio.open_nursery() as callers:
        callers.start_soon(_failed_once, cache)
        await trio.sleep(0.5)
        source.error = None
        ENDINGS[how](cache)
    assert await value(cache) == source.answers


async def _failed_once(cache: Cache) -> None:
    with contextlib.suppress(errors.AnswerTooLarge):
        await cache.get("k")


async def test_what_passes_and_bugs_are_asked_for_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """3.2: any other failure says nothing of the next attempt: access may be granted in this moment."""
    source = Source()
    cache = cache_of(source, nursery)
    for error in (
        errors.ServerFailed("503"),
        errors.AccessDenied("403"),
        errors.UnexpectedAnswer("odd"),
        ValueError("a bug"),
    ):
        source.error = error
        with pytest.raises(type(error)):
            await value(cache)
        source.error = None
        assert await value(cache) == source.answers
        cache.evict("k")


async def test_a_failure_that_is_raised_often_holds_no_frames(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A program that retries without end does not make a traceback without end."""
    source = Source()
    cache = cache_of(source, nursery)
    source.error = errors.AnswerTooLarge("no")
    for _ in range(50):
        await _failed(cache)
    depth, at = 0, source.error.__traceback__
    while at is not None:
        depth, at = depth + 1, at.tb_next
    assert depth < 20


async def test_a_program_that_retries(autojump_clock: MockClock) -> None:
    """3.2: a directory that is too large costs a request in two seconds; what is beside it is shown."""
    too_large = listing(*({"path": f"bad/{number}", "file_size": 1} for number in range(50)))

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/runs/1001"):
            return httpx.Response(200, json={"data": row(1001, project_id="7")})
        path = request.url.params.get("path", "").strip("/")
        if path.startswith("bad"):
            return too_large
        base = f"{path}/" if path else ""
        return listing(*({"path": f"{base}{name}", "is_dir": True} for name in ("bad/", "good/")), {"path": f"{base}f"})

    service, server = connect(handler, sizes=msgspec.structs.replace(DEFAULTS, rows=20))
    async with trio.open_nursery() as nursery:
        tree = Tree(service, site="site", nursery=nursery, clock=trio.current_time)
        good, bad = await walk(tree, "runs/1001/good"), await walk(tree, "runs/1001/bad")
        assert isinstance(bad, ArtifactDir)
        await tree.contents(good)
        server.requests.clear()
        for _ in range(200):
            with pytest.raises(errors.ServiceError):
                await tree.contents(bad)
            with pytest.raises(errors.ServiceError):
                await tree.lookup(bad, b"x")
            assert isinstance((await tree.lookup(good, b"f")).node, ArtifactFile)
            await trio.sleep(0.05)
        assert len(server.requests) <= 6
        asked = len(server.requests)
        await trio.sleep(0.1)
        tree.refresh(bad)
        with pytest.raises(errors.ServiceError):
            await tree.contents(bad)
        assert len(server.requests) > asked
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_stale", [True, False])
async def test_a_failure_that_names_a_pause(is_stale: bool, autojump_clock: MockClock) -> None:
    """5.4: what failed with a `Retry-After` beyond the deadline is not asked for again before, nor hidden if stale."""
    failing = False

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/runs/1001"):
            return httpx.Response(200, json={"data": row(1001, project_id="7")})
        if failing:
            return httpx.Response(503, headers={"Retry-After": "120"})
        return listing({"path": "f", "file_size": 1})

    service, server = connect(handler)
    async with trio.open_nursery() as nursery:
        tree = Tree(service, site="site", nursery=nursery, clock=trio.current_time)
        root = await walk(tree, "runs/1001")
        if is_stale:
            await tree.contents(root)
            await trio.sleep(61)
        failing = True
        await tree.lookup(tree.runs, b"1001")
        server.requests.clear()
        for _ in range(100):
            if is_stale:
                assert [each.name for each in (await tree.contents(root)).entries] == [b"f"]
            else:
                with pytest.raises(errors.ServerFailed):
                    await tree.contents(root)
            await trio.sleep(0.2)
        assert len(server.requests) == 1
        failing = False
        await trio.sleep(11)
        await tree.contents(root)
        await trio.sleep(1)
        assert [each.name for each in (await tree.contents(root)).entries] == [b"f"]
        assert len(server.requests) >= 2
        nursery.cancel_scope.cancel()
