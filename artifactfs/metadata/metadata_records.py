"""The records of the metadata database: read, checked, written, deleted and marked within a transaction.

The checksum of a record covers all that is used of it. SQLite notices damage of its own structures only, and a value of
another record, or of another account, would look like any other.

Everything here raises sqlite3.Error.
"""

import contextlib
import math
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64

from artifactfs.metadata.metadata_format import MOST_VALUE_BYTES, signed

_HEAD = struct.Struct("<qqdII")


class Record(msgspec.Struct, frozen=True, gc=False):
    """What the service said once. `run_id`: 0 for what belongs to no run. `requested_at`: seconds since the epoch.

    `key`: unique within kind and run; neighbours in byte order are loaded together. `is_stale`: a refresh was requested
    since.
    """

    kind: str
    run_id: int
    key: bytes
    value: bytes
    requested_at: float
    is_stale: bool = False


class _Choice(msgspec.Struct, frozen=True):
    """Chooses records by run, kind and key. None: any."""

    run_id: int | None = None
    kind: str | None = None
    key: bytes | None = None

    def covers(self, record: Record) -> bool:
        """Whether it chooses a record."""
        return (
            self.run_id in (None, record.run_id) and self.kind in (None, record.kind) and self.key in (None, record.key)
        )


class Removal(_Choice, frozen=True):
    """Deletes the records of a run, or those of one kind of it, or the one of a key."""


class Marking(_Choice, frozen=True):
    """Marks records as stale, as if a refresh had been requested for them."""


Change = Record | Removal | Marking
# What identifies a record, as it lies in the database: scope, run, kind and key.
Place = tuple[object, object, object, object]


class Row(NamedTuple):
    """A record as it lies in the database. A damaged one may have values of any type, or none."""

    scope: object
    run_id: object
    kind: object
    key: object
    requested_at: object
    is_stale: object
    checksum: object
    value: object

    @property
    def place(self) -> Place:
        """What identifies it."""
        return self.scope, self.run_id, self.kind, self.key

    def record(self) -> Record | None:
        """Return the record; None if it is damaged."""
        scope, run_id, kind, key, requested_at, is_stale, expected, value = self
        if not (
            isinstance(scope, int)
            and isinstance(run_id, int)
            and isinstance(kind, bytes)
            and isinstance(key, bytes)
            and isinstance(requested_at, float)
            and isinstance(value, bytes)
            and is_stale in (0, 1)
        ):
            return None
        found = _checksum(scope, run_id, kind, key, requested_at, value)
        if expected != (~found if is_stale else found):
            return None
        return Record(kind.decode(), run_id, key, value, requested_at, bool(is_stale))


_ROWS = (
    "SELECT scope, run_id, kind, key, requested_at, is_stale, checksum, value.value"
    " FROM record LEFT JOIN value ON value.id = record.value_id"
)


def rows(db: sqlite3.Connection) -> Iterator[Row]:
    """Yield every record."""
    with contextlib.closing(db.execute(_ROWS)) as found:
        yield from map(Row._make, found)


def rows_from(db: sqlite3.Connection, scope: int, run_id: int, kind: str, key: bytes, most: int) -> Iterator[Row]:
    """Yield up to `most` records of one kind and run from a key on, in the order of keys, and no others."""
    query = f"{_ROWS} WHERE scope = ? AND run_id = ? AND kind = ? AND key >= ? ORDER BY key LIMIT ?"
    last: bytes | None = None
    wanted = (scope, run_id, kind.encode())
    with contextlib.closing(db.execute(query, (scope, run_id, kind, key, most))) as found:
        for row in map(Row._make, found):
            # A damaged tree of pages may have keys twice, or in another order.
            if row[:3] != wanted or not isinstance(row.key, bytes):
                continue
            if row.key >= key if last is None else row.key > last:
                last = row.key
                yield row


def put(db: sqlite3.Connection, scope: int, record: Record, now: float) -> None:
    """Write a record, unless it is too long or the one that is there was requested later."""
    if len(record.value) > MOST_VALUE_BYTES or not math.isfinite(record.requested_at):
        return
    place = (scope, record.run_id, record.kind, record.key)
    query = "SELECT requested_at, value_id FROM record WHERE scope = ? AND run_id = ? AND kind = ? AND key = ?"
    if (before := db.execute(query, place).fetchone()) is not None:
        at, value_id = before
        # One of the future is damaged, or the clock was wrong: it would stay for ever.
        if isinstance(at, float) and record.requested_at < at <= now:
            return
        db.execute("DELETE FROM value WHERE id = ?", (value_id,))
    value_id = db.execute("INSERT INTO value (value) VALUES (?)", (record.value,)).lastrowid
    found = _checksum(scope, record.run_id, record.kind.encode(), record.key, record.requested_at, record.value)
    rest = (record.requested_at, record.is_stale, len(record.value), ~found if record.is_stale else found, value_id)
    db.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*place, *rest))


def apply(db: sqlite3.Connection, scope: int, change: Change, now: float) -> None:
    """Make one change."""
    if isinstance(change, Record):
        put(db, scope, change, now)
        return
    columns = {"scope": scope, "run_id": change.run_id, "kind": change.kind, "key": change.key}
    wanted = {name: value for name, value in columns.items() if value is not None}
    condition, values = " AND ".join(f"{name} = ?" for name in wanted), [*wanted.values()]
    if isinstance(change, Marking):
        marks = "UPDATE record SET is_stale = 1, checksum = ~checksum WHERE is_stale = 0"
        db.execute(f"{marks} AND {condition}", values)
    elif change.run_id is not None and change.kind is None and change.key is None:
        delete_run(db, scope, change.run_id)
    else:
        delete(db, condition, values)


def delete(db: sqlite3.Connection, condition: str, values: Sequence[object]) -> int:
    """Delete records, chosen by an SQL condition, with their values; returns their number."""
    # The conditions are constants of this package; values are bound to them.
    db.execute(f"DELETE FROM value WHERE id IN (SELECT value_id FROM record WHERE {condition})", values)  # noqa: S608
    return db.execute(f"DELETE FROM record WHERE {condition}", values).rowcount  # noqa: S608


def delete_run(db: sqlite3.Connection, scope: object, run_id: object) -> None:
    """Delete all records of a run."""
    delete(db, "scope = ? AND run_id = ?", (scope, run_id))
    db.execute("DELETE FROM run WHERE scope = ? AND run_id = ?", (scope, run_id))


def delete_damaged(db: sqlite3.Connection, place: Place) -> None:
    """Delete a record that was found damaged."""
    delete(db, "scope IS ? AND run_id IS ? AND kind IS CAST(? AS TEXT) AND key IS ?", place)


def note_use(db: sqlite3.Connection, scope: int, run_id: int, now: float, after_s: float) -> None:
    """Note that a run was used, unless that was noted less than `after_s` ago."""
    db.execute(
        "INSERT INTO run VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET used_at = excluded.used_at"
        " WHERE used_at NOT BETWEEN excluded.used_at - ? AND excluded.used_at",
        (scope, run_id, now, after_s),
    )


def _checksum(scope: int, run_id: int, kind: bytes, key: bytes, requested_at: float, value: bytes) -> int:
    """Return the checksum of a record that is not stale; that of a stale one is its complement (`~`)."""
    digest = xxh3_64(_HEAD.pack(scope, run_id, requested_at, len(kind), len(key)))
    for part in (kind, key, value):
        digest.update(part)
    return signed(digest.digest())
