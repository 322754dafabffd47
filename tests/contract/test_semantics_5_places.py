"""5.6: a mount that is at other places than it was made at: bound, moved, hidden, or seen from a user namespace."""

import json
import os
from collections.abc import Iterator, Sequence

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import USER_ID
from tests.harness import END_S, FUSE_TYPE, Done, Lab, Shell, holding, mount_type, needs_root, run, wait_until

pytestmark = needs_root

# Runs a command as root of a user namespace, who outside is an ordinary user. $1: that user; the rest: the command.
_ROOT_OF_A_NAMESPACE = """
import ctypes, os, sys
user, command = int(sys.argv[1]), sys.argv[2:]
(apart, tell_apart), (mapped, tell_mapped) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE: its maps may be written
    assert libc.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWUSER
    os.write(tell_apart, b"x")
    os.read(mapped, 1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.execvp(command[0], command)
os.read(apart, 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write(f"0 {user} 1")
os.write(tell_mapped, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


class Node:
    """A mount namespace of the test's own, where a mount can be moved; and root, who types in it."""

    def __init__(self, shell: Shell, lab: Lab, pid: int) -> None:
        self.shell, self.lab, self.pid = shell, lab, pid
        self.point, self.other = shell.make_directory("mnt"), shell.make_directory("other")
        self.run_place = os.path.join(self.point, "runs", str(sample.RUN))

    def sh(self, script: str) -> Done:
        env = {**os.environ, "M": self.point, "O": self.other, "R": self.run_place, "LC_ALL": "C.UTF-8"}
        return run("nsenter", "-m", "-t", str(self.pid), "--", "sh", "-c", script, env=env)

    def mount(self) -> int:
        """Mount at the test's place; returns the process that serves it."""
        self.remount().ok()
        (pid,) = self.shell.processes()
        return pid

    def remount(self) -> Done:
        return self.shell.cli(
            "mount", "--api-url", self.lab.url, "--log-file", self.shell.path("mnt.log"), self.point
        )  # fmt: skip

    def type_at(self, point: str) -> str | None:
        return mount_type(point, self.pid)

    def check_end(self) -> None:
        """Check that nothing is left."""
        wait_until(lambda: not self.shell.processes(), "the process's end", END_S)
        assert [self.type_at(point) for point in (self.point, self.other)] == [None, None]


@pytest.fixture
def node(shell: Shell, lab: Lab) -> Iterator[Node]:
    command = ("unshare", "-m", "--propagation", "slave", "--", "sh", "-c", "echo ready; read word")
    with holding(command) as held:
        shell.prefix = ("nsenter", "-m", "-t", str(held.pid), "--")
        yield Node(shell, lab, held.pid)
        shell.prefix = ()


def line_of(done: Done, code: int) -> str:
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    return done.err.removeprefix("artifactfs: ").rstrip("\n")


def listed(node: Node) -> dict[str, dict[str, str]]:
    """Return the health of each mount that `status` lists, by its place."""
    told = json.loads(node.shell.cli("status", "--json").text)
    return {each["mountpoint"]: each["health"] for each in told if each["mountpoint"].startswith(node.shell.directory)}


def test_a_part_that_outlives_its_mount(node: Node) -> None:
    """5.6: a bind mount of a run keeps the process, which every command then knows, and which ends with it."""
    pid = node.mount()
    node.sh('mount --bind "$R" "$O" && umount "$M" && test -d "$O/lora_model"').ok()

    again = line_of(node.remount(), ExitCode.ALREADY_MOUNTED)
    assert f"process {pid} still serves the mount that was made at {node.point}" in again
    assert f"at {node.other} (its /runs/{sample.RUN}); end that first: `artifactfs umount {node.other}`" in again

    assert listed(node)[node.other]["state"] == "no_answer"
    for command in ("status", "info", "refresh"):
        for path in (node.other, os.path.join(node.other, "lora_model")):
            said = line_of(node.shell.cli(command, path), ExitCode.NO_ANSWER)
            assert said.startswith(f"{node.other} is a bind mount of a part of a mount that has no other mount point")
    assert node.shell.cli("warm", "--dry-run", node.other).ok().text

    node.shell.cli("umount", node.other).ok()
    node.check_end()
    node.mount()
    node.shell.cli("umount", node.point).ok()


@pytest.mark.parametrize("source", ["$M", "$R"], ids=["whole", "part"])
def test_umount_of_one_of_two_places(source: str, node: Node) -> None:
    """5.6: umount takes away the place that was named; another one lives on, and umount says so and how to end it."""
    pid = node.mount()
    node.sh(f'mount --bind "{source}" "$O"').ok()
    node.shell.cli("umount", node.other).ok()
    assert (node.type_at(node.other), node.type_at(node.point)) == (None, FUSE_TYPE)

    node.sh(f'mount --bind "{source}" "$O"').ok()
    said = line_of(node.shell.cli("umount", node.point), ExitCode.UMOUNT_FAILED)
    assert said.startswith(f"{node.point} is unmounted, but process {pid} still serves the same mount at ")
    assert said.endswith(f"end that, too: `artifactfs umount {node.other}`")
    assert (node.type_at(node.point), node.shell.processes()) == (None, [pid])
    node.sh('ls "$O"').ok()
    node.shell.cli("umount", node.other).ok()
    node.check_end()


def test_a_copy_in_another_mount_namespace(node: Node) -> None:
    """5.6: umount in a namespace that has a copy of the mount ends the copy, and not the mount where it was made."""
    pid = node.mount()
    prefix, node.shell.prefix = node.shell.prefix, (*node.shell.prefix, "unshare", "-m")
    node.shell.cli("umount", node.point).ok()
    node.shell.prefix = prefix
    assert node.shell.processes() == [pid]
    node.sh('ls "$R"').ok()
    node.shell.cli("umount", node.point).ok()
    node.check_end()


