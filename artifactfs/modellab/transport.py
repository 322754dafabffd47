"""One GET to the API origin: limiter, rate-limit pause, attempts, size cap, and our exceptions.

Foreign exceptions end here: what leaves is a body or an artifactfs.errors.ServiceError. Does not know
endpoints or JSON. What is hard:

- httpcore's pool is poisoned by cancellations while requests queue inside it (encode/httpcore#1093), so a
  queue of our own stands in front and nothing ever queues there;
- httpx's time-outs are per chunk, so the deadline is trio's;
- a redirect is never followed: httpx would take the keys along (model-lab-api.md, 12).
"""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import version
from typing import TypeVar

import cachetools
import httpx
import trio

from artifactfs import errors
from artifactfs.domain import RequestUsage
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab import error_mapping, models, rate_limits, request_log
from artifactfs.modellab.auth import Credentials, KeyRing
from artifactfs.modellab.circuit_breaker import PROBE_INTERVAL_S, CircuitBreaker, Wait
from artifactfs.modellab.connections import Connections, tls_context
from artifactfs.modellab.request_queue import RequestQueue
from artifactfs.modellab.request_stats import Outcome, RequestStats
from artifactfs.modellab.streams import Kept, Room, Stream, decoded
from artifactfs.util.urls import is_loopback, without_password

log = logging.getLogger(__name__)

T = TypeVar("T")

# Told of every answer: the kind of request, the status, the headers by their names in lower case.
OnAnswer = Callable[[str, int, Mapping[str, str]], None]

# As many requests at once as one mount may have in flight, as long as none stalls.
CONCURRENCY = 16
# Origins that redirects lead to, of which it is known whether they answer. Arbitrary.
_MAX_ORIGINS = 32
# Of those, how many are left free by requests that nobody waits for.
RESERVED = 2
# A listing of 1,000,000 entries is about 100 MB; past this an answer is not a listing (semantics 6.4).
MAX_ANSWER_BYTES = 256 << 20
# Of the bodies that are kept whole, all but the oldest hold this together: 300,000 entries (semantics 6.4).
_OTHER_ANSWERS_BYTES = 16 << 20
# A body that waits for room gives up so long before its time is over, so that it can say why.
_SAY_SO_S = 0.2
# What is read of an error's body: enough for a sentence.
_MAX_ERROR_BYTES = 64 << 10
_CONNECT_TIMEOUT_S = 10.0
# How much of the time that is left may go into reading refused keys again: the rest is for asking with them.
_SHARE_FOR_KEYS = 0.8
# How often a request is sent again because there are other keys. Arbitrary: keys that change at every look are no keys.
_MAX_RENEWALS = 3

USER_AGENT = f"artifactfs/{version('artifactfs')} (pyfuse3/{version('pyfuse3')}; httpx/{httpx.__version__})"
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}


class _KeysRefused(errors.AccessDenied):
    """The API refused the keys of a generation. `denied`: our exception for it, which others get."""

    def __init__(self, denied: errors.AccessDenied, generation: int) -> None:
        super().__init__(str(denied), denied.status)
        self.denied = denied
        self.generation = generation


