"""artifactfs.metadata: several processes at once, killed processes, full disks, and databases that go away."""

import contextlib
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.metadata import metadata_file
from artifactfs.metadata.metadata_store import Marking, MetadataStore, Removal, Verified
from artifactfs.util import mountinfo
from artifactfs.util.mountinfo import Mount
from tests.harness import END_S, needs_root, run
from tests.unit.metadata_stores import DATABASE, LOCK, NOW, SITE, of_run, opened

MIB = 1 << 20
# Writes batches of 50 records of a run for ever, or as many as it is given, with a line after each.
_WRITER = """
import sys
from artifactfs.metadata.metadata_store import MetadataStore, Record
path, run_id, count, size = sys.argv[1], *map(int, sys.argv[2:5])
store = MetadataStore(path, max_bytes=64 << 20)
print(store.open(), flush=True)
scope = store.scope("https://api.datadoghq.com", "me")
for batch in range(count):
    value = b"%d %d " % (run_id, batch) * size
    shared = Record("runs", 0, b"", value, batch + run_id / 100)
    records = [Record("listing", run_id, b"%06d" % key, value, batch + 1.0) for key in range(50)]
    print(store.write(scope, [*records, shared]), flush=True)
store.close()
"""


@contextlib.contextmanager
def writing(path: Path, run_id: int, *, count: int = 1_000_000, size: int = 100) -> Iterator[subprocess.Popen[str]]:
    """Lend a process that writes batches; it is killed at the end."""
    command = [sys.executable, "-c", _WRITER, str(path), str(run_id), str(count), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def check_batch(store: MetadataStore, scope: int, run_id: int) -> int:
    """Check that a run has the records of one batch, all of it; returns its number, -1 if there is none."""
    found = list(store.records(scope, run_id, "listing"))
    if not found:
        return -1
    assert len(found) == 50
    assert {record.requested_at for record in found} == {found[0].requested_at}
    batch = int(found[0].requested_at) - 1
    assert {record.value for record in found} == {b"%d %d " % (run_id, batch) * 100}
    return batch


@pytest.mark.parametrize("before", [None, b"", b"garbage" * 1000], ids=["none", "empty", "garbage"])
def test_several_processes_at_once(before: bytes | None, tmp_path: Path) -> None:
    """8.5: processes that make the database at once, and write it, find all that was written; a reader goes on."""
    if before is not None:
        (tmp_path / DATABASE).write_bytes(before)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(writing(tmp_path, run_id, count=40)) for run_id in (1, 2, 3)]
        assert [lines_of(writer, 1) for writer in writers] == [["True\n"]] * 3
        with opened(tmp_path) as store:
            scope = store.scope(SITE, "me")
            while any(writer.poll() is None for writer in writers):
                for run_id in (1, 2, 3):
                    assert check_batch(store, scope, run_id) >= -1
            assert [lines_of(writer, 40) for writer in writers] == [["True\n"] * 40] * 3
            assert [check_batch(store, scope, run_id) for run_id in (1, 2, 3)] == [39] * 3
            # Each wrote this one; the one that was requested last is there.
            assert store.load(scope, "runs", 0, b"")[0].requested_at == 39.03
            assert store.verify() == Verified(151, 0)
    assert {path.name for path in tmp_path.iterdir()} == {DATABASE, LOCK}


@pytest.mark.parametrize("seed", range(6))
def test_kill_9_during_writes(seed: int, tmp_path: Path) -> None:
    """8.5: after a kill at any moment, what was written is there, each batch whole, and the store works."""
    chance = random.Random(seed)
    done = 0
    for round_ in range(1, 4):
        with writing(tmp_path, round_) as writer:
            assert lines_of(writer, 1) == ["True\n"]
            done = chance.randrange(1, 30)
            assert lines_of(writer, done) == ["True\n"] * done
        with opened(tmp_path) as store:
            scope = store.scope(SITE, "me")
            assert check_batch(store, scope, round_) >= done - 1
            assert store.verify().damaged == 0
            assert store.verify().is_whole


def test_kill_9_while_the_database_is_made(tmp_path: Path) -> None:
    """8.5: what a process leaves that is killed before the tables are there is replaced."""
    (tmp_path / DATABASE).touch()
    (tmp_path / LOCK).touch()
    with opened(tmp_path) as store:
        assert store.write(1, of_run(1))


