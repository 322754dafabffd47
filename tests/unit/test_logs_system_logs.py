"""artifactfs.logs: the journal's and syslog's sockets, as the daemons at their other ends read them."""

import logging
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode, UserError
from artifactfs.logs import system_logs
from artifactfs.logs.formatters import JsonFormatter, RedactingFormatter, Redaction
from artifactfs.logs.system_logs import JournalHandler, SyslogHandler
from artifactfs.settings import load, log_target
from tests.unit.test_logs_formatters import FORGED, SECRET, raised, record


class Daemon:
    """The other end: what came, datagram by datagram."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "socket")
        self.listen()

    def listen(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def stop(self) -> None:
        self._socket.close()
        os.unlink(self.address)

    def one(self) -> bytes:
        """Return the next datagram, or the file that came in place of one."""
        data, files, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        if not files:
            return data
        with os.fdopen(files[0], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return bytes(whole)

    def all(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.one())
            except BlockingIOError:
                return found


def fields(entry: bytes) -> dict[str, str]:
    """Return the fields of a journal entry, read as the protocol says."""
    found = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", rest[:8])
            value, end, entry = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n"
        else:
            entry = rest
        assert name.decode() not in found
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.stop()


@pytest.fixture
def journal(daemon: Daemon) -> Iterator[JournalHandler]:
    handler = JournalHandler(Redaction([SECRET]), daemon.address)
    yield handler
    handler.close()


@pytest.fixture
def syslog(daemon: Daemon) -> Iterator[SyslogHandler]:
    handler = SyslogHandler(daemon.address)
    handler.setFormatter(RedactingFormatter("%(name)s: %(message)s", Redaction([SECRET])))
    yield handler
    handler.close()


def test_the_fields_of_an_entry(journal: JournalHandler, daemon: Daemon) -> None:
    """The journal gets message, priority, identifier, logger, and where in the code it was."""
    journal.handle(record("%s is down, says %s", "host", SECRET))
    assert fields(daemon.one()) == {
        "MESSAGE": "host is down, says ********",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "artifactfs",
        "SYSLOG_PID": str(os.getpid()),
        "LOGGER": "artifactfs.x",
        "CODE_FILE": "/a/b.py",
        "CODE_LINE": "7",
        "CODE_FUNC": "read",
    }


def test_an_entry_with_a_traceback(journal: JournalHandler, daemon: Daemon) -> None:
    """A traceback is below the message and a field of its own; no text of a stranger makes a field."""
    journal.handle(record("%s", f"{FORGED}\nPRIORITY=0", failed=raised("why\nPRIORITY=0\n")))
    found = fields(daemon.one())
    assert found["PRIORITY"] == "4"
    assert found["MESSAGE"].split("\n")[1] == "Traceback (most recent call last):"
    assert found["MESSAGE"].endswith(found["EXCEPTION_TEXT"])
    assert all(line.isprintable() for line in found["MESSAGE"].split("\n"))


@pytest.mark.parametrize(
    ("level", "expected"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7), (5, 7)],
)
def test_priorities(level: int, expected: int) -> None:
    """Levels are syslog's severities (syslog(3))."""
    assert system_logs.severity(level) == expected


def test_an_entry_larger_than_a_datagram(journal: JournalHandler, daemon: Daemon) -> None:
    """What the socket does not take as a datagram comes as a sealed file."""
    journal.handle(record("%s", "x" * (1 << 20)))
    assert len(fields(daemon.one())["MESSAGE"]) == 1 << 20


def test_a_daemon_that_does_not_read(journal: JournalHandler, daemon: Daemon) -> None:
    """The mount never waits for its log: what is not taken is dropped, and how much is said afterwards."""
    for number in range(2000):
        journal.handle(record("line %d", number))
    taken = len(daemon.all())
    assert 0 < taken < 2000
    journal.handle(record("after"))
    notice, after = map(fields, daemon.all())
    assert notice["MESSAGE"].startswith(f"{2000 - taken} records were dropped")
    assert after["MESSAGE"] == "after"


def test_a_daemon_that_is_restarted(journal: JournalHandler, daemon: Daemon) -> None:
    """While it is gone records are dropped; from its new socket on they arrive."""
    daemon.stop()
    journal.handle(record("lost"))
    daemon.listen()
    journal.handle(record("back"))
    assert [fields(entry)["MESSAGE"][:20] for entry in daemon.all()] == ["1 records were dropp", "back"]


def test_lines_for_syslog(syslog: SyslogHandler, daemon: Daemon) -> None:
    """Each line of a record is a datagram with facility, severity, name and pid; no newline is in any."""
    syslog.handle(record("%s and %s", FORGED, SECRET, failed=raised("why")))
    lines = [line.decode() for line in daemon.all()]
    head = f"<28>artifactfs[{os.getpid()}]: "
    assert lines[0].startswith(f"{head}artifactfs.x: x\\n2026-01-01")
    assert lines[0].endswith(" and ********")
    assert lines[1] == f"{head}  Traceback (most recent call last):"
    assert all(line.startswith(head) and line.isprintable() for line in lines)


def test_json_for_syslog(syslog: SyslogHandler, daemon: Daemon) -> None:
    """In JSON a record is one datagram, traceback and all."""
    syslog.setFormatter(JsonFormatter(Redaction([SECRET])))
    syslog.handle(record("x", failed=raised(SECRET)))
    (line,) = daemon.all()
    assert b'"exception": "Traceback' in line
    assert b"0123" not in line


def test_no_server_listens(tmp_path: Path) -> None:
    """Where there is no such daemon the caller gets an error at the start."""
    with pytest.raises(FileNotFoundError):
        SyslogHandler(str(tmp_path / "none"))


def test_a_record_with_a_mistake(
    journal: JournalHandler, daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that does not fit its arguments is reported, and does not raise into the caller."""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    journal.handle(record("%d", "x"))
    assert daemon.all() == []
    assert "Logging error" in capsys.readouterr().err


# --- where it goes --------------------------------------------------------------------------------


def target(foreground: bool, environ: dict[str, str] | None = None, **flags: str) -> tuple[str, str | None, str]:
    loaded = load(flags, environ={}, need_keys=False)
    found = log_target(loaded, "/mnt/lab", foreground=foreground, environ=environ or {})
    return found.to, found.file, found.form


def test_where_the_log_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself: a file in the background, standard error in front; what is asked for, wherever it runs."""
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    own = "/state/artifactfs/log/mnt-lab.log"
    assert target(False) == ("file", own, "text")
    assert target(True) == ("stderr", None, "text")
    assert target(True, log_file="/a.log") == ("file", "/a.log", "text")
    assert target(True, log_to="file", log_format="json") == ("file", own, "json")
    for to in ("journal", "syslog"):
        assert target(False, log_to=to, log_file="/a.log") == (to, None, "text")
    with pytest.raises(UserError, match="add -f") as caught:
        target(False, log_to="stderr")
    assert caught.value.code == ExitCode.USAGE


def test_under_systemd_the_log_goes_to_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In front, where standard error is what systemd connected to the journal; not where it was redirected since."""
    with open(tmp_path / "stream", "wb") as file:
        found = os.fstat(file.fileno())
        monkeypatch.setattr(os, "fstat", lambda fd: found if fd == 2 else os.stat(fd))
        stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert target(True, stream)[0] == "journal"
        assert target(True, stream, log_to="stderr")[0] == "stderr"
        assert target(False, stream)[0] == "file"
        assert target(True, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})[0] == "stderr"
        assert target(True, {"JOURNAL_STREAM": "nonsense"})[0] == "stderr"
