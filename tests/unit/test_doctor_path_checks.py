"""artifactfs.doctor.path_checks: mount point, cache, log and config file, in directories of the test's."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from artifactfs import settings
from artifactfs.content.block_store import BlockStore
from artifactfs.doctor import path_checks
from artifactfs.doctor.findings import Finding, Mark
from artifactfs.logs import system_logs
from artifactfs.mount import mount_table
from artifactfs.mount.mount_table import Mount
from artifactfs.settings import Settings
from artifactfs.util.escaping import shell_word
from tests.harness import needs_root


def loaded(directory: Path, **flags: str) -> Settings:
    flags = {"cache_dir": str(directory / "cache"), "log_file": str(directory / "log"), "cache_min_free": "1K"} | flags
    return settings.load(flags, config_file=os.devnull, environ={}, need_keys=False)


def on(fstype: str, point: str = "/") -> list[Mount]:
    """Return a mount table with one row."""
    return [Mount("0:1", point, fstype, "x")]


def check(found: Finding, mark: Mark, *said: str) -> None:
    assert found.mark is mark, found
    for text in said:
        assert text in f"{found.fact} {found.fix}"


# --- the mount point ------------------------------------------------------------------------------------


def test_a_mount_point(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    check(path_checks.mountpoint(str(tmp_path / "a b")), Mark.GOOD, "empty directory")
    (tmp_path / "a b" / "mine").touch()
    check(path_checks.mountpoint(str(tmp_path / "a b")), Mark.WARNING, "not empty", "hides its files")


@pytest.mark.parametrize(
    ("path", "said"), [("no such", "does not exist"), ("file", "is not a directory"), ("file/x", "Not a directory")]
)
def test_no_mount_point(path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check(path_checks.mountpoint(str(tmp_path / path)), Mark.FAULT, said, "mkdir -p")


@pytest.mark.parametrize("path", ["", "/", "/etc"])
def test_no_place(path: str) -> None:
    check(path_checks.mountpoint(path), Mark.FAULT, "no place for a mount")


def test_the_command_for_a_mount_point(tmp_path: Path) -> None:
    """A name with a space is quoted, and a relative path is whole."""
    found = path_checks.mountpoint(str(tmp_path / "no such"))
    assert found.fix == f"mkdir -p '{tmp_path}/no such'"


@pytest.mark.parametrize("name", ["a: b", "a; b", "x: run y", "a\nb", "it's", "x: is the y"])
def test_a_mount_point_with_an_odd_name(name: str, tmp_path: Path) -> None:
    """5.3: the fact is whole, whatever the name holds."""
    found = path_checks.mountpoint(str(tmp_path / name))
    assert found.fact == f"mount point {tmp_path / name} does not exist"
    assert found.fix == f"mkdir -p {shell_word(str(tmp_path / name))}"


# --- the config file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "mark", "said"),
    [
        (0o600, Mark.GOOD, "you alone"),
        (0o644, Mark.GOOD, "holds no keys"),
    ],
)
def test_the_config_file(mode: int, mark: Mark, said: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('listing_ttl = "5m"\n')
    file.chmod(mode)
    its = settings.load({}, config_file=str(file), environ={}, need_keys=False)
    check(path_checks.config(its), mark, said, str(file))
    file.unlink()
    check(path_checks.config(its), Mark.GOOD, "none")
    nothing = path_checks.config(settings.load({}, config_file=os.devnull, environ={}, need_keys=False))
    assert nothing.fact == "none, as requested"


# --- the cache ------------------------------------------------------------------------------------------


def test_a_cache(tmp_path: Path) -> None:
    """One that is there and one that is still to be made; what it lies on, how much it may hold, how much is free."""
    for _ in range(2):
        found = path_checks.cache(on("ext4"), loaded(tmp_path, cache_size="3G"), None)
        check(found, Mark.GOOD, "ext4", "3 GiB at most", "free", str(tmp_path / "cache"))
        (tmp_path / "cache").mkdir(mode=0o700, exist_ok=True)
    check(path_checks.cache(on("ext4"), loaded(tmp_path, cache_size="0"), None), Mark.GOOD, "turned off")
    (tmp_path / "cache").chmod(0o755)
    check(path_checks.cache(on("ext4"), loaded(tmp_path), None), Mark.GOOD, "becomes 0700")


@pytest.mark.parametrize(
    ("kind", "said"), [("tmpfs", "in memory"), ("nfs4", "network"), ("cifs", "network"), ("fuse.sshfs", "network")]
)
def test_a_cache_on_an_odd_file_system(kind: str, said: str, tmp_path: Path) -> None:
    check(path_checks.cache(on(kind), loaded(tmp_path), None), Mark.WARNING, said, kind, "--cache-dir")


def test_a_cache_below_the_mount_point(tmp_path: Path) -> None:
    its = loaded(tmp_path)
    check(path_checks.cache(on("ext4"), its, str(tmp_path)), Mark.FAULT, "below the mount point", "--cache-dir")
    check(path_checks.cache(on("ext4"), its, str(tmp_path / "cac")), Mark.GOOD)


def test_a_cache_on_a_full_disk(tmp_path: Path) -> None:
    check(
        path_checks.cache(on("ext4"), loaded(tmp_path, cache_min_free="900T"), None),
        Mark.WARNING,
        "nothing is cached",
        "900 TiB",
    )


def test_a_cache_that_is_no_directory(tmp_path: Path) -> None:
    """A mount refuses it, so it is a fault."""
    (tmp_path / "cache").touch()
    check(path_checks.cache(on("ext4"), loaded(tmp_path), None), Mark.FAULT, "is no directory", "--cache-dir")


@needs_root
def test_a_cache_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 12345, 12345)
    check(path_checks.cache(on("ext4"), loaded(tmp_path), None), Mark.FAULT, "belongs to another user")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel says of access counts; access(2) always allows root, so the test refuses for it."""
    monkeypatch.setattr(os, "access", lambda _, asked: asked == os.X_OK)
    check(path_checks.cache(on("ext4"), loaded(tmp_path), None), Mark.WARNING, "cannot be made", "install -d")
    # A directory in one that he cannot enter would not help him.
    monkeypatch.setattr(os, "access", lambda *_: False)
    check(path_checks.cache(on("ext4"), loaded(tmp_path), None), Mark.WARNING, "cannot be made", "--cache-dir")
    (tmp_path / "cache").mkdir()
    check(path_checks.cache(on("ext4"), loaded(tmp_path), None), Mark.WARNING, "cannot be written", "chmod u+rwx")


