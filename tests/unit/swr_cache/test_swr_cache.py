"""artifactfs.tree.swr_cache: time to live, single flight and negative entries (docs/semantics.md 3.1 to 3.3)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from tests.fakes import TurnedClock, until
from tests.swr_caches import NEGATIVE_S, Make, Source, add_value, value

# --- time to live -------------------------------------------------------------------------------------------


async def test_a_fresh_value_sends_no_request(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """3.1: within its time to live a value is trusted, and `left_s` is what is left of it; then it is asked for."""
    cache = make()
    held = await cache.get("k")
    assert cache.ttl_left_s(held) == pytest.approx(60)
    await trio.sleep(59)
    assert await value(cache) == 1
    assert cache.ttl_left_s(held) == pytest.approx(1)
    assert cache.get_fresh("k") is held
    await trio.sleep(1)
    assert cache.ttl_left_s(held) == 0
    assert cache.get_fresh("k") is None
    assert await value(cache) == 2
    assert source.asked == ["k", "k"]
    assert source.olds == [None, 1]


async def test_age_counts_from_the_question(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """3.1: a listing is at most its time to live old: the answer may be as old as the question."""
    source.latency_s = 20
    cache = make()
    held = await cache.get("k")
    assert cache.ttl_left_s(held) == pytest.approx(40)


async def test_time_goes_on_while_the_machine_sleeps(
    make: Make, source: Source, clock: TurnedClock, autojump_clock: MockClock
) -> None:
    """3.1: after a night in a bag, last night's listing is old."""
    cache = make(stale_max_s=1e6)
    await cache.get("k")
    clock.sleep_machine(8 * 3600)
    assert cache.get_fresh("k") is None
    assert await value(cache) == 2


