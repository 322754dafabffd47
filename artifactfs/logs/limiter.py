"""The limit on repeated log lines: a few per minute are written, the rest are counted."""

import logging
import time
import traceback
from collections.abc import Callable

# Lines of one kind per window: a dead server must not fill the disk. Arbitrary.
_REPEATS = 5
_REPEAT_WINDOW_S = 60.0
_REPEAT_KEYS = 1000

_EACH = "artifactfs_each"
# For `extra` of a line that is never limited: each occurrence is news.
EACH = {_EACH: True}
_NOTICE = "artifactfs_notice"
# For `extra` of a warning that nothing has failed for: it is no failure of the status (docs/status.md).
NOTICE = {_NOTICE: True}
_WAITING_S = "artifactfs_waiting_s"


def is_notice(record: logging.LogRecord) -> bool:
    return getattr(record, _NOTICE, False)


def waiting(seconds: float) -> dict[str, object]:
    """Return `extra` for a line about a wait, which a command prints while nothing else moves."""
    return {_WAITING_S: seconds}


def waiting_s(record: logging.LogRecord) -> float:
    """Return for how many seconds something waits, by a record; 0 where it is about no wait."""
    seconds: float = getattr(record, _WAITING_S, 0.0)
    return seconds


class RepeatLimiter(logging.Filter):
    """Passes lines of one kind a few times per window, then counts them.

    Lines are of one kind if logger, message template, operation and kinds of exceptions are the same. Names and paths
    are left out, since lines with them would never repeat. Without the exceptions, one failure would hide another
    (docs/semantics.md 5.3). The first line after the window gives the number of dropped lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO or getattr(record, _EACH, False):
            return True
        key = (record.name, str(record.msg), str(getattr(record, "operation", "")), *_exceptions(record))
        now = self._clock()
        start, count = self._seen.get(key, (now, 0))
        if now - start >= _REPEAT_WINDOW_S:
            if (dropped := count - _REPEATS) > 0:
                record.msg = f"{record.msg} (and {dropped} more like it)"
            start, count = now, 0
        if len(self._seen) >= _REPEAT_KEYS:
            self._seen.clear()
        self._seen[key] = (start, count + 1)
        return count < _REPEATS


def _exceptions(record: logging.LogRecord) -> list[str]:
    """Return the kinds of the exceptions in a record, and the place that raised a logged one."""
    found = [arg for arg in record.args if isinstance(arg, BaseException)] if isinstance(record.args, tuple) else []
    kinds = [_kind(error) for error in found]
    if record.exc_info and (error := record.exc_info[1]) is not None:
        frames = traceback.extract_tb(error.__traceback__)
        kinds.append(f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else "")
    return kinds


def _kind(error: BaseException) -> str:
    """Return an exception's type with its HTTP status, errno or exit code; its text differs in paths and numbers."""
    codes = (getattr(error, name, None) for name in ("status", "errno", "code"))
    return " ".join([type(error).__name__, *(str(code) for code in codes if code is not None)])
