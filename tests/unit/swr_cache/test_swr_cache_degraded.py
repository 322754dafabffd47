"""artifactfs.tree.swr_cache: old values while the service is slow or down (docs/semantics.md 3.2, 5.1)."""

import logging

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.circuit_breaker import PROBE_INTERVAL_S
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.swr_cache import REFRESH_WAIT_S, StaleWhileRevalidateCache
from tests.fakes import until
from tests.swr_caches import Source, cache_of, value


@pytest.fixture
def health() -> BackendHealth:
    return BackendHealth()


@pytest.fixture
async def cache(nursery: trio.Nursery, source: Source, health: BackendHealth) -> StaleWhileRevalidateCache[str, int]:
    return cache_of(source, nursery, health)


async def old(cache: StaleWhileRevalidateCache[str, int], *keys: str) -> None:
    """Put values into the cache and let them grow old."""
    for key in keys or ("k",):
        await cache.get(key)
    await trio.sleep(60)


# --- slow ---------------------------------------------------------------------------------------------------


async def test_a_refresh_within_a_second_is_waited_for(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """3.2: with an old value available, a refresh that takes less than a second is the answer."""
    await old(cache)
    source.latency_s = 0.9
    assert await value(cache) == 2


async def test_a_slow_refresh_goes_on(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """3.2: after 1 s the old value is served, and the refresh goes on and is the next answer."""
    await old(cache)
    source.latency_s = 3
    started = trio.current_time()
    held = await cache.get("k")
    assert held.value == 1
    assert cache.ttl_left_s(held) == 0
    assert trio.current_time() - started == pytest.approx(REFRESH_WAIT_S) == pytest.approx(1.0)
    await trio.sleep(2.1)
    assert await value(cache) == 2
    assert len(source.asked) == 2


async def test_a_later_caller_waits_for_the_rest_of_that_second(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """3.2: the second is the refresh's, not each caller's."""
    await old(cache)
    source.latency_s = 3
    async with trio.open_nursery() as callers:
        callers.start_soon(cache.get, "k")
        await trio.sleep(0.7)
        started = trio.current_time()
        assert await value(cache) == 1
        assert trio.current_time() - started == pytest.approx(0.3)
    started = trio.current_time()
    assert await value(cache) == 1
    assert trio.current_time() == started
    assert len(source.asked) == 2


# --- down ---------------------------------------------------------------------------------------------------


async def test_a_failing_refresh_serves_the_old_value(
    cache: StaleWhileRevalidateCache[str, int],
    source: Source,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """3.2: 429, 5xx and network: the old one is served, and the log says so."""
    await old(cache)
    source.error = errors.ServerFailed("lab answered 503", 503)
    with caplog.at_level(logging.WARNING, "artifactfs"):
        assert await value(cache) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("thing k: lab answered 503; the stale one is served; try again later")


@pytest.mark.parametrize("error", [errors.AccessDenied("x", 403), errors.UnexpectedAnswer("x", 200), RuntimeError("x")])
async def test_a_lasting_failure_is_returned(
    error: Exception, cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """3.2: what is not passing is the caller's: an old value would hide it."""
    await old(cache)
    source.error = error
    with pytest.raises(type(error)):
        await cache.get("k")


async def test_in_trouble_no_caller_waits(
    cache: StaleWhileRevalidateCache[str, int], source: Source, health: BackendHealth, autojump_clock: MockClock
) -> None:
    """5.1: after a failure old values are served at once; after 5 s that one is tried again, and another."""
    await old(cache, "a", "b", "c")
    source.error, source.latency_s = errors.TimedOut("x"), 0.5
    assert await value(cache, "a") == 1
    assert health.is_degraded
    source.asked.clear()
    started = trio.current_time()
    for _ in range(10):
        assert [await value(cache, key) for key in "abc"] == [1, 2, 3]
    assert trio.current_time() == started
    assert source.asked == []
    started = trio.current_time()
    await trio.sleep(PROBE_INTERVAL_S)
    for _ in range(10):
        assert [await value(cache, key) for key in "abc"] == [1, 2, 3]
    assert trio.current_time() == pytest.approx(started + PROBE_INTERVAL_S + 0.5)
    assert source.asked == ["a", "b"]  # a alone may be sick


async def test_a_probe_that_is_answered_ends_the_trouble(
    cache: StaleWhileRevalidateCache[str, int], source: Source, health: BackendHealth, autojump_clock: MockClock
) -> None:
    """5.1: the probe's answer counts, and refreshes are waited for again."""
    await old(cache, "a", "b")
    source.error = errors.TimedOut("x")
    await cache.get("a")
    source.error = None
    await trio.sleep(PROBE_INTERVAL_S)
    assert await value(cache, "a") == 1  # the old one at once; the probe is on its way
    await until(lambda: not health.is_degraded)
    assert await value(cache, "a") == 4
    source.latency_s = 0.5
    assert await value(cache, "b") == 5


async def test_a_slow_refresh_is_trouble(
    cache: StaleWhileRevalidateCache[str, int], source: Source, health: BackendHealth, autojump_clock: MockClock
) -> None:
    """3.2: where refreshes take too long, no second is waited for each other name; an answer ends that."""
    await old(cache, *"abcdef")
    source.latency_s = 3
    await cache.get("a")
    assert health.is_degraded
    started = trio.current_time()
    assert [await value(cache, name) for name in "bcdef"] == [2, 3, 4, 5, 6]
    assert trio.current_time() == started
    await trio.sleep(2.5)
    assert not health.is_degraded


@pytest.mark.parametrize("names", [1, 12])
@pytest.mark.parametrize(
    ("latency_s", "error"), [(30.0, errors.TimedOut("x")), (2.0, None), (0.0, errors.ServerFailed("x", 500))]
)
async def test_sick_directories_make_no_other_old(
    latency_s: float, error: Exception | None, names: int, cache: StaleWhileRevalidateCache[str, int], source: Source,
    autojump_clock: MockClock,
) -> None:  # fmt: skip
    """3.2, 5.1: while one name is refreshed in vain again and again, others are as fresh as ever, however rarely."""
    sick = [f"sick{number}" for number in range(names)]
    await old(cache, "well", *sick)
    source.latency_s, source.error, source.well = latency_s, error, "well"

    async def look(name: str) -> None:
        while True:
            await cache.get(name)
            await trio.sleep(1)

    async with trio.open_nursery() as lookers:
        for name in sick:
            lookers.start_soon(look, name)
        await trio.sleep(20)  # by now each of them was slow, or failed
        for _ in range(3):
            assert cache.ttl_left_s(await cache.get("well")) > 0
            await trio.sleep(61)
        lookers.cancel_scope.cancel()


async def test_trouble_is_shared_by_all_keys(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: the caches of one mount share what is known of the service; any answer, a 404 too, clears it."""
    health = BackendHealth()
    health.on_failure("k", trio.current_time())
    assert health.is_degraded
    source = Source()
    source.error = errors.NotFound("no", 404)
    cache: StaleWhileRevalidateCache[str, int] = StaleWhileRevalidateCache(
        lambda key: f"thing {key}",
        fetch=source.fetch,
        ttl_s=lambda _value: 60.0,
        weight=lambda _value: 1,
        max_weight=100,
        negative_ttl_s=10.0,
        stale_max_s=3600.0,
        health=health,
        nursery=nursery,
        clock=trio.current_time,
    )
    with pytest.raises(errors.NoSuchEntry):
        await cache.get("k")
    assert not health.is_degraded


async def test_fresh_values_need_no_service(
    cache: StaleWhileRevalidateCache[str, int], source: Source, health: BackendHealth, autojump_clock: MockClock
) -> None:
    """5.1: what is cached and fresh never waits for the network, in trouble or not."""
    await cache.get("k")
    health.on_failure("k", trio.current_time())
    source.asked.clear()
    assert await value(cache) == 1
    assert source.asked == []


async def test_a_background_refresh_logs_its_failure(
    cache: StaleWhileRevalidateCache[str, int],
    source: Source,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """3.2: a background refresh that fails for good is in the log, a bug with its traceback, and ends nothing else."""
    await old(cache)
    source.latency_s, source.error = 3, RuntimeError("bug")
    assert await value(cache) == 1
    with caplog.at_level(logging.WARNING, "artifactfs"):
        await trio.sleep(3)
    (record,) = caplog.records
    assert record.getMessage() == "thing k: the refresh failed: bug"
    assert record.exc_info is not None
    source.latency_s, source.error = 0, None
    await trio.sleep(PROBE_INTERVAL_S)
    await cache.get("k")
    await until(lambda: cache.get_fresh("k") is not None)
    assert await value(cache) == 3


async def test_the_report_of_a_trouble(
    cache: StaleWhileRevalidateCache[str, int], source: Source, health: BackendHealth, autojump_clock: MockClock
) -> None:
    """5.3: whether something failed or only took long, and whether something old was served, of this trouble alone."""
    await old(cache)
    source.latency_s = 3
    assert await value(cache) == 1
    assert (health.is_degraded, health.with_errors, health.with_stale) == (True, False, True)
    await trio.sleep(3)
    assert not health.is_degraded
    source.error, source.latency_s = errors.ServerFailed("x", 500), 0.0
    with pytest.raises(errors.ServerFailed):
        await cache.get("new")
    assert (health.is_degraded, health.with_errors, health.with_stale) == (True, True, False)
    await trio.sleep(60)
    assert await value(cache) == 2
    assert (health.with_errors, health.with_stale, health.stale_served) == (True, True, 2)


# --- Health -------------------------------------------------------------------------------------------------


def test_probes_have_a_distance() -> None:
    """5.1: at most one probe in 5 s of what failed, counted from the failure and from the last probe."""
    health = BackendHealth()
    assert not health.is_degraded
    health.on_failure("k", 100.0)
    assert not health.try_probe("k", 104.9)
    assert health.try_probe("k", 105.0)
    assert not health.try_probe("k", 105.0)
    health.on_failure("k", 105.5)
    assert not health.try_probe("k", 109.9)
    assert health.try_probe("k", 110.0)
    health.on_success("k", 106.0)
    assert not health.is_degraded


@pytest.mark.parametrize("how", ["on_failure", "on_timeout"])
def test_others_have_turns_of_their_own(how: str) -> None:
    """5.1: what is sick takes no turn of others: they have one in 5 s, and one at once where it is sick again."""
    health = BackendHealth()
    getattr(health, how)("sick", 100.0)
    assert not health.try_probe("well", 104.9)
    assert health.try_probe("sick", 105.0)
    assert health.try_probe("well", 105.1)
    assert not health.try_probe("another", 105.2)
    assert not health.try_probe("sick", 110.0)  # well's answer tells
    assert health.try_probe("another", 110.1)
    health.on_success("another", 110.2)
    getattr(health, how)("sick", 111.0)
    assert health.try_probe("well", 111.0)


async def test_a_doubted_value_is_asked_for_again_and_kept(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """3.2: what is doubted is old from now on, and as good as anything old where the service fails."""
    assert await value(cache) == 1
    cache.mark_stale("k")
    assert cache.get_fresh("k") is None
    source.error = errors.ServerFailed("answered 500", 500)
    assert await value(cache) == 1
    source.error = None
    await trio.sleep(PROBE_INTERVAL_S)
    assert await value(cache) == 1  # without a wait while the service is in trouble
    await until(lambda: cache.get_fresh("k") is not None)
    assert await value(cache) == 3
    cache.invalidate("k")
    assert cache.get_any("k") is None
