"""Whether the service says anything at all: a dead one is waited for once, and not by everybody (semantics 5.1).

After a request that ran into its deadline, while nothing came of any other, requests fail at once; but for a probe, at
most one in 5 s, that may be anybody's. Most of them have a second, so that who is the probe is not kept either; some
have all the time that there is, so that a service that is only slow is found as well. Anything that comes ends it. No
sleeping: time is an argument, of one clock, in seconds.
"""

import logging

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 5.0
_PROBE_S = 1.0
_PATIENT = 4


class Breaker:
    """What one mount knows of its service. `name`: what messages call it."""

    def __init__(self, name: str) -> None:
        self._name = name
        # When something came last, and since when nothing does: None as long as all is well.
        self._heard_at = float("-inf")
        self._open = False
        self._next_probe_at = 0.0
        self._probes = 0

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
            log.info("%s answers again", self._name)

    def silent(self, since: float) -> None:
        """A request ran into its deadline of which nothing came after that moment."""
        if self._open or self._heard_at > since:
            return
        self._open, self._probes, self._next_probe_at = True, 0, 0.0
        log.warning(
            "%s does not answer: others fail at once until it does; it is tried every %g s",
            self._name,
            PROBE_INTERVAL_S,
        )
