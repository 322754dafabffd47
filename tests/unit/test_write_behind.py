"""artifactfs.metadata.write_behind: when changes are written, on a virtual clock."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs.metadata import write_behind
from artifactfs.metadata.metadata_store import Change, MetadataStore, Record
from artifactfs.metadata.write_behind import Name, WriteBehind
from tests.fakes import NOW_NS
from tests.stores import behind, store_in

NAMES: list[Name] = [("listing", 7, bytes([number])) for number in range(3)]


@asynccontextmanager
async def writing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[WriteBehind, list[int]]]:
    """Give a store as the loop sees it, and the number of changes in each of its transactions so far."""
    transactions: list[int] = []
    write = MetadataStore.write

    def counted(self: MetadataStore, scope: int, changes: Sequence[Change]) -> bool:
        transactions.append(len(changes))
        return write(self, scope, changes)

    monkeypatch.setattr(MetadataStore, "write", counted)
    async with trio.open_nursery() as nursery:
        yield behind(store_in(directory), nursery), transactions


def put(made: WriteBehind, *names: Name) -> None:
    for name in names:
        made.put(name, NOW_NS / 1e9, lambda: lambda: b"a value")


async def test_records_gather(autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.1: what comes within a moment is written in one transaction, and no later than that."""
    async with writing(tmp_path, monkeypatch) as (made, transactions):
        for name in NAMES:
            put(made, name)
            await trio.sleep(0.01)
        assert not transactions
        await trio.sleep(0.03)
        assert transactions == [3]


async def test_many_records_do_not_wait(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.1: what fills a transaction is written at once, so a mount that is killed loses no more than a moment."""
    async with writing(tmp_path, monkeypatch) as (made, transactions):
        put(made, *(("listing", 7, b"%d" % number) for number in range(1_700)))
        await trio.sleep(0.06)
        assert transactions == [500, 500, 500, 200]


async def test_what_gathers_at_a_change_of_accounts(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6.3: it is dropped, and the other account begins with what comes then."""
    async with writing(tmp_path, monkeypatch) as (made, transactions):
        put(made, *NAMES)
        await trio.sleep(0.01)
        made.switch_owner("site\0other")
        await trio.sleep(0.1)
        assert not transactions
        put(made, NAMES[0])
        await trio.sleep(0.1)
        assert transactions == [1]


async def test_a_reader_waits_for_no_others(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.1: a record that is asked for, and the end of a mount, have what gathers written at once."""
    async with writing(tmp_path, monkeypatch) as (made, transactions):
        began = trio.current_time()
        put(made, *NAMES)
        assert [record.key for record in await made.load(NAMES[1])] == [NAMES[1][2]]
        put(made, NAMES[0])
        await made.flush()
        assert transactions == [3, 1]
        assert trio.current_time() == began


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_deletion_does_not_wait(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """8.2: what is outdated is deleted or marked at once, whatever gathers: a killed mount must not leave it."""
    async with writing(tmp_path, monkeypatch) as (made, transactions):
        if not is_first:
            put(made, *NAMES)
            await trio.sleep(0.01)
        made.mark_stale(7)
        await wait_all_tasks_blocked()
        assert transactions == [1 if is_first else 4]


@asynccontextmanager
async def reading(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[WriteBehind, list[Name]]]:
    """Give a store as the loop sees it, and the names for which it was read so far."""
    reads: list[Name] = []
    load = MetadataStore.load

    def counted(self: MetadataStore, scope: int, kind: str, run_id: int, key: bytes, **more: int) -> list[Record]:
        reads.append((kind, run_id, key))
        return load(self, scope, kind, run_id, key, **more)

    monkeypatch.setattr(MetadataStore, "load", counted)
    async with writing(directory, monkeypatch) as (made, _):
        yield made, reads


async def test_runs_that_are_not_there_take_no_memory(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.1: which runs the store lacks is known of some of them; of the others, the latest first, it is read again."""
    monkeypatch.setattr(write_behind, "_MAX_NEW_RUNS", 5)
    async with reading(tmp_path, monkeypatch) as (made, reads):
        for run_id in (*range(1, 9), 8, 5, 1):
            assert await made.load(("listing", run_id, b"")) == []
        assert [run_id for _, run_id, _ in reads] == [*range(1, 9), 1]
        put(made, ("listing", 8, b""))
        assert len(await made.load(("listing", 8, b""))) == 1


async def test_a_new_run_is_read_for_what_was_stored_since(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.1: a cold walk takes no thread for each directory; what a mount stored itself is found."""
    async with reading(tmp_path, monkeypatch) as (made, reads):
        assert await made.load(NAMES[0]) == []
        put(made, NAMES[0])
        for name in NAMES[1:]:
            assert await made.load(name) == []
        assert len(await made.load(NAMES[0])) == 1
        assert reads == [NAMES[0]] * 2


async def test_what_waits_at_the_first_read_of_a_new_run(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.1: a record that was stored before its run was looked for, and is not written yet, is found."""
    async with reading(tmp_path, monkeypatch) as (made, _):
        put(made, NAMES[0])
        assert await made.load(NAMES[1]) == []
        assert len(await made.load(NAMES[0])) == 1


async def test_new_records_are_bounded(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.1: of a run of which more is stored than is remembered, the store is read again."""
    monkeypatch.setattr(write_behind, "_MAX_NEW_RECORDS", 2)
    async with reading(tmp_path, monkeypatch) as (made, reads):
        assert await made.load(NAMES[0]) == []
        put(made, *NAMES)
        assert len(await made.load(NAMES[2])) == 1
        assert await made.load(("listing", 7, b"another")) == []
        assert reads[1:] == [NAMES[2], ("listing", 7, b"another")]
