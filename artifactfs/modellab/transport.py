"""One GET to the API origin: limiter, rate-limit pause, attempts, size cap, and our exceptions.

Foreign exceptions end here: what leaves is a body or an artifactfs.errors.ServiceError. Does not know
endpoints or JSON. What is hard:

- httpcore's pool is poisoned by cancellations while requests queue inside it (encode/httpcore#1093), so a
  limiter as wide as the pool stands in front and nothing ever queues there;
- httpx's time-outs are per chunk, so the deadline is trio's;
- a redirect is never followed: httpx would take the keys along (model-lab-api.md, 12).
"""

import errno
import http.cookiejar
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from importlib.metadata import version
from typing import TypeVar

import certifi
import httpcore
import httpx
import trio

from artifactfs import errors
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab import models, throttle
from artifactfs.modellab.auth import Credentials
from artifactfs.origins import is_loopback

log = logging.getLogger(__name__)

T = TypeVar("T")

# What one read of a socket takes at most. httpcore's 64 KiB cost it 0.6-0.8 s of CPU for 512 MiB, this 0.3-0.35 s
# (measured 2026-11-23 on loopback, httpx 0.28.1); more gains nothing.
httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = 512 << 10

# As many requests at once as one mount may have in flight, and connections in the pool.
CONCURRENCY = 16
# A listing of 1,000,000 entries is about 100 MB; past this an answer is not a listing (semantics 6.4).
MAX_ANSWER_BYTES = 256 << 20
# What is read of an error's body: enough for a sentence.
_MAX_ERROR_BYTES = 64 << 10
_CONNECT_TIMEOUT_S = 10.0
_CLOSE_S = 1.0
# Idle connections are closed after this; below what load balancers commonly allow (60 s).
_KEEPALIVE_S = 30.0

USER_AGENT = f"artifactfs/{version('artifactfs')} (pyfuse3/{version('pyfuse3')}; httpx/{httpx.__version__})"


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a verifying TLS context that trusts `ca_file`, or the bundled CAs.

    Not `ssl.create_default_context`: that picks up SSLKEYLOGFILE and SSL_CERT_FILE behind our back
    (semantics 6.1). Raises UserError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=ca_file or certifi.where())
    except (OSError, ssl.SSLError) as error:
        reason = (
            error.strerror
            if isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
            else "no certificates in it"
        )
        raise UserError(ExitCode.BAD_CONFIG, f"--ca-file {ca_file}: {reason}") from None
    return context


