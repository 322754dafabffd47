"""One directory's entries, made from the service's answer, and their time to live."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec
import trio

from artifactfs.domain import DirectoryListing, IndexedFile, ListedChild, Project, RequestUsage, Run
from artifactfs.tree.inode_numbers import ChildNumber, InodeNumbers
from artifactfs.tree.nodes import Entry, may_have_grown, same_version

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

    async def list_runs(self, count: int, project_id: int | None = None) -> list[Run]:
        """Return the runs last updated, of one project or of all, newest first."""

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


class Listing(msgspec.Struct, frozen=True):
    """A directory's entries by name, in the server's order."""

    by_name: dict[bytes, Entry]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries as they are now, frozen for a reader that goes through them by position."""
        return tuple(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)


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


class TreeTimes(msgspec.Struct, frozen=True):
    """The times of docs/semantics.md 3.1, 3.2 and 3.5, in seconds."""

    listing_ttl: float = 60.0
    finished_ttl: float = 3600.0
    negative_ttl: float = 10.0
    stale_max: float = 3600.0
    live_ttl: float = 5.0

    def ttl_s(self, run: Run, then_ns: int) -> float:
        """Return the time to live of a run's listing that was requested at `then_ns` (since the epoch)."""
        return self.finished_ttl if settled(run, then_ns) else self.listing_ttl


def settled(run: Run, now_ns: int) -> bool:
    """Whether a run was finished more than ten minutes before `now_ns` (nanoseconds since the epoch).

    Some completed runs have no `completed_at` (model-lab-api.md): then the last update counts.
    """
    ended_ns = run.completed_ns if run.completed_ns is not None else run.updated_ns
    return run.finished and ended_ns is not None and now_ns - ended_ns > SETTLED_S * 1e9


def file_time_ns(run: Run) -> int:
    """Return the best time known for a run's artifacts (docs/semantics.md 2.3); 0 where the service gives none."""
    return next((t for t in (run.completed_ns, run.created_ns, run.updated_ns) if t is not None), 0)


def run_time_ns(run: Run) -> int:
    """Return the time of a run's directory (docs/semantics.md 2.3); 0 where the service gives none."""
    return next((t for t in (run.updated_ns, run.completed_ns, run.created_ns) if t is not None), 0)


def chunked(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield items in slices, each short enough for the event loop."""
    rest = iter(items)
    while part := list(itertools.islice(rest, SLICE)):
        yield part


async def checkpoint_if_full(part: Sequence[object]) -> None:
    """Let other tasks run after a full slice; most directories are shorter, and cost no checkpoint."""
    if len(part) == SLICE:
        await trio.lowlevel.checkpoint()


async def timed(
    children: Mapping[bytes, ListedChild], index: Mapping[bytes, ListedChild]
) -> Mapping[bytes, ListedChild]:
    """Return a directory's children with the files' times from the index, and sizes where they lack."""
    if not index:
        return children
    found = dict(children)
    for part in chunked(index.values()):
        for known in part:
            if (child := found.get(known.name)) is not None and not child.is_dir:
                size_bytes = known.size_bytes if child.size_bytes is None else child.size_bytes
                found[known.name] = msgspec.structs.replace(child, size_bytes=size_bytes, created_ns=known.created_ns)
        await checkpoint_if_full(part)
    return found


async def build(
    children: Mapping[bytes, ListedChild],
    run: Run,
    path: str,
    old: Listing | None,
    numbering: InodeNumbers,
    now_ns: int,
    overrides: dict[bytes, SizeOverride],
    grown: dict[bytes, GrownFile],
) -> Listing:
    """Make a listing of the children in an answer, which came at `now_ns` since the epoch.

    A child that is unchanged since `old` keeps its entry, and with it its time (2.3). `overrides`: sizes by name, and
    `grown`: the files that grew, by name; both are brought up to date.
    """
    live = not settled(run, now_ns)
    number = numbering.children(run.run_id, path)
    mtime_ns = file_time_ns(run)
    known = old.by_name if old is not None else {}
    by_name: dict[bytes, Entry] = {}
    for part in chunked(children.values()):
        for item in part:
            override = overrides.pop(item.name, None) if overrides else None
            if override is not None and (override := override.next(item.size_bytes, live=live)) is not None:
                overrides[item.name] = override
                item = msgspec.structs.replace(item, size_bytes=override.size_bytes)
            before, growth = known.get(item.name), grown.get(item.name) if grown else None
            if before is None and growth is not None:
                before = growth.entry
            used = growth.numbers if growth is not None else ()
            by_name[item.name] = entry = _entry(item, before, number, mtime_ns, now_ns, used)
            if growth is not None or (before is not None and may_have_grown(before, entry)):
                note_growth(grown, entry)
        await checkpoint_if_full(part)
    for name in grown.keys() - by_name.keys():
        # What comes under the name of a file that went away does not continue it.
        grown[name].entry = None
    return Listing(by_name)


def note_growth(grown: dict[bytes, GrownFile], entry: Entry) -> None:
    """Record the entry of a file that grew, or that takes the place of one that did."""
    known = grown.setdefault(entry.name, GrownFile(None, set()))
    known.numbers.add(entry.number)
    known.entry = entry


def _entry(
    item: ListedChild, old: Entry | None, number: ChildNumber, mtime_ns: int, now_ns: int, used: Collection[int] = ()
) -> Entry:
    """Return the entry of a child. `used`: numbers that its name had for files that grew, which are not used again."""
    if old is None:
        mtime_ns = mtime_ns if item.created_ns is None else item.created_ns
        its_number = number(item.name, item.is_dir, item.size_bytes)
        if its_number in used:
            its_number = number(item.name, item.is_dir, item.size_bytes, now_ns)
        return Entry(item.name, item.is_dir, its_number, mtime_ns, item.size_bytes, item.created_ns)
    new = Entry(
        item.name,
        item.is_dir,
        old.number,
        old.mtime_ns,
        item.size_bytes,
        old.created_ns if item.created_ns is None else item.created_ns,
    )
    if may_have_grown(old, new):
        # Its own time where that moved; else the time at which the growth was seen.
        moved = item.created_ns not in (None, old.created_ns)
        return msgspec.structs.replace(new, mtime_ns=item.created_ns if moved else now_ns, created_ns=item.created_ns)
    if not same_version(old, new):
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
