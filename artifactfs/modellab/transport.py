"""One GET to the API origin: limiter, rate-limit pause, attempts, size cap, and our exceptions.

Foreign exceptions end here: what leaves is a body or an artifactfs.errors.ServiceError. Does not know
endpoints or JSON. What is hard:

- httpcore's pool is poisoned by cancellations while requests queue inside it (encode/httpcore#1093), so a
  limiter as wide as the pool stands in front and nothing ever queues there;
- httpx's time-outs are per chunk, so the deadline is trio's;
- a redirect is never followed: httpx would take the keys along (model-lab-api.md, 12).
"""

import logging
import ssl
import time
from collections.abc import Callable
from importlib.metadata import version

import certifi
import httpx
import trio

from artifactfs import errors
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab import models, throttle
from artifactfs.modellab.auth import Credentials
from artifactfs.settings import is_loopback

log = logging.getLogger(__name__)

# As many requests at once as one mount may have in flight, and connections in the pool.
CONCURRENCY = 16
# A listing of 1,000,000 entries is about 100 MB; past this an answer is not a listing (semantics 6.4).
MAX_ANSWER_BYTES = 256 << 20
# What is read of an error's body: enough for a sentence.
_MAX_ERROR_BYTES = 64 << 10
_CONNECT_TIMEOUT_S = 10.0
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
    `transport` replaces the network in tests.
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
    ) -> None:
        self._base = api_url.rstrip("/")
        self.host = httpx.URL(api_url).netloc.decode("ascii")
        loopback = is_loopback(httpx.URL(api_url).host)
        self._client = httpx.AsyncClient(
            transport=transport,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"} | credentials.headers(),
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
        self._limits = throttle.RateLimits()
        self._clock = clock
        self._wall_clock = wall_clock
        # Requests sent, by endpoint; what a walk costs is told from it.
        self.requests: dict[str, int] = {}

    async def aclose(self) -> None:
        """Close the pool and its connections."""
        await self._client.aclose()

    async def get(self, endpoint: str, target: str, *, deadline_s: float) -> bytes:
        """Return the body of a 2xx answer to `GET target` (path and query, encoded).

        `endpoint`: the kind, for counting and rate limits. Waits at most `deadline_s` seconds in all: queue,
        pauses and attempts. Raises a ServiceError.
        """
        end = self._clock() + deadline_s
        with trio.move_on_after(deadline_s):
            return await self._attempts(endpoint, target, end)
        raise errors.TimedOut(f"{self.host} did not answer within {deadline_s:g} s")

    async def _attempts(self, endpoint: str, target: str, end: float) -> bytes:
        attempt = 0
        while True:
            attempt += 1
            await self._wait_for_rate_limit(endpoint, end)
            try:
                async with self._limiter:
                    return await self._attempt(endpoint, target, end)
            except errors.TlsFailed:
                raise
            except errors.PassingError as error:
                if attempt >= throttle.MAX_ATTEMPTS or error.status == 501:
                    raise
                # A reset that the server named is waited for at the top of the loop.
                throttled = isinstance(error, errors.RateLimited) and self._limits.pause_s(endpoint, self._clock()) > 0
                pause_s = 0.0 if throttled else throttle.backoff_s(attempt)
                if self._clock() + pause_s >= end:
                    raise
                log.debug("%s; attempt %d, again in %.1f s", error, attempt, pause_s)
                await trio.sleep(pause_s)

    async def _wait_for_rate_limit(self, endpoint: str, end: float) -> None:
        # Again after each wait: another request may have learned of a later reset.
        while (pause_s := self._limits.pause_s(endpoint, now := self._clock())) > 0:
            if now + pause_s >= end:
                raise errors.RateLimited(
                    f"{self.host} is rate-limiting these keys: its limit resets in {pause_s:.0f} s, which is past the "
                    f"deadline; try again then",
                    pause_s,
                )
            log.info("rate limit of %s: waiting %.1f s", self.host, pause_s)
            await trio.sleep(pause_s)

    async def _attempt(self, endpoint: str, target: str, end: float) -> bytes:
        self.requests[endpoint] = self.requests.get(endpoint, 0) + 1
        left_s = max(0.001, end - self._clock())
        timeout = httpx.Timeout(left_s, connect=min(_CONNECT_TIMEOUT_S, left_s))
        try:
            async with self._client.stream("GET", self._base + target, timeout=timeout) as response:
                self._limits.observe(
                    endpoint, response.status_code, response.headers, self._clock(), self._wall_clock()
                )
                ok = 200 <= response.status_code < 300
                body = await self._body(response, MAX_ANSWER_BYTES if ok else _MAX_ERROR_BYTES, whole=ok)
        except httpx.HTTPError as error:
            raise self._foreign(error) from error
        except httpx.InvalidURL as error:
            raise errors.BadRequest(f"the path is too long or odd for a URL: {error}") from error
        if not ok:
            raise self._failure(response, body)
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

    def _failure(self, response: httpx.Response, body: bytes) -> errors.ServiceError:
        status = response.status_code
        said = models.error_text(body, response.headers.get("content-type", ""))
        what = f"{self.host} answered {status}" + (f" ({said})" if said else "")
        if status in (401, 403):
            return errors.AccessDenied(f"{what}: are the keys right, and of this site?", status)
        if status in (404, 410):
            return errors.NotFound(what, status)
        if status == 429:
            reset_s = self._limits.pause_s("", self._clock())
            return errors.RateLimited(f"{what}: too many requests with these keys", reset_s)
        if status in (408, 504):
            return errors.TimedOut(what, status)
        if status >= 500:
            return errors.ServerFailed(what, status)
        if status < 400:
            return errors.UnexpectedAnswer(f"{what}, a redirect that is not followed: is the API URL right?", status)
        return errors.BadRequest(what, status)

    def _foreign(self, error: httpx.HTTPError) -> errors.ServiceError:
        """Turn an httpx exception into ours. Its text may name the proxy's URL, so it is never repeated whole."""
        causes = list(_chain(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLError):
                return errors.TlsFailed(
                    f"TLS to {self.host} failed: {cause.reason or type(cause).__name__}; see --ca-file"
                )
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
