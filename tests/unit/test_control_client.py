"""artifactfs.mount.control_client and table: what a child's word for a mount comes to; whose mounts there are."""

import errno
import io
import json
from typing import Any

import click
import pytest

from artifactfs.cli import completion
from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import control_client, mount_table

TABLE = rb"""22 1 8:1 / / rw,relatime - ext4 /dev/root rw
40 22 0:50 / /home/a\040b ro,nosuid - fuse.artifactfs artifactfs ro,user_id=1000,group_id=1000,allow_other
41 22 0:51 / /mnt ro - fuse.artifactfs artifactfs ro,user_id=0,group_id=0
42 22 0:52 / /ssh rw - fuse.sshfs me@there: rw,user_id=1000,group_id=1000
43 22 0:51 / /mnt ro - fuse.artifactfs artifactfs ro,user_id=0,group_id=0
44 22 0:53 / /odd ro - fuse.artifactfs artifactfs
45 22 0:54 / /closed ro - fuse.artifactfs artifactfs ro,user_id=123456,group_id=0
46 22 0:55 / /open ro - fuse.artifactfs artifactfs ro,user_id=123456,group_id=0,allow_other
47 22 0:56 / /under ro - fuse.artifactfs artifactfs ro,user_id=123456,group_id=0
48 47 0:57 / /under rw - tmpfs none rw
"""


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = open

    def opened(path: str, *args: Any, **keywords: Any) -> Any:
        return io.BytesIO(TABLE) if path == "/proc/self/mountinfo" else real(path, *args, **keywords)

    monkeypatch.setattr("builtins.open", opened)


def test_whose_mounts_there_are(mounts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place once, of the user who made it; other kinds, and those without a known user, are left out."""
    for user_id, points in ((1000, ["/home/a b"]), (0, ["/mnt"]), (7, [])):
        monkeypatch.setattr("os.geteuid", lambda user_id=user_id: user_id)
        assert [mount.point for mount in control_client.my_mounts()] == points
    assert [mount.user_id for mount in mount_table.mounts()] == [None, 1000, 0, 1000, 0, None, *[123456] * 3, None]


def test_whose_mounts_a_key_press_offers(mounts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mounts that this user could end: the user's own, or all for root."""

    def offered() -> set[str]:
        command = click.Command("umount", params=[click.Argument(["mountpoint"], type=completion.LIVE_MOUNT)])
        context, param = click.Context(command), command.params[0]
        return {item.value for item in completion.LIVE_MOUNT.shell_complete(context, param, "")}

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert offered() == {"/home/a b"}
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert {"/home/a b", "/mnt"} <= offered()


def told(**said: Any) -> bytes:
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("path", "said", "code", "part"),
    [
        ("/x", told(outside=True), ExitCode.NOT_MOUNTED, "in no mount of artifactfs"),
        ("/x", told(hidden=True), ExitCode.NOT_MOUNTED, "hidden"),
        ("/x", told(part="/a b"), ExitCode.NO_ANSWER, "/a b is a bind mount of a part of a mount"),
        ("/mnt", told(outside=True), ExitCode.NOT_MOUNTED, "the mount at /mnt is hidden by another mount above it"),
        ("/under", told(outside=True), ExitCode.NOT_MOUNTED, "the mount at /under is hidden by a tmpfs mount"),
        ("/mnt/x", told(errno=errno.ENOENT, path="/mnt/x"), ExitCode.NOT_MOUNTED, "there is no /mnt/x"),
        ("/mnt", told(errno=errno.ENOTCONN, path="/mnt"), ExitCode.NO_ANSWER, "artifactfs umount"),
        ("/ssh/x", told(errno=errno.ENOTCONN, path="/ssh/x"), ExitCode.NOT_MOUNTED, "/ssh/x"),
        ("/mnt", told(errno=errno.EACCES, path="/mnt"), ExitCode.NO_ANSWER, "only to root, who mounted it"),
        ("/mnt", told(errno=errno.EACCES, path="/mnt/.artifactfs/metrics"), ExitCode.NO_ANSWER, "/mnt says that only"),
        (
            "/odd",
            told(errno=errno.EACCES, path="/odd"),
            ExitCode.NO_ANSWER,
            "the user who mounted it: `sudo -u USER",
        ),
        ("/mnt", told(errno=errno.ENOENT, path="/mnt/.artifactfs/metrics"), ExitCode.NO_ANSWER, "mount again"),
        ("/mnt", told(errno=errno.EIO, path="/mnt/.artifactfs/metrics"), ExitCode.NO_ANSWER, "see its log"),
        ("/mnt", told(errno=errno.ELOOP, path="/mnt/x"), ExitCode.NOT_MOUNTED, "symbolic links"),
        ("/mnt", b"", ExitCode.NO_ANSWER, "try again"),
        ("/mnt/x", told(errno=errno.ENOENT, path="/mnt/x", inside="/mnt"), ExitCode.INCOMPLETE, "no /mnt/x in the mo"),
        ("/mnt/x", told(errno=errno.EIO, path="/mnt/x", inside="/mnt"), ExitCode.INCOMPLETE, "artifactfs status /mnt"),
        ("/mnt/x", told(errno=errno.EACCES, path="/mnt/x", inside="/mnt"), ExitCode.INCOMPLETE, "Permission denied; "),
        ("/root/x", told(errno=errno.EACCES, path="/root/x"), ExitCode.NOT_MOUNTED, "/root/x: Permission denied"),
    ],
)
def test_what_is_no_answer(path: str, said: bytes, code: ExitCode, part: str, mounts: None) -> None:
    """Each way not to answer has a line and a code; only a dead mount of ours is reported to be dead."""
    with pytest.raises(UserError) as caught:
        control_client._answer(path, said)
    assert caught.value.code is code
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("point", "euid", "said"),
    [
        ("/closed", 0, "only to #123456, who mounted it, and not to root either: `sudo -u '#123456' artifactfs …`"),
        ("/closed", 7, "only to #123456, who mounted it: `sudo -u '#123456' artifactfs …`"),
        ("/open", 7, "only to #123456, who mounted it, and to root: `sudo -u '#123456' artifactfs …`"),
        ("/mnt", 7, "only to root, who mounted it: `sudo artifactfs …`"),
    ],
)
def test_whose_mount_it_is(point: str, euid: int, said: str, mounts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not let in hears who is, and how to be that: root gets in with allow_other alone."""
    monkeypatch.setattr("os.geteuid", lambda: euid)
    with pytest.raises(UserError) as caught:
        control_client._answer(point, told(errno=errno.EACCES, path=f"{point}/.artifactfs/metrics"))
    assert caught.value.code is ExitCode.NO_ANSWER
    assert str(caught.value) == f"{point} says that {said}"


def test_an_answer() -> None:
    """What a mount says comes with where it is mounted."""
    assert control_client._answer("/mnt/x", told(point="/mnt", answer="{}")) == control_client.Answer("/mnt", "{}")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path(path: str) -> None:
    """An empty argument, or one that no file can have, is refused before anything is asked."""
    with pytest.raises(UserError, match="not a path"):
        control_client.ask("info", path, within_s=1.0)


def test_a_path_that_is_in_no_mount(tmp_path: object) -> None:
    """The child finds out by the kernel's own account."""
    with pytest.raises(UserError, match="in no mount of artifactfs"):
        control_client.ask("status.json", str(tmp_path), within_s=30.0)
