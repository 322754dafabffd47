"""3.3: what SIGHUP is to a mount in front: the end where its terminal is gone, a refresh where there is none."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.harness import END_S, FUSE_TYPE, Lab, Mount, Shell, mount_type, wait_until

# Runs a command on a terminal of its own, whose other end it reads; when it is killed, that terminal is gone.
_TERMINAL = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
try:
    while os.read(terminal, 65536):
        continue
except OSError:
    pass  # how Linux says that no process has the terminal open
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
ON_A_TERMINAL = (sys.executable, "-I", "-c", _TERMINAL)


@dataclass
class InFront:
    """A mount in front, the process that serves it, and the one that was started for it."""

    mounted: Mount
    started: "subprocess.Popen[bytes]"
    serving: int


@contextlib.contextmanager
def in_front(shell: Shell, lab: Lab, *prefix: str) -> Iterator[InFront]:
    mounted = shell.expected_mount()
    shell.prefix = prefix
    options = ("--api-url", lab.url, "--log-file", mounted.log_file)
    with shell.background("mount", "-f", *options, mounted.point) as started:
        shell.prefix = ()
        wait_until(lambda: mount_type(mounted.point) == FUSE_TYPE and mounted.log.has("mounted"), "the mount")
        serving = started.pid
        if prefix:
            with open(f"/proc/{started.pid}/task/{started.pid}/children", encoding="ascii") as file:
                (serving,) = map(int, file.read().split())
        yield InFront(mounted, started, serving)


def names(mounted: Mount, run_id: int) -> list[str]:
    return mounted.sh('ls "$M/runs/$1"', run_id).ok().text.split()


def check_refresh(lab: Lab, front: InFront) -> None:
    """Check that SIGHUP makes the next look fresh, and that the mount lives on."""
    run_id = lab.new_run()
    assert names(front.mounted, run_id) == ["a.txt", "sub"]
    lab.files(run_id, add={"new.txt": 1})
    os.kill(front.serving, signal.SIGHUP)
    wait_until(lambda: front.mounted.log.has("SIGHUP: the next look"), "the signal's line in the log")
    assert names(front.mounted, run_id) == ["a.txt", "new.txt", "sub"]
    assert front.started.poll() is None


def test_without_a_terminal_a_hangup_refreshes(lab: Lab, shell: Shell) -> None:
    """3.3: a mount in front without a terminal, as under systemd or in a container, takes SIGHUP for a refresh."""
    with in_front(shell, lab) as front:
        check_refresh(lab, front)
        os.kill(front.serving, signal.SIGTERM)
        assert front.started.wait(END_S) == 0


def test_on_a_terminal_a_hangup_ends_the_mount(lab: Lab, shell: Shell) -> None:
    """3.3: in front of a terminal SIGHUP ends the mount, with exit code 0."""
    with in_front(shell, lab, *ON_A_TERMINAL) as front:
        os.kill(front.serving, signal.SIGHUP)
        assert front.started.wait(END_S) == 0
        wait_until(lambda: mount_type(front.mounted.point) is None, "the unmount", END_S)
    assert front.mounted.log.has("SIGHUP: ending")


def test_a_terminal_that_is_closed_ends_the_mount(lab: Lab, shell: Shell) -> None:
    """3.3, 5.6: who closes the window that a mount is in front of leaves no mount and no process."""
    with in_front(shell, lab, *ON_A_TERMINAL) as front:
        front.started.kill()
        wait_until(lambda: mount_type(front.mounted.point) is None, "the unmount", END_S)
        wait_until(lambda: not shell.processes(), "the end", END_S)


def test_nohup_keeps_a_mount_from_its_terminals_end(lab: Lab, shell: Shell) -> None:
    """3.3: who has it ignore the hangup keeps the mount; it refreshes."""
    # With its output elsewhere: else nohup makes a file where the tests are started.
    nohup = ("sh", "-c", 'exec nohup "$@" >/dev/null', "sh")
    with in_front(shell, lab, *ON_A_TERMINAL, *nohup) as front:
        check_refresh(lab, front)
        front.started.kill()
        wait_until(lambda: sum(map(hangups, front.mounted.log.lines())) == 2, "the terminal's own signal")
        assert mount_type(front.mounted.point) == FUSE_TYPE
        os.kill(front.serving, signal.SIGTERM)
        wait_until(lambda: not shell.processes(), "the end", END_S)


def hangups(line: str) -> bool:
    return re.search("SIGHUP: the next look", line) is not None


@pytest.mark.parametrize("arguments", [(), ("-o", "wait")], ids=["in the background", "and waited for"])
def test_a_mount_from_a_terminal_outlives_it(arguments: tuple[str, ...], lab: Lab, shell: Shell) -> None:
    """3.3: a mount in the background has no terminal any more: closing the window leaves it alone."""
    mounted = shell.expected_mount()
    shell.prefix = ON_A_TERMINAL
    options = ("--api-url", lab.url, "--log-file", mounted.log_file, *arguments)
    shell.cli("mount", *options, mounted.point).ok()
    shell.prefix = ()
    assert mount_type(mounted.point) == FUSE_TYPE
    assert "runs\n" in mounted.sh('ls "$M"').ok().text
    assert not mounted.log.has("SIGHUP")
