"""Notices that a run has changed: another row of it, or another listing in it, replaces the one that was cached.

The caches say what is replaced. Which runs are watched is asked first, since listings may be long.
"""

from collections.abc import Callable

from artifactfs.domain import Run
from artifactfs.tree.directory_state import DirectoryState
from artifactfs.tree.listing import AnyListing, PackedListing
from artifactfs.tree.nodes import PackedEntries
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache


def watch(
    runs: StaleWhileRevalidateCache[int, Run],
    listings: StaleWhileRevalidateCache[tuple[int, str], DirectoryState],
    is_watched: Callable[[int], bool],
    changed: Callable[[int, bool], None],
) -> None:
    """Call `changed` with the id of each run that is watched and has changed, and whether its row has."""

    def on_row(run_id: int, old: Run | None, new: Run) -> None:
        if old is not None and is_watched(run_id) and old != new:
            changed(run_id, True)

    def on_listing(key: tuple[int, str], old: DirectoryState | None, new: DirectoryState) -> None:
        if old is not None and is_watched(key[0]) and _differ(old.listing, new.listing):
            changed(key[0], False)

    runs.on_entry.append(on_row)
    listings.on_entry.append(on_listing)


def _differ(one: AnyListing, other: AnyListing) -> bool:
    """Whether two listings have other names, or other versions or sizes of files."""
    if isinstance(one, PackedListing) and isinstance(other, PackedListing) and one.packed and other.packed:
        return one.packed.packed_numbers != other.packed.packed_numbers or one.packed.files != other.packed.files
    return _versions(one) != _versions(other)


def _versions(listing: AnyListing) -> dict[bytes, tuple[int, int | None]]:
    shown = listing.shown
    entries = shown.entries() if isinstance(shown, PackedEntries) else shown
    return {entry.name: (entry.number, entry.size_bytes) for entry in entries}
