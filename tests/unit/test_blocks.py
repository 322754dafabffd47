"""artifactfs.content.blocks: what is kept is what was saved or nothing, whatever happens to the disk."""

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs.content.blocks import BlockStore, Stamp, prepare
from artifactfs.errors import ExitCode, UserError

KEY = bytes(range(16))
OTHER = bytes(range(1, 17))
DATA = b"a tensor, or the piece of one" * 3
PAGE = 4096


def anything(_stamp: Stamp) -> bool:
    return True


def store_in(
    path: Path, *, max_bytes: int = 1 << 30, min_free: int = 0, clock: Callable[[], float] = lambda: 0.0
) -> BlockStore:
    return BlockStore(str(path), max_bytes=max_bytes, min_free_bytes=min_free, wall_clock=clock)


def stamp_of(store: BlockStore) -> Stamp:
    return Stamp(12.5, store.session, b"v" * 16, b"r" * 16)


def block_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "usage")


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return store_in(tmp_path)


@pytest.mark.parametrize("validator", [None, b"v" * 16])
@pytest.mark.parametrize("run", [None, b"r" * 16])
def test_what_is_saved_is_loaded(store: BlockStore, validator: bytes | None, run: bytes | None) -> None:
    """4.4: a block comes back with its bytes and all that was known of them."""
    stamp = Stamp(12.5, store.session, validator, run)
    assert store.save(KEY, 7, DATA, stamp)
    found = store.load(KEY, 7, anything)
    assert found is not None
    assert (bytes(found.data), found.stamp.validator, found.stamp.run) == (DATA, validator, run)
    assert found.stamp.fetched_at == 12.5
    assert store.load(KEY, 8, anything) is None
    assert store.load(OTHER, 7, anything) is None


def test_a_session_is_known_again(store: BlockStore) -> None:
    """4.3: a block says which mount fetched it."""
    store.save(KEY, 0, DATA, stamp_of(store))
    found = store.load(KEY, 0, anything)
    assert found is not None
    assert found.stamp.session == store.session


def test_any_flipped_bit_is_noticed(tmp_path: Path, store: BlockStore) -> None:
    """4.4: a bit that flipped anywhere in a block's file: the block is gone, never wrong."""
    store.save(KEY, 0, DATA, stamp_of(store))
    (file,) = block_files(tmp_path)
    good = file.read_bytes()
    for place in range(len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :])
        assert store.load(KEY, 0, anything) is None, place
        assert not file.exists()


@pytest.mark.parametrize("length", [0, 1, 50, -1, -len(DATA)])
def test_a_cut_file_is_noticed(tmp_path: Path, store: BlockStore, length: int) -> None:
    """4.4: a file that is shorter than it was."""
    store.save(KEY, 0, DATA, stamp_of(store))
    (file,) = block_files(tmp_path)
    file.write_bytes(file.read_bytes()[:length])
    assert store.load(KEY, 0, anything) is None
    assert not file.exists()


def test_a_file_that_grew_is_noticed(tmp_path: Path, store: BlockStore) -> None:
    """4.4: bytes behind a block's end."""
    store.save(KEY, 0, DATA, stamp_of(store))
    (file,) = block_files(tmp_path)
    file.write_bytes(file.read_bytes() + b"\0")
    assert store.load(KEY, 0, anything) is None


def test_a_block_in_the_wrong_place_is_none(tmp_path: Path, store: BlockStore) -> None:
    """4.4: a good file of another block, or of another version, under this name."""
    store.save(KEY, 0, DATA, stamp_of(store))
    store.save(OTHER, 1, DATA[::-1], stamp_of(store))
    one, other = block_files(tmp_path)
    os.rename(other, one)
    assert store.load(KEY, 0, anything) is None


def test_a_link_is_not_followed(tmp_path: Path, store: BlockStore) -> None:
    """6.2: a link in a block's place is not read through."""
    store.save(KEY, 0, DATA, stamp_of(store))
    (file,) = block_files(tmp_path)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert store.load(KEY, 0, anything) is None


