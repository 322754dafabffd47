"""artifactfs.mount.checks: where nothing may be mounted, whatever is there."""

import contextlib
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import checks
from artifactfs.mount.host import Machine

SYSTEMS = (
    "/bin", "/bin/x", "/boot", "/boot/efi", "/boot/a/b/c", "/dev", "/dev/shm", "/etc", "/etc/ssl/x", "/lib", "/lib64",
    "/lib/modules", "/nix/store", "/proc/1", "/run", "/run/lock", "/run/media", "/run/systemd/x", "/run/user",
    "/run/user/1000", "/sbin", "/sys/fs/cgroup", "/usr", "/usr/bin", "/usr/local/bin", "/usr/share/x", "/var/run/x",
    "/var/lib/dpkg", "/var/lib/dpkg/info", "/var/log/apt", "/var/spool/x", "/lost+found", "//usr//bin/",
    "/mnt/../usr/bin", "/./boot/",
)  # fmt: skip
OF_ALL = ("/", "//", "/home", "/root", "/tmp", "/var", "/var/cache", "/var/lib", "/var/log", "/var/tmp", "/tmp/..")
USERS = (
    "/mnt", "/mnt/lab", "/media/x", "/srv", "/opt/x", "/home/me", "/home/me/usr/bin", "/root/lab", "/data", "/tmp/x",
    "/var/tmp/x", "/var/lib/kubelet/pods/x/mnt", "/var/lib/artifactfs/mnt", "/run/user/1000/lab", "/run/media/me/lab",
    "/run/artifactfs", "/run/artifactfs/lab", "/library/x", "/usrs", "/boots/x", "/etcetera", "/model-lab/mnt",
)  # fmt: skip


def refusal(path: str) -> str:
    with pytest.raises(UserError, match="no place for a mount") as caught:
        checks.place(path)
    assert caught.value.code is ExitCode.MOUNT_REFUSED
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", SYSTEMS)
def test_the_directories_of_the_system(path: str) -> None:
    """None of them, nor anything below, however it is written; the line says which it is."""
    assert "is the system's; give an empty directory of your own" in refusal(path)


@pytest.mark.parametrize("path", OF_ALL)
def test_directories_that_every_program_needs(path: str) -> None:
    refusal(path)


@pytest.mark.parametrize("path", USERS)
def test_where_users_mount(path: str) -> None:
    """A name that only begins as a directory of the system's is none; nor are those below /run that are users'."""
    assert checks.place(path) == path


def test_links_to_the_system(tmp_path: Path) -> None:
    """A link is what it points to: at the end of a path, in it, and through another link."""
    (tmp_path / "link").symlink_to("/usr/lib")
    (tmp_path / "again").symlink_to("link")
    (tmp_path / "mine").mkdir()
    (tmp_path / "good").symlink_to("mine")
    for path in ("link", "link/x", "again", "again/x/y"):
        assert "/usr is the system's" in refusal(str(tmp_path / path))
    assert checks.place(str(tmp_path / "good")) == str(tmp_path / "mine")


def test_a_directory_of_the_system_that_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /usr itself lies elsewhere, what it points to is the system's, too."""
    (tmp_path / "usr").mkdir()
    (tmp_path / "link").symlink_to("usr")
    monkeypatch.setattr(checks, "_SYSTEM", (str(tmp_path / "link"),))
    assert "the system's" in refusal(str(tmp_path / "usr" / "bin"))
    assert checks.place(str(tmp_path / "usr2")) == str(tmp_path / "usr2")


@pytest.mark.parametrize(
    ("text", "allows"),
    [
        (None, False),
        (b"user_allow_other\n", True),
        (b"mount_max = 3\n  user_allow_other\t # yes\r\n", True),
        (b"user_allow_other", False),  # fusermount3 ignores a last line without a line feed
        (b"mount_max = 5\nuser_allow_other", False),
        (b"#user_allow_other\n", False),
        (b"# no\ruser_allow_other\n", False),
        (b"x\x0buser_allow_other\n", False),
        (b"\xff\nuser_allow_other\n", True),
    ],
)
def test_lines_of_fuse_conf(text: bytes | None, allows: bool, tmp_path: Path) -> None:
    """As fusermount3 reads it: a line ends with a line feed and nothing else, blanks around it do not count."""
    if text is not None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "fuse.conf").write_bytes(text)
    with contextlib.nullcontext() if allows else pytest.raises(UserError, match="user_allow_other"):
        checks.user_allow_other(Machine(str(tmp_path)))
