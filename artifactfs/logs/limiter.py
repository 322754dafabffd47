"""The same line, again and again: a few of it get into the log, the rest are counted."""

import logging
import re
import time
import traceback
from collections.abc import Callable

# The same line at most this often per window; a dead server would otherwise fill the disk. Arbitrary.
_REPEATS = 5
_REPEAT_WINDOW_S = 60.0
_REPEAT_KEYS = 1000

_EACH = "artifactfs_each"
# For `extra` of a line that is news each time, however often it comes.
EACH = {_EACH: True}


class RepeatLimiter(logging.Filter):
    """Lets the same line through a few times per window, then counts it in silence.

    "The same" means the same logger, template and exceptions, numbers apart: with names and paths in it nothing
    would ever repeat, and without the exceptions one failure would hide another (semantics 5.3). The first line after
    the window says how many were dropped.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO or getattr(record, _EACH, False):
            return True
        key = (record.name, str(record.msg), *_exceptions(record))
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
    """Return what the exceptions in a record say, without numbers, and where a logged one was raised."""
    found = [arg for arg in record.args if isinstance(arg, BaseException)] if isinstance(record.args, tuple) else []
    texts = [re.sub(r"\d+", "#", f"{type(error).__name__}: {error}")[:200] for error in found]
    if record.exc_info and (error := record.exc_info[1]) is not None:
        frames = traceback.extract_tb(error.__traceback__)
        texts.append(f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else "")
    return texts