async def test_keys_are_apart(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """A value is its key's."""
    cache = make()
    assert [await value(cache, key) for key in "aba"] == [1, 2, 1]


async def test_a_value_that_came_by_another_way(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """`put` takes a value as old as the question that it answers, and never over a newer one."""
    cache = make()
    await trio.sleep(100)
    held = cache.store("k", 7, 80.0)
    assert await value(cache) == 7
    assert cache.ttl_left_s(held) == pytest.approx(40)
    cache.store("k", 6, 70.0)
    assert await value(cache) == 7
    assert source.asked == []


async def test_what_is_dropped_is_asked_for(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """`invalidate` ends a value, which only the next fetch gets, and an absence."""
    cache = make()
    await cache.get("k")
    cache.invalidate("k")
    assert await value(cache) == 2
    assert source.olds == [None, 1]
    source.error = errors.NotFound("no")
    with pytest.raises(errors.NoSuchEntry):
        await cache.get("gone")
    source.error = None
    cache.invalidate("gone")
    assert await value(cache, "gone") == 4
    cache.invalidate("never there")


@pytest.mark.parametrize("how", ["invalid", "old"])
async def test_the_last_value_outlives_a_failed_fetch(
    how: str, make: Make, source: Source, clock: TurnedClock, autojump_clock: MockClock
) -> None:
    """2.4: a value that may not be served goes to each fetch until one succeeds, or finds that the key is gone."""
    cache = make()
    await cache.get("k")
    if how == "invalid":
        cache.invalidate("k")
    else:
        clock.sleep_machine(8 * 3600.0)
    source.error = errors.ServerFailed("answered 503", 503)
    with pytest.raises(errors.ServerFailed):
        await cache.get("k")
    assert cache.last_value("k") == 1
    source.error = None
    assert await value(cache) == 3
    assert source.olds == [None, 1, 1]
    source.error = errors.NotFound("no")
    cache.mark_stale("k")
    with pytest.raises(errors.NoSuchEntry):
        await cache.get("k")
    source.error = None
    await trio.sleep(11)
    assert await value(cache) == 5
    assert source.olds == [None, 1, 1, 3, None]


# --- single flight ------------------------------------------------------------------------------------------


async def test_equal_questions_in_flight_are_one(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """Ten callers, one question, one answer for all."""
    source.latency_s = 5
    cache = make()
    found: list[int] = []

    async with trio.open_nursery() as callers:
        for _ in range(10):
            callers.start_soon(add_value, found, cache)
    assert found == [1] * 10
    assert source.asked == ["k"]
    assert trio.current_time() == pytest.approx(5)


async def test_all_waiters_get_the_error_and_it_is_not_cached(
    make: Make, source: Source, autojump_clock: MockClock
) -> None:
    """3.2: an error that may pass goes to a caller that waits; the next caller asks again."""
    source.latency_s, source.error = 1, errors.ServerFailed("no", 503)
    cache = make()
    failed = 0

    async def ask() -> None:
        nonlocal failed
        with pytest.raises(errors.ServerFailed):
            await cache.get("k")
        failed += 1

    async with trio.open_nursery() as callers:
        for _ in range(3):
            callers.start_soon(ask)
    assert failed == 3
    source.error = None
    assert await value(cache) == 2


async def test_a_waiter_that_gives_up_does_not_end_the_fetch(
    make: Make, source: Source, autojump_clock: MockClock
) -> None:
    """Cancellations poison the pool: the fetch goes on, and its answer is there for the next caller."""
    source.latency_s = 5
    cache = make()
    with trio.move_on_after(1) as scope:
        await cache.get("k")
    assert scope.cancelled_caught
    await trio.sleep(4.5)
    assert source.finished == 1
    assert await value(cache) == 1
    assert source.asked == ["k"]


async def test_a_cancelled_leader_wakes_its_followers(source: Source, autojump_clock: MockClock) -> None:
    """When the mount's nursery is cancelled, a caller that waits gets an error of ours, and not a foreign Cancelled."""
    caught: list[BaseException] = []
    source.latency_s = 1000

    async def ask(cache: StaleWhileRevalidateCache[str, int]) -> None:
        try:
            await cache.get("k")
        except BaseException as error:
            caught.append(error)
            if isinstance(error, trio.Cancelled):
                raise

    async with trio.open_nursery() as callers, trio.open_nursery() as root:
        cache: StaleWhileRevalidateCache[str, int] = StaleWhileRevalidateCache(
            lambda key: f"thing {key}",
            fetch=source.fetch,
            ttl_s=lambda _value: 60.0,
            weight=lambda _value: 1,
            max_weight=10,
            negative_ttl_s=NEGATIVE_S,
            stale_max_s=0.0,
            health=BackendHealth(),
            nursery=root,
            clock=trio.current_time,
        )
        callers.start_soon(ask, cache)
        callers.start_soon(ask, cache)
        await until(lambda: bool(source.asked))
        root.cancel_scope.cancel()
    assert [type(error) for error in caught] == [errors.PassingError] * 2


async def test_a_bug_in_a_fetch_goes_to_the_waiter(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """5.5: a bug in one operation fails that operation: the mount's nursery survives."""
    source.error = RuntimeError("bug")
    cache = make()
    with pytest.raises(RuntimeError, match="bug"):
        await cache.get("k")
    source.error = None
    assert await value(cache) == 2


# --- absences -----------------------------------------------------------------------------------------------


async def test_an_absence_is_cached_for_its_time(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """3.1: "not there" stays fresh for at most `negative_ttl`, and says for how much longer."""
    source.error = errors.NotFound("no", 404)
    cache = make()
    with pytest.raises(errors.NoSuchEntry) as first:
        await cache.get("k")
    assert first.value.valid_s == pytest.approx(NEGATIVE_S)
    await trio.sleep(7)
    with pytest.raises(errors.NoSuchEntry) as second:
        await cache.get("k")
    assert second.value.valid_s == pytest.approx(3)
    assert source.asked == ["k"]
    await trio.sleep(3)
    source.error = None
    assert await value(cache) == 2


async def test_what_vanished_is_gone(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """3.1: where a refresh says NotFound, the old value is not served."""
    cache = make()
    await cache.get("k")
    await trio.sleep(60)
    source.error = errors.NotFound("no", 404)
    for _ in range(2):
        with pytest.raises(errors.NoSuchEntry):
            await cache.get("k")
    assert source.asked == ["k", "k"]


@pytest.mark.parametrize(
    "error",
    [
        errors.RateLimited("x", 9.0), errors.ServerFailed("x", 500), errors.TimedOut("x"), errors.ConnectionLost("x"),
        errors.ConnectionRefused("x"), errors.Unreachable("x"), errors.TlsFailed("x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_a_passing_error_is_never_an_absence(
    error: errors.PassingError, make: Make, source: Source, autojump_clock: MockClock
) -> None:
    """3.2: it is reported as what it is, never cached, and the next caller asks again."""
    source.error = error
    cache = make()
    with pytest.raises(type(error)):
        await cache.get("k")
    source.error = None
    assert await value(cache) == 2