def test_a_cache_on_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There or not, no mode of it would help."""
    statvfs = os.statvfs
    monkeypatch.setattr(os, "access", lambda *_: False)

    def read_only(path: str) -> SimpleNamespace:
        found = statvfs(path)
        return SimpleNamespace(f_flag=found.f_flag | os.ST_RDONLY, f_bavail=found.f_bavail, f_frsize=found.f_frsize)

    monkeypatch.setattr(os, "statvfs", read_only)
    for _ in range(2):
        check(path_checks.cache(on("ext4"), loaded(tmp_path), None), Mark.WARNING, "read-only disk", "--cache-dir")
        (tmp_path / "cache").mkdir(exist_ok=True)


def test_a_cache_that_mounts_refuse_is_one_that_the_doctor_refuses(tmp_path: Path) -> None:
    """Doctor and mount go by the same function: what the one lets pass, the other does."""
    (tmp_path / "cache").mkdir()
    assert BlockStore(str(tmp_path / "cache"), max_bytes=1, min_free_bytes=0).claim()
    check(path_checks.cache(on("ext4"), loaded(tmp_path), None), Mark.GOOD)


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "ext4"), ("/mnt", "nfs"), ("/mnt/a/b", "nfs"), ("/mnta", "ext4"), ("/mnt/top/x", "tmpfs")]
)
def test_what_a_path_lies_on(path: str, kind: str) -> None:
    """The longest place that holds it, and of several there the last."""
    rows = [("/", "ext4"), ("/mnt", "ext3"), ("/mnt/top", "tmpfs"), ("/mnt", "nfs")]
    around = mount_table.innermost(path, [Mount("0:1", point, fstype, "") for point, fstype in rows])
    assert around is not None
    assert around.fstype == kind


def test_an_unknown_file_system() -> None:
    assert mount_table.innermost("/a", []) is None


# --- the log --------------------------------------------------------------------------------------------


def test_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(path_checks.log(loaded(tmp_path), None), Mark.GOOD, str(tmp_path / "log"))
    check(path_checks.log(loaded(tmp_path, log_file=str(tmp_path)), None), Mark.FAULT, "is a directory", "--log-file")
    below = path_checks.log(loaded(tmp_path, log_file=str(tmp_path / "mnt" / "log")), str(tmp_path / "mnt"))
    check(below, Mark.FAULT, "below the mount point", "--log-file")
    monkeypatch.setattr(os, "access", lambda *_: False)
    check(path_checks.log(loaded(tmp_path), None), Mark.FAULT, "not yours to write", "--log-file")


@pytest.mark.parametrize("to", ["journal", "syslog"])
def test_a_log_that_is_no_file(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket of the journal or of syslog has to be there; standard error is that of a mount in front."""
    its = loaded(tmp_path, log_to=to)
    for name in ("JOURNAL_SOCKET", "SYSLOG_SOCKET"):
        monkeypatch.setattr(system_logs, name, str(tmp_path / "socket"))
    check(path_checks.log(its, None), Mark.FAULT, "socket is missing", "--log-file")
    (tmp_path / "socket").touch()
    check(path_checks.log(its, None), Mark.GOOD, "goes to the")
    check(path_checks.log(loaded(tmp_path, log_to="stderr"), None), Mark.GOOD, "standard error")


def test_the_log_of_a_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --log-file it is the file that a mount there would have."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    its = dataclasses.replace(loaded(tmp_path), log_file=None)
    check(path_checks.log(its, "/a/b"), Mark.GOOD, settings.default_log_file("/a/b"))
    check(path_checks.log(its, None), Mark.GOOD, str(tmp_path / "artifactfs" / "log"))
