"""Logging of one mount: its destination, its format, and the redaction of secrets.

Owns the handlers, formatters, the limit on repeated lines and the levels of the libraries. All other code only
calls `logging.getLogger(__name__)`. Configure after the fork: a handler's lock and file do not survive one.
"""

import errno
import io
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from artifactfs.logs.formatters import JsonFormatter, RedactingFormatter, Redaction
from artifactfs.logs.limiter import EACH, NOTICE, RepeatLimiter, is_notice
from artifactfs.logs.system_logs import JournalHandler, SyslogHandler
from artifactfs.util.path_walk import open_path

__all__ = [
    "EACH",
    "NOTICE",
    "JsonFormatter",
    "LogDestination",
    "RedactingFormatter",
    "RepeatLimiter",
    "configure",
    "is_notice",
    "opener",
    "redact",
]

# 5 files of 5 MiB: some weeks of a mount at info; arbitrary.
_ROTATE_BYTES = 5 << 20
_ROTATE_FILES = 4

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# The system's log has its own time and level.
_SYSLOG_TEXT = "%(name)s: %(message)s"

# The secrets that no handler of this process writes.
_redaction = Redaction()


@dataclass(frozen=True)
class LogDestination:
    """Where a log goes. `to`: file, stderr, journal or syslog. `file`: the path of a file. `form`: text or json."""

    to: str = "stderr"
    file: str | None = None
    form: str = "text"

    @property
    def place(self) -> str:
        """The name of the log in messages."""
        by_name = {"journal": "the journal (journalctl -t artifactfs)", "syslog": "the system's log"}
        return self.file or by_name.get(self.to, "standard error")


def configure(target: LogDestination, *, verbose: bool, secrets: Iterable[str] = ()) -> None:
    """Send the log to `target`, in its format.

    Raises OSError if the file cannot be opened, or the socket of the system's log has no listener.
    """
    _redaction.learn(secrets)
    handler = _handler(target)
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


def opener(path: str, flags: int) -> int:
    """Open a file to log to, for `open`, through no link of another user: root may write everywhere.

    Raises OSError, also for a pipe without a reader, since opening it would block.
    """
    try:
        fd, _ = open_path(os.path.abspath(path), flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "the pipe has no reader") from None
        raise
    os.set_blocking(fd, True)
    return fd


class _RotatingFile(logging.handlers.RotatingFileHandler):
    def _open(self) -> io.TextIOWrapper:
        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)


def add_first(handler: logging.Handler) -> None:
    """Add a handler in front of the log's own; it formats the message alone, redacted.

    In front, since the limit on repeated lines changes records. The next `configure` removes the handler.
    """
    handler.setFormatter(RedactingFormatter("%(message)s", _redaction))
    logging.getLogger().handlers.insert(0, handler)


def redact(secrets: Iterable[str]) -> None:
    """Redact these secrets, too, in all later records."""
    _redaction.learn(secrets)


def _handler(target: LogDestination) -> logging.Handler:
    """Return the open handler of a target, with its formatter."""
    if target.to == "journal":
        # The journal keeps the fields of a record, so there is no format to choose.
        return JournalHandler(_redaction)
    handler: logging.Handler
    if target.to == "syslog":
        handler = SyslogHandler()
    elif target.file is not None:
        os.makedirs(os.path.dirname(target.file), mode=0o700, exist_ok=True)
        handler = _RotatingFile(
            target.file, maxBytes=_ROTATE_BYTES, backupCount=_ROTATE_FILES, encoding="utf-8", errors="backslashreplace"
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
    text = _SYSLOG_TEXT if target.to == "syslog" else _TEXT
    handler.setFormatter(JsonFormatter(_redaction) if target.form == "json" else RedactingFormatter(text, _redaction))
    return handler


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of pyfuse3 is news; a failed reply to a process that was killed is not."""
    return "fuse_reply_* failed with No such file or directory" not in record.getMessage()
