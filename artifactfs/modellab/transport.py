"""GETs to the API origin: connections, credentials, size limits, and the conversion of foreign exceptions.

A request ends in a body or in an artifactfs.errors.ServiceError. `retry.py` repeats attempts; endpoints and JSON are
unknown here. What is hard:

- httpcore's pool is poisoned by cancellations while requests queue inside it (encode/httpcore#1093), so `RequestQueue`
  stands in front and nothing ever queues in the pool;
- httpx's time-outs are per chunk, so the deadline is trio's;
- a redirect is never followed: httpx would send the keys along (docs/dev/model-lab-api.md, 12).
"""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from importlib.metadata import version

import cachetools
import httpx
import trio

from artifactfs import errors
from artifactfs.domain import RequestUsage
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab import error_mapping, models, rate_limits, request_log, size_limits
from artifactfs.modellab.auth import Credentials, KeyRing
from artifactfs.modellab.circuit_breaker import CircuitBreaker, PendingRequest
from artifactfs.modellab.connections import Connections, tls_context
from artifactfs.modellab.request_queue import RequestQueue
from artifactfs.modellab.request_stats import RequestStats
from artifactfs.modellab.retry import KeysRefused, Retrier, RetryPolicy
from artifactfs.modellab.streams import BodyMemory, RetainedBody, Stream, decoded
from artifactfs.util.urls import is_loopback, without_password

log = logging.getLogger(__name__)

# Called with every answer: the kind of request, the status, the headers by their names in lower case.
OnAnswer = Callable[[str, int, Mapping[str, str]], None]

# Requests of one mount at once, as long as none stalls.
CONCURRENCY = 16
# Of those, how many a prefetch leaves free.
RESERVED = 2
# Origins of redirects whose circuit breakers are kept. Arbitrary.
_MAX_ORIGINS = 32
# A body that waits for memory gives up so long before its deadline, so that the error names the reason.
_MEMORY_WAIT_MARGIN_S = 0.2
# Bytes that are read of an error's body: enough for a sentence.
_MAX_ERROR_BYTES = 64 << 10
_CONNECT_TIMEOUT_S = 10.0
_SUCCESS = range(200, 300)

USER_AGENT = f"artifactfs/{version('artifactfs')} (pyfuse3/{version('pyfuse3')}; httpx/{httpx.__version__})"
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}


