"""artifactfs.content.cache_dir: which directory is a cache, and that no other is touched."""

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs.content import cache_dir
from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.cache_dir import ForeignDirectory, claim, find
from artifactfs.errors import ExitCode
from tests.harness import needs_root

TAG = "CACHEDIR.TAG"
KEY = bytes(range(16))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def seen(path: Path) -> dict[str, tuple[int, int, int, bytes | str]]:
    """Return all that is known of a directory and its contents: modes, owners, times, bytes."""
    found = {}
    for each in [path, *sorted(path.rglob("*"))]:
        status = each.lstat()
        kind: bytes | str = ""
        if each.is_symlink():
            kind = os.readlink(each)
        elif each.is_file():
            kind = each.read_bytes()
        found[str(each.relative_to(path))] = (status.st_mode, status.st_uid, status.st_mtime_ns, kind)
    return found


def old_cache(path: Path) -> None:
    """Make what earlier versions left: blocks and their count, without a mark."""
    store = BlockStore(str(path), max_bytes=1 << 30, min_free_bytes=0)
    assert store.save(KEY, 0, [b"kept"], Provenance(0.0, store.session))
    (path / TAG).unlink()


def check_refused(path: Path, *, by: Callable[..., object] = claim) -> ForeignDirectory:
    """See that a directory is refused, in one line, and that nothing of it has changed. Returns the refusal."""
    before = seen(path)
    with pytest.raises(ForeignDirectory) as refused:
        by(str(path))
    assert seen(path) == before
    assert refused.value.code == ExitCode.CACHE_REFUSED
    said = str(refused.value)
    assert len(said.splitlines()) == 1
    assert f"--cache-dir {refused.value.instead}" in said
    return refused.value


def test_a_directory_that_is_missing_is_made(tmp_path: Path) -> None:
    """6.2: the directory and those above it are made for this user alone, and marked; then it is found again."""
    path = tmp_path / "a" / "b" / "cache"
    with pytest.raises(FileNotFoundError):
        find(str(path))
    assert claim(str(path)).path == str(path)
    assert [mode(each) for each in (path, path.parent, path.parent.parent)] == [0o700] * 3
    assert (path / TAG).read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    assert mode(path / TAG) == 0o600
    assert find(str(path)).path == claim(str(path)).path == str(path)


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """6.2: directories are 0700 and files 0600, for a umask that grants all and for one that denies all."""
    path = tmp_path / "above" / "cache"
    previous = os.umask(umask)
    try:
        store = BlockStore(str(path), max_bytes=1 << 20, min_free_bytes=0)
        assert store.claim()
        assert store.save(KEY, 0, [b"kept"], Provenance(0.0, store.session))
    finally:
        os.umask(previous)
    for each in [path.parent, path, *path.rglob("*")]:
        assert mode(each) == (0o700 if each.is_dir() else 0o600), each


@pytest.mark.parametrize("before", [0o700, 0o755, 0o775, 0o2775])
def test_an_empty_directory_becomes_a_cache(tmp_path: Path, before: int) -> None:
    """6.2: an empty directory of this user's is closed to others and marked."""
    path = tmp_path / "cache"
    path.mkdir()
    path.chmod(before)
    find(str(path))
    assert mode(path) == before
    claim(str(path))
    assert mode(path) & 0o777 == 0o700
    assert os.listdir(path) == [TAG]


