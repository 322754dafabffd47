"""The circuit breaker of one origin: it tells a dead service from a target that stalls alone (docs/semantics.md 5.1).

One time-out does not tell a dead service from one artifact or directory that stalls. So a circuit opens only where
nothing at all came through it meanwhile, and two different targets say so: two that ran into their deadlines, or one
and a request of our own (liveness.py). Whatever comes closes it. The service is one circuit; each kind of request is
one more, since the contents may be dead while the listings live.

While a circuit is open, requests fail at once. One in 5 s is a probe. A target that stalled or failed before has a turn
of its own, so that it never takes the turn of a target that may be answered. Every other probe has little time, so that
its caller is not kept either; the others have their whole deadline, so that a slow service is found as well. Runs and
projects, which the kernel looks up one at a time, are not refused where others of their kind stall: they have a second.

A service that fails at once (refused, 5xx) is asked once by each caller, without retries, after three different
targets failed and nothing worked. No sleeping: time is an argument, of one clock, in seconds.
"""

import logging
from collections import defaultdict
from collections.abc import Callable

import cachetools

log = logging.getLogger(__name__)

# How often a service in trouble is tried, at most (docs/semantics.md 5.1); for refreshes, too (3.2).
PROBE_INTERVAL_S = 5.0
# A short probe's time, where our own question went unanswered; and where it did not, so that objects may be sick alone.
# Arbitrary; well below the interval, so that a walk over a thousand files comes on between two probes.
_PROBE_S = 1.0
_DOUBTFUL_PROBE_S = 2.5
_PATIENT = 2
# Kinds that are asked for in a lookup in a directory of many: of these the kernel has one under way at a time
# (docs/dev/pitfalls.md), so one that stalls keeps all others waiting where they cannot be seen.
_ONE_AT_A_TIME = frozenset({"run", "project"})
# Different targets that failed after all their attempts, with nothing that worked between them. Three may be chance.
_FAILURES = 3
# Different targets that nothing came of. One may be sick itself.
_SILENT = 2
# Less than this within a deadline is a drip, no progress (as in content/shared_file.py).
_PROGRESS_BYTES = 16 << 10
# A reader that gives up shortly before its deadline has run into it.
_NEARLY = 0.9
# Targets that are remembered as sick, and for how long after their last time-out or failure. Arbitrary.
_MAX_SICK = 1_000
_SICK_S = 600.0


class _Sick:
    """Targets that stalled or failed within the last _SICK_S seconds."""

    def __init__(self) -> None:
        self._since: cachetools.LRUCache[str, float] = cachetools.LRUCache(_MAX_SICK)

    def add(self, target: str, now: float) -> None:
        self._since[target] = now

    def remove(self, target: str) -> None:
        self._since.pop(target, None)

    def has(self, target: str, now: float) -> bool:
        return now - self._since.get(target, float("-inf")) < _SICK_S


class _Turns:
    """Who may probe while a circuit is open: one in PROBE_INTERVAL_S, the first at once. `short_s`: a short probe's."""

    def __init__(self, short_s: float) -> None:
        self.next_at = 0.0
        self._short_s = short_s
        self._taken = 0

    def take(self, now: float, deadline_s: float) -> float | None:
        """Return for how many seconds a probe may wait; None: it is not its turn."""
        if now < self.next_at:
            return None
        self.next_at = now + PROBE_INTERVAL_S
        self._taken += 1
        return deadline_s if self._taken % _PATIENT == 0 else min(self._short_s, deadline_s / 2)


class _Circuit:
    """Requests that are judged together. `since`: from when on it is silent; None: it is not open."""

    def __init__(self) -> None:
        self.since: float | None = None
        self._heard_at = float("-inf")
        # Targets that ran into their deadlines since something came last.
        self._silent: set[str] = set()
        self._fresh, self._sick = _Turns(_PROBE_S), _Turns(_PROBE_S)

    def on_activity(self, now: float) -> bool:
        """Record received data; returns whether that closes the circuit."""
        self._heard_at = now
        self._silent.clear()
        was_open, self.since = self.since is not None, None
        return was_open

    def on_timeout(self, target: str, since: float, *, asked: bool) -> bool:
        """Record a time-out; returns whether it opens the circuit. `asked`: a liveness probe is unanswered, too."""
        if self.since is not None or self._heard_at > since:
            return False
        self._silent.add(target)
        if len(self._silent) < _SILENT and not asked:
            return False
        short_s = _PROBE_S if asked else _DOUBTFUL_PROBE_S
        self.since, self._fresh, self._sick = since, _Turns(short_s), _Turns(short_s)
        return True

    def take_turn(self, now: float, deadline_s: float, *, sick: bool) -> float | None:
        """Return for how many seconds a probe may wait; None: it is not its turn. `sick`: its target stalled before."""
        if sick:
            return self._sick.take(now, deadline_s)
        if (limit_s := self._fresh.take(now, deadline_s)) is not None:
            # The others learn of its answer, too.
            self._sick.next_at = now + PROBE_INTERVAL_S
        return limit_s


