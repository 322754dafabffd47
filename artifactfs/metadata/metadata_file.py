"""The file of the metadata database: whose it is, that it can be used here, and its replacement once it is damaged.

Hard: a database must not be deleted while another process has it open. SQLite deletes the log beside it by its name
when the last connection closes, and that name may belong to a new database by then. So each process that has it open
holds a shared lock on a file beside it, and only the holder of the exclusive lock makes or replaces the database. A
process that finds damage writes that into the lock's file.

Everything here blocks.
"""

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import stat
import time

from artifactfs.metadata import metadata_format
from artifactfs.metadata.metadata_format import APPLICATION_ID, BESIDE, FORMAT, NAME, TABLES
from artifactfs.util import mountinfo
from artifactfs.util.escaping import shell_word

log = logging.getLogger(__name__)

# Beginnings of the names of file systems on which several machines may have one file: they do not share the memory
# that SQLite's log needs, and their locks may not hold (https://www.sqlite.org/wal.html).
_SHARED_DISKS = (
    *("nfs", "cifs", "smb", "9p", "afs", "lustre", "ceph", "beegfs", "gpfs", "glusterfs", "ocfs2", "gfs2"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.juicefs"),
)
_LOCK_NAME = "metadata-1.lock"
# How long another process may take to make or replace the database: some milliseconds.
_LOCK_WAIT_S = 1.0
_LOCK_POLL_S = 0.01
# For the other processes' transactions. Readers wait only while SQLite recovers its log.
_WRITE_WAIT_S = 5.0
_READ_WAIT_S = 1.0
# SQLite's codes for a database that is none, or not as SQLite wrote it (https://www.sqlite.org/rescode.html).
_DAMAGE = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG})


class Unusable(Exception):
    """The database cannot be used, and why."""


class _Damaged(Exception):
    """The database is ours and has to be made again."""