def test_a_file_system_made_for_it_is_empty(tmp_path: Path) -> None:
    """6.2: the root of an ext4 file system has `lost+found`, and may be a cache."""
    (tmp_path / "lost+found").mkdir()
    claim(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [TAG, "lost+found"]


@pytest.mark.parametrize("before", [0o1777, 0o777, 0o1755, 0o1700, 0o703])
@pytest.mark.parametrize("name", [None, "note.txt"])
def test_a_shared_directory_is_refused(tmp_path: Path, before: int, name: str | None) -> None:
    """6.2: a directory that others write to is left as it is, empty or not: a private one would lock them out."""
    path = tmp_path / "shared"
    path.mkdir()
    if name is not None:
        (path / name).write_bytes(b"theirs")
    path.chmod(before)
    instead = check_refused(path).instead
    check_refused(path, by=find)
    assert shlex.split(instead) == [str(path / "artifactfs")]
    assert mode(path) == before
    # What was proposed works, and leaves the directory as it was.
    claim(*shlex.split(instead))
    assert mode(path) == before


@needs_root
@pytest.mark.parametrize("before", [0o770, 0o2775])
def test_a_directory_of_a_group_is_refused(tmp_path: Path, before: int) -> None:
    """6.2: a group that may write to an empty directory is locked out by a cache, except for the user's own group."""
    path = tmp_path / "shared"
    path.mkdir()
    os.chown(path, -1, 12345)
    path.chmod(before)
    check_refused(path)
    assert mode(path) == before
    os.chown(path, -1, os.getegid())
    path.chmod(0o775)
    claim(str(path))


@pytest.mark.parametrize(
    "names",
    [["thesis.tex"], [".bashrc"], ["photos/"], ["blocks-1/", "thesis.tex"], ["blocks-1/mine/"], ["blocks-x/"],
     ["blocks-1"], ["CACHEDIR.TAG/"], ["a\nb\x1b[31m"], ["lost+found/", "x"], ["ab/"], ["usage"]],
    ids=str,
)  # fmt: skip
def test_a_directory_with_other_files_is_refused(tmp_path: Path, names: list[str]) -> None:
    """6.2: a directory that holds anything that a cache does not hold is refused, and nothing of it is touched."""
    path = tmp_path / "Documents"
    path.mkdir(mode=0o755)
    for name in names:
        if name.endswith("/"):
            (path / name).mkdir(parents=True)
        else:
            (path / name).write_bytes(b"mine")
    said = str(check_refused(path))
    assert "\x1b" not in said
    check_refused(path, by=find)


@pytest.mark.parametrize(
    "tag",
    [b"Signature: 8a477f597d28d172789f06886806bc55\n", b"Signature: 8a477f597d28d172789f06886806bc55\n# by cargo\n",
     b"hello", cache_dir._MARK[1:]],
    ids=repr,
)  # fmt: skip
def test_the_cache_of_another_program_is_refused(tmp_path: Path, tag: bytes) -> None:
    """6.2: CACHEDIR.TAG is a convention of many programs: without a line of ours it is another one's."""
    (tmp_path / TAG).write_bytes(tag)
    check_refused(tmp_path)
    (tmp_path / "debug").mkdir()
    check_refused(tmp_path)


@pytest.mark.parametrize("kept", range(0, len(cache_dir._MARK), 17))
def test_a_mark_that_was_cut_is_made_again(tmp_path: Path, kept: int) -> None:
    """4.4: a crash between the making of the mark and its end costs no cache."""
    (tmp_path / TAG).write_bytes(cache_dir._MARK[:kept])
    claim(str(tmp_path))
    (tmp_path / "later").touch()
    assert cache_dir._is_ours((tmp_path / TAG).read_bytes())
    claim(str(tmp_path))


def test_a_damaged_mark_beside_our_blocks_is_made_again(tmp_path: Path) -> None:
    """4.4: damage to the mark costs no cache, as long as nothing but ours is in it."""
    old_cache(tmp_path)
    for damage in (bytes(len(cache_dir._MARK)), cache_dir._MARK[:9] + b"!" + cache_dir._MARK[10:] + b"longer"):
        (tmp_path / TAG).write_bytes(damage)
        claim(str(tmp_path))
        assert (tmp_path / TAG).read_bytes() == cache_dir._MARK
    (tmp_path / TAG).write_bytes(bytes(9))
    (tmp_path / "thesis.tex").touch()
    check_refused(tmp_path)


def test_a_marked_directory_stays_a_cache(tmp_path: Path) -> None:
    """6.2: once marked it is ours, whatever comes to lie in it, and lines that were added to the mark."""
    claim(str(tmp_path))
    with (tmp_path / TAG).open("ab") as tag:
        tag.write(b"# excluded by borg\n")
    (tmp_path / ".directory").write_bytes(b"[Dolphin]\n")
    tmp_path.chmod(0o755)
    claim(str(tmp_path))
    assert mode(tmp_path) == 0o700
    assert (tmp_path / ".directory").read_bytes() == b"[Dolphin]\n"


@pytest.mark.parametrize("beside", [[], ["lost+found"], ["blocks-0"], ["blocks-12"]], ids=str)
def test_a_cache_of_an_earlier_version_is_taken_over(tmp_path: Path, beside: list[str]) -> None:
    """6.2: what earlier versions left has no mark, and goes on being a cache with what is in it."""
    old_cache(tmp_path)
    for name in beside:
        (tmp_path / name).mkdir()
    (tmp_path / "blocks-1" / ".nfs0001").touch()
    tmp_path.chmod(0o700)
    find(str(tmp_path))
    assert not (tmp_path / TAG).exists()
    store = BlockStore(str(tmp_path), max_bytes=1 << 30, min_free_bytes=0)
    assert store.claim()
    (found,) = store.load(KEY, [0], lambda _stamp: True)
    assert found is not None
    assert (tmp_path / TAG).read_bytes() == cache_dir._MARK


@pytest.mark.parametrize("kind", ["link", "fifo", "link to a mark"])
def test_a_mark_that_is_no_file_is_none(tmp_path: Path, kind: str) -> None:
    """6.2: the mark is a regular file; what else has its name is neither followed nor waited for."""
    path = tmp_path / "cache"
    path.mkdir()
    claim(str(tmp_path / "other"))
    if kind == "fifo":
        os.mkfifo(path / TAG)
    else:
        (path / TAG).symlink_to(tmp_path / "other" / TAG if kind != "link" else tmp_path / "victim")
    with pytest.raises(ForeignDirectory):
        claim(str(path))
    assert not (tmp_path / "victim").exists()
    assert stat.S_ISFIFO((path / TAG).lstat().st_mode) == (kind == "fifo")


@needs_root
def test_the_mark_of_another_user_is_none(tmp_path: Path) -> None:
    """6.2: another user who can write to a directory of root's cannot make it root's cache."""
    path = tmp_path / "tmp"
    path.mkdir()
    path.chmod(0o1777)
    (path / TAG).write_bytes(cache_dir._MARK)
    os.chown(path / TAG, 12345, 12345)
    check_refused(path)


@needs_root
@pytest.mark.parametrize("before", [0o700, 0o755, 0o1777])
@pytest.mark.parametrize("marked", [False, True])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, before: int, marked: bool) -> None:
    """6.2: as root, too, a directory of another user is refused, empty or marked."""
    path = tmp_path / "theirs"
    path.mkdir()
    if marked:
        claim(str(path))
    path.chmod(before)
    os.chown(path, 12345, 12345)
    assert "belongs to another user" in str(check_refused(path))
    check_refused(path, by=find)


