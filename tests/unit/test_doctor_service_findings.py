"""artifactfs.doctor.service_findings: what answers say of the service. Pure functions of heads, errors and listings."""

import email.utils
import os
from collections.abc import AsyncIterator, Mapping

import pytest

from artifactfs import errors, settings
from artifactfs.doctor import service, service_findings
from artifactfs.doctor.findings import Finding, Mark
from artifactfs.doctor.service_findings import Comparison, Head, Heads
from artifactfs.domain import Children, ContentBody, DirectoryListing, IndexedFile, ListedChild
from artifactfs.modellab.listing_dialects import PathBase
from artifactfs.settings import Settings

NOW = 1_780_000_000.0
KEYS = {"DD_API_KEY": "a", "DD_APP_KEY": "b"}


def loaded(flags: Mapping[str, str] | None = None, environ: Mapping[str, str] = KEYS) -> Settings:
    return settings.load(flags or {}, config_file=os.devnull, environ=environ, need_keys=False)


def check(found: Finding | None, mark: Mark, *said: str) -> None:
    assert found is not None
    assert found.mark is mark, found
    for text in said:
        assert text in f"{found.fact} → {found.fix}"


def heads(**headers: str) -> Heads:
    """Return the head of one answer, to a question for runs and to one for a file alike."""
    made = Heads()
    for kind in ("runs", "content"):
        made.append(Head(kind, 206, {name.replace("_", "-"): value for name, value in headers.items()}, NOW))
    return made


# --- the one call ---------------------------------------------------------------------------------------


def test_answered() -> None:
    check(service_findings.answered(loaded(), 0.123, [200]), Mark.GOOD, "api.datadoghq.com", "0.12 s")
    check(service_findings.answered(loaded(), 3, [503, 200]), Mark.WARNING, "had failed with 503")
    through = service_findings.answered(loaded(PROXY), 1, [200])
    check(through, Mark.GOOD, "through the proxy http://***@proxy:3128")
    assert "s3cr3t" not in through.fact


EU = {"site": "datadoghq.eu"}
LOCAL = {"api_url": "http://127.0.0.1:9"}
PROXY = {"proxy": "http://me:s3cr3t@proxy:3128"}
REFUSALS: list[tuple[dict[str, str], errors.ServiceError, list[str]]] = [
    (EU, errors.AccessDenied("h answered 403 (Forbidden)", 403),
     ["403 (Forbidden)", "datadoghq.eu rejects the keys", "another site", "DD_SITE"]),
    (LOCAL, errors.AccessDenied("h answered 401", 401),
     ["keys are rejected", "DD_API_KEY"]),
    ({}, errors.TlsFailed("TLS to h failed: self-signed certificate in certificate chain", 18),
     ["self-signed", "--ca-file"]),
    ({}, errors.TlsFailed("TLS to h failed: certificate is not yet valid", 9), ["timedatectl"]),
    ({}, errors.TlsFailed("TLS to h failed: certificate has expired", 10), ["expired", "timedatectl"]),
    ({}, errors.TlsFailed("TLS to h failed: Hostname mismatch, certificate is not valid for 'h'.", 62), ["--site"]),
    (PROXY, errors.Unreachable("the proxy refused the connection", proxy="http://proxy"),
     ["proxy refused", "--proxy http"]),
    (PROXY, errors.ConnectionRefused("the proxy http://p:1 refuses connections", proxy="http://proxy"),
     ["http://p:1 refuses", "--proxy http"]),
    (PROXY, errors.TimedOut("h did not answer in time through the proxy http://p:1", proxy="http://proxy"),
     ["http://p:1", "curl -x"]),
    (PROXY, errors.TimedOut("h did not answer in time"),
     ["through the proxy http://***@proxy:3128", "curl -x http://***@proxy:3128"]),
    ({}, errors.Unreachable("cannot reach h: Name or service not known"), ["Name or service", "getent hosts"]),
    ({}, errors.ConnectionRefused("h refuses connections"), ["refuses", "curl -I https://api.datadoghq.com"]),
    ({}, errors.TimedOut("h did not answer within 30 s"), ["within 30 s", "curl"]),
    ({}, errors.RateLimited("h is rate-limiting", 61.4), ["rate-limiting", "sleep 61"]),
    ({}, errors.ServerFailed("h answered 503", 503), ["503", "--wait"]),
    ({}, errors.UnexpectedAnswer("the answer is not JSON"), ["no Model Lab", "not JSON", "--site"]),
    (LOCAL, errors.NotFound("h answered 404", 404), ["no Model Lab", "--api-url"]),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "error", "said"), REFUSALS, ids=[str(row[1])[:40] for row in REFUSALS])
