"""The directory that a download fills: what is in the way there, and unfinished files."""

import contextlib
import errno
import fcntl
import os
import unicodedata
from pathlib import Path
from typing import NoReturn

import pytest

from artifactfs.download.target import Obstacle, Target
from artifactfs.errors import ExitCode, Superseded, UserError

TIME_NS = 1_778_922_000_123_456_789


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "new" / "dir"


@pytest.fixture
def target(top: Path) -> Target:
    return Target(str(top))


def put(target: Target, *place: str, data: bytes = b"data", version: bytes | None = b"v1") -> int:
    """Write a file; returns how much of it was there before."""
    with target.directory(place[:-1]) as at, target.unfinished(at, place, version) as part:
        before = part.size_bytes
        part.write(data[before:])
        part.finish(TIME_NS)
    return before


def begin(target: Target, *place: str, data: bytes = b"da", version: bytes | None = b"v1") -> int:
    """Write the beginning of a file, until a failure; returns how much of it was there before."""
    before = -1
    with (
        contextlib.suppress(Superseded),
        target.directory(place[:-1]) as at,
        target.unfinished(at, place, version) as part,
    ):
        before = part.size_bytes
        part.write(data)
        raise Superseded("")
    return before


def has(target: Target, *place: str, size: int = 4, time_ns: int = TIME_NS) -> bool:
    with target.directory(place[:-1]) as at:
        return target.has(at, place, size, time_ns)


def test_a_file_gets_its_name_when_it_is_whole(target: Target, top: Path) -> None:
    """With its time, and the modes of any new file; what had the name before is replaced."""
    assert not has(target, "a", "b", "f")
    for data in (b"data", b"more data"):
        put(target, "a", "b", "f", data=data)
        file = top / "a" / "b" / "f"
        assert file.read_bytes() == data
        assert file.stat().st_mtime_ns == TIME_NS
        assert file.stat().st_mode & 0o600 == 0o600
        assert os.listdir(top / "a" / "b") == ["f"]
    assert has(target, "a", "b", "f", size=9)
    assert not has(target, "a", "b", "f", size=8)
    assert not has(target, "a", "b", "f", size=9, time_ns=TIME_NS + 1)


