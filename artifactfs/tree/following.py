"""When the listing of a directory is refreshed because programs follow files in it (docs/semantics.md 3.5)."""

import logging
from collections.abc import Callable, MutableMapping
from typing import Any

import cachetools
import trio

from artifactfs import errors
from artifactfs.tree.listing import TreeTimes
from artifactfs.tree.listing_providers import ANY_DIRECT
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from artifactfs.util.no_checkpoint import no_checkpoint

log = logging.getLogger(__name__)

# Directories in which programs follow a file. Arbitrary.
_MAX_FOLLOWED = 10_000
# The attribute timeout of files in a listing that is older than `live_ttl`: a second look shows that a program follows.
_POLL_S = 1.0

Key = tuple[int, str]


def attributes_left_s(times: TreeTimes, ttl_left_s: float, age_s: float) -> float:
    """Return the attribute timeout of a listing's files: what is left of the listing, or of `live_ttl`.

    While a program follows a file, a listing that is older is refreshed, so the kernel must ask again soon.
    """
    live_s = times.live_ttl - age_s
    return min(ttl_left_s, live_s if live_s > 0 else _POLL_S)


class Following:
    """The directories in which programs follow files. A key is (run id, path); `clock` gives seconds.

    `needs_direct`: a directory in it is not listed from the index, which may be as old as the listing.
    """

    def __init__(
        self,
        listings: StaleWhileRevalidateCache[Key, Any],
        needs_direct: MutableMapping[Key, float],
        *,
        times: TreeTimes,
        nursery: trio.Nursery,
        clock: Callable[[], float],
    ) -> None:
        self._listings = listings
        self._needs_direct = needs_direct
        self._times = times
        self._nursery = nursery
        self._clock = clock
        # When the refresh of a directory was last started.
        self._refreshed_at: cachetools.LRUCache[Key, float] = cachetools.LRUCache(_MAX_FOLLOWED)
        # Called with run and path of a directory that was listed.
        self.on_listed: Callable[[int, str], None] = lambda _run_id, _path: None

    @no_checkpoint
    def refresh(self, key: Key, ttl_left_s: float, age_s: float) -> None:
        """Refresh a listing if it is stale or older than `live_ttl`; once in as long if that fails."""
        now, pause_s = self._clock(), max(_POLL_S, min(self._times.live_ttl, self._times.listing_ttl))
        is_fresh = ttl_left_s > 0 and age_s < self._times.live_ttl
        if is_fresh or now - self._refreshed_at.get(key, float("-inf")) < pause_s:
            return
        if self._listings.may_revalidate(key):
            self._refreshed_at[key] = now
            self._needs_direct.setdefault(key, ANY_DIRECT)
            self._nursery.start_soon(self._refresh, key)

    async def _refresh(self, key: Key) -> None:
        try:
            await self._listings.refetch(key)
        except errors.ArtifactfsError as error:
            log.debug("the listing of a directory in which a program follows a file: %s", error)
        except Exception:
            log.exception("refreshing a listing failed: %s", errors.unexpected())
        else:
            self.on_listed(*key)
