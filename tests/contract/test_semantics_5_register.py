"""5.6: whom `umount` ends by force: the process that serves that very mount, and none that a file only names."""

import contextlib
import glob
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from artifactfs.errors import ExitCode
from tests.harness import END_S, Lab, Mount, Shell, holding, mount_type, needs_root, wait_until
from tests.processes import mount_rows, state_of

# As long as a mount may take to end, and then as long again after it was killed (docs/semantics.md 5.6), doubled.
FORCED_S = 12.0

_WAITING = "import sys; print('ready', flush=True); sys.stdin.readline()"
_LOCKING = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_EX)
fcntl.flock(file, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.readline()
"""


def entry_of(shell: Shell) -> str:
    """Return the one file of the register."""
    (file,) = glob.glob(shell.path("state/artifactfs/mounts/*.json"))
    return file


def device_of(point: str) -> str:
    (device,) = {fields[2].decode() for fields in mount_rows() if os.fsdecode(fields[4]) == point}
    return device


@contextlib.contextmanager
def wedged(mounted: Mount) -> Iterator[int]:
    """Have a mount whose process does not end by itself; yields that process."""
    mounted.log.announce("", optional=True)  # how a mount says what it says after that is not these tests' matter
    pid = mounted.pid
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", "the stop")
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def umount(mounted: Mount, code: int) -> str:
    """Run umount, which says at most one line; returns that."""
    done = mounted.shell.cli("umount", mounted.point, limit_s=FORCED_S)
    assert done.code == code, done.err
    assert done.err.count("\n") == (1 if code else 0), done.err
    assert "this is a bug" not in done.err
    assert mount_type(mounted.point) is None
    return done.err


def test_a_wedged_mount_is_ended(mounted: Mount) -> None:
    """5.6: a process that does not end by itself is ended by force, and nothing is left."""
    with wedged(mounted) as pid:
        umount(mounted, 0)
        wait_until(lambda: state_of(pid) in ("gone", "Z"), "the end", END_S)


def write(text: str) -> Callable[[str], object]:
    def change(file: str) -> None:
        with open(file, "w", encoding="ascii") as opened:
            opened.write(text)

    return change


def replace(make: Callable[[str], object]) -> Callable[[str], object]:
    def change(file: str) -> None:
        os.rename(file, file + ".before")
        make(file)

    return change


# What else is no entry: tests/unit/test_registry.py.
# What is done to the entry of a mount, and what umount then says of it; "" where there is none to wait for. Never a
# number that stands for many processes: should the code that is tested trust it, they would all be killed.
CHANGES: dict[str, tuple[Callable[[str], object], str]] = {
    "all may write it": (lambda file: os.chmod(file, 0o666), "can be written by others"),
    "not an object": (write("[]"), "has no valid entry"),
    "a pipe": (replace(os.mkfifo), "is not a regular file"),
    "gone": (os.unlink, ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_entry_that_says_something_else(name: str, mounted: Mount) -> None:
    """5.6: an entry that others could write, or that cannot be ours, ends no process; umount names it."""
    change, said = CHANGES[name]
    with wedged(mounted) as pid:
        change(entry_of(mounted.shell))
        line = umount(mounted, ExitCode.UMOUNT_FAILED if said else 0)
        assert said in line
        assert f"{mounted.point} is unmounted, but" in line or not said
        # Stopped, and not killed.
        assert state_of(pid) == "T"


@needs_root
def test_an_entry_of_another_user(mounted: Mount) -> None:
    """5.6: an entry that belongs to another user ends no process."""
    file = entry_of(mounted.shell)
    with wedged(mounted) as pid:
        os.chown(file, 12345, 12345)
        assert "belongs to another user" in umount(mounted, ExitCode.UMOUNT_FAILED)
        assert state_of(pid) == "T"


def test_an_entry_that_names_a_bystander(mounted: Mount) -> None:
    """5.6: the process that an entry names is not the one that holds its lock: neither is ended by force."""
    file, device = entry_of(mounted.shell), device_of(mounted.point)
    with holding([sys.executable, "-c", _WAITING]) as bystander, wedged(mounted) as pid:
        write(json.dumps({"pid": bystander.pid, "mountpoint": mounted.point, "device": device}))(file)
        assert f"{file} names another process" in umount(mounted, ExitCode.UMOUNT_FAILED)
        assert state_of(pid) == "T"
        bystander.go_on()


def test_a_bystander_that_holds_the_lock(mounted: Mount) -> None:
    """5.6: a process that an entry names and that holds its lock, and that serves no mount, is not ended."""
    file, device = entry_of(mounted.shell), device_of(mounted.point)
    mounted.log.announce("", optional=True)
    replace(write(""))(file)
    os.chmod(file, 0o600)
    with holding([sys.executable, "-c", _LOCKING, file]) as bystander:
        write(json.dumps({"pid": bystander.pid, "mountpoint": mounted.point, "device": device}))(file)
        line = umount(mounted, ExitCode.UMOUNT_FAILED)
        assert f"process {bystander.pid} does not end, and is not ended by force: it does not serve this mount" in line
        bystander.go_on()


def test_another_mount_of_the_same_user(shell: Shell) -> None:
    """5.6: an entry that names another live mount of the user's ends neither that nor another."""
    first, second = shell.mount(name="first"), shell.mount(name="second")
    for mounted in (first, second):
        mounted.log.announce("", optional=True)
    entries = {}
    for name in glob.glob(shell.path("state/artifactfs/mounts/*.json")):
        with open(name, encoding="ascii") as file:
            entries[json.load(file)["mountpoint"]] = name
    told = {"pid": second.pid, "mountpoint": first.point, "device": device_of(first.point)}
    with wedged(first):
        write(json.dumps(told))(entries[first.point])
        assert "names another process" in umount(first, ExitCode.UMOUNT_FAILED)
    assert mount_type(second.point) is not None
    second.sh('ls "$M"').ok()


@pytest.mark.parametrize("kind", ["link", "directory of all"])
def test_a_mount_without_a_register(kind: str, lab: Lab, shell: Shell) -> None:
    """5.6: a mount whose entry cannot be one of its own goes without, says so, and writes to nothing else."""
    mounted = shell.mount()
    file = entry_of(shell)
    mounted.umount()
    os.unlink(file)
    if kind == "link":
        write("precious")(shell.path("target"))
        os.symlink(shell.path("target"), file)
    else:
        os.chmod(os.path.dirname(file), 0o1777)
    mounted.log.announce("cannot register the mount: .*mounts")
    shell.mount()
    if kind == "link":
        with open(shell.path("target"), encoding="ascii") as opened:
            assert opened.read() == "precious"
    umount(mounted, 0 if kind == "directory of all" else ExitCode.UMOUNT_FAILED)
    wait_until(lambda: not shell.processes(), "the end of all processes", END_S)
