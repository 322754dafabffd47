"""The tree: lookup and children, for every kind of place. The way in for the kernel's side.

Owns what is where; `listings.py` owns what a directory holds, `freshness.py` for how long. A lookup below a
run is answered from the parent's listing, which is one call (semantics 1.1).
"""

import hashlib
import re
import time
from collections.abc import Callable

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.modellab.content import Artifact
from artifactfs.modellab.models import Run
from artifactfs.tree import listings
from artifactfs.tree.freshness import FreshCache, Health, Held
from artifactfs.tree.listings import Amendment, Listing, Service
from artifactfs.tree.nodes import ROOT_NUMBER, Directory, Entry, File, Fixed, Node, Numbering, child, completes

# Bounds of what is remembered. An entry is about 300 bytes, so all of it is about 400 MB; a listing of
# modellab.client.MAX_ROWS must fit. A run is about 500 bytes.
_MAX_ENTRIES = 1_200_000
_MAX_RUNS = 20_000
# Directories in which a listing and a content were seen to disagree: rare.
_MAX_AMENDED = 1_000
_MAX_RUN_ID = 2**63 - 1
# Names of ours never go away while the mount is there.
_FIXED_VALID_S = 3600.0


class Found(msgspec.Struct, frozen=True, gc=False):
    """A place, and for how many seconds its name may be believed."""

    node: Node
    valid_s: float


class Contents(msgspec.Struct, frozen=True):
    """What a directory holds, frozen: entries in order, and how to make a place of each.

    `left_s()` is for how many more seconds the names may be believed.
    """

    entries: tuple[Entry, ...]
    node_of: Callable[[Entry], Node]
    left_s: Callable[[], float]


class Location(msgspec.Struct, frozen=True):
    """Where a file's content is, and a digest of its run's times if the run is settled."""

    artifact: Artifact
    run_stamp: bytes | None


class TreeTimes(msgspec.Struct, frozen=True):
    """The times of semantics 3.1 and 3.2, in seconds."""

    listing_ttl: float = 60.0
    finished_ttl: float = 3600.0
    negative_ttl: float = 10.0
    stale_max: float = 3600.0


