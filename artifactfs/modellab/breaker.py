"""Whether the service says anything at all: a dead one is waited for once, and not by everybody (semantics 5.1).

After a request that ran into its deadline, while nothing came of any other, requests fail at once; but for a probe, at
most one in 5 s, that may be anybody's. Every other one has a second, so that who is the probe is not kept either; the
others have all the time that there is, so that a service that is only slow is found as well. Anything that comes ends
it. A service that fails at once (refused, 5xx) is asked once by each, without retries, as long as nothing works:
retries cost each of them a second or two. No sleeping: time is an argument, of one clock, in seconds.
"""

import logging

log = logging.getLogger(__name__)

# How often a service in trouble is tried, at most (semantics 5.1); for refreshes, too (3.2).
PROBE_INTERVAL_S = 5.0
_PROBE_S = 1.0
_PATIENT = 2
# Requests in a row that failed after all their attempts: then others have one. Three may be chance.
_FAILURES = 3


class Breaker:
    """What one mount knows of its service. `name`: what messages call it."""

    def __init__(self, name: str) -> None:
        self._name = name
        # When something came last.
        self._heard_at = float("-inf")
        self._open = False
        self._next_probe_at = 0.0
        self._probes = 0
        self._failures = 0
        # For who asks how it is: since when it is in trouble, of each kind, and when the last one was over.
        self.silent_since: float | None = None
        self.failing_since: float | None = None
        self.recovered_at = float("-inf")
        # Since when answers come that are not Model Lab's: a login page, a gateway's JSON.
        self.strange_since: float | None = None

    @property
    def is_failing(self) -> bool:
        """Whether retries are in vain: nothing has worked for some requests."""
        return self._failures >= _FAILURES

    def failed(self, now: float, *, surely: bool) -> None:
        """A request failed after all its attempts. `surely`: nobody is there, which is no chance."""
        self._failures += _FAILURES if surely else 1
        if self.is_failing and self.failing_since is None:
            self.failing_since = now

    def worked(self, now: float) -> None:
        """A request was answered, if only by a no."""
        self._failures = 0
        if self.failing_since is not None:
            self.failing_since, self.recovered_at = None, now

    def understood(self, now: float) -> None:
        """An answer was Model Lab's."""
        if self.strange_since is not None:
            self.strange_since, self.recovered_at = None, now

    def strange(self, now: float) -> None:
        """An answer came that is not Model Lab's, whatever its status."""
        if self.strange_since is None:
            self.strange_since = now

    @property
    def is_open(self) -> bool:
        """Whether the service is taken for dead."""
        return self._open

    def admit(self, now: float, deadline_s: float) -> float | None:
        """Return for how many seconds a request may wait that has so many; None: it is not to be sent."""
        if not self._open:
            return deadline_s
        if now < self._next_probe_at:
            return None
        self._next_probe_at = now + PROBE_INTERVAL_S
        self._probes += 1
        return deadline_s if self._probes % _PATIENT == 0 else min(_PROBE_S, deadline_s / 2)

    def heard(self, now: float) -> None:
        """Something came: the head of an answer, or bytes of a body."""
        self._heard_at = now
        if self._open:
            self._open = False
            self._probes = 0
            self.silent_since, self.recovered_at = None, now
            log.info("%s answers again", self._name)

    def silent(self, since: float) -> None:
        """A request ran into its deadline of which nothing came after that moment."""
        if self._open or self._heard_at > since:
            return
        self._open, self._probes, self._next_probe_at = True, 0, 0.0
        self.silent_since = since
        log.warning(
            "%s does not answer: others fail at once until it does; it is tried every %g s",
            self._name,
            PROBE_INTERVAL_S,
        )
