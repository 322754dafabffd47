"""5.6: a mount keeps nothing of the process that started it, and does not depend on what that made of signals."""

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from tests.harness import (
    END_S,
    FUSE_TYPE,
    LIMIT_S,
    Lab,
    Mount,
    Shell,
    mount_type,
    needs_root,
    run,
    wait_until,
)

HELPER = os.path.join(os.path.dirname(sys.executable), "mount.artifactfs")

# What stands in front of the command, and becomes it.
_BLOCKED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execvp(sys.argv[1], sys.argv[1:])
"""
_IGNORED = """
import os, signal, sys
for name in sys.argv[1].split(","):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
os.execvp(sys.argv[2], sys.argv[2:])
"""
_GIVEN = """
import os, sys
for number in map(int, sys.argv[2].split(",")):
    os.dup2(int(sys.argv[1]), number)
os.execvp(sys.argv[3], sys.argv[3:])
"""
WRAPPERS = {
    "blocked": (sys.executable, "-c", _BLOCKED),
    "all ignored": (
        sys.executable,
        "-c",
        _IGNORED,
        "SIGCHLD,SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGALRM,SIGPIPE",
    ),
}


def words(way: str, shell: Shell, lab: Lab, mounted: Mount) -> list[str]:
    """Return the command that mounts, in one of the ways to the background."""
    log = ("--log-file", mounted.log_file)
    ways: dict[str, tuple[str, ...]] = {
        "mount": (*shell.program, "mount", "--api-url", lab.url, *log, mounted.point),
        "helper": (HELPER, lab.url, mounted.point, "-o", f"log_file={mounted.log_file}"),
        "demo": (*shell.program, "demo", *log, mounted.point),
    }
    return [*shell.prefix, *ways[way]]


@contextlib.contextmanager
def given(command: list[str], shell: Shell, *numbers: int) -> Iterator[int]:
    """Run a command that has the end of a pipe by these numbers; yields the other end, and checks that it ended well.

    Only the command has an end to write then.
    """
    reader, writer = os.pipe()
    wrapper = [sys.executable, "-c", _GIVEN, str(writer), ",".join(map(str, numbers))]
    try:
        with subprocess.Popen(
            [*wrapper, *command], env=shell.env, pass_fds=(writer,), stdout=subprocess.DEVNULL
        ) as process:
            os.close(writer)
            yield reader
            assert process.wait(LIMIT_S) == 0
    finally:
        os.close(reader)


@pytest.mark.parametrize("way", ["mount", "helper", "demo"])
def test_a_pipe_ends_with_the_command(way: str, lab: Lab, shell: Shell) -> None:
    """5.6: a reader of a pipe that `mount` was given (bats: 3) sees its end when `mount` returns, by any number."""
    mounted = shell.expected_mount()
    with given(words(way, shell, lab, mounted), shell, 3, 4, 5, 6, 9, 63, 255, 900) as reader:
        assert os.read(reader, 1) == b""
    mounted.sh('ls "$M/runs"').ok()


def test_a_descriptor_above_the_limit_is_closed(lab: Lab, shell: Shell) -> None:
    """5.6: a descriptor from before the limit on them was lowered is closed as well."""
    mounted = shell.expected_mount()
    command = ["prlimit", "--nofile=256", "--", *words("mount", shell, lab, mounted)]
    with given(command, shell, 1000) as reader:
        assert os.read(reader, 1) == b""


def test_other_commands_leave_none_behind(shell: Shell, mounted: Mount) -> None:
    """5.6: nothing that `status` or `umount` starts stays with the caller's descriptors."""
    for command in (("status", mounted.point), ("umount", mounted.point)):
        with given([*shell.program, *command], shell, 3) as reader:
            assert os.read(reader, 1) == b""


