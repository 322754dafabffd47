"""The open metadata database: a connection to read and one to write, lent to one thread at a time, and their failures.

No error of SQLite leaves this module. A damaged database, or one that cannot be read, is not used any more; a failed
write pauses writing. Each is logged once.
"""

import contextlib
import logging
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator

from artifactfs.metadata.metadata_file import MetadataFile, Unusable, code_of, is_damage

log = logging.getLogger(__name__)

# After a failed write, such as one to a full disk, writing is not tried for this long. Arbitrary.
PAUSE_S = 60.0
# Codes of SQLite for locks of other processes; the next call may succeed.
_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
# Connections to a database whose files were deleted or cut off under the mount. To close one would delete the log of
# the database that has its name now, or end the process by SIGBUS. So they stay open until the process ends.
_abandoned: list[sqlite3.Connection] = []


class Pause:
    """A time in which something is not tried again. `clock` may jump."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = -math.inf

    def begin(self) -> None:
        self._since = self._clock()

    def __bool__(self) -> bool:
        return self._since <= self._clock() < self._since + PAUSE_S


class _Side:
    """A connection, and the lock of its users."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.db: sqlite3.Connection | None = None


class MetadataDatabase:
    """The database in a directory. Without one that can be used, None is lent in place of a connection."""

    def __init__(self, directory: str, clock: Callable[[], float]) -> None:
        self._file = MetadataFile(directory)
        self.directory, self.path = directory, self._file.path
        # Threads that take both locks take the writer's first.
        self._reader, self._writer = _Side(), _Side()
        self._is_failing = False
        self.is_broken = False
        # Why the last `open` failed, and what to do; empty if it did not.
        self.failure = ""
        self.pause = Pause(clock)

    def exists(self) -> bool:
        """Whether there is a database, or something in its place."""
        return self._file.exists()

    @property
    def was_damaged(self) -> bool:
        """Whether `open` replaced a damaged database."""
        return self._file.was_damaged

    def open(self) -> bool:
        """Open the database, made where there is none; returns whether it can be used. Logs why it cannot."""
        with self._writer.lock, self._reader.lock:
            if self._writer.db is None:
                try:
                    self._reader.db, self._writer.db = self._file.open()
                except Unusable as error:
                    self.failure = str(error)
                    log.warning("no metadata is kept in %s: %s", self.directory, self.failure)
                    return False
                self.is_broken = False
                self.failure = ""
            return True

    def close(self) -> None:
        """Close the database; further calls lend None."""
        with self._writer.lock, self._reader.lock:
            is_lost = self._file.is_replaced() or not self._file.is_shared()
            for side in (self._reader, self._writer):
                if side.db is not None and is_lost:
                    _abandoned.append(side.db)
                elif side.db is not None:
                    with contextlib.suppress(sqlite3.Error):  # the disk fails; the database stays as it is
                        side.db.close()
                side.db = None
            self._file.close()

    def reopen(self) -> None:
        """Open the database again if it was deleted, or another process has found it damaged."""
        with self._writer.lock:
            if self._writer.db is None or self._file.is_current() or not os.path.isdir(self.directory):
                return
        self.close()
        self.open()

    def reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection | None]:
        """Lend the connection that reads."""
        return self._using(self._reader)

    def writing(self) -> contextlib.AbstractContextManager[sqlite3.Connection | None]:
        """Lend the connection that writes."""
        return self._using(self._writer)

    @contextlib.contextmanager
    def transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        """Write all or nothing. Raises sqlite3.Error."""
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
                db.execute("ROLLBACK")
            raise
        self._is_failing = False

    def give_up(self) -> None:
        """Use the database no more, once the thread that has a connection is done with it."""
        self.is_broken = True

    @contextlib.contextmanager
    def _using(self, side: _Side) -> Iterator[sqlite3.Connection | None]:
        try:
            with side.lock:
                if side.db is not None and not self.is_broken and not self._file.is_shared():
                    self._failed(damage("its shared memory is gone"), side)
                yield None if self.is_broken else side.db
        except sqlite3.Error as error:
            self._failed(error, side)
        if self.is_broken:
            self.close()

    def _failed(self, error: sqlite3.Error, side: _Side) -> None:
        # A text: an exception of a library that a line has counts as a bug (control/recent_errors.py).
        reason = str(error)
        if code_of(error) in _PASSING:
            log.debug("the metadata is locked by another process: %s", error)
        elif is_damage(error):
            self._file.mark_damaged()
            log.warning(
                "the metadata in %s is damaged (%s), and not used; the next mount replaces it", self.path, reason
            )
            self.give_up()
        elif side is self._writer:
            if not self._is_failing:
                log.warning("metadata cannot be written to %s (%s); not keeping any for a while", self.path, reason)
            self._is_failing = True
            self.pause.begin()
        else:
            log.warning("the metadata in %s cannot be read (%s), and is not used", self.path, reason)
            self.give_up()


def damage(what: str) -> sqlite3.DatabaseError:
    """Return the error for damage that SQLite does not raise one for."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
