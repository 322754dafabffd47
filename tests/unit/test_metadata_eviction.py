"""artifactfs.metadata: how the store keeps to its size, and how it is emptied."""

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from artifactfs.metadata.metadata_store import Marking, MetadataStore, Record, Removal
from tests.unit.metadata_stores import DATABASE, SITE, of_run, opened

MIB = 1 << 20
LIMIT = 4 * MIB
SCOPE = 7


class Hours:
    """A clock that a test moves by hours."""

    def __init__(self) -> None:
        self.now = 100

    def __call__(self) -> float:
        return self.now * 3600.0


def runs_in(store: MetadataStore, of_each: int = 500) -> set[int]:
    """Return the runs that are kept, without using them; `of_each` records at least, or none."""
    counts = {run_id: len(list(store.records(SCOPE, run_id, "listing"))) for run_id in range(1, 60)}
    assert not any(0 < count < of_each for count in counts.values())
    return {run_id for run_id, count in counts.items() if count}


def write_runs(store: MetadataStore, clock: Hours, *run_ids: int) -> None:
    for run_id in run_ids:
        clock.now += 2
        assert store.write(SCOPE, of_run(run_id, 500, size=1000))


def test_the_run_that_was_used_least_recently_goes(tmp_path: Path) -> None:
    """8.4: whole runs go, least recently used first; loading a run is a use, also over a remount."""
    clock = Hours()
    with opened(tmp_path, max_bytes=LIMIT, clock=clock) as store:
        write_runs(store, clock, 1, 2, 3, 4, 5, 6)
        assert runs_in(store) == {1, 2, 3, 4, 5, 6}
        clock.now += 2
        assert store.load(SCOPE, "listing", 1, b"dir/0000")
    with opened(tmp_path, max_bytes=LIMIT, clock=clock) as store:
        write_runs(store, clock, 7, 8)
        kept = runs_in(store)
        assert kept >= {1, 6, 7, 8}
        assert 2 not in kept


def test_writing_is_a_use(tmp_path: Path) -> None:
    """8.4: a run of which something was written lately stays longer than runs that were not."""
    clock = Hours()
    with opened(tmp_path, max_bytes=LIMIT, clock=clock) as store:
        write_runs(store, clock, 1, 2, 3, 4, 5, 6)
        clock.now += 2
        assert store.write(SCOPE, of_run(1, 1, size=1000))
        write_runs(store, clock, 7, 8)
        kept = runs_in(store)
        assert kept >= {1, 6, 7, 8}
        assert 2 not in kept


def test_the_store_stays_below_its_limit(tmp_path: Path) -> None:
    """8.4: the pages in use are below the limit after each write, and the file does not grow on."""
    clock = Hours()
    with opened(tmp_path, max_bytes=LIMIT, clock=clock) as store:
        for run_id in range(1, 25):
            write_runs(store, clock, run_id)
            assert store.usage().size_bytes <= LIMIT
        assert os.path.getsize(tmp_path / DATABASE) <= LIMIT * 1.25
        assert runs_in(store) >= {22, 23, 24}
        assert store.verify().damaged == 0
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as db:
            assert db.execute("SELECT count(*) FROM run").fetchone() == (store.usage().runs,)


def test_the_log_is_emptied_when_it_has_grown(tmp_path: Path) -> None:
    """8.4: a reader of another process keeps SQLite from starting its log again; once that is gone, it is cut."""
    log = tmp_path / f"{DATABASE}-wal"
    with opened(tmp_path, max_bytes=64 * MIB) as store:
        assert store.write(SCOPE, of_run(1))
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM record").fetchone() == (20,)
            assert store.write(SCOPE, [Record("listing", 2, b"%d" % index, bytes(MIB), 1.0) for index in range(15)])
            assert 15 * MIB < os.path.getsize(log) < 16 * MIB
        # In this write the log grows past 16 MiB, and nothing reads it any more.
        assert store.write(SCOPE, [Record("listing", 3, b"", bytes(2 * MIB), 1.0)])
        assert os.path.getsize(log) < 5 * MIB


def test_pinned_runs_stay(tmp_path: Path) -> None:
    """8.4: a pinned run stays whatever comes, until it is pinned no more."""
    clock, pinned = Hours(), {1}
    with opened(tmp_path, max_bytes=LIMIT, clock=clock, is_pinned=pinned.__contains__) as store:
        write_runs(store, clock, *range(1, 20))
        assert 1 in runs_in(store)
        pinned.clear()
        write_runs(store, clock, *range(30, 37))
        assert 1 not in runs_in(store)


def test_runs_used_within_an_hour_of_a_remount_are_no_older_than_that(tmp_path: Path) -> None:
    """8.4: a run that was evicted and is written again within the hour is in use."""
    clock = Hours()
    with opened(tmp_path, max_bytes=LIMIT, clock=clock) as store:
        write_runs(store, clock, 1, 2, 3, 4, 5, 6)
        assert store.write(SCOPE, [Removal(6)])
        assert store.write(SCOPE, of_run(6, 500, size=1000))
        write_runs(store, clock, 7, 8)
        assert runs_in(store) >= {6, 7, 8}


