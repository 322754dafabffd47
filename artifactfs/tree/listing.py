"""One directory's entries, made from the service's answer, and their time to live."""

import enum
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec
import trio

from artifactfs.domain import (
    DirectoryListing,
    FacetKeys,
    IndexedFile,
    ListedChild,
    Project,
    RequestUsage,
    Run,
    RunFilter,
    RunRecord,
    is_finished,
)
from artifactfs.tree import inode_numbers
from artifactfs.tree.inode_numbers import ChildNumber
from artifactfs.tree.nodes import Entry, PackedEntries, join, lost_size, may_have_grown, packed, same_version
from artifactfs.tree.size_changes import DirectorySizes
from artifactfs.util.no_checkpoint import no_checkpoint

# A run must have been finished this long before its listings are cached for `finished_ttl` (docs/semantics.md 3.1):
# uploads trail behind a run's end.
SETTLED_S = 600.0
# Entries made between two checkpoints of the event loop: some milliseconds of work.
SLICE = 2_000

T = TypeVar("T")


class Service(Protocol):
    """What the tree needs of Model Lab. `artifactfs.modellab.client.ModelLab` is one; tests have another."""

    async def get_run(self, run_id: int) -> Run:
        """Return a run; raises NotFound for one that is not there or is deleted."""

    async def list_runs(self, count: int) -> list[Run]:
        """Return the runs last updated, newest first."""

    async def find_runs(self, count: int, wanted: RunFilter, *, has_older: bool) -> list[RunRecord]:
        """Return the runs last updated that a filter chooses, newest first. `has_older`: the caller has older ones."""

    async def facet_keys(self, project_id: int) -> FacetKeys:
        """Return the keys that occur in a project's runs."""

    async def facet_values(self, project_id: int, kind: str, key: str) -> tuple[str, ...]:
        """Return the values of a key that occur in a project's runs. `kind`: parameter or tag."""

    async def get_project(self, project_id: int) -> Project:
        """Return a project; raises NotFound for one that is not there or is deleted."""

    async def list_projects(self, count: int) -> list[Project]:
        """Return projects in the service's order."""

    async def list_directory(self, run_id: int, path: str) -> DirectoryListing:
        """Return the children of a directory of a run."""

    async def project_files(self, project_id: str, add: Callable[[Sequence[IndexedFile]], None]) -> None:
        """Give every file of a project's listing to `add`, as they come."""

    def can_prefetch(self) -> bool:
        """Whether a prefetch may start now."""

    def cost(self) -> RequestUsage:
        """Return the requests so far."""


class ListingSource(enum.Enum):
    """The source of a listing. The value is the word for it in reports."""

    DIRECT = "own"
    INDEX = "index"


class Listing(msgspec.Struct, frozen=True):
    """A directory's entries by name, in the server's order."""

    by_name: dict[bytes, Entry]

    @property
    def shown(self) -> tuple[Entry, ...] | PackedEntries:
        """The entries as they are now, frozen for a reader that goes through them by position."""
        return tuple(self.by_name.values())


class PackedListing(msgspec.Struct, gc=False, eq=False):
    """The same, packed until one of the entries is needed by its name. It may be replaced in `by_name` from then on."""

    packed: PackedEntries | None
    unpacked: dict[bytes, Entry] | None = None

    @property
    def by_name(self) -> dict[bytes, Entry]:
        """The entries by name."""
        if self.unpacked is None:
            self.unpacked = {entry.name: entry for entry in self.packed.entries()} if self.packed is not None else {}
            self.packed = None
        return self.unpacked

    @property
    def shown(self) -> tuple[Entry, ...] | PackedEntries:
        """See Listing."""
        return tuple(self.by_name.values()) if self.packed is None else self.packed

    def is_of(self, rows: "Rows", run: Run) -> bool:
        """Whether it is packed, and would be the same if it were made of these rows now."""
        packed = self.packed
        if packed is None or packed.run_ns != file_time_ns(run):
            return False
        return packed.files == rows.files and packed.directories == rows.directories

    def get(self, name: bytes) -> Entry | None:
        """Return the entry of a name."""
        return self.by_name.get(name)

    def __len__(self) -> int:
        return len(self.by_name if self.packed is None else self.packed)


AnyListing = Listing | PackedListing


def count(listing: AnyListing) -> int:
    """Return the number of a listing's entries."""
    return len(listing) if isinstance(listing, PackedListing) else len(listing.by_name)


class Rows(msgspec.Struct, frozen=True):
    """A directory in an index: the names of its directories, and of each file name, size and time, in decimal.

    Each field ends with a NUL; a size or a time that the index lacks is empty.
    """

    directories: list[bytes]
    files: bytes