class Tree:
    """The tree of one mount. `nursery` outlives every call; fetches run in it.

    `clock` gives seconds that go on during sleep, `wall_clock_ns` nanoseconds since the epoch. Every method
    raises TreeError or ServiceError.
    """

    def __init__(
        self,
        service: Service,
        *,
        site: str,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        wall_clock_ns: Callable[[], int] = time.time_ns,
        times: TreeTimes | None = None,
        runs_listed: int = 200,
    ) -> None:
        self._service = service
        self._times = times or TreeTimes()
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._runs_listed = runs_listed
        self._numbering = Numbering(site)
        mounted_ns = wall_clock_ns()
        self.root = Fixed(Entry(b"", True, ROOT_NUMBER, mounted_ns), ROOT_NUMBER)
        self.runs = Fixed(Entry(b"runs", True, self._numbering.fixed("runs"), mounted_ns), ROOT_NUMBER)
        self._top = {self.runs.entry.name: self.runs}
        # Of runs that were listed: what a path in them is relative to, and the run as it was then.
        self._places: cachetools.LRUCache[int, tuple[Run, str]] = cachetools.LRUCache(_MAX_RUNS)
        # Where contents and listings disagree, by directory and name.
        self._amendments: cachetools.LRUCache[tuple[int, str], dict[bytes, Amendment]] = cachetools.LRUCache(
            _MAX_AMENDED
        )
        health = Health()

        self._runs: FreshCache[int, Run] = FreshCache(
            "run",
            fetch=self._fetch_run,
            ttl_s=self._ttl_s,
            weight=lambda _run: 1,
            max_weight=_MAX_RUNS,
            negative_ttl_s=self._times.negative_ttl,
            stale_max_s=self._times.stale_max,
            health=health,
            nursery=nursery,
            clock=clock,
        )
        self._pages: FreshCache[int, tuple[Run, ...]] = FreshCache(
            "runs, newest",
            fetch=self._fetch_runs,
            ttl_s=lambda _runs: self._times.listing_ttl,
            weight=len,
            max_weight=10**9,
            negative_ttl_s=0.0,
            stale_max_s=self._times.stale_max,
            health=health,
            nursery=nursery,
            clock=clock,
        )
        self._listings: FreshCache[tuple[int, str, bool], _RunListing] = FreshCache(
            "listing (run, path)",
            fetch=self._fetch_listing,
            ttl_s=lambda found: self._ttl_s(found.run),
            weight=lambda found: len(found.listing) + 1,
            max_weight=_MAX_ENTRIES,
            negative_ttl_s=self._times.negative_ttl,
            stale_max_s=self._times.stale_max,
            health=health,
            nursery=nursery,
            clock=clock,
        )

    async def lookup(self, parent: Node, name: bytes) -> Found:
        """Return the place called `name` in `parent`. Raises NoSuchEntry with the time it may be believed."""
        if isinstance(parent, Directory):
            held = await self._listing(parent)
            left_s = self._listings.left_s(held)
            entry = held.value.listing.by_name.get(name)
            if entry is None:
                raise errors.NoSuchEntry("no such name", min(left_s, self._times.negative_ttl))
            return Found(child(parent, entry), left_s)
        if parent is self.root:
            if (fixed := self._top.get(name)) is not None:
                return Found(fixed, _FIXED_VALID_S)
        elif parent is self.runs:
            if (run_id := parse_run_id(name)) is not None:
                held_run = await self._runs.get(run_id)
                return Found(self._run_directory(held_run.value), self._runs.left_s(held_run))
        else:
            raise errors.NotADirectory("not a directory")
        # What desktops probe, and typing errors: never a request (semantics 1.2).
        raise errors.NoSuchEntry("no such name", self._times.negative_ttl)

    async def contents(self, node: Node) -> Contents:
        """Return what a directory holds, in the order to show it in."""
        if isinstance(node, Directory):
            directory = node
            held = await self._listing(directory)
            return Contents(
                held.value.listing.entries, lambda entry: child(directory, entry), lambda: self._listings.left_s(held)
            )
        if node is self.root:
            entries = tuple(fixed.entry for fixed in self._top.values())
            return Contents(entries, lambda entry: self._top[entry.name], lambda: _FIXED_VALID_S)
        if node is self.runs:
            page = await self._pages.get(self._runs_listed)
            places = {place.entry.name: place for place in map(self._run_directory, page.value)}
            return Contents(
                tuple(place.entry for place in places.values()),
                lambda entry: places[entry.name],
                lambda: self._pages.left_s(page),
            )
        raise errors.NotADirectory("not a directory")

    async def locate(self, file: File) -> Location:
        """Return where a file's content is. Asks the service only if its run's listings are long forgotten."""
        run_id = file.directory.run_id
        place = self._places.get(run_id)
        if place is None:
            # A listing at hand fills `_places` no more: it may be there when the run's place was forgotten.
            known = (await self._listing(file.directory)).value
            place = self._places[run_id] = (known.run, known.path_in_project)
        run, prefix = place
        if (held := self._runs.peek(run_id)) is not None:
            run = held.value
        artifact = Artifact(run.project_id, f"{prefix.rstrip('/')}/{file.path}")
        return Location(artifact, self._run_stamp(run))

    def check(self, file: File) -> None:
        """Raise Superseded if the listing at hand shows another version of a file, or none. Asks nobody."""
        directory = file.directory
        held = self._listings.at_hand((directory.run_id, directory.path, directory.entry.slash))
        if held is None:
            return
        entry = held.value.listing.by_name.get(file.entry.name)
        if entry is None or not completes(file.entry, entry):
            raise errors.Superseded("the listing has another version of this file")

    def doubt(self, directory: Directory) -> None:
        """The content contradicts the listing of a directory: the next look at it asks again."""
        for slash in (True, False):
            self._listings.drop((directory.run_id, directory.path, slash))

    def learned(self, file: File, size_bytes: int) -> File:
        """Take note of a size that the listing does not give, or gives wrong; returns the file with it."""
        directory, entry = file.directory, file.entry
        held = self._listings.at_hand((directory.run_id, directory.path, directory.entry.slash))
        completed = msgspec.structs.replace(entry, size_bytes=size_bytes)
        if held is not None and held.value.listing.by_name.get(entry.name) == entry:
            held.value.listing.by_name[entry.name] = completed
        return File(directory, completed)

    def contradicted(self, file: File, size_bytes: int | None) -> None:
        """A content is of another version than was listed; `size_bytes` of it where the answer said.

        Where a fresh listing still disagrees, the content's size counts (semantics 4.1).
        """
        directory, entry = file.directory, file.entry
        self.doubt(directory)
        if size_bytes is None or size_bytes == entry.size_bytes:
            return
        amended = self._amendments.setdefault((directory.run_id, directory.path), {})
        before = amended.get(entry.name)
        listed = before.listed_bytes if before and before.size_bytes == entry.size_bytes else entry.size_bytes
        amended[entry.name] = Amendment(listed, size_bytes)

    def expire(self) -> None:
        """Make the next look at anything fresh (semantics 3.3). What was fetched stays at hand in case that fails."""
        for cache in (self._runs, self._pages, self._listings):
            cache.expire()

    async def _listing(self, directory: Directory) -> "Held[_RunListing]":
        key = (directory.run_id, directory.path, directory.entry.slash)
        try:
            return await self._listings.get(key)
        except errors.NoSuchEntry:
            # The parent's listing named it, and it is gone: that listing is no longer true.
            parent = directory.path.rpartition("/")[0]
            for slash in (True, False):
                self._listings.drop((directory.run_id, parent, slash))
            raise

    def _run_stamp(self, run: Run) -> bytes | None:
        """Return a digest of a settled run's times: as long as it stays the same, so do the run's contents (4.3)."""
        if not listings.settled(run, self._wall_clock_ns()):
            return None
        return hashlib.blake2b(f"{run.completed_ns} {run.updated_ns}".encode(), digest_size=16).digest()

    async def _fetch_run(self, run_id: int, _old: Run | None) -> Run:
        return await self._service.get_run(run_id)

    async def _fetch_runs(self, count: int, _old: tuple[Run, ...] | None) -> tuple[Run, ...]:
        asked_at = self._clock()
        runs = [run for run in await self._service.list_runs(count) if 1 <= run.run_id <= _MAX_RUN_ID]
        for run in runs:
            self._runs.put(run.run_id, run, asked_at)
        return tuple(runs)

    async def _fetch_listing(self, key: tuple[int, str, bool], old: "_RunListing | None") -> "_RunListing":
        run_id, path, slash = key
        run = (await self._runs.get(run_id)).value
        answer = await self._service.list_directory(run_id, path, slash=slash)
        self._places[run_id] = (run, answer.path_in_project)
        listing = await listings.build(
            answer, run, path, old.listing if old else None, self._numbering, self._amendments.get((run_id, path))
        )
        return _RunListing(run, listing, answer.path_in_project)

    def _ttl_s(self, run: Run) -> float:
        return self._times.finished_ttl if listings.settled(run, self._wall_clock_ns()) else self._times.listing_ttl

    def _run_directory(self, run: Run) -> Directory:
        entry = Entry(str(run.run_id).encode(), True, self._numbering.run(run.run_id), listings.run_time_ns(run))
        return Directory(run.run_id, "", entry, self.runs.entry.number)


class _RunListing(msgspec.Struct, frozen=True):
    """A listing, and the run as it was when it was asked for: its status says how long to believe it."""

    run: Run
    listing: Listing
    path_in_project: str


def parse_run_id(name: bytes) -> int | None:
    """Return the run's id for a name under /runs, or None for what cannot be one (semantics 1.2)."""
    if re.fullmatch(rb"[1-9][0-9]{0,18}", name) is None:
        return None
    run_id = int(name)
    return run_id if run_id <= _MAX_RUN_ID else None