def test_what_is_shared_by_root_has_a_place_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.2: for a directory like /tmp, a directory of the user's own in it is proposed; else one of his home."""
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    owner = tmp_path.stat().st_uid
    with pytest.raises(ForeignDirectory) as refused:
        claim(str(tmp_path))
    expected = str(tmp_path / "artifactfs-12345") if owner == 0 else "~/.cache/artifactfs-2"
    assert refused.value.instead == expected
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ForeignDirectory) as refused:
        claim(str(tmp_path))
    assert refused.value.instead == "~/.cache/artifactfs-2"


def test_a_link_of_ones_own_is_followed_once(tmp_path: Path) -> None:
    """6.2: links of this user's, also to links and in the middle of the path, lead to the cache when a mount starts."""
    target = tmp_path / "disk" / "cache"
    target.mkdir(parents=True)
    (tmp_path / "way").symlink_to("disk")
    (tmp_path / "link").symlink_to(tmp_path / "way" / ".." / "way" / "cache")
    assert claim(str(tmp_path / "link")).path == str(target)
    assert find(str(tmp_path / "way" / "cache")).path == str(target)
    assert (target / TAG).exists()
    for by in (claim, find):
        with pytest.raises(OSError, match="is no directory"):
            by(str(tmp_path / "link"), links=False)
        with pytest.raises(OSError, match="is no directory"):
            by(str(tmp_path / "way" / "cache"), links=False)


