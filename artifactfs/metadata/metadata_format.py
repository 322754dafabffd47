"""The format of the metadata database: its tables, its connections, and its names for sites and accounts.

A record lies in two tables, so that marking many of them as stale writes none of their values again.
"""

import hashlib
import sqlite3

from xxhash import xxh3_64

NAME = "metadata-1.sqlite"
# What SQLite puts beside it. A journal is left only by what is no database of ours.
BESIDE = ("-wal", "-shm", "-journal")
# "AFSM", for file(1) and for us.
APPLICATION_ID = 0x4146534D
FORMAT = 1
PAGE_BYTES = 4096
# A longer value is damage: SQLite would make room in memory for whatever length a row says it has. A listing of
# 100,000 entries has about 10 MiB.
MOST_VALUE_BYTES = 64 << 20
# The log that SQLite writes ahead is cut to this, once it is in the database.
LOG_BYTES = 4 << 20
# Two connections have one of these each: memory for pages.
_CACHE_KIB = 2048

TABLES = (
    "CREATE TABLE record(scope INTEGER NOT NULL, run_id INTEGER NOT NULL, kind TEXT NOT NULL, key BLOB NOT NULL,"
    " requested_at REAL NOT NULL, is_stale INTEGER NOT NULL, size INTEGER NOT NULL, checksum INTEGER NOT NULL,"
    " value_id INTEGER NOT NULL, PRIMARY KEY(scope, run_id, kind, key)) WITHOUT ROWID",
    "CREATE TABLE run(scope INTEGER NOT NULL, run_id INTEGER NOT NULL, used_at REAL NOT NULL,"
    " PRIMARY KEY(scope, run_id)) WITHOUT ROWID",
    "CREATE TABLE site(site BLOB PRIMARY KEY NOT NULL, account BLOB NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE value(id INTEGER PRIMARY KEY, value BLOB NOT NULL)",
)


def site_digest(site: str) -> bytes:
    """Return what names a site in the database, which has no URL in it."""
    return hashlib.blake2b(_encoded(site), digest_size=16, person=b"artifactfs site").digest()


def scope_of(site: str, account: str) -> int:
    """Return the number of an account at a site: always the same, so that no damage leads to another account's."""
    digest = hashlib.blake2b(site_digest(site) + _encoded(account), digest_size=8, person=b"artifactfs scope")
    return signed(digest.digest())


def packed_account(site: str, account: str) -> tuple[bytes, bytes, int]:
    """Return the row of a site that was last used with this account."""
    encoded = _encoded(account)
    return site_digest(site), encoded, _site_checksum(site_digest(site), encoded)


def unpacked_account(row: tuple[object, object, object] | None) -> str | None:
    """Return the account in the row of a site; None without one, or if it is damaged."""
    if row is None:
        return None
    site, account, expected = row
    if not isinstance(site, bytes) or not isinstance(account, bytes) or expected != _site_checksum(site, account):
        return None
    return account.decode("utf-8", "surrogateescape")


def connect(path: str, *, wait_s: float, query_only: bool = False) -> sqlite3.Connection:
    """Open a connection to the database, for any thread. Raises sqlite3.Error."""
    db = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
    try:
        # Damaged text is no UTF-8, which sqlite3 would raise an error for.
        db.text_factory = bytes
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE_BYTES + 4096)
        for name, value in (
            ("trusted_schema", "OFF"),
            ("cell_size_check", "ON"),
            ("mmap_size", "0"),  # a page that is cut off would end the process
            ("temp_store", "MEMORY"),
            ("cache_size", str(-_CACHE_KIB)),
            ("synchronous", "NORMAL"),
            ("journal_size_limit", str(LOG_BYTES)),
            ("query_only", "ON" if query_only else "OFF"),
        ):
            db.execute(f"PRAGMA {name}={value}").fetchall()
    except BaseException:
        db.close()
        raise
    return db


def make(path: str) -> None:
    """Make the tables in an empty file that no other process uses. Raises sqlite3.Error."""
    db = connect(path, wait_s=0.0)
    try:
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL").fetchall()
        db.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            db.execute(table)
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={FORMAT}")
        db.execute("COMMIT")
    finally:
        db.close()


def number(db: sqlite3.Connection, pragma: str) -> int:
    """Return the value of a pragma that is a number. Raises sqlite3.Error."""
    (value,) = db.execute(f"PRAGMA {pragma}").fetchone()
    return int(value)


def used_bytes(db: sqlite3.Connection) -> int:
    """Return the bytes of all pages that hold something. Raises sqlite3.Error."""
    return (number(db, "page_count") - number(db, "freelist_count")) * PAGE_BYTES


def shrink(db: sqlite3.Connection, most_pages: int = 0) -> None:
    """Give free pages back to the disk; 0 stands for all of them. Raises sqlite3.Error."""
    # `execute` stops at the first page: this pragma yields an empty row for each.
    db.executescript(f"PRAGMA incremental_vacuum({most_pages})")


def _site_checksum(site: bytes, account: bytes) -> int:
    return signed(xxh3_64(site + account).digest())


def signed(digest: bytes) -> int:
    """Return a digest of 8 bytes as a number that SQLite takes."""
    return int.from_bytes(digest, "little", signed=True)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