class Transport:
    """Sends GETs to one origin with its credentials. Create within trio; close with `aclose`.

    `clock` gives seconds that go on while the machine sleeps; it must run at the rate of trio's deadlines.
    `keys`, `limits`, `breaker` and `tally` are shared by the transports of one mount. `on_answer` is told of every
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
    ) -> None:
        self._base = api_url.rstrip("/")
        try:
            self._origin = httpx.URL(api_url)
        except (httpx.InvalidURL, UnicodeError):
            raise UserError(ExitCode.USAGE, f"--api-url {api_url!r} is not a URL that can be asked") from None
        self.host = self._origin.netloc.decode("ascii")
        self._keys = keys if isinstance(keys, KeyRing) else KeyRing(keys)
        # Loopback never goes through a proxy: it would see the keys (pitfalls.md).
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
        self._room = Room(_OTHER_ANSWERS_BYTES)
        self._limits = limits or rate_limits.RateLimits()
        self._breaker = breaker or CircuitBreaker(self.host)
        # Where redirects lead: object storage that is silent says nothing about the API.
        self._elsewhere: cachetools.LRUCache[str, CircuitBreaker] = cachetools.LRUCache(_MAX_ORIGINS)
        self._tally = tally or RequestStats(clock)
        self._on_answer = on_answer
        self._clock = clock
        self._wall_clock = wall_clock
        self._requests: Counter[str] = Counter()
        self._received_bytes = 0
        self._paused_s = 0.0

    def cost(self) -> "RequestUsage":
        """Return what was asked so far."""
        return RequestUsage(dict(self._requests), self._received_bytes, self._paused_s)

    def can_prefetch(self, endpoint: str) -> bool:
        """Whether a request that nobody waits for may go: it delays none that somebody does, and the limit is far."""
        return (
            self._queue.free > RESERVED
            and not self._breaker.is_open(endpoint)
            and not self._limits.is_near(endpoint, self._clock(), self._queue.taken)
        )

    @property
    def crowded(self) -> bool:
        """Whether requests wait for a place: all connections are in use."""
        return self._queue.waiting > 0

    async def aclose(self) -> None:
        """Close the pool and its connections."""
        await self._connections.aclose()

    async def get(self, endpoint: str, target: str, *, deadline_s: float) -> bytes:
        """Return the body of a 2xx answer as `whole` does, and keep no room for it: for small ones."""
        async with self.whole(endpoint, target, deadline_s=deadline_s) as body:
            return body

    @asynccontextmanager
    async def whole(self, endpoint: str, target: str, *, deadline_s: float) -> AsyncIterator[bytes]:
        """Give the body of a 2xx answer to `GET target` (path and query, encoded), and room for what it is made into.

        `endpoint`: the kind, for counting and rate limits. Waits at most `deadline_s` seconds in all: queue,
        pauses, attempts, and other bodies that need the room. Raises a ServiceError.
        """
        kept = await self._whole(endpoint, target, deadline_s)
        try:
            yield kept.value()
        finally:
            kept.close()

    async def _whole(self, endpoint: str, target: str, deadline_s: float) -> Kept:
        wait = self._breaker.wait(endpoint, target)

        async def attempt(left_s: float) -> Kept:
            until = self._clock() + left_s
            leave = await self._queue.enter(wait, self._clock(), left_s)
            try:
                with self._tally.attempt(endpoint, until):
                    return await self._attempt(endpoint, target, left_s, wait)
            finally:
                leave()

        try:
            found = await self._retrying(self._breaker, wait, deadline_s, attempt)
        except errors.UnexpectedAnswer:
            self._breaker.strange(self._clock())
            raise
        finally:
            wait.ended()
        wait.answered()
        return found

    async def ask(self, endpoint: str, target: str, limit_s: float) -> None:
        """Make one attempt, past the queue and the breaker, which hears of the answer, whatever that is.

        Raises ServiceError; TimedOut after `limit_s` seconds.
        """
        wait = self._breaker.wait(endpoint, target)
        wait.limit_s = limit_s
        try:
            with trio.move_on_after(limit_s), self._tally.attempt(endpoint, self._clock() + limit_s):
                (await self._attempt(endpoint, target, limit_s, wait)).close()
                return
        finally:
            wait.ended()
        raise errors.TimedOut(f"{self.host} did not answer within {limit_s:g} s")

    def is_held_back(self, endpoint: str) -> bool:
        """Whether a rate limit forbids a request of this kind just now."""
        return self._limits.pause_s(endpoint, self._clock()) > 0

    def understood(self) -> None:
        """Take note that an answer was Model Lab's."""
        self._breaker.understood(self._clock())

    def strange(self, endpoint: str) -> None:
        """Take note that an answer, which had come with a 2xx, is not Model Lab's."""
        self._tally.strange(endpoint)
        self._breaker.strange(self._clock())

    async def open(
        self,
        endpoint: str,
        url: str,
        *,
        headers: dict[str, str],
        deadline_s: float,
        expected: frozenset[int] = frozenset({200}),
        attempts: int = rate_limits.MAX_ATTEMPTS,
        target: str | None = None,
    ) -> Stream:
        """Return an open answer to a GET of `url`, a target (path and query) here or a whole URL elsewhere.

        Answers with another status than `expected` raise. Credentials go with it to the API's own origin only.
        `deadline_s` bounds the wait for the answer's head, and later for each piece of its body. Close the stream.
        `target`: what is asked for, where `url` is a link that is another one each time.
        """
        absolute = self._url(url)
        ours = self.is_ours(absolute)
        breaker = self._breaker if ours else self._breaker_of(absolute)
        wait = breaker.wait(endpoint, url if target is None else target)

        async def attempt(left_s: float) -> Stream:
            # The place is given back by the stream.
            until = self._clock() + left_s
            leave = await self._queue.enter(wait, self._clock(), left_s)
            line = request_log.begin(endpoint, absolute, ours=ours)
            try:
                with self._tally.attempt(endpoint, until, ours=ours):
                    response = await self._open(endpoint, absolute, headers, deadline_s, expected, line, wait)
            except BaseException as error:
                leave()
                line.error = error
                line.end()
                raise
            # A probe's time is short; of its body, each piece has the whole of it.
            wait.limit_s = deadline_s
            return Stream(self, response, leave, line, wait)

        try:
            return await self._retrying(breaker, wait, deadline_s, attempt, attempts)
        except BaseException:
            wait.ended()
            raise

    def _breaker_of(self, url: httpx.URL) -> CircuitBreaker:
        """Return what is known of an origin that is not the API's."""
        origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        if (found := self._elsewhere.get(origin)) is None:
            found = self._elsewhere[origin] = CircuitBreaker(url.netloc.decode("ascii"))
        return found

    def _url(self, target: str) -> httpx.URL:
        try:
            return httpx.URL(self._base + target if target.startswith("/") else target)
        except httpx.InvalidURL as error:
            raise errors.BadRequest(f"the path is too long or odd for a URL: {error}") from error

    async def _open(
        self,
        endpoint: str,
        url: httpx.URL,
        headers: dict[str, str],
        deadline_s: float,
        expected: frozenset[int],
        line: request_log.Line,
        wait: Wait,
    ) -> httpx.Response:
        ours = self.is_ours(url)
        generation = self._keys.generation
        try:
            sent = headers | (self._keys.headers() if ours else {})
            response = await self._send(endpoint, url, sent, deadline_s, wait)
        except httpx.HTTPError as error:
            # Who was asked, and not who sent us there.
            raise error_mapping.of_exception(url.netloc.decode("ascii"), error, self._proxy_shown) from error
        line.status = response.status_code
        if ours:
            self._observe(endpoint, response)
        if response.status_code in expected:
            return response
        try:
            body = await self._start_of(response, wait)
        except httpx.HTTPError:
            body = b""  # the status says enough
        finally:
            await response.aclose()
        raise self._failure(response, body, endpoint, generation if ours else None)

    async def _send(
        self, endpoint: str, url: httpx.URL, headers: dict[str, str], timeout_s: float, wait: Wait
    ) -> httpx.Response:
        self._requests[endpoint] += 1
        timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s))
        request = httpx.Request("GET", url, headers=_HEADERS | headers, extensions={"timeout": timeout.as_dict()})
        wait.sent(sent_at := self._clock())
        response = await self._connections.send(request, alone=self._queue.taken <= 1)
        wait.heard(now := self._clock())
        self._tally.head(endpoint, now - sent_at)
        if self._on_answer is not None:
            self._on_answer(endpoint, response.status_code, response.headers)
        return response

    def now(self) -> float:
        """Return the time, in seconds of the mount's clock."""
        return self._clock()

    def received(self, size_bytes: int, wait: Wait) -> None:
        """Count bytes of a body that came."""
        self._received_bytes += size_bytes
        wait.heard(self._clock(), size_bytes)

    def broke_off(self) -> None:
        """Count a body that did not come to its end."""
        self._tally.bodies_broken += 1

    def is_ours(self, url: httpx.URL) -> bool:
        """Whether a URL is of the API's own origin: the only one that gets the credentials."""
        return (url.scheme, url.host, url.port) == (self._origin.scheme, self._origin.host, self._origin.port)

    def _observe(self, endpoint: str, response: httpx.Response) -> None:
        self._limits.observe(endpoint, response.status_code, response.headers, self._clock(), self._wall_clock())

    async def _retrying(
        self,
        breaker: CircuitBreaker,
        wait: Wait,
        deadline_s: float,
        attempt: Callable[[float], Awaitable[T]],
        most: int = rate_limits.MAX_ATTEMPTS,
    ) -> T:
        """Make attempts within a deadline, each given the seconds that are left. Raises ServiceError."""
        since, target = self._clock(), wait.target
        if (limit_s := breaker.admit(wait.endpoint, target, since, deadline_s)) is None:
            self._tally.not_sent(wait.endpoint, Outcome.CIRCUIT_OPEN)
            raise errors.NotAsked(
                f"{breaker.name} did not answer a moment ago; it is tried again every {PROBE_INTERVAL_S:g} s"
            )
        wait.limit_s = limit_s
        most = 1 if breaker.is_failing else most
        last: list[errors.PassingError] = []
        try:
            with trio.move_on_after(limit_s):
                found = await self._attempts(wait, since + limit_s, attempt, last, most)
                breaker.worked(target, self._clock())
                return found
            if not last or not isinstance(last[-1], errors.RateLimited):
                wait.timed_out(self._clock())
            # What went wrong before the time was over says more than that it is over.
            raise last[-1] if last else errors.TimedOut(f"{breaker.name} did not answer within {limit_s:g} s")
        except trio.Cancelled:
            wait.given_up(self._clock())
            raise
        except errors.NotAsked:
            self._tally.not_sent(wait.endpoint, Outcome.CIRCUIT_OPEN)
            raise
        except errors.TimedOut as error:
            if error.status is None:
                wait.timed_out(self._clock())
            raise
        except (errors.ServerFailed, errors.ConnectionLost, errors.ConnectionRefused, errors.Unreachable) as error:
            surely = isinstance(error, errors.ConnectionRefused | errors.Unreachable)
            breaker.failed(target, self._clock(), surely=surely)
            raise
        except (errors.NotFound, errors.AccessDenied, errors.BadRequest):
            breaker.worked(target, self._clock())
            wait.answered()
            raise

    async def _attempts(
        self,
        wait: Wait,
        end: float,
        attempt: Callable[[float], Awaitable[T]],
        last: list[errors.PassingError],
        most: int,
    ) -> T:
        attempts = renewals = 0
        while True:
            attempts += 1
            await self._wait_for_rate_limit(wait.endpoint, end, last)
            try:
                return await attempt(max(0.001, end - self._clock()))
            except _KeysRefused as refused:
                wait.failed_at_once()
                renewals += 1
                if renewals > _MAX_RENEWALS or not await self._renewed(refused, end):
                    raise refused.denied from None
                attempts -= 1
            except (errors.TlsFailed, errors.NotAsked):
                raise
            except errors.PassingError as error:
                if not isinstance(error, errors.TimedOut) or error.status is not None:
                    wait.failed_at_once()
                last.append(error)
                retried = error.status is None or rate_limits.is_retried(error.status)
                if attempts >= most or not retried:
                    raise
                # A reset that the server named is waited for at the top of the loop.
                throttled = isinstance(error, errors.RateLimited) and self.is_held_back(wait.endpoint)
                pause_s = 0.0 if throttled else rate_limits.backoff_s(attempts)
                if self._clock() + pause_s >= end:
                    raise
                log.debug("%s; attempt %d, again in %.1f s", error, attempts, pause_s)
                await trio.sleep(pause_s)

    async def _renewed(self, refused: _KeysRefused, end: float) -> bool:
        """Whether there are other keys by now than those that were refused; waits until shortly before `end`."""
        with trio.move_on_after((end - self._clock()) * _SHARE_FOR_KEYS):
            return await self._keys.renewed(refused.generation, refused.denied.status)
        return False

    async def _wait_for_rate_limit(self, endpoint: str, end: float, last: list[errors.PassingError]) -> None:
        # Again after each wait: another request may have learned of a later reset.
        while (pause_s := self._limits.pause_s(endpoint, now := self._clock())) > 0:
            limited = errors.RateLimited(
                f"{self.host} is rate-limiting these keys: its limit resets in {pause_s:.0f} s, which is past the "
                f"deadline; try again then",
                pause_s,
            )
            if now + pause_s >= end:
                self._tally.not_sent(endpoint, Outcome.RATE_LIMITED_LOCALLY)
                raise limited
            # If the time is over before the request got its turn, this is why.
            last.append(limited)
            log.info("rate limit of %s: waiting %.1f s", self.host, pause_s)
            await self._pause(pause_s)
        # Near the limit requests are spread out; but nobody fails for that.
        if (turn_s := min(self._limits.turn_s(endpoint, now), (end - now) / 2)) > 0:
            await self._pause(turn_s)

    async def _pause(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self._paused_s += seconds

    async def _attempt(self, endpoint: str, target: str, left_s: float, wait: Wait) -> Kept:
        url = self._url(target)
        kept = Kept(self._room)
        try:
            with request_log.begin(endpoint, url, ours=True) as line:
                await self._answer(kept, endpoint, url, left_s, line, wait)
        except errors.ServiceError as error:
            kept.close()
            # The frames of a traceback would keep what they were working on: pieces of the body, the connection.
            raise error.with_traceback(None) from error.__cause__
        except BaseException:
            kept.close()
            raise
        return kept

    async def _answer(
        self, kept: Kept, endpoint: str, url: httpx.URL, left_s: float, line: request_log.Line, wait: Wait
    ) -> None:
        generation = self._keys.generation
        until = self._clock() + left_s - _SAY_SO_S
        body = b""
        try:
            response = await self._send(endpoint, url, self._keys.headers(), left_s, wait)
            async with aclosing(response):
                self._observe(endpoint, response)
                ok = 200 <= response.status_code < 300
                line.status = response.status_code
                if ok:
                    await self._fill(kept, response, until, wait)
                else:
                    body = await self._start_of(response, wait)
                line.size_bytes = kept.size_bytes + len(body)
        except httpx.HTTPError as error:
            raise error_mapping.of_exception(self.host, error, self._proxy_shown) from error
        if not ok:
            raise self._failure(response, body, endpoint, generation)

    async def _fill(self, kept: Kept, response: httpx.Response, until: float, wait: Wait) -> None:
        """Keep a body whole. Raises AnswerTooLarge past MAX_ANSWER_BYTES."""
        async with aclosing(decoded(response)) as pieces:
            async for piece in pieces:
                self.received(len(piece), wait)
                if kept.size_bytes + len(piece) > MAX_ANSWER_BYTES:
                    raise errors.AnswerTooLarge(f"{self.host} sent an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
                # A wait for room says nothing about the service.
                wait.pause(self._clock())
                with trio.move_on_after(max(0.0, until - self._clock())) as room_wait:
                    await kept.add(piece)
                wait.resume(self._clock())
                if room_wait.cancelled_caught:
                    raise errors.TimedOut("other large listings took all the memory that there is for them")

    async def _start_of(self, response: httpx.Response, wait: Wait) -> bytes:
        """Read an error's body as far as it is of use."""
        body = bytearray()
        async with aclosing(decoded(response)) as pieces:
            async for piece in pieces:
                self.received(len(piece), wait)
                body += piece
                if len(body) > _MAX_ERROR_BYTES:
                    break
        return bytes(body)

    def _failure(self, response: httpx.Response, body: bytes, endpoint: str, generation: int | None) -> Exception:
        """Return what to raise for an answer that is none; `generation`: of the keys that it was asked with, if any."""
        said = models.error_text(body, response.headers.get("content-type", ""), self._keys.secrets())
        reset_s = self._limits.pause_s(endpoint, self._clock())
        error = error_mapping.of_answer(self.host, response.status_code, said, reset_s)
        if isinstance(error, errors.AccessDenied) and generation is not None:
            return _KeysRefused(error, generation)
        return error
