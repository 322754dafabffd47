"""Which times the files of a run show: all of them their own, or all of them the run's (docs/semantics.md 2.3).

A listing is changed in place, so all of its files change in one step for each reader. `directories.py` decides when.
"""

from collections.abc import Mapping

import msgspec

from artifactfs.domain import ListedChild
from artifactfs.tree.listing import AnyListing, Listing, PackedListing, checkpoint_if_full, chunked
from artifactfs.tree.nodes import Entry
from artifactfs.util.no_checkpoint import no_checkpoint


class RunClock(msgspec.Struct, frozen=True, eq=False):
    """The times of one run's files: their `own`, or all of them `run_ns` (since the epoch).

    `is_stored`: an earlier mount showed them, and no index of this one has confirmed that.
    """

    own: bool
    run_ns: int
    is_stored: bool = False


Changes = list[tuple[AnyListing, Entry, Entry]]


def own_time_ns(child_bytes: int | None, indexed: ListedChild | None) -> int | None:
    """Return the time of a file of that size from the index; None where the index has none, or of another size."""
    if indexed is None or indexed.is_dir or (child_bytes is not None and child_bytes != (indexed.size_bytes or 0)):
        return None
    return indexed.created_ns


def lacks_times(listing: Listing) -> bool:
    """Whether a file in a listing has no time of its own."""
    return any(entry.created_ns is None and not entry.is_dir for entry in listing.by_name.values())


async def changes(
    listing: AnyListing, clock: RunClock, before: RunClock, index: Mapping[bytes, ListedChild], seen_ns: int
) -> Changes:
    """Return the entries of a listing that show another time by `clock` than by the clock `before`.

    `index`: the directory's children in the index. `seen_ns`: the time of a file that the index lacks because it came
    after it.
    """
    found: Changes = []
    is_packed = isinstance(listing, PackedListing) and listing.packed is not None
    if is_packed and clock.own and clock.run_ns == before.run_ns:
        return found  # its files show their own times
    for part in chunked(tuple(listing.by_name.values())):
        for entry in part:
            if (new := _retimed(entry, clock, before, index, seen_ns)) is not entry:
                found.append((listing, entry, new))
        await checkpoint_if_full(part)
    return found


@no_checkpoint
def apply(found: Changes) -> None:
    """Put the new entries into their listings, all at once."""
    for listing, old, new in found:
        if listing.by_name.get(old.name) is old:
            listing.by_name[old.name] = new


def _retimed(
    entry: Entry, clock: RunClock, before: RunClock, index: Mapping[bytes, ListedChild], seen_ns: int
) -> Entry:
    created_ns, mtime_ns = entry.created_ns, entry.mtime_ns
    # A file that grew has a time of its own by either clock, as long as the clock is the same.
    by_run = mtime_ns == before.run_ns
    if entry.is_dir:
        mtime_ns = clock.run_ns if by_run else mtime_ns
    elif not clock.own:
        if before.own or by_run or mtime_ns == created_ns:
            mtime_ns = clock.run_ns
    elif created_ns is None and (told_ns := own_time_ns(entry.size_bytes, index.get(entry.name))) is not None:
        created_ns = mtime_ns = told_ns
    elif by_run:
        mtime_ns = _shown_ns(index.get(entry.name), seen_ns) if created_ns is None else created_ns
    if (created_ns, mtime_ns) == (entry.created_ns, entry.mtime_ns):
        return entry
    return msgspec.structs.replace(entry, created_ns=created_ns, mtime_ns=mtime_ns)


def _shown_ns(indexed: ListedChild | None, seen_ns: int) -> int:
    """Return the time that a file shows which has no time of its size.

    An index without a size names the time of an unknown size. The file shows that, but it is no part of its version.
    """
    unsized = indexed is not None and not indexed.is_dir and indexed.size_bytes is None
    return indexed.created_ns if indexed and unsized and indexed.created_ns is not None else seen_ns
