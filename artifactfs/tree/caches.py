"""The caches of one tree, which share what they know of the service's health."""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Caches:
    """Makes the caches of one mount, which share the fields below."""

    negative_ttl_s: float
    stale_max_s: float
    nursery: trio.Nursery
    clock: Callable[[], float]
    has_room: Callable[[], bool]
    health: BackendHealth = field(default_factory=BackendHealth)

    def make(
        self,
        describe: Callable[[K], str],
        *,
        fetch: Callable[[K, V | None], Awaitable[V]],
        ttl_s: Callable[[V], float],
        weight: Callable[[V], int] = lambda _value: 1,
        max_weight: int,
    ) -> StaleWhileRevalidateCache[K, V]:
        """Return a cache; the arguments are those of `StaleWhileRevalidateCache`."""
        return StaleWhileRevalidateCache(
            describe,
            fetch=fetch,
            ttl_s=ttl_s,
            weight=weight,
            max_weight=max_weight,
            negative_ttl_s=self.negative_ttl_s,
            stale_max_s=self.stale_max_s,
            health=self.health,
            nursery=self.nursery,
            clock=self.clock,
            has_room=self.has_room,
        )
