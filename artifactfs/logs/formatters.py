"""The formats of a record: lines of text, or a JSON object, both redacted.

Hard: a record holds text from outside (a server's names, a mount point), and no such text may look like a record of
its own. So a message is always one line, and the lines of a traceback are indented.
"""

import datetime
import json
import logging
from collections.abc import Iterable

from artifactfs.util.escaping import one_line

_INDENT = "\n  "


class Redaction:
    """Replaces the secrets that it was given by asterisks (docs/semantics.md 6.1)."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Redact these secrets, too: keys that were rotated during the mount."""
        # Longest first, so that a secret that contains another is replaced as a whole.
        self._secrets = sorted({*self._secrets, *filter(None, secrets)}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text


class RedactingFormatter(logging.Formatter):
    """Formats a record as a line of text, with its traceback as indented lines below."""

    def __init__(self, fmt: str, redact: Redaction) -> None:
        super().__init__(fmt)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        record.message = message_of(record, self._redact)
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        return _INDENT.join([one_line(self.formatMessage(record)), *traceback_of(record, self._redact)])


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object on one line.

    time: RFC 3339, in UTC. level: as of Python's logging, in small letters. logger, message. exception: a traceback, if
    there is one.
    """

    def __init__(self, redact: Redaction) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        row = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record, self._redact),
        }
        if lines := traceback_of(record, self._redact):
            row["exception"] = "\n".join(lines)
        # In ASCII, so that a terminal obeys no escape sequence in it. A lone surrogate is not valid JSON.
        return json.dumps({name: text.encode("utf-8", "backslashreplace").decode() for name, text in row.items()})


def message_of(record: logging.LogRecord, redact: Redaction) -> str:
    """Return a record's message as one line without secrets."""
    return one_line(redact(record.getMessage()))


def traceback_of(record: logging.LogRecord, redact: Redaction) -> list[str]:
    """Return the lines of a record's traceback and stack, if it has any, without secrets."""
    parts = []
    if record.exc_info:
        parts.append(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    # Redacted before it is split, since a secret may span lines.
    return [one_line(line) for line in redact("\n".join(parts)).split("\n")] if parts else []
