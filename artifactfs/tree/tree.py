"""The tree: lookup and children, for every kind of place. The way in for the kernel's side.

Owns what is in runs; `catalog.py` owns what is above them, `listing.py` what a directory holds, `swr_cache.py` for how
long. A lookup below a run is answered from the parent's listing, which is one call (semantics 1.1). During a traversal,
lookups are served from the project index (`walk/project_index.py`) or from prefetched listings (`walk/prefetcher.py`).
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import ArtifactRef, ContentVersion, DirectoryListing, ListedChild, Run, below_prefix
from artifactfs.tree import listing
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.catalog import Catalog
from artifactfs.tree.inode_numbers import InodeNumbers
from artifactfs.tree.listing import Listing, Service, SizeOverride, TreeTimes
from artifactfs.tree.nodes import (
    ArtifactDir,
    ArtifactFile,
    DirSnapshot,
    Entry,
    LookupResult,
    Node,
    ProjectDir,
    StaticDir,
    child,
    same_version,
)
from artifactfs.tree.swr_cache import CacheEntry, Caches, StaleWhileRevalidateCache
from artifactfs.tree.tree_stats import ListingFacts, TreeState
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.prefetcher import Prefetcher
from artifactfs.tree.walk.project_index import ProjectIndex
from artifactfs.tree.walk.traversals import Traversals

# Bounds of what is remembered. An entry is about 300 bytes, so all of it is about 400 MB; a listing of
# modellab.client.MAX_ROWS must fit.
_MAX_ENTRIES = 1_200_000
# Directories whose listing and file contents disagreed: rare.
_MAX_AMENDED = 1_000
# Directories of which the index has been contradicted; rare, too.
_MAX_DOUBTED = 10_000


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
        times: TreeTimes = TreeTimes(),  # noqa: B008  # a constant
        tuning: TreeTuning = TreeTuning(),  # noqa: B008  # a constant
        runs_listed: int = 200,
        prefetch: str = "off",
    ) -> None:
        self._service = service
        self._times = times
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._numbering = InodeNumbers(site)
        # Of runs that were listed: what a path in them is relative to, and the run as it was then.
        self._places: cachetools.LRUCache[int, tuple[Run, str]] = cachetools.LRUCache(tuning.max_runs)
        # Where contents and listings disagree, by directory and name.
        self._amendments: cachetools.LRUCache[tuple[int, str], dict[bytes, SizeOverride]] = cachetools.LRUCache(
            _MAX_AMENDED
        )
        self._health = BackendHealth(tuning.probe_interval_s)
        caches = Caches(
            negative_ttl_s=self._times.negative_ttl,
            stale_max_s=self._times.stale_max,
            nursery=nursery,
            clock=clock,
            has_room=service.can_prefetch,
            health=self._health,
        )
        self._catalogue = Catalog(
            service,
            caches=caches,
            numbering=self._numbering,
            times=self._times,
            tuning=tuning,
            runs_listed=runs_listed,
            clock=clock,
            now_ns=wall_clock_ns,
        )
        self._runs = self._catalogue.known_runs
        self._listings: StaleWhileRevalidateCache[tuple[int, str], _RunListing] = caches.make(
            lambda key: f"run {key[0]}, directory {key[1] or '/'}",
            fetch=self._fetch_listing,
            ttl_s=lambda found: self._ttl_s(found.run) - found.age_s,
            weight=lambda found: len(found.listing) + 1,
            max_weight=_MAX_ENTRIES,
        )
        # By run, the directories that are in `_listings`, or were.
        self._listed: cachetools.LRUCache[int, dict[str, None]] = cachetools.LRUCache(tuning.max_runs)
        # Directories whose next listing must be direct: the index or the file contents contradicted the last one.
        self._doubted: cachetools.LRUCache[tuple[int, str], bool] = cachetools.LRUCache(_MAX_DOUBTED)
        self._walks = Traversals(nursery=nursery, clock=clock, cost=service.cost)
        self._index = (
            ProjectIndex(service.project_files, self, nursery=nursery, clock=clock, ttl_s=self._ttl_s, tuning=tuning)
            if prefetch == "auto"
            else None
        )
        self._prefetch = (
            Prefetcher(self, nursery=nursery, walk=self._walks.walk, tuning=tuning) if prefetch != "off" else None
        )

    @property
    def root(self) -> StaticDir:
        """The mount's own directory."""
        return self._catalogue.root

    @property
    def runs(self) -> StaticDir:
        """`/runs`."""
        return self._catalogue.runs

    async def lookup(self, parent: Node, name: bytes) -> LookupResult:
        """Return the place called `name` in `parent`. Raises NoSuchEntry with the negative entry's timeout."""
        if isinstance(parent, ArtifactDir):
            held = await self._listing(parent)
            left_s = self._left_s(held)
            entry = held.value.listing.by_name.get(name)
            if entry is None and not held.value.own:
                # The index never says that something is not there (semantics 1.6).
                held = await self._own_listing(parent)
                left_s = self._left_s(held)
                entry = held.value.listing.by_name.get(name)
            if entry is None:
                raise errors.NoSuchEntry("no such name", min(left_s, self._times.negative_ttl))
            return LookupResult(child(parent, entry), left_s)
        return await self._catalogue.lookup(parent, name)

    async def contents(self, node: Node) -> DirSnapshot:
        """Return what a directory holds, in the order to show it in."""
        if isinstance(node, ArtifactDir):
            return self._looked_at(node, await self._listing(node))
        return await self._catalogue.contents(node)

    def try_lookup(self, parent: Node, name: bytes) -> LookupResult | None:
        """Return the result of `lookup` if it is cached. Cheaper than `lookup`, and never waits."""
        if not isinstance(parent, ArtifactDir):
            return self._catalogue.try_lookup(parent, name)
        held = self._listings.get_fresh((parent.run_id, parent.path))
        if held is None or (entry := held.value.listing.by_name.get(name)) is None:
            return None
        return LookupResult(child(parent, entry), self._left_s(held))

    def try_list(self, node: Node) -> DirSnapshot | None:
        """Return the result of `contents` if it is cached. Cheaper than `contents`, and never waits."""
        if not isinstance(node, ArtifactDir):
            return None
        held = self._listings.get_fresh((node.run_id, node.path))
        return self._looked_at(node, held) if held is not None else None

    def _looked_at(self, directory: ArtifactDir, held: "CacheEntry[_RunListing]") -> DirSnapshot:
        listing = held.value.listing
        if self._walks.on_read(directory.run_id, directory.path) and self._prefetch is not None:
            self._prefetch.on_read(directory.run_id, directory.path, listing.by_name)
        return DirSnapshot(listing.entries, partial(child, directory), partial(self._left_s, held))

    async def locate_content(self, file: ArtifactFile) -> ContentVersion:
        """Return where a file's content is. Asks the service only if its run's listings are long forgotten."""
        run_id = file.directory.run_id
        place = self._places.get(run_id)
        if place is None:
            # A cached listing does not fill `_places`: it may outlive the run's place.
            known = (await self._listing(file.directory)).value
            place = self._places[run_id] = (known.run, known.path_in_project)
        run, prefix = place
        if (held := self._runs.get_fresh(run_id)) is not None:
            run = held.value
        artifact = ArtifactRef(run.project_id, below_prefix(prefix, file.path))
        entry = file.entry
        # The first version of a size has the number that stands for the size alone.
        first = self._numbering.children(run_id, file.directory.path)(entry.name, False, entry.size_bytes)
        variant = 0 if entry.number == first else entry.number
        settled = listing.settled(run, self._wall_clock_ns())
        return ContentVersion(artifact, entry.size_bytes, self._stamp(run, entry, variant), variant, settled)

    def check(self, file: ArtifactFile) -> None:
        """Raise Superseded if the cached listing has another version of a file, or none. Sends no request."""
        directory = file.directory
        held = self._listings.get_any((directory.run_id, directory.path))
        if held is None:
            return
        entry = held.value.listing.by_name.get(file.entry.name)
        if entry is None or not same_version(file.entry, entry):
            raise errors.Superseded("the listing has another version of this file")

    def doubt(self, directory: ArtifactDir) -> None:
        """Mark a directory's listing stale, since file contents failed in a way that a new listing may explain."""
        self._ask_anew(directory, self._listings.mark_stale)

    def _ask_anew(self, directory: ArtifactDir, forget: Callable[[tuple[int, str]], None]) -> None:
        self._doubted[directory.run_id, directory.path] = True
        forget((directory.run_id, directory.path))

    def record_size(self, file: ArtifactFile, size_bytes: int) -> ArtifactFile:
        """Take note of a size that the listing does not give, or gives wrong; returns the file with it."""
        directory, entry = file.directory, file.entry
        held = self._listings.get_any((directory.run_id, directory.path))
        completed = msgspec.structs.replace(entry, size_bytes=size_bytes)
        if held is not None and held.value.listing.by_name.get(entry.name) == entry:
            held.value.listing.by_name[entry.name] = completed
        return ArtifactFile(directory, completed)

    def record_size_conflict(self, file: ArtifactFile, size_bytes: int | None) -> None:
        """Note that file contents have another version than the listing; `size_bytes` where the answer had it.

        Where a fresh listing still disagrees, the content's size counts (semantics 4.1).
        """
        directory, entry = file.directory, file.entry
        self._ask_anew(directory, self._listings.invalidate)
        if size_bytes is None or size_bytes == entry.size_bytes:
            return
        amended = self._amendments.setdefault((directory.run_id, directory.path), {})
        before = amended.get(entry.name)
        listed = before.listed_bytes if before and before.size_bytes == entry.size_bytes else entry.size_bytes
        amended[entry.name] = SizeOverride(listed, size_bytes)

    def expire(self) -> None:
        """Mark everything stale (semantics 3.3). Stale values are served if the next fetch fails."""
        self._catalogue.expire()
        self._listings.mark_all_stale()
        if self._index is not None:
            self._index.expire()

    def forget(self) -> None:
        """Clear everything fetched from the service: it is another account's (semantics 6.3)."""
        self._catalogue.forget()
        self._listings.clear()
        for known in (self._places, self._amendments, self._listed, self._doubted):
            known.clear()
        if self._index is not None:
            self._index.expire()

    def refresh(self, node: Node) -> None:
        """Make the next look at a place, and at what is below it, fresh (3.3). Of a file: at its directory."""
        if isinstance(node, ArtifactDir | ArtifactFile):
            directory = node if isinstance(node, ArtifactDir) else node.directory
            run_id, path = directory.run_id, directory.path
            below = f"{path}/" if path else ""

            def is_meant(key: tuple[int, str]) -> bool:
                return key[0] == run_id and (key[1] == path or (node is directory and key[1].startswith(below)))

            self._listings.mark_stale_where(is_meant)
            run = self.known_run(run_id)
            self._runs.mark_stale_where(lambda known: known == run_id)
            if self._index is not None and run is not None:
                self._index.refresh(run.project_id)
        elif isinstance(node, ProjectDir) or (isinstance(node, StaticDir) and node not in (self.root, self.runs)):
            self._catalogue.refresh(node)
        else:
            self.expire()

    def known_run(self, run_id: int) -> Run | None:
        """Return a cached run, fresh or stale. Sends no request."""
        held, place = self._runs.get_any(run_id), self._places.get(run_id)
        return held.value if held is not None else place[0] if place is not None else None

    async def project_name(self, project_id: int) -> str:
        """Return a project's name; asks where it is not known."""
        return await self._catalogue.project_name(project_id)

    def facts(self, node: Node) -> ListingFacts | None:
        """Return the facts of the listing of a directory, or around a file; None for none. Sends no request."""
        if not isinstance(node, ArtifactDir | ArtifactFile):
            return self._catalogue.facts(node)
        directory = node if isinstance(node, ArtifactDir) else node.directory
        held = self._listings.get_any((directory.run_id, directory.path))
        if held is None:
            return None
        found = held.value
        age_s = self._clock() - held.requested_at + found.age_s
        return ListingFacts(age_s, own=found.own, entries=len(found.listing), left_s=self._listings.ttl_left_s(held))

    def state(self) -> TreeState:
        """Return the state of the tree, for status. Sends no request."""
        health, walks = self._health, self._walks
        runs, projects = self._catalogue.known()
        return TreeState(
            listings=len(self._listings),
            entries=self._listings.weight - len(self._listings),
            runs=runs,
            projects=projects,
            stale_served=health.stale_served,
            degraded_since=health.degraded_since,
            degraded_with_errors=health.with_errors,
            degraded_with_stale=health.with_stale,
            recovered_at=health.recovered_at,
            indexes=tuple(self._index.states()) if self._index is not None else (),
            walking=len(walks),
            walks=walks.ended,
            last_walk=walks.last,
            listed_ahead=self._prefetch.listed if self._prefetch is not None else 0,
        )

    async def _listing(self, directory: ArtifactDir) -> "CacheEntry[_RunListing]":
        key = (directory.run_id, directory.path)
        if (held := self._listings.get_fresh(key)) is not None:
            return held
        with self._walks.asking(directory.run_id, directory.path):
            return await self._or_gone(directory, self._listings.get(key))

    async def _own_listing(self, directory: ArtifactDir) -> "CacheEntry[_RunListing]":
        """Return a directory's own listing, asked for now where the index stands for it."""
        self._doubted[directory.run_id, directory.path] = True
        key = (directory.run_id, directory.path)
        held = await self._or_gone(directory, self._listings.refetch(key))
        if not held.value.own:  # that one had been under way already
            self._doubted[directory.run_id, directory.path] = True
            held = await self._or_gone(directory, self._listings.refetch(key))
        return held

    def _left_s(self, held: "CacheEntry[_RunListing]") -> float:
        """Return the entry timeout of a listing's names."""
        left_s = self._listings.ttl_left_s(held)
        # What came from the index may have to be taken back.
        return left_s if held.value.own else min(left_s, self._times.listing_ttl)

    async def _or_gone(
        self, directory: ArtifactDir, listing: Awaitable["CacheEntry[_RunListing]"]
    ) -> "CacheEntry[_RunListing]":
        try:
            return await listing
        except errors.NoSuchEntry:
            # The parent's listing named it, and it is gone: that listing is no longer true.
            parent = directory.path.rpartition("/")[0]
            self._listings.invalidate((directory.run_id, parent))
            raise

    def _stamp(self, run: Run, entry: Entry, variant: int) -> bytes | None:
        """Return a digest of what stays the same as long as a file's content does (semantics 4.3)."""
        if listing.settled(run, self._wall_clock_ns()):
            known_by = f"{run.completed_ns} {run.updated_ns}"
            # A cache on the way to the service knows nothing of variants but this.
            if variant:
                known_by += f" {variant}"
        elif entry.created_ns is not None:
            known_by = f"created {entry.created_ns}"
        else:
            return None
        return hashlib.blake2b(known_by.encode(), digest_size=16).digest()

    async def _fetch_listing(self, key: tuple[int, str], old: "_RunListing | None") -> "_RunListing":
        run_id, path = key
        run = (await self._runs.get(run_id)).value
        place = self._places.get(run_id)
        if self._index is not None and path and place is not None and (run_id, path) not in self._doubted:
            walking, hurry = self._walks.walk(run_id) is not None, old is not None
            found = await self._index.directory(run, place[1], path, walking=walking, hurry=hurry)
            if found is not None:
                children, asked_at = found
                listing = await self._build(run, path, children, old)
                # No await from here to the cache: what is taken back now is taken back with it.
                if self._index.is_trusted(run):
                    self._note(run_id, path)
                    return _RunListing(run, listing, place[1], own=False, age_s=self._clock() - asked_at)
        own = await self._ask_itself(run, path, old)
        self._note(run_id, path)
        return own

    async def _ask_itself(self, run: Run, path: str, old: "_RunListing | None") -> "_RunListing":
        try:
            answer = await self._service.list_directory(run.run_id, path)
        except errors.NotFound:
            if self._index is not None and (place := self._places.get(run.run_id)) is not None:
                await self._index.listed(run, place[1], path, {})
            raise
        return await self._take_own(run, path, answer, old)

    async def _take_own(
        self, run: Run, path: str, answer: DirectoryListing, old: "_RunListing | None"
    ) -> "_RunListing":
        """Make a directory's own listing of an answer; it counts against the index, and takes its files' times."""
        prefix = answer.path_in_project
        children: Mapping[bytes, ListedChild] = answer.children.by_name
        self._places[run.run_id] = (run, prefix)
        self._doubted.pop((run.run_id, path), None)
        if self._index is not None:
            children = await listing.timed(children, await self._index.listed(run, prefix, path, children))
        return _RunListing(run, await self._build(run, path, children, old), prefix)

    async def _build(
        self, run: Run, path: str, children: Mapping[bytes, ListedChild], old: "_RunListing | None"
    ) -> Listing:
        amendments = self._amendments.get((run.run_id, path))
        return await listing.build(children, run, path, old.listing if old else None, self._numbering, amendments)

    # --- for the index -------------------------------------------------------------------------------------

    def own_listings(self, run: Run) -> Iterator[tuple[str, Mapping[bytes, Entry]]]:
        """Yield path and entries of every directory of a run whose direct listing is cached and fresh."""
        for path, held in self._of_run(run.run_id):
            if held.value.own and self._listings.ttl_left_s(held) > 0:
                yield path, held.value.listing.by_name

    async def list_own(self, run: Run, path: str) -> tuple[Mapping[bytes, ListedChild], Callable[[], Awaitable[None]]]:
        """List a directory on its own; returns its children, and how to keep them."""
        asked_at = self._clock()
        answer = await self._service.list_directory(run.run_id, path)
        key = (run.run_id, path)

        async def keep() -> None:
            old = self._listings.get_any(key)
            listing = await self._take_own(run, path, answer, old.value if old is not None else None)
            self._note(run.run_id, path)
            self._listings.store(key, listing, asked_at)

        return answer.children.by_name, keep

    def forget_indexed(self, run_id: int) -> None:
        """Forget what came from the index about a run."""
        for path, held in self._of_run(run_id):
            if not held.value.own:
                self._listings.evict((run_id, path))

    def _of_run(self, run_id: int) -> "Iterator[tuple[str, CacheEntry[_RunListing]]]":
        """Yield every directory of a run that is held, fresh or old."""
        paths = self._listed.get(run_id, {})
        for path in list(paths):
            if (held := self._listings.get_any((run_id, path))) is not None:
                yield path, held
            else:
                paths.pop(path, None)

    def _note(self, run_id: int, path: str) -> None:
        """Take note of a directory that is held from now on."""
        paths = self._listed.setdefault(run_id, {})
        paths.pop(path, None)  # the latest at the end
        paths[path] = None

    # --- for listing ahead ---------------------------------------------------------------------------------

    def at_hand(self, run_id: int, path: str) -> Mapping[bytes, Entry] | None:
        """Return a directory's entries if they are cached and fresh."""
        held = self._listings.get_fresh((run_id, path))
        return held.value.listing.by_name if held is not None else None

    def all_at_hand(self, run_id: int) -> Iterable[tuple[str, Mapping[bytes, Entry]]]:
        """Return every directory of a run that is cached and fresh."""
        for path, held in self._of_run(run_id):
            if self._listings.ttl_left_s(held) > 0:
                yield path, held.value.listing.by_name

    async def bring(self, run_id: int, path: str) -> Mapping[bytes, Entry]:
        """Return a directory's entries; concurrent callers share one fetch."""
        return (await self._listings.refetch((run_id, path))).value.listing.by_name

    def may_go(self, run_id: int) -> bool:
        """Whether a request ahead may go now."""
        if self._health.is_degraded() or not self._walks.is_active(run_id):
            return False
        run = self._runs.get_any(run_id)
        index = self._index
        # A trusted index may be rejected later in this traversal.
        if index is not None and run is not None and (index.is_trusted(run.value) or index.is_pending(run.value)):
            return False
        return self._service.can_prefetch()

    def _ttl_s(self, run: Run, age_s: float = 0.0) -> float:
        """Return the time to live of a listing of that age: its run may have ended since."""
        return self._times.ttl_s(run, self._wall_clock_ns() - int(age_s * 1e9))


class _RunListing(msgspec.Struct, frozen=True):
    """A listing, and the run as it was when it was asked for: its status determines the time to live.

    `own`: the directory's own, not the index's part of it. `age_s`: how old it was already when it was made.
    """

    run: Run
    listing: Listing
    path_in_project: str
    own: bool = True
    age_s: float = 0.0