class Transport:
    """Sends GETs to one origin with its credentials. Create within trio; close with `aclose`.

    `clock` gives seconds that go on while the machine sleeps; it must run at the rate of trio's deadlines.
    `limits` is shared by the transports of one pair of keys. `transport` replaces the network in tests.
    """

    def __init__(
        self,
        api_url: str,
        credentials: Credentials,
        *,
        proxy: str | None = None,
        ca_file: str | None = None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        transport: httpx.AsyncBaseTransport | None = None,
        limits: throttle.RateLimits | None = None,
    ) -> None:
        self._base = api_url.rstrip("/")
        try:
            self._origin = httpx.URL(api_url)
        except (httpx.InvalidURL, UnicodeError):
            raise UserError(ExitCode.USAGE, f"--api-url {api_url!r} is not a URL that can be asked") from None
        self.host = self._origin.netloc.decode("ascii")
        self._credentials = credentials.headers()
        loopback = is_loopback(self._origin.host)
        self._client = httpx.AsyncClient(
            transport=transport,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            verify=tls_context(ca_file),
            # Loopback never goes through a proxy: it would see the keys (pitfalls.md).
            proxy=None if loopback or transport is not None else proxy,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(
                max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY, keepalive_expiry=_KEEPALIVE_S
            ),
        )
        self._limiter = trio.CapacityLimiter(CONCURRENCY)
        # Nobody asked for cookies, and one of a foreign origin would come back to it.
        self._client.cookies.jar.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._limits = limits or throttle.RateLimits()
        self._clock = clock
        self._wall_clock = wall_clock
        # Requests sent, by endpoint; what a walk costs is told from it.
        self.requests: dict[str, int] = {}

    @property
    def crowded(self) -> bool:
        """Whether requests wait for a place: all connections are in use."""
        return self._limiter.statistics().tasks_waiting > 0

    async def aclose(self) -> None:
        """Close the pool and its connections."""
        await self._client.aclose()

    async def get(self, endpoint: str, target: str, *, deadline_s: float) -> bytes:
        """Return the body of a 2xx answer to `GET target` (path and query, encoded).

        `endpoint`: the kind, for counting and rate limits. Waits at most `deadline_s` seconds in all: queue,
        pauses and attempts. Raises a ServiceError.
        """
        end = self._clock() + deadline_s

        async def attempt() -> bytes:
            async with self._limiter:
                return await self._attempt(endpoint, target, end)

        return await self._retrying(endpoint, deadline_s, attempt)

    async def open(
        self,
        endpoint: str,
        url: str,
        *,
        headers: dict[str, str],
        deadline_s: float,
        expected: frozenset[int] = frozenset({200}),
    ) -> "Stream":
        """Return an open answer to a GET of `url`, a target (path and query) here or a whole URL elsewhere.

        Answers with another status than `expected` raise. Credentials go with it to the API's own origin only.
        `deadline_s` bounds the wait for the answer's head, and later for each piece of its body. Close the stream.
        """
        absolute = httpx.URL(self._base + url if url.startswith("/") else url)

        async def attempt() -> Stream:
            # The place is given back by the stream; on behalf of it, since another task may close it.
            place = object()
            await self._limiter.acquire_on_behalf_of(place)
            try:
                response = await self._open(endpoint, absolute, headers, deadline_s, expected)
            except BaseException:
                self._limiter.release_on_behalf_of(place)
                raise
            return Stream(self, response, lambda: self._limiter.release_on_behalf_of(place))

        return await self._retrying(endpoint, deadline_s, attempt)

    async def _open(
        self, endpoint: str, url: httpx.URL, headers: dict[str, str], deadline_s: float, expected: frozenset[int]
    ) -> httpx.Response:
        ours = self.is_ours(url)
        self.requests[endpoint] = self.requests.get(endpoint, 0) + 1
        timeout = httpx.Timeout(deadline_s, connect=min(_CONNECT_TIMEOUT_S, deadline_s))
        try:
            request = self._client.build_request(
                "GET", url, headers=headers | (self._credentials if ours else {}), timeout=timeout
            )
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self.foreign(error) from error
        except httpx.InvalidURL as error:
            raise errors.BadRequest(f"the path is too long or odd for a URL: {error}") from error
        if ours:
            self._observe(endpoint, response)
        if response.status_code in expected:
            return response
        try:
            body = await self._body(response, _MAX_ERROR_BYTES, whole=False)
        except httpx.HTTPError:
            body = b""  # the status says enough
        finally:
            await response.aclose()
        raise self._failure(response, body, endpoint)

    def is_ours(self, url: httpx.URL) -> bool:
        """Whether a URL is of the API's own origin: the only one that gets the credentials."""
        return (url.scheme, url.host, url.port) == (self._origin.scheme, self._origin.host, self._origin.port)

    def _observe(self, endpoint: str, response: httpx.Response) -> None:
        self._limits.observe(endpoint, response.status_code, response.headers, self._clock(), self._wall_clock())

    async def _retrying(self, endpoint: str, deadline_s: float, attempt: Callable[[], Awaitable[T]]) -> T:
        end = self._clock() + deadline_s
        last: list[errors.PassingError] = []
        with trio.move_on_after(deadline_s):
            return await self._attempts(endpoint, end, attempt, last)
        # What went wrong before the time was over says more than that it is over.
        raise last[-1] if last else errors.TimedOut(f"{self.host} did not answer within {deadline_s:g} s")

    async def _attempts(
        self, endpoint: str, end: float, attempt: Callable[[], Awaitable[T]], last: list[errors.PassingError]
    ) -> T:
        attempts = 0
        while True:
            attempts += 1
            await self._wait_for_rate_limit(endpoint, end, last)
            try:
                return await attempt()
            except errors.TlsFailed:
                raise
            except errors.PassingError as error:
                last.append(error)
                retried = error.status is None or throttle.is_retried(error.status)
                if attempts >= throttle.MAX_ATTEMPTS or not retried:
                    raise
                # A reset that the server named is waited for at the top of the loop.
                throttled = isinstance(error, errors.RateLimited) and self._limits.pause_s(endpoint, self._clock()) > 0
                pause_s = 0.0 if throttled else throttle.backoff_s(attempts)
                if self._clock() + pause_s >= end:
                    raise
                log.debug("%s; attempt %d, again in %.1f s", error, attempts, pause_s)
                await trio.sleep(pause_s)

    async def _wait_for_rate_limit(self, endpoint: str, end: float, last: list[errors.PassingError]) -> None:
        # Again after each wait: another request may have learned of a later reset.
        while (pause_s := self._limits.pause_s(endpoint, now := self._clock())) > 0:
            limited = errors.RateLimited(
                f"{self.host} is rate-limiting these keys: its limit resets in {pause_s:.0f} s, which is past the "
                f"deadline; try again then",
                pause_s,
            )
            if now + pause_s >= end:
                raise limited
            # If the time is over before the request got its turn, this is why.
            last.append(limited)
            log.info("rate limit of %s: waiting %.1f s", self.host, pause_s)
            await trio.sleep(pause_s)

    async def _attempt(self, endpoint: str, target: str, end: float) -> bytes:
        self.requests[endpoint] = self.requests.get(endpoint, 0) + 1
        left_s = max(0.001, end - self._clock())
        timeout = httpx.Timeout(left_s, connect=min(_CONNECT_TIMEOUT_S, left_s))
        try:
            async with self._client.stream(
                "GET", self._base + target, headers=self._credentials, timeout=timeout
            ) as response:
                self._observe(endpoint, response)
                ok = 200 <= response.status_code < 300
                body = await self._body(response, MAX_ANSWER_BYTES if ok else _MAX_ERROR_BYTES, whole=ok)
        except httpx.HTTPError as error:
            raise self.foreign(error) from error
        except httpx.InvalidURL as error:
            raise errors.BadRequest(f"the path is too long or odd for a URL: {error}") from error
        if not ok:
            raise self._failure(response, body, endpoint)
        return body

    async def _body(self, response: httpx.Response, cap_bytes: int, *, whole: bool) -> bytes:
        """Read a body up to `cap_bytes`; past it raise if it is needed whole, else cut it there."""
        pieces: list[bytes] = []
        size = 0
        async for piece in response.aiter_bytes():
            size += len(piece)
            pieces.append(piece)
            if size > cap_bytes:
                if whole:
                    raise errors.AnswerTooLarge(f"{self.host} sent an answer of more than {cap_bytes >> 20} MiB")
                break
        return b"".join(pieces)

    def _failure(self, response: httpx.Response, body: bytes, endpoint: str) -> errors.ServiceError:
        status = response.status_code
        said = models.error_text(body, response.headers.get("content-type", ""))
        what = f"{self.host} answered {status}" + (f" ({said})" if said else "")
        if status in (401, 403):
            return errors.AccessDenied(f"{what}: are the keys right, and of this site?", status)
        if status in (404, 410):
            return errors.NotFound(what, status)
        if status == 429:
            reset_s = self._limits.pause_s(endpoint, self._clock())
            return errors.RateLimited(f"{what}: too many requests with these keys", reset_s)
        if status in (408, 504):
            return errors.TimedOut(what, status)
        if status >= 500:
            return errors.ServerFailed(what, status)
        if status < 400:
            return errors.UnexpectedAnswer(f"{what}, a redirect that is not followed: is the API URL right?", status)
        return errors.BadRequest(what, status)

    def foreign(self, error: httpx.HTTPError) -> errors.ServiceError:
        """Turn an httpx exception into ours. Its text may name the proxy's URL, so it is never repeated whole."""
        causes = list(_chain(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLError):
                return errors.TlsFailed(
                    f"TLS to {self.host} failed: {cause.reason or type(cause).__name__}; see --ca-file"
                )
        if any(isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE) for cause in causes):
            return errors.ConnectionLost("too many files are open in this process or on this machine")
        if isinstance(error, httpx.TimeoutException):
            return errors.TimedOut(f"{self.host} did not answer in time")
        if isinstance(error, httpx.ProxyError):
            return errors.Unreachable("the proxy refused the connection: see --proxy")
        if isinstance(error, httpx.ConnectError):
            if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
                return errors.ConnectionRefused(f"{self.host} refuses connections: is the address right, is it up?")
            reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
            return errors.Unreachable(f"cannot reach {self.host}: {reasons[0] if reasons else 'no connection'}")
        if isinstance(error, httpx.DecodingError):
            return errors.UnexpectedAnswer(f"{self.host} sent a body that does not decompress")
        return errors.ConnectionLost(f"the connection to {self.host} was lost: {type(error).__name__}")


