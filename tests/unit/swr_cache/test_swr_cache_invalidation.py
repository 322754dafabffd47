"""artifactfs.tree.swr_cache: refreshes on demand, bounds, and what is forgotten (docs/semantics.md 3.3)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from tests.fakes import TurnedClock
from tests.swr_caches import Make, Source, add_value, value

# --- refresh on demand --------------------------------------------------------------------------------------


async def test_expire_makes_the_next_look_ask(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """3.3: after a refresh was asked for, values and absences are old, whatever their time to live."""
    cache = make()
    held = await cache.get("k")
    source.error = errors.NotFound("no", 404)
    with pytest.raises(errors.NoSuchEntry):
        await cache.get("gone")
    source.error = None
    await trio.sleep(1)
    cache.mark_all_stale()
    assert cache.ttl_left_s(held) == 0
    assert cache.get_fresh("k") is None
    assert await value(cache) == 3
    assert await value(cache, "gone") == 4


async def test_expire_while_an_answer_is_on_its_way(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """3.3: an answer that was asked for before the refresh does not count as fresh after it."""
    source.latency_s = 5
    cache = make()
    async with trio.open_nursery() as callers:
        callers.start_soon(cache.get, "k")
        await trio.sleep(2)
        cache.mark_all_stale()
        assert await value(cache) == 2
    assert source.asked == ["k", "k"]
    assert await value(cache) == 2


async def test_an_old_absence_does_not_outlive_a_refresh(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """3.3: a 404 to a question from before the refresh neither hides nor removes what came after it."""
    cache = make()
    source.latency_s, source.error = 5, errors.NotFound("no", 404)
    async with trio.open_nursery() as callers:
        callers.start_soon(_absent, cache)
        await trio.sleep(2)
        cache.mark_all_stale()
        source.latency_s, source.error = 0, None
        assert await value(cache) == 2
    assert await value(cache) == 2
    assert source.asked == ["k", "k"]


async def _absent(cache: StaleWhileRevalidateCache[str, int]) -> None:
    with pytest.raises(errors.NoSuchEntry) as caught:
        await cache.get("k")
    assert caught.value.valid_s == 0


async def test_a_refresh_that_fails_leaves_the_old_value(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """3.3: what was fetched stays available in case the refresh fails for a passing reason."""
    cache = make()
    await cache.get("k")
    await trio.sleep(1)
    cache.mark_all_stale()
    source.error = errors.ServerFailed("x", 503)
    assert await value(cache) == 1


# --- bounds -------------------------------------------------------------------------------------------------


async def test_memory_is_bounded_by_weight(make: Make, source: Source, autojump_clock: MockClock) -> None:
    """What is held weighs at most `max_weight`; what goes is what was used least recently or ends first."""
    cache = make(max_weight=10)
    for key in "abcd":
        await cache.get(key)  # 1 + 2 + 3 + 4
    assert all(cache.get_fresh(key) for key in "abcd")
    await cache.get("e")  # 5 more
    held = [found.value for key in "abcde" if (found := cache.get_fresh(key))]
    assert sum(held) <= 10
    assert 5 in held


async def test_values_past_their_stale_time_are_forgotten(
    make: Make, source: Source, autojump_clock: MockClock
) -> None:
    """3.2: an old value serves for up to `stale_max` after its time; then a failure is a failure."""
    cache = make(stale_max_s=100.0)
    await cache.get("k")
    source.error = errors.ServerFailed("x", 503)
    await trio.sleep(159)
    assert await value(cache) == 1
    await trio.sleep(2)
    with pytest.raises(errors.ServerFailed):
        await cache.get("k")


# --- forgetting -------------------------------------------------------------------------------------------------


async def test_all_is_forgotten(make: Make, source: Source, clock: TurnedClock, autojump_clock: MockClock) -> None:
    """6.3: what is held goes, absences too; an old value does not serve where the service fails."""
    cache = make()
    assert await value(cache) == 1
    source.error = errors.NotFound("gone")
    with pytest.raises(errors.NoSuchEntry):
        await value(cache, "absent")
    cache.clear()
    source.error = errors.ServerFailed("down")
    with pytest.raises(errors.ServerFailed):
        await value(cache)
    source.error = None
    assert await value(cache) == 4
    assert await value(cache, "absent") == 5


@pytest.mark.parametrize("then", ["answered", "fails", "gone"])
@pytest.mark.parametrize("state", ["invalid", "stale"])
async def test_what_was_under_way_reaches_no_caller(
    state: str, then: str, make: Make, source: Source, autojump_clock: MockClock
) -> None:
    """6.3: a caller that waits for it sends another request, and gets no stale value either."""
    cache = make(ttl_s=0.0 if state == "stale" else 60.0)
    asked = 0
    if state == "stale":
        asked = await value(cache)
    source.latency_s = 0.9
    if then != "answered":
        source.error = errors.ServerFailed("down") if then == "fails" else errors.NotFound("gone")
    found: list[int] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add_value, found, cache)
        await trio.sleep(0.5)
        source.error = None
        cache.clear()
        await add_value(found, cache)
    assert found == [asked + 2, asked + 2]
    assert source.finished == asked + 1


@pytest.mark.parametrize("how", ["replaced", "marked", "invalidated", "hangs"])
async def test_what_is_joined_no_more_reaches_no_caller(
    how: str, make: Make, source: Source, autojump_clock: MockClock
) -> None:
    """6.3: nor does a fetch that was discarded, or whose place another one took, and it is not stored either."""
    cache = make()
    source.latency_s = 5.0
    found: list[int] = []

    async with trio.open_nursery() as nursery:
        if how == "hangs":
            with trio.move_on_after(0.1):
                await add_value(found, cache)
            await trio.sleep(1.5)
        nursery.start_soon(add_value, found, cache)
        await trio.sleep(0.1)
        if how == "replaced":
            cache.mark_all_stale()
            nursery.start_soon(add_value, found, cache)
            await trio.sleep(0.1)
        elif how == "marked":
            cache.mark_stale("k")
        elif how == "invalidated":
            cache.invalidate("k")
        asked = source.answers
        cache.clear()
    assert set(found) == {asked + 1}
    await trio.sleep(10)
    assert (await value(cache), source.finished) == (asked + 1, 1)


async def test_what_came_in_the_same_moment_reaches_no_caller(
    make: Make, source: Source, autojump_clock: MockClock
) -> None:
    """6.3: nor what has come when the caller that waits for it has not gone on yet: trio's order of tasks is random."""
    cache = make()
    source.latency_s = 1.0
    found: list[int] = []

    for _ in range(20):
        cache.clear()
        asked = source.answers
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add_value, found, cache)
            await trio.sleep(1.0)
            cache.clear()
        assert found.pop() == asked + 2


async def test_what_came_by_another_way_counts_if_asked_later(make: Make, autojump_clock: MockClock) -> None:
    """6.3: what was requested before the clearing, by a caller that stores it itself, is not kept."""
    cache = make()
    cache.clear()
    cache.store("other", 7, trio.current_time())
    assert cache.get_any("other") is None
    await trio.sleep(0.1)
    cache.store("other", 8, trio.current_time())
    assert await value(cache, "other") == 8