def test_reading_does_not_wait_for_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.1: while another process writes, records are loaded as they were before; a write gives up after a while."""
    monkeypatch.setattr(metadata_file, "_WRITE_WAIT_S", 0.0)
    monkeypatch.setattr(metadata_file, "_READ_WAIT_S", 0.0)
    with opened(tmp_path) as store:
        assert store.write(1, of_run(1))
        other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM record")
        assert store.load(1, "listing", 1, b"dir/0000", most=20) == of_run(1)
        assert not store.write(1, [Removal(1, "listing", b"dir/0000"), Marking(1)])
        # What was to be deleted is not shown, although it is there.
        assert store.load(1, "listing", 1, b"dir/0000") == []
        assert [record.is_stale for record in store.load(1, "listing", 1, b"dir/0001", most=20)] == [True] * 19
        other.execute("ROLLBACK")
        other.close()
        assert store.write(1, [])
    with opened(tmp_path) as store:
        assert store.load(1, "listing", 1, b"dir/0000") == []
        assert [record.is_stale for record in store.load(1, "listing", 1, b"dir/0001", most=20)] == [True] * 19


def test_threads_share_a_store(tmp_path: Path) -> None:
    """8.1: threads that read and write at once each see whole records."""
    failures: list[str] = []
    with opened(tmp_path) as store:
        assert store.write(1, of_run(1))

        def read() -> None:
            for _ in range(200):
                found = store.load(1, "listing", 1, b"dir/0000", most=20)
                if len(found) != 20 or len({record.requested_at for record in found}) != 1:
                    failures.append(f"{found}")

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for at in range(101, 200):
            assert store.write(1, of_run(1, at=float(at)))
        for thread in threads:
            thread.join(END_S)
    assert not failures


def check_full(store: MetadataStore, caplog: pytest.LogCaptureFixture, now: list[float]) -> None:
    """Fill the disk; then check that reading goes on, deletions hold, and one line says that writing fails."""
    assert store.write(1, of_run(1))
    run_id = 2
    while store.write(1, of_run(run_id, 50, size=8000)):
        run_id += 1
        assert run_id < 100
    assert store.load(1, "listing", 1, b"dir/0000", most=20) == of_run(1)
    assert not store.write(1, [Removal(1, "listing", b"dir/0000")])
    now[0] += 61.0
    # Tried again, and failed again.
    assert not store.write(1, of_run(run_id, 50, size=8000))
    assert store.load(1, "listing", 1, b"dir/0000") == []
    assert store.load(1, "listing", 1, b"dir/0001", most=20) == of_run(1)[1:]
    assert store.verify().is_whole
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert "cannot be written" in caplog.text


@needs_root
def test_a_full_disk_pauses_writing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8.5: a full disk costs what would be written, not what is there; with room again, writing goes on."""
    disk, now = tmp_path / "disk", [NOW]
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4M,mode=700", "tmpfs", str(disk)).ok()
    try:
        (disk / "ballast").write_bytes(bytes(2 * MIB))
        with opened(disk, clock=lambda: now[0]) as store:
            check_full(store, caplog, now)
            (disk / "ballast").unlink()
            now[0] += 61.0
            assert store.write(1, [Marking(1)])
            found = store.load(1, "listing", 1, b"dir/0001", most=20)
            assert [record.is_stale for record in found] == [True] * 19
            assert store.load(1, "listing", 1, b"dir/0000") == []
            assert store.verify().is_whole
    finally:
        run("umount", "-l", str(disk))


@needs_root
@pytest.mark.parametrize("form", ["full", "read-only"])
def test_a_disk_that_takes_nothing(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8.5: on a full disk, and on a read-only one, nothing is made and one line says so."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1M,mode=700", "tmpfs", str(disk)).ok()
    try:
        with contextlib.suppress(OSError):
            (disk / "ballast").write_bytes(bytes(2 * MIB))
        if form == "read-only":
            (disk / "ballast").unlink()
            with opened(disk) as store:
                assert store.write(1, of_run(1))
            run("mount", "-o", "remount,ro", str(disk)).ok()
        store = MetadataStore(str(disk), max_bytes=MIB)
        assert not store.open()
        assert store.load(1, "listing", 1, b"dir/0000") == []
        (line,) = caplog.records
        assert line.getMessage().startswith(f"no metadata is kept in {disk}: ")
    finally:
        run("umount", "-l", str(disk))


def test_a_limit_on_the_size_of_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8.5: the same where the process may write no larger file."""
    now = [NOW]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path, clock=lambda: now[0]) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
        try:
            check_full(store, caplog, now)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_database_that_is_deleted_is_made_again(tmp_path: Path) -> None:
    """8.5: a store notices when the cache was deleted under it, and does not harm the database that another made."""
    cache = tmp_path / "cache"
    cache.mkdir()
    with opened(cache) as store:
        assert store.write(1, of_run(1))
        shutil.rmtree(cache)
        cache.mkdir()
        with opened(cache) as other:
            assert other.write(1, of_run(2))
            assert store.load(1, "listing", 1, b"dir/0000") == of_run(1, 1)
            assert store.write(1, of_run(3))
            store.close()
            assert os.path.exists(f"{other.path}-wal")
            assert other.write(1, of_run(4))
    with opened(cache) as store:
        assert [bool(store.load(1, "listing", run_id, b"dir/0000")) for run_id in (1, 2, 3, 4)] == [False, *[True] * 3]
        assert store.verify() == Verified(60, 0)


def test_a_damaged_database_in_use_is_replaced_once_it_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.5: a database that another mount has open is not deleted under it; that mount notices at its next write."""
    monkeypatch.setattr(metadata_file, "_LOCK_WAIT_S", 0.0)
    with opened(tmp_path) as store:
        assert store.write(1, of_run(1))
        (tmp_path / LOCK).write_bytes(b"damaged\n")
        late = MetadataStore(str(tmp_path), max_bytes=MIB)
        assert not late.open()
        assert "another mount has it open" in late.failure
        assert store.write(1, of_run(2))
        assert store.load(1, "listing", 1, b"dir/0000") == []
        assert late.open()
        assert late.load(1, "listing", 2, b"dir/0000", most=20) == of_run(2)
        late.close()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "lustre"])
def test_a_network_disk_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.5: where several machines may share the file, there is no store."""
    path = os.path.realpath(tmp_path)
    table = [Mount("0:1", "/", "ext4", "/dev/sda"), Mount("0:99", path, kind, "server:/export")]
    monkeypatch.setattr(mountinfo, "mounts", lambda: table)
    store = MetadataStore(path, max_bytes=MIB)
    assert not store.open()
    assert store.failure == f"{kind} is not safe for it; choose a local disk with --cache-dir"
    assert not os.listdir(path)
