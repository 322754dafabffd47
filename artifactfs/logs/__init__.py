"""Logging of one mount: its destination, its format, and the redaction of secrets.

Owns the handlers, formatters, the limit on repeated lines and the levels of the libraries. All other code only
calls `logging.getLogger(__name__)`. Configure after the fork: a handler's lock and file do not survive one.
"""

import contextlib
import errno
import io
import logging
import logging.handlers
import os
import stat
import sys
from collections.abc import Iterable

from artifactfs.logs.destination import LogDestination
from artifactfs.logs.formatters import JsonFormatter, RedactingFormatter, Redaction
from artifactfs.logs.limiter import EACH, RepeatLimiter
from artifactfs.logs.system_logs import JournalHandler, SyslogHandler

__all__ = [
    "EACH",
    "JsonFormatter",
    "LogDestination",
    "RedactingFormatter",
    "RepeatLimiter",
    "configure",
    "hear",
    "opener",
    "redact",
]

# 5 files of 5 MiB: some weeks of a mount at info; arbitrary.
_ROTATE_BYTES = 5 << 20
_ROTATE_FILES = 4
# Symbolic links that the kernel follows in a path (path_resolution(7)).
_MOST_LINKS = 40

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# The system's log has its own time and level.
_SYSLOG_TEXT = "%(name)s: %(message)s"

# The secrets that no handler of this process writes.
_redaction = Redaction()


def configure(target: LogDestination, *, verbose: bool, secrets: Iterable[str] = ()) -> None:
    """Send the log to `target`, in its format.

    Raises OSError if the file cannot be opened, or the socket of the system's log has no listener.
    """
    _redaction.learn(secrets)
    handler = _handler(target, _redaction)
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
    """Open a file to log to, for `open`.

    Raises OSError for a pipe without a reader, since opening it would block. Raises OSError for a path with a link of
    another user in it: its target is not this user's choice, and root may write everywhere.
    """
    _refuse_foreign_links(path)
    try:
        fd = os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "the pipe has no reader") from None
        raise
    os.set_blocking(fd, True)
    return fd


def _refuse_foreign_links(path: str) -> None:
    todo = os.path.abspath(path).split("/")
    at, followed = "/", 0
    # In a user namespace, the machine's own files and links belong to one unmapped user.
    trusted = {0, os.geteuid(), os.stat("/").st_uid}
    with contextlib.suppress(FileNotFoundError):
        while todo and followed < _MOST_LINKS:
            below = os.path.join(at, todo.pop(0))
            found = os.lstat(below)
            if not stat.S_ISLNK(found.st_mode):
                at = below
                continue
            if found.st_uid not in trusted:
                raise OSError(errno.EACCES, f"{below} is a link of another user")
            followed += 1
            target = os.readlink(below)
            todo = target.split("/") + todo
            at = "/" if target.startswith("/") else at


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


def _handler(target: LogDestination, redact: Redaction) -> logging.Handler:
    """Return the open handler of a target, with its formatter."""
    if target.to == "journal":
        # The journal keeps the fields of a record, so there is no format to choose.
        return JournalHandler(redact)
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
    handler.setFormatter(JsonFormatter(redact) if target.form == "json" else RedactingFormatter(text, redact))
    return handler


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of pyfuse3 is news; a failed reply to a process that was killed is not."""
    return "fuse_reply_* failed with No such file or directory" not in record.getMessage()