class TreeTimes(msgspec.Struct, frozen=True):
    """The times of docs/semantics.md 3.1, 3.2 and 3.5, in seconds."""

    listing_ttl: float = 60.0
    finished_ttl: float = 3600.0
    negative_ttl: float = 10.0
    stale_max: float = 3600.0
    live_ttl: float = 5.0


def ttl_s(times: TreeTimes, run: Run, then_ns: int) -> float:
    """Return the time to live of a run's listing that was requested at `then_ns` (since the epoch)."""
    return times.finished_ttl if settled(run, then_ns) else times.listing_ttl


def settled(run: Run, now_ns: int) -> bool:
    """Whether a run was finished more than ten minutes before `now_ns` (nanoseconds since the epoch).

    Some completed runs have no `completed_at` (model-lab-api.md): then the last update counts.
    """
    ended_ns = run.completed_ns if run.completed_ns is not None else run.updated_ns
    return is_finished(run) and ended_ns is not None and now_ns - ended_ns > SETTLED_S * 1e9


def file_time_ns(run: Run) -> int:
    """Return the best time known for a run's artifacts (docs/semantics.md 2.3); 0 where the service gives none."""
    return next((t for t in (run.completed_ns, run.created_ns, run.updated_ns) if t is not None), 0)


def run_time_ns(run: Run) -> int:
    """Return the time of a run's directory (docs/semantics.md 2.3); 0 where the service gives none."""
    return next((t for t in (run.updated_ns, run.completed_ns, run.created_ns) if t is not None), 0)


def content_stamp(run: Run, entry: Entry, variant: int, *, settled: bool) -> bytes | None:
    """Return a digest that is the same as long as a file's contents are (docs/semantics.md 4.3); None without one."""
    if settled:
        known_by = f"{run.completed_ns} {run.updated_ns}"
        # A cache on the way to the service knows variants only by this.
        if variant:
            known_by += f" {variant}"
    elif entry.created_ns is not None:
        known_by = f"created {entry.created_ns}"
    else:
        return None
    return hashlib.blake2b(known_by.encode(), digest_size=16).digest()


def gone(path: str, old: AnyListing | None, new: AnyListing, cached: Iterable[str]) -> list[str]:
    """Return the `cached` directories that were in `path`, or below, and are no more by its new listing.

    What comes under such a name later does not continue what was there (docs/semantics.md 2.4). A packed listing comes
    from the index, which does not say that.
    """
    if not isinstance(old, Listing) or not isinstance(new, Listing):
        return []
    names = [entry.name for entry in old.by_name.values() if entry.is_dir]
    tops = [join(path, name) for name in names if (now := new.by_name.get(name)) is None or not now.is_dir]
    return [each for each in cached if any(each == top or each.startswith(f"{top}/") for top in tops)] if tops else []