def test_refused(flags: dict[str, str], error: errors.ServiceError, said: list[str]) -> None:
    """Each way in which the one call fails is a fault with a fix of its own."""
    found = service_findings.refused(loaded(flags), error)
    check(found, Mark.FAULT, *said)
    assert found.fix is not None
    assert "s3cr3t" not in f"{found.fact} {found.fix}"


def test_refused_without_keys() -> None:
    """A service that asks for keys is one; that there are none is reported elsewhere."""
    found = service_findings.refused(loaded({}, {}), errors.AccessDenied("h answered 403", 403))
    check(found, Mark.GOOD, "asks for keys")


@pytest.mark.parametrize(
    ("ahead_s", "mark", "said"),
    [
        (0, Mark.GOOD, "within two minutes"),
        (119, Mark.GOOD, ""),
        (-119, Mark.GOOD, ""),
        (121, Mark.WARNING, "2 min ahead of"),
        (-3600 * 5, Mark.WARNING, "5 h 0 min behind"),
        (86400 * 400, Mark.WARNING, "400 d 0 h ahead"),
    ],
)
def test_clock(ahead_s: int, mark: Mark, said: str) -> None:
    """This machine's clock against the answer's."""
    date = email.utils.formatdate(NOW - ahead_s, usegmt=True)
    check(service_findings.clock(heads(date=date)), mark, said)


def test_clock_of_a_kept_answer() -> None:
    """A cache on the way tells how old its answer is; nonsense counts for nothing."""
    date = email.utils.formatdate(NOW - 3600, usegmt=True)
    check(service_findings.clock(heads(date=date, age="3600")), Mark.GOOD)
    check(service_findings.clock(heads(date=date, age="soon")), Mark.WARNING)
    check(service_findings.clock(heads(date="yesterday")), Mark.SKIPPED, "does not tell")
    check(service_findings.clock(heads()), Mark.SKIPPED)
    assert service_findings.clock(Heads()) is None


def limits(**headers: str) -> Finding | None:
    return service_findings.rate_limit(heads(**{f"x_ratelimit_{name}": value for name, value in headers.items()}))


def test_rate_limit() -> None:
    check(limits(limit="6000", remaining="5999", period="60", name="lab"), Mark.GOOD, "5,999 of 6,000", "60 s", "lab")
    check(limits(limit="100", remaining="19", reset="30"), Mark.WARNING, "19 of 100", "sleep 30")
    check(limits(limit="100", remaining="0", period="60", reset="7200"), Mark.WARNING, "sleep 60 ")
    check(limits(limit="100", remaining="0", period="60", reset="30"), Mark.WARNING, "sleep 30 ")
    check(limits(limit="100", remaining="20"), Mark.GOOD)
    check(limits(), Mark.SKIPPED)
    check(limits(limit="many", remaining="9" * 40), Mark.SKIPPED)
    odd = limits(limit="9", remaining="9", name="\x1b]0;x\a" + "n" * 500)
    check(odd, Mark.GOOD)
    assert odd is not None
    assert len(odd.fact) < 200
    assert service_findings.rate_limit(Heads()) is None


# --- listings and contents ------------------------------------------------------------------------------


def listed(*names: str, bad: int = 0) -> DirectoryListing:
    children = {name.encode(): ListedChild(name.encode(), False, 1) for name in names}
    return DirectoryListing(Children(children, bad_names=bad), "p/artifacts")


def test_listing() -> None:
    check(service_findings.listing(7, listed("a")), Mark.GOOD, "run 7", "1 entry")
    check(service_findings.listing(7, listed("a", "b", bad=2)), Mark.WARNING, "2 entries", "2 more")


def test_directories() -> None:
    check(
        service_findings.directories(True, PathBase.ROOT, listed("a"), 1), Mark.GOOD, "with a slash", "the run's root"
    )
    found = service_findings.directories(False, PathBase.DIRECTORY, listed("a"), 2)
    check(found, Mark.GOOD, "without a slash", "the queried directory", "2 requests")
    check(service_findings.directories(None, None, listed(), 2), Mark.SKIPPED, "is empty")


def body(*, whole: bool = False, total: int | None = 100) -> ContentBody:
    async def none() -> AsyncIterator[bytes]:
        yield b""

    return ContentBody(0 if whole else 1, 65, total, whole, None, none())


def contents(answer: ContentBody, came: int = 64, size: int | None = 100, **headers: str) -> dict[str, Finding]:
    told = list(service_findings.contents(answer, size, 65, came, heads(**headers)))
    return {finding.check: finding for finding in told}