@pytest.mark.parametrize("way", ["mount", "helper"])
def test_a_lock_goes_with_the_command(way: str, lab: Lab, shell: Shell) -> None:
    """5.6: `flock FILE artifactfs mount` holds the lock until `mount` returns, and no longer."""
    mounted = shell.expected_mount()
    lock = shell.path("lock")
    run("flock", lock, *words(way, shell, lab, mounted), env=shell.env).ok()
    with open(lock, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_mount_in_front_keeps_what_it_is_given(lab: Lab, shell: Shell) -> None:
    """5.6: in front it is a program like any: a lock that the shell gave it is held until it ends."""
    mounted = shell.expected_mount()
    lock = shell.path("lock")
    shell.prefix = ("sh", "-c", 'exec 9>"$0"; flock 9; exec "$@"', lock)
    command = ("mount", "-f", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point)
    with shell.background(*command) as process:
        wait_until(lambda: mount_type(mounted.point) == FUSE_TYPE, "the mount")
        with open(lock, "rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.send_signal(signal.SIGTERM)
        process.wait(END_S)


def test_what_else_is_left_behind(lab: Lab, shell: Shell) -> None:
    """5.6: neither working directory, nor terminal, nor session of the caller is kept."""
    mounted = shell.expected_mount()
    where = shell.make_directory("where")
    main, other = pty.openpty()
    try:
        command = words("mount", shell, lab, mounted)
        with subprocess.Popen(command, env=shell.env, cwd=where, stdin=other, start_new_session=True) as process:
            assert process.wait(LIMIT_S) == 0
    finally:
        os.close(main)
        os.close(other)
    pid = mounted.pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)} == {"/dev/null"}
    assert os.getsid(pid) == pid
    os.rmdir(where)


# --- signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_mount_ends_whatever_its_caller_made_of_signals(name: str, shell: Shell) -> None:
    """5.6: with signals blocked or ignored by its caller, a mount ends as ever."""
    shell.prefix = WRAPPERS[name]
    mounted = shell.expected_mount()
    for way in ("SIGTERM", "SIGINT", "umount"):
        shell.mount()
        mounted.sh('ls "$M/runs"').ok()
        if way == "umount":
            mounted.umount()
        else:
            os.kill(mounted.pid, getattr(signal, way))
        wait_until(lambda: mount_type(mounted.point) is None and not shell.processes(), "the end", END_S)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_refused_mount_has_its_exit_code(name: str, lab: Lab, shell: Shell) -> None:
    """5.6, 5.8: with SIGCHLD ignored by the caller, rejected keys have their exit code, in both ways to mount."""
    shell.prefix = WRAPPERS[name]
    mounted = shell.expected_mount()
    mounted.log.announce("rejected")
    wrong = {**shell.env, "DD_API_KEY": "wrong"}
    for way, code in (("mount", ExitCode.KEYS_REJECTED), ("helper", 32)):
        done = run(*words(way, shell, lab, mounted), env=wrong)
        assert (done.code, "rejected" in done.err) == (code, True)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_dead_mount_heals(name: str, lab: Lab, shell: Shell) -> None:
    """5.6: with SIGCHLD ignored by the caller a dead mount is healed, and a live one is refused."""
    first = shell.mount()
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not shell.processes(), "the process's end")
    shell.prefix = WRAPPERS[name]
    mounted = shell.mount()
    mounted.sh('ls "$M/runs"').ok()
    assert shell.cli("mount", "--api-url", lab.url, mounted.point).code == ExitCode.ALREADY_MOUNTED
    assert mounted.point in shell.cli("status", mounted.point).ok().text


@needs_root
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_users_mount_and_its_healing(name: str, user_shell: Shell) -> None:
    """5.6: the same for an ordinary user, whose mounts fusermount3 makes and takes away."""
    user_shell.prefix = (*WRAPPERS[name], *user_shell.prefix)
    os.kill(user_shell.mount().pid, signal.SIGKILL)
    wait_until(lambda: not user_shell.processes(), "the process's end")
    mounted = user_shell.mount()
    mounted.sh('ls "$M/runs"').ok()
    mounted.umount()


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_key_command(name: str, lab: Lab, shell: Shell) -> None:
    """5.6: whatever the caller made of signals, a key command starts with none blocked, and its failure is seen."""
    shell.prefix = WRAPPERS[name]
    mask = Path(shell.path("mask"))
    good = f"sh -c 'grep SigBlk /proc/self/status > {mask}; echo {lab.app_key}'"
    shell.mount("--app-key-command", good, env={"DD_APP_KEY": None})
    assert int(mask.read_text("ascii").split()[1], 16) == 0
    other = shell.make_directory("other")
    refused = shell.cli("mount", "--api-url", lab.url, "--app-key-command", "sh -c 'exit 7'", other)
    assert (refused.code, "exit code 7" in refused.err) == (ExitCode.KEYS_MISSING, True)