def chunked(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield items in slices, each short enough for the event loop."""
    rest = iter(items)
    while part := list(itertools.islice(rest, SLICE)):
        yield part


async def checkpoint_if_full(part: Sequence[object]) -> None:
    """Let other tasks run after a full slice; most directories are shorter, and cost no checkpoint."""
    if len(part) == SLICE:
        await trio.lowlevel.checkpoint()


async def completed(
    children: Mapping[bytes, ListedChild], index: Mapping[bytes, ListedChild], *, times: bool
) -> Mapping[bytes, ListedChild]:
    """Return a directory's children with sizes from the index where they lack, and with `times` the files' times.

    A time belongs to a file of the size that the index has.
    """
    if not index:
        return children
    found = dict(children)
    for part in chunked(index.values()):
        for known in part:
            if (child := found.get(known.name)) is None or child.is_dir or known.is_dir:
                continue
            size_bytes = known.size_bytes if child.size_bytes is None else child.size_bytes
            # An index may give no size for an empty file.
            if size_bytes == (known.size_bytes or 0) or size_bytes is None:
                created_ns = known.created_ns if times else child.created_ns
                found[known.name] = msgspec.structs.replace(child, size_bytes=size_bytes, created_ns=created_ns)
        await checkpoint_if_full(part)
    return found


async def build(
    children: Mapping[bytes, ListedChild],
    run: Run,
    path: str,
    old: AnyListing | None,
    site: bytes,
    now_ns: int,
    sizes: DirectorySizes,
    time_ns: int | None = None,
) -> Listing:
    """Make a listing of the children in an answer, which came at `now_ns` since the epoch.

    A child that is unchanged since `old` keeps its entry, and with it its time (2.3). `sizes` is brought up to date.
    `time_ns`: the time of a new file that has none of its own; None for the run's, which directories show.
    """
    live = not settled(run, now_ns)
    number = inode_numbers.children(site, run.run_id, path)
    run_ns = file_time_ns(run)
    file_ns = run_ns if time_ns is None else time_ns
    evicted, sizes.evicted = sizes.evicted, {}
    known = old.by_name if old is not None else {}
    by_name: dict[bytes, Entry] = {}
    for part in chunked(children.values()):
        for answered in part:
            item = sizes.overridden(answered, now_ns, live=live) if sizes.overrides else answered
            growth = sizes.grown.get(item.name)
            before, used = known.get(item.name), growth.numbers if growth is not None else ()
            if growth is not None or sizes.overrides:
                before = sizes.corrected(before, item.name)
            if before is None and live and (shown := evicted.get(item.name)) is not None:
                # Of another size only: its times may be of another clock.
                grew = not shown.is_dir and not item.is_dir and (item.size_bytes or 0) > (shown.size_bytes or 0)
                before = shown if grew or sizes.is_undecided(shown, answered) else None
            if live and before is not None and sizes.is_undecided(before, answered):
                entry = before
            else:
                entry = _entry(item, before, number, run_ns if item.is_dir else file_ns, now_ns, used, live=live)
            by_name[item.name] = entry
            if growth is not None or (before is not None and may_have_grown(before, entry)):
                sizes.note_growth(entry)
        await checkpoint_if_full(part)
    for name in sizes.grown.keys() - by_name.keys():
        # What comes under the name of a file that went away does not continue it.
        sizes.grown[name].entry = None
    return Listing(by_name)


@no_checkpoint
def build_at_once(rows: Rows, run: Run, path: str, site: bytes, last: AnyListing | None = None) -> PackedListing | None:
    """Make a listing of a directory of an index, packed. It has the entries that `build` makes of the same.

    The `last` listing of the same rows goes on: the kernel's inodes are packed with it. None after any other, and where
    `build` would have to look closer: a file without a size or a time, a name or number that is there twice.
    """
    if last is not None:
        return last if isinstance(last, PackedListing) and last.is_of(rows, run) else None
    directories, fields = rows.directories, rows.files.split(b"\0")
    names = fields[:-1:3]
    if b"" in fields[:-1] or len({*directories, *names}) < len(directories) + len(names):
        return None
    numbers = inode_numbers.packed(site, run.run_id, path, directories, fields)
    if len(set(numbers)) < len(numbers):
        return None
    return PackedListing(packed(directories, rows.files, numbers, file_time_ns(run)))


def _entry(
    item: ListedChild,
    old: Entry | None,
    number: ChildNumber,
    mtime_ns: int,
    now_ns: int,
    used: Collection[int] = (),
    *,
    live: bool = False,
) -> Entry:
    """Return the entry of a child. `used`: numbers that its name had for files that grew, which are not used again.

    `live`: see SizeOverride.
    """
    if old is None:
        mtime_ns = mtime_ns if item.created_ns is None else item.created_ns
        its_number = number(item.name, item.is_dir, item.size_bytes)
        if its_number in used:
            its_number = number(item.name, item.is_dir, item.size_bytes, now_ns)
        is_listed = item.size_bytes is not None
        return Entry(item.name, item.is_dir, its_number, mtime_ns, item.size_bytes, item.created_ns, is_listed)
    new = Entry(
        item.name,
        item.is_dir,
        old.number,
        old.mtime_ns,
        item.size_bytes,
        old.created_ns if item.created_ns is None else item.created_ns,
        item.size_bytes is not None,
    )
    if may_have_grown(old, new):
        # Its own time where that moved; else the time at which the growth was seen.
        moved = item.created_ns not in (None, old.created_ns)
        return msgspec.structs.replace(new, mtime_ns=item.created_ns if moved else now_ns, created_ns=item.created_ns)
    if live and lost_size(old, new):
        return msgspec.structs.replace(new, mtime_ns=item.created_ns)
    if lost_size(old, new) or not same_version(old, new):
        new = _entry(item, None, number, mtime_ns, now_ns)
        if new.number == old.number or new.number in used or item.size_bytes == old.size_bytes:
            # The size alone does not tell it from what was there.
            time_ns = now_ns if item.created_ns in (None, old.created_ns) else item.created_ns
            new = msgspec.structs.replace(new, number=number(item.name, item.is_dir, item.size_bytes, time_ns))
        return new
    if new.size_bytes is None and old.size_bytes is not None:
        new = msgspec.structs.replace(new, size_bytes=old.size_bytes)
    # The same object where nothing changed: a refresh of a large directory costs no memory.
    return old if new == old else new
