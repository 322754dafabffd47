"""The recent failures of a mount, in memory: the report `errors`, and the last error in the status (docs/semantics.md
5.3).

A log handler: each record of WARNING or above is a failure, redacted by the log's formatter, or a notice, if nothing
failed (logs.NOTICE). Those of one kind are kept once and counted. An exception that several waiting operations log
counts once.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator

from artifactfs import errors, logs
from artifactfs.control.status_schema import Failed
from artifactfs.util.clock import rfc3339
from artifactfs.util.escaping import one_line

# Kinds of failures; arbitrary.
_MAX_KEPT = 100
# Characters of a message; arbitrary.
_MAX_TEXT = 500


class RecentErrors(logging.Handler):
    """Keeps the recent failures. Its formatter redacts secrets, and returns the message alone (logs.add_first)."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        super().__init__(logging.WARNING)
        self._wall_clock = wall_clock
        # In order of time. Threads log, too.
        self._failures: dict[tuple[str, ...], Failed] = {}
        self._notices: dict[tuple[str, ...], Failed] = {}
        self._seen: weakref.WeakSet[errors.ArtifactfsError] = weakref.WeakSet()
        self._guard = threading.Lock()
        self.total = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record. Never raises."""
        try:
            self._keep(record)
        except Exception:
            self.handleError(record)

    def _keep(self, record: logging.LogRecord) -> None:
        # Of a notice, an exception is the reason and no failure, so there is nothing to fix: a word that the user
        # mistyped, a filter that the service does not know.
        is_notice = logs.is_notice(record)
        error = None if is_notice else _exception_in(record)
        what_to_do = "" if error is None else errors.what_to_do(error)
        text = " ".join(self.format(_fact(record, what_to_do)).split())[:_MAX_TEXT]
        # By type and operation: texts differ in paths and numbers.
        operation = str(getattr(record, "operation", ""))
        key = (record.name, str(record.msg)) if error is None else (type(error).__name__, str(record.msg), operation)
        with self._guard:
            # Only ours: builtin exceptions cannot be referenced weakly, and no two readers share one.
            if isinstance(error, errors.ArtifactfsError):
                if error in self._seen:
                    return
                self._seen.add(error)
            self.total += not is_notice
            kept = self._notices if is_notice else self._failures
            now = rfc3339(self._wall_clock())
            before = kept.pop(key, None)
            first, count = (before.first, before.count) if before is not None else (now, 0)
            kept[key] = Failed(text, what_to_do, count + 1, first, now)
            if len(kept) > _MAX_KEPT:
                del kept[next(iter(kept))]

    def failures(self) -> list[Failed]:
        """Return the recent failures, the last first."""
        with self._guard:
            return list(reversed(self._failures.values()))

    def notices(self) -> list[Failed]:
        """Return the recent notices, the last first."""
        with self._guard:
            return list(reversed(self._notices.values()))


def errors_text(failures: Iterable[Failed], notices: Iterable[Failed], since: str) -> bytes:
    """Return the report `errors`: failures, then notices, in sentences, the last first. `since`: the mount's start."""
    lines = [*_lines(failures)] or [f"no failures since the mount began, {since}"]
    lines += _lines(notices, mark="notice: ")
    return ("\n".join(map(one_line, lines)) + "\n").encode()


def _lines(all_kept: Iterable[Failed], mark: str = "") -> Iterator[str]:
    for kept in all_kept:
        often = "once" if kept.count == 1 else f"the last of {kept.count} since {kept.first}"
        yield f"{kept.last}  {mark}{kept.message} ({often})"
        if kept.what_to_do:
            yield f"    what to do: {kept.what_to_do}"


def _exception_in(record: logging.LogRecord) -> BaseException | None:
    """Return the exception that a record is about: an argument of its message, or the exception that it logs."""
    for arg in record.args if isinstance(record.args, tuple) else ():
        if isinstance(arg, BaseException):
            return arg
    return record.exc_info[1] if record.exc_info else None


def _fact(record: logging.LogRecord, what_to_do: str) -> logging.LogRecord:
    """Return a record without its traceback, which is for the log, and without its fix, which has a line of its own."""
    bare = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None, "stack_info": None})
    if isinstance(bare.args, tuple):
        if what_to_do and bare.args[-1:] == (what_to_do,):
            bare.msg, bare.args = str(bare.msg).removesuffix("; %s"), bare.args[:-1]
        bare.args = tuple(
            errors.UserError(arg.code, arg.fact, subject=arg.subject) if isinstance(arg, errors.UserError) else arg
            for arg in bare.args
        )
    return bare
