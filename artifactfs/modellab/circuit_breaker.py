"""The circuit breaker of one origin: it tells a dead service from a target that stalls alone (docs/semantics.md 5.1).

One time-out does not tell a dead service from one artifact or directory that stalls. So a circuit opens only where
nothing at all arrived through it meanwhile, and two different targets agree: two that timed out, or one and a liveness
probe (liveness.py). Any received data closes it. The service is one circuit; each kind of request is one more, since
the contents may be dead while the listings live.

While a circuit is open, requests fail at once. One in 5 s is a probe. Targets that stalled or failed before have turns
of their own, so that they never take the turn of a target that may be answered. Every other probe has little time, so
that its caller does not wait long; the others have their whole deadline, so that a slow service is found as well. Runs
and projects, which the kernel looks up one at a time, are never refused: while others of their kind stall, they have a
second.

A service that fails at once (refused, 5xx) gets one attempt for each request after three different targets failed and
none succeeded. No sleeping: time is an argument, of one clock, in seconds.

A mount that works offline sends nothing at all: here is the gate of all its requests (docs/semantics.md 8.3).
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import cachetools
import trio

from artifactfs import errors
from artifactfs.logs import NOTICE

log = logging.getLogger(__name__)

# How often a service in trouble is tried, at most (docs/semantics.md 5.1); for refreshes, too (3.2).
PROBE_INTERVAL_S = 5.0
# A short probe's time where a liveness probe is unanswered; and where it is not, so that objects may stall alone.
# Arbitrary; well below the interval, so that a traversal of a thousand files advances between two probes.
_PROBE_S = 1.0
_DOUBTFUL_PROBE_S = 2.5
# Kinds of lookups: the kernel has one under way in a directory (docs/dev/pitfalls.md), so one that stalls delays all
# others.
_ONE_AT_A_TIME = frozenset({"run", "project"})
# Different targets that failed after all their attempts, without a success between them. Three may be chance.
_FAILURES = 3
# Different targets that timed out. One may be sick itself.
_TIMEOUTS = 2
# Less than this within a deadline is a drip, no progress (as in content/shared_file.py).
_PROGRESS_BYTES = 16 << 10
# A reader that is cancelled shortly before its deadline has run into it.
_NEARLY = 0.9
# Targets that are remembered as sick, and for how long after their last time-out or failure. Arbitrary.
_MAX_SICK = 1_000
_SICK_S = 600.0
_SERVICE = ""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """One request, over all its attempts. `limit_s`: how long it may wait. The breaker alone changes the rest.

    A *target* is what the request is for: a directory, a run, an artifact. It stays in memory, and is never logged.
    """

    breaker: "CircuitBreaker"
    endpoint: str
    target: str
    limit_s: float = 0.0
    # None while it queues.
    sent_at: float | None = None
    # Since when nothing has arrived for it.
    quiet_since: float = 0.0
    # Since when its reader processes what arrived; None: the request waits for the service.
    paused_at: float | None = None
    # The progress since a moment: too few bytes in a deadline are none.
    progress_since: float = 0.0
    progress_bytes: int = 0


@dataclass(slots=True)
class _Circuit:
    """Requests that are judged together. The pairs are for targets that are well, and for those that are sick."""

    # None: closed.
    open_since: float | None = None
    active_at: float = float("-inf")
    # Targets that timed out since the last activity.
    timed_out: set[str] = field(default_factory=set)
    short_probe_s: float = _PROBE_S
    next_probe_at: list[float] = field(default_factory=lambda: [0.0, 0.0])
    probes: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(frozen=True, slots=True)
class OfflineState:
    """Since when a mount works offline, in seconds of its clock; why, as part of a sentence; and what to do."""

    since: float
    fact: str
    fix: str


class CircuitBreaker:
    """The state of one origin in one mount. `name`: the origin in messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Called when a request begins to wait; must not await or raise.
        self.on_wait: Callable[[], None] | None = None
        # For status: since when requests fail, since when answers are not Model Lab's (a login page, a gateway's JSON),
        # and when the last trouble of any sort was over.
        self.failing_since: float | None = None
        self.foreign_since: float | None = None
        self.recovered_at = float("-inf")
        # None: requests are sent. Otherwise each fails at once, before it counts anywhere.
        self.offline: OfflineState | None = None
        self._circuits: defaultdict[str, _Circuit] = defaultdict(_Circuit)
        self._pending: set[PendingRequest] = set()
        # Whether a liveness probe was sent, and nothing has arrived since.
        self._is_probe_pending = False
        # When targets stalled or failed.
        self._stalled: cachetools.LRUCache[str, float] = cachetools.LRUCache(_MAX_SICK)
        self._failed: cachetools.LRUCache[str, float] = cachetools.LRUCache(_MAX_SICK)
        # Since the last success: targets that failed, requests that failed, and whether no connection came about.
        self._failing: set[str] = set()
        self._failures = 0
        self._is_unreachable = False

    # --- what status and the transport ask --------------------------------------------------------------------

    @property
    def is_failing(self) -> bool:
        """Whether retries are in vain: different targets failed, and none succeeded."""
        return self._is_unreachable or len(self._failing) >= _FAILURES

    @property
    def silent_since(self) -> float | None:
        """Since when a circuit is open, of the service or of a kind of requests; None: all are closed."""
        return min((each.open_since for each in self._circuits.values() if each.open_since is not None), default=None)

    def is_open(self, endpoint: str) -> bool:
        """Whether requests of a kind fail at once, except probes."""
        return self.offline is not None or any(
            self._circuits[name].open_since is not None for name in (_SERVICE, endpoint)
        )

    def has_stalled(self, target: str, now: float) -> bool:
        """Whether the last request for a target timed out."""
        return _is_recent(self._stalled, target, now)

    def acquire(self, endpoint: str, target: str, now: float, deadline_s: float) -> float | None:
        """Return for how many of its `deadline_s` seconds a request may wait; None: it must not be sent.

        Raises Offline.
        """
        if self.offline is not None:
            raise errors.Offline("the mount works offline, and this is not kept here")
        service, kind, stalled = self._circuits[_SERVICE], self._circuits[endpoint], self.has_stalled(target, now)
        sick = stalled or _is_recent(self._failed, target, now)
        if service.open_since is not None:
            return _take_probe(service, now, deadline_s, sick=sick)
        one_at_a_time = endpoint in _ONE_AT_A_TIME
        if kind.open_since is None and not (one_at_a_time and stalled):
            return deadline_s
        limit_s = _take_probe(kind, now, deadline_s, sick=sick)
        # Refused, a healthy target would never be requested; with its whole deadline, a sick one delays all others.
        return min(_PROBE_S, deadline_s / 2) if limit_s is None and one_at_a_time else limit_s

    def go_online(self, now: float) -> None:
        """Let requests through: the service answers, and what failed before the mount went offline is over."""
        self.offline = self.failing_since = self.foreign_since = None
        self._is_unreachable, self._failures, self.recovered_at = False, 0, now
        self._failing.clear()

    # --- the course of one request ------------------------------------------------------------------------------

    def on_sent(self, request: PendingRequest, now: float) -> None:
        """Record that an attempt is sent. After an attempt that timed out, the wait goes on."""
        if request.sent_at is None:
            request.sent_at = request.quiet_since = request.progress_since = now
        self._pending.add(request)
        if self.on_wait is not None:
            self.on_wait()

    def on_attempt_failed(self, request: PendingRequest) -> None:
        """Record that an attempt failed without a time-out: the next one begins a wait of its own."""
        request.sent_at = None
        self._pending.discard(request)

    def on_activity(self, request: PendingRequest, now: float, size_bytes: int = 0) -> None:
        """Record received data: the head of an answer, or bytes of a body."""
        self._is_probe_pending = was_open = False
        for name in (_SERVICE, request.endpoint):
            circuit = self._circuits[name]
            was_open = was_open or circuit.open_since is not None
            circuit.open_since, circuit.active_at = None, now
            circuit.timed_out.clear()
        if was_open:
            self.recovered_at = now
            log.info("%s answers again", self.name)
        request.quiet_since = now
        request.progress_bytes += size_bytes
        if request.progress_bytes >= _PROGRESS_BYTES:
            self._stalled.pop(request.target, None)
        elif now - request.progress_since < request.limit_s:
            return
        else:
            self._stalled[request.target] = now
        request.progress_since, request.progress_bytes = now, 0

    def on_answered(self, request: PendingRequest) -> None:
        """Record that a request came to its end: its target has not stalled."""
        self._stalled.pop(request.target, None)

    def on_ended(self, request: PendingRequest) -> None:
        """Record that a request is no longer pending, however it ended."""
        self._pending.discard(request)

    def on_success(self, request: PendingRequest, now: float) -> None:
        """Record an answer, whatever its status."""
        self._is_unreachable, self._failures = False, 0
        self._failing.clear()
        self._failed.pop(request.target, None)
        if self.failing_since is not None:
            self.failing_since, self.recovered_at = None, now

    def on_error(self, request: PendingRequest, error: BaseException, now: float) -> None:
        """Record the failure of a request after all its attempts. Errors that say nothing of the service are none."""
        match error:
            case trio.Cancelled():
                self.on_abandoned(request, now)
            case errors.NotAsked():
                pass
            case errors.TimedOut(status=None):
                self.on_timeout(request, now)
            case errors.ServerFailed() | errors.ConnectionLost():
                self._on_failure(request.target, now)
            case errors.ConnectionRefused() | errors.Unreachable():
                self._is_unreachable = True
                self._on_failure(request.target, now)
            case errors.NotFound() | errors.AccessDenied() | errors.BadRequest():
                self.on_success(request, now)
                self.on_answered(request)

    def on_abandoned(self, request: PendingRequest, now: float) -> None:
        """Record that a request was cancelled: shortly before its deadline, that is a time-out."""
        self._on_timeout(request, now, request.limit_s * _NEARLY)

    def on_timeout(self, request: PendingRequest, now: float) -> None:
        """Record a time-out. Where the request queued for most of its time, this says nothing of the service."""
        self._on_timeout(request, now, request.limit_s / 2)

    def _on_timeout(self, request: PendingRequest, now: float, least_s: float) -> None:
        if request.sent_at is None or request.paused_at is not None or now - request.progress_since < least_s:
            return
        self._stalled[request.target] = now
        since = request.quiet_since
        if now - since < least_s or self._circuits[_SERVICE].open_since is not None:
            return
        opened = []
        for name in (_SERVICE, request.endpoint):
            circuit, is_probed = self._circuits[name], self._is_probe_pending and name == _SERVICE
            if circuit.open_since is not None or circuit.active_at > since:
                continue
            circuit.timed_out.add(request.target)
            if len(circuit.timed_out) >= _TIMEOUTS or is_probed:
                short_s = _PROBE_S if is_probed else _DOUBTFUL_PROBE_S
                self._circuits[name] = _Circuit(since, circuit.active_at, circuit.timed_out, short_s)
                opened.append(name)
        if opened:
            log.warning(
                "%s does not answer%s: others fail at once until it does; it is tried every %g s",
                self.name,
                "" if _SERVICE in opened else f" requests of the kind {request.endpoint}",
                PROBE_INTERVAL_S,
                # The requests that timed out are failures of their own.
                extra=NOTICE,
            )

    def _on_failure(self, target: str, now: float) -> None:
        # A target that fails each time says nothing about others.
        if not _is_recent(self._failed, target, now) and not self.is_failing:
            self._failing.add(target)
        self._failed[target] = now
        self._failures += 1
        if (self.is_failing or self._failures >= _FAILURES) and self.failing_since is None:
            self.failing_since = now

    def record_origin(self, now: float, *, is_foreign: bool) -> None:
        """Record whether an answer was not Model Lab's, whatever its status."""
        if is_foreign and self.foreign_since is None:
            self.foreign_since = now
        elif not is_foreign and self.foreign_since is not None:
            self.foreign_since, self.recovered_at = None, now

    # --- liveness probes ----------------------------------------------------------------------------------------

    def probe_due_s(self, now: float) -> float | None:
        """Return in how many seconds to send a liveness probe; None where no request is pending.

        That is when nothing arrived from the service for half of the time that a request has.
        """
        if not self._pending:
            return None
        if self._circuits[_SERVICE].open_since is not None or self._is_probe_pending:
            return min(request.limit_s for request in self._pending) / 2
        active_at = self._circuits[_SERVICE].active_at
        quiet = (
            (now if each.paused_at is not None else max(each.quiet_since, active_at), each.limit_s)
            for each in self._pending
        )
        return max(0.0, min(since + limit_s / 2 for since, limit_s in quiet) - now)

    def pending_endpoints(self) -> set[str]:
        """Return the kinds of the requests that are pending."""
        return {request.endpoint for request in self._pending}

    def set_probe_pending(self, pending: bool) -> None:
        """Record that a liveness probe is sent; or that it failed without a time-out (`pending` false)."""
        self._is_probe_pending = pending


def pause(request: PendingRequest, now: float) -> None:
    """Note that a request's reader is busy with what it received: nothing waits for the service."""
    request.paused_at = now


def resume(request: PendingRequest, now: float) -> None:
    """Note that a request's reader waits for more."""
    if request.paused_at is not None:
        request.progress_since += now - request.paused_at
        request.quiet_since, request.paused_at = now, None


def _is_recent(since: cachetools.LRUCache[str, float], target: str, now: float) -> bool:
    return now - since.get(target, float("-inf")) < _SICK_S


def _take_probe(circuit: _Circuit, now: float, deadline_s: float, *, sick: bool) -> float | None:
    """Return for how many seconds a probe may wait; None: it is not its turn. The first may go at once."""
    if now < circuit.next_probe_at[sick]:
        return None
    circuit.next_probe_at[sick] = now + PROBE_INTERVAL_S
    if not sick:
        # Sick targets learn of its answer, too.
        circuit.next_probe_at[True] = now + PROBE_INTERVAL_S
    circuit.probes[sick] += 1
    return deadline_s if circuit.probes[sick] % 2 == 0 else min(circuit.short_probe_s, deadline_s / 2)
