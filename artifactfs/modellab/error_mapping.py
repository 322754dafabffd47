"""Answers without success, and httpx's exceptions, as artifactfs.errors."""

import errno
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from artifactfs import errors
from artifactfs.errors import ExitCode, NoThread, UserError

# Where the system says nothing more of a lost connection.
_LOST: dict[type[httpx.HTTPError], str] = {
    httpx.RemoteProtocolError: "the answer broke off, or is no HTTP",
    httpx.ReadError: "the other end closed it",
    httpx.WriteError: "the other end closed it",
}


def error_from_response(host: str, status: int, said: str, reset_s: float, retry_after_s: float) -> errors.ServiceError:
    """Return the error for an answer that is no 2xx.

    `said`: the message in its body, without secrets. `reset_s`: seconds to the reset of its rate limit.
    `retry_after_s`: those that its `Retry-After` names, 0 without one.
    """
    failure = _failure(host, status, said, reset_s)
    if isinstance(failure, errors.PassingError):
        failure.retry_after_s = retry_after_s
    return failure


def _failure(host: str, status: int, said: str, reset_s: float) -> errors.ServiceError:
    fact = f"{host} answered {status}" + (f" ({said})" if said else "")
    if status in (401, 403):
        return errors.AccessDenied(fact, status)
    if status in (404, 410):
        return errors.NotFound(fact, status)
    if status == 429:
        return errors.RateLimited(f"{fact}: too many requests with these keys", reset_s)
    if status in (408, 504):
        return errors.TimedOut(fact, status)
    if status >= 500:
        return errors.ServerFailed(fact, status)
    if status < 400:
        return errors.UnexpectedAnswer(f"{fact}, a redirect that is not followed", status)
    return errors.BadRequest(fact, status)


def error_from_exception(host: str, error: httpx.HTTPError, proxy: str | None = None) -> errors.ServiceError:
    """Return the error for an exception of httpx, whose text may hold the proxy's URL and is never repeated whole.

    `proxy`: the proxy of the request, without its password. With a proxy, only the proxy is connected to.
    """
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            # OpenSSL's own words for a bad certificate: expired, self-signed, another host's.
            why = cause.verify_message or type(cause).__name__
            return errors.TlsFailed(f"TLS to {host} failed: {why}", cause.verify_code)
        if isinstance(cause, ssl.SSLError):
            return errors.TlsFailed(f"TLS to {host} failed: {cause.reason or type(cause).__name__}")
    for cause in causes:
        if isinstance(cause, NoThread):
            return errors.ConnectionLost(f"the name of {host} cannot be resolved: {cause}")
    if any(isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE) for cause in causes):
        return errors.ConnectionLost("too many files are open in this process or on this machine")
    if isinstance(error, httpx.TimeoutException):
        through = f" through the proxy {proxy}" if proxy else ""
        return errors.TimedOut(f"{host} did not answer in time{through}", proxy=proxy or "")
    if isinstance(error, httpx.ProxyError):
        # httpcore gives the proxy's status only within the message: 407 wants a password, 403 forbids the host.
        status = re.match(r"[45]\d\d\b", str(error))
        said = f" with {status[0]}" if status else ""
        named = f"the proxy {proxy}" if proxy else "the proxy"
        return errors.Unreachable(f"{named} refused the connection{said}", proxy=proxy or "the proxy")
    if isinstance(error, httpx.ConnectError):
        if proxy is not None:
            return _of_proxy(host, proxy, causes)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return errors.ConnectionRefused(f"{host} refuses connections")
        reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
        return errors.Unreachable(f"cannot reach {host}: {reasons[0] if reasons else 'no connection'}")
    if isinstance(error, httpx.DecodingError):
        return errors.UnexpectedAnswer(f"{host} sent a body that does not decompress")
    reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    why = reasons[0] if reasons else _LOST.get(type(error), type(error).__name__)
    return errors.ConnectionLost(f"the connection to {host} was lost: {why}")


@contextmanager
def converting(url: httpx.URL, proxy: str | None) -> Iterator[None]:
    """Raise httpx's exceptions as artifactfs.errors, which name the host of `url`: not one that redirected to it."""
    try:
        yield
    except httpx.HTTPError as error:
        raise error_from_exception(url.netloc.decode("ascii"), error, proxy) from error


def _of_proxy(host: str, proxy: str, causes: list[BaseException]) -> errors.ServiceError:
    """Return the error for a connection through a proxy that was not made."""
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return errors.ConnectionRefused(f"the proxy {proxy} refuses connections", proxy=proxy)
    for cause in causes:
        # A reset connection existed: either side of the tunnel may have ended it.
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ConnectionError):
            return errors.Unreachable(f"cannot reach the proxy {proxy}: {cause.strerror}", proxy=proxy)
    return errors.Unreachable(f"cannot reach {host} through the proxy {proxy}: no connection", proxy=proxy)


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception, its causes and contexts, and the members of groups among them."""
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


def parse_url(text: str) -> httpx.URL:
    """Return a URL. Raises BadRequest for one that httpx does not send."""
    try:
        return httpx.URL(text)
    except httpx.InvalidURL as error:
        raise errors.BadRequest(f"the path is too long or odd for a URL: {error}") from error


def parse_api_url(text: str) -> httpx.URL:
    """Return the URL that `--api-url` gives. Raises UserError for one that httpx does not send."""
    try:
        return httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        raise UserError(ExitCode.USAGE, f"--api-url {text!r} is not a URL that can be asked") from None
