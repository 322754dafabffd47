"""The sizes that files come to while they are mounted: by growth, and by contents that contradict a listing.

Owns what no listing gives by itself: a file that grew keeps its inode number (docs/semantics.md 2.4), and the length of
the contents counts where a listing lags behind or runs ahead (4.1). Of a run that goes on, a file is shown with a
number and a size S; a new listing says something of it, and its contents may have to say what that means:

listing             | contents                             | shown from then on
--------------------|--------------------------------------|-------------------------------------------------------
S, or no size       | not asked                            | the number, S
S at another time   | not asked                            | another number, S
more than S         | continue S, with at least S          | the number, their length
                    | less than S, or differ               | another number, their length
less than S, of one | continue S, with at least S          | the number, their length: listing or contents lag
that was read       | less than S, or differ               | another number, their length
less than S, of one | not asked: no program can get bytes  | another number, the listed size; S while a listing
that was not read   | a second time                        | comes nearer to the length that contents told before

Until the contents have answered, the number and S are shown. Their length counts for the first listing after that. A
later one that still gives another size has them asked again, so a program is never behind both for long.
Contents continue S where the known end of S, and its first bytes, are in them (content/growth.py). A listing that gives
another size than the contents, or the time of the version that is gone, does not tell the time of what is there.
"""

from collections.abc import Callable
from typing import Protocol

import cachetools
import msgspec

from artifactfs.domain import ListedChild
from artifactfs.tree.nodes import Entry, may_have_grown

# Listings that come together, as where one is requested for a lookup while another is under way.
_ONE_LISTING_NS = 500_000_000
# Directories with such files. Arbitrary.
_MAX_DIRECTORIES = 10_000


class SizeOverride(msgspec.Struct, frozen=True):
    """The size of a file's contents, and the listed size that it overrides (docs/semantics.md 4.1).

    `applied_ns`: when a listing was first made with it, since the epoch. `gone_ns`: the time of the version whose place
    the contents have taken. `number`: of the version that has the contents; None for one that no listing has shown.
    """

    listed_bytes: int | None
    size_bytes: int
    applied_ns: int | None = None
    gone_ns: int | None = None
    number: int | None = None

    def next(self, listed_bytes: int | None, now_ns: int, *, live: bool) -> "SizeOverride | None":
        """Return the override for a new listing, which gives a file this size; None if the listing counts.

        `live`: the run goes on. Then the contents may reach the size of a listing that runs ahead of them, so the
        listing counts from the second time on, and is compared with the contents again.
        """
        if listed_bytes is None or self.listed_bytes is None:
            return None
        applied_ns = now_ns if self.applied_ns is None else self.applied_ns
        kept = msgspec.structs.replace(self, listed_bytes=listed_bytes, applied_ns=applied_ns)
        # Where the contents were as long as listed, a listing that gives another size is of another moment.
        is_one = 0 <= now_ns - applied_ns <= _ONE_LISTING_NS
        if live and is_one and (self.size_bytes != self.listed_bytes or listed_bytes == self.listed_bytes):
            return kept
        if listed_bytes == self.listed_bytes:
            return None if live and listed_bytes > self.size_bytes else kept
        return kept if self.listed_bytes < listed_bytes <= self.size_bytes else None


def resized(entry: Entry, size_bytes: int, now_ns: int) -> Entry:
    """Return an entry with the size of the contents. The time of a file of another size is not theirs."""
    if entry.size_bytes in (None, size_bytes):
        return msgspec.structs.replace(entry, size_bytes=size_bytes)
    mtime_ns = now_ns if size_bytes > (entry.size_bytes or 0) else entry.mtime_ns
    return msgspec.structs.replace(entry, size_bytes=size_bytes, mtime_ns=mtime_ns, created_ns=None)


class GrownFile(msgspec.Struct):
    """A name whose file grew, or was replaced: its entry, which no listing gives by itself, and the inode numbers that
    it had.

    `entry` None: the file is gone, or the contents turned out to be another version, which no listing has shown yet.
    """

    entry: Entry | None
    numbers: set[int]


def _listing_counts(_entry: Entry, _listed_bytes: int) -> bool:
    return False


class _Entries(Protocol):
    """Entries by name."""

    def get(self, name: bytes, /) -> Entry | None:
        """Return the entry of a name."""

    def __len__(self) -> int:
        """Return how many they are."""


