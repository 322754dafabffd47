"""`artifactfs doctor` of root, of ordinary users, and on machines that lack something."""

import pytest

from artifactfs.doctor import host_checks
from artifactfs.errors import ExitCode
from artifactfs.mount.host import Machine
from tests.doctoring import ask
from tests.harness import Lab, Shell, needs_root

# In a container a missing device has another fix.
CONTAINED = host_checks.is_container(Machine())
NOT_IT = ["is not the FUSE device", "--device /dev/fuse" if CONTAINED else "mknod -m 666 /dev/fuse c 10 229"]
DEV = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"


def test_an_ordinary_user(user_shell: Shell) -> None:
    """A user for whom all is well sees that, and mounts."""
    told = ask(user_shell, user_shell.directory_for_mount(), code=0)
    told.says("fusermount3", "good", "set-uid root")
    told.says("privilege", "good", "fusermount3")
    user_shell.mount()


@needs_root
@pytest.mark.parametrize(
    ("make", "check", "said"),
    [
        (DEV, "fuse device", ["missing", "--device /dev/fuse" if CONTAINED else "modprobe fuse"]),
        (f"{DEV} && touch /dev/fuse && chmod 666 /dev/fuse", "fuse device", NOT_IT),
        (f"{DEV} && mkdir /dev/fuse", "fuse device", NOT_IT),
        (f"{DEV} && mknod -m 666 /dev/fuse c 1 3", "fuse device", NOT_IT),
        (f"{DEV} && mknod -m 600 /dev/fuse c 10 229", "fuse device",
         ["may not be opened", "--device /dev/fuse" if CONTAINED else "chmod 666 /dev/fuse"]),
        ("mount --bind /dev/null /etc/fuse.conf", "allow_other", ["user_allow_other", "/etc/fuse.conf"]),
        ('mount --bind "$(command -v env)" "$(command -v fusermount3)"', "fusermount3", ["not set-uid"]),
    ],
)  # fmt: skip
def test_a_machine_that_lacks_something(make: str, check: str, said: list[str], user_shell: Shell) -> None:
    """What a mount of this user would fail with is found before, with the command that fixes it."""
    user_shell.prefix = ("unshare", "-m", "--", "sh", "-c", f'{make} && exec "$@"', "sh", *user_shell.prefix)
    told = ask(user_shell, "--allow-other", "--offline", code=ExitCode.UNHEALTHY)
    told.says(check, "fault", *said)


@needs_root
def test_a_mount_where_the_device_is_none(user_shell: Shell, lab: Lab) -> None:
    """5.8: a mount fails with what the doctor says of a /dev/fuse that is a file: `docker -v` makes such."""
    point = user_shell.directory_for_mount()
    make = f"{DEV} && touch /dev/fuse && chmod 666 /dev/fuse"
    user_shell.prefix = ("unshare", "-m", "--", "sh", "-c", f'{make} && exec "$@"', "sh", *user_shell.prefix)
    done = user_shell.cli("mount", "--api-url", lab.url, point)
    assert done.code == ExitCode.NO_FUSE_DEVICE
    assert "is not the FUSE device" in done.err
    assert done.err.count("\n") == 1


@needs_root
def test_a_process_that_may_gain_nothing(user_shell: Shell) -> None:
    user_shell.prefix = tuple(word for word in user_shell.prefix if word != "--")
    user_shell.prefix = (*user_shell.prefix, "--no-new-privs", "--")
    ask(user_shell, "--offline", code=ExitCode.UNHEALTHY).says("privilege", "fault", "no_new_privs")


@needs_root
def test_root_without_the_capability(shell: Shell) -> None:
    """As in a container that was started without --cap-add SYS_ADMIN."""
    shell.prefix = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    ask(shell, "--offline", code=ExitCode.UNHEALTHY).says("privilege", "fault", "CAP_SYS_ADMIN", "--cap-add")
