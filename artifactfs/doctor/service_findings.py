"""What the answers say of the service: pure functions from what came to findings.

Text of the server's goes through `findings.shown` before it is printed, and its headers are read as numbers.
"""

import email.utils
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from artifactfs import errors
from artifactfs.doctor.findings import Finding, fault, good, skipped, warning
from artifactfs.domain import ContentBody, DirectoryListing, IndexedFile, ListedChild
from artifactfs.errors import ServiceError
from artifactfs.modellab.listing_dialects import PathBase
from artifactfs.settings import Settings
from artifactfs.util.humanize import format_duration, format_size
from artifactfs.util.urls import is_loopback, without_password

# A clock that is more wrong than this lets TLS fail soon, and runs count as finished for ten minutes when they are not.
_SKEW_S = 120.0
# Of a rate limit: less than this share is left (as in modellab/rate_limits.py: nothing is listed ahead then).
_NEAR = 0.2
# A walker waits so long for the project's listing (README), so one that takes longer comes too late for the first walk.
_INDEX_IN_TIME_S = 1.0
# X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED; _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH (x509_vfy.h).
_OUTDATED = (9, 10)
_OTHER_HOST = (62, 64)
# The step without which there is nothing more to ask.
FIRST = "service"
ANOTHER_RUN = "artifactfs doctor --run ID  # is it so for another run?"
_SITES = "datadoghq.com, us3.datadoghq.com, us5.datadoghq.com, datadoghq.eu, ap1.datadoghq.com, ap2.datadoghq.com, …"


@dataclass(frozen=True)
class Head:
    """The head of one answer. `came_at`: seconds since the epoch by this machine's clock."""

    kind: str
    status: int
    headers: Mapping[str, str]
    came_at: float


@dataclass
class Heads:
    """The heads of all answers, in their order."""

    answers: list[Head] = field(default_factory=list)

    def add(self, kind: str, status: int, headers: Mapping[str, str], came_at: float) -> None:
        """Take note of an answer."""
        self.answers.append(Head(kind, status, headers, came_at))

    def statuses(self, kind: str) -> list[int]:
        """Return the statuses of the answers of a kind."""
        return [head.status for head in self.answers if head.kind == kind]

    def last(self, kind: str) -> Head | None:
        """Return the last answer of a kind."""
        return next((head for head in reversed(self.answers) if head.kind == kind), None)


# --- the one call ---------------------------------------------------------------------------------------


def answered(settings: Settings, took_s: float, statuses: Sequence[int]) -> Finding:
    """Say that the service is there and takes the keys."""
    text = f"{settings.origin} is a Model Lab and takes the keys; it answered in {took_s:.2f} s{_way(settings)}"
    failed = [str(status) for status in statuses if not 200 <= status < 300]
    if failed:
        return warning("service", f"{text}, after it had failed with {', '.join(failed)}")
    return good("service", text)


def silent(step: str, deadline_s: float) -> Finding:
    """Say that a call did not come to an end. Without the first one nothing is known of the service."""
    said = f"no answer within {format_duration(deadline_s)}, so what follows was not asked"
    fix = f"artifactfs doctor --deadline {format_duration(max(60.0, 4 * deadline_s))}  # is it slow, or silent?"
    return fault(step, said, fix) if step == FIRST else warning(step, said, fix)


def refused(settings: Settings, error: ServiceError) -> Iterator[Finding]:
    """Return why the one call failed, and the fix."""
    origin, way = settings.origin, _way(settings)
    keyless = settings.access_token is None and settings.app_key is None
    standard = settings.api_url == f"https://api.{settings.site}"
    if isinstance(error, errors.AccessDenied) and keyless:
        yield good("service", f"{origin} answers{way}, and asks for keys")
    elif isinstance(error, errors.AccessDenied):
        if standard:
            what = f"{error}: {settings.site} rejects the keys, as it does those of another site"
            yield fault("service", what, f"export DD_SITE=…  # one of {_SITES}")
        else:
            yield fault("service", f"the keys are rejected: {error}", "export DD_API_KEY=… DD_APP_KEY=…")
    elif isinstance(error, errors.TlsFailed):
        yield fault("service", f"{error}{way}", _tls_fix(error))
    elif isinstance(error, errors.RateLimited):
        yield fault("service", str(error), f"sleep {error.reset_s:.0f}  # and again")
    elif isinstance(error, errors.PassingError) and error.status is None:
        yield fault("service", f"{error}{'' if error.proxy else way}", _network_fix(settings, error))
    elif isinstance(error, errors.PassingError):
        yield fault("service", f"{error}: the service fails", "artifactfs mount --wait …  # goes on trying")
    else:
        fix = "artifactfs doctor --site SITE" if standard else "artifactfs doctor --api-url URL"
        yield fault("service", f"what answers at {origin}{way} is no Model Lab: {error}", fix)


