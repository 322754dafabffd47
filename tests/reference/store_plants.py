"""What launch.py plants into what outlives a mount: a tell-tale, and bugs of the kinds that the model is there to find.

`written`: the file $TEST_CLOCK.written says "busy" while what was seen is being written, else "idle".
"""

import functools
import os
from collections.abc import Callable
from typing import Any, cast

from artifactfs.metadata import metadata_records
from artifactfs.metadata.metadata_store import MetadataStore
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.tree import stored_listings


def written() -> None:
    """Tell whether anything waits to be written."""
    path = os.environ["TEST_CLOCK"] + ".written"
    append, write = WriteBehind._append, WriteBehind._write

    def telling_append(self: WriteBehind, *change: Any) -> None:
        _tell(path, "busy")
        append(self, *change)

    async def telling_write(self: WriteBehind) -> None:
        await write(self)
        if not self._is_writing:
            _tell(path, "idle")

    _put(WriteBehind, "_append", telling_append)
    _put(WriteBehind, "_write", telling_write)
    _tell(path, "idle")


def _tell(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(text)
    os.replace(path + ".new", path)


# --- bugs -------------------------------------------------------------------------------------------------


def row_ignored() -> None:
    """A stored listing is fresh whatever the run's row says."""
    vars(stored_listings)["_is_same"] = lambda _run, _then: True


def unsettled_trusted() -> None:
    """A stored listing of a run that goes on is trusted as that of a finished one."""
    vars(stored_listings)["settled"] = lambda _run, _then_ns: True


def account_ignored() -> None:
    """All accounts have one store."""
    scope = MetadataStore.scope
    _put(MetadataStore, "scope", lambda self, site, _account: scope(self, site, "one"))


def removal_lost() -> None:
    """What the service no longer has stays in the store."""
    _put(WriteBehind, "remove", lambda _self, *_name: None)


def marks_lost() -> None:
    """What a refresh made stale is fresh again after a remount."""
    _put(WriteBehind, "mark_stale", lambda _self, *_name: None)


def never_written() -> None:
    """Nothing is stored."""
    _put(WriteBehind, "put", lambda _self, *_record: None)


def numbers_forgotten() -> None:
    """Stored listings come with inode numbers of their own."""
    row = stored_listings._row
    vars(stored_listings)["_row"] = lambda entry: (*row(entry)[:2], entry.number + 1, *row(entry)[3:])


def checksum_ignored() -> None:
    """Damaged records are taken for whole ones."""
    vars(metadata_records)["_checksum"] = lambda *_record: 0


def first_kept() -> None:
    """Of a directory the first listing stays stored."""
    put = WriteBehind.put
    seen = set()

    def once(self: WriteBehind, name: Any, *record: Any) -> None:
        if name not in seen:
            seen.add(name)
            put(self, name, *record)

    _put(WriteBehind, "put", once)


def _put(owner: type, name: str, new: Callable[..., Any]) -> None:
    setattr(owner, name, functools.update_wrapper(new, cast("Callable[..., Any]", getattr(owner, name))))