@pytest.mark.parametrize("step_ns", [100, 10**7, 10**9, 2 * 10**9])
def test_a_file_system_that_keeps_time_in_steps(step_ns: int, target: Target, top: Path) -> None:
    """A file is unchanged where its time is that of the service, rounded down as NTFS, exFAT, ext3 or FAT do."""
    put(target, "f")
    time_ns = 3 * 10**9 - 1
    os.utime(top / "f", ns=(0, time_ns // step_ns * step_ns))
    assert has(target, "f", time_ns=time_ns)
    assert not has(target, "f", time_ns=time_ns + 2 * 10**9)


def test_an_unfinished_file_is_of_one_version(target: Target, top: Path) -> None:
    """It is resumed for that version; for another it is deleted, and for one without a name it is not kept."""
    assert begin(target, "f") == 0
    assert begin(target, "f", data=b"ta") == 2
    assert begin(target, "other", version=b"v1") == 0
    # Another process, which finds it.
    again = Target(str(top))
    assert put(again, "f") == 4
    assert begin(target, "f", version=b"v2") == 0
    assert begin(target, "f", version=b"v3") == 0
    last = Target(str(top))
    for version in (b"v2", None, None):
        assert begin(last, "f", version=version) == 0
    names = sorted(os.listdir(top))
    assert [name.split(".")[1:2] for name in names] == [["f"], ["other"], []]
    assert names[-1] == "f"


def test_names_of_the_greatest_length(target: Target, top: Path) -> None:
    """Two names of 255 bytes that begin alike are two files, and neither loses what was written of it."""
    names = ["ä" * 120 + "x" * 15, "ä" * 120 + "x" * 14 + "y"]
    for number, name in enumerate(names):
        assert begin(target, name, data=b"%d" % number, version=name.encode()) == 0
    assert len(os.listdir(top)) == 2
    for number, name in enumerate(names):
        assert put(target, name, data=b"%d+" % number, version=name.encode()) == 1
    assert {(top / name).read_bytes() for name in names} == {b"0+", b"1+"}


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_a_name_that_is_of_another_kind(kind: str, target: Target, top: Path, tmp_path: Path) -> None:
    """It is a sentence that names it, and what a link leads to stays as it is."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    {
        "directory": lambda: (top / "f").mkdir(),
        "link": lambda: (top / "f").symlink_to(outside),
        "fifo": lambda: os.mkfifo(top / "f"),
    }[kind]()
    with pytest.raises(Obstacle) as caught:
        has(target, "f")
    assert str(caught.value).startswith(f"{top}/f is there, and ")
    assert str(caught.value).endswith("; move it away")
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_directory_that_is_none(at: int, kind: str, target: Target, top: Path, tmp_path: Path) -> None:
    """No link below DIR is followed: nothing is written where it leads to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    place = ("a", "b")[:at]
    top.joinpath(*place[:-1]).mkdir(exist_ok=True)
    if kind == "link":
        top.joinpath(*place).symlink_to(outside)
    else:
        top.joinpath(*place).touch()
    with pytest.raises(Obstacle) as caught:
        put(target, "a", "b", "f")
    assert str(top.joinpath(*place)) in str(caught.value)
    assert str(caught.value).endswith("; move it away")
    assert os.listdir(outside) == []


def test_a_link_in_place_of_an_unfinished_file(target: Target, top: Path, tmp_path: Path) -> None:
    """It is not followed."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    begin(target, "f")
    (part,) = top.iterdir()
    part.unlink()
    part.symlink_to(outside)
    with pytest.raises(Obstacle):
        put(target, "f")
    assert outside.read_bytes() == b"mine"


def test_a_name_of_an_unfinished_file(target: Target) -> None:
    """An artifact of such a name is left out with a sentence: its file would be deleted, or resumed."""
    with pytest.raises(Obstacle, match="left out"):
        has(target, ".f.0123456789abcdef.part")
    assert not has(target, ".f.part")


def test_another_download_of_the_same_file(target: Target, top: Path) -> None:
    """It is left to the one that writes it, and also where that finishes it at this moment."""
    with target.directory(()) as at, target.unfinished(at, ("f",), b"v1") as part:
        part.write(b"da")
        with pytest.raises(Obstacle, match="another download is writing it"):
            put(Target(str(top)), "f")
        assert part.read(0, 9) == b"da"


def test_it_was_finished_meanwhile(target: Target, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished file that gets its name between `open` and the lock is not written to."""
    real = fcntl.flock

    def finish_first(fd: int, operation: int) -> None:
        (part,) = top.iterdir()
        part.rename(top / "f")
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    with pytest.raises(Obstacle, match="another download is writing it"):
        put(target, "f", data=b"mixed")
    assert (top / "f").read_bytes() == b""


def test_a_file_system_without_locks(target: Target, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be downloaded to."""

    def no_lock(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    put(target, "f")
    assert (top / "f").read_bytes() == b"data"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room(code: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the command: no other file would have room either."""

    def full(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError) as caught:
        put(target, "f")
    assert caught.value.code is ExitCode.INCOMPLETE
    assert "there is no room left in" in str(caught.value)


@pytest.mark.parametrize("kind", ["file", "below a file", "read-only", "empty"])
def test_a_directory_that_cannot_be_used(kind: str, tmp_path: Path) -> None:
    """One line, before the first request."""
    (tmp_path / "file").touch()
    file = str(tmp_path / "file")
    place = {"file": file, "below a file": f"{file}/d", "read-only": "/proc/1", "empty": ""}
    with pytest.raises(UserError) as caught:
        Target(place[kind])
    assert caught.value.code is ExitCode.NOT_WRITABLE
    assert str(caught.value).startswith(f"cannot write to {place[kind]}: ")


def test_a_link_to_the_directory_itself(tmp_path: Path) -> None:
    """DIR may be one: who calls has chosen it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    put(Target(str(tmp_path / "link")), "f")
    assert (tmp_path / "real" / "f").read_bytes() == b"data"


def ignoring_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let names be found as file systems find them that ignore case, and a new file take the place of such a one."""
    find, rename, look = os.stat, os.rename, os.open

    def called(name: object, at: int | None) -> object:
        names = (
            os.listdir(f"/proc/self/fd/{at}") if isinstance(name, str) and at is not None and "/" not in name else ()
        )
        return next((each for each in names if each.lower() == str(name).lower()), name)

    def stat(path: object, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        return find(called(path, dir_fd), dir_fd=dir_fd, follow_symlinks=follow_symlinks)  # type: ignore[arg-type]

    def opened(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        return look(called(path, dir_fd), flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    def move(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        rename(source, str(called(target, dst_dir_fd)), src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    for name, fake in (("stat", stat), ("open", opened), ("rename", move)):
        monkeypatch.setattr(os, name, fake)


def test_a_file_system_that_ignores_case(target: Target, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of names that are one to it the first is written; no other replaces that, nor counts as there, now or later."""
    (top / "a").mkdir()
    ignoring_case(monkeypatch)
    put(target, "a", "Model")
    for again in (target, Target(str(top))):
        assert has(again, "a", "Model")
        with pytest.raises(Obstacle, match="something else that is there"):
            has(again, "a", "model")
        with pytest.raises(Obstacle, match="something else that is there"):
            put(again, "a", "MODEL", data=b"else")
        with pytest.raises(Obstacle, match="something else that is there"):
            put(again, "A", "other")
        put(again, "a", "Model")
    assert sorted(os.listdir(top)) == ["a"]
    assert (top / "a" / "Model").read_bytes() == b"data"


def test_a_directory_of_thousands_is_not_listed_for_each(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for what was made in it: the time grows with the number, and not with its square."""
    listed, listdir = [], os.listdir

    def counted(at: int) -> list[str]:
        listed.append(at)
        return listdir(at)

    monkeypatch.setattr(os, "listdir", counted)
    for _ in range(2):
        for number in range(50):
            with target.directory(("run", f"step-{number}", "a")):
                pass
    assert len(listed) <= 2


def test_names_that_are_kept_in_another_form(target: Target, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the file system has decomposed is there."""
    put(target, "a", unicodedata.normalize("NFD", "h\u00e9llo"))
    find = os.stat

    def stat(path: object, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        name = unicodedata.normalize("NFD", path) if isinstance(path, str) else path
        return find(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", stat)
    assert has(target, "a", "h\u00e9llo")


def test_below_too_many_directories(tmp_path: Path) -> None:
    """An odd argument is no bug."""
    with pytest.raises(UserError, match="too many directories") as caught:
        Target(str(tmp_path) + "/a" * 1500)
    assert caught.value.code is ExitCode.NOT_WRITABLE
