"""artifactfs.tree.swr_cache: fetches without callers, after a signal or a deadline (docs/semantics.md 5.2)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from tests.swr_caches import Source, cache_of


class Places:
    """Whether there is room for a prefetch."""

    has_room = True


@pytest.fixture
def places() -> Places:
    return Places()


@pytest.fixture
async def cache(nursery: trio.Nursery, source: Source, places: Places) -> StaleWhileRevalidateCache[str, int]:
    return cache_of(source, nursery, BackendHealth(), has_room=lambda: places.has_room)


async def give_up(cache: StaleWhileRevalidateCache[str, int], after_s: float) -> None:
    with trio.move_on_after(after_s) as scope:
        await cache.get("k")
    assert scope.cancelled_caught


async def test_it_goes_on(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """5.2: the wait is given up, and not the fetch: its answer is there for the next one."""
    source.latency_s = 20
    await give_up(cache, 0.5)
    await trio.sleep(20)
    assert (await cache.get("k")).value == 1
    assert source.asked == ["k"]


async def test_an_early_caller_joins_the_fetch(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """4.3: a fetch that is under way for a moment is nothing to ask again for."""
    source.latency_s = 5
    await give_up(cache, 0.5)
    await trio.sleep(0.3)
    assert (await cache.get("k")).value == 1
    assert trio.current_time() == pytest.approx(5)
    assert source.asked == ["k"]


async def test_a_later_caller_asks_again(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """5.2: what others gave up on may be stuck, where the service answers by now."""
    source.latency_s = 1000
    await give_up(cache, 1.5)
    source.latency_s = 0.02
    assert (await cache.get("k")).value == 2
    assert trio.current_time() == pytest.approx(1.52)


async def test_the_first_answer_is_for_all(
    cache: StaleWhileRevalidateCache[str, int], source: Source, autojump_clock: MockClock
) -> None:
    """5.2: what was thought stuck may come first; who asked again gets that."""
    source.latency_s = 10
    await give_up(cache, 2)
    source.latency_s = 20
    assert (await cache.get("k")).value == 1
    assert trio.current_time() == pytest.approx(10)
    # The second answer is the newer one.
    await trio.sleep(13)
    assert (await cache.get("k")).value == 2


async def test_waiting_callers_share_one_request(
    cache: StaleWhileRevalidateCache[str, int],
    source: Source,
    places: Places,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:
    """5.2: one of two gives up: the other's fetch is his, whether there is room or not."""
    source.latency_s = 10
    places.has_room = False
    nursery.start_soon(cache.get, "k")
    await trio.lowlevel.checkpoint()
    await give_up(cache, 3)
    assert (await cache.get("k")).value == 1
    assert source.asked == ["k"]


async def test_it_ends_where_others_need_its_place(
    cache: StaleWhileRevalidateCache[str, int], source: Source, places: Places, autojump_clock: MockClock
) -> None:
    """5.2: fifty who gave up at a stalled service keep no place from those who come after them."""
    source.latency_s = 10
    await give_up(cache, 0.5)
    await trio.sleep(3)
    places.has_room = False
    await trio.sleep(1.1)
    places.has_room = True
    await trio.sleep(20)
    assert source.finished == 0
    source.latency_s = 0
    assert (await cache.get("k")).value == 2


async def test_a_refresh_goes_on_whatever_else(
    cache: StaleWhileRevalidateCache[str, int], source: Source, places: Places, autojump_clock: MockClock
) -> None:
    """3.2: the refresh of an old value goes on without a caller: it serves the next one."""
    await cache.get("k")
    await trio.sleep(61)
    source.latency_s = 8
    places.has_room = False
    assert (await cache.get("k")).value == 1
    await trio.sleep(8)
    assert (await cache.get("k")).value == 2
    assert len(source.asked) == 2
