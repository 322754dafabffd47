"""Stale-while-revalidate caches over a source whose answers a test decides."""

from collections.abc import Callable

import trio

from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache

NEGATIVE_S = 10.0


class Source:
    """What a cache asks: counts, takes its time, and answers with a number that grows, or raises."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.olds: list[int | None] = []
        self.latency_s = 0.0
        self.error: BaseException | None = None
        # A key that is answered well and at once all the same.
        self.well: str | None = None
        self.answers = 0
        self.finished = 0

    async def fetch(self, key: str, old: int | None) -> int:
        self.asked.append(key)
        self.olds.append(old)
        self.answers += 1
        answer, error = self.answers, None if key == self.well else self.error
        await trio.sleep(0.0 if key == self.well else self.latency_s)
        self.finished += 1
        if error is not None:
            raise error
        return answer


def cache_of(
    source: Source,
    nursery: trio.Nursery,
    health: BackendHealth | None = None,
    *,
    ttl_s: float = 60.0,
    stale_max_s: float = 3600.0,
    weight: Callable[[int], int] = lambda _value: 1,
    max_weight: int = 100,
    clock: Callable[[], float] = trio.current_time,
    has_room: Callable[[], bool] = lambda: True,
) -> StaleWhileRevalidateCache[str, int]:
    """Return a cache whose values are fresh for a minute, and served stale for an hour."""
    return StaleWhileRevalidateCache(
        lambda key: f"thing {key}",
        fetch=source.fetch,
        ttl_s=lambda _value: ttl_s,
        weight=weight,
        max_weight=max_weight,
        negative_ttl_s=NEGATIVE_S,
        stale_max_s=stale_max_s,
        health=health or BackendHealth(),
        nursery=nursery,
        clock=clock,
        has_room=has_room,
    )


Make = Callable[..., StaleWhileRevalidateCache[str, int]]


async def value(cache: StaleWhileRevalidateCache[str, int], key: str = "k") -> int:
    return (await cache.get(key)).value


async def add_value(found: list[int], cache: StaleWhileRevalidateCache[str, int]) -> None:
    """Add the value to those that callers found."""
    found.append(await value(cache))