def test_what_is_not_accepted_goes(tmp_path: Path, store: BlockStore) -> None:
    """4.3: a block that no longer holds is deleted, and no longer counted."""
    store.save(KEY, 0, DATA, stamp_of(store))
    assert store.load(KEY, 0, lambda _stamp: False) is None
    assert not block_files(tmp_path)
    assert store.usage().size_bytes == 0


_CRASHING = """
import os, sys
from artifactfs.content.blocks import BlockStore, Stamp
store = BlockStore(sys.argv[1], max_bytes=1 << 30, min_free_bytes=0)
os.rename = lambda _from, _to: os._exit(9)
store.save(bytes(range(16)), 0, b"half", Stamp(0.0, store.session))
"""


def test_a_crash_leaves_no_block(tmp_path: Path) -> None:
    """4.4: killed before the rename, a writer leaves a file aside: no block, not in the way, and swept up in time."""
    now = [1_000_000_000.0]
    assert subprocess.run([sys.executable, "-c", _CRASHING, str(tmp_path)]).returncode == 9
    store = store_in(tmp_path, clock=lambda: now[0])
    (aside,) = block_files(tmp_path)
    assert aside.name.startswith(".")
    assert store.load(KEY, 0, anything) is None
    assert store.usage().blocks == 0
    again = store_in(tmp_path, clock=lambda: now[0])
    assert again.save(KEY, 0, DATA, stamp_of(again))
    now[0] = os.stat(aside).st_mtime + 599
    again.usage()
    assert aside.exists()
    now[0] += 2
    again.usage()
    assert not aside.exists()
    assert again.load(KEY, 0, anything) is not None


def test_wiped_while_in_use(tmp_path: Path) -> None:
    """4.4, 6.2: the whole directory goes; what is saved next is kept, for the user's eyes only."""
    directory = tmp_path / "cache"
    assert prepare(str(directory))
    store = store_in(directory)
    store.save(KEY, 0, DATA, stamp_of(store))
    subprocess.run(["rm", "-r", str(directory)], check=True)
    assert store.load(KEY, 0, anything) is None
    previous = os.umask(0)
    try:
        assert store.save(KEY, 0, DATA, stamp_of(store))
    finally:
        os.umask(previous)
    assert store.load(KEY, 0, anything) is not None
    for path in [directory, *directory.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["open", "writev", "rename"])
def test_a_disk_that_refuses(
    store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """4.4: a full, read-only or broken disk keeps nothing, raises nothing, and is left alone for a while."""
    store.save(KEY, 0, DATA, stamp_of(store))
    now = [100.0]
    calls = []

    def refuse(*_args: object, **_more: object) -> int:
        calls.append(1)
        raise OSError(code, "refused")

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        assert not store.save(KEY, 1, DATA, stamp_of(store))
        tried = len(calls)
        assert not store.save(KEY, 2, DATA, stamp_of(store))
        assert len(calls) == tried
    assert not store.save(KEY, 2, DATA, stamp_of(store))
    now[0] += 11
    assert store.save(KEY, 2, DATA, stamp_of(store))
    assert store.load(KEY, 0, anything) is not None
    assert store.load(KEY, 1, anything) is None
    assert len(block_files(tmp_path)) == 2


def test_a_disk_that_takes_part_of_a_block(store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: a write that the disk cut short leaves no block."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", lambda fd, parts: os.write(fd, parts[0]))
        assert not store.save(KEY, 0, DATA, stamp_of(store))
    assert not block_files(tmp_path)


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    """4.4: reading counts as use; what was used longest ago goes, and no more than makes room."""
    limit = 40 * PAGE
    store = store_in(tmp_path, max_bytes=limit)
    for index in range(39):
        assert store.save(KEY, index, DATA, stamp_of(store))
        os.utime(store._path(KEY, index), (index, index))
    assert store.load(KEY, 0, anything) is not None  # used just now
    assert store.save(KEY, 39, DATA, stamp_of(store))
    assert store.save(KEY, 40, DATA, stamp_of(store))
    assert store.usage().size_bytes <= limit
    assert store.load(KEY, 0, anything) is not None
    assert store.load(KEY, 1, anything) is None
    assert store.load(KEY, 38, anything) is not None
    assert store.load(KEY, 40, anything) is not None


def test_what_must_stay_free(store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: `cache_min_free` is left on the disk: others' files push out ours."""
    for index in range(10):
        store.save(KEY, index, DATA, stamp_of(store))
    free = [5 * PAGE]
    real = os.statvfs(tmp_path)

    def statvfs(_path: str) -> os.statvfs_result:
        gained = 10 - len([file for file in block_files(tmp_path) if not file.name.startswith(".")])
        values = list(real)
        values[1], values[4] = PAGE, free[0] // PAGE + gained
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", statvfs)
    store._min_free_bytes = 8 * PAGE
    assert store.save(KEY, 10, DATA, stamp_of(store))
    assert store.usage().blocks == 7
    free[0] = -20 * PAGE
    assert not store.save(KEY, 11, DATA, stamp_of(store))


_WRITER = """
import sys
import time
from artifactfs.content.blocks import BlockStore, Stamp
store = BlockStore(sys.argv[1], max_bytes=int(sys.argv[2]), min_free_bytes=0)
for index in range(150):
    store.save(sys.argv[3].encode() * 16, index, bytes(4000), Stamp(0.0, store.session))
    assert store.usage().size_bytes <= int(sys.argv[2]), store.usage()
"""


def test_one_limit_for_several_processes(tmp_path: Path) -> None:
    """4.4: two processes that write at once hold one limit between them."""
    limit = 100 * PAGE
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), str(limit), name], stderr=subprocess.PIPE)
        for name in "ab"
    ]
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == b""
        assert writer.returncode == 0
    assert 0 < store_in(tmp_path).usage().size_bytes <= limit


