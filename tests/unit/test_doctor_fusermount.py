"""artifactfs.doctor.fusermount: what fusermount3 refuses, and what `mount` looks at for its sake."""

import os
import pwd
from pathlib import Path

import pytest

from artifactfs.doctor import fusermount
from artifactfs.doctor.findings import Mark
from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import checks
from tests.unit.test_doctor_host_checks import check, made

RAMFS, PROC = 0x858458F6, 0x9FA0


@pytest.mark.parametrize("mtab", ["tmpfs / tmpfs rw 0 0\n"])
def test_nothing_is_said_where_all_is_well(mtab: str, tmp_path: Path) -> None:
    assert list(fusermount.user(made(tmp_path, {"etc/mtab": mtab}))) == []


def test_a_user_without_a_name(tmp_path: Path) -> None:
    """fusermount3 "could not determine username"; root does without it."""
    nameless = made(tmp_path, {"etc/mtab": "x"}, is_named=False)
    (found,) = fusermount.user(nameless)
    check(found, Mark.FAULT, "user 1000 has none", "useradd -M -u 1000")
    assert list(fusermount.user(made(tmp_path, is_named=False, euid=0))) == []


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_no_mtab(text: str | None, tmp_path: Path) -> None:
    """`fusermount3 -u` goes by it."""
    (found,) = fusermount.user(made(tmp_path, {} if text is None else {"etc/mtab": text}))
    check(found, Mark.WARNING, "/etc/mtab is missing", "sudo ln -sf /proc/self/mounts /etc/mtab")


@pytest.mark.parametrize(
    ("kind", "version", "refused"),
    [
        (PROC, "3.18.2", True),
        (0x01021997, "3.14.0", True),
        (RAMFS, "3.14.0", True),
        (RAMFS, "3.17.0", True),
        (RAMFS, "3.17.1", False),
        (RAMFS, "4.0", False),
        (RAMFS, "", False),
        (0xEF53, "3.14.0", False),
        (0xFF534D42, "3.14.0", False),
    ],
)
def test_what_may_be_mounted_over(
    kind: int, version: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of fusermount3's own, which has grown."""
    monkeypatch.setattr(fusermount, "file_system", lambda _path: kind)
    machine = made(tmp_path, said=f"fusermount3 version: {version}")
    found = fusermount.place(machine, str(tmp_path))
    assert (found is not None) == refused
    if found is not None:
        check(found, Mark.FAULT, f"{kind:#x}", "mkdir -p ~/model-lab")
    assert fusermount.place(made(tmp_path, euid=0), str(tmp_path)) is None
    assert fusermount.place(machine, "/") is None


def test_the_kind_of_a_file_system(tmp_path: Path) -> None:
    """As statfs(2) gives it."""
    assert fusermount.file_system("/proc") == PROC
    with pytest.raises(FileNotFoundError):
        fusermount.file_system(str(tmp_path / "none"))
    assert fusermount.place(made(tmp_path), str(tmp_path / "none")) is None


# --- what `mount` looks at ----------------------------------------------------------------------------------


def test_mount_looks_at_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked of fusermount3."""
    assert checks.user_name() == pwd.getpwuid(os.getuid()).pw_name

    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UserError, match="run `useradd -M -u") as caught:
        checks.user_name()
    assert caught.value.code is ExitCode.MOUNT_REFUSED


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("user_allow_other\n", True),
        (" user_allow_other # x\n", True),
        ("user_allow_other", False),
        ("", False),
        ("mount_max = 5\nuser_allow_other", False),
        ("#user_allow_other\n", False),
    ],
)
def test_a_last_line_that_does_not_end(
    text: str, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fusermount3 leaves it out, with a word that only it hears."""
    (tmp_path / "fuse.conf").write_text(text)
    monkeypatch.setattr(checks, "FUSE_CONF", str(tmp_path / "fuse.conf"))
    assert checks.user_allow_other() == allowed


@pytest.mark.parametrize("value", [None, ""])
def test_fusermount3_is_found_without_a_path(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """libfuse finds it where it is installed."""
    if value is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", value)
    assert os.path.basename(checks.fusermount()) == "fusermount3"
