"""artifactfs.control.recent_errors: the last failures, with counts and what to do, without secrets (5.3, 6.1)."""

import logging
from collections.abc import Iterator

import pytest

from artifactfs import errors, logs
from artifactfs.control.recent_errors import RecentErrors
from artifactfs.logs.formatters import Redaction


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def journal(now: list[float]) -> Iterator[RecentErrors]:
    journal = RecentErrors(wall_clock=lambda: now[0])
    redaction = Redaction()
    redaction.learn(["s3cr3t"])
    journal.setFormatter(logs.RedactingFormatter("%(message)s", redaction))
    log = logging.getLogger("artifactfs.test")
    log.addHandler(journal)
    log.propagate = False
    yield journal
    log.removeHandler(journal)
    log.propagate = True


log = logging.getLogger("artifactfs.test")


def test_the_same_failure_is_kept_once(journal: RecentErrors, now: list[float]) -> None:
    """5.3: numbers apart, the same failure is one line, with how often, since when, and the last one's words."""
    for number in (1, 2, 3):
        now[0] = 100.0 + number
        log.warning("lookup: %s; %s", errors.ServerFailed(f"x answered 50{number}"), "try again")
    log.warning("open: %s", errors.Unreachable("no route"))
    last, first = journal.failures()
    assert (first.message, first.count) == ("lookup: x answered 503; try again", 3)
    assert (first.first, first.last) == ("1970-01-01T00:01:41Z", "1970-01-01T00:01:43Z")
    assert first.what_to_do == errors.what_to_do(errors.ServerFailed("x"))
    assert (last.message, last.count) == ("open: no route", 1)
    assert journal.total == 4


def test_what_many_wait_for_failed_once(journal: RecentErrors) -> None:
    """5.3: one exception that each of its waiters logs is one failure."""
    error = errors.ServerFailed("x")
    for waiter in ("the fetch: %s", "lookup: %s", "opendir: %s"):
        log.warning(waiter, error)
    (failure,) = journal.failures()
    assert (failure.message, failure.count, journal.total) == ("the fetch: x", 1, 1)


def test_what_to_do_has_a_line_of_its_own(journal: RecentErrors) -> None:
    """5.3: what the log says in one line is apart here."""
    error = errors.TlsFailed("TLS failed")
    log.warning("lookup: %s; %s", error, errors.what_to_do(error))
    (failure,) = journal.failures()
    assert (failure.message, failure.what_to_do) == ("lookup: TLS failed", errors.what_to_do(error))


def test_no_secrets_no_tracebacks_one_line(journal: RecentErrors) -> None:
    """6.1: secrets are blotted out before anything is kept; a bug is a line, and to be reported."""
    log.error("read failed: s3cr3t", exc_info=RuntimeError("s3cr3t\nand more"))
    log.warning("long %s", "s3cr3t" * 400)
    long, bug = journal.failures()
    assert bug.message == "read failed: ********"
    assert "report it" in bug.what_to_do
    assert "s3cr3t" not in long.message
    assert len(long.message) <= 500


def test_the_reason_of_a_notice_is_no_failure(journal: RecentErrors) -> None:
    """5.3: a mistyped word, and a filter that the service refuses, are no bugs, and nothing is to be done."""
    log.warning("/search/%s: %s", "lr>1", ValueError("lr is no term"), extra=logs.NOTICE)
    log.warning("no filter: %s", errors.BadRequest("refused", 400), extra=logs.NOTICE)
    assert [(notice.message, notice.what_to_do) for notice in journal.notices()] == [
        ("no filter: refused", ""),
        ("/search/lr>1: lr is no term", ""),
    ]
    assert (journal.failures(), journal.total) == ([], 0)


def test_what_is_no_failure_is_not_kept(journal: RecentErrors) -> None:
    """5.3: only what the log warns of."""
    log.setLevel(logging.DEBUG)
    log.info("all is well")
    assert journal.failures() == []


def test_a_notice_is_no_failure(journal: RecentErrors) -> None:
    """5.3: a warning for which nothing failed is kept apart, and counts for nothing."""
    for number in (1, 2):
        log.warning("left out %d rows", number, extra=logs.NOTICE)
    log.warning("open: %s", errors.Unreachable("no route"))
    (notice,) = journal.notices()
    assert (notice.message, notice.count) == ("left out 2 rows", 2)
    assert ([failed.message for failed in journal.failures()], journal.total) == (["open: no route"], 1)


def test_it_is_bounded(journal: RecentErrors) -> None:
    """5.3: a hundred different failures are kept, the last ones."""
    for number in range(250):
        log.warning("".join(chr(97 + int(digit)) for digit in str(number)))
    kept = journal.failures()
    assert len(kept) == 100
    assert kept[0].message == "cej"


def test_a_record_that_cannot_be_formatted_ends_nothing(
    journal: RecentErrors, capsys: pytest.CaptureFixture[str]
) -> None:
    """5.5: a bug in a log line is reported by logging, and raises nowhere."""
    journal.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",), "levelno": logging.WARNING}))
    assert journal.failures() == []
    assert "no number" in capsys.readouterr().err
