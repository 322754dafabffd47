"""Findings of the doctor: a mark, a fact, and its fix. Pure."""

import enum
from collections.abc import Callable
from functools import partial

import msgspec

from artifactfs.errors import UserError


class Mark(enum.Enum):
    """The severity. Only a FAULT keeps a mount from working; SKIPPED marks a check that was not made."""

    GOOD = "good"
    WARNING = "warning"
    FAULT = "fault"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. `fix`: a command, or the fix in words; None where none is known."""

    check: str
    mark: Mark
    fact: str
    fix: str | None = None


def _finding(mark: Mark, check: str, fact: str, fix: str | None = None) -> Finding:
    # Without lone surrogates, which msgspec's JSON refuses.
    return Finding(check, mark, _encodable(fact), None if fix is None else _encodable(fix))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


good = partial(_finding, Mark.GOOD)
skipped = partial(_finding, Mark.SKIPPED)
# A mount works less well.
warning = partial(_finding, Mark.WARNING)
# A mount, or reading from it, fails.
fault = partial(_finding, Mark.FAULT)
# What a check reports its findings to.
Tell = Callable[[Finding], None]


def refused(check: str, error: UserError, fix: str | None = None) -> Finding:
    """Return a fault for an error of a check of `mount`. `fix`: in place of the error's."""
    fact = f"{error.subject}: {error.fact}" if error.subject else error.fact
    return fault(check, fact, fix or error.command or error.fix or None)


def checked(check: str, look: Callable[[], object], fact: str, fix: str | None = None) -> Finding:
    """Run a check of `mount`: `fact` where it passes, a fault with its error where it does not."""
    try:
        look()
    except UserError as error:
        return refused(check, error, fix)
    return good(check, fact)
