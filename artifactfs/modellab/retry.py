"""The attempts of one request: the circuit breaker's consent, rate-limit pauses, retries, and renewed keys.

Owns when an attempt is sent and what its failure means for the circuit breaker. `transport.py` owns how it is sent.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio

from artifactfs import errors
from artifactfs.modellab.auth import KeyRing
from artifactfs.modellab.circuit_breaker import PROBE_INTERVAL_S, CircuitBreaker, PendingRequest
from artifactfs.modellab.rate_limits import RateLimits
from artifactfs.modellab.request_stats import Outcome, RequestStats
from artifactfs.util import backoff

log = logging.getLogger(__name__)

T = TypeVar("T")

# Statuses that are retried, besides connection errors. The official client leaves out 508 and all past 512; proxies
# send those, too.
RETRIED = frozenset({408, 429, *range(500, 600)} - {501})
# The share of the remaining time that reading refused keys again may take; the rest is for a request with new keys.
_KEY_RENEWAL_SHARE = 0.8
# Attempts that are repeated because the keys have changed. Arbitrary: it bounds keys that change at every reading.
_MAX_KEY_RENEWALS = 3


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often a request is sent, and the seconds before each attempt after a failed one (the first failed is 1)."""

    max_attempts: int = 4
    backoff_s: Callable[[int], float] = backoff.backoff_s


class KeysRefused(errors.AccessDenied):
    """The API refused the keys of a generation. `denied`: the exception that the caller gets."""

    def __init__(self, denied: errors.AccessDenied, generation: int) -> None:
        super().__init__(denied.fact, denied.status)
        self.denied = denied
        self.generation = generation


class Retrier:
    """Runs attempts of requests to one origin. `clock`: seconds, at the rate of trio's deadlines."""

    def __init__(
        self,
        host: str,
        *,
        keys: KeyRing,
        rate_limits: RateLimits,
        stats: RequestStats,
        policy: RetryPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._keys = keys
        self._limits = rate_limits
        self._stats = stats
        self._policy = policy
        self._clock = clock
        # Seconds that requests have waited for rate limits.
        self.paused_s = 0.0

    async def run(
        self,
        breaker: CircuitBreaker,
        wait: PendingRequest,
        deadline_s: float,
        attempt: Callable[[float], Awaitable[T]],
        max_attempts: int | None = None,
    ) -> T:
        """Return the result of `attempt`, which gets the seconds that are left. Raises ServiceError.

        `max_attempts` replaces the policy's.
        """
        since, target = self._clock(), wait.target
        if (limit_s := breaker.acquire(wait.endpoint, target, since, deadline_s)) is None:
            self._stats.not_sent(wait.endpoint, Outcome.CIRCUIT_OPEN)
            raise errors.NotAsked(
                f"{breaker.name} did not answer a moment ago; it is tried again every {PROBE_INTERVAL_S:g} s"
            )
        wait.limit_s = limit_s
        max_attempts = 1 if breaker.is_failing else max_attempts or self._policy.max_attempts
        failures: list[errors.PassingError] = []
        try:
            with trio.move_on_after(limit_s):
                found = await self._attempts(wait, since + limit_s, attempt, failures, max_attempts)
                breaker.on_success(target, self._clock())
                return found
            if not failures or not isinstance(failures[-1], errors.RateLimited):
                wait.timed_out(self._clock())
            # The last failure explains more than the end of the time.
            raise failures[-1] if failures else errors.TimedOut(f"{breaker.name} did not answer within {limit_s:g} s")
        except trio.Cancelled:
            wait.given_up(self._clock())
            raise
        except errors.NotAsked:
            self._stats.not_sent(wait.endpoint, Outcome.CIRCUIT_OPEN)
            raise
        except errors.TimedOut as error:
            if error.status is None:
                wait.timed_out(self._clock())
            raise
        except (errors.ServerFailed, errors.ConnectionLost, errors.ConnectionRefused, errors.Unreachable) as error:
            surely = isinstance(error, errors.ConnectionRefused | errors.Unreachable)
            breaker.on_failure(target, self._clock(), surely=surely)
            raise
        except (errors.NotFound, errors.AccessDenied, errors.BadRequest):
            breaker.on_success(target, self._clock())
            wait.answered()
            raise

    async def _attempts(
        self,
        wait: PendingRequest,
        end: float,
        attempt: Callable[[float], Awaitable[T]],
        failures: list[errors.PassingError],
        max_attempts: int,
    ) -> T:
        attempts = renewals = 0
        while True:
            attempts += 1
            await self._wait_for_rate_limit(wait.endpoint, end, failures)
            try:
                return await attempt(max(0.001, end - self._clock()))
            except KeysRefused as refused:
                wait.failed_at_once()
                renewals += 1
                if renewals > _MAX_KEY_RENEWALS or not await self._renew_keys(refused, end):
                    raise refused.denied from None
                attempts -= 1
            except (errors.TlsFailed, errors.NotAsked):
                raise
            except errors.PassingError as error:
                if not isinstance(error, errors.TimedOut) or error.status is not None:
                    wait.failed_at_once()
                failures.append(error)
                if attempts >= max_attempts or not (error.status is None or error.status in RETRIED):
                    raise
                # The top of the loop waits for a reset that the server named.
                throttled = isinstance(error, errors.RateLimited) and self._limits.pause_s(wait.endpoint, self._clock())
                pause_s = 0.0 if throttled else self._policy.backoff_s(attempts)
                if self._clock() + pause_s >= end:
                    raise
                log.debug("%s; attempt %d, again in %.1f s", error, attempts, pause_s)
                await trio.sleep(pause_s)

    async def _renew_keys(self, refused: KeysRefused, end: float) -> bool:
        """Whether other keys than the refused ones are there now; waits until shortly before `end`."""
        with trio.move_on_after((end - self._clock()) * _KEY_RENEWAL_SHARE):
            return await self._keys.renewed(refused.generation, refused.denied.status)
        return False

    async def _wait_for_rate_limit(self, endpoint: str, end: float, failures: list[errors.PassingError]) -> None:
        # Checked after each pause: another request may have learned a later reset.
        while (pause_s := self._limits.pause_s(endpoint, now := self._clock())) > 0:
            limited = errors.RateLimited(
                f"{self._host} is rate-limiting these keys: its limit resets in {pause_s:.0f} s, past the deadline",
                pause_s,
            )
            if now + pause_s >= end:
                self._stats.not_sent(endpoint, Outcome.RATE_LIMITED_LOCALLY)
                raise limited
            # The reason, if the time ends before the request is sent.
            failures.append(limited)
            log.info("rate limit of %s: waiting %.1f s", self._host, pause_s)
            await self._pause(pause_s)
        # Near the limit, requests are spread out. No request fails because of that.
        if (turn_s := min(self._limits.turn_s(endpoint, now), (end - now) / 2)) > 0:
            await self._pause(turn_s)

    async def _pause(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.paused_s += seconds
