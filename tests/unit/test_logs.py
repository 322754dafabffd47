"""artifactfs.logs: what gets into a mount's log, and what never does."""

import io
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs import logs
from artifactfs.logs import LogDestination, RepeatLimiter, configure, redact
from artifactfs.logs.formatters import RedactingFormatter, Redaction
from tests.harness import needs_root

SECRET = "k3y-0123456789abcdef"


def record(message: str, *args: object, level: int = logging.WARNING, name: str = "artifactfs.x") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, args, None)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger; levels are as before when the test ends, and the handlers that it added are gone."""
    names = ("", "artifactfs", "httpx", "httpcore", "pyfuse3", "trio")
    levels = {name: logging.getLogger(name).level for name in names}
    root = logging.getLogger()
    yield root
    for handler in root.handlers[:]:
        if type(handler).__module__.startswith(("logging", "artifactfs")):  # pytest's own come and go by themselves
            root.removeHandler(handler)
            handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_a_log_that_is_a_pipe(root: logging.Logger, tmp_path: Path) -> None:
    """It is not waited for a reader; where there is one, it is a log like any."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    with pytest.raises(OSError, match="the pipe has no reader"):
        configure(LogDestination("file", path), verbose=False)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    configure(LogDestination("file", path), verbose=False)
    logging.getLogger("artifactfs").warning("read by somebody")
    assert b"read by somebody" in os.read(reader, 1000)
    os.close(reader)


def test_a_secret_in_the_arguments_is_blotted_out() -> None:
    """6.1: a key does not get into the log by a message's arguments."""
    text = RedactingFormatter("%(message)s", Redaction([SECRET])).format(record("sent %s to %s", SECRET, "x"))
    assert text == "sent ******** to x"


def test_a_secret_in_a_traceback_is_blotted_out() -> None:
    """6.1: nor by an exception's text, its cause's, or a line of code."""
    try:
        try:
            int(f"inner {SECRET}")
        except ValueError as inner:
            raise RuntimeError(f"outer {SECRET}") from inner
    except RuntimeError:
        failed = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    text = RedactingFormatter("%(message)s", Redaction([SECRET])).format(failed)
    assert SECRET not in text
    assert "inner ********" in text
    assert "outer ********" in text


def test_a_secret_that_is_learned_later(root: logging.Logger, tmp_path: Path) -> None:
    """6.1: keys that were rotated while the mount lives are blotted out like the first, and those still are."""
    configure(LogDestination("file", str(tmp_path / "log")), verbose=False, secrets=[SECRET])
    redact(["new-" + SECRET, "another"])
    logging.getLogger("artifactfs.x").warning("%s, %s, %s", SECRET, "new-" + SECRET, "another")
    assert (tmp_path / "log").read_text().endswith(" ********, ********, ********\n")


def test_of_secrets_within_each_other_the_longest_goes_as_a_whole() -> None:
    """6.1: no tail of a longer secret is left standing."""
    text = RedactingFormatter("%(message)s", Redaction(["abc", "abcdef", ""])).format(record("abcdef abc"))
    assert text == "******** ********"


def test_the_same_line_passes_five_times_a_minute() -> None:
    """A dead server does not fill the disk; the first line after the window says how many were dropped."""
    now = [100.0]
    limiter = RepeatLimiter(lambda: now[0])
    passed = []
    for i in range(12):
        line = record("%s is down, try %d", "host", i)
        passed.append(limiter.filter(line))
    assert passed == [True] * 5 + [False] * 7
    now[0] += 59.9
    assert not limiter.filter(record("%s is down, try %d", "host", 12))
    now[0] += 0.1
    after = record("%s is down, try %d", "host", 13)
    assert limiter.filter(after)
    assert after.getMessage() == "host is down, try 13 (and 8 more like it)"


def test_a_new_window_starts_at_zero() -> None:
    """After a quiet minute nothing is said of drops, and five more pass."""
    now = [0.0]
    limiter = RepeatLimiter(lambda: now[0])
    assert [limiter.filter(record("a")) for _ in range(5)] == [True] * 5
    now[0] = 60.0
    line = record("a")
    assert limiter.filter(line)
    assert line.getMessage() == "a"
    assert [limiter.filter(record("a")) for _ in range(5)] == [True] * 4 + [False]