def _way(settings: Settings) -> str:
    if settings.proxy is None or is_loopback(settings.origin.rsplit(":", 1)[0]):
        return ""
    return f" through the proxy {without_password(settings.proxy)}"


def _tls_fix(error: errors.TlsFailed) -> str:
    if error.verify_code in _OUTDATED:
        return "timedatectl  # is the clock right? else the certificate has to be renewed"
    if error.verify_code in _OTHER_HOST:
        return "artifactfs doctor --site SITE  # the certificate is of another host"
    return "artifactfs doctor --ca-file /etc/ssl/certs/ca-certificates.crt  # or your proxy's CA"


def _network_fix(settings: Settings, error: ServiceError) -> str:
    host = settings.origin
    if error.proxy and not isinstance(error, errors.TimedOut):
        return "artifactfs doctor --proxy http://HOST:PORT  # is it the right one, does it want a password?"
    if settings.proxy is not None:
        return f"curl -x {without_password(settings.proxy)} -I {settings.api_url}"
    if isinstance(error, errors.Unreachable):
        return f"getent hosts {host}  # is the name right, is there a network, or only a --proxy?"
    return f"curl -I {settings.api_url}  # is it up, or only reached through a --proxy?"


def clock(heads: Heads) -> Finding | None:
    """Compare this machine's clock with the time of the last answer; None if it had none."""
    if not heads.answers:
        return None
    head = heads.answers[-1]
    try:
        there = email.utils.parsedate_to_datetime(head.headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return skipped("clock", "the answer does not tell the time")
    # A cache on the way says how long ago the answer was made.
    age = head.headers.get("age", "0")
    there += min(int(age), 1 << 31) if age.isascii() and age.isdecimal() and len(age) < 12 else 0
    skew_s = head.came_at - there
    if abs(skew_s) <= _SKEW_S:
        return good("clock", "as the service's, within two minutes")
    way = "ahead of" if skew_s > 0 else "behind"
    text = f"this machine's clock is {_span(abs(skew_s))} {way} the service's: TLS may fail, and ages are wrong"
    return warning("clock", text, "sudo timedatectl set-ntp true")


def _span(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def rate_limit(heads: Heads) -> Finding | None:
    """Say what the last answer tells of the rate limit; None where there was no answer."""
    if not heads.answers:
        return None
    headers = heads.answers[-1].headers
    limit, left, period, reset = (
        _whole(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining", "period", "reset")
    )
    if limit is None or left is None:
        return skipped("rate limit", "the answer does not tell it")
    name = headers.get("x-ratelimit-name", "")[:60]
    text = f"{left:,} of {limit:,} requests are left" + (f" for {period:,} s" if period else "")
    text += f" (limit {name})" if name else ""
    if left < limit * _NEAR:
        # A reset beyond the named period is probed after that period (semantics 5.4), as the service's line says.
        wait_s = min(reset, period) if reset is not None and period else reset
        until = f"sleep {wait_s}  # then it is worth another try" if wait_s is not None else None
        return warning("rate limit", f"{text}: nothing is listed ahead, and requests are spread out", until)
    return good("rate limit", text)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 12 else None


# --- listings -------------------------------------------------------------------------------------------


def listing(run_id: int, root: DirectoryListing) -> Finding:
    """Say what the root of a run looks like."""
    children = root.children
    text = f"run {run_id} has {_count(len(children.by_name), 'entry', 'entries')} in its root"
    if children.bad_names:
        return warning("listing", f"{text}; {children.bad_names} more have names that no filesystem can hold")
    return good("listing", text)


def directories(slash: bool | None, base: PathBase | None, below: DirectoryListing, asked: int) -> Finding:
    """Say in which form this server wants a directory's path. `asked`: the requests that it took."""
    if slash is None:
        what = "is empty" if not below.children.by_name else "does not tell"
        return skipped(
            "directories", f"the directory that was listed {what}: in which form its path is wanted is not known"
        )
    form = "with" if slash else "without"
    relative = f", and answers relative to {base.value}" if base is not None else ""
    tried = "" if asked == 1 else f" (found out with {asked} requests; a mount does so once)"
    return good("directories", f"listed by their path {form} a slash at the end{relative}{tried}")


# --- contents -------------------------------------------------------------------------------------------


def contents(body: ContentBody, size: int | None, end: int, came: int, heads: Heads) -> Iterator[Finding]:
    """Say how contents come: in parts or whole, from where, and by what a version of them is known."""
    statuses = heads.statuses("content")
    redirects = sum(300 <= status < 400 for status in statuses)
    way = f", after {_count(redirects, 'redirect', 'redirects')}" if redirects else ""
    if body.whole:
        yield warning("contents", f"ranges are ignored{way}: a file is fetched whole, once, and in order")
    elif came != end - 1 and (body.total is None or came != min(end, body.total) - 1):
        yield warning("contents", f"a part was granted{way} and not sent whole: {came} of {end - 1} bytes came")
    else:
        yield good("contents", f"parts of a file are granted ({statuses[-1]}){way}")
    if size is not None and body.total is not None and size != body.total:
        yield warning(
            "sizes",
            f"a file has {body.total:,} bytes where its listing says {size:,}: reading it finds that out each time",
        )
    head = heads.last("content")
    etag = head.headers.get("etag", "") if head is not None else ""
    if etag.startswith("W/"):
        yield skipped(
            "validators", "a weak ETag, which promises nothing about bytes: versions are distinguished by size and time"
        )
    elif etag:
        yield good("validators", "an ETag; whether it means anything shows when a file is read twice")
    elif head is not None and "last-modified" in head.headers:
        yield good("validators", "a Last-Modified time")
    else:
        yield skipped("validators", "neither ETag nor Last-Modified: versions are distinguished by size and time")


def unreadable(error: ServiceError) -> Finding:
    """Say that a file could not be read."""
    if isinstance(error, errors.AccessDenied):
        return fault(
            "contents",
            f"these keys may list, but not read: {error}",
            "export DD_APP_KEY=…  # with Model Lab's scopes",
        )
    if isinstance(error, errors.PassingError):
        fix = "artifactfs doctor  # in a while: is it so again?"
        return warning("contents", f"a file could not be read just now: {error}", fix)
    return fault("contents", f"a file cannot be read: {error}", ANOTHER_RUN)


# --- the index ------------------------------------------------------------------------------------------


class Comparison:
    """A project's listing as it comes, held against directories of one run that were listed on their own."""

    def __init__(self, prefix: str, directories: set[str], files: Mapping[str, ListedChild]) -> None:
        self._prefix = prefix
        self._directories = directories
        self._lacking = dict(files)
        self.compared = len(files)
        self.rows = 0
        self.unknown = 0
        self.other_sizes = 0
        self.with_time = 0

    @property
    def lacking(self) -> int:
        """How many files that were listed it does not have."""
        return len(self._lacking)

    def add(self, rows: Sequence[IndexedFile]) -> None:
        """Take some rows."""
        self.rows += len(rows)
        for row in rows:
            self.with_time += row.created_ns is not None
            if not row.path.startswith(self._prefix):
                continue
            path = row.path[len(self._prefix) :]
            if path.rpartition("/")[0] not in self._directories:
                continue
            child = self._lacking.pop(path, None)
            if child is None:
                self.unknown += 1
            elif None not in (size := row.size_bytes, child.size_bytes) and size != child.size_bytes:
                self.other_sizes += 1


def index(found: Comparison, took_s: float, size_bytes: int) -> Finding:
    """Say whether the project's listing is of use."""
    size = format_size(size_bytes)
    text = f"the project's listing names {_count(found.rows, 'file', 'files')} ({size}), in {took_s:.2f} s"
    wrong = [
        f"lacks {_count(found.lacking, 'file', 'files')} of {found.compared}" if found.lacking else "",
        f"names {_count(found.unknown, 'file', 'files')} not there" if found.unknown else "",
        f"tells another size of {_count(found.other_sizes, 'file', 'files')}" if found.other_sizes else "",
    ]
    if said := ", ".join(filter(None, wrong)):
        return warning("index", f"{text}, but {said}: traversals list directories one by one")
    if not found.rows:
        return warning("index", "the project's listing is empty: traversals list directories one by one")
    if took_s > _INDEX_IN_TIME_S:
        return good(
            "index", f"{text} and agrees; the first walk waits {_INDEX_IN_TIME_S:g} s for it, and goes on without"
        )
    return good("index", f"{text}, and agrees with what was listed{'' if found.with_time else '; it tells no times'}")


def no_index(error: ServiceError) -> Finding:
    """Say that there is no project's listing to be had."""
    return warning(
        "index", f"no project's listing ({error}): traversals list directories one by one",
        "artifactfs mount --prefetch tree …  # does not ask for it",
    )  # fmt: skip


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