class DirectorySizes(msgspec.Struct):
    """The sizes that contents have against the listing, and the files that grew, by name in one directory.

    `asks_contents`: see SizeChanges. `evicted`: the entries of a listing that was evicted, which programs may have
    open.
    """

    asks_contents: Callable[[Entry, int], bool] = _listing_counts

    overrides: dict[bytes, SizeOverride] = {}
    grown: dict[bytes, GrownFile] = {}
    evicted: _Entries = {}

    def copied(self) -> "DirectorySizes":
        """Return the same for a listing that changes nothing here."""
        grown = {name: GrownFile(each.entry, set(each.numbers)) for name, each in self.grown.items()}
        return DirectorySizes(self.asks_contents, dict(self.overrides), grown, self.evicted)

    def overridden(self, item: ListedChild, now_ns: int, *, live: bool) -> ListedChild:
        """Return a listed child with the size that counts. `live`: see SizeOverride."""
        override = self.overrides.pop(item.name, None)
        if override is None or (override := override.next(item.size_bytes, now_ns, live=live)) is None:
            return item
        self.overrides[item.name] = override
        # A listing of another size, or as it was before the contents changed, has the time of another file.
        lags = item.size_bytes is not None and item.size_bytes < override.size_bytes
        is_other = item.size_bytes != override.size_bytes or item.created_ns == override.gone_ns
        created_ns = None if lags or (live and is_other) else item.created_ns
        return msgspec.structs.replace(item, size_bytes=override.size_bytes, created_ns=created_ns)

    def corrected(self, before: Entry | None, name: bytes) -> Entry | None:
        """Return a file's entry in the listing before, as its contents have it; None where they are another version's.

        A listing that was being made while they told so does not have it.
        """
        growth, override = self.grown.get(name), self.overrides.get(name)
        if before is None or (
            growth is not None
            and before.number in growth.numbers
            and (growth.entry is None or growth.entry.number != before.number)
        ):
            return growth.entry if growth is not None else None
        if override is None or override.number != before.number or override.size_bytes >= (before.size_bytes or 0):
            return before
        return msgspec.structs.replace(before, size_bytes=override.size_bytes)

    def is_undecided(self, shown: Entry, item: ListedChild) -> bool:
        """Whether contents will show if a file, which a new listing of a run that goes on gives less, was replaced."""
        size, listed = shown.size_bytes, item.size_bytes
        if shown.is_dir or item.is_dir or size is None or listed is None or listed >= size:
            return False
        return self.asks_contents(shown, listed)

    def note_growth(self, entry: Entry) -> None:
        """Record the entry of a file that grew, or that takes the place of one that did."""
        known = self.grown.setdefault(entry.name, GrownFile(None, set()))
        known.numbers.add(entry.number)
        known.entry = entry


class SizeChanges(cachetools.LRUCache[tuple[int, str], DirectorySizes]):
    """The sizes of all directories of a mount, by (run id, path): of those that have any (`sizes_of`, `keep`).

    `asks_contents(entry, listed_bytes)`: called for a file that a listing gives less bytes than are shown; whether its
    contents were read, so that they, and not the listing, tell if it is another version. It has them asked.
    """

    def __init__(self) -> None:
        super().__init__(_MAX_DIRECTORIES)
        self.asks_contents: Callable[[Entry, int], bool] = _listing_counts

    def end(self, key: tuple[int, str]) -> None:
        """Let nothing that comes in a directory continue what was there: the directory is gone."""
        if (sizes := self.get(key)) is not None:
            sizes.overrides.clear()
            sizes.evicted = {}
            for grown in sizes.grown.values():
                grown.entry = None
            keep(self, key, sizes)

    def record(self, key: tuple[int, str], entry: Entry, completed: Entry, now_ns: int, *, same_version: bool) -> None:
        """Record the size of a file's contents, which the listing of `entry` contradicts, with its entry `completed`.

        `same_version`: the contents continue the version, and did not turn out to be another one.
        """
        sizes = sizes_of(self, key)
        before = sizes.overrides.get(entry.name)
        listed = before.listed_bytes if before and before.size_bytes == entry.size_bytes else entry.size_bytes
        if completed.size_bytes is not None:
            told = (now_ns, None, entry.number) if same_version else (None, entry.created_ns, None)
            sizes.overrides[entry.name] = SizeOverride(listed, completed.size_bytes, *told)
        if same_version and may_have_grown(entry, completed):
            sizes.note_growth(completed)
        keep(self, key, sizes)

    def record_other_version(self, key: tuple[int, str], entry: Entry, size_bytes: int | None) -> None:
        """Record that a file is another version, of this size where known: it gets a number of its own."""
        sizes = sizes_of(self, key)
        sizes.note_growth(entry)
        sizes.grown[entry.name].entry = None
        override = sizes.overrides.get(entry.name)
        if override is not None and override.size_bytes != size_bytes:
            del sizes.overrides[entry.name]
        keep(self, key, sizes)


def sizes_of(changes: SizeChanges, key: tuple[int, str]) -> DirectorySizes:
    """Return the sizes of a directory, which may be empty: the same for every caller until `keep`.

    A listing that is being made yields to other tasks, which may record a size meanwhile.
    """
    sizes: DirectorySizes = changes.setdefault(key, DirectorySizes(changes.asks_contents))
    return sizes


def keep(changes: SizeChanges, key: tuple[int, str], sizes: DirectorySizes) -> None:
    """Keep the sizes of a directory, if there are any; call it after each change."""
    if sizes.overrides or sizes.grown or sizes.evicted:
        changes[key] = sizes
    else:
        changes.pop(key, None)