def test_different_lines_do_not_limit_each_other() -> None:
    """The same template of another logger, or another template, has a count of its own."""
    limiter = RepeatLimiter(lambda: 0.0)
    for _ in range(6):
        limiter.filter(record("a"))
    assert not limiter.filter(record("a"))
    assert limiter.filter(record("b"))
    assert limiter.filter(record("a", name="artifactfs.y"))


def test_debugging_is_not_limited() -> None:
    """A caller that asks for every operation gets every operation."""
    limiter = RepeatLimiter(lambda: 0.0)
    assert all(limiter.filter(record("a", level=logging.DEBUG)) for _ in range(50))


def test_the_limiter_survives_a_message_that_does_not_fit_its_arguments() -> None:
    """A logging call with a mistake in it is the handler's to report; the filter must not raise into the caller."""
    now = [0.0]
    limiter = RepeatLimiter(lambda: now[0])
    for _ in range(7):
        limiter.filter(record("%d files", "not a number"))
    now[0] = 61.0
    assert limiter.filter(record("%d files", "not a number"))


def test_the_limiters_memory_is_bounded() -> None:
    """However many different lines there are, not all are remembered."""
    limiter = RepeatLimiter(lambda: 0.0)
    for i in range(5000):
        limiter.filter(record(f"line {i}"))
    assert len(limiter._seen) <= 1000


def test_levels_of_the_libraries(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx logs every URL at INFO and pyfuse3 its workers at DEBUG: neither gets in, verbose or not."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for verbose, ours in ((False, logging.INFO), (True, logging.DEBUG)):
        configure(LogDestination(), verbose=verbose)
        assert logging.getLogger("artifactfs.tree").getEffectiveLevel() == ours
        for name in ("httpx", "httpcore", "pyfuse3", "trio", "anything.else"):
            assert logging.getLogger(name).getEffectiveLevel() == logging.WARNING


def test_to_stderr_with_time_level_and_name(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file the log goes to stderr, redacted, one handler only however often it is configured."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    configure(LogDestination(), verbose=False, secrets=[SECRET])
    configure(LogDestination(), verbose=False, secrets=[SECRET])
    logging.getLogger("artifactfs.tree").info("hello %s", SECRET)
    assert len(root.handlers) == 1
    assert stderr.getvalue().endswith(" INFO artifactfs.tree: hello ********\n")
    assert stderr.getvalue().count("\n") == 1


def test_to_a_file_that_rotates(root: logging.Logger, tmp_path: Path) -> None:
    """A background mount's log is a file with a bound, and takes names that are not UTF-8."""
    path = tmp_path / "mount.log"
    configure(LogDestination("file", str(path)), verbose=False, secrets=[SECRET])
    logging.getLogger("artifactfs.tree").warning("odd name \udcff and %s", SECRET)
    (handler,) = root.handlers
    assert isinstance(handler, logging.handlers.RotatingFileHandler)
    assert 0 < handler.maxBytes * (handler.backupCount + 1) <= 64 << 20
    handler.flush()
    assert path.read_text().endswith("odd name \\udcff and ********\n")


def test_a_log_that_cannot_be_opened(root: logging.Logger, tmp_path: Path) -> None:
    """The caller gets the error, and the log that there was stays in place."""
    root.addHandler(logging.NullHandler())
    before = root.handlers[:]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        configure(LogDestination("file", str(tmp_path / "file" / "mount.log")), verbose=False)
    assert root.handlers == before


@needs_root
@pytest.mark.parametrize("through", ["file", "directory", "own link"])
def test_a_link_of_another_user_is_not_followed(tmp_path: Path, through: str) -> None:
    """6.2: root's log never goes where another user's link leads, whatever else is on the way."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "log").write_text("precious\n")
    link = tmp_path / "link"
    link.symlink_to(victim / "log" if through == "file" else victim)
    os.chown(link, 12345, 12345, follow_symlinks=False)
    path = link if through == "file" else link / "log"
    if through == "own link":
        (tmp_path / "own").symlink_to(link / "log")
        path = tmp_path / "own"
    with pytest.raises(PermissionError, match="link of another user"):
        logs.opener(os.fspath(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    assert (victim / "log").read_text() == "precious\n"
    os.chown(link, 0, 0, follow_symlinks=False)
    os.close(logs.opener(os.fspath(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT))