class CircuitBreaker:
    """The state of one origin in one mount. `name`: the origin in messages.

    A *target* is what is asked for: a directory, a run, an artifact. It stays in memory, and is never logged.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # When something came last, and whether our own question went since.
        self._heard_at = float("-inf")
        self._probe_pending = False
        self._service = _Circuit()
        self._kinds: defaultdict[str, _Circuit] = defaultdict(_Circuit)
        self._stalled, self._failed = _Sick(), _Sick()
        # Since something worked last: targets that failed, requests that failed, and whether a connection was refused.
        self._failing: set[str] = set()
        self._failures = 0
        self._refused = False
        self._waits: set[PendingRequest] = set()
        # Called when a request begins to wait; must not await or raise.
        self.on_wait: Callable[[], None] | None = None
        # For status: since when it is in trouble, of each sort, and when the last one was over.
        self.failing_since: float | None = None
        self.recovered_at = float("-inf")
        # Since when answers come that are not Model Lab's: a login page, a gateway's JSON.
        self.strange_since: float | None = None

    # --- a service that fails -------------------------------------------------------------------------------

    @property
    def is_failing(self) -> bool:
        """Whether retries are in vain: nothing has worked for some targets."""
        return self._refused or len(self._failing) >= _FAILURES

    def on_failure(self, target: str, now: float, *, surely: bool) -> None:
        """Record a request that failed after all its attempts. `surely`: no connection was made."""
        self._refused = self._refused or surely
        # A target that fails each time says nothing about others.
        if not self._failed.has(target, now) and not self.is_failing:
            self._failing.add(target)
        self._failed.add(target, now)
        self._failures += 1
        if (self.is_failing or self._failures >= _FAILURES) and self.failing_since is None:
            self.failing_since = now

    def on_success(self, target: str, now: float) -> None:
        """Record an answer, whatever its status."""
        self._refused, self._failures = False, 0
        self._failing.clear()
        self._failed.remove(target)
        if self.failing_since is not None:
            self.failing_since, self.recovered_at = None, now

    def record_valid_answer(self, now: float) -> None:
        """An answer was Model Lab's."""
        if self.strange_since is not None:
            self.strange_since, self.recovered_at = None, now

    def record_foreign_answer(self, now: float) -> None:
        """An answer came that is not Model Lab's, whatever its status."""
        if self.strange_since is None:
            self.strange_since = now

    # --- a service that is silent ---------------------------------------------------------------------------

    @property
    def silent_since(self) -> float | None:
        """Since when the service, or a kind of requests, is taken for dead; None: it is not."""
        return min(
            (each.since for each in (self._service, *self._kinds.values()) if each.since is not None), default=None
        )

    def is_open(self, endpoint: str) -> bool:
        """Whether requests of a kind fail at once, except probes."""
        return any(each.since is not None for each in self._circuits(endpoint))

    def acquire(self, endpoint: str, target: str, now: float, deadline_s: float) -> float | None:
        """Return for how many seconds a request may wait that has so many; None: it is not to be sent."""
        kind, stalled = self._kinds[endpoint], self.has_stalled(target, now)
        sick = stalled or self._failed.has(target, now)
        if self._service.since is not None:
            return self._service.take_turn(now, deadline_s, sick=sick)
        one_at_a_time = endpoint in _ONE_AT_A_TIME
        if kind.since is None and not (one_at_a_time and stalled):
            return deadline_s
        limit_s = kind.take_turn(now, deadline_s, sick=sick)
        # Refused, a healthy one would never be asked for; with its whole deadline, a sick one keeps the next ones out.
        return min(_PROBE_S, deadline_s / 2) if limit_s is None and one_at_a_time else limit_s

    def has_stalled(self, target: str, now: float) -> bool:
        """Whether a target ran into its deadline when it was last asked for."""
        return self._stalled.has(target, now)

    def on_activity(self, endpoint: str, now: float) -> None:
        """Record received data: the head of an answer, or bytes of a body."""
        self._heard_at = now
        self._probe_pending = False
        closed = [circuit.on_activity(now) for circuit in self._circuits(endpoint)]
        if any(closed):
            self.recovered_at = now
            log.info("%s answers again", self.name)

    def _circuits(self, endpoint: str) -> tuple[_Circuit, _Circuit]:
        return self._service, self._kinds[endpoint]

    def wait(self, endpoint: str, target: str) -> "PendingRequest":
        """Return the wait of a request that is about to be made."""
        return PendingRequest(self, endpoint, target)

    def probe_due_s(self, now: float) -> float | None:
        """Return in how many seconds to ask for a sign of life; None where no request is under way.

        That is when nothing came of the service for half of the time that a request has.
        """
        if not self._waits:
            return None
        if self._service.since is not None or self._probe_pending:
            return min(wait.limit_s for wait in self._waits) / 2
        return max(0.0, min(wait.quiet_from(self._heard_at, now) + wait.limit_s / 2 for wait in self._waits) - now)

    def pending_endpoints(self) -> set[str]:
        """Return the kinds of the requests that are under way."""
        return {wait.endpoint for wait in self._waits}

    def set_probe_pending(self, pending: bool) -> None:
        """Our own question is on its way, and nothing came of it yet; or it failed (`pending` false)."""
        self._probe_pending = pending

    def begun(self, wait: "PendingRequest") -> None:
        """A request is under way."""
        self._waits.add(wait)
        if self.on_wait is not None:
            self.on_wait()

    def ended(self, wait: "PendingRequest") -> None:
        """A request is no longer under way."""
        self._waits.discard(wait)

    def answered(self, target: str) -> None:
        """A target is as it should be."""
        self._stalled.remove(target)

    def on_timeout(self, endpoint: str, target: str, now: float, since: float | None) -> None:
        """A target ran into its deadline. `since`: from when on nothing came of it; None: too little came."""
        self._stalled.add(target, now)
        if since is None or self._service.since is not None:
            return
        opened = [
            self._service.on_timeout(target, since, asked=self._probe_pending),
            self._kinds[endpoint].on_timeout(target, since, asked=False),
        ]
        if any(opened):
            log.warning(
                "%s does not answer%s: others fail at once until it does; it is tried every %g s",
                self.name,
                "" if opened[0] else f" requests of the kind {endpoint}",
                PROBE_INTERVAL_S,
            )


