"""The rate limits, as answers report them, and the pauses that they impose on requests (docs/semantics.md 5.4).

`RateLimits` has no clock and does not sleep: time and answers are arguments. Times are seconds of one clock, the
caller's. Headers are looked up in lower case.
"""

import email.utils
import logging
from collections.abc import Callable, Mapping

import msgspec
import trio

from artifactfs import errors

log = logging.getLogger(__name__)

# For a 429 that names no reset.
_DEFAULT_RESET_S = 5.0
# Below this share of a limit, prefetches stop, and requests are spread out until the reset. The pause between two of
# them is bounded.
_NEAR = 0.2
_MAX_PACE_S = 1.0


def reset_after_s(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """Return seconds until the reset that an answer names; None where it names none.

    `X-RateLimit-Reset` is seconds until the reset, not a time (model-lab-api.md). `Retry-After` comes from
    proxies: seconds or an HTTP date; the longer of the two counts.
    """
    found = [_number(headers.get("x-ratelimit-reset")), _number(headers.get("retry-after"))]
    if found[1] is None and (date := headers.get("retry-after")):
        try:
            found[1] = email.utils.parsedate_to_datetime(date).timestamp() - wall_clock
        except (ValueError, OverflowError):
            found[1] = None
    known = [max(0.0, seconds) for seconds in found if seconds is not None]
    return max(known) if known else None


class LimitState(msgspec.Struct, frozen=True):
    """What is known of one rate limit. `name` "": of requests whose limit no answer has named.

    `remaining` of `limit` requests are left until `reset_s` from now, each None where no valid answer
    says so. Requests pause for `paused_s` seconds more, since `paused_since` (None: no pause).
    """

    name: str
    limit: float | None
    remaining: float | None
    reset_s: float | None
    paused_s: float
    paused_since: float | None


class RateLimits:
    """The rate limits, as answers report them: until when requests pause, per limit name (docs/semantics.md 5.4).

    Which limit an endpoint counts against is only known from its answers, so endpoints that were not answered
    yet share one nameless limit.
    """

    def __init__(self) -> None:
        self._name_of: dict[str, str] = {}
        self._blocked_until: dict[str, float] = {}
        self._blocked_since: dict[str, float] = {}
        # Requests left of a limit, the limit, and until when that holds.
        self._left: dict[str, tuple[float, float, float]] = {}
        # When the last request went, or is to go, that was slowed down.
        self._last_turn: dict[str, float] = {}

    def observe(self, endpoint: str, status: int, headers: Mapping[str, str], now: float, wall_clock: float) -> None:
        """Take note of an answer's headers. `endpoint`: the kind of request, like "listing"."""
        name = headers.get("x-ratelimit-name", "")[:200]
        if name:
            self._name_of[endpoint] = name
        else:
            # A proxy's 429 has no name: it holds back what was throttled all the same.
            name = self._name_of.get(endpoint, "")
        reset_s = reset_after_s(headers, wall_clock)
        remaining, limit = _number(headers.get("x-ratelimit-remaining")), _number(headers.get("x-ratelimit-limit"))
        if remaining is not None and limit:
            self._left[name] = remaining, limit, now + (_DEFAULT_RESET_S if reset_s is None else reset_s)
        if status == 429:
            pause_s = _DEFAULT_RESET_S if reset_s is None else reset_s
        elif remaining == 0 and reset_s is not None:
            pause_s = reset_s
        else:
            return
        # A reset beyond the named period is probed after that period.
        period_s = _number(headers.get("x-ratelimit-period"))
        if period_s is not None and period_s > 0:
            pause_s = min(pause_s, period_s)
        until = now + pause_s
        if self._blocked_until.get(name, 0.0) <= now:
            self._blocked_since[name] = now
        self._blocked_until[name] = max(until, self._blocked_until.get(name, 0.0))

    def is_near(self, endpoint: str, now: float, in_flight: int = 0) -> bool:
        """Whether little is left of the limit that a request of this kind counts against.

        `in_flight`: requests without an answer yet.
        """
        name = self._name_of.get(endpoint, "")
        if self._blocked_until.get(name, 0.0) > now:
            return True
        remaining, limit, until = self._left.get(name, (0.0, 0.0, 0.0))
        return until > now and remaining - in_flight < limit * _NEAR

    def turn_s(self, endpoint: str, now: float) -> float:
        """Return for how many seconds a request of this kind is to wait so that what is left lasts to the reset.

        Takes its turn: the next one comes after it. One that comes after a while waits for nothing.
        """
        name = self._name_of.get(endpoint, "")
        remaining, limit, until = self._left.get(name, (0.0, 0.0, 0.0))
        if until <= now or remaining >= limit * _NEAR:
            return 0.0
        # The next answers correct this.
        self._left[name] = max(0.0, remaining - 1), limit, until
        pace_s = min(_MAX_PACE_S, (until - now) / max(remaining, 1.0))
        turn = self._last_turn[name] = max(now, self._last_turn.get(name, float("-inf")) + pace_s)
        return turn - now

    def pause_s(self, endpoint: str, now: float) -> float:
        """Return for how many seconds a request of this kind must still wait; 0 if it may go."""
        name = self._name_of.get(endpoint, "")
        return max(0.0, self._blocked_until.get(name, 0.0) - now)

    def states(self, now: float) -> list[LimitState]:
        """Return the state of each limit, by name."""
        found = []
        for name in sorted(self._left.keys() | self._blocked_until.keys()):
            remaining, limit, until = self._left.get(name, (0.0, 0.0, 0.0))
            known = until > now
            paused_s = max(0.0, self._blocked_until.get(name, 0.0) - now)
            found.append(
                LimitState(
                    name,
                    limit if known else None,
                    remaining if known else None,
                    until - now if known else None,
                    paused_s,
                    self._blocked_since.get(name) if paused_s else None,
                )
            )
        return found

    def recovered_at(self, now: float) -> float:
        """Return when the last pause was over; minus infinity where there was none."""
        return max((until for until in self._blocked_until.values() if until <= now), default=float("-inf"))


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
        log.info("rate limit of %s: waiting %.1f s", host, pause_s)
        await trio.sleep(pause_s)
        paused_s += pause_s
    # Near the limit, requests are spread out. No request fails because of that.
    if (turn_s := min(limits.turn_s(endpoint, now), (end - now) / 2)) > 0:
        await trio.sleep(turn_s)
    return paused_s + max(turn_s, 0.0)


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None
