"""artifactfs.logs: the forms of a record, and that no text of a stranger looks like a record of its own."""

import datetime
import json
import logging
import sys

from artifactfs.logs.formatters import JsonFormatter, RedactingFormatter, Redaction
from artifactfs.util.escaping import one_line

SECRET = 'k3y-"0123\\456789abcdef'
FORGED = "x\n2026-01-01 00:00:00,000 INFO artifactfs.mount: all is well\x1b[2J\r\x85\u2028"


def record(message: str, *args: object, failed: BaseException | None = None) -> logging.LogRecord:
    info = (type(failed), failed, failed.__traceback__) if failed is not None else None
    return logging.LogRecord("artifactfs.x", logging.WARNING, "/a/b.py", 7, message, args, info, "read")


def raised(text: str) -> ValueError:
    """Return an exception with a traceback."""
    try:
        raise ValueError(text)  # noqa: TRY301 - for its traceback
    except ValueError as error:
        return error


def text_of(line: logging.LogRecord, *secrets: str) -> str:
    return RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", Redaction(secrets)).format(line)


def test_a_newline_in_a_name_forges_no_line() -> None:
    """5.3, 6.1: whatever a server or a mount point is called, a message is one line, and gives a terminal no orders."""
    text = text_of(record("mounted at %s", FORGED))
    assert text.isprintable()
    assert "mounted at x\\n2026-01-01" in text
    assert "\\x1b[2J\\r\\x85\\u2028" in text


def test_a_traceback_forges_no_line() -> None:
    """6.1: the lines of a traceback are indented, those of an exception's own text as well."""
    first, *more = text_of(record("failed", failed=raised(FORGED))).split("\n")
    assert first.endswith("WARNING artifactfs.x: failed")
    assert more[0] == "  Traceback (most recent call last):"
    assert any("all is well" in line for line in more)
    assert all(line.startswith("  ") and line.isprintable() for line in more)


def test_json_is_one_object_a_line() -> None:
    """A line is a JSON object with time (RFC 3339, UTC), level, logger and message, and nothing else."""
    line = record("%s is down", FORGED)
    line.created = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, datetime.UTC).timestamp()
    text = JsonFormatter(Redaction([])).format(line)
    assert text.isprintable()
    assert text.isascii()
    assert json.loads(text) == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "warning",
        "logger": "artifactfs.x",
        "message": f"{one_line(FORGED)} is down",
    }


def test_json_with_an_exception() -> None:
    """A traceback is a field of its own; a name that is no text at all is still JSON."""
    text = JsonFormatter(Redaction([])).format(record("\udcff", failed=raised("why")))
    assert text.isprintable()
    found = json.loads(text)
    assert found["message"] == "\\udcff"
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("\nValueError: why")


def test_secrets_are_blotted_out_of_every_form() -> None:
    """6.1: also a key that JSON would write otherwise, in the message and in the traceback."""
    for form in (RedactingFormatter("%(message)s", Redaction([SECRET])), JsonFormatter(Redaction([SECRET]))):
        text = form.format(record("sent %s", SECRET, failed=raised(f"got {SECRET}")))
        assert text.count("********") == 2
        assert "0123" not in text


def test_a_record_that_does_not_fit_its_arguments() -> None:
    """A mistake in a logging call is the handler's to report, in every form."""
    for form in (RedactingFormatter("%(message)s", Redaction([])), JsonFormatter(Redaction([]))):
        try:
            form.format(record("%d files", "many"))
        except TypeError:
            continue
        raise AssertionError(form)


def test_the_stack_of_a_record_is_shown() -> None:
    """`stack_info` is shown like a traceback."""
    line = record("here")
    line.stack_info = "Stack (most recent call last):\n  File x"
    assert text_of(line).endswith(": here\n  Stack (most recent call last):\n    File x")
    assert sys.exc_info() == (None, None, None)
