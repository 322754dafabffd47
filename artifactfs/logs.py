"""Logging of one mount: where it goes, how it looks, and what never gets into it.

Owns handlers, formats, the limiter of repeated lines and the levels of the libraries. Everything else only
calls `logging.getLogger(__name__)`. Configure after the fork: a handler's lock and file do not survive one.
"""

import logging
import logging.handlers
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable

# 5 files of 5 MiB: some weeks of a mount at info; arbitrary.
_ROTATE_BYTES = 5 << 20
_ROTATE_FILES = 4

# The same line at most this often per window; a dead server would otherwise fill the disk. Arbitrary.
_REPEATS = 5
_REPEAT_WINDOW_S = 60.0
_REPEAT_KEYS = 1000

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RedactingFormatter(logging.Formatter):
    """Formats a record, tracebacks included, and blots out the secrets it was given (semantics 6.1)."""

    def __init__(self, fmt: str, secrets: Iterable[str]) -> None:
        super().__init__(fmt)
        self._secrets: list[str] = []
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Blot out these, too, from now on: keys that were rotated while the mount lives."""
        # Longest first, so that a secret that contains another goes as a whole.
        self._secrets = sorted({*self._secrets, *filter(None, secrets)}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text


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


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a line of the binding says something: a reply to who was killed in the meantime does not."""
    return "fuse_reply_* failed with No such file or directory" not in record.getMessage()


def redact(secrets: Iterable[str]) -> None:
    """Blot out these secrets, too, in all that is logged from now on."""
    kept = list(secrets)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, RedactingFormatter):
            handler.formatter.learn(kept)


def configure(*, log_file: str | None, verbose: bool, secrets: Iterable[str] = ()) -> None:
    """Send the log to `log_file` (rotated), or to stderr where that is None.

    Raises OSError when the file cannot be opened.
    """
    handler: logging.Handler
    if log_file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.handlers.RotatingFileHandler(
            log_file, maxBytes=_ROTATE_BYTES, backupCount=_ROTATE_FILES, encoding="utf-8", errors="backslashreplace"
        )
    handler.setFormatter(RedactingFormatter(_FORMAT, secrets))
    handler.addFilter(RepeatLimiter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("artifactfs").setLevel(logging.DEBUG if verbose else logging.INFO)
    # httpx logs every URL at INFO, pyfuse3 its workers at DEBUG (pitfalls.md).
    for noisy in ("httpx", "httpcore", "pyfuse3", "trio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    binding = logging.getLogger("pyfuse3")
    binding.removeFilter(_is_news)
    binding.addFilter(_is_news)