@pytest.mark.parametrize("damage", [b"", b"\0" * 12, b"\xff" * 12, b"junk that is longer than it should be"])
def test_a_damaged_count_is_counted_anew(tmp_path: Path, damage: bytes) -> None:
    """4.4: the limit holds also after the count of what is there was lost or damaged."""
    limit = 40 * PAGE
    store = store_in(tmp_path, max_bytes=limit)
    for index in range(38):
        store.save(KEY, index, DATA, stamp_of(store))
    (tmp_path / "blocks-1" / "usage").write_bytes(damage)
    for index in range(38, 60):
        assert store.save(KEY, index, DATA, stamp_of(store))
        assert store.usage().size_bytes <= limit


def test_usage_verify_and_clear(tmp_path: Path, store: BlockStore) -> None:
    """4.4: what is there is counted, what is damaged is found and deleted, and all of it goes when asked."""
    for index in range(3):
        store.save(KEY, index, DATA, stamp_of(store))
    store.save(OTHER, 0, DATA, stamp_of(store))
    usage = store.usage()
    assert (usage.size_bytes, usage.blocks, usage.files) == (4 * PAGE, 4, 2)
    victim = block_files(tmp_path)[1]
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    assert [path for path, _ in store.verify()] == [str(victim)]
    assert list(store.verify()) == []
    assert store.usage().blocks == 3
    assert store.clear().blocks == 3
    assert store.usage().size_bytes == 0
    assert not block_files(tmp_path)
    assert store.save(KEY, 0, DATA, stamp_of(store))


def test_what_is_evicted_while_it_is_verified_is_not_damaged(store: BlockStore) -> None:
    """4.4: a block that goes in this moment is no damage."""
    store.save(KEY, 0, DATA, stamp_of(store))
    store.save(OTHER, 0, DATA, stamp_of(store))
    found = list(store._scan())
    store._scan = lambda: iter(found)  # type: ignore[method-assign]
    store.discard(KEY)
    assert list(store.verify()) == []


def test_another_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.2: a cache directory of somebody else's."""
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UserError) as refused:
        prepare(str(tmp_path))
    assert refused.value.code == ExitCode.CACHE_REFUSED


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    """4.4: where no directory can be made there is no cache, and no error."""
    (tmp_path / "file").write_bytes(b"")
    assert not prepare(str(tmp_path / "file" / "cache"))


def test_others_are_kept_out(tmp_path: Path) -> None:
    """6.2: a directory of ours that others could read is closed to them."""
    os.chmod(tmp_path, 0o755)
    assert prepare(str(tmp_path))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
