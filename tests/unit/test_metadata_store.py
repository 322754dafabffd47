"""artifactfs.metadata.metadata_store: what is written is loaded, changed, bounded and counted."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.metadata.metadata_store import Marking, MetadataStore, Record, Removal, StoreUsage, Verified
from tests.unit.metadata_stores import DATABASE, LOCK, NOW, SITE, of_run, opened

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MetadataStore]:
    with opened(tmp_path) as store:
        yield store


def test_what_is_written_is_there_after_a_remount(tmp_path: Path) -> None:
    """8.1: a record is loaded as it was written, by another store of the same directory."""
    record = Record("run", 70158, b"\0\xff", b"\0value" * 1000, 1234.5678, True)
    with opened(tmp_path) as store:
        scope = store.scope(SITE, "me")
        assert store.write(scope, [record, *of_run(1)])
    with opened(tmp_path) as store:
        assert store.scope(SITE, "me") == scope
        assert store.load(scope, "run", 70158, b"\0\xff") == [record]
        assert list(store.records(scope, 1, "listing")) == of_run(1)
        # Each part of the place counts.
        assert store.load(scope, "runs", 70158, b"\0\xff") == []
        assert store.load(scope, "run", 70159, b"\0\xff") == []
        assert store.load(scope, "run", 70158, b"\0") == []
        assert store.load(scope + 1, "run", 70158, b"\0\xff") == []


def test_the_files_are_private_and_name_no_site(tmp_path: Path) -> None:
    """6.2: files are 0600 whatever the umask, and no URL is in them."""
    previous = os.umask(0)
    try:
        with opened(tmp_path) as store:
            store.write(store.scope(SITE, "me"), of_run(1))
            names = {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK}
            assert {path.name for path in tmp_path.iterdir()} == names
            assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
            assert not any(b"datadoghq" in path.read_bytes() for path in tmp_path.iterdir())
    finally:
        os.umask(previous)


def test_neighbours_come_in_the_order_of_keys(store: MetadataStore) -> None:
    """8.1: after the record come those behind it, of its kind and run, up to a number and to a size."""
    keys = [b"", b"a", b"a\0", b"a/b", b"ab", b"\xff", b"\xff\xff"]
    records = [Record("listing", 5, key, b"x" * 100, 1.0) for key in keys]
    others = [Record("listing", 6, b"a", b"y", 1.0), Record("names", 5, b"a", b"z", 1.0)]
    assert store.write(1, [*reversed(records), *others])
    assert store.load(1, "listing", 5, b"a", most=4) == records[1:5]
    assert store.load(1, "listing", 5, b"", most=100) == records
    assert store.load(1, "listing", 5, b"\xff", most=100) == records[5:]
    assert store.load(1, "listing", 5, b"a", most=100, most_bytes=350) == records[1:4]
    assert store.load(1, "listing", 5, b"a", most=100, most_bytes=0) == records[1:2]
    assert store.load(1, "listing", 5, b"a-", most=100) == []
    many = of_run(9, 1000)
    assert store.write(1, many)
    assert list(store.records(1, 9, "listing")) == many


def test_older_never_replaces_newer(store: MetadataStore) -> None:
    """8.1: the answer to an earlier request comes later, and does not replace the newer one."""
    old, new = (Record("listing", 1, b"", value, at) for value, at in ((b"old", 10.0), (b"new", 20.0)))
    assert store.write(1, [new, old])
    assert store.load(1, "listing", 1, b"") == [new]
    assert store.write(1, [old])
    assert store.load(1, "listing", 1, b"") == [new]
    again = Record("listing", 1, b"", b"again", 20.0)
    assert store.write(1, [again])
    assert store.load(1, "listing", 1, b"") == [again]


def test_a_time_in_the_future_keeps_nothing_out(store: MetadataStore) -> None:
    """8.1: a record of when the clock was wrong is replaced."""
    new = Record("listing", 1, b"", b"new", NOW)
    assert store.write(1, [Record("listing", 1, b"", b"wrong", NOW + 1), new])
    assert store.load(1, "listing", 1, b"") == [new]


def test_marks_and_removals(store: MetadataStore) -> None:
    """8.2: they hold for a key, a kind, a run or all, for what was written before them, and for one account."""

    def stale(scope: int = 1) -> set[tuple[str, int, bytes]]:
        kinds = [(kind, run_id) for kind in ("a", "b") for run_id in (0, 1, 2)]
        return {
            (kind, run_id, record.key)
            for kind, run_id in kinds
            for record in store.records(scope, run_id, kind)
            if record.is_stale
        }

    places = {(kind, run_id, key) for kind in ("a", "b") for run_id in (0, 1, 2) for key in (b"k", b"l")}
    records = [Record(kind, run_id, key, b"v", 1.0) for kind, run_id, key in sorted(places)]
    for scope in (1, 2):
        assert store.write(scope, records)
    assert store.write(1, [Marking(1, "a", b"k")])
    assert stale() == {("a", 1, b"k")}
    assert store.write(1, [Marking(1, "a")])
    assert stale() == {("a", 1, b"k"), ("a", 1, b"l")}
    assert store.write(1, [Marking(), Record("a", 2, b"k", b"v", 2.0)])
    assert stale() == places - {("a", 2, b"k")}
    assert store.write(1, [Removal(1, "a", b"k"), Removal(2, "a")])
    assert stale() == places - {("a", 1, b"k"), ("a", 2, b"k"), ("a", 2, b"l")}
    assert store.write(1, [Removal(1), Record("a", 1, b"k", b"after", 0.5)])
    assert list(store.records(1, 1, "a")) == [Record("a", 1, b"k", b"after", 0.5)]
    assert stale(2) == set()
    assert store.verify() == Verified(7 + 12, 0)


def test_the_last_account_of_a_site(store: MetadataStore) -> None:
    """8.3: the account that was used last is known by site; accounts have scopes of their own."""
    assert store.last_account(SITE) is None
    mine = store.scope(SITE, "me")
    assert store.last_account(SITE) == "me"
    yours = store.scope(SITE, "you \udcff")
    assert store.last_account(SITE) == "you \udcff"
    assert store.last_account("https://api.datadoghq.eu") is None
    assert len({mine, yours, store.scope("https://api.datadoghq.eu", "me")}) == 3
    assert store.scope(SITE, "me") == mine
    assert store.last_account(SITE) == "me"


def test_usage(store: MetadataStore) -> None:
    """8.4: runs, records and the oldest of them are counted, over all accounts."""
    assert store.usage() == StoreUsage(store.usage().size_bytes, 64 * MIB, 0, 0, None)
    assert store.write(1, [*of_run(1, at=50.0), *of_run(0, at=40.0)])
    assert store.write(2, of_run(1, at=60.0))
    found = store.usage()
    assert (found.runs, found.records, found.oldest_at) == (2, 60, 40.0)
    assert 60 * 500 < found.size_bytes < 64 * MIB
