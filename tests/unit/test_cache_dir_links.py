"""artifactfs.content.cache_dir: directories of other users, links, and races (docs/semantics.md 6.2)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs.content import cache_dir
from artifactfs.content.block_store import BlockStore
from artifactfs.content.cache_dir import ForeignDirectory, claim, find
from tests.harness import needs_root
from tests.unit.cache_dirs import TAG, check_refused, mode, seen


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


# Twenty processes, each of which begins when its standard input is closed: all at that moment.
_CLAIMING = """
import os
import sys
from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
started = []
for number in range(20):
    if pid := os.fork():
        started.append(pid)
        continue
    sys.stdin.read()
    store = BlockStore(sys.argv[1], max_bytes=1 << 30, min_free_bytes=0)
    assert store.claim()
    assert store.save(chr(97 + number).encode() * 16, 0, [b"kept"], Provenance(0.0, store.session))
    os._exit(0)
print("ready", flush=True)
sys.exit([os.waitpid(pid, 0)[1] for pid in started] != [0] * 20)
"""


def test_many_begin_at_once(tmp_path: Path) -> None:
    """6.2: twenty mounts that start at once on a new directory all take it for theirs, and all keep in it."""
    path = tmp_path / "above" / "cache"
    command = [sys.executable, "-c", _CLAIMING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
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
