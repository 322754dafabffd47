"""`artifactfs status`, `refresh` and `info` as commands: what they print, what they exit with, and that none hangs."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import Mounting
from tests.harness import ARTIFACTFS, LIMIT_S, Lab, Mount, Shell, mount_type, needs_root, run, wait_until
from tests.status import info, status


def mine(shell: Shell, text: str) -> list[str]:
    """Return the lines about mounts of this test: others of this user's may be there."""
    return [line for line in text.splitlines() if line.startswith(shell.directory)]


def line_of(done_err: str) -> str:
    """Return the one line that a command says on stderr."""
    assert done_err.count("\n") == 1, done_err
    assert done_err.startswith("artifactfs: ")
    assert "Traceback" not in done_err
    return done_err


@contextlib.contextmanager
def stopped(mounted: Mount) -> Iterator[None]:
    """Stop the process of a mount, as a debugger or a full disk might."""
    pid = mounted.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_all_mounts_of_a_user(shell: Shell, mounting: Mounting) -> None:
    """Without a mount point each of this user's mounts has a line; as JSON, an object."""
    first, second = mounting(name="first"), mounting(name="second")
    lines = mine(shell, shell.cli("status").text)
    assert sorted(line.split()[0] for line in lines) == sorted([first.point, second.point])
    assert all(re.search(r" ok, since \S+Z \(\d+ s ago\); 127\.0\.0\.1:\d+$", line) for line in lines)
    told = {each["mountpoint"]: each for each in json.loads(shell.cli("status", "--json").text)}
    assert told[first.point]["health"]["state"] == "ok"
    assert told[second.point]["pid"] == second.pid


def test_what_one_mount_says(lab: Lab, standing: Mount) -> None:
    """With a mount point, or any path in it, all is reported, readable; --json is status.json itself."""
    standing.sh('cat "$M/runs/$1/config.json"', sample.FIRST_OF_MANY).ok()
    text = standing.shell.cli("status", standing.path("runs", sample.RUN)).ok().text
    for part in (
        standing.point,
        "the service answered the last request",
        "requests: listing",
        "cache",
        "rate limit",
    ):
        assert part in text
    told = json.loads(standing.shell.cli("status", "--json", standing.path("runs")).ok().text)
    assert told.keys() == status(standing).keys()
    assert told["mountpoint"] == standing.point


@pytest.mark.parametrize(
    ("command", "place"),
    [("status", ""), ("refresh", "missing"), ("info", "missing/below"), ("status", "/tmp"), ("refresh", "/proc/self"),
     ("info", "/")],
)  # fmt: skip
def test_what_is_no_mount(command: str, place: str, shell: Shell) -> None:
    """What is in no mount of artifactfs is refused in one line, with a code of its own."""
    path = shell.path(place) if place.startswith("missing") else place
    done = shell.cli(command, path)
    assert done.code == ExitCode.NOT_MOUNTED
    assert done.text == ""
    line_of(done.err)


@needs_root
def test_a_mount_of_something_else(shell: Shell) -> None:
    """A mount of another kind is none of ours, whatever it is called."""
    point = shell.directory_for_mount("other")
    run("mount", "-t", "tmpfs", "artifactfs", point).ok()
    try:
        done = shell.cli("status", point)
    finally:
        run("umount", point).ok()
    assert done.code == ExitCode.NOT_MOUNTED
    assert point in line_of(done.err)


@pytest.mark.parametrize("arguments", [("refresh",), ("info",), ("status", "--watch"), ("status", "--interval", "x")])
def test_what_makes_no_sense(arguments: tuple[str, ...], shell: Shell) -> None:
    """A command without what it needs says what that is."""
    done = shell.cli(*arguments)
    assert done.code == ExitCode.USAGE
    line_of(done.err)


