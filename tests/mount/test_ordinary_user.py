"""A mount by an ordinary user, through the set-uid fusermount3."""

import os
import signal

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import AS_USER
from tests.harness import END_S, Lab, Shell, holding, mount_type, needs_root, run, wait_until


def test_an_ordinary_user_mounts(user_shell: Shell, lab: Lab) -> None:
    """2.1: a user's own mount shows the tree, as his."""
    mounted = user_shell.mount()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    owner = os.geteuid() if user_shell.owner is None else user_shell.owner
    assert mounted.sh('stat -c %u "$M/runs/$1"', sample.RUN).text == f"{owner}\n"


@needs_root
def test_no_other_user_gets_in(user_shell: Shell) -> None:
    """6.2: the mount is the mounting user's alone: another user is refused, root too."""
    mounted = user_shell.mount()
    for other in (("setpriv", "--reuid=12346", "--regid=12346", "--clear-groups", "--"), ()):
        done = run(*other, "ls", mounted.point)
        assert done.code != 0
        assert "Permission denied" in done.err


@needs_root
def test_no_other_user_ends_it(user_shell: Shell) -> None:
    """5.6: another user who would end it sees whose it is, and the mount stays."""
    mounted = user_shell.mount()
    user_shell.prefix = ("setpriv", "--reuid=12346", "--regid=12346", "--clear-groups", "--")
    done = user_shell.cli("umount", mounted.point)
    user_shell.prefix = AS_USER
    assert done.code == ExitCode.UMOUNT_FAILED
    said = "nobody has mounted it, and only nobody and root can end it"
    assert done.err == f"artifactfs: cannot unmount {mounted.point}: {said}\n"
    mounted.sh('ls "$M"').ok()


@pytest.mark.parametrize("way", ["umount", "fusermount3", "SIGTERM", "SIGINT"])
def test_a_users_mount_ends(way: str, user_shell: Shell) -> None:
    """5.6: a user's own mount ends by his own means, and leaves nothing."""
    mounted = user_shell.mount()
    mounted.sh('ls "$M"').ok()
    if way == "umount":
        mounted.umount()
    elif way == "fusermount3":
        mounted.sh('fusermount3 -u "$M"').ok()
    else:
        os.kill(mounted.pid, getattr(signal, way))
    wait_until(lambda: mount_type(mounted.point) is None and not user_shell.processes(), "the end", END_S)


def test_a_users_killed_mount_heals(user_shell: Shell, lab: Lab) -> None:
    """5.6: after a SIGKILL the user's next mount at that place works."""
    os.kill(user_shell.mount().pid, signal.SIGKILL)
    wait_until(lambda: not user_shell.processes(), "the process's end")

    assert user_shell.mount().tree(sample.RUN) == lab.truth(sample.RUN)


def test_a_users_mount_in_use_ends(user_shell: Shell) -> None:
    """5.6: `umount` is lazy where a user's mount is in use."""
    mounted = user_shell.mount()
    stand_in_it = "import os, sys; os.chdir(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()"
    with holding(mounted.python_command(stand_in_it)):
        mounted.umount()
        assert mount_type(mounted.point) is None


def test_a_directory_of_another_user(user_shell: Shell, lab: Lab) -> None:
    """5.8: a mount point that is not the user's is refused in one line."""
    done = user_shell.cli("mount", "--api-url", lab.url, "/mnt")
    assert done.code == ExitCode.MOUNT_REFUSED
    assert "is not yours to write" in done.err
    assert done.err.count("\n") == 1


@needs_root
def test_allow_other_needs_root_to_have_said_so(user_shell: Shell, lab: Lab) -> None:
    """6.2: `allow_other` without `user_allow_other` in /etc/fuse.conf is refused in one line, with nothing mounted."""
    point = user_shell.directory_for_mount()
    hidden = ("unshare", "-m", "--", "sh", "-c", 'mount --bind /dev/null /etc/fuse.conf && exec "$@"', "sh")
    user_shell.prefix = (*hidden, *user_shell.prefix)
    for option in (("--allow-other",), ("-o", "allow_other")):
        done = user_shell.cli("mount", *option, "--api-url", lab.url, point)
        assert done.code == ExitCode.ALLOW_OTHER_REFUSED
        assert "user_allow_other" in done.err
        assert done.err.count("\n") == 1
    assert not user_shell.processes()


def test_without_fusermount3(user_shell: Shell, lab: Lab) -> None:
    """5.8: without fusermount3 an ordinary user sees which package to install."""
    point = user_shell.directory_for_mount()
    setpriv = run("sh", "-c", "command -v setpriv").ok().text.strip()
    user_shell.prefix = tuple(setpriv if word == "setpriv" else word for word in user_shell.prefix)
    done = user_shell.cli("mount", "--api-url", lab.url, point, env={"PATH": user_shell.path("home")})
    assert done.code == ExitCode.NO_FUSERMOUNT
    assert "fusermount3" in done.err
    assert "fuse3" in done.err
    assert done.err.count("\n") == 1
    assert not user_shell.processes()


@needs_root
def test_a_fuse_device_that_is_not_for_users(user_shell: Shell, lab: Lab) -> None:
    """5.8: a /dev/fuse that the user may not open is named, with the command that fixes it."""
    point = user_shell.directory_for_mount()
    make = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 600 /dev/fuse c 10 229"
    user_shell.prefix = ("unshare", "-m", "--", "sh", "-c", f'{make} && exec "$@"', "sh", *user_shell.prefix)
    done = user_shell.cli("mount", "--api-url", lab.url, point)
    assert done.code == ExitCode.NO_FUSE_DEVICE
    assert "chmod 666 /dev/fuse" in done.err
    assert done.err.count("\n") == 1
