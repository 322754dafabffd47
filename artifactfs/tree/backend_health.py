"""Whether the service is degraded, as all caches of a mount see it (docs/semantics.md 3.2)."""

import logging
from collections.abc import Hashable

import cachetools

log = logging.getLogger(__name__)

# Keys that are remembered as slow or failing, and for how long after the last time. Arbitrary.
_MAX_FAILING = 1_000
_FAILING_S = 600.0


class BackendHealth:
    """The health of the service. Times are seconds of the caches' clock.

    The service is degraded from a refresh that failed for a passing reason, or timed out, until any fetch succeeds.
    While it is degraded, stale values are served at once, and refreshes are tried at most every `probe_interval_s`.
    One failing directory does not make the service degraded: keys that are not known as failing are probed on a
    schedule of their own, and their refresh is waited for.
    """

    def __init__(self, probe_interval_s: float = 5.0) -> None:
        self._probe_interval_s = probe_interval_s
        # Whether the last outcome was a failure or a timeout, or nothing is asked at all.
        self.is_degraded = False
        # When the next refresh may be tried: of failing keys, and of all others.
        self._next_probe = self._next_other = 0.0
        self._failing: cachetools.LRUCache[Hashable, float] = cachetools.LRUCache(_MAX_FAILING)
        # Whether any key failed, so that a success says something.
        self.has_failures = False
        # For status: since when the service is degraded (None: it is not), whether a fetch failed and did not only time
        # out, whether a stale value was served meanwhile; the last recovery, and all stale values served.
        self.degraded_since: float | None = None
        self.with_errors = False
        self.with_stale = False
        self.recovered_at = float("-inf")
        self.stale_served = 0
        # After a refresh was requested: the first caller may wait for it, also while the service is degraded.
        self.grants_refresh = False
        # Whether the mount works without the service: every cached value counts, however old (docs/semantics.md 8.3).
        self.is_offline = False

    def set_offline(self, is_offline: bool) -> None:
        """Take note that the mount works without the service from now on, or asks it again."""
        self.is_offline = self.is_degraded = is_offline

    def on_success(self, key: Hashable, now: float) -> None:
        """Record that a fetch succeeded."""
        self._failing.pop(key, None)
        self.has_failures = bool(self._failing)
        if self.degraded_since is not None:
            log.info("the service answers again")
            self.degraded_since, self.recovered_at = None, now
        self.is_degraded = self.is_offline

    def on_failure(self, key: Hashable, now: float) -> None:
        """Record that a fetch failed for a passing reason."""
        self._on_trouble(key, now)
        self.with_errors = self.degraded_since is not None

    def on_timeout(self, key: Hashable, now: float) -> None:
        """Record that a refresh took longer than its caller may wait."""
        self._on_trouble(key, now)

    def _on_trouble(self, key: Hashable, now: float) -> None:
        if self.is_offline:
            return  # nothing was asked
        if not self.is_degraded:
            self._next_probe = now + self._probe_interval_s
            # A key that failed before says nothing about other keys: they may be tried at once.
            self._next_other = now if self.is_failing(key, now) else self._next_probe
            self.degraded_since, self.with_errors, self.with_stale = now, False, False
        self.is_degraded = self.has_failures = True
        self._failing[key] = now

    def count_stale_served(self) -> None:
        """Count a stale value that was served because its refresh failed or timed out."""
        self.stale_served += 1
        self.with_stale = True

    def refresh_grant(self) -> bool:
        """Whether the caller of a requested refresh may wait for it; True once for each request."""
        granted, self.grants_refresh = self.grants_refresh, False
        return granted

    def is_failing(self, key: Hashable, now: float) -> bool:
        """Whether this key itself failed or timed out recently."""
        return now - self._failing.get(key, float("-inf")) < _FAILING_S

    def try_probe(self, key: Hashable, now: float) -> bool:
        """Whether a refresh may be tried now; a probe that is granted delays the next one by `probe_interval_s`.

        A failing key never uses the turn of other keys, which the service may answer.
        """
        if self.is_failing(key, now):
            if now < self._next_probe:
                return False
        elif now < self._next_other:
            return False
        else:
            self._next_other = now + self._probe_interval_s
        self._next_probe = now + self._probe_interval_s
        return True
