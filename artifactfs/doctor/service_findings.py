"""The findings about the service: pure functions of its answers.

Text from the server is escaped where it is printed; headers are parsed as numbers.
"""

import email.utils
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from artifactfs import errors
from artifactfs.doctor.findings import Finding, fault, good, skipped, warning
from artifactfs.domain import ContentBody, DirectoryListing, IndexedFile, ListedChild
from artifactfs.errors import ServiceError
from artifactfs.modellab.listing_dialects import PathBase
from artifactfs.settings import Settings
from artifactfs.util.humanize import counted, format_duration, format_size, format_span
from artifactfs.util.urls import SITES, is_loopback, without_password

# With a larger skew, TLS may fail, and ages of runs are wrong.
_SKEW_S = 120.0
# The share of a rate limit below which prefetching stops (modellab/rate_limits.py).
_NEAR = 0.2
# A traversal waits this long for the project's listing (README); a slower one is too late for the first traversal.
_INDEX_IN_TIME_S = 1.0
# X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED; _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH (x509_vfy.h).
_OUTDATED = (9, 10)
_OTHER_HOST = (62, 64)
# The step without which no other makes sense.
FIRST = "service"
ANOTHER_RUN = "artifactfs doctor --run ID  # does it fail for another run?"


@dataclass(frozen=True)
class Head:
    """The head of one answer. `came_at`: seconds since the epoch by this machine's clock."""

    kind: str
    status: int
    headers: Mapping[str, str]
    came_at: float


class Heads(list[Head]):
    """The heads of all answers, in their order."""

    def statuses(self, kind: str) -> list[int]:
        """Return the statuses of the answers of a kind."""
        return [head.status for head in self if head.kind == kind]

    def last(self, kind: str) -> Head | None:
        """Return the last answer of a kind."""
        return next((head for head in reversed(self) if head.kind == kind), None)


def answered(settings: Settings, took_s: float, statuses: Sequence[int]) -> Finding:
    """Report that the service answers and accepts the keys."""
    text = f"{settings.origin} is a Model Lab and accepts the keys; it answered in {took_s:.2f} s{_way(settings)}"
    failed = [str(status) for status in statuses if not 200 <= status < 300]
    if failed:
        return warning("service", f"{text}, after it had failed with {', '.join(failed)}")
    return good("service", text)


def silent(step: str, deadline_s: float) -> Finding:
    """Report a call without an end. Without the first one, the service is unknown: a fault."""
    said = f"no answer within {format_duration(deadline_s)}, so the remaining requests were not sent"
    fix = f"artifactfs doctor --deadline {format_duration(max(60.0, 4 * deadline_s))}  # is it slow, or silent?"
    return fault(step, said, fix) if step == FIRST else warning(step, said, fix)


def refused(settings: Settings, error: ServiceError) -> Finding:
    """Report why the first call failed, with the fix."""
    origin, way = settings.origin, _way(settings)
    if isinstance(error, errors.AccessDenied):
        if settings.access_token is None and settings.app_key is None:
            return good("service", f"{origin} answers{way}, and asks for keys")
        if not settings.is_of_site:
            fix = "artifactfs login  # or: export DD_API_KEY=… DD_APP_KEY=…"
            return fault("service", f"the keys are rejected: {error}", fix)
        fact = f"{error}: {settings.site} rejects the keys, as it does those of another site"
        return fault("service", fact, f"export DD_SITE=…  # one of {', '.join(SITES)}")
    if isinstance(error, errors.TlsFailed):
        return fault("service", f"{error}{way}", _tls_fix(error))
    if isinstance(error, errors.RateLimited):
        return fault("service", str(error), f"sleep {error.reset_s:.0f}  # and again")
    if isinstance(error, errors.PassingError) and error.status is None:
        return fault("service", f"{error}{'' if error.proxy else way}", _network_fix(settings, error))
    if isinstance(error, errors.PassingError):
        return fault("service", f"{error}: the service fails", "artifactfs mount --wait …  # retries until it answers")
    fix = "artifactfs doctor --site SITE" if settings.is_of_site else "artifactfs doctor --api-url URL"
    return fault("service", f"the server at {origin}{way} is no Model Lab: {error}", fix)


