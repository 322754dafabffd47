"""The last failures of a mount, in memory: for /.artifactfs/errors, and the last error of its status (semantics 5.3).

A handler of the log: whatever is worth a warning there is a failure here, blotted out by the same formatter. The same
failure is kept once and counted, numbers apart; one exception that many wait for, and each logs, counts once.
"""

import logging
import re
import threading
import time
import weakref
from collections.abc import Callable

import msgspec

from artifactfs import errors

# Different failures that are kept; arbitrary.
_MAX_KEPT = 100
# Of a message no more is kept.
_MAX_TEXT = 500


class Failure(msgspec.Struct, frozen=True):
    """A failure: what the last one of its kind said, how many there were since when, and what to do about it.

    Times are seconds since the epoch.
    """

    message: str
    what_to_do: str
    count: int
    first_at: float
    last_at: float


class RecentErrors(logging.Handler):
    """Keeps the last failures. Its formatter is to blot out secrets, and to give the message alone (logs.add_first)."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        super().__init__(logging.WARNING)
        self._wall_clock = wall_clock
        # The last at the end. Content's threads log, too.
        self._kept: dict[tuple[str, str], Failure] = {}
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
        error = _exception_in(record)
        # A traceback is the log's.
        bare = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None, "stack_info": None})
        text = " ".join(self.format(bare).split())
        todo = "" if error is None else errors.what_to_do(error)
        # The log says it in one line; here it has a line of its own.
        text = text.removesuffix(f"; {todo}")[:_MAX_TEXT] if todo else text[:_MAX_TEXT]
        if error is None:
            key = (record.name, re.sub(r"\d+", "#", str(record.msg)))
        else:
            key = (type(error).__name__, re.sub(r"\d+", "#", str(error)))
        with self._guard:
            # Ours alone: Python's own exceptions are not to be referenced weakly, and nobody waits for them.
            if isinstance(error, errors.ArtifactfsError):
                if error in self._seen:
                    return
                self._seen.add(error)
            self.total += 1
            now = self._wall_clock()
            before = self._kept.pop(key, None)
            first_at, count = (before.first_at, before.count) if before is not None else (now, 0)
            self._kept[key] = Failure(text, todo, count + 1, first_at, now)
            if len(self._kept) > _MAX_KEPT:
                del self._kept[next(iter(self._kept))]

    def failures(self) -> list[Failure]:
        """Return what is kept, the last first."""
        with self._guard:
            return list(reversed(self._kept.values()))


def _exception_in(record: logging.LogRecord) -> BaseException | None:
    """Return the exception that a record is about: one that it was given, or the one that it logs."""
    if isinstance(record.args, tuple):
        for arg in record.args:
            if isinstance(arg, BaseException):
                return arg
    return record.exc_info[1] if record.exc_info else None
