"""GETs to the API origin: attempts within a deadline, credentials, size limits, rate limits, the circuit breaker.

A request ends in a body or in an artifactfs.errors.ServiceError; endpoints and JSON are unknown here. What is hard:

- httpx's time-outs are per chunk, so the deadline is trio's, and covers queues, pauses and all attempts;
- a redirect is never followed: httpx would send the keys along (docs/dev/model-lab-api.md, 12).
"""

import io
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache, partial
from typing import TypeVar

import httpx
import trio

from artifactfs import errors
from artifactfs.domain import RequestUsage
from artifactfs.modellab import error_mapping, models, places, rate_limits, request_stats, size_limits
from artifactfs.modellab.auth import Credentials, KeyRing
from artifactfs.modellab.circuit_breaker import PROBE_INTERVAL_S, CircuitBreaker, PendingRequest, pause, resume
from artifactfs.modellab.connections import Connections, tls_context
from artifactfs.modellab.request_log import log_request
from artifactfs.modellab.request_stats import Outcome, RequestStats
from artifactfs.modellab.retry import RETRIED, KeysRefused, RetryPolicy
from artifactfs.modellab.streams import BodyMemory, Stream, decoded, start_of
from artifactfs.util.urls import is_loopback

log = logging.getLogger(__name__)

T = TypeVar("T")

# Origins of redirects whose circuit breakers are kept. Arbitrary.
_MAX_ORIGINS = 32
# A body that waits for memory gives up so long before its deadline, so that the error names the reason.
_MEMORY_WAIT_MARGIN_S = 0.2
# The share of the remaining time that reading refused keys again may take; the rest is for a request with new keys.
_KEY_RENEWAL_SHARE = 0.8
# Attempts that are repeated because the keys have changed. Arbitrary: it bounds keys that change at every reading.
_MAX_KEY_RENEWALS = 3
_SUCCESS = range(200, 300)


