"""`artifactfs umount`: any path in a mount, several, all; and `unmount`, its other name."""

import os

import pytest

from artifactfs.errors import ExitCode
from tests.harness import Shell, mount_type, needs_root, run, wait_until


@pytest.mark.parametrize("word", ["umount", "unmount"])
def test_a_path_in_a_mount(word: str, shell: Shell) -> None:
    """5.6: a run, a file that is not there, a link into the mount: each stands for the mount that it is in."""
    for below in (".", "runs/70158", "runs/70158/lora_model/none", "link"):
        mounted = shell.mount()
        path = os.path.join(mounted.point, below)
        if below == "link":
            path = shell.path("link")
            os.symlink(mounted.path("runs"), path)
        shell.cli(word, path).ok()
        assert mount_type(mounted.point) is None


def test_from_within(shell: Shell) -> None:
    """5.6: `umount .` ends the mount that the shell is in."""
    mounted = shell.mount()
    mounted.sh('cd "$M/runs/70158" && exec "$1" umount .', shell.program[0]).ok()
    assert mount_type(mounted.point) is None


def test_several(shell: Shell) -> None:
    """5.6: each path is tried, and each failure reported; two paths of one mount are one."""
    one, two = shell.mount(name="one"), shell.mount(name="two")
    done = shell.cli("umount", one.path("runs"), shell.path("none"), one.point, "", two.point)
    assert done.code == ExitCode.NOT_MOUNTED
    assert [line.partition(": ")[0] for line in done.err.splitlines()] == ["artifactfs", "artifactfs"]
    assert f"nothing of artifactfs is mounted at {shell.path('none')}" in done.err
    assert "empty" in done.err
    assert (mount_type(one.point), mount_type(two.point)) == (None, None)


@needs_root
def test_all(shell: Shell) -> None:
    """5.6: bind mounts and all; once there are none, that is no failure. In a namespace without others' mounts."""
    script = """
    "$1" demo -q "$2/one" && "$1" demo -q "$2/two" && mkdir "$2/bound" && mount --bind "$2/one" "$2/bound" || exit 99
    "$1" umount --all && "$1" umount -a || exit
    ! grep fuse.artifactfs /proc/self/mountinfo
    """
    isolate = 'mount --make-rprivate / && umount -a -t fuse.artifactfs; exec sh -c "$@"'
    words = ("sh", "-c", isolate, "sh", script, "sh", shell.program[0], shell.directory)
    done = run("unshare", "--mount", "--", *words, env=shell.env)
    ended = [f"ended {shell.path(name)}" for name in ("bound", "two", "one")]
    assert (done.code, done.text.splitlines(), done.err) == (0, [*ended, "you have no mounts"], "")
    wait_until(lambda: not shell.processes(), "the end of both mounts and emulators")
