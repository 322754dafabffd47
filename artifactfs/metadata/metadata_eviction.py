"""What leaves the metadata database when it is full, within a transaction. Raises sqlite3.Error.

Records of no run (lists of runs and projects) go first, oldest first, down to their share; then whole runs, least
recently used first.
"""

import sqlite3
from collections.abc import Callable

from artifactfs.metadata import metadata_records
from artifactfs.metadata.metadata_format import used_bytes

# The space of a record beside its value, about: rows and keys of two tables.
_RECORD_BYTES = 100


def make_room(
    db: sqlite3.Connection, goal_bytes: int, of_no_run_bytes: int, keep: Callable[[object, object], bool]
) -> None:
    """Delete until the pages in use are `goal_bytes` at most, or nothing is left that may go.

    `of_no_run_bytes`: what records of no run may have in any case. `keep(scope, run_id)`: whether a run stays.
    """
    # A record takes more of the pages than its own size, so one round may be too little.
    while (excess_bytes := used_bytes(db) - goal_bytes) > 0 and _trim_records_of_no_run(
        db, excess_bytes, of_no_run_bytes
    ):
        pass
    # From the records themselves: a run that has lost its row of use, by damage, goes first.
    runs = db.execute(
        "SELECT scope, run_id FROM (SELECT DISTINCT scope, run_id FROM record WHERE run_id != 0)"
        " LEFT JOIN run USING (scope, run_id) ORDER BY coalesce(used_at, 0.0), scope, run_id"
    ).fetchall()
    for scope, run_id in runs:
        if used_bytes(db) <= goal_bytes:
            break
        if not keep(scope, run_id):
            metadata_records.delete_run(db, scope, run_id)


def _trim_records_of_no_run(db: sqlite3.Connection, excess_bytes: int, least_bytes: int) -> bool:
    """Delete the oldest until `excess_bytes` are gone or `least_bytes` are left; returns whether any was deleted."""
    found = db.execute("SELECT requested_at, size FROM record WHERE run_id = 0 ORDER BY requested_at").fetchall()
    sizes = [_RECORD_BYTES + (size if isinstance(size, int) else 0) for _, size in found]
    excess_bytes = min(excess_bytes, sum(sizes) - least_bytes)
    newest = None
    for (requested_at, _), size in zip(found, sizes, strict=True):
        if excess_bytes <= 0:
            break
        excess_bytes -= size
        newest = requested_at
    return newest is not None and metadata_records.delete(db, "run_id = 0 AND requested_at <= ?", (newest,)) > 0
