"""The listings of directories in runs: cached, made of what a provider answers (listing_providers.py), and prefetched.

A listing's key is (run id, path). The contents of files may contradict a listing: then its directory needs a direct
listing, and a size that the contents showed overrides the listed one (docs/semantics.md 4.1). run_clocks.py has the
times that they show. What was listed before the mount counts, too (stored_listings.py).
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

import cachetools
import trio

from artifactfs.domain import ListedChild, Run
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.tree import file_times, following, listing
from artifactfs.tree.caches import Caches
from artifactfs.tree.directory_state import DirectoryKey, DirectoryState
from artifactfs.tree.file_times import RunClock
from artifactfs.tree.following import Following
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.listing import Listing, ListingSource, Service, TreeTimes
from artifactfs.tree.listing_providers import ANY_DIRECT, ListingAnswer, ListingProvider
from artifactfs.tree.nodes import ATTRIBUTES_S, ArtifactDir, Entry
from artifactfs.tree.run_clocks import RunClocks, clock_of, run_time_ns
from artifactfs.tree.run_directories import RunDirectories, track
from artifactfs.tree.size_changes import SizeChanges, keep, sizes_of
from artifactfs.tree.stored_listings import StoredListings
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.prefetcher import Prefetcher
from artifactfs.tree.walk.project_index import ProjectIndex
from artifactfs.tree.walk.traversals import Traversals
from artifactfs.util.clock import WallTimes
from artifactfs.util.no_checkpoint import no_checkpoint

# An entry is about 300 bytes, a packed one 50, so all of them are about 400 MB at most. A listing of
# modellab.client.MAX_ROWS must fit.
_MAX_ENTRIES = 1_200_000


class Directories:
    """The listings of one mount. `prefetch`: auto, tree or off (docs/configuration.md)."""

    def __init__(
        self,
        service: Service,
        *,
        runs: StaleWhileRevalidateCache[int, Run],
        caches: Caches,
        site: bytes,
        times: TreeTimes,
        tuning: TreeTuning,
        walks: Traversals,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        wall_clock_ns: Callable[[], int],
        prefetch: str,
        store: WriteBehind | None,
    ) -> None:
        self._service = service
        self._runs = runs
        self._store = store
        self._health = caches.health
        self._site = site
        self._times = times
        self._walks = walks
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self.listings: StaleWhileRevalidateCache[tuple[int, str], DirectoryState] = caches.make(
            lambda key: f"run {key[0]}, directory {key[1] or '/'}",
            fetch=self._fetch_listing,
            ttl_s=lambda found: self._ttl_s(self._row(found.run)) - found.age_s,
            weight=lambda found: listing.count(found.listing) + 1,
            max_weight=_MAX_ENTRIES,
        )
        self.listings.on_entry.append(self._on_entry)
        self.sizes = SizeChanges()
        self._dirs = RunDirectories(
            tuning.max_runs, listings=self.listings, runs=runs, sizes=self.sizes, wall_clock_ns=wall_clock_ns
        )
        self.clocks = RunClocks(
            tuning.max_runs,
            cached=lambda run_id: ((path, held.value.listing) for path, held in self._dirs.cached(run_id)),
            indexed=self._stale_times,
            wall_clock_ns=wall_clock_ns,
        )
        self.index = (
            ProjectIndex(
                service.project_files, self, nursery=nursery, clock=clock, ttl_s=self._ttl_s,
                settled=lambda run: listing.settled(run, wall_clock_ns()), tuning=tuning,
            )
            if prefetch == "auto"
            else None
        )  # fmt: skip
        self._provider = ListingProvider(
            service, tuning.max_runs, self.index, walks, caches.health, self._is_listed_since, clock
        )
        self._run_roots, self._needs_direct = self._provider.run_roots, self._provider.needs_direct
        self.following = Following(self.listings, self._needs_direct, times=times, nursery=nursery, clock=clock)
        self._stored = (
            StoredListings(
                store, runs, clocks=self.clocks, clock_shown=self._clock_shown,
                has_times=lambda run: self.index is not None and self.index.has_times(run),
                is_barred=lambda key: key in self._needs_direct or key in self.sizes,
                health=caches.health, clock=clock, times=WallTimes(clock, wall_clock_ns),
            )
            if store is not None
            else None
        )  # fmt: skip
        self.listings.stored = self._stored
        # Directories that programs saw as they were stored: their files go on as they were seen.
        self._shown_as_stored: cachetools.LRUCache[DirectoryKey, bool] = cachetools.LRUCache(tuning.max_runs)
        self.prefetcher = (
            Prefetcher(self, nursery=nursery, walk=walks.walk, tuning=tuning) if prefetch != "off" else None
        )

    def force_direct(self, directory: ArtifactDir, move: Callable[[tuple[int, str]], None]) -> None:
        """Let the next listing of a directory be direct; `move` marks the cached one stale, or invalidates it."""
        self._needs_direct[directory.run_id, directory.path] = self._clock()
        move((directory.run_id, directory.path))

    def attributes_left_s(self, held: CacheEntry[DirectoryState], ttl_left_s: float | None = None) -> float:
        """Return the attribute timeout of a listing's files (docs/semantics.md 3.5)."""
        run, now_ns = held.value.run, self._wall_clock_ns()
        if listing.settled(run, now_ns) and not self._health.is_offline and listing.settled(self._row(run), now_ns):
            return ATTRIBUTES_S
        left_s = self.ttl_left_s(held) if ttl_left_s is None else ttl_left_s
        return following.attributes_left_s(self._times, left_s, self._age_s(held))

    def follow(self, held: CacheEntry[DirectoryState], key: tuple[int, str]) -> None:
        """Refresh a listing in the background if it is due: a program follows a file in it. Nothing waits for that."""
        self.following.refresh(key, self.ttl_left_s(held), self._age_s(held))

    def _age_s(self, held: CacheEntry[DirectoryState]) -> float:
        return self._clock() - held.requested_at + held.value.age_s

    def cached_run_root(self, run_id: int) -> tuple[Run, str] | None:
        """Return a listed run as it was then, and its path in the project. No request."""
        return self._run_roots.get(run_id)

    async def run_root(self, directory: ArtifactDir) -> tuple[Run, str]:
        """Return the same for the run of a directory; lists the directory only if it is not known."""
        run_id = directory.run_id
        if (root := self._run_roots.get(run_id)) is None:
            # A cached listing may outlive the run's place there.
            known = (await self.get(directory)).value
            root = self._run_roots[run_id] = (known.run, known.prefix)
        return root

    def watch_times(self, changed: Callable[[int], None]) -> None:
        """See Tree."""
        self.clocks.on_new_times = self._dirs.on_resumed = changed

    def mark_stale_where(self, run_id: int, is_meant: Callable[[DirectoryKey], bool]) -> None:
        """Make listings of a run stale; of those that are only stored, all of the run (docs/semantics.md 3.3)."""
        self.listings.mark_stale_where(is_meant)
        if self._stored is not None:
            self._stored.mark_run_stale(run_id)

    def mark_all_stale(self) -> None:
        """Make every listing and every index stale, and all that is stored (docs/semantics.md 3.3)."""
        self.listings.mark_all_stale()
        if self._store is not None:
            self._store.mark_stale()
        if self.index is not None:
            self.index.mark_all_stale()

    def clear(self, *, is_other_account: bool = True) -> None:
        """Remove everything (docs/semantics.md 6.3). Programs of the same account still have what they were shown."""
        self.listings.clear()
        for known in (self._run_roots, self._dirs, self.clocks, self.sizes, self._needs_direct):
            known.clear()
        if is_other_account:
            self._shown_as_stored.clear()
        for other in (self._stored, self.index):
            if other is not None:
                other.clear()

    @no_checkpoint
    def try_get(self, directory: ArtifactDir) -> CacheEntry[DirectoryState] | None:
        """Return a directory's listing if it is cached and fresh, or if a trusted index has it."""
        held = self.listings.get_fresh(key := (directory.run_id, directory.path))
        if held is None:
            return self._make_at_once(*key) if self.index is not None else None
        if held.value.is_stored:
            self._shown_as_stored[key] = True
        return held

    def _make_at_once(self, run_id: int, path: str) -> CacheEntry[DirectoryState] | None:
        """Make a listing of the index, and cache it, without a fetch; None where more may be known of the directory."""
        key, known, clock = (run_id, path), self._runs.get_fresh(run_id), self.clocks.get(run_id)
        if known is None or clock is None or not clock.own or key in self.sizes or not self.listings.is_quiet(key):
            return None
        if (found := self._provider.rows(known.value, path)) is None:
            return None
        (rows, prefix, indexed_at), last = found, self.listings.last_value(key)
        made = listing.build_at_once(rows, known.value, path, self._site, last.listing if last is not None else None)
        if made is None:
            return None
        self._walks.asked(run_id, path)
        now = self._clock()
        state = DirectoryState(known.value, prefix, made, ListingSource.INDEX, clock, now - indexed_at)
        return self.listings.store(key, state, now)

    async def get(self, directory: ArtifactDir) -> CacheEntry[DirectoryState]:
        if (held := self.try_get(directory)) is not None:
            return held
        key = (directory.run_id, directory.path)
        with self._walks.asking(directory.run_id, directory.path):
            held = await self.listings.get(key)
        if held.value.is_stored:
            self._shown_as_stored[key] = True
        return held

    async def prepare(self, run: Run) -> None:
        """List a run's root, and validate the index for the run, before a walk over runs comes to it."""
        held = await self.listings.recall_fresh((run.run_id, ""))
        if self.index is not None and not held.value.is_stored:
            await self.index.verify(held.value.run, held.value.prefix)

    async def get_direct(self, directory: ArtifactDir) -> CacheEntry[DirectoryState]:
        """Return a directory's direct listing, fetched now if the cached one came from the index."""
        key = (directory.run_id, directory.path)
        self._needs_direct.setdefault(key, ANY_DIRECT)
        held = await self.listings.refetch(key)
        if held.value.source is not ListingSource.DIRECT:  # a fetch in flight was joined
            self._needs_direct.setdefault(key, ANY_DIRECT)
            held = await self.listings.refetch(key)
        return held

    def ttl_left_s(self, held: CacheEntry[DirectoryState]) -> float:
        """Return the entry timeout of a listing's names."""
        left_s = self.listings.ttl_left_s(held)
        # The index may be rejected later.
        return left_s if held.value.source is ListingSource.DIRECT else min(left_s, self._times.listing_ttl)

    async def _fetch_listing(self, key: tuple[int, str], old: DirectoryState | None) -> DirectoryState:
        (run_id, path), began = key, self._clock()
        run = (await self._runs.get(run_id)).value
        has_stale = self.listings.get_any(key) is not None
        state = await self._make(await self._provider.children(run, path, has_stale=has_stale), old, began)
        # A later rejection evicts what is cached.
        if state.source is ListingSource.INDEX and (self.index is None or not self.index.is_trusted(state.run)):
            state = await self._make(await self._provider.direct(run, path), old, began)
        return state

    def _on_entry(self, key: DirectoryKey, before: DirectoryState | None, state: DirectoryState) -> None:
        """Take note of a listing that is cached from now on; one that comes too late for that changes nothing."""
        run_id, path = key
        if state.source is ListingSource.DIRECT and not state.is_stored:
            self._run_roots[run_id] = (state.run, state.prefix)
        else:
            self._run_roots.setdefault(run_id, (state.run, state.prefix))
        track(self._dirs, run_id, path)
        if state.is_stored:
            return
        self._shown_as_stored.pop(key, None)
        for below in listing.gone(path, before.listing if before else None, state.listing, self._dirs[run_id]):
            self._dirs.end(run_id, below)

    def _is_listed_since(self, key: tuple[int, str], then: float) -> bool:
        held = self.listings.get_any(key)
        return held is not None and held.value.source is ListingSource.DIRECT and held.requested_at > then

    async def _make(self, answer: ListingAnswer, old: DirectoryState | None, began: float) -> DirectoryState:
        """Make a listing of a provider's answer, with the times of the run's clock as that is when this returns.

        An answer to a request that `began` too early to be cached says nothing of what comes after it.
        """
        prefix, path, children = answer.prefix, answer.path, answer.children
        # Not as it was when this was requested: it may have ended since, and all of its files show that.
        run = self._row(answer.run)
        is_direct = answer.indexed_at is None
        if is_direct:
            clock = clock_of(self.clocks, run)
            # Times that an earlier mount showed say nothing of what is listed now, until an index of this one is right.
            has_index = self.index is not None and self.index.has_times(run) and not clock.is_stored
            if (clock.own and not has_index) or clock.run_ns != run_time_ns(run, clock):
                await self.show_times(run, prefix, own=clock.own and has_index)
            children = await listing.completed(children, answer.indexed, times=clock_of(self.clocks, run).own)
        key = (run.run_id, path)
        held, sizes = self.listings.get_any(key), sizes_of(self.sizes, key)
        is_void = self.listings.is_outdated(key, began) or (held is not None and held.requested_at > began)
        before = clock = clock_of(self.clocks, run)
        time_ns = self.clocks.seen_ns(run) if clock.own else clock.run_ns
        known = old.listing if old is not None else None
        if old is not None and old.is_stored and key not in self._shown_as_stored:
            # What a file is the same as cannot be told between two mounts: nothing is known that it was compared with.
            known = None
        its_sizes = sizes.copied() if is_void else sizes
        made = await listing.build(children, run, path, known, self._site, self._wall_clock_ns(), its_sizes, time_ns)
        keep(self.sizes, key, sizes)
        # The old listing, and the index, may have the times of another clock.
        is_current = (old is None or old.clock is clock) and (clock.own or is_direct)
        if not is_current or self.clocks.get(run.run_id) is not clock or (clock.own and file_times.lacks_times(made)):
            clock = await self.clocks.retime(made, run, prefix, path, before)
        if answer.indexed_at is None:
            return DirectoryState(answer.run, prefix, made, ListingSource.DIRECT, clock)
        return DirectoryState(answer.run, prefix, made, ListingSource.INDEX, clock, self._clock() - answer.indexed_at)

    async def _stale_times(self, run: Run, prefix: str, path: str) -> Mapping[bytes, ListedChild]:
        return await self.index.stale_times(run, prefix, path) if self.index is not None else {}

    async def show_times(self, run: Run, prefix: str, *, own: bool) -> None:
        """Make all files of a run show their own times, or the run's, at once (docs/semantics.md 2.3)."""
        await self.clocks.show_times(run, prefix, own=own)
        await self._dirs.save_again(run.run_id)

    async def save_again(self, run_id: int) -> None:
        """Store all that is cached of a run, whatever the store should have."""
        await self._dirs.save_again(run_id)

    # --- DirectLister --------------------------------------------------------------------------------------

    def direct_listings(self, run: Run) -> Iterator[tuple[str, Mapping[bytes, Entry]]]:
        """Yield path and entries of every directory of a run whose direct listing is cached and fresh."""
        for path, held in self._dirs.cached(run.run_id):
            if held.value.source is ListingSource.DIRECT and self.listings.ttl_left_s(held) > 0:
                yield path, held.value.listing.by_name

    async def list_direct(
        self, run: Run, path: str
    ) -> tuple[Mapping[bytes, ListedChild], Callable[[], Awaitable[None]]]:
        """List a directory directly; returns its children, and a function that caches them."""
        requested_at, key = self._clock(), (run.run_id, path)
        found = await self._service.list_directory(run.run_id, path)

        async def keep() -> None:
            if self.listings.is_outdated(key, requested_at):
                return
            old = self.listings.last_value(key)
            answer = await self._provider.accept(run, path, found, requested_at)
            state = await self._make(answer, old, requested_at)
            self.listings.store(key, state, requested_at)

        return found.children.by_name, keep

    def evict_indexed(self, run_id: int) -> None:
        """Evict the listings of a run that came from the index."""
        if self._stored is not None:
            self._stored.reject_index(run_id)
        for path, last in self._dirs.known(run_id):
            if last.source is ListingSource.INDEX:
                # What grows in it stays the same file.
                sizes = sizes_of(self.sizes, (run_id, path))
                known = last.listing
                sizes.evicted = known.by_name if isinstance(known, Listing) else known
                keep(self.sizes, (run_id, path), sizes)
                self.listings.evict((run_id, path))

    @no_checkpoint
    def _clock_shown(self, key: DirectoryKey, state: DirectoryState) -> RunClock:
        """Return the clock whose times the files of a state show now: what is cached goes with the run's."""
        held = self.listings.get_any(key)
        is_cached = held is not None and held.value.listing is state.listing
        return (self.clocks.get(key[0]) if is_cached else None) or state.clock

    # --- ListingAccess -------------------------------------------------------------------------------------

    def fresh_entries(self, run_id: int, path: str) -> Mapping[bytes, Entry] | None:
        """Return a directory's entries if they are cached and fresh."""
        held = self.listings.get_fresh((run_id, path))
        return held.value.listing.by_name if held is not None else None

    def all_fresh_entries(self, run_id: int) -> Iterable[tuple[str, Mapping[bytes, Entry]]]:
        """Return every directory of a run that is cached and fresh, without those whose index has what is below."""
        for path, held in self._dirs.cached(run_id):
            if self.listings.ttl_left_s(held) > 0 and not self.is_indexed(held):
                yield path, held.value.listing.by_name

    def is_indexed(self, held: CacheEntry[DirectoryState]) -> bool:
        """Whether a trusted index, or the store, has what is below: nothing needs to be listed ahead there."""
        if held.value.is_stored:
            return True
        if self.index is None or held.value.source is ListingSource.DIRECT:
            return False
        return self.index.is_trusted(held.value.run)

    async def fetch(self, run_id: int, path: str) -> Mapping[bytes, Entry]:
        """Fetch a directory's entries; equal requests join the fetch."""
        return (await self.listings.recall_fresh((run_id, path))).value.listing.by_name

    def may_prefetch(self, run_id: int) -> bool:
        """Whether a prefetch may start now."""
        if self._health.is_degraded or not self._walks.is_active(run_id):
            return False
        run, index = self._runs.get_any(run_id), self.index
        # A trusted index may still be rejected later in this traversal.
        if index is not None and run is not None and (index.is_trusted(run.value) or index.is_pending(run.value)):
            return False
        return self._service.can_prefetch()

    def _row(self, run: Run) -> Run:
        """Return a run as its row says now; as it was when it was listed, where there is none."""
        held = self._runs.get_any(run.run_id)
        return held.value if held is not None else run

    def _ttl_s(self, run: Run, age_s: float = 0.0) -> float:
        """Return the time to live of a listing that was requested `age_s` ago: its run may have ended since."""
        return listing.ttl_s(self._times, run, self._wall_clock_ns() - int(age_s * 1e9))
