"""The sizes that files come to while they are mounted: by growth, and by contents that contradict a listing.

Owns what no listing gives by itself: a file that grew keeps its inode number (docs/semantics.md 2.4), and the length of
the contents counts where a listing lags behind or runs ahead (4.1).
"""

from collections.abc import Mapping

import cachetools
import msgspec

from artifactfs.domain import ListedChild
from artifactfs.tree.nodes import Entry, may_have_grown

# Directories with such files. Arbitrary.
_MAX_DIRECTORIES = 10_000


class SizeOverride(msgspec.Struct, frozen=True):
    """The size of a file's contents, and the listed size that it overrides (docs/semantics.md 4.1).

    `applied`: a listing was made with it since.
    """

    listed_bytes: int | None
    size_bytes: int
    applied: bool = False

    def next(self, listed_bytes: int | None, *, live: bool) -> "SizeOverride | None":
        """Return the override for a new listing, which gives a file this size; None if the listing counts.

        `live`: the run goes on. Then the contents may reach the size of a listing that runs ahead of them, so the
        listing counts from the second time on, and is compared with the contents again.
        """
        if listed_bytes == self.listed_bytes:
            runs_ahead = listed_bytes is not None and listed_bytes > self.size_bytes
            return None if live and runs_ahead and self.applied else msgspec.structs.replace(self, applied=True)
        if listed_bytes is None or self.listed_bytes is None:
            return None
        lags = self.listed_bytes < listed_bytes <= self.size_bytes
        return SizeOverride(listed_bytes, self.size_bytes, applied=True) if lags else None


class GrownFile(msgspec.Struct):
    """A name whose file grew: its entry, which no listing gives by itself, and the inode numbers that it had.

    `entry` None: the file is gone, or the contents turned out to be another version, which no listing has shown yet.
    """

    entry: Entry | None
    numbers: set[int]


class DirectorySizes(msgspec.Struct):
    """The sizes that contents have against the listing, and the files that grew, by name in one directory.

    `evicted`: the entries of a listing that was evicted, which programs may have open.
    """

    overrides: dict[bytes, SizeOverride] = {}
    grown: dict[bytes, GrownFile] = {}
    evicted: Mapping[bytes, Entry] = {}

    def overridden(self, item: ListedChild, *, live: bool) -> ListedChild:
        """Return a listed child with the size that counts. `live`: see SizeOverride."""
        override = self.overrides.pop(item.name, None)
        if override is None or (override := override.next(item.size_bytes, live=live)) is None:
            return item
        self.overrides[item.name] = override
        # A listing that lags behind has the time of a shorter file.
        lags = item.size_bytes is not None and item.size_bytes < override.size_bytes
        created_ns = None if lags else item.created_ns
        return msgspec.structs.replace(item, size_bytes=override.size_bytes, created_ns=created_ns)

    def note_growth(self, entry: Entry) -> None:
        """Record the entry of a file that grew, or that takes the place of one that did."""
        known = self.grown.setdefault(entry.name, GrownFile(None, set()))
        known.numbers.add(entry.number)
        known.entry = entry


class SizeChanges:
    """The sizes of all directories of a mount. A key is (run id, path)."""

    def __init__(self) -> None:
        self._of: cachetools.LRUCache[tuple[int, str], DirectorySizes] = cachetools.LRUCache(_MAX_DIRECTORIES)

    def of(self, key: tuple[int, str]) -> DirectorySizes:
        """Return the sizes of a directory, which may be empty: the same for every caller until `keep`.

        A listing that is being made yields to other tasks, which may record a size meanwhile.
        """
        sizes: DirectorySizes = self._of.setdefault(key, DirectorySizes())
        return sizes

    def keep(self, key: tuple[int, str], sizes: DirectorySizes) -> None:
        """Keep the sizes of a directory, if there are any; call it after each change."""
        if sizes.overrides or sizes.grown or sizes.evicted:
            self._of[key] = sizes
        else:
            self._of.pop(key, None)

    def clear(self) -> None:
        """Remove everything."""
        self._of.clear()

    def record(self, key: tuple[int, str], entry: Entry, completed: Entry, *, same_version: bool) -> None:
        """Record the size of a file's contents, which the listing of `entry` contradicts, with its entry `completed`.

        `same_version`: the contents continue the version, and did not turn out to be another one.
        """
        sizes = self.of(key)
        before = sizes.overrides.get(entry.name)
        listed = before.listed_bytes if before and before.size_bytes == entry.size_bytes else entry.size_bytes
        if completed.size_bytes is not None:
            sizes.overrides[entry.name] = SizeOverride(listed, completed.size_bytes)
        if same_version and may_have_grown(entry, completed):
            sizes.note_growth(completed)
        self.keep(key, sizes)

    def record_other_version(self, key: tuple[int, str], entry: Entry) -> None:
        """Record that a file turned out to be another version: that gets a number of its own."""
        sizes = self.of(key)
        sizes.note_growth(entry)
        sizes.grown[entry.name].entry = None
        self.keep(key, sizes)
