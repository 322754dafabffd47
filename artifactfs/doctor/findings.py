"""What a check found: a mark, a sentence, and the command that mends it. Pure."""

import enum
import re
from collections.abc import Sequence

import msgspec

from artifactfs.errors import UserError


class Mark(enum.Enum):
    """How bad it is. Only a FAULT keeps a mount from working."""

    GOOD = "good"
    WARNING = "warning"
    FAULT = "fault"
    # Not looked at: nothing to look at, or it was left out.
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. `check` names it for programs and stays the same; `mend` is a command, or None."""

    check: str
    mark: Mark
    text: str
    mend: str | None = None


class Report(msgspec.Struct, frozen=True):
    """All of it, as `--json` prints it. `requests`: how many were sent, by kind."""

    artifactfs: str
    healthy: bool
    checks: Sequence[Finding]
    requests: dict[str, int]


def good(check: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Mark.GOOD, _whole(text))


def warning(check: str, text: str, mend: str | None = None) -> Finding:
    """Return a finding of something that a mount works with, less well."""
    return Finding(check, Mark.WARNING, _whole(text), mend and _whole(mend))


def fault(check: str, text: str, mend: str | None = None) -> Finding:
    """Return a finding of something that a mount, or reading from it, fails with."""
    return Finding(check, Mark.FAULT, _whole(text), mend and _whole(mend))


def skipped(check: str, text: str) -> Finding:
    """Return a finding that there was nothing to find."""
    return Finding(check, Mark.SKIPPED, _whole(text))


# Where a sentence of an error goes over to what to do about it, which is said apart here.
_ADVICE = re.compile(r"[:;] (?:run|create|give|install|ask root|end that|mount on|in a container|choose|see|is the) .*")


def fact(error: UserError) -> str:
    """Return what an error states, without the advice at its end."""
    return _ADVICE.sub("", str(error))


def _whole(text: str) -> str:
    """Return a text without halves of characters, which msgspec's JSON does not take."""
    return text.encode("utf-8", "backslashreplace").decode()