def test_a_refresh_of_several(lab: Lab, standing: Mount) -> None:
    """One path that is none does not keep the others from being refreshed; each that is none has its line."""
    run_id = lab.new_run()
    standing.sh('ls "$M/runs/$1"', run_id).ok()
    lab.files(run_id, add={"new.txt": 1})
    done = standing.shell.cli("refresh", "/tmp", standing.path("runs", run_id), "/proc")
    assert done.code == ExitCode.NOT_MOUNTED
    assert [line.split()[1] for line in done.err.splitlines()] == ["/tmp", "/proc"]
    assert "new.txt" in standing.sh('ls "$M/runs/$1"', run_id).ok().text.split()


def test_no_mounts_at_all(shell: Shell, user_shell: Shell) -> None:
    """A user without mounts sees how to make one; for scripts it is an empty array, and no failure."""
    done = user_shell.cli("status").ok()
    assert done.text == ""
    assert "artifactfs mount" in line_of(done.err)
    assert json.loads(user_shell.cli("status", "--json").ok().text) == []


def test_a_mount_that_is_stopped(lab: Lab, shell: Shell, mounted: Mount) -> None:
    """A mount whose process is stopped does not hang the commands: it shows as not answering, beside others."""
    mounted.sh('ls "$M/runs"').ok()
    with stopped(mounted):
        done = shell.cli("status", mounted.point, limit_s=15.0)
        assert done.code == ExitCode.NO_ANSWER
        assert "does not answer within 5 s" in line_of(done.err)
        for command in (["warm"], ["download", "--", shell.path("copy")]):
            done = shell.cli(command[0], mounted.path("runs", sample.RUN), *command[1:], limit_s=15.0)
            assert done.code == ExitCode.NO_ANSWER
            assert "does not answer within 5 s" in line_of(done.err)
        # Mounts of other tests may be in the same state.
        done = shell.cli("status")
        assert done.code == ExitCode.NO_ANSWER
        (line,) = mine(shell, done.text)
        assert re.match(rf"{mounted.point} +no_answer: ", line)
        inside = run(
            "sh", "-c", f"cd / && exec {ARTIFACTFS} status --json {mounted.point}", env=shell.env, limit_s=15.0
        )
        assert inside.code == ExitCode.NO_ANSWER
        assert json.loads(inside.text)["health"]["state"] == "no_answer"
    assert shell.cli("status", mounted.point).code == 0
    wait_until(lambda: len(shell.processes()) == 1, "the end of who asked")


def test_a_mount_that_was_killed(lab: Lab, shell: Shell, mounted: Mount) -> None:
    """A mount whose process is gone is dead, and what to do is said; for a path in it, too."""
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: not shell.processes(), "the end of the process")
    for command in ("status", "info", "refresh"):
        for path in (mounted.point, mounted.path("runs", "1")):
            done = shell.cli(command, path)
            assert done.code == ExitCode.NO_ANSWER
            assert "is gone; `artifactfs umount`" in line_of(done.err)
    done = shell.cli("status")
    assert done.code == ExitCode.NO_ANSWER
    (line,) = mine(shell, done.text)
    assert re.fullmatch(rf"{mounted.point} +dead: its process is gone", line)
    told = {each["mountpoint"]: each for each in json.loads(shell.cli("status", "--json").text)}
    assert told[mounted.point]["health"]["state"] == "dead"
    for path in (mounted.point, mounted.path("runs", "1")):
        one = shell.cli("status", "--json", path)
        assert (one.code, json.loads(one.text)) == (ExitCode.NO_ANSWER, told[mounted.point])
    shell.cli("umount", mounted.point).ok()