def test_a_link_to_what_is_missing_makes_it(tmp_path: Path) -> None:
    """6.2: a link of one's own to a directory that is to come is as good as its path."""
    (tmp_path / "link").symlink_to("disk/cache")
    assert claim(str(tmp_path / "link")).path == str(tmp_path / "disk" / "cache")


def test_a_link_to_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    """6.2: the directory behind a link has to be a cache like any."""
    victim = tmp_path / "Documents"
    victim.mkdir()
    (victim / "thesis.tex").touch()
    (tmp_path / "link").symlink_to(victim)
    before = seen(victim)
    with pytest.raises(ForeignDirectory):
        claim(str(tmp_path / "link"))
    assert seen(victim) == before


def test_links_in_a_circle(tmp_path: Path) -> None:
    """4.4: a path that leads nowhere is no cache, and no hang."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="is no directory"):
        claim(str(tmp_path / "a"))


@needs_root
@pytest.mark.parametrize("place", ["last", "above"])
def test_a_link_of_another_user_is_refused(tmp_path: Path, place: str) -> None:
    """6.2: in a directory like /tmp, a link that another user has laid leads root nowhere."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "trap").symlink_to("etc")
    os.chown(tmp_path / "trap", 12345, 12345, follow_symlinks=False)
    path = tmp_path / "trap" / "cache" if place == "above" else tmp_path / "trap"
    with pytest.raises(ForeignDirectory, match="link of another user"):
        claim(str(path))
    assert os.listdir(tmp_path / "etc") == []
    assert mode(tmp_path / "etc") == 0o755


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_is_no_cache(tmp_path: Path, inside: bool) -> None:
    """6.2, 4.4: a file in the cache's place is refused; where no directory can be, there is no cache."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(NotADirectoryError if inside else ForeignDirectory):
        claim(str(tmp_path / "file" / "cache") if inside else str(tmp_path / "file"))
    store = BlockStore(str(tmp_path / "file" / "cache"), max_bytes=1, min_free_bytes=0)
    assert not store.claim()
    assert (tmp_path / "file").read_bytes() == b"mine"


_CLAIMING = """
import sys
from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
sys.stdin.read()
store = BlockStore(sys.argv[1], max_bytes=1 << 30, min_free_bytes=0)
assert store.claim()
assert store.save(sys.argv[2].encode() * 16, 0, [b"kept"], Provenance(0.0, store.session))
"""


def test_many_begin_at_once(tmp_path: Path) -> None:
    """6.2: twenty mounts that start at once on a new directory all take it for theirs, and all keep in it."""
    path = tmp_path / "above" / "cache"
    command = [sys.executable, "-c", _CLAIMING, str(path)]
    started = [
        subprocess.Popen([*command, chr(97 + number)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(20)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in started:
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    assert (path / TAG).read_bytes() == cache_dir._MARK
    assert BlockStore(str(path), max_bytes=1 << 30, min_free_bytes=0).usage().blocks == 20


def test_a_racing_mark_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.2: what another mount has made between the look for the mark and the look at the rest is no stranger."""
    real = cache_dir._stranger

    def later(fd: int, tag: bytes | None) -> str | None:
        monkeypatch.setattr(cache_dir, "_stranger", real)
        claim(str(tmp_path))
        (tmp_path / "whatever").touch()
        return real(fd, tag)

    monkeypatch.setattr(cache_dir, "_stranger", later)
    claim(str(tmp_path))


def test_a_full_disk_is_marked_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: a disk that has no room for the mark costs it, and the directory can be claimed as before."""
    path = tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        claim(str(path))
        claim(str(path))
    claim(str(path))
    assert (path / TAG).read_bytes() == cache_dir._MARK


def test_nothing_stays_open(tmp_path: Path) -> None:
    """5.5: a directory is closed when it is used no more, refused ones included."""
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "Documents").mkdir()
    (tmp_path / "Documents" / "thesis.tex").touch()
    (tmp_path / "link").symlink_to("cache")
    for _ in range(3):
        claim(str(tmp_path / "cache"))
        find(str(tmp_path / "link"))
        for refused in ("Documents", "Documents/thesis.tex", "missing"):
            with pytest.raises((ForeignDirectory, FileNotFoundError)):
                find(str(tmp_path / refused))
    assert len(os.listdir("/proc/self/fd")) == before