class Stream:
    """An open answer of `Transport.open`: its head, and its body as it comes, undecoded."""

    def __init__(self, transport: Transport, response: httpx.Response, release: Callable[[], None]) -> None:
        self._transport = transport
        self._response = response
        self._release: Callable[[], None] | None = release

    @property
    def status(self) -> int:
        """The HTTP status, one of those that were expected."""
        return self._response.status_code

    @property
    def headers(self) -> httpx.Headers:
        """The answer's headers."""
        return self._response.headers

    @property
    def url(self) -> httpx.URL:
        """The URL that was asked; may be signed, so it is never logged."""
        return self._response.url

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, without undoing any Content-Encoding. Raises ServiceError."""
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            raise self._transport.foreign(error) from error

    async def aclose(self) -> None:
        """Give back the connection, or close it where the body was not read to its end."""
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
                await self._response.aclose()
        finally:
            if self._release is not None:
                release, self._release = self._release, None
                release()


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception, what caused it, and, of groups, all that they hold."""
    found: list[BaseException] = []
    todo = [error]
    while todo:
        current = todo.pop()
        if current is None or current in found:
            continue
        found.append(current)
        if isinstance(current, BaseExceptionGroup):
            todo.extend(current.exceptions)
        todo += [current.__cause__, current.__context__]
    return found
