"""5.5: what others have mounted beside a mount, however it is called, ends no mount and stops no command."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import AS_USER
from tests.harness import END_S, FUSE_TYPE, Done, Lab, Shell, holding, mount_type, needs_root, run, wait_until

pytestmark = needs_root

# In names and in sources. The kernel escapes blanks, line feeds, "#" and backslashes, and nothing else.
ODD = (
    "cr\rx", "\r", "\r\r - fuse.artifactfs \r", "a b\tc\nd", "back\\slash\\040", "#", "-", " - fuse.artifactfs x ro",
    "ü", os.fsdecode(b"\xff\xfe"), "\x85\x1c\x0b\x0c\u2028", "\x1b[31m\x07", "0:1 ro", "n" * 255,
)  # fmt: skip

# A FUSE mount as any user can make it, whose server answers nothing. $1: the place, $2: options.
_SILENT = """
import os, socket, subprocess, sys
ours, theirs = socket.socketpair()
command = ["fusermount3", "-o", sys.argv[2], "--", sys.argv[1]]
env = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
subprocess.run(command, env=env, pass_fds=[theirs.fileno()], check=True)
connection = socket.recv_fds(ours, 1, 1)
print("ready", flush=True)
sys.stdin.readline()
"""


@dataclass
class Apart:
    """A mount namespace of the test's own, where mounts do not disturb others; and where root types."""

    shell: Shell
    pid: int

    @property
    def enter(self) -> tuple[str, ...]:
        return ("nsenter", "-m", "-t", str(self.pid), "--")

    def run(self, *command: str) -> Done:
        return run(*self.enter, *command, env=self.shell.env)

    def type_at(self, point: str) -> str | None:
        return mount_type(point, self.pid)

    def directory(self, name: str) -> str:
        path = self.shell.path(name)
        os.makedirs(path)
        return path


@pytest.fixture
def apart(shell: Shell) -> Iterator[Apart]:
    command = ("unshare", "-m", "--propagation", "slave", "--", "sh", "-c", "echo ready; read word")
    with holding(command) as held:
        shell.prefix = ("nsenter", "-m", "-t", str(held.pid), "--")
        yield Apart(shell, held.pid)
        shell.prefix = ()


def all_commands_work(apart: Apart, lab: Lab, point: str, other: str) -> None:
    """Check that the mount at `point` answers, and that every command about mounts does its work."""
    run_id = lab.new_run({"a.txt": 10, "b.bin": 20})
    files = os.path.join(point, "runs", str(run_id))
    assert apart.run("ls", files).ok().text == "a.txt\nb.bin\n"
    cli = apart.shell.cli
    assert point in cli("status", point).ok().text
    assert point in cli("status").text
    assert f'"id": {run_id}' in cli("info", "--json", files).ok().text
    assert cli("refresh", files).ok().err == ""
    assert cli("warm", files).ok().text == "2 files, 30 B\n"
    doctor = cli("doctor", "--offline", "--api-url", lab.url).ok().text
    assert "this is a bug" not in doctor
    cli("mount", "--api-url", lab.url, other).ok()
    assert cli("mount", "--api-url", lab.url, other).code == ExitCode.ALREADY_MOUNTED
    cli("umount", other).ok()
    assert apart.type_at(other) is None


def mounted_beside(apart: Apart, lab: Lab) -> str:
    point = apart.directory("mnt")
    apart.shell.cli("mount", "--api-url", lab.url, "--log-file", apart.shell.path("mnt.log"), point).ok()
    assert apart.type_at(point) == FUSE_TYPE
    return point


def check_end(apart: Apart, point: str) -> None:
    """Check that the mount still notices its own end: a lazy unmount, with a file open, shows in the table alone."""
    code = "import os, sys; os.chdir(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()"
    with holding([*apart.enter, sys.executable, "-c", code, point]):
        apart.run("umount", "-l", point).ok()
        wait_until(lambda: not apart.shell.processes(), "the end of the mount's process", END_S)
    log = apart.shell.path("mnt.log")
    with open(log, encoding="utf-8") as file:
        text = file.read()
    assert "no longer mounted: ending" in text
    assert "Traceback" not in text
    assert " ERROR " not in text


