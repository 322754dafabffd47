"""How a record looks: as lines of text, or as a JSON object. And what is blotted out of it.

What is hard: a record holds texts of strangers (a server's names, a mount point), and none of them may look like a
record of its own. So a message is one line whatever is in it, and the lines of a traceback are indented.
"""

import datetime
import json
import logging
from collections.abc import Iterable

from artifactfs.util.escaping import one_line

_INDENT = "\n  "


class Redaction:
    """Blots out the secrets that it was given (semantics 6.1)."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Blot out these, too, from now on: keys that were rotated while the mount lives."""
        # Longest first, so that a secret that contains another goes as a whole.
        self._secrets = sorted({*self._secrets, *filter(None, secrets)}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text


class RedactingFormatter(logging.Formatter):
    """Formats a record as a line of text, and what it has of tracebacks as indented lines below."""

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

    time: RFC 3339, in UTC. level: as of Python's logging, in small letters. logger, message. exception: a traceback,
    where there is one.
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
        # In ASCII: a terminal that shows it takes no orders from it. Half a surrogate is no JSON.
        return json.dumps({name: text.encode("utf-8", "backslashreplace").decode() for name, text in row.items()})


def message_of(record: logging.LogRecord, redact: Redaction) -> str:
    """Return a record's message as one line without secrets."""
    return one_line(redact(record.getMessage()))


def traceback_of(record: logging.LogRecord, redact: Redaction) -> list[str]:
    """Return the lines of a record's traceback and stack, without secrets; none where it has none."""
    parts = []
    if record.exc_info:
        parts.append(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    # Blotted out before it is cut into lines: each line on its own may hold only half of a secret.
    return [one_line(line) for line in redact("\n".join(parts)).split("\n")] if parts else []
