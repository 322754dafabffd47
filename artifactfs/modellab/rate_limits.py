"""The rate limits, as answers report them, and the pauses that they impose on requests (docs/semantics.md 5.4).

`RateLimits` has no clock and does not sleep: time and answers are arguments. Times are seconds of one clock, the
caller's. Headers are looked up in lower case.
"""

import email.utils
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC

import msgspec
import trio

from artifactfs import errors
from artifactfs.logs.limiter import waiting

log = logging.getLogger(__name__)

# For a 429 that names no reset.
_DEFAULT_RESET_S = 5.0
# Below this share of a limit, prefetches stop, and requests are spread out until the reset. The pause between two of
# them is bounded.
_NEAR = 0.2
_MAX_PACE_S = 1.0
# The names of limits that are known at once: the documented API has few. Arbitrary.
_MAX_LIMITS = 100


def reset_after_s(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """Return seconds until the reset that an answer names; None where it names none.

    `X-RateLimit-Reset` is seconds until the reset, not a time (model-lab-api.md). `Retry-After` comes from
    proxies: seconds or an HTTP date; the longer of the two counts. `wall_clock`: for an answer without a `Date`.
    """
    found = (_number(headers.get("x-ratelimit-reset")), retry_after_s(headers, wall_clock))
    return max((seconds for seconds in found if seconds is not None), default=None)


def retry_after_s(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """Return the seconds of an answer's `Retry-After`, 0 for a date that has passed; None where there is none."""
    seconds, until = _number(headers.get("retry-after")), _date(headers.get("retry-after"))
    if seconds is not None or until is None:
        return seconds
    # The server's own clock counts: this machine's may be wrong.
    sent_at = _date(headers.get("date"))
    return max(0.0, until - (wall_clock if sent_at is None else sent_at))


class LimitState(msgspec.Struct, frozen=True):
    """One rate limit, for status. `name` "": of requests whose limit no answer has named.

    `remaining` of `limit` requests are left until `reset_s` from now, each None where no valid answer
    says so. Requests pause for `paused_s` seconds more, since `paused_since` (None: no pause).
    """

    name: str
    limit: float | None
    remaining: float | None
    reset_s: float | None
    paused_s: float
    paused_since: float | None


@dataclass(slots=True)
class _Limit:
    """`remaining` of `limit` requests are left until `known_until`. `last_turn`: of requests that are spread out."""

    limit: float = 0.0
    remaining: float = 0.0
    known_until: float = 0.0
    paused_since: float = 0.0
    paused_until: float = 0.0
    last_turn: float = float("-inf")


class RateLimits:
    """The rate limits by name: how many requests are left, and until when requests pause (docs/semantics.md 5.4).

    Only an answer shows which limit an endpoint counts against, so endpoints without an answer share one nameless
    limit. An endpoint may count against several, of which each answer names one: so an endpoint keeps its own pauses,
    too.
    """

    def __init__(self) -> None:
        self._name_of: dict[str, str] = {}
        self._limits: defaultdict[str, _Limit] = defaultdict(_Limit)
        # By endpoint: until when it pauses, whatever limit it was found to count against since.
        self._paused_until: dict[str, float] = {}

    def observe(self, endpoint: str, status: int, headers: Mapping[str, str], now: float, wall_clock: float) -> None:
        """Record an answer's headers. `endpoint`: the kind of request, like "listing"."""
        # A proxy's 429 has no name: it throttles the same requests.
        name = headers.get("x-ratelimit-name", "")[:200] or self._name_of.get(endpoint, "")
        reset_s = reset_after_s(headers, wall_clock)
        remaining = _number(headers.get("x-ratelimit-remaining"), choose=min)
        limit = _number(headers.get("x-ratelimit-limit"), choose=min)
        is_throttled = status == 429 or (remaining == 0 and reset_s is not None)
        if name:
            self._name_of[endpoint] = name
        if not is_throttled and (remaining is None or not limit):
            return
        if name not in self._limits and len(self._limits) >= _MAX_LIMITS:
            # A proxy may put a name of its own into each answer. The one that is over first goes.
            del self._limits[min(self._limits, key=self._over_at)]
        found = self._limits[name]
        reset_s = _DEFAULT_RESET_S if reset_s is None else reset_s
        if remaining is not None and limit:
            found.limit, found.remaining, found.known_until = limit, remaining, now + reset_s
        if is_throttled:
            # A reset beyond the named period is probed after that period.
            period_s = _number(headers.get("x-ratelimit-period"))
            until = now + (min(reset_s, period_s) if period_s else reset_s)
            if found.paused_until <= now:
                found.paused_since = now
            found.paused_until = max(until, found.paused_until)
            self._paused_until[endpoint] = max(until, self._paused_until.get(endpoint, until))

    def is_near(self, endpoint: str, now: float, in_flight: int = 0) -> bool:
        """Whether little is left of the limit that a request of this kind counts against.

        `in_flight`: requests without an answer yet.
        """
        found = self._of(endpoint)
        is_low = found.known_until > now and found.remaining - in_flight < found.limit * _NEAR
        return is_low or self.pause_s(endpoint, now) > 0

    def turn_s(self, endpoint: str, now: float) -> float:
        """Return for how many seconds a request of this kind must wait so that the remaining ones last to the reset.

        Takes its turn: the next one comes after it. A request after a long gap does not wait.
        """
        found = self._of(endpoint)
        if found.known_until <= now or found.remaining >= found.limit * _NEAR:
            return 0.0
        pace_s = min(_MAX_PACE_S, (found.known_until - now) / max(found.remaining, 1.0))
        # The next answers correct this.
        found.remaining = max(0.0, found.remaining - 1)
        found.last_turn = max(now, found.last_turn + pace_s)
        return found.last_turn - now

    def pause_s(self, endpoint: str, now: float) -> float:
        """Return for how many seconds a request of this kind must still wait; 0 if it may go."""
        return max(0.0, self._of(endpoint).paused_until - now, self._paused_until.get(endpoint, now) - now)

    def states(self, now: float) -> list[LimitState]:
        """Return the state of each limit, by name."""
        states = []
        for name, found in sorted(self._limits.items()):
            paused_s, reset_s = max(0.0, found.paused_until - now), found.known_until - now
            state = LimitState(name, None, None, None, paused_s, found.paused_since if paused_s else None)
            if reset_s > 0:
                state = msgspec.structs.replace(state, limit=found.limit, remaining=found.remaining, reset_s=reset_s)
            states.append(state)
        return states

    def recovered_at(self, now: float) -> float:
        """Return when the last pause was over; minus infinity where there was none."""
        ends = (found.paused_until for found in self._limits.values())
        return max((until for until in ends if 0.0 < until <= now), default=float("-inf"))

    def _over_at(self, name: str) -> float:
        limit = self._limits[name]
        return max(limit.paused_until, limit.known_until)

    def _of(self, endpoint: str) -> _Limit:
        return self._limits.get(self._name_of.get(endpoint, "")) or _Limit()


async def wait(
    limits: RateLimits,
    endpoint: str,
    host: str,
    end: float,
    clock: Callable[[], float],
    failures: list[errors.PassingError],
) -> float:
    """Wait until a request of this kind may be sent; returns for how many seconds. `failures`: gets the reason.

    Raises RateLimited at once where a reset lies past `end`.
    """
    paused_s = 0.0
    # Checked after each pause: another request may have learned a later reset.
    while (pause_s := limits.pause_s(endpoint, now := clock())) > 0:
        fact = f"{host} is rate-limiting these keys: its limit resets in {pause_s:.0f} s, past the deadline"
        failures.append(errors.RateLimited(fact, pause_s))
        if now + pause_s >= end:
            raise failures[-1]
        log.info("rate limit of %s: waiting %.1f s", host, pause_s, extra=waiting(pause_s))
        await trio.sleep(pause_s)
        paused_s += pause_s
    # Near the limit, requests are spread out. No request fails because of that.
    if (turn_s := min(limits.turn_s(endpoint, now), (end - now) / 2)) > 0:
        await trio.sleep(turn_s)
    return paused_s + max(turn_s, 0.0)


def _number(text: str | None, *, choose: Callable[[list[float]], float] = max) -> float | None:
    if text is None:
        return None
    # A gateway may add one to its backend's: the one that asks for more patience counts.
    try:
        values = [float(each) for each in text.split(",")]
    except ValueError:
        return None
    return choose(values) if all(0 <= each < 1e9 for each in values) else None


def _date(text: str | None) -> float | None:
    try:
        when = email.utils.parsedate_to_datetime(text) if text else None
    except (ValueError, OverflowError):
        return None
    # Without a zone it is of UTC (RFC 9110, 5.6.7), and not of this machine's.
    return None if when is None else (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()