def test_mounts_of_root_with_odd_names(apart: Apart, lab: Lab) -> None:
    """5.5: tmpfs and bind mounts at such places and with such sources come and go, and change nothing."""
    point, other, places = mounted_beside(apart, lab), apart.directory("other"), apart.directory("places")
    script = (
        'cd "$1"; shift; for name in "$@"; do mkdir "./$name"; mount -t tmpfs "$name" "./$name" && '
        'mkdir "./$name/bound" && mount --bind "./$name" "./$name/bound" || exit 1; done'
    )
    apart.run("sh", "-c", script, "sh", places, *ODD).ok()
    # A source that is empty, and one on top of another at the same place.
    apart.run("mount", "-t", "tmpfs", "", os.path.join(places, "cr\rx")).ok()
    assert apart.type_at(os.path.join(places, "cr\rx")) == "tmpfs"
    all_commands_work(apart, lab, point, other)
    for name in ODD[:3]:
        apart.run("umount", "-R", os.path.join(places, name)).ok()
    assert apart.run("ls", point).ok().text == "by\nnames\nprojects\nruns\nsearch\n"
    check_end(apart, point)


def test_a_mount_of_ours_with_an_odd_name(apart: Apart, lab: Lab) -> None:
    """5.5, 5.6: a mount at such a place is itself mounted, shown, asked, refused twice, and ended."""
    for name in ("cr\rx", os.fsdecode(b"a\xff \x1c\\\n - ")):
        point = apart.directory(name)
        apart.shell.cli("mount", "--api-url", lab.url, "--log-file", apart.shell.path("mnt.log"), point).ok()
        assert apart.type_at(point) == FUSE_TYPE
        assert apart.run("ls", os.path.join(point, "runs", str(sample.RUN))).ok().text
        apart.shell.cli("status", point).ok()
        apart.shell.cli("info", os.path.join(point, "runs", str(sample.RUN))).ok()
        assert apart.shell.cli("mount", "--api-url", lab.url, point).code == ExitCode.ALREADY_MOUNTED
        apart.shell.cli("umount", point).ok()
        assert apart.type_at(point) is None


@contextlib.contextmanager
def silent_mounts(apart: Apart, python: str, directory: str, owner: int, options: Sequence[str]) -> Iterator[list[str]]:
    """Have an ordinary user make FUSE mounts that no process serves; yields their places."""
    with contextlib.ExitStack() as stack:
        points = []
        for number, each in enumerate(options):
            point = os.path.join(directory, f"x\r{number} - fuse.artifactfs y")
            os.mkdir(point)
            os.chown(point, owner, owner)
            stack.callback(apart.run, "umount", "-l", point)
            stack.enter_context(holding([*apart.enter, *AS_USER, python, "-c", _SILENT, point, each]))
            assert (apart.type_at(point) or "").startswith("fuse")
            points.append(point)
        yield points


def test_mounts_of_an_ordinary_user(apart: Apart, user_shell: Shell, lab: Lab) -> None:
    """5.5: an ordinary user's FUSE mounts, which pass for ours and answer nothing, stop no command of others."""
    point, other = mounted_beside(apart, lab), apart.directory("other")
    assert user_shell.owner is not None
    options = (
        f"subtype=artifactfs,fsname=x\r40 1 0:1 / {point} ro - fuse.artifactfs x ro",
        "subtype=artifactfs,fsname= - fuse.artifactfs artifactfs ro",
        "subtype=artifactfs\ry,fsname=artifactfs",
    )
    directory = user_shell.make_directory("theirs")
    with silent_mounts(apart, user_shell.python, directory, user_shell.owner, options) as points:
        all_commands_work(apart, lab, point, other)
        for theirs in points[:2]:
            done = apart.shell.cli("status", theirs)
            assert (done.code, done.err.count("\n")) == (ExitCode.NO_ANSWER, 1), done.err
            assert "this is a bug" not in done.err
        check_end(apart, point)


def test_a_look_without_a_descriptor(apart: Apart, lab: Lab) -> None:
    """5.5: a process that can open nothing more still looks at the mount table, serves on, and notices its end."""
    point, places = mounted_beside(apart, lab), apart.directory("places")
    assert apart.run("ls", os.path.join(point, "runs", str(sample.RUN))).ok().text
    (pid,) = apart.shell.processes()
    run("prlimit", "--pid", str(pid), "--nofile=3:").ok()
    for _ in range(5):
        apart.run("mount", "-t", "tmpfs", "x", places).ok()
        apart.run("umount", places).ok()
    assert apart.run("ls", point).ok().text == "by\nnames\nprojects\nruns\nsearch\n"
    check_end(apart, point)
