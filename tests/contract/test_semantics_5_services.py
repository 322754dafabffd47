"""5.8 and 5.6 under systemd: what a mount in front tells it, and where its log goes there."""

import contextlib
import json
import os
import re
import signal
import socket
import uuid
from collections.abc import Iterator

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.harness import END_S, FUSE_TYPE, LIMIT_S, Lab, Shell, mount_type, needs_root, wait_until
from tests.unit.test_logs_system_logs import fields


class Systemd:
    """The end of NOTIFY_SOCKET where systemd listens."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(LIMIT_S)

    def next(self) -> dict[str, str]:
        """Wait for the next word, and return its fields."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))

    def silent(self) -> bool:
        """Tell whether nothing more has been said so far."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(LIMIT_S)
        return False


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, shell: Shell) -> Iterator[Systemd]:
    listening = Systemd(shell.path("notify") if request.param == "path" else f"@artifactfs-{uuid.uuid4().hex}")
    shell.more_env["NOTIFY_SOCKET"] = listening.address
    yield listening
    listening.socket.close()


def test_ready_is_sent_when_the_mount_answers(systemd: Systemd, shell: Shell, lab: Lab) -> None:
    """5.8, 5.6: systemd hears READY=1 when the mount answers and not before, of a refresh, and of the end."""
    mounted = shell.expected_mount()
    mounted.log.announce("answered 503.*trying again")
    lab.fault("any", {"status": 503})
    command = ("mount", "-f", "--wait", "--api-url", lab.url, "--log-file", mounted.log_file)
    with shell.background(*command, "--deadline", "60s", mounted.point) as process:
        asking = systemd.next()
        assert re.fullmatch(r"asking 127\.0\.0\.1:\d+", asking["STATUS"])
        assert int(asking["EXTEND_TIMEOUT_USEC"]) >= 60e6
        assert "READY" not in systemd.next()
        assert mount_type(mounted.point) is None
        lab.faults()
        while "READY" not in (ready := systemd.next()):
            assert "503" in ready["STATUS"]
        assert ready["READY"] == "1"
        assert ready["STATUS"].endswith(f" at {mounted.point}")
        assert mount_type(mounted.point) == FUSE_TYPE
        assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)

        os.kill(process.pid, signal.SIGHUP)
        reloading = systemd.next()
        assert (reloading["RELOADING"], "READY" in reloading) == ("1", False)
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert systemd.next()["READY"] == "1"

        os.kill(process.pid, signal.SIGTERM)
        assert systemd.next()["STOPPING"] == "1"
        assert process.wait(END_S) == 0
    assert systemd.silent()


def test_the_log_names_the_process_that_umount_waits_for(systemd: Systemd, shell: Shell, own_lab: Lab) -> None:
    """5.8: with `--wait` systemd hears why there is nothing yet, and gives it more time, until it is there."""
    shell.lab = own_lab
    own_lab.stop()
    mounted = shell.expected_mount()
    mounted.log.announce("trying again in")
    options = ("--wait", "--deadline", "2s", "--api-url", own_lab.url, "--log-file", mounted.log_file)
    with shell.background("mount", "-f", *options, mounted.point) as process:
        assert systemd.next()["STATUS"].startswith("asking ")
        waiting = systemd.next()
        assert waiting["STATUS"].startswith("waiting: ")
        assert "refuses" in waiting["STATUS"]
        assert int(waiting["EXTEND_TIMEOUT_USEC"]) >= 3e6
        own_lab.start()
        while "READY" not in (word := systemd.next()):
            assert word["STATUS"].startswith("waiting: ")
        assert mounted.tree(sample.RUN) == own_lab.truth(sample.RUN)
        mounted.umount()
        assert systemd.next()["STOPPING"] == "1"
        assert process.wait(END_S) == 0


def test_the_unit_shows_why_a_mount_failed(systemd: Systemd, shell: Shell, lab: Lab) -> None:
    """5.8: rejected keys end it at once; the reason is its last word, and holds no key."""
    mounted = shell.expected_mount()
    mounted.log.announce("the keys were rejected")
    command = ("mount", "-f", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point)
    done = shell.cli(*command, env={"DD_APP_KEY": "wrong-key-1234"})
    assert done.code == ExitCode.KEYS_REJECTED
    assert systemd.next()["STATUS"].startswith("asking ")
    last = systemd.next()
    assert last["STATUS"].startswith("the keys were rejected")
    assert "wrong-key" not in str(last)
    assert systemd.silent()


def test_a_mount_in_the_background_tells_nothing(systemd: Systemd, shell: Shell) -> None:
    """5.8: systemd heeds only the process that it started; one that went to the background leaves it alone."""
    mounted = shell.mount()
    mounted.umount()
    assert systemd.silent()


def test_waiting_has_an_end(shell: Shell, own_lab: Lab) -> None:
    """5.8: `--wait-max` gives up in time, with the cause and the time in one line."""
    shell.lab = own_lab
    own_lab.stop()
    mounted = shell.expected_mount()
    # On a slow machine the first try takes all the time that there is.
    mounted.log.announce("trying again in", optional=True)
    mounted.log.announce("gave up after")
    options = ("--wait", "--wait-max", "2s", "--api-url", own_lab.url, "--log-file", mounted.log_file)
    done = shell.cli("mount", *options, mounted.point)
    assert done.code == ExitCode.UNREACHABLE
    assert "refuses" in done.err
    assert "gave up after 2 s of waiting" in done.err
    # Before it, what it waits for.
    assert 1 <= done.err.count("\n") <= 2


def test_a_terminals_interrupt_ends_what_waits(shell: Shell, own_lab: Lab) -> None:
    """5.6, 5.8: Ctrl-C reaches both the mount that is not there yet and its parent: 130, and nothing is left."""
    shell.lab = own_lab
    own_lab.stop()
    mounted = shell.expected_mount()
    mounted.log.announce("trying again in")
    options = ("--wait", "--deadline", "2s", "--api-url", own_lab.url, "--log-file", mounted.log_file)
    with shell.background("mount", *options, mounted.point) as process:
        wait_until(lambda: mounted.log.has("trying again in"), "the first try")
        assert len(shell.processes()) == 2
        # As the terminal does it: to the whole group in front.
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=END_S)
        assert process.returncode == 130
        assert err.strip().endswith(b"waiting until it answers, Ctrl-C gives up")
        assert err.strip().count(b"\n") == 0
    wait_until(lambda: not shell.processes(), "the end", END_S)


# --- logs -----------------------------------------------------------------------------------------


def test_a_newline_in_a_mount_point_splits_no_line(shell: Shell, lab: Lab) -> None:
    """5.3: whatever a mount point is called, a line of the log and of the terminal is one line."""
    mounted = shell.expected_mount("a\n2026-01-01 00:00:00,000 ERROR artifactfs.x: forged")
    shell.cli("mount", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point).ok()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    done = shell.cli("mount", "--api-url", lab.url, mounted.point)
    assert done.code == ExitCode.ALREADY_MOUNTED
    assert done.err.count("\n") == 1
    mounted.umount()
    begins = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO artifactfs\.")
    assert all(begins.match(line) for line in mounted.log.lines())
    assert mounted.log.has(r"mounted .* at .*a\\n2026-01-01")


def test_a_log_in_json(shell: Shell, lab: Lab) -> None:
    """5.3: with `--log-format json` each line is an object: time, level, logger, message."""
    mounted = shell.mount("--log-format", "json")
    mounted.umount()
    rows = [json.loads(line) for line in mounted.log.lines()]
    assert rows[0]["message"].startswith("mounted ")
    for row in rows:
        assert row.keys() == {"time", "level", "logger", "message"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["time"])
        assert row["level"] == "info"


@contextlib.contextmanager
def socket_at(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(LIMIT_S)
        yield listening


# The journal's socket, or syslog's, only for what runs in this namespace. $1: the directory with the socket.
_WITH_JOURNAL = """
mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind "$1" /run/systemd/journal || exit 99
JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) && export JOURNAL_STREAM; shift; exec "$@"
"""
_WITH_SYSLOG = """
mount --bind "$1" /mnt && mount -t tmpfs none /dev && ln -s /mnt/log /dev/log && mknod -m 666 /dev/null c 1 3 &&
mknod -m 666 /dev/fuse c 10 229 || exit 99
shift; exec "$@"
"""


@needs_root
def test_under_systemd_the_log_is_the_journals(shell: Shell, lab: Lab) -> None:
    """5.3: in front, with standard error connected to the journal, records go there with their priority."""
    place = shell.make_directory("journal")
    point = shell.directory_for_mount()
    shell.prefix = ("unshare", "-m", "--", "sh", "-c", _WITH_JOURNAL, "sh", place)
    with (
        socket_at(os.path.join(place, "socket")) as listening,
        shell.background("mount", "-f", "--api-url", lab.url, point) as process,
    ):
        entry = fields(listening.recv(1 << 16))
        assert entry["MESSAGE"].startswith("mounted ")
        assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"], entry["LOGGER"]) == (
            "6", "artifactfs", "artifactfs.mount.session",
        )  # fmt: skip
        process.terminate()
        _, err = process.communicate(timeout=END_S)
        # Said once: not in the stream as well.
        assert (process.returncode, err) == (0, b"")


@needs_root
def test_a_log_to_syslog(shell: Shell, lab: Lab) -> None:
    """5.3: with `--log-to syslog` lines go to the system's log, from the background too."""
    place = shell.make_directory("syslog")
    point = shell.directory_for_mount()
    shell.prefix = ("unshare", "-m", "--", "sh", "-c", _WITH_SYSLOG, "sh", place)
    with socket_at(os.path.join(place, "log")) as listening:
        shell.cli("mount", "--log-to", "syslog", "--api-url", lab.url, point).ok()
        line = listening.recv(1 << 16).decode()
        assert re.match(r"<30>artifactfs\[\d+\]: artifactfs\.mount\.session: mounted ", line)
        (serving,) = shell.processes()
        os.kill(serving, signal.SIGTERM)
        wait_until(lambda: not shell.processes(), "the end", END_S)


@pytest.mark.parametrize(("to", "place"), [("journal", "the journal"), ("syslog", "the system's log")])
def test_a_log_that_is_not_there(to: str, place: str, shell: Shell, lab: Lab) -> None:
    """5.3: without a daemon for the system's log, one line says so and how to choose another."""
    if os.path.exists("/run/systemd/journal/socket" if to == "journal" else "/dev/log"):
        # A machine that has them shall not get lines of tests.
        shell.more_env["ARTIFACTFS_LOG_FILE"] = "/proc/none/log"
        to, place = "file", "/proc/none/log"
    done = shell.cli("mount", "--log-to", to, "--api-url", lab.url, shell.directory_for_mount())
    assert done.code == ExitCode.NOT_WRITABLE
    assert f"cannot write the log to {place}" in done.err
    assert "--log-to" in done.err
    assert done.err.count("\n") == 1