class Transport:
    """Sends GETs to one origin with its credentials. Create within trio; close with `aclose`.

    `clock` gives seconds that go on while the machine sleeps; it must run at the rate of trio's deadlines.
    The transports of one mount share `keys`, `limits`, `breaker` and `tally`. `on_answer` is called with the kind,
    status and headers (names in lower case) of every answer; it must not await or raise. `transport` replaces the
    network in tests. `shares`: one of the same origin and proxy, whose connections it uses.
    """

    def __init__(
        self,
        api_url: str,
        keys: Credentials | KeyRing,
        *,
        proxy: str | None = None,
        ca_file: str | None = None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        transport: httpx.AsyncBaseTransport | None = None,
        limits: rate_limits.RateLimits | None = None,
        breaker: CircuitBreaker | None = None,
        tally: RequestStats | None = None,
        on_answer: Callable[[str, int, Mapping[str, str]], None] | None = None,
        retry_policy: RetryPolicy | None = None,
        sizes: size_limits.SizeLimits = size_limits.DEFAULTS,
        shares: "Transport | None" = None,
    ) -> None:
        self._base = api_url.rstrip("/")
        self._origin = error_mapping.parse_api_url(api_url)
        self.host = self._origin.netloc.decode("ascii")
        self._keys = keys if isinstance(keys, KeyRing) else KeyRing(keys)
        # Loopback never goes through a proxy, which would see the keys (docs/dev/pitfalls.md).
        proxy = None if is_loopback(self._origin.host) else proxy
        self._connections: Connections = (
            shares._connections if shares else Connections(tls_context(ca_file), proxy, clock, transport)
        )
        self._places = self._connections.add_places()
        self._sizes = sizes
        self._memory = BodyMemory(sizes.shared_bytes)
        self._limits = limits or rate_limits.RateLimits()
        self.breaker = breaker or CircuitBreaker(self.host)
        # Of the origins that redirects lead to: a silent object storage says nothing about the API.
        self._breaker_of = lru_cache(_MAX_ORIGINS)(lambda _scheme, host: CircuitBreaker(host))
        self._stats = tally or RequestStats(clock)
        self._on_answer = on_answer
        self._clock = clock
        self._wall_clock = wall_clock
        self._policy = retry_policy or RetryPolicy()
        self._requests: Counter[str] = Counter()
        self._received_bytes = 0
        self._paused_s = 0.0

    def cost(self) -> RequestUsage:
        """Return the requests made so far, and their cost: bytes received, seconds waited for rate limits."""
        return RequestUsage(dict(self._requests), self._received_bytes, self._paused_s)

    def can_prefetch(self, endpoint: str) -> bool:
        """Whether a prefetch may be sent: it delays no reader, and the rate limit is far."""
        return (
            places.may_prefetch(self._places)
            and not self.breaker.is_open(endpoint)
            and not self._limits.is_near(endpoint, self._clock(), places.in_use(self._places))
        )

    @property
    def is_saturated(self) -> bool:
        """Whether requests queue because all connections are in use."""
        return places.waiting(self._places) > 0

    async def aclose(self) -> None:
        """Close the pool and its connections."""
        await self._connections.aclose()

    async def get(self, endpoint: str, target: str, *, deadline_s: float) -> bytes:
        """Return the body of a 2xx answer as `get_buffered` does, and release its memory: for small bodies."""
        async with self.get_buffered(endpoint, target, deadline_s=deadline_s) as body:
            return body

    @asynccontextmanager
    async def get_buffered(self, endpoint: str, target: str, *, deadline_s: float) -> AsyncIterator[bytes]:
        """Give the body of a 2xx answer to `GET target` (path and query, encoded), and hold memory for its decoding.

        `endpoint`: the kind, for counting and rate limits. Waits at most `deadline_s` seconds in all: queue,
        pauses, attempts, and other bodies that hold the memory. Raises ServiceError.
        """
        request = PendingRequest(self.breaker, endpoint, target)

        async def attempt(left_s: float) -> io.BytesIO:
            until = self._clock() + left_s
            leave = await places.acquire(self._places, request, self._clock(), left_s)
            try:
                with request_stats.attempt(self._stats, endpoint, until):
                    return await self._fetch_body(request, left_s)
            finally:
                leave()

        try:
            body = await self._run(request, deadline_s, attempt)
        except errors.UnexpectedAnswer:
            self.breaker.record_origin(self._clock(), is_foreign=True)
            raise
        finally:
            self.breaker.on_ended(request)
        self.breaker.on_answered(request)
        try:
            yield body.getvalue()
        finally:
            self._release(body)

    async def probe(self, endpoint: str, target: str, limit_s: float) -> None:
        """Make one attempt, past queue and breaker; the breaker observes the answer. Raises ServiceError."""
        request = PendingRequest(self.breaker, endpoint, target, limit_s)
        try:
            with trio.move_on_after(limit_s), request_stats.attempt(self._stats, endpoint, self._clock() + limit_s):
                self._release(await self._fetch_body(request, limit_s))
                return
        finally:
            self.breaker.on_ended(request)
        raise errors.TimedOut(f"{self.host} did not answer within {limit_s:g} s")

    def is_held_back(self, endpoint: str) -> bool:
        """Whether a rate limit forbids a request of this kind now."""
        return self._limits.pause_s(endpoint, self._clock()) > 0

    def record_origin(self, endpoint: str, *, is_foreign: bool) -> None:
        """Record whether a 2xx answer is not Model Lab's."""
        if is_foreign:
            request_stats.record_foreign_answer(self._stats, endpoint)
        self.breaker.record_origin(self._clock(), is_foreign=is_foreign)

    async def open(
        self,
        endpoint: str,
        url: str,
        *,
        headers: dict[str, str],
        deadline_s: float,
        expected: Container[int] = frozenset({200}),
        max_attempts: int | None = None,
        target: str | None = None,
    ) -> Stream:
        """Return an open answer to a GET of `url`, a target (path and query) of the API or a whole URL elsewhere.

        A status that is not `expected` raises. The credentials go to the API's origin only. `deadline_s` bounds the
        wait for the answer's head, and later for each chunk of its body. Close the stream.
        `target`: names the artifact for the circuit breaker, where `url` is a link that changes each time.
        """
        to_api = self._is_api_origin(absolute := self._url(url))
        breaker = self.breaker if to_api else self._breaker_of(absolute.scheme, absolute.netloc.decode("ascii"))
        request = PendingRequest(breaker, endpoint, url if target is None else target)

        async def attempt(left_s: float) -> Stream:
            until = self._clock() + left_s
            leave = await places.acquire(self._places, request, self._clock(), left_s)
            try:
                with request_stats.attempt(self._stats, endpoint, until, to_api=to_api):
                    response, report = await self._respond(request, absolute, headers, deadline_s, expected)
            except BaseException:
                leave()
                raise

            def on_closed(size_bytes: int, error: errors.ServiceError | None) -> None:
                leave()
                self._stats.bodies_broken += error is not None
                report(status=response.status_code, size_bytes=size_bytes, error=error)

            # A probe's head has little time. Each chunk of its body has the whole deadline.
            request.limit_s = deadline_s
            return Stream(response, request, self._clock, partial(self._received, request), on_closed)

        try:
            return await self._run(request, deadline_s, attempt, max_attempts)
        except BaseException:
            breaker.on_ended(request)
            raise

    async def _run(
        self,
        request: PendingRequest,
        deadline_s: float,
        attempt: Callable[[float], Awaitable[T]],
        max_attempts: int | None = None,
    ) -> T:
        """Return the result of `attempt`, which gets the seconds that are left. Raises ServiceError.

        `max_attempts` replaces the policy's.
        """
        breaker, since = request.breaker, self._clock()
        limit_s = breaker.acquire(request.endpoint, request.target, since, deadline_s)
        if limit_s is None:
            request_stats.not_sent(self._stats, request.endpoint, Outcome.CIRCUIT_OPEN)
            fact = f"{breaker.name} did not answer a moment ago; it is tried again every {PROBE_INTERVAL_S:g} s"
            raise errors.NotAsked(fact)
        request.limit_s = limit_s
        most = 1 if breaker.is_failing else max_attempts or self._policy.max_attempts
        failures: list[errors.PassingError] = []
        try:
            with trio.move_on_after(limit_s):
                return await self._attempts(request, since + limit_s, attempt, failures, most)
        except BaseException as error:
            if isinstance(error, errors.NotAsked):
                request_stats.not_sent(self._stats, request.endpoint, Outcome.CIRCUIT_OPEN)
            breaker.on_error(request, error, self._clock())
            raise
        # The last failure explains more than the end of the time. A pause that the service named is no silence.
        failure = failures[-1] if failures else errors.TimedOut(f"{breaker.name} did not answer within {limit_s:g} s")
        if not isinstance(failure, errors.RateLimited):
            breaker.on_timeout(request, self._clock())
        breaker.on_error(request, failure, self._clock())
        raise failure

    async def _attempts(
        self,
        request: PendingRequest,
        end: float,
        attempt: Callable[[float], Awaitable[T]],
        failures: list[errors.PassingError],
        max_attempts: int,
    ) -> T:
        attempts = renewals = 0
        # The API's limits hold back no request to the storage that its redirect has just granted.
        limits = self._limits if request.breaker is self.breaker else rate_limits.RateLimits()
        while True:
            attempts += 1
            try:
                self._paused_s += await rate_limits.wait(
                    limits, request.endpoint, self.host, end, self._clock, failures
                )
            except errors.RateLimited:
                request_stats.not_sent(self._stats, request.endpoint, Outcome.RATE_LIMITED_LOCALLY)
                raise
            try:
                found = await attempt(max(0.001, end - self._clock()))
            except KeysRefused as refused:
                request.breaker.on_attempt_failed(request)
                attempts -= 1
                renewals += 1
                renewed = False
                if renewals <= _MAX_KEY_RENEWALS:
                    with trio.move_on_after((end - self._clock()) * _KEY_RENEWAL_SHARE):
                        renewed = await self._keys.renewed(refused.generation, refused.status)
                if not renewed:
                    raise refused.denied from None
            except (errors.TlsFailed, errors.NotAsked):
                raise
            except errors.PassingError as error:
                if not isinstance(error, errors.TimedOut) or error.status is not None:
                    request.breaker.on_attempt_failed(request)
                failures.append(error)
                if attempts >= max_attempts or not (error.status is None or error.status in RETRIED):
                    raise
                # The top of the loop waits for a reset that the server named.
                throttled = (
                    isinstance(error, errors.RateLimited) and limits.pause_s(request.endpoint, self._clock()) > 0
                )
                pause_s = 0.0 if throttled else max(self._policy.backoff_s(attempts), error.retry_after_s)
                if self._clock() + pause_s >= end:
                    raise
                log.debug("%s; attempt %d, again in %.1f s", error, attempts, pause_s)
                await trio.sleep(pause_s)
            else:
                request.breaker.on_success(request, self._clock())
                return found

    async def _fetch_body(self, request: PendingRequest, left_s: float) -> io.BytesIO:
        """Make one attempt; return its body, whose memory the caller releases. Raises AnswerTooLarge."""
        until = self._clock() + left_s - _MEMORY_WAIT_MARGIN_S
        url = self._url(request.target)
        response, report = await self._respond(request, url, {}, left_s, _SUCCESS)
        body = io.BytesIO()
        try:
            with error_mapping.converting(url, self._connections.proxy_shown):
                await self._fill(body, response, request, until)
        except BaseException as error:
            report(status=response.status_code, size_bytes=body.tell(), error=error)
            self._release(body)
            if isinstance(error, errors.ServiceError):
                # The frames of a traceback would keep chunks of the body, and the connection.
                raise error.with_traceback(None) from error.__cause__
            raise
        report(status=response.status_code, size_bytes=body.tell())
        return body

    def _release(self, body: io.BytesIO) -> None:
        """Free a body's bytes, even while a traceback refers to it. A value that was taken lives on."""
        if body.tell() > self._sizes.small_bytes:
            self._memory.release(body)
        body.close()

    async def _fill(self, body: io.BytesIO, response: httpx.Response, request: PendingRequest, until: float) -> None:
        async with aclosing(response), aclosing(decoded(response)) as pieces:
            async for piece in pieces:
                self._received(request, len(piece))
                if (size := body.tell() + len(piece)) > self._sizes.body_bytes:
                    raise errors.AnswerTooLarge(
                        f"{self.host} sent an answer of more than {self._sizes.body_bytes >> 20} MiB"
                    )
                if size <= self._sizes.small_bytes:
                    body.write(piece)
                    continue
                # A wait for memory says nothing about the service.
                pause(request, self._clock())
                await self._memory.append(body, piece, until - self._clock())
                resume(request, self._clock())

    async def _respond(
        self,
        request: PendingRequest,
        url: httpx.URL,
        headers: dict[str, str],
        timeout_s: float,
        expected: Container[int],
    ) -> tuple[httpx.Response, Callable[..., None]]:
        """Send a request; return its answer, and what reports the end of its body. Raises ServiceError for a status."""
        endpoint, to_api, generation = request.endpoint, self._is_api_origin(url), self._keys.generation
        report = partial(log_request, endpoint, url, to_api=to_api, began=time.perf_counter())
        self._requests[endpoint] += 1
        headers = headers | (self._keys.headers if to_api else {})
        try:
            with error_mapping.converting(url, self._connections.proxy_shown):
                request.breaker.on_sent(request, sent_at := self._clock())
                response = await self._connections.send(url, headers, timeout_s)
        except BaseException as error:
            report(error=error)
            raise
        request.breaker.on_activity(request, now := self._clock())
        status = response.status_code
        request_stats.head(self._stats, endpoint, now - sent_at)
        if self._on_answer is not None:
            self._on_answer(endpoint, status, response.headers)
        if to_api:
            self._limits.observe(endpoint, status, response.headers, now, self._wall_clock())
        if status in expected:
            return response, report
        body = await start_of(response, partial(self._received, request))
        said = models.error_text(body, response.headers.get("content-type", ""), self._keys.secrets)
        retry_after_s = rate_limits.retry_after_s(response.headers, self._wall_clock()) or 0.0
        reset_s = self._limits.pause_s(endpoint, self._clock()) if to_api else retry_after_s
        failure = error_mapping.error_from_response(self.host, status, said, reset_s, retry_after_s)
        report(status=status, size_bytes=len(body), error=failure)
        raise KeysRefused(failure, generation) if to_api and isinstance(failure, errors.AccessDenied) else failure

    def _received(self, request: PendingRequest, size_bytes: int) -> None:
        self._received_bytes += size_bytes
        request.breaker.on_activity(request, self._clock(), size_bytes)

    def _is_api_origin(self, url: httpx.URL) -> bool:
        """Whether a URL is of the API's own origin: the only origin that gets the credentials."""
        return (url.scheme, url.host, url.port) == (self._origin.scheme, self._origin.host, self._origin.port)

    def _url(self, target: str) -> httpx.URL:
        return error_mapping.parse_url(self._base + target if target.startswith("/") else target)