def test_contents() -> None:
    check(contents(body())["contents"], Mark.GOOD, "granted (206)")
    check(contents(body(whole=True), 0)["contents"], Mark.WARNING, "ignored")
    check(contents(body(), 10)["contents"], Mark.WARNING, "10 of 64")
    check(contents(body(total=11), 10, 11)["contents"], Mark.GOOD)
    check(contents(body(), size=99)["sizes"], Mark.WARNING, "100", "99")
    assert "sizes" not in contents(body(total=None), size=99)


def test_contents_after_redirects() -> None:
    seen = Heads()
    for status in (302, 302, 206):
        seen.append(Head("content", status, {}, NOW))
    (found, *_) = service_findings.contents(body(), 100, 65, 64, seen)
    check(found, Mark.GOOD, "granted (206), after 2 redirects")


def test_validators() -> None:
    check(contents(body())["validators"], Mark.SKIPPED, "neither")
    check(contents(body(), etag='"x"')["validators"], Mark.GOOD, "an ETag")
    check(contents(body(), etag='W/"x"')["validators"], Mark.SKIPPED, "weak")
    check(contents(body(), last_modified="x")["validators"], Mark.GOOD, "Last-Modified")


@pytest.mark.parametrize(
    ("step", "mark"), [("service", Mark.FAULT), ("contents", Mark.WARNING), ("index", Mark.WARNING)]
)
def test_silent(step: str, mark: Mark) -> None:
    """A call that does not end is reported, with what finds out more; without the first one no mount works."""
    check(service_findings.silent(step, 6.0), mark, "no answer within 6s", "artifactfs doctor --deadline 60s")
    assert service_findings.silent(step, 60.0).fix == "artifactfs doctor --deadline 4m  # is it slow, or silent?"


def test_a_deadline_that_is_over_at_once() -> None:
    """The one call has a line also where there was no time for it."""
    told: list[Finding] = []
    hasty = loaded({"api_url": "http://127.0.0.1:9", "deadline": "0.000001"})
    service.ask(hasty, told.append, index=True, run_id=None)
    check(told[0], Mark.FAULT, "--deadline")
    assert [each.check for each in told] == ["service"]


def test_unreadable() -> None:
    check(
        service_findings.unreadable(errors.AccessDenied("h answered 403", 403)),
        Mark.FAULT,
        "list, but not read",
        "DD_APP_KEY",
    )
    check(service_findings.unreadable(errors.ServerFailed("h answered 500", 500)), Mark.WARNING, "500", "doctor")
    check(service_findings.unreadable(errors.UnexpectedAnswer("an HTML page came")), Mark.FAULT, "HTML")


# --- the index ------------------------------------------------------------------------------------------


def compared(*rows: tuple[str, int | None]) -> Comparison:
    """Compare with `a` of 1 byte in the root and `d/b` of 2; both directories were listed."""
    files = {"a": ListedChild(b"a", False, 1), "d/b": ListedChild(b"b", False, 2)}
    found = Comparison("p/artifacts/", {"", "d"}, files)
    for path, size in rows:
        found.add([IndexedFile(path, size, 1)])
    return found


def test_an_index_that_agrees() -> None:
    """Rows of other runs, and of directories that were not listed, are no disagreement; nor is an unknown size."""
    rows = [("p/artifacts/a", 1), ("p/artifacts/d/b", None), ("q/artifacts/x", 9), ("p/artifacts/e/f", 9)]
    check(service_findings.index(compared(*rows), 0.5, 3 << 20), Mark.GOOD, "4 files (3 MiB)", "agrees")
    check(service_findings.index(compared(*rows), 2.5, 1), Mark.GOOD, "2.50 s", "waits 1 s")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("p/artifacts/a", 1)], "lacks 1 file of 2"),
        ([("p/artifacts/a", 1), ("p/artifacts/d/b", 2), ("p/artifacts/d/ghost", 1)], "names 1 file not there"),
        ([("p/artifacts/a", 5), ("p/artifacts/d/b", 2)], "another size of 1 file"),
        ([], "lacks 2 files of 2"),
    ],
)
def test_an_index_that_does_not(rows: list[tuple[str, int]], said: str) -> None:
    check(service_findings.index(compared(*rows), 0.5, 3 << 20), Mark.WARNING, said, "one by one")


def test_no_index() -> None:
    check(service_findings.no_index(errors.NotFound("h answered 404", 404)), Mark.WARNING, "404", "--prefetch tree")
    check(service_findings.index(Comparison("p/", set(), {}), 0.1, 1), Mark.WARNING, "empty")