class Transport:
    """Sends GETs to one origin with its credentials. Create within trio; close with `aclose`.

    `clock` gives seconds that go on while the machine sleeps; it must run at the rate of trio's deadlines.
    The transports of one mount share `keys`, `limits`, `breaker` and `tally`. `on_answer` is called with every
    answer; it must not await or raise. `transport` replaces the network in tests.
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
        on_answer: OnAnswer | None = None,
        retry_policy: RetryPolicy | None = None,
        sizes: size_limits.SizeLimits = size_limits.DEFAULTS,
    ) -> None:
        self._base = api_url.rstrip("/")
        try:
            self._origin = httpx.URL(api_url)
        except (httpx.InvalidURL, UnicodeError):
            raise UserError(ExitCode.USAGE, f"--api-url {api_url!r} is not a URL that can be asked") from None
        self.host = self._origin.netloc.decode("ascii")
        self._keys = keys if isinstance(keys, KeyRing) else KeyRing(keys)
        # Loopback never goes through a proxy, which would see the keys (docs/dev/pitfalls.md).
        proxy = None if is_loopback(self._origin.host) else proxy
        self._proxy_shown = None if proxy is None else without_password(proxy)
        self._queue = RequestQueue(CONCURRENCY)
        self._connections = Connections(
            width=self._queue.most,
            tls=tls_context(ca_file),
            proxy=proxy,
            clock=clock,
            transport=transport,
        )
        self._sizes = sizes
        self._room = BodyMemory(sizes.shared_bytes)
        self._limits = limits or rate_limits.RateLimits()
        self._breaker = breaker or CircuitBreaker(self.host)
        # Of the origins that redirects lead to: a silent object storage says nothing about the API.
        self._redirect_breakers: cachetools.LRUCache[str, CircuitBreaker] = cachetools.LRUCache(_MAX_ORIGINS)
        self._tally = tally or RequestStats(clock)
        self._on_answer = on_answer
        self._clock = clock
        self._wall_clock = wall_clock
        self._retrier = Retrier(
            self.host,
            keys=self._keys,
            rate_limits=self._limits,
            stats=self._tally,
            policy=retry_policy or RetryPolicy(),
            clock=clock,
        )
        self._requests: Counter[str] = Counter()
        self._received_bytes = 0

    def cost(self) -> RequestUsage:
        """Return the requests made so far, and their cost."""
        return RequestUsage(dict(self._requests), self._received_bytes, self._retrier.paused_s)

    def can_prefetch(self, endpoint: str) -> bool:
        """Whether a prefetch may be sent: it delays no reader, and the rate limit is far."""
        return (
            self._queue.free > RESERVED
            and not self._breaker.is_open(endpoint)
            and not self._limits.is_near(endpoint, self._clock(), self._queue.in_use)
        )

    @property
    def is_saturated(self) -> bool:
        """Whether requests queue because all connections are in use."""
        return self._queue.waiting > 0

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
        wait = self._breaker.wait(endpoint, target)

        async def attempt(left_s: float) -> RetainedBody:
            until = self._clock() + left_s
            leave = await self._queue.acquire(wait, self._clock(), left_s)
            try:
                with self._tally.attempt(endpoint, until):
                    return await self._fetch_body(endpoint, target, left_s, wait)
            finally:
                leave()

        try:
            kept = await self._retrier.run(self._breaker, wait, deadline_s, attempt)
        except errors.UnexpectedAnswer:
            self._breaker.record_foreign_answer(self._clock())
            raise
        finally:
            wait.ended()
        wait.answered()
        try:
            yield kept.value()
        finally:
            kept.close()

    async def ask(self, endpoint: str, target: str, limit_s: float) -> None:
        """Make one attempt, past the queue and the breaker, which observes the answer whatever that is.

        Raises ServiceError; TimedOut after `limit_s` seconds.
        """
        wait = self._breaker.wait(endpoint, target)
        wait.limit_s = limit_s
        try:
            with trio.move_on_after(limit_s), self._tally.attempt(endpoint, self._clock() + limit_s):
                (await self._fetch_body(endpoint, target, limit_s, wait)).close()
                return
        finally:
            wait.ended()
        raise errors.TimedOut(f"{self.host} did not answer within {limit_s:g} s")

    def is_held_back(self, endpoint: str) -> bool:
        """Whether a rate limit forbids a request of this kind now."""
        return self._limits.pause_s(endpoint, self._clock()) > 0

    def record_valid_answer(self) -> None:
        """Take note that an answer was Model Lab's."""
        self._breaker.record_valid_answer(self._clock())

    def record_foreign_answer(self, endpoint: str) -> None:
        """Take note that a 2xx answer is not Model Lab's."""
        self._tally.record_foreign_answer(endpoint)
        self._breaker.record_foreign_answer(self._clock())

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
        absolute = self._url(url)
        ours = self.is_api_origin(absolute)
        breaker = self._breaker if ours else self._breaker_of(absolute)
        wait = breaker.wait(endpoint, url if target is None else target)

        async def attempt(left_s: float) -> Stream:
            # The stream releases the slot.
            until = self._clock() + left_s
            leave = await self._queue.acquire(wait, self._clock(), left_s)
            line = request_log.begin(endpoint, absolute, ours=ours)
            try:
                with self._tally.attempt(endpoint, until, ours=ours):
                    response = await self._respond(endpoint, absolute, headers, deadline_s, expected, line, wait)
            except BaseException as error:
                leave()
                line.error = error
                line.end()
                raise
            # A probe's head has little time. Each chunk of its body has the whole deadline.
            wait.limit_s = deadline_s
            return Stream(self, response, leave, line, wait)

        try:
            return await self._retrier.run(breaker, wait, deadline_s, attempt, max_attempts)
        except BaseException:
            wait.ended()
            raise

    def now(self) -> float:
        """Return the time, in seconds of the mount's clock."""
        return self._clock()

    def received(self, size_bytes: int, wait: PendingRequest) -> None:
        """Count received bytes of a body."""
        self._received_bytes += size_bytes
        wait.on_activity(self._clock(), size_bytes)

    def count_broken_body(self) -> None:
        """Count a body that did not come to its end."""
        self._tally.bodies_broken += 1

    def is_api_origin(self, url: httpx.URL) -> bool:
        """Whether a URL is of the API's own origin: the only origin that gets the credentials."""
        return (url.scheme, url.host, url.port) == (self._origin.scheme, self._origin.host, self._origin.port)

    def _breaker_of(self, url: httpx.URL) -> CircuitBreaker:
        """Return the circuit breaker of an origin that is not the API's."""
        host = url.netloc.decode("ascii")
        origin = f"{url.scheme}://{host}"
        if (found := self._redirect_breakers.get(origin)) is None:
            found = self._redirect_breakers[origin] = CircuitBreaker(host)
        return found

    def _url(self, target: str) -> httpx.URL:
        try:
            return httpx.URL(self._base + target if target.startswith("/") else target)
        except httpx.InvalidURL as error:
            raise errors.BadRequest(f"the path is too long or odd for a URL: {error}") from error

    async def _fetch_body(self, endpoint: str, target: str, left_s: float, wait: PendingRequest) -> RetainedBody:
        """Make one attempt; return its body."""
        until = self._clock() + left_s - _MEMORY_WAIT_MARGIN_S
        url = self._url(target)
        kept = RetainedBody(self._room)
        try:
            with request_log.begin(endpoint, url, ours=True) as line:
                response = await self._respond(endpoint, url, {}, left_s, _SUCCESS, line, wait)
                try:
                    with self._converting_errors(url):
                        async with aclosing(response):
                            await self._fill(kept, response, until, wait)
                finally:
                    line.size_bytes = kept.size_bytes
        except errors.ServiceError as error:
            kept.close()
            # The frames of a traceback would keep chunks of the body, and the connection.
            raise error.with_traceback(None) from error.__cause__
        except BaseException:
            kept.close()
            raise
        return kept

    async def _respond(
        self,
        endpoint: str,
        url: httpx.URL,
        headers: dict[str, str],
        timeout_s: float,
        expected: Container[int],
        line: request_log.Line,
        wait: PendingRequest,
    ) -> httpx.Response:
        """Send a request; return its answer with the body unread. Raises ServiceError for an unexpected status."""
        ours = self.is_api_origin(url)
        generation = self._keys.generation
        with self._converting_errors(url):
            response = await self._send(
                endpoint, url, headers | self._keys.headers() if ours else headers, timeout_s, wait
            )
        line.status = response.status_code
        if ours:
            self._limits.observe(endpoint, response.status_code, response.headers, self._clock(), self._wall_clock())
        if response.status_code in expected:
            return response
        try:
            body = await self._start_of(response, wait)
        except httpx.HTTPError:
            body = b""  # the status says enough
        finally:
            await response.aclose()
        line.size_bytes = len(body)
        said = models.error_text(body, response.headers.get("content-type", ""), self._keys.secrets())
        reset_s = self._limits.pause_s(endpoint, self._clock())
        failure = error_mapping.error_from_response(self.host, response.status_code, said, reset_s)
        raise KeysRefused(failure, generation) if ours and isinstance(failure, errors.AccessDenied) else failure

    async def _send(
        self, endpoint: str, url: httpx.URL, headers: dict[str, str], timeout_s: float, wait: PendingRequest
    ) -> httpx.Response:
        self._requests[endpoint] += 1
        timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s))
        request = httpx.Request("GET", url, headers=_HEADERS | headers, extensions={"timeout": timeout.as_dict()})
        wait.sent(sent_at := self._clock())
        response = await self._connections.send(request, alone=self._queue.in_use <= 1)
        wait.on_activity(now := self._clock())
        self._tally.head(endpoint, now - sent_at)
        if self._on_answer is not None:
            self._on_answer(endpoint, response.status_code, response.headers)
        return response

    @contextmanager
    def _converting_errors(self, url: httpx.URL) -> Iterator[None]:
        """Raise httpx's exceptions as ours, which name the host that was asked, not the host that redirected."""
        try:
            yield
        except httpx.HTTPError as error:
            raise error_mapping.error_from_exception(url.netloc.decode("ascii"), error, self._proxy_shown) from error

    async def _fill(self, kept: RetainedBody, response: httpx.Response, until: float, wait: PendingRequest) -> None:
        """Read a body into `kept`. Raises AnswerTooLarge past the size limit."""
        async with aclosing(decoded(response)) as pieces:
            async for piece in pieces:
                self.received(len(piece), wait)
                if kept.size_bytes + len(piece) > self._sizes.body_bytes:
                    raise errors.AnswerTooLarge(
                        f"{self.host} sent an answer of more than {self._sizes.body_bytes >> 20} MiB"
                    )
                # A wait for memory says nothing about the service.
                wait.pause(self._clock())
                with trio.move_on_after(max(0.0, until - self._clock())) as memory_wait:
                    await kept.add(piece)
                wait.resume(self._clock())
                if memory_wait.cancelled_caught:
                    raise errors.TimedOut("other large listings took all the memory that there is for them")

    async def _start_of(self, response: httpx.Response, wait: PendingRequest) -> bytes:
        """Return the beginning of an error's body."""
        body = bytearray()
        async with aclosing(decoded(response)) as pieces:
            async for piece in pieces:
                self.received(len(piece), wait)
                body += piece
                if len(body) > _MAX_ERROR_BYTES:
                    break
        return bytes(body)