def code_of(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error; 0 where the error is not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the database is damaged."""
    return code_of(error) in _DAMAGE or isinstance(error, sqlite3.IntegrityError | sqlite3.DataError)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


class MetadataFile:
    """The database in a directory that is ours (content/cache_dir.py)."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.path = os.path.join(directory, NAME)
        self._files = (self.path, *(self.path + suffix for suffix in BESIDE))
        self._shared_path = f"{self.path}-shm"
        self._lock_path = os.path.join(directory, _LOCK_NAME)
        self._lock: int | None = None
        # Device and inode of what was opened: the database, and the memory that its processes share, with its size.
        self._opened: tuple[int, int] | None = None
        self._shared: tuple[int, int] | None = None
        self._shared_bytes = 0
        # Whether `open` replaced a damaged database.
        self.was_damaged = False

    def exists(self) -> bool:
        """Whether there is anything in the place of the database."""
        return os.path.lexists(self.path)

    def open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Return a connection to read and one to write; the database is made where there is none. Raises Unusable."""
        try:
            self._check_disk()
            self._check_files()
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._lock = os.open(self._lock_path, flags, 0o600)
            os.fchmod(self._lock, 0o600)  # whatever the umask
            return self._open(self._lock)
        except Unusable:
            self.close()
            raise
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise Unusable(getattr(error, "strerror", None) or str(error)) from None

    def close(self) -> None:
        """Release the lock: call it when no connection is open."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_current(self) -> bool:
        """Whether the database is still the one that was opened, and no process has found it damaged."""
        return self._lock is not None and not os.fstat(self._lock).st_size and not self.is_replaced()

    def is_replaced(self) -> bool:
        """Whether another file, or none, has the name of the database that was opened."""
        try:
            return _identity(os.lstat(self.path)) != self._opened
        except OSError:
            return True

    def is_shared(self) -> bool:
        """Whether the memory that processes share is there: a look at what was cut off ends the process by SIGBUS."""
        try:
            found = os.lstat(self._shared_path)
        except OSError:
            return self.is_replaced()
        if _identity(found) != self._shared:
            return self.is_replaced()  # deleted with the database: this process has both to itself
        is_whole = found.st_size >= self._shared_bytes
        self._shared_bytes = max(self._shared_bytes, found.st_size)
        return is_whole

    def mark_damaged(self) -> None:
        """Have the next process that opens the database replace it."""
        if self._lock is not None:
            # Where the disk is full, the next process finds the damage for itself.
            with contextlib.suppress(OSError):
                os.pwrite(self._lock, b"damaged\n", 0)

    def _check_disk(self) -> None:
        disk = mountinfo.holding(self._directory)
        if disk is not None and disk.fstype.startswith(_SHARED_DISKS):
            raise Unusable(f"{disk.fstype} is not safe for it; choose a local disk with --cache-dir")

    def _open(self, lock: int) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        deadline = time.monotonic() + _LOCK_WAIT_S
        is_new = is_damaged = False
        while True:
            if self._try_lock(lock, fcntl.LOCK_SH):
                self._check_files()
                # Looked at in each round: another process may have replaced it while no lock was held here.
                is_damaged = os.fstat(lock).st_size > 0
                if self.exists() and not is_damaged:
                    try:
                        return self._connect()
                    except _Damaged as error:
                        if is_new:
                            raise Unusable(str(error)) from None
                        is_damaged = True
                if self._try_lock(lock, fcntl.LOCK_EX):
                    self._replace(lock)
                    is_new = True
                    continue
            if time.monotonic() >= deadline:
                fact = "it is damaged, and another mount has it open" if is_damaged else "another process locks it"
                raise Unusable(f"{fact}; unmount that, and mount again")
            time.sleep(_LOCK_POLL_S)

    @staticmethod
    def _try_lock(lock: int, operation: int) -> bool:
        """Take a lock in place of the one that is held; without it none is held (flock(2))."""
        try:
            fcntl.flock(lock, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _check_files(self) -> None:
        """Check that what is there are files of this user's, and make them private. Raises Unusable, OSError."""
        for path in (*self._files, self._lock_path):
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise Unusable(f"{path} is no file of yours; delete it with `rm -r {shell_word(path)}`")
            if stat.S_IMODE(found.st_mode) & 0o077:
                os.chmod(path, 0o600)

    def _replace(self, lock: int) -> None:
        """Make an empty database, under the exclusive lock. Raises OSError, sqlite3.Error."""
        if self.exists():
            self.was_damaged = True
            log.warning("the metadata in %s is damaged: it is deleted, and listed again", self.path)
        for path in self._files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        os.close(fd)
        try:
            metadata_format.make(self.path)
        except BaseException:
            os.unlink(self.path)
            raise
        os.ftruncate(lock, 0)

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Open the database that is there. Raises _Damaged, Unusable, OSError, sqlite3.Error."""
        self._opened = _identity(os.lstat(self.path))
        with contextlib.ExitStack() as opened:
            try:
                writer = metadata_format.connect(self.path, wait_s=_WRITE_WAIT_S)
                opened.callback(writer.close)
                self._check_format(writer)
                reader = metadata_format.connect(self.path, wait_s=_READ_WAIT_S, query_only=True)
                opened.callback(reader.close)
                metadata_format.number(reader, "schema_version")
            except sqlite3.Error as error:
                if is_damage(error):
                    raise _Damaged(str(error)) from None
                raise
            found = os.lstat(self._shared_path)
            self._shared, self._shared_bytes = _identity(found), found.st_size
            opened.pop_all()
        return reader, writer

    def _check_format(self, db: sqlite3.Connection) -> None:
        tables = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        is_known = tables == {table.encode() for table in TABLES}
        application, format_ = metadata_format.number(db, "application_id"), metadata_format.number(db, "user_version")
        if not is_known and application != APPLICATION_ID and (tables or application):
            raise Unusable(f"{self.path} is another program's; move it away")
        if not is_known or (application, format_) != (APPLICATION_ID, FORMAT):
            raise _Damaged(f"its format is {format_}")
        if metadata_format.number(db, "page_size") != metadata_format.PAGE_BYTES:
            raise _Damaged("its pages have another size")
        (mode,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != b"wal":
            raise OSError(errno.ENOTSUP, "its disk does not take a log that readers share")