def test_a_mount_that_is_bound_over_itself(node: Node) -> None:
    """5.6: umount takes away the upper of the two, and says that the lower one lives on."""
    pid = node.mount()
    node.sh('mount --bind "$M" "$M"').ok()
    said = line_of(node.shell.cli("umount", node.point), ExitCode.UMOUNT_FAILED)
    assert said.endswith(f"end that, too: `artifactfs umount {node.point}`")
    assert node.shell.processes() == [pid]
    node.shell.cli("umount", node.point).ok()
    node.check_end()


def test_a_mount_that_was_moved(node: Node) -> None:
    """5.6: after `mount --move` it is shown, asked and ended where it is; a new one where it was is refused."""
    pid = node.mount()
    node.sh('mount --move "$M" "$O"').ok()

    assert listed(node)[node.other]["state"] == "ok"
    assert node.shell.cli("status", node.other).ok().text.splitlines()[0].split() == ["mount", "point", node.other]
    assert json.loads(node.shell.cli("status", "--json", node.other).ok().text)["mountpoint"] == node.other
    assert "is in no mount of artifactfs" in line_of(node.shell.cli("status", node.point), ExitCode.NOT_MOUNTED)
    again = line_of(node.remount(), ExitCode.ALREADY_MOUNTED)
    said = f"process {pid} still serves the mount that was made at {node.point}, now at {node.other}; end that first:"
    assert again == f"{said} `artifactfs umount {node.other}`"

    node.shell.cli("umount", node.other).ok()
    node.check_end()


@pytest.mark.parametrize("way", ["bound", "moved", "moved, and another is there"])
def test_a_term_leaves_no_place(way: str, node: Node) -> None:
    """5.6: SIGTERM leaves no dead place, and takes away nothing that others have mounted where the mount was."""
    pid = node.mount()
    node.sh('mount --bind "$R" "$O"' if way == "bound" else 'mount --move "$M" "$O"').ok()
    if "another" in way:
        node.sh('mount -t tmpfs another "$M" && touch "$M/mine"').ok()
    os.kill(pid, 15)
    wait_until(lambda: not node.shell.processes(), "the process's end", END_S)
    assert node.type_at(node.other) is None
    assert node.type_at(node.point) == ("tmpfs" if "another" in way else None)
    if "another" in way:
        node.sh('test -e "$M/mine" && umount "$M"').ok()


def test_a_hidden_mount(node: Node) -> None:
    """5.6: a mount under another mount is not denied: status and umount say what hides it."""
    node.mount()
    node.sh('mount -t tmpfs hiding "$M"').ok()
    assert node.point in listed(node)
    said = f"the mount at {node.point} is hidden by a tmpfs mount"
    assert line_of(node.shell.cli("status", node.point), ExitCode.NOT_MOUNTED).startswith(said)
    assert line_of(node.shell.cli("umount", node.point), ExitCode.NOT_MOUNTED).startswith(said)
    refused = line_of(node.remount(), ExitCode.ALREADY_MOUNTED)
    assert refused.endswith(f", hidden by a tmpfs mount; `umount {node.point}` that first")
    node.sh('umount "$M"').ok()
    node.shell.cli("umount", node.point).ok()
    node.check_end()


# --- user namespaces --------------------------------------------------------------------------------------


def namespace(more: Sequence[str] = ()) -> tuple[str, ...]:
    return ("python3", "-c", _ROOT_OF_A_NAMESPACE, str(USER_ID), *more)


def test_root_of_a_user_namespace(open_shell: Shell, user_shell: Shell) -> None:
    """5.6, 6.2: in a user namespace a user's own mounts are known for that, and root's outside are distinguished."""
    roots, own = open_shell.mount(), user_shell.mount()
    prefix, user_shell.prefix = user_shell.prefix, namespace()
    try:
        mounts = {each["mountpoint"]: each for each in json.loads(user_shell.cli("status", "--json").text)}
        assert roots.point not in mounts
        assert mounts[own.point]["health"]["state"] == "ok"
        user_shell.cli("status", own.point).ok()
        said = line_of(user_shell.cli("status", roots.point), ExitCode.NO_ANSWER)
        root = "root outside of this user namespace (root in here is not root there)"
        assert f"{roots.point} answers only {root}, who mounted it" in said
        said = line_of(user_shell.cli("umount", roots.point), ExitCode.UMOUNT_FAILED)
        assert said == f"cannot unmount {roots.point}: only {root}, who mounted it, can end it"
        # It may not unmount, but it may ask its own process to.
        user_shell.cli("umount", own.point).ok()
    finally:
        user_shell.prefix = prefix
    assert mount_type(own.point) is None
    assert mount_type(roots.point) == FUSE_TYPE


def test_mounting_as_root_of_a_user_namespace(user_shell: Shell, lab: Lab) -> None:
    """5.8: root of a user namespace alone cannot mount; the error says that it is not root of the machine."""
    point = user_shell.directory_for_mount()
    prefix, user_shell.prefix = user_shell.prefix, namespace()
    try:
        said = line_of(user_shell.cli("mount", "--api-url", lab.url, point), ExitCode.MOUNT_REFUSED)
        doctor = user_shell.cli("doctor", "--offline", "--api-url", lab.url).text
    finally:
        user_shell.prefix = prefix
    assert "root of a user namespace mounts in a mount namespace of its own" in said
    assert "you are root of a user namespace, not of the machine" in doctor
