"""artifactfs.metadata: a damaged database gives records as they were written or none, and is replaced."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from artifactfs.metadata.metadata_store import MetadataStore, Record, Verified
from tests.harness import needs_root
from tests.unit.metadata_stores import DATABASE, LOCK, NOW, SITE, filled, of_run, opened

PAGE = 4096
WAL, SHM = f"{DATABASE}-wal", f"{DATABASE}-shm"


class Damaged:
    """A database at rest, and one with its last writes in the log, as a killed process leaves it; made once."""

    def __init__(self, path: Path) -> None:
        self.at_rest, self.with_log = path / "at-rest", path / "with-log"
        self.at_rest.mkdir()
        self.scope = filled(self.at_rest)
        shutil.copytree(self.at_rest, self.with_log / "open")
        with opened(self.with_log / "open") as store:
            for run_id in (12, 13, 14):
                assert store.write(self.scope, of_run(run_id))
            shutil.copytree(self.with_log / "open", self.with_log / "killed")
        self.with_log /= "killed"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    return Damaged(tmp_path_factory.mktemp("metadata"))


def flip(file: BinaryIO, size: int, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 20, 500))):
        _flip_at(file, chance.randrange(size), chance)


def flip_in_header(file: BinaryIO, size: int, chance: random.Random) -> None:
    _flip_at(file, chance.randrange(min(size, 120)), chance)


def _flip_at(file: BinaryIO, offset: int, chance: random.Random) -> None:
    file.seek(offset)
    byte = file.read(1)[0]
    file.seek(offset)
    file.write(bytes([byte ^ (1 << chance.randrange(8))]))


def cut(file: BinaryIO, size: int, chance: random.Random) -> None:
    file.truncate(chance.randrange(size))


def cut_pages(file: BinaryIO, size: int, chance: random.Random) -> None:
    file.truncate(max(0, size - PAGE * chance.randrange(1, 40)))


def garbage(file: BinaryIO, size: int, chance: random.Random) -> None:
    file.write(chance.randbytes(size))


def garbage_in_page(file: BinaryIO, size: int, chance: random.Random) -> None:
    file.seek(chance.randrange(size // PAGE) * PAGE)
    file.write(chance.choice((chance.randbytes(PAGE), bytes(PAGE))))


def swap_pages(file: BinaryIO, size: int, chance: random.Random) -> None:
    """Exchange two pages, each of which is as it was written."""
    pages = [chance.randrange(size // PAGE) * PAGE for _ in range(2)]
    contents = []
    for offset in pages:
        file.seek(offset)
        contents.append(file.read(PAGE))
    for offset, content in zip(pages, reversed(contents), strict=True):
        file.seek(offset)
        file.write(content)


def check_records(store: MetadataStore, scope: int, marks_kept: bool) -> None:
    """Load some records of each run, with neighbours: each is one that was written."""
    for run_id in range(15):
        written = {record.key: record for record in of_run(run_id)}
        for key in (b"dir/0000", b"dir/0011"):
            found = store.load(scope, "listing", run_id, key, most=7)
            assert not found or found[0].key == key
            for record in found:
                is_stale = run_id == 7 and (marks_kept or record.is_stale)
                expected = written[record.key]
                assert record == Record("listing", run_id, record.key, expected.value, 100.0, is_stale)
    assert store.last_account(SITE) in (None, "me")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("file", [DATABASE, WAL, SHM])
@pytest.mark.parametrize(
    "damage",
    [flip, flip_in_header, cut, cut_pages, garbage, garbage_in_page, swap_pages],
    ids=lambda each: each.__name__,
)
def test_no_damage_gives_a_wrong_record(
    damage: Callable[[BinaryIO, int, random.Random], None],
    file: str,
    is_open: bool,
    seed: int,
    damaged: Damaged,
    tmp_path: Path,
) -> None:
    """8.5: bits flipped, pages cut off, exchanged or overwritten, under an open store or a closed one.

    What is loaded is what was written, nothing raises, and the store works again after two more mounts.
    """
    chance = random.Random(f"{damage.__name__} {file} {is_open} {seed}")
    source = damaged.with_log if file != DATABASE or chance.random() < 0.5 else damaged.at_rest
    shutil.copytree(source, tmp_path / "cache")
    store = MetadataStore(str(tmp_path / "cache"), max_bytes=64 << 20, clock=lambda: NOW)
    if is_open:
        assert store.open()
    with open(tmp_path / "cache" / file, "r+b") as opened_file:
        if size := os.path.getsize(tmp_path / "cache" / file):
            damage(opened_file, size, chance)
    for _ in range(3):
        store.open()
        # The end of a damaged log is lost. In the test, the mark was written before it.
        check_records(store, damaged.scope, marks_kept=True)
        store.write(damaged.scope, of_run(14))
        store.verify()
        check_records(store, damaged.scope, marks_kept=True)
        store.close()
        store = MetadataStore(str(tmp_path / "cache"), max_bytes=64 << 20, clock=lambda: NOW)
    assert store.open()
    assert store.write(damaged.scope, of_run(14))
    assert store.load(damaged.scope, "listing", 14, b"dir/0000", most=20) == of_run(14)
    store.close()


def test_a_damaged_value_is_missing_and_is_written_again(tmp_path: Path) -> None:
    """8.5: one record is missing, its neighbours are there; verify counts and deletes it."""
    with opened(tmp_path) as store:
        assert store.write(1, of_run(1))
    content = (tmp_path / DATABASE).read_bytes()
    place = content.index(of_run(1)[5].value)
    with open(tmp_path / DATABASE, "r+b") as file:
        _flip_at(file, place + 3, random.Random(1))
    whole = [record for record in of_run(1) if record.key != b"dir/0005"]
    with opened(tmp_path) as store:
        assert store.load(1, "listing", 1, b"dir/0000", most=20) == whole
        assert store.load(1, "listing", 1, b"dir/0005") == []
        assert list(store.records(1, 1, "listing")) == whole
        # The first write after that deletes it, and so an older one can replace it.
        assert store.usage().records == 20
        assert store.write(1, [Record("listing", 1, b"dir/0005", b"older", 99.0)])
        assert store.load(1, "listing", 1, b"dir/0005")[0].value == b"older"
    with open(tmp_path / DATABASE, "r+b") as file:
        _flip_at(file, (tmp_path / DATABASE).read_bytes().index(of_run(1)[6].value), random.Random(1))
    with opened(tmp_path) as store:
        assert store.verify() == Verified(19, 1)
        assert store.verify() == Verified(19, 0)


def test_each_part_of_a_record_counts(tmp_path: Path) -> None:
    """8.5: a record that lies in another place, has another time, or lost its mark, is missing."""
    with opened(tmp_path) as store:
        assert store.write(1, of_run(1))
    for change in (
        "scope = 2", "run_id = 2", "kind = 'other'", "key = 'dir/9999'", "requested_at = 101.0", "is_stale = 1",
        "value_id = 12", "value_id = 99", "checksum = ~checksum", "kind = x'00'", "requested_at = 'soon'",
    ):  # fmt: skip
        shutil.copytree(tmp_path, tmp_path.parent / "copy", dirs_exist_ok=True)
        with sqlite3.connect(tmp_path.parent / "copy" / DATABASE) as db:
            assert db.execute(f"UPDATE record SET {change} WHERE key = CAST('dir/0000' AS BLOB)").rowcount == 1
        db.close()
        with opened(tmp_path.parent / "copy") as store:
            places = [(scope, run_id, kind) for scope in (1, 2) for run_id in (1, 2) for kind in ("listing", "other")]
            found = [record for place in places for record in store.records(*place)]
            assert found == of_run(1)[1:], change
            assert store.has(1, "listing", 1)
            assert store.verify().damaged == 1


def test_records_out_of_order_are_no_neighbours(tmp_path: Path) -> None:
    """8.5: where the database has records in another order than that of their keys, none comes twice or too early."""
    with opened(tmp_path) as store:
        assert store.write(1, of_run(1))
    content = bytearray((tmp_path / DATABASE).read_bytes())
    # The page of the table's rows, and the places of its cells (https://www.sqlite.org/fileformat2.html#b_tree_pages).
    page = content.index(b"listingdir/0003") // PAGE * PAGE
    assert content[page : page + 1] == b"\x0a"
    cells = [int.from_bytes(content[at : at + 2]) for at in range(page + 8, page + 8 + 2 * 20, 2)]
    cells[4], cells[12], cells[15] = cells[12], cells[4], cells[14]
    content[page + 8 : page + 48] = b"".join(cell.to_bytes(2) for cell in cells)
    (tmp_path / DATABASE).write_bytes(content)
    with opened(tmp_path) as store:
        for record in of_run(1):
            found = store.load(1, "listing", 1, record.key, most=20)
            keys = [neighbour.key for neighbour in found]
            assert keys == sorted(set(keys))
            assert not keys or keys[0] == record.key
            assert all(neighbour in of_run(1) for neighbour in found)
        assert not store.verify().is_whole


def test_a_damaged_account_is_unknown(tmp_path: Path) -> None:
    """8.3: a site whose row is damaged has no last account, never another one."""
    with opened(tmp_path) as store:
        store.scope(SITE, "me")
        store.scope("https://api.datadoghq.eu", "you")
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("UPDATE site SET account = 'ne' WHERE account = CAST('me' AS BLOB)")
    db.close()
    with opened(tmp_path) as store:
        assert store.last_account(SITE) is None
        assert store.last_account("https://api.datadoghq.eu") == "you"


@pytest.mark.parametrize("form", ["empty", "garbage", "another format", "no tables", "other tables"])
def test_what_is_no_database_of_ours_is_replaced(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8.5: an empty file, garbage, and a database of another format are replaced, with one line in the log."""
    scope = filled(tmp_path)
    path = tmp_path / DATABASE
    if form in ("empty", "garbage"):
        path.write_bytes(b"" if form == "empty" else random.Random(1).randbytes(100_000))
    else:
        with sqlite3.connect(path) as db:
            db.execute({"another format": "PRAGMA user_version=2", "no tables": "DROP TABLE run"}.get(form, "SELECT 1"))
            if form == "other tables":
                db.execute("CREATE TABLE more(id)")
        db.close()
    with opened(tmp_path) as store:
        assert not store.load(scope, "listing", 1, b"dir/0000")
        assert not store.verify().is_whole
        assert store.write(scope, of_run(1))
    with opened(tmp_path) as store:
        assert store.load(scope, "listing", 1, b"dir/0000", most=20) == of_run(1)
        assert store.verify() == Verified(20, 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is damaged: it is deleted" in caplog.text


def refused(path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Check that a store does not open, says so in one line, and then does nothing; returns the reason."""
    store = MetadataStore(str(path), max_bytes=1 << 20)
    assert not store.open()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == f"no metadata is kept in {path}: {store.failure}"
    assert store.scope(SITE, "me") == MetadataStore("/", max_bytes=0).scope(SITE, "me")
    assert not store.write(1, of_run(1))
    assert store.load(1, "listing", 1, b"dir/0000") == []
    assert list(store.records(1, 1, "listing")) == []
    assert store.last_account(SITE) is None
    assert (store.usage().records, store.verify(), store.clear()) == (0, Verified(0, 0), None)
    store.close()
    return store.failure


def test_a_database_of_another_program_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8.5: what has tables of another program is not ours to delete."""
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("CREATE TABLE letters(id)")
    db.close()
    before = (tmp_path / DATABASE).read_bytes()
    assert "another program's" in refused(tmp_path, caplog)
    assert (tmp_path / DATABASE).read_bytes() == before


@pytest.mark.parametrize("name", [DATABASE, WAL, SHM, f"{DATABASE}-journal", LOCK])
@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_what_is_no_file_is_not_used(kind: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8.5: a directory, a link or a pipe in the place of a file of the database; a link's target stays as it is."""
    cache, target = tmp_path / "cache", tmp_path / "target"
    cache.mkdir()
    target.write_bytes(b"mine")
    if name != DATABASE:
        filled(cache)
        (cache / name).unlink(missing_ok=True)
    if kind == "directory":
        (cache / name).mkdir()
    elif kind == "link":
        (cache / name).symlink_to(target)
    else:
        os.mkfifo(cache / name)
    assert f"rm -r {cache / name}" in refused(cache, caplog)
    assert target.read_bytes() == b"mine"


@needs_root
def test_files_of_another_user_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """6.2: a database that another user made is not read."""
    filled(tmp_path)
    os.chown(tmp_path / DATABASE, 12345, 12345)
    assert "no file of yours" in refused(tmp_path, caplog)


def test_without_a_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8.5: where the cache directory is missing, nothing is made."""
    assert refused(tmp_path / "none", caplog) == "No such file or directory"
    assert not (tmp_path / "none").exists()
    # In the report `errors` an exception of a library is a bug of ours.
    assert not [arg for record in caplog.records for arg in record.args or () if isinstance(arg, BaseException)]


def test_turned_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8.4: size 0 opens nothing, makes nothing and says nothing."""
    store = MetadataStore(str(tmp_path), max_bytes=0)
    assert not store.open()
    assert not store.write(1, of_run(1))
    assert not os.listdir(tmp_path)
    assert not caplog.records
