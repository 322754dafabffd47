"""Metadata on disk, over remounts: records with opaque values, by account, run, kind and key.

One SQLite database in the cache directory, for all mounts of a user. Safe for threads, and for several processes at
once: readers never wait for a write, since SQLite writes ahead into a log (WAL). A record is as it was written, or it
is missing: each has a checksum (metadata_records.py). Which runs leave a full database: metadata_eviction.py.

Nothing here raises. Where the database cannot be opened, is damaged, or its disk fails, that is logged once and the
store is empty from then on (metadata_database.py). A full disk pauses writing only. Deletions and marks that fail
are remembered, so that `load` never returns a record as it was before.

Everything here blocks; call it in a thread.
"""

import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from artifactfs.metadata import metadata_eviction, metadata_format, metadata_records
from artifactfs.metadata.metadata_database import MetadataDatabase, Pause, damage
from artifactfs.metadata.metadata_records import Change, Marking, Place, Record, Removal

__all__ = ["Change", "Marking", "MetadataStore", "Record", "Removal", "StoreUsage", "Verified"]

log = logging.getLogger(__name__)

# The values that one `load` returns: some milliseconds of a disk. Arbitrary.
_MOST_BYTES = 4 << 20
# The use of a run is noted again after this.
_USE_NOTED_S = 3600.0
# Evicting down to this share of the limit, and what records of no run may keep of it.
_LOW_WATER, _OF_NO_RUN = 0.9, 0.25
# Deletions and marks that failed, damaged records to delete, and noted uses: more are not remembered.
_MOST_REMEMBERED = 10_000
# Pages given back to the disk after a write, where the file is larger than its limit: about 30 ms.
_SHRINK_PAGES = 500
# How long the end of a mount waits for another process that writes.
_LAST_WAIT_MS = 200
# Records that `records` reads at once.
_PIECE = 256


class StoreUsage(msgspec.Struct, frozen=True):
    """The contents of the store. `oldest_at`: when the oldest record was requested, seconds since the epoch."""

    size_bytes: int
    limit_bytes: int
    runs: int
    records: int
    oldest_at: float | None


class Verified(msgspec.Struct, frozen=True):
    """What `verify` found. `is_whole` False: the database itself is damaged; `is_replaced`: by an empty one."""

    good: int
    damaged: int
    is_whole: bool = True
    is_replaced: bool = False


class _NoRoom(Exception):
    """Everything that is left in a full store is pinned, or belongs to what is being written."""


def _none(_: int) -> bool:
    return False


