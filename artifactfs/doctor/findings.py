"""Findings of the doctor: a mark, a fact, and its fix. Pure."""

import enum
from collections.abc import Sequence

import msgspec

from artifactfs.errors import UserError


class Mark(enum.Enum):
    """The severity. Only a FAULT keeps a mount from working."""

    GOOD = "good"
    WARNING = "warning"
    FAULT = "fault"
    # Not checked: there is nothing to check, or the user left it out.
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. `fix`: a command, or the fix in words; None where none is known."""

    check: str
    mark: Mark
    fact: str
    fix: str | None = None


class Report(msgspec.Struct, frozen=True):
    """The report of `--json`. `requests`: the number of requests sent, by kind."""

    artifactfs: str
    healthy: bool
    checks: Sequence[Finding]
    requests: dict[str, int]


def good(check: str, fact: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Mark.GOOD, _encodable(fact))


def warning(check: str, fact: str, fix: str | None = None) -> Finding:
    """Return a finding that makes a mount work less well."""
    return Finding(check, Mark.WARNING, _encodable(fact), fix and _encodable(fix))


def fault(check: str, fact: str, fix: str | None = None) -> Finding:
    """Return a finding that makes a mount, or reading from it, fail."""
    return Finding(check, Mark.FAULT, _encodable(fact), fix and _encodable(fix))


def refused(check: str, error: UserError, fix: str | None = None) -> Finding:
    """Return a fault for an error of a check of `mount`. `fix`: in place of the error's."""
    fact = f"{error.subject}: {error.fact}" if error.subject else error.fact
    return fault(check, fact, fix or error.command or error.fix or None)


def skipped(check: str, fact: str) -> Finding:
    """Return a finding for a check that was not made."""
    return Finding(check, Mark.SKIPPED, _encodable(fact))


def _encodable(text: str) -> str:
    """Return a text without lone surrogates, which msgspec's JSON refuses."""
    return text.encode("utf-8", "backslashreplace").decode()