def test_what_the_service_does_not_give(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """A path in a live mount is reported to be that, with a way out; the mount itself, by that path, says how it is."""
    mounted = mounting("--deadline", "1")
    mounted.log.announce(r"run \d+: |lookup of |does not answer", optional=True)
    troubles: list[tuple[dict[str, object], str]] = [
        ({"status": 404}, "there is no"),
        ({"status": 500}, "Input/output error"),
        ({"stall": True}, "Connection timed out"),
    ]
    for then, said in troubles:
        lab.fault("run", then)
        for command in (("info", "--json"), ("refresh",)):
            path = mounted.path("runs", lab.new_run())
            done = shell.cli(*command, path)
            if command == ("refresh",) and said == "there is no":
                assert (done.code, done.err) == (0, "")  # the directory above is refreshed
                continue
            assert (done.code, done.text) == (ExitCode.INCOMPLETE, "")
            line = line_of(done.err)
            way_out = f"{path}: {said}; `artifactfs status {mounted.point}`"
            assert way_out in line or f"{said} {path} in the mount" in line
        assert mounted.point in shell.cli("status", path).text


# --- watching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_watching_without_a_terminal(form: tuple[str, ...], lab: Lab, standing: Mount) -> None:
    """Without a terminal a line comes each time, until Ctrl-C (130), or its reader is gone."""
    arguments = ("status", standing.point, "--watch", "--interval", "0.1", *form)
    with standing.shell.background(*arguments) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(3)]
        for line in lines:
            if form:
                assert json.loads(line)["health"]["state"] == "ok"
            else:
                assert re.match(r"\S+Z  ok, \d+ requests, ", line)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
    done = run("sh", "-c", f"{ARTIFACTFS} {' '.join(arguments)} | head -n 2", env=standing.shell.env).ok()
    assert len(done.text.splitlines()) == 2
    assert done.err == ""


def test_watching_ends_with_the_mount(lab: Lab, shell: Shell, mounted: Mount) -> None:
    """When the mount ends, so does who watches it, with a line."""
    with shell.background("status", mounted.point, "--watch", "--interval", "0.1") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        mounted.umount()
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode in (ExitCode.NOT_MOUNTED, ExitCode.NO_ANSWER)
    line_of(err.decode())


def test_watching_on_a_terminal(lab: Lab, standing: Mount) -> None:
    """On a terminal each report replaces the one before; Ctrl-C ends it with 130, and the cursor was never hidden."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    process = subprocess.Popen(
        [ARTIFACTFS, "status", standing.point, "--watch", "--interval", "0.1"],
        stdin=terminal, stdout=terminal, stderr=terminal, env=standing.shell.env | {"TERM": "xterm-256color"},
        start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    said = b""
    try:
        end = time.monotonic() + LIMIT_S
        while said.count(b"mount point") < 3 and time.monotonic() < end:
            if select.select([controller], [], [], 0.5)[0]:
                said += os.read(controller, 1 << 16)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(controller, 1 << 16):
                said += piece
        assert process.wait(LIMIT_S) == 130
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert said.count(b"mount point") >= 3
    assert said.count(b"\x1b[2J") >= 3
    assert b"\x1b[?25l" not in said
    assert b"Traceback" not in said


# --- info -------------------------------------------------------------------------------------------------


def test_info_of_each_kind(lab: Lab, standing: Mount) -> None:
    """A run, a directory, a file, a project, /runs and the mount each tell what they are, by id and by name."""
    project = lab.new_project()
    run_id = lab.new_run({"sub/a.bin": 3 << 20}, project=project, name="a run", description="of mine")
    by_name = standing.sh('ls -d "$M"/names/*~"$1"/*~"$2"', project, run_id).ok().text.strip()
    paths = (standing.path("runs", run_id), by_name, standing.path("projects", project, run_id))
    for told in json.loads(standing.shell.cli("info", "--json", *paths).ok().text):
        assert (told["kind"], told["path"]) == ("run", f"runs/{run_id}")
        assert (told["run"]["id"], told["run"]["name"], told["run"]["description"]) == (run_id, "a run", "of mine")
        assert told["run"]["project"]["id"] == str(project)
        assert told["app_url"] is None  # no site: an API URL was given

    directory = info(standing, "runs", run_id, "sub")
    assert (directory["kind"], directory["run"]["name"]) == ("directory", "a run")
    standing.sh('ls "$M/runs/$1/sub"', run_id).ok()
    assert info(standing, "runs", run_id, "sub")["listing"]["entries"] == 1

    place = ("runs", run_id, "sub", "a.bin")
    file = info(standing, *place)
    assert (file["kind"], file["file"]["size_bytes"], file["file"]["cached_bytes"]) == ("file", 3 << 20, 0)
    standing.sh('cat "$1" | wc -c', standing.path(*place)).ok()
    wait_until(lambda: info(standing, *place)["file"]["cached_bytes"] == 3 << 20, "the file in the cache")
    inode = standing.sh('stat -c %i "$1"', standing.path(*place)).ok().text.strip()
    assert info(standing, *place)["file"]["version"] == inode

    own = [(".artifactfs", "status.json"), (".artifactfs",), (".artifactfs", "refresh")]
    several = [("projects", project), (), ("runs",), ("names",), ("projects",), place, *own]
    found = json.loads(standing.shell.cli("info", "--json", *(standing.path(*where) for where in several)).ok().text)
    kinds = [each["kind"] for each in found]
    assert kinds[:7] == ["project", "mount", "runs", "names", "projects", "file", "report"]
    assert found[0]["project"]["id"] == project
    assert [each["path"] for each in found[6:]] == ["/".join(where) for where in own]


def test_info_of_several(lab: Lab, standing: Mount) -> None:
    """One path that is none does not keep the others from being reported; each that is none has its line."""
    good = [standing.path("runs"), standing.path("runs", sample.RUN)]
    missing = standing.path("runs", 1)
    done = standing.shell.cli("info", missing, good[0], "/tmp", good[1])
    assert done.code == ExitCode.NOT_MOUNTED
    assert [line.split()[:2] for line in done.text.splitlines() if line.startswith("path")] == [
        ["path", "runs"], ["path", f"runs/{sample.RUN}"],
    ]  # fmt: skip
    first, second = done.err.splitlines()
    assert f"there is no {missing}" in first
    assert "/tmp is in no mount" in second
    done = standing.shell.cli("info", "--json", good[0], missing)
    assert done.code == ExitCode.INCOMPLETE
    assert [each["path"] for each in json.loads(done.text)] == ["runs"]
    line_of(done.err)


def test_info_is_readable(lab: Lab, standing: Mount) -> None:
    """As text: name, status, project, times, parameters, tags, metrics, and the service's own link."""
    text = standing.shell.cli("info", standing.path("runs", sample.RUN)).ok().text
    for part in (
        "ft-gpt2-smoke-1778812860-1778813692 (70158)", "completed", "ft-gpt2-smoke-1778812860 (2387)", "2 min",
        "_name_or_path = gpt2", "mlflow.user = dog", "eval_loss = 3.21467 (from 3.21467 to 3.94574, 4 values)",
        "https://mlflow.us1.staging.dog/#/runs/f635c73b70594ab6bb6e212cdf87d0d5",
    ):  # fmt: skip
        assert part in text