class MetadataStore:
    """The metadata in a directory that is ours (content/cache_dir.py). `max_bytes` 0 turns it off.

    `is_pinned`: whether a run stays, by its id. `clock`: seconds since the epoch.
    """

    def __init__(
        self,
        directory: str,
        *,
        max_bytes: int,
        is_pinned: Callable[[int], bool] = _none,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limit_bytes = max_bytes
        # SQLite's log lies beside the database.
        self._room_bytes = max_bytes - min(max_bytes >> 3, 2 * metadata_format.LOG_BYTES)
        self._is_pinned = is_pinned
        self._clock = clock
        self._database = MetadataDatabase(directory, clock)
        self.path = self._database.path
        # No record is written while everything in the full store has to stay.
        self._is_full = Pause(clock)
        # The runs whose use was noted, and when; those to be noted by the next write; damaged records to delete.
        self._noted: dict[tuple[int, int], float] = {}
        self._uses: set[tuple[int, int]] = set()
        self._damaged: set[Place] = set()
        # Of which runs a record could not be written, by scope.
        self._lost: set[tuple[int, int]] = set()
        # Deletions and marks that failed, in order.
        self._unwritten: tuple[tuple[int, Removal | Marking], ...] = ()

    def exists(self) -> bool:
        """Whether there is a database, or something in its place."""
        return self._database.exists()

    @property
    def failure(self) -> str:
        """Why the last `open` failed, and what to do; empty if it did not."""
        return self._database.failure

    def open(self) -> bool:
        """Open the database, made where there is none; returns whether it can be used. Logs why it cannot."""
        return self.limit_bytes > 0 and self._database.open()

    def close(self) -> None:
        """Write what was noted, and close the database. Further calls do nothing."""
        with self._database.writing() as db:
            if db is not None and not self._database.pause:
                db.execute(f"PRAGMA busy_timeout={_LAST_WAIT_MS}").fetchall()
                self._apply(db, 0, ())
        self._database.close()

    # --- reading ---------------------------------------------------------------------------------------------

    def last_account(self, site: str) -> str | None:
        """Return the account that a site was used with last; None if that is not known. `site`: the API's URL."""
        with self._database.reading() as db:
            if db is not None:
                return metadata_format.unpacked_account(_row_of_site(db, metadata_format.site_digest(site)))
        return None

    def has_account(self, site: str, account: str) -> bool:
        """Whether there is any record of an account at a site. `site`: the API's URL."""
        with self._database.reading() as db:
            if db is not None:
                scope = metadata_format.scope_of(site, account)
                return db.execute("SELECT 1 FROM record WHERE scope = ? LIMIT 1", (scope,)).fetchone() is not None
        return False

    def load(
        self, scope: int, kind: str, run_id: int, key: bytes, *, most: int = 1, most_bytes: int = _MOST_BYTES
    ) -> list[Record]:
        """Return the record of a key and those that follow it in the order of keys; nothing without the first.

        At most `most` in all, of one kind and run; after the first, at most `most_bytes` of values in all.
        """
        found, _ = self._following(scope, kind, run_id, key, most, most_bytes)
        if not found or found[0].key != key:
            return []
        if run_id:
            self._note_use(scope, run_id)
        return found

    def records(self, scope: int, run_id: int, kind: str) -> Iterator[Record]:
        """Yield all records of a kind and run in the order of keys, read in pieces."""
        last: bytes | None = None
        while True:
            key = last + b"\0" if last is not None else b""
            found, last = self._following(scope, kind, run_id, key, _PIECE, _MOST_BYTES)
            yield from found
            if last is None:
                return

    def has(self, scope: int, kind: str, run_id: int) -> bool:
        """Whether there is any record of a kind and run."""
        # Behind damaged ones there may be others.
        return bool(self._following(scope, kind, run_id, b"", _PIECE, 0)[0])

    def usage(self) -> StoreUsage:
        """Return what the store holds."""
        with self._database.reading() as db:
            if db is not None:
                query = "SELECT count(*) FROM (SELECT DISTINCT scope, run_id FROM record WHERE run_id != 0)"
                (runs,) = db.execute(query).fetchone()
                records, oldest = db.execute("SELECT count(*), min(requested_at) FROM record").fetchone()
                oldest_at = oldest if isinstance(oldest, float) else None
                return StoreUsage(metadata_format.used_bytes(db), self.limit_bytes, runs, records, oldest_at)
        return StoreUsage(0, self.limit_bytes, 0, 0, None)

    def _following(
        self, scope: int, kind: str, run_id: int, key: bytes, most: int, most_bytes: int
    ) -> tuple[list[Record], bytes | None]:
        """Return the undamaged records from a key on, and the last key that was looked at; None at the end."""
        found: list[Record] = []
        last: bytes | None = None
        with self._database.reading() as db:
            if db is not None and _fits(run_id):
                for row in metadata_records.rows_from(db, scope, run_id, kind, key, most):
                    if (record := row.record()) is not None:
                        most_bytes -= len(record.value)
                        if found and most_bytes < 0:
                            break
                        found.append(record)
                    elif len(self._damaged) < _MOST_REMEMBERED:
                        self._damaged.add(row.place)
                    last = row.key if isinstance(row.key, bytes) else last
        after = (self._after_unwritten(scope, record) for record in found)
        return [record for record in after if record is not None], last

    def _after_unwritten(self, scope: int, record: Record) -> Record | None:
        """Return a record after the deletions and marks that failed; None if it is deleted."""
        for of_scope, change in self._unwritten:
            if of_scope == scope and change.covers(record):
                if isinstance(change, Removal):
                    return None
                record = msgspec.structs.replace(record, is_stale=True)
        return record

    # --- writing ---------------------------------------------------------------------------------------------

    def scope(self, site: str, account: str) -> int:
        """Return the number of an account at a site, which is used now. `site`: the API's URL."""
        row = metadata_format.packed_account(site, account)
        with self._database.writing() as db:
            if db is not None and _row_of_site(db, row[0]) != row:
                with self._database.transaction(db):
                    db.execute("INSERT OR REPLACE INTO site VALUES (?, ?, ?)", row)
                # Out of the log: where that is damaged, its end is lost, and the account before would be the last.
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return metadata_format.scope_of(site, account)

    def restore_site(self, site: str, account: str) -> bool:
        """Let a site be one that is used where nothing says so any more; returns whether that was so."""
        row = metadata_format.packed_account(site, account)
        with self._database.writing() as db:
            if db is not None and _row_of_site(db, row[0]) is None:
                with self._database.transaction(db):
                    db.execute("INSERT OR IGNORE INTO site VALUES (?, ?, ?)", row)
                return True
        return False

    def write(self, scope: int, changes: Sequence[Change]) -> bool:
        """Make changes in order, all of them or none; returns whether they are made.

        A record never replaces one that was requested later. A full store evicts runs; where that is not enough, only
        the deletions and marks are made.
        """
        if is_written := self._write(scope, changes):
            # What is marked is requested again, and then written again.
            marked = {change.run_id for change in changes if isinstance(change, Marking)}
            self._lost = {lost for lost in self._lost if not marked & {lost[1], None}} if marked else self._lost
        elif len(self._lost) < _MOST_REMEMBERED:
            self._lost |= {(scope, change.run_id) for change in changes if isinstance(change, Record)}
        return is_written

    def forget_loss(self, scope: int, run_id: int) -> None:
        """Forget that records of a run could not be written: they are written again from now on."""
        # Not in place: a thread may be going through it.
        self._lost = self._lost - {(scope, run_id)}

    def has_lost(self, scope: int, run_id: int) -> bool:
        """Whether records of a run could not be written by this process, and were not marked since."""
        return (scope, run_id) in self._lost

    def _write(self, scope: int, changes: Sequence[Change]) -> bool:
        changes = [change for change in changes if change.run_id is None or _fits(change.run_id)]
        self._database.reopen()
        with self._database.writing() as db:
            if db is None:
                return False
            outdated = [change for change in changes if not isinstance(change, Record)]
            if self._database.pause:
                self._remember(scope, outdated)
                return False
            try:
                if not self._is_full:
                    try:
                        self._apply(db, scope, changes)
                    except _NoRoom:
                        log.info("the metadata store is full of what is pinned or in use: raise --metadata-size")
                        self._is_full.begin()
                    else:
                        return True
                self._apply(db, scope, outdated)
            except sqlite3.Error:
                self._remember(scope, outdated)
                raise
        return False

    def _apply(self, db: sqlite3.Connection, scope: int, changes: Sequence[Change]) -> None:
        """Make changes in one transaction, and those that were left over before. Raises _NoRoom, sqlite3.Error."""
        if not (changes or self._uses or self._damaged or self._unwritten):
            return
        now = self._clock()
        with self._database.transaction(db):
            while self._damaged:
                metadata_records.delete_damaged(db, self._damaged.pop())
            while self._uses:
                db.execute("UPDATE run SET used_at = ? WHERE scope = ? AND run_id = ?", (now, *self._uses.pop()))
            for of_scope, left in self._unwritten:
                metadata_records.apply(db, of_scope, left, now)
            for change in changes:
                metadata_records.apply(db, scope, change, now)
            written = {change.run_id for change in changes if isinstance(change, Record)}
            for run_id in written - {0}:
                metadata_records.note_use(db, scope, run_id, now, _USE_NOTED_S)
            if written:
                self._bound(db, scope, written)
        self._unwritten = ()
        metadata_format.bound_log(db, self.path)
        if metadata_format.number(db, "page_count") * metadata_format.PAGE_BYTES > self.limit_bytes:
            metadata_format.shrink(db, _SHRINK_PAGES)

    def _bound(self, db: sqlite3.Connection, scope: int, written: set[int]) -> None:
        """Evict where the store is over its limit. Raises _NoRoom where that is not enough."""
        if metadata_format.used_bytes(db) <= self._room_bytes:
            return

        def stays(of_scope: object, run_id: object) -> bool:
            return isinstance(run_id, int) and ((of_scope == scope and run_id in written) or self._is_pinned(run_id))

        goal, of_no_run = int(self._room_bytes * _LOW_WATER), int(self._room_bytes * _OF_NO_RUN)
        metadata_eviction.make_room(db, goal, of_no_run, stays)
        if metadata_format.used_bytes(db) > self._room_bytes:
            raise _NoRoom

    def _remember(self, scope: int, outdated: Sequence[Removal | Marking]) -> None:
        """Remember deletions and marks that failed."""
        if len(self._unwritten) + len(outdated) > _MOST_REMEMBERED:
            log.warning("too much of the metadata in %s is outdated and cannot be changed: it is not used", self.path)
            self._database.give_up()
        else:
            self._unwritten += tuple((scope, change) for change in outdated)

    def _note_use(self, scope: int, run_id: int) -> None:
        """Have the next write note that a run was used, once an hour."""
        now = self._clock()
        if not now - _USE_NOTED_S < self._noted.get((scope, run_id), -math.inf) <= now:
            if len(self._noted) >= _MOST_REMEMBERED:
                self._noted.clear()  # they are noted again
            self._noted[scope, run_id] = now
            # Nothing is written while the mount is offline, say.
            if len(self._uses) < _MOST_REMEMBERED:
                self._uses.add((scope, run_id))

    # --- the whole -----------------------------------------------------------------------------------------

    def verify(self) -> Verified:
        """Read every record, and delete damaged ones."""
        good = damaged = 0
        with self._database.reading() as db:
            if db is None or self._database.was_damaged:
                return Verified(0, 0, is_whole=db is None, is_replaced=db is not None)
            if db.execute("PRAGMA quick_check(1)").fetchone() != (b"ok",):
                raise damage("its pages contradict each other")
            for row in metadata_records.rows(db):
                if row.record() is not None:
                    good += 1
                else:
                    damaged += 1
                    self._damaged.add(row.place)
        self.write(0, ())
        if not self._database.is_broken:
            return Verified(good, damaged)
        return Verified(0, 0, is_whole=False, is_replaced=self.open())

    def clear(self, *, keep_pinned: bool = True) -> int | None:
        """Delete everything, or all except pinned runs; returns the bytes that were freed, None if that failed."""
        freed: int | None = None
        with self._database.writing() as db:
            if db is not None:
                before = metadata_format.used_bytes(db)
                with self._database.transaction(db):
                    runs = db.execute("SELECT DISTINCT scope, run_id FROM record").fetchall()
                    kept = [run for run in runs if keep_pinned and isinstance(run[1], int) and self._is_pinned(run[1])]
                    if kept:
                        for scope, run_id in set(runs) - set(kept):
                            metadata_records.delete_run(db, scope, run_id)
                    else:
                        for table in ("record", "value", "run", "site"):
                            db.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
                freed = before - metadata_format.used_bytes(db)
                if kept:
                    metadata_format.shrink(db)
                else:
                    db.execute("VACUUM")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return freed  # also where only giving pages back to the disk failed


def _fits(run_id: int) -> bool:
    """Whether SQLite has a number for a run, which a user may type."""
    return -(2**63) <= run_id < 2**63


def _row_of_site(db: sqlite3.Connection, digest: bytes) -> tuple[object, object, object] | None:
    row: tuple[object, object, object] | None = db.execute(
        "SELECT site, account, checksum FROM site WHERE site = ?", (digest,)
    ).fetchone()
    return row
