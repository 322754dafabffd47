"""The listings of directories in runs: cached, fetched directly or from the project index, and prefetched.

A listing's key is (run id, path). The contents of files may contradict a listing: then its directory needs a direct
listing, and a size that the contents showed overrides the listed one (docs/semantics.md 4.1).

Within a run all files show their own times, or all show the run's: a `RunClock` says which. Hard: a listing that is
being made when its run's clock changes must not come with the times of the old clock.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import DirectoryListing, ListedChild, Run
from artifactfs.tree import file_times, following, listing
from artifactfs.tree.file_times import RunClock
from artifactfs.tree.following import Following
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.inode_numbers import InodeNumbers
from artifactfs.tree.listing import Listing, Service, TreeTimes
from artifactfs.tree.nodes import ATTRIBUTES_S, ArtifactDir, Entry
from artifactfs.tree.size_changes import SizeChanges
from artifactfs.tree.swr_cache import Caches, StaleWhileRevalidateCache
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.prefetcher import Prefetcher
from artifactfs.tree.walk.project_index import ProjectIndex
from artifactfs.tree.walk.traversals import Traversals

# An entry is about 300 bytes, so all of them are about 400 MB; a listing of modellab.client.MAX_ROWS must fit.
_MAX_ENTRIES = 1_200_000
# Directories for which the index was contradicted: rare, too.
_MAX_NEEDS_DIRECT = 10_000


class RunListing(msgspec.Struct, frozen=True):
    """A listing, and the run at the time of its request, which decides the time to live.

    `clock`: the times that its files showed when it was made. `own`: a direct listing, not from the index. `age_s`: its
    age when it was made.
    """

    run: Run
    listing: Listing
    path_in_project: str
    clock: RunClock
    own: bool = True
    age_s: float = 0.0


class Directories:
    """The listings of one mount. `prefetch`: auto, tree or off (docs/configuration.md)."""

    def __init__(
        self,
        service: Service,
        *,
        runs: StaleWhileRevalidateCache[int, Run],
        caches: Caches,
        numbering: InodeNumbers,
        times: TreeTimes,
        tuning: TreeTuning,
        walks: Traversals,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        wall_clock_ns: Callable[[], int],
        prefetch: str,
    ) -> None:
        self._service = service
        self._runs = runs
        self._health = caches.health
        self._numbering = numbering
        self._times = times
        self._walks = walks
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self.listings: StaleWhileRevalidateCache[tuple[int, str], RunListing] = caches.make(
            lambda key: f"run {key[0]}, directory {key[1] or '/'}",
            fetch=self._fetch_listing,
            ttl_s=lambda found: self._ttl_s(found.run) - found.age_s,
            weight=lambda found: len(found.listing) + 1,
            max_weight=_MAX_ENTRIES,
        )
        # Of runs that were listed: the run at that time, and its path in the project.
        self._run_roots: cachetools.LRUCache[int, tuple[Run, str]] = cachetools.LRUCache(tuning.max_runs)
        self.sizes = SizeChanges()
        # By run, the directories that are in `listings`, or were.
        self._dirs_by_run: cachetools.LRUCache[int, dict[str, None]] = cachetools.LRUCache(tuning.max_runs)
        # Directories whose next listing must be direct: the index or contents were contradicted there.
        self._needs_direct: cachetools.LRUCache[tuple[int, str], bool] = cachetools.LRUCache(_MAX_NEEDS_DIRECT)
        self.following = Following(self.listings, self._needs_direct, times=times, nursery=nursery, clock=clock)
        self._clocks: cachetools.LRUCache[int, RunClock] = cachetools.LRUCache(tuning.max_runs)
        self._retiming = trio.Lock()
        # Called with a run's id when the times of its files have changed all at once.
        self.on_new_times: Callable[[int], None] = lambda _run_id: None
        self.index = (
            ProjectIndex(
                service.project_files,
                self,
                nursery=nursery,
                clock=clock,
                ttl_s=self._ttl_s,
                settled=self._settled,
                tuning=tuning,
            )
            if prefetch == "auto"
            else None
        )
        self.prefetcher = (
            Prefetcher(self, nursery=nursery, walk=walks.walk, tuning=tuning) if prefetch != "off" else None
        )

    def force_direct(self, directory: ArtifactDir, move: Callable[[tuple[int, str]], None]) -> None:
        """Let the next listing of a directory be direct; `move` marks the cached one stale, or invalidates it."""
        self._needs_direct[directory.run_id, directory.path] = True
        move((directory.run_id, directory.path))

    def attributes_left_s(self, held: CacheEntry[RunListing], ttl_left_s: float | None = None) -> float:
        """Return the attribute timeout of a listing's files (docs/semantics.md 3.5)."""
        if listing.settled(held.value.run, self._wall_clock_ns()):
            return ATTRIBUTES_S
        left_s = self.ttl_left_s(held) if ttl_left_s is None else ttl_left_s
        return following.attributes_left_s(self._times, left_s, self._age_s(held))

    def follow(self, held: CacheEntry[RunListing], key: tuple[int, str]) -> None:
        """Refresh a listing in the background if it is due: a program follows a file in it. Nothing waits for that."""
        self.following.refresh(key, self.ttl_left_s(held), self._age_s(held))

    def _age_s(self, held: CacheEntry[RunListing]) -> float:
        return self._clock() - held.requested_at + held.value.age_s

    def cached_run_root(self, run_id: int) -> tuple[Run, str] | None:
        """Return a listed run as it was then, and its path in the project. No request."""
        return self._run_roots.get(run_id)

    async def run_root(self, directory: ArtifactDir) -> tuple[Run, str]:
        """Return the same for the run of a directory; lists the directory only if it is not known."""
        run_id = directory.run_id
        if (root := self._run_roots.get(run_id)) is None:
            # A cached listing does not fill `_run_roots`, and may outlive the run's place there.
            known = (await self.get(directory)).value
            root = self._run_roots[run_id] = (known.run, known.path_in_project)
        return root

    def mark_all_stale(self) -> None:
        """Make every listing and every index stale (docs/semantics.md 3.3)."""
        self.listings.mark_all_stale()
        if self.index is not None:
            self.index.mark_all_stale()

    def clear(self) -> None:
        """Remove everything (docs/semantics.md 6.3)."""
        self.listings.clear()
        for known in (self._run_roots, self.sizes, self._dirs_by_run, self._needs_direct, self._clocks):
            known.clear()
        if self.index is not None:
            self.index.clear()

    async def get(self, directory: ArtifactDir) -> CacheEntry[RunListing]:
        key = (directory.run_id, directory.path)
        if (held := self.listings.get_fresh(key)) is not None:
            return held
        with self._walks.asking(directory.run_id, directory.path):
            return await self._or_gone(directory, self.listings.get(key))

    async def get_direct(self, directory: ArtifactDir) -> CacheEntry[RunListing]:
        """Return a directory's direct listing, fetched now if the cached one came from the index."""
        self._needs_direct[directory.run_id, directory.path] = True
        key = (directory.run_id, directory.path)
        held = await self._or_gone(directory, self.listings.refetch(key))
        if not held.value.own:  # a fetch in flight was joined
            self._needs_direct[directory.run_id, directory.path] = True
            held = await self._or_gone(directory, self.listings.refetch(key))
        return held

    def ttl_left_s(self, held: CacheEntry[RunListing]) -> float:
        """Return the entry timeout of a listing's names."""
        left_s = self.listings.ttl_left_s(held)
        # The index may be rejected later.
        return left_s if held.value.own else min(left_s, self._times.listing_ttl)

    async def _or_gone(
        self, directory: ArtifactDir, listing: Awaitable[CacheEntry[RunListing]]
    ) -> CacheEntry[RunListing]:
        try:
            return await listing
        except errors.NoSuchEntry:
            # The parent's listing names a directory that is gone.
            parent = directory.path.rpartition("/")[0]
            self.listings.invalidate((directory.run_id, parent))
            raise

    async def _fetch_listing(self, key: tuple[int, str], old: RunListing | None) -> RunListing:
        run_id, path = key
        run = (await self._runs.get(run_id)).value
        place = self._run_roots.get(run_id)
        if self.index is not None and path and place is not None and (run_id, path) not in self._needs_direct:
            traversal, has_stale = self._walks.walk(run_id) is not None, old is not None
            found = await self.index.directory(run, place[1], path, traversal=traversal, has_stale=has_stale)
            # Of a directory that was listed since, the index may know files as they were before they grew.
            if found is not None and not self._is_listed_since(key, found[1]):
                children, requested_at = found
                listing, clock = await self._build(run, place[1], path, children, old, own=False)
                # No await from here to the cache: a rejection evicts this listing, too.
                if self.index.is_trusted(run):
                    self._track(run_id, path)
                    age_s = self._clock() - requested_at
                    return RunListing(run, listing, place[1], clock, own=False, age_s=age_s)
        own = await self._fetch_direct(run, path, old)
        self._track(run_id, path)
        return own

    def _is_listed_since(self, key: tuple[int, str], then: float) -> bool:
        held = self.listings.get_any(key)
        return held is not None and held.value.own and held.requested_at > then

    async def _fetch_direct(self, run: Run, path: str, old: RunListing | None) -> RunListing:
        if self.index is not None and not self._health.is_degraded():
            self.index.request(run)
        try:
            answer = await self._service.list_directory(run.run_id, path)
        except errors.NotFound:
            if self.index is not None and (place := self._run_roots.get(run.run_id)) is not None:
                await self.index.listed(run, place[1], path, {})
            raise
        return await self._accept_direct(run, path, answer, old)

    async def _accept_direct(self, run: Run, path: str, answer: DirectoryListing, old: RunListing | None) -> RunListing:
        """Make a direct listing of an answer; validates the index with it, and takes files' times from that."""
        prefix = answer.path_in_project
        children: Mapping[bytes, ListedChild] = answer.children.by_name
        self._run_roots[run.run_id] = (run, prefix)
        self._needs_direct.pop((run.run_id, path), None)
        if self.index is not None:
            indexed = await self.index.listed(run, prefix, path, children)
            children = await listing.completed(children, indexed, times=self._clock_of(run).own)
        clock = self._clock_of(run)
        has_index = self.index is not None and self.index.has_times(run)
        if (clock.own and not has_index) or clock.run_ns != self._run_time_ns(run, clock):
            await self.show_times(run, prefix, own=clock.own and has_index)
        made, clock = await self._build(run, prefix, path, children, old, own=True)
        return RunListing(run, made, prefix, clock)

    async def _build(
        self,
        run: Run,
        prefix: str,
        path: str,
        children: Mapping[bytes, ListedChild],
        old: RunListing | None,
        *,
        own: bool,
    ) -> tuple[Listing, RunClock]:
        """Make a listing with the times of the run's clock as that is when this returns; returns the clock, too."""
        key = (run.run_id, path)
        sizes = self.sizes.of(key)
        began = clock = self._clock_of(run)
        time_ns = self._seen_ns(run) if clock.own else clock.run_ns
        known = old.listing if old is not None else None
        made = await listing.build(children, run, path, known, self._numbering, self._wall_clock_ns(), sizes, time_ns)
        self.sizes.keep(key, sizes)
        # The old listing, and the index, may have the times of another clock.
        is_current = (old is None or old.clock is clock) and (clock.own or own)
        if is_current and self._clocks.get(run.run_id) is clock and not (clock.own and file_times.lacks_times(made)):
            return made, clock
        while True:
            clock = self._clock_of(run)
            index = await self._stale_times(run, prefix, path) if clock.own else {}
            file_times.apply(await file_times.changes(made, clock, began, index, self._seen_ns(run)))
            if self._clocks.get(run.run_id) is clock:
                return made, clock
            began = clock

    # --- times ---------------------------------------------------------------------------------------------

    def _clock_of(self, run: Run) -> RunClock:
        if (clock := self._clocks.get(run.run_id)) is None:
            clock = self._clocks[run.run_id] = RunClock(False, listing.file_time_ns(run))
        return clock

    def _run_time_ns(self, run: Run, clock: RunClock) -> int:
        """Return the time that a run's files show by its clock. An update of the run alone does not move it."""
        moves = run.completed_ns is None and run.created_ns is None
        return clock.run_ns if moves else listing.file_time_ns(run)

    def _seen_ns(self, run: Run) -> int:
        """Return the time of a file that the index lacks: of a run that still changes, it is a new one."""
        return listing.file_time_ns(run) if self._settled(run) else self._wall_clock_ns()

    def _settled(self, run: Run) -> bool:
        return listing.settled(run, self._wall_clock_ns())

    async def _stale_times(self, run: Run, prefix: str, path: str) -> Mapping[bytes, ListedChild]:
        return await self.index.stale_times(run, prefix, path) if self.index is not None else {}

    async def show_times(self, run: Run, prefix: str, *, own: bool) -> None:
        """Make all files of a run show their own times, or the run's, at once (docs/semantics.md 2.3)."""
        async with self._retiming:
            before = self._clock_of(run)
            clock = RunClock(own, self._run_time_ns(run, before))
            made: file_times.Changes = []
            seen: dict[str, Listing] = {}
            while todo := [
                (path, held.value.listing)
                for path, held in self._cached_dirs(run.run_id)
                if seen.get(path) is not held.value.listing
            ]:
                for path, known in todo:
                    seen[path] = known
                    index = await self._stale_times(run, prefix, path) if own else {}
                    made += await file_times.changes(known, clock, before, index, self._seen_ns(run))
            # No await from here on: all files of the run change at once.
            self._clocks[run.run_id] = clock
            file_times.apply(made)
        if made:
            self.on_new_times(run.run_id)

    # --- DirectLister --------------------------------------------------------------------------------------

    def direct_listings(self, run: Run) -> Iterator[tuple[str, Mapping[bytes, Entry]]]:
        """Yield path and entries of every directory of a run whose direct listing is cached and fresh."""
        for path, held in self._cached_dirs(run.run_id):
            if held.value.own and self.listings.ttl_left_s(held) > 0:
                yield path, held.value.listing.by_name

    async def list_direct(
        self, run: Run, path: str
    ) -> tuple[Mapping[bytes, ListedChild], Callable[[], Awaitable[None]]]:
        """List a directory directly; returns its children, and a function that caches them."""
        requested_at = self._clock()
        answer = await self._service.list_directory(run.run_id, path)
        key = (run.run_id, path)

        async def keep() -> None:
            old = self.listings.get_any(key)
            found = await self._accept_direct(run, path, answer, old.value if old is not None else None)
            self._track(run.run_id, path)
            self.listings.store(key, found, requested_at)

        return answer.children.by_name, keep

    def evict_indexed(self, run_id: int) -> None:
        """Evict the listings of a run that came from the index."""
        for path, held in self._cached_dirs(run_id):
            if not held.value.own:
                # What grows in it stays the same file.
                sizes = self.sizes.of((run_id, path))
                sizes.evicted = held.value.listing.by_name
                self.sizes.keep((run_id, path), sizes)
                self.listings.evict((run_id, path))

    def _cached_dirs(self, run_id: int) -> Iterator[tuple[str, CacheEntry[RunListing]]]:
        """Yield every directory of a run that is cached, fresh or stale."""
        paths = self._dirs_by_run.get(run_id, {})
        for path in list(paths):
            if (held := self.listings.get_any((run_id, path))) is not None:
                yield path, held
            else:
                paths.pop(path, None)

    def _track(self, run_id: int, path: str) -> None:
        """Record that a directory is cached from now on."""
        paths = self._dirs_by_run.setdefault(run_id, {})
        paths.pop(path, None)  # the latest at the end
        paths[path] = None

    # --- ListingAccess -------------------------------------------------------------------------------------

    def fresh_entries(self, run_id: int, path: str) -> Mapping[bytes, Entry] | None:
        """Return a directory's entries if they are cached and fresh."""
        held = self.listings.get_fresh((run_id, path))
        return held.value.listing.by_name if held is not None else None

    def all_fresh_entries(self, run_id: int) -> Iterable[tuple[str, Mapping[bytes, Entry]]]:
        """Return every directory of a run that is cached and fresh."""
        for path, held in self._cached_dirs(run_id):
            if self.listings.ttl_left_s(held) > 0:
                yield path, held.value.listing.by_name

    async def fetch(self, run_id: int, path: str) -> Mapping[bytes, Entry]:
        """Fetch a directory's entries; equal requests join the fetch."""
        return (await self.listings.refetch((run_id, path))).value.listing.by_name

    def may_prefetch(self, run_id: int) -> bool:
        """Whether a prefetch may start now."""
        if self._health.is_degraded() or not self._walks.is_active(run_id):
            return False
        run = self._runs.get_any(run_id)
        index = self.index
        # A trusted index may still be rejected later in this traversal.
        if index is not None and run is not None and (index.is_trusted(run.value) or index.is_pending(run.value)):
            return False
        return self._service.can_prefetch()

    def _ttl_s(self, run: Run, age_s: float = 0.0) -> float:
        """Return the time to live of a listing that was requested `age_s` ago: its run may have ended since."""
        return self._times.ttl_s(run, self._wall_clock_ns() - int(age_s * 1e9))