def test_where_everything_is_pinned_nothing_goes_and_nothing_comes(tmp_path: Path) -> None:
    """8.4: a store full of pinned runs takes no more records; deletions and marks hold still."""
    clock = Hours()
    with opened(tmp_path, max_bytes=LIMIT, clock=clock, is_pinned=lambda _: True) as store:
        write_runs(store, clock, 1, 2, 3, 4, 5, 6)
        gone = Removal(2, "listing", b"dir/0000")
        assert not store.write(SCOPE, [gone, Marking(1), *of_run(8, 500, size=1000)])
        assert runs_in(store, of_each=499) == {1, 2, 3, 4, 5, 6}
        assert all(record.is_stale for record in store.records(SCOPE, 1, "listing"))
        # There is room after this, which is tried after a while.
        assert not store.write(SCOPE, [Removal(2), *of_run(8)])
        write_runs(store, clock, 8)
        assert runs_in(store, of_each=500) == {1, 3, 4, 5, 6, 8}


def test_a_run_that_is_larger_than_the_store(tmp_path: Path) -> None:
    """8.4: it does not drive out the others for nothing, and what is kept of it stays."""
    clock = Hours()
    with opened(tmp_path, max_bytes=LIMIT, clock=clock) as store:
        write_runs(store, clock, 1, 2)
        large = [Record("listing", 50, b"%d" % index, b"x" * MIB, 1.0) for index in range(8)]
        done = [store.write(SCOPE, [record]) for record in large]
        assert (done[0], done[-1]) == (True, False)
        assert list(store.records(SCOPE, 50, "listing")) == large[: sum(done)]
        assert not store.write(SCOPE, [Record("listing", 51, b"", b"x" * (5 * MIB), 1.0)])
        assert store.usage().size_bytes <= LIMIT


def test_records_of_no_run_keep_a_quarter(tmp_path: Path) -> None:
    """8.4: lists of runs and projects go before runs do, oldest first, down to a quarter of the store."""
    clock = Hours()
    with opened(tmp_path, max_bytes=LIMIT, clock=clock) as store:
        lists = [Record("runs", 0, b"%04d" % index, b"x" * 1000, 1000.0 + index) for index in range(2000)]
        assert store.write(SCOPE, lists)
        write_runs(store, clock, 1, 2, 3)
        assert runs_in(store) == {1, 2, 3}
        left = list(store.records(SCOPE, 0, "runs"))
        assert 900 < len(left) < 2000
        assert left == lists[-len(left) :]
        write_runs(store, clock, *range(4, 14))
        left = list(store.records(SCOPE, 0, "runs"))
        assert left == lists[-len(left) :]
        assert 0.15 * LIMIT < len(left) * 1000 < 0.25 * LIMIT


def test_a_smaller_limit_holds_from_the_first_write(tmp_path: Path) -> None:
    """8.4: a store that was larger shrinks, and its file with it."""
    clock = Hours()
    with opened(tmp_path, clock=clock) as store:
        write_runs(store, clock, *range(1, 20))
    with opened(tmp_path, max_bytes=LIMIT, clock=clock) as store:
        for at in range(10):
            assert store.write(SCOPE, [Record("listing", 90, b"%d" % at, b"", 1.0)])
        assert store.usage().size_bytes <= LIMIT
    assert os.path.getsize(tmp_path / DATABASE) < 2 * LIMIT


@pytest.mark.parametrize("keep_pinned", [True, False])
def test_clear(keep_pinned: bool, tmp_path: Path) -> None:
    """4.4: all is deleted except pinned runs, if these are to stay; the disk has its space again."""
    clock = Hours()
    with opened(tmp_path, clock=clock, is_pinned=lambda run_id: run_id == 2) as store:
        assert store.scope(SITE, "me")
        write_runs(store, clock, 1, 2, 3, 4, 5)
        assert store.write(SCOPE, of_run(0))
        before = store.usage().size_bytes
        freed = store.clear(keep_pinned=keep_pinned)
        assert freed == pytest.approx(before - store.usage().size_bytes, abs=0.01 * before)
        assert runs_in(store) == ({2} if keep_pinned else set())
        assert store.usage().records == (500 if keep_pinned else 0)
        # Offline, what is pinned is shown by the account that the site was used with last.
        assert store.last_account(SITE) == ("me" if keep_pinned else None)
        assert os.path.getsize(tmp_path / DATABASE) < before / 3
        assert store.clear(keep_pinned=False) is not None
        assert store.usage().records == 0


def test_what_is_locked_is_not_cleared(tmp_path: Path) -> None:
    """8.9: while another process writes, nothing is deleted, and nothing says that it is."""
    with opened(tmp_path) as store:
        assert store.write(SCOPE, of_run(1))
        other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store.clear() is None
        other.close()
        assert store.usage().records == 20


def test_a_loss_that_is_made_good(tmp_path: Path) -> None:
    """8.6: what could not be written once, and is written again for a pin, is there."""
    with opened(tmp_path) as store:
        other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert not store.write(SCOPE, of_run(1))
        other.close()
        assert store.has_lost(SCOPE, 1)
        store.forget_loss(SCOPE, 1)
        assert not store.has_lost(SCOPE, 1)
