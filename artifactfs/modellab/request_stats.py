"""The requests of one mount, counted by kind and outcome; the latency of answers; whether the keys are accepted.

An increment or two a request, so that the cost is not measurable. `control/counters.py` gives the counts their names.
"""

import enum
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import trio

from artifactfs import errors

# Upper bounds of the histogram of the time to an answer's head, in seconds. Arbitrary: thrice a decade.
HEAD_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# One that was cancelled so shortly before its deadline ran into it.
_SLACK_S = 0.01


class Outcome(enum.StrEnum):
    """How a request ended. The last two were never sent."""

    OK = "ok"
    NOT_FOUND = "not_found"
    DENIED = "denied"
    BAD_REQUEST = "bad_request"
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    TIMED_OUT = "timed_out"
    REFUSED = "connection_refused"
    UNREACHABLE = "unreachable"
    LOST = "connection_lost"
    TLS = "tls_failed"
    PROTOCOL_ERROR = "protocol_error"
    TOO_LARGE = "answer_too_large"
    CANCELLED = "cancelled"
    BUG = "bug"
    CIRCUIT_OPEN = "circuit_open"
    RATE_LIMITED_LOCALLY = "rate_limited_locally"


_OUTCOME: dict[type[BaseException], Outcome] = {
    errors.NotFound: Outcome.NOT_FOUND,
    errors.AccessDenied: Outcome.DENIED,
    errors.BadRequest: Outcome.BAD_REQUEST,
    errors.UnexpectedAnswer: Outcome.PROTOCOL_ERROR,
    errors.AnswerTooLarge: Outcome.TOO_LARGE,
    errors.RateLimited: Outcome.THROTTLED,
    errors.ServerFailed: Outcome.SERVER_ERROR,
    errors.TimedOut: Outcome.TIMED_OUT,
    errors.ConnectionLost: Outcome.LOST,
    errors.ConnectionRefused: Outcome.REFUSED,
    errors.Unreachable: Outcome.UNREACHABLE,
    errors.TlsFailed: Outcome.TLS,
    trio.Cancelled: Outcome.CANCELLED,
}
# These outcomes say nothing about the health of the service.
_SAYS_NOTHING = frozenset({Outcome.CANCELLED, Outcome.BUG})


def outcome_of(kind: type[BaseException]) -> Outcome:
    """Return the outcome of a request that ended with an exception of this kind."""
    return next((_OUTCOME[base] for base in kind.__mro__ if base in _OUTCOME), Outcome.BUG)


class LatencyHistogram(msgspec.Struct, frozen=True):
    """Seconds from a request to its answer's head: how many were within each of HEAD_BOUNDS_S, and the rest."""

    counts: tuple[int, ...]
    sum_s: float

    @property
    def count(self) -> int:
        """How many answers there were."""
        return sum(self.counts)


class StatsSnapshot(msgspec.Struct, frozen=True):
    """The requests so far: attempts by kind and outcome, latencies by kind, bodies that broke off.

    `denied_since`: when the service began to refuse the keys, None while it accepts them; `taken_at`: when it accepted
    them again. Both in seconds of the mount's clock. `denied_last`: the last request was refused so, too.
    """

    outcomes: dict[str, dict[str, int]]
    heads: dict[str, LatencyHistogram]
    bodies_broken: int
    denied_since: float | None
    taken_at: float
    denied_last: bool = False


class RequestStats:
    """The counts of one mount, shared by its transports, which change them by the functions below. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.outcomes: Counter[tuple[str, Outcome]] = Counter()
        self.heads: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(HEAD_BOUNDS_S) + 1))
        self.head_sums: defaultdict[str, float] = defaultdict(float)
        self.denied_since: float | None = None
        self.denied_last = False
        self.taken_at = float("-inf")
        # Bodies that did not come to their end, though their answer's head was in order.
        self.bodies_broken = 0

    def traffic(self) -> StatsSnapshot:
        """Return the counts so far."""
        outcomes: dict[str, dict[str, int]] = {}
        for (kind, outcome), count in sorted(self.outcomes.items()):
            outcomes.setdefault(kind, {})[str(outcome)] = count
        heads = {
            kind: LatencyHistogram(tuple(counts), self.head_sums[kind]) for kind, counts in sorted(self.heads.items())
        }
        return StatsSnapshot(outcomes, heads, self.bodies_broken, self.denied_since, self.taken_at, self.denied_last)


@contextmanager
def attempt(stats: RequestStats, kind: str, until: float, *, to_api: bool = True) -> Iterator[None]:
    """Count how one request ends, whose deadline is `until`. `to_api`: it carries the keys."""
    try:
        yield
    except BaseException as error:
        _count(stats, kind, outcome_of(type(error)), until, to_api=to_api)
        raise
    _count(stats, kind, Outcome.OK, until, to_api=to_api)


def _count(stats: RequestStats, kind: str, outcome: Outcome, until: float, *, to_api: bool) -> None:
    if outcome is Outcome.CANCELLED and stats.clock() >= until - _SLACK_S:
        outcome = Outcome.TIMED_OUT
    stats.outcomes[kind, outcome] += 1
    if not to_api or outcome in _SAYS_NOTHING:
        return
    stats.denied_last = outcome is Outcome.DENIED
    if outcome is Outcome.OK:
        if stats.denied_since is not None:
            stats.denied_since, stats.taken_at = None, stats.clock()
    elif outcome is Outcome.DENIED and stats.denied_since is None:
        stats.denied_since = stats.clock()


def record_foreign_answer(stats: RequestStats, kind: str) -> None:
    """Count an answer that had ended well as not Model Lab's."""
    stats.outcomes[kind, Outcome.OK] -= 1
    stats.outcomes[kind, Outcome.PROTOCOL_ERROR] += 1


def not_sent(stats: RequestStats, kind: str, outcome: Outcome) -> None:
    """Count a request that was given up before it was sent."""
    stats.outcomes[kind, outcome] += 1


def head(stats: RequestStats, kind: str, seconds: float) -> None:
    """Count an answer's head, and the seconds that it took."""
    stats.heads[kind][bisect_left(HEAD_BOUNDS_S, seconds)] += 1
    stats.head_sums[kind] += seconds