class PendingRequest:
    """One request, of all its attempts, as long as it waits for the service. `limit_s`: how long it may."""

    __slots__ = ("_breaker", "_came_bytes", "_paused_at", "_sent_at", "_since", "_slow_since", "endpoint", "limit_s",
                 "target")  # fmt: skip

    def __init__(self, breaker: CircuitBreaker, endpoint: str, target: str) -> None:
        self._breaker = breaker
        self.endpoint = endpoint
        self.target = target
        self.limit_s = 0.0
        # When it was sent; None as long as it queues. From when on nothing came of it.
        self._sent_at: float | None = None
        self._since = 0.0
        # Since its reader is busy with what came: then it is not waited for.
        self._paused_at: float | None = None
        # What came since that moment: too little in a deadline is no progress.
        self._slow_since = 0.0
        self._came_bytes = 0

    def sent(self, now: float) -> None:
        """An attempt is sent. After one that ran into a time-out, the wait goes on."""
        if self._sent_at is None:
            self._sent_at = self._since = self._slow_since = now
        self._breaker.begun(self)

    def failed_at_once(self) -> None:
        """An attempt ended in another way than by a time-out: the next one begins a wait of its own."""
        self._sent_at = None
        self._breaker.ended(self)

    def on_activity(self, now: float, size_bytes: int = 0) -> None:
        """Record received data of this request."""
        self._since = now
        self._breaker.on_activity(self.endpoint, now)
        self._came_bytes += size_bytes
        if self._came_bytes >= _PROGRESS_BYTES:
            self._breaker.answered(self.target)
            self._slow_since, self._came_bytes = now, 0
        elif now - self._slow_since >= self.limit_s:
            self._breaker.on_timeout(self.endpoint, self.target, now, None)
            self._slow_since, self._came_bytes = now, 0

    def has_stalled(self, now: float) -> bool:
        """Whether its target ran into its deadline when it was last asked for."""
        return self._breaker.has_stalled(self.target, now)

    def pause(self, now: float) -> None:
        """The reader is busy with what it received."""
        self._paused_at = now

    def resume(self, now: float) -> None:
        """Its reader waits for more."""
        if self._paused_at is not None:
            self._slow_since += now - self._paused_at
            self._since, self._paused_at = now, None

    def quiet_from(self, heard_at: float, now: float) -> float:
        """Return from when on nothing came, of it or of anything else (`heard_at`)."""
        return now if self._paused_at is not None else max(self._since, heard_at)

    def ended(self) -> None:
        """It is over, in whatever way."""
        self._breaker.ended(self)

    def answered(self) -> None:
        """It came to its end."""
        self._breaker.answered(self.target)

    def timed_out(self, now: float) -> None:
        """It ran into its deadline. Where it queued for most of that, this says nothing about the service."""
        self._over(now, self.limit_s / 2)

    def given_up(self, now: float) -> None:
        """Its reader wants no more of it."""
        self._over(now, self.limit_s * _NEARLY)

    def _over(self, now: float, least_s: float) -> None:
        if self._sent_at is not None and self._paused_at is None and now - self._slow_since >= least_s:
            since = self._since if now - self._since >= least_s else None
            self._breaker.on_timeout(self.endpoint, self.target, now, since)
