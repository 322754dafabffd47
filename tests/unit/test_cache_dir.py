"""artifactfs.content.cache_dir: which directory is a cache, and that no other is touched."""

import os
import shlex
import stat
from pathlib import Path

import pytest

from artifactfs.content import cache_dir
from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.cache_dir import ForeignDirectory, claim, find
from tests.harness import needs_root
from tests.unit.cache_dirs import TAG, check_refused, mode
from tests.unit.metadata_stores import of_run, opened

KEY = bytes(range(16))


def old_cache(path: Path) -> None:
    """Make what earlier versions left: blocks and their count, without a mark."""
    store = BlockStore(str(path), max_bytes=1 << 30, min_free_bytes=0)
    assert store.save(KEY, 0, [b"kept"], Provenance(0.0, store.session))
    (path / TAG).unlink()


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


def test_metadata_without_a_mark_is_ours(tmp_path: Path) -> None:
    """6.2: a directory whose mark could not be written, as the disk was full, is still a cache with its metadata."""
    with opened(tmp_path) as store:
        assert store.write(1, of_run(1))
        claim(str(tmp_path))
    assert TAG in os.listdir(tmp_path)


@pytest.mark.parametrize(
    "names",
    [["thesis.tex"], [".bashrc"], ["photos/"], ["blocks-1/", "thesis.tex"], ["blocks-1/mine/"], ["blocks-x/"],
     ["blocks-1"], ["CACHEDIR.TAG/"], ["a\nb\x1b[31m"], ["lost+found/", "x"], ["ab/"], ["usage"],
     ["metadata-1.sqlite/"], ["metadata-1.sqlite.bak"], ["metadata.sqlite"]],
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
