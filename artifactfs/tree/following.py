"""When the listing of a directory is refreshed because programs follow files in it (docs/semantics.md 3.5)."""

from collections.abc import Callable

import cachetools

from artifactfs.tree.listing import TreeTimes

# Directories in which programs follow a file. Arbitrary.
_MAX_FOLLOWED = 10_000
# The attribute timeout of files in a listing that is older than `live_ttl`: a second look shows that a program follows.
_POLL_S = 1.0


class Following:
    """The directories in which programs follow files. A key is (run id, path); `clock` gives seconds."""

    def __init__(self, times: TreeTimes, clock: Callable[[], float]) -> None:
        self._times = times
        self._clock = clock
        # When the refresh of a directory was last started.
        self._refreshed_at: cachetools.LRUCache[tuple[int, str], float] = cachetools.LRUCache(_MAX_FOLLOWED)

    def attributes_left_s(self, ttl_left_s: float, age_s: float) -> float:
        """Return the attribute timeout of a listing's files: what is left of the listing, or of `live_ttl`.

        While a program follows a file, a listing that is older is refreshed, so the kernel must ask again soon.
        """
        live_s = self._times.live_ttl - age_s
        return min(ttl_left_s, live_s if live_s > 0 else _POLL_S)

    def is_due(self, key: tuple[int, str], ttl_left_s: float, age_s: float) -> bool:
        """Whether to refresh a listing now: it is stale, or older than `live_ttl`; once in as long if that fails."""
        now, pause_s = self._clock(), max(_POLL_S, min(self._times.live_ttl, self._times.listing_ttl))
        is_fresh = ttl_left_s > 0 and age_s < self._times.live_ttl
        if is_fresh or now - self._refreshed_at.get(key, float("-inf")) < pause_s:
            return False
        self._refreshed_at[key] = now
        return True
