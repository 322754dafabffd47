"""What went wrong, as an exception of ours with a sentence for the user: of an answer, or of httpx's exceptions."""

import errno
import re
import ssl

import httpx

from artifactfs import errors
from artifactfs.errors import NoThread


def of_answer(host: str, status: int, said: str, reset_s: float) -> errors.ServiceError:
    """Return our exception for an answer that is no 2xx.

    `said`: what its body says, without secrets. `reset_s`: seconds to its rate limit's reset, if it has one.
    """
    what = f"{host} answered {status}" + (f" ({said})" if said else "")
    if status in (401, 403):
        return errors.AccessDenied(what, status)
    if status in (404, 410):
        return errors.NotFound(what, status)
    if status == 429:
        return errors.RateLimited(f"{what}: too many requests with these keys", reset_s)
    if status in (408, 504):
        return errors.TimedOut(what, status)
    if status >= 500:
        return errors.ServerFailed(what, status)
    if status < 400:
        return errors.UnexpectedAnswer(f"{what}, a redirect that is not followed: is the API URL right?", status)
    return errors.BadRequest(what, status)


def of_exception(host: str, error: httpx.HTTPError, proxy: str | None = None) -> errors.ServiceError:
    """Turn an httpx exception into ours. Its text may name the proxy's URL, so it is never repeated whole.

    `proxy`: what the request went through, as it may be shown. It alone is connected to then.
    """
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            # OpenSSL's own words for what is wrong with a certificate: expired, self-signed, another host's.
            why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else cause.reason
            code = cause.verify_code if isinstance(cause, ssl.SSLCertVerificationError) else 0
            return errors.TlsFailed(f"TLS to {host} failed: {why or type(cause).__name__}", code)
    for cause in causes:
        if isinstance(cause, NoThread):
            return errors.ConnectionLost(f"the name of {host} cannot be resolved: {cause}")
    if any(isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE) for cause in causes):
        return errors.ConnectionLost("too many files are open in this process or on this machine")
    if isinstance(error, httpx.TimeoutException):
        way = f" through the proxy {proxy}" if proxy else ""
        return errors.TimedOut(f"{host} did not answer in time{way}", names_proxy=proxy is not None)
    if isinstance(error, httpx.ProxyError):
        # Its words are a stranger's; its status says whether it wants a password (407), or may not go there (403).
        status = re.match(r"[45]\d\d\b", str(error))
        said = f" with {status[0]}" if status else ""
        named = f"the proxy {proxy}" if proxy else "the proxy"
        return errors.Unreachable(f"{named} refused the connection{said}", names_proxy=True)
    if isinstance(error, httpx.ConnectError):
        if proxy is not None:
            return _of_proxy(host, proxy, causes)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return errors.ConnectionRefused(f"{host} refuses connections")
        reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
        return errors.Unreachable(f"cannot reach {host}: {reasons[0] if reasons else 'no connection'}")
    if isinstance(error, httpx.DecodingError):
        return errors.UnexpectedAnswer(f"{host} sent a body that does not decompress")
    return errors.ConnectionLost(f"the connection to {host} was lost: {type(error).__name__}")


def _of_proxy(host: str, proxy: str, causes: list[BaseException]) -> errors.ServiceError:
    """Return what is to be said where no connection came about by way of a proxy."""
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return errors.ConnectionRefused(f"the proxy {proxy} refuses connections", names_proxy=True)
    for cause in causes:
        # A connection that is reset was there: that is within the tunnel, and anybody's.
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ConnectionError):
            return errors.Unreachable(f"cannot reach the proxy {proxy}: {cause.strerror}", names_proxy=True)
    return errors.Unreachable(f"cannot reach {host} through the proxy {proxy}: no connection", names_proxy=True)


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