def _way(settings: Settings) -> str:
    if settings.proxy is None or is_loopback(settings.origin.rsplit(":", 1)[0]):
        return ""
    return f" through the proxy {without_password(settings.proxy)}"


def _tls_fix(error: errors.TlsFailed) -> str:
    if error.verify_code in _OUTDATED:
        return "timedatectl  # if the clock is right, the certificate has expired"
    if error.verify_code in _OTHER_HOST:
        return "artifactfs doctor --site SITE  # the certificate is for another host"
    return "artifactfs doctor --ca-file /etc/ssl/certs/ca-certificates.crt  # or your proxy's CA"


def _network_fix(settings: Settings, error: ServiceError) -> str:
    host = settings.origin
    if error.proxy and not isinstance(error, errors.TimedOut):
        return "artifactfs doctor --proxy http://HOST:PORT  # is it the right one, does it need a password?"
    if settings.proxy is not None:
        return f"curl -x {without_password(settings.proxy)} -I {settings.api_url}"
    if isinstance(error, errors.Unreachable):
        return f"getent hosts {host}  # is the name right, is there a network, or is a --proxy needed?"
    return f"curl -I {settings.api_url}  # is it up, or does it need a --proxy?"


def clock(heads: Heads) -> Finding | None:
    """Compare this machine's clock with the time of the last answer; None without an answer."""
    if not heads:
        return None
    try:
        there = email.utils.parsedate_to_datetime(heads[-1].headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return skipped("clock", "the answer does not tell the time")
    # A cache on the way gives the age of the answer.
    there += min(_whole(heads[-1].headers.get("age")) or 0, 1 << 31)
    skew_s = heads[-1].came_at - there
    if abs(skew_s) <= _SKEW_S:
        return good("clock", "within two minutes of the service's")
    way = "ahead of" if skew_s > 0 else "behind"
    text = f"this machine's clock is {format_span(abs(skew_s))} {way} the service's: TLS may fail, and ages are wrong"
    return warning("clock", text, "sudo timedatectl set-ntp true")


def rate_limit(heads: Heads) -> Finding | None:
    """Report the rate limit in the last answer; None without an answer."""
    if not heads:
        return None
    headers = heads[-1].headers
    limit, left, period, reset = (
        _whole(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining", "period", "reset")
    )
    if limit is None or left is None:
        return skipped("rate limit", "the answer does not tell it")
    name = headers.get("x-ratelimit-name", "")[:60]
    text = f"{left:,} of {limit:,} requests are left" + (f" for {period:,} s" if period else "")
    text += f" (limit {name})" if name else ""
    if left < limit * _NEAR:
        # A reset beyond the named period is probed after that period (docs/semantics.md 5.4).
        wait_s = min(reset, period) if reset is not None and period else reset
        until = f"sleep {wait_s}  # until the limit resets" if wait_s is not None else None
        return warning("rate limit", f"{text}: prefetching stops, and requests are spread out", until)
    return good("rate limit", text)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 12 else None


def listing(run_id: int, root: DirectoryListing) -> Finding:
    """Report the root of a run."""
    children = root.children
    text = f"run {run_id} has {counted(len(children.by_name), 'entry', 'entries')} in its root"
    if children.bad_names:
        return warning("listing", f"{text}; {children.bad_names} more have names that no filesystem can hold")
    return good("listing", text)


def directories(slash: bool | None, base: PathBase | None, below: DirectoryListing, sent: int) -> Finding:
    """Report the form of directory paths on this server. `sent`: the requests that it took."""
    if slash is None:
        why = "is empty" if not below.children.by_name else "does not show it"
        return skipped("directories", f"the form of paths is unknown: the listed directory {why}")
    form = "with" if slash else "without"
    relative = f", and answers relative to {base.value}" if base is not None else ""
    tried = "" if sent == 1 else f" (detected with {sent} requests, once per mount)"
    return good("directories", f"listed by their path {form} a slash at the end{relative}{tried}")


def contents(body: ContentBody, size: int | None, end: int, received: int, heads: Heads) -> Iterator[Finding]:
    """Report how contents arrive: ranges, redirects, sizes, validators."""
    statuses = heads.statuses("content")
    redirects = sum(300 <= status < 400 for status in statuses)
    way = f", after {counted(redirects, 'redirect')}" if redirects else ""
    if body.whole:
        yield warning("contents", f"ranges are ignored{way}: a file is fetched whole, from its start")
    elif received != end - 1 and (body.total is None or received != min(end, body.total) - 1):
        yield warning("contents", f"a range was granted{way} and not sent whole: {received} of {end - 1} bytes arrived")
    else:
        yield good("contents", f"ranges are granted ({statuses[-1]}){way}")
    if size is not None and body.total is not None and size != body.total:
        fact = f"a file has {body.total:,} bytes where its listing says {size:,}: each read must detect that"
        yield warning("sizes", fact)
    yield _validators(heads.last("content"))


def _validators(head: Head | None) -> Finding:
    headers = head.headers if head is not None else {}
    etag = headers.get("etag", "")
    if etag.startswith("W/"):
        fact = "a weak ETag, which promises nothing about bytes: versions are identified by size and time"
        return skipped("validators", fact)
    if etag:
        return good("validators", "an ETag; reading a file twice shows whether it is stable")
    if "last-modified" in headers:
        return good("validators", "a Last-Modified time")
    return skipped("validators", "neither ETag nor Last-Modified: versions are identified by size and time")


def unreadable(error: ServiceError) -> Finding:
    """Report a file that cannot be read."""
    if isinstance(error, errors.AccessDenied):
        fix = "export DD_APP_KEY=…  # with Model Lab's scopes"
        return fault("contents", f"these keys may list, but not read: {error}", fix)
    if isinstance(error, errors.PassingError):
        fix = "artifactfs doctor  # later: does it fail again?"
        return warning("contents", f"a file could not be read just now: {error}", fix)
    return fault("contents", f"a file cannot be read: {error}", ANOTHER_RUN)


class Comparison:
    """Compares a project's listing, as it arrives, with directories of one run that were listed directly."""

    def __init__(self, prefix: str, directories: set[str], files: Mapping[str, ListedChild]) -> None:
        self._prefix = prefix
        self._directories = directories
        # The listed files that the project's listing lacks.
        self.lacking = dict(files)
        self.compared = len(files)
        self.rows = 0
        self.unknown = 0
        self.other_sizes = 0
        self.with_time = 0

    def add(self, rows: Sequence[IndexedFile]) -> None:
        """Add rows."""
        self.rows += len(rows)
        for row in rows:
            self.with_time += row.created_ns is not None
            if not row.path.startswith(self._prefix):
                continue
            path = row.path[len(self._prefix) :]
            if path.rpartition("/")[0] not in self._directories:
                continue
            child = self.lacking.pop(path, None)
            if child is None:
                self.unknown += 1
            elif None not in (size := row.size_bytes, child.size_bytes) and size != child.size_bytes:
                self.other_sizes += 1


def index(found: Comparison, took_s: float, size_bytes: int) -> Finding:
    """Report whether the project's listing agrees with the directories."""
    text = f"the project's listing names {counted(found.rows, 'file')} ({format_size(size_bytes)})"
    text += f", in {took_s:.2f} s"
    wrong = [
        f"lacks {counted(len(found.lacking), 'file')} of {found.compared}" if found.lacking else "",
        f"names {counted(found.unknown, 'file')} not there" if found.unknown else "",
        f"gives another size of {counted(found.other_sizes, 'file')}" if found.other_sizes else "",
    ]
    if said := ", ".join(filter(None, wrong)):
        return warning("index", f"{text}, but {said}: a traversal lists directories one by one")
    if not found.rows:
        return warning("index", "the project's listing is empty: a traversal lists directories one by one")
    if took_s > _INDEX_IN_TIME_S:
        wait = f"the first traversal waits {_INDEX_IN_TIME_S:g} s for it, and continues without it"
        return good("index", f"{text} and agrees; {wait}")
    return good("index", f"{text}, and agrees with the directories{'' if found.with_time else '; it has no times'}")


def no_index(error: ServiceError) -> Finding:
    """Report that the service has no project's listing."""
    fix = "artifactfs mount --prefetch tree …  # does not request it"
    return warning("index", f"no project's listing ({error}): a traversal lists directories one by one", fix)