def test_a_hangup_that_is_ignored_stops_no_mount_that_waits(own_lab: Lab, shell: Shell) -> None:
    """5.6: behind nohup, `mount --wait` outlives its terminal, and mounts when the service is there."""
    mounted = shell.expected_mount()
    mounted.log.announce("", optional=True)  # what is said of a service that is not there is not this test's matter
    own_lab.stop()
    shell.prefix = (sys.executable, "-c", _IGNORED, "SIGHUP")
    keys = {"DD_API_KEY": own_lab.api_key, "DD_APP_KEY": own_lab.app_key}
    command = ("mount", "--wait", "--api-url", own_lab.url, "--log-file", mounted.log_file, mounted.point)
    with shell.background(*command, env=keys) as process:
        assert process.stderr is not None
        assert b"waiting" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGHUP)
        own_lab.start()
        assert process.wait(LIMIT_S) == 0
    mounted.umount()


# --- files that come by a descriptor ------------------------------------------------------------------


def test_keys_by_descriptors(own_lab: Lab, shell: Shell) -> None:
    """5.6, 6.1: a key and a config file that come by descriptors of the caller are read before these are closed.

    Later the key's file itself is read, not what has its number by then.
    """
    shell.lab = own_lab
    config, key = Path(shell.path("own.toml")), Path(shell.path("key"))
    config.write_text('fsname = "by-descriptor"\n', "ascii")
    key.write_text(own_lab.app_key, "ascii")
    for file in (config, key):
        file.chmod(0o600)
    shell.prefix = ("bash", "-c", f'exec 8<"{key}" 9<"{config}"; exec "$@"', "bash")
    pipe = ("bash", "-c", 'exec "$@" --api-key-file <(printf %s "$KEY")', "bash")
    mounted = shell.expected_mount()
    options = ("--app-key-file", "/dev/fd/8", "--config", "/dev/fd/9", "--log-file", mounted.log_file)
    command = [*shell.prefix, *pipe, *shell.program, "mount", "--api-url", own_lab.url, *options, mounted.point]
    env = {name: value for name, value in shell.env.items() if not name.startswith("DD_")}
    run(*command, env={**env, "KEY": own_lab.api_key}).ok()
    assert "by-descriptor" in run("findmnt", "-n", "-o", "SOURCE", mounted.point).ok().text
    mounted.log.announce("401", optional=True)
    key.write_text("another", "ascii")
    own_lab.rotate(app_key="another")
    mounted.sh('ls "$M/runs/$1"', own_lab.newest_runs(1)[0]).ok()


def test_a_log_by_a_descriptor(lab: Lab, shell: Shell) -> None:
    """5.6: a log that is a pipe of the caller's is refused in the background; one that is a file is that file."""
    point = shell.directory_for_mount()
    shell.prefix = ("bash", "-c", 'exec "$@" 7> >(cat)', "bash")
    done = shell.cli("mount", "--api-url", lab.url, "--log-file", "/dev/fd/7", point)
    assert done.code == ExitCode.USAGE
    assert "add -f" in done.err
    assert done.err.count("\n") == 1
    mounted = shell.expected_mount()
    shell.prefix = ("bash", "-c", f'exec "$@" 7>> "{mounted.log_file}"', "bash")
    shell.cli("mount", "--api-url", lab.url, "--log-file", "/dev/fd/7", point).ok()
    assert mounted.log.has("mounted")