def test_info_needs_no_keys(lab: Lab, standing: Mount) -> None:
    """The mount has the keys: a caller that asks it needs none, nor any setting."""
    no_keys = {"DD_API_KEY": None, "DD_APP_KEY": None, "ARTIFACTFS_CONFIG": "/nonexistent"}
    for command in ("info", "status", "refresh"):
        standing.shell.cli(command, standing.path("runs", sample.RUN), env=no_keys).ok()


def test_info_of_what_went(lab: Lab, standing: Mount) -> None:
    """Of a run that was deleted since it was looked at, info says so, and what is known of it."""
    run_id = lab.new_run(name="gone")
    standing.sh('ls "$M/runs/$1"', run_id).ok()
    lab.change_run(run_id, delete=True)
    done = standing.shell.cli("info", standing.path("runs", run_id))
    assert done.code == ExitCode.INCOMPLETE
    assert "deleted" in line_of(done.err)
    assert "gone" in done.text
    assert mount_type(standing.point) is not None


@pytest.mark.parametrize("words", ["umount", "warm", "pin", "unpin", "refresh", "refresh --contents", "info"])
def test_a_path_that_is_empty(words: str, shell: Shell) -> None:
    """5.8: an empty argument, of a variable that is not set, is not the current directory."""
    done = shell.cli(*words.split(), "")
    assert (done.code, done.out, done.err.count("\n")) == (ExitCode.NOT_MOUNTED, b"", 1)
    assert ("empty" if words == "umount" else "'' is not a path") in done.err
