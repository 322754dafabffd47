"""artifactfs.doctor.fusermount: what fusermount3 refuses, and the checks of `mount` for its sake."""

import os
from pathlib import Path

import pytest

from artifactfs.doctor import fusermount, host_checks
from artifactfs.doctor.findings import Mark
from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import checks
from artifactfs.mount.host import Machine
from tests.unit.test_doctor_host_checks import check, made

RAMFS, PROC = 0x858458F6, 0x9FA0


@pytest.mark.parametrize("mtab", ["tmpfs / tmpfs rw 0 0\n"])
def test_nothing_is_said_where_all_is_well(mtab: str, tmp_path: Path) -> None:
    assert list(host_checks.user(made(tmp_path, {"etc/mtab": mtab}))) == []


def test_a_user_without_a_name(tmp_path: Path) -> None:
    """fusermount3 "could not determine username"; root does without it."""
    nameless = made(tmp_path, {"etc/mtab": "x"}, user=None)
    (found,) = host_checks.user(nameless)
    check(found, Mark.FAULT, "user 1000 has none", "useradd -M -u 1000")
    assert list(host_checks.user(made(tmp_path, user=None, euid=0))) == []


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_no_mtab(text: str | None, tmp_path: Path) -> None:
    """`fusermount3 -u` goes by it."""
    (found,) = host_checks.user(made(tmp_path, {} if text is None else {"etc/mtab": text}))
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


# --- the checks of `mount` ------------------------------------------------------------------------------------


def test_mount_checks_the_name(tmp_path: Path) -> None:
    """A user without a name is refused before fusermount3 runs."""
    checks.user_name(made(tmp_path))
    with pytest.raises(UserError, match="run `useradd -M -u 1000") as caught:
        checks.user_name(made(tmp_path, user=None))
    assert caught.value.code is ExitCode.MOUNT_REFUSED


@pytest.mark.parametrize("value", [None, ""])
def test_fusermount3_is_found_without_a_path(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """libfuse finds it where it is installed."""
    if value is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", value)
    assert os.path.basename(checks.fusermount(Machine())) == "fusermount3"
