"""The tree: lookup and list, for every kind of node. The entrance for `fuse/`.

`catalog.py` has the nodes above the runs, `directories.py` the listings in runs. A lookup below a run is answered from
the parent's listing, which is one request (docs/semantics.md 1.1). During a traversal, lookups are served from the
project index (`walk/project_index.py`) or from prefetched listings (`walk/prefetcher.py`).
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import ArtifactRef, ContentVersion, Run, RunFilter, RunRecord, below_prefix
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.tree import inode_numbers, listing, run_changes, tree_stats
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.caches import Caches
from artifactfs.tree.catalog import Catalog
from artifactfs.tree.directories import Directories
from artifactfs.tree.directory_state import DirectoryState
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.listing import ListingSource, Service, TreeTimes
from artifactfs.tree.nodes import (
    ATTRIBUTES_S,
    ArtifactDir,
    ArtifactFile,
    DirSnapshot,
    Entry,
    FacetDir,
    GeneratedFile,
    LookupResult,
    Node,
    ProjectDir,
    StaticDir,
    child,
    is_at_or_below,
    same_version,
)
from artifactfs.tree.size_changes import resized
from artifactfs.tree.tree_stats import ListingFacts, TreeState
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.run_walks import RunWalks
from artifactfs.tree.walk.traversals import Traversals
from artifactfs.util.no_checkpoint import no_checkpoint


class Tree:
    """The tree of one mount. `nursery` outlives every call; fetches run in it.

    `clock` gives seconds, and goes on during sleep; `wall_clock_ns` gives nanoseconds since the epoch. Every method
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
        store: WriteBehind | None = None,
    ) -> None:
        self._service = service
        self._times = times
        # How old a listing of a running run may be while a program follows a file in it.
        self.live_ttl_s = times.live_ttl
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._site = site.encode()
        self._store = store
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
            site=self._site,
            times=self._times,
            tuning=tuning,
            runs_listed=runs_listed,
            clock=clock,
            now_ns=wall_clock_ns,
            store=store,
        )
        self._runs = self._catalogue.known_runs
        self._walks = Traversals(nursery=nursery, clock=clock, cost=service.cost)
        self._directories = Directories(
            service,
            runs=self._runs,
            caches=caches,
            site=self._site,
            times=times,
            tuning=tuning,
            walks=self._walks,
            nursery=nursery,
            clock=clock,
            wall_clock_ns=wall_clock_ns,
            prefetch=prefetch,
            store=store,
        )
        if self._directories.index is not None:
            self._walks.over_runs = RunWalks(
                find=self.known_run,
                listed=self._catalogue.listed_runs,
                prepare=self._directories.prepare,
                may_prefetch=service.can_prefetch,
                nursery=nursery,
                clock=clock,
            )
        self._listings = self._directories.listings
        self._index, self._prefetch = self._directories.index, self._directories.prefetcher
        self.root: StaticDir = self._catalogue.root

    @property
    def runs(self) -> StaticDir:
        """`/runs`."""
        return self._catalogue.runs

    async def lookup(self, parent: Node, name: bytes) -> LookupResult:
        """Return the node called `name` in `parent`. Raises NoSuchEntry with the entry timeout."""
        if isinstance(parent, ArtifactDir):
            held = await self._directories.get(parent)
            entry = held.value.listing.by_name.get(name)
            if entry is None and held.value.source is ListingSource.INDEX:
                # The index never says that a name does not exist (docs/semantics.md 1.6).
                held = await self._directories.get_direct(parent)
                entry = held.value.listing.by_name.get(name)
            if entry is None:
                left_s = self._directories.ttl_left_s(held)
                raise errors.NoSuchEntry("no such name", min(left_s, self._times.negative_ttl))
            return self._found(parent, entry, held)
        return await self._catalogue.lookup(parent, name)

    async def contents(self, node: Node) -> DirSnapshot:
        """Return a directory's entries, in the order of `readdir`."""
        if isinstance(node, ArtifactDir):
            return self._looked_at(node, await self._directories.get(node))
        return await self._catalogue.contents(node)

    @no_checkpoint
    def try_lookup(self, parent: Node, name: bytes) -> LookupResult | None:
        """Return the result of `lookup` if it is cached and fresh, or a trusted index has it."""
        if not isinstance(parent, ArtifactDir):
            return self._catalogue.try_lookup(parent, name)
        held = self._directories.try_get(parent)
        if held is None or (entry := held.value.listing.by_name.get(name)) is None:
            return None
        return self._found(parent, entry, held)

    @no_checkpoint
    def try_list(self, node: Node) -> DirSnapshot | None:
        """Return the result of `contents` if it is cached and fresh, or a trusted index has it."""
        if not isinstance(node, ArtifactDir):
            return None
        held = self._directories.try_get(node)
        return self._looked_at(node, held) if held is not None else None

    def _looked_at(self, directory: ArtifactDir, held: CacheEntry[DirectoryState]) -> DirSnapshot:
        listing = held.value.listing
        is_first = self._walks.on_read(directory.run_id, directory.path)
        # What a trusted index answers is not listed ahead. If it is rejected, the directory is read again.
        if is_first and self._prefetch is not None and not self._directories.is_indexed(held):
            self._prefetch.on_read(directory.run_id, directory.path, listing.by_name)
        directories = self._directories
        return DirSnapshot(
            listing.shown,
            partial(child, directory),
            partial(directories.ttl_left_s, held),
            partial(directories.attributes_left_s, held),
        )

    def _found(self, parent: ArtifactDir, entry: Entry, held: CacheEntry[DirectoryState]) -> LookupResult:
        directories = self._directories
        left_s = directories.ttl_left_s(held)
        return LookupResult(child(parent, entry), left_s, directories.attributes_left_s(held, left_s))

    @no_checkpoint
    def attributes_left_s(self, directory: ArtifactDir, *, followed: bool) -> float:
        """Return the attribute timeout of a directory's files, in seconds.

        `followed`: a program polls a file, so a listing older than `live_ttl` is refreshed in the background.
        """
        key = (directory.run_id, directory.path)
        held = self._listings.get_any(key)
        if held is None:
            # Evicted, since the index was wrong. The kernel looks the name up again only when its own time-out ends.
            run = self.known_run(directory.run_id)
            if followed and run is not None and not listing.settled(run, self._wall_clock_ns()):
                self._directories.following.refresh(key, 0.0, float("inf"))
            return self._times.live_ttl
        left_s = self._directories.attributes_left_s(held)
        if left_s < ATTRIBUTES_S and (followed or left_s <= 0):
            self._directories.follow(held, key)
        return left_s

    async def locate_content(self, file: ArtifactFile) -> ContentVersion:
        """Return the version of a file's contents. A request is needed only if the run's listings were evicted."""
        run_id = file.directory.run_id
        run, prefix = await self._directories.run_root(file.directory)
        if (held := self._runs.get_fresh(run_id)) is not None:
            run = held.value
        artifact = ArtifactRef(run.project_id, below_prefix(prefix, file.path))
        entry = file.entry
        # The first version of a size has the number of the size alone; of one that no listing gives, that of none.
        number = inode_numbers.children(self._site, run_id, file.directory.path)
        settled = listing.settled(run, self._wall_clock_ns())
        first = number(entry.name, False, entry.size_bytes if entry.is_size_listed or not settled else None)
        variant = 0 if entry.number == first else entry.number
        stamp = listing.content_stamp(run, entry, variant, settled=settled)
        place = f"{run_id}/{file.path}"
        is_listed = entry.is_size_listed
        return ContentVersion(artifact, entry.size_bytes, stamp, variant, settled, entry.number, is_listed, place)

    def fresh_entries(self, run_id: int, path: str) -> Mapping[bytes, Entry] | None:
        """Return the entries of a directory of a run by name, if they are cached and fresh."""
        return self._directories.fresh_entries(run_id, path)

    async def list_ahead(self, run_id: int, path: str) -> Mapping[bytes, Entry] | None:
        """Return the same for a reader that is expected there: by a request, or None where that might delay others."""
        if (entries := self.fresh_entries(run_id, path)) is not None:
            return entries
        if self._health.is_degraded or not self._service.can_prefetch():
            return None
        return await self._directories.fetch(run_id, path)

    def watch_followed(self, listed: Callable[[int, str], None]) -> None:
        """Call `listed` with run and path of each directory that was listed because programs follow a file in it."""
        self._directories.following.on_listed = listed

    def watch_contents(self, asks: Callable[[Entry, int], bool]) -> None:
        """Call `asks` for each file that a listing gives less than it is shown with (see SizeChanges)."""
        self._directories.sizes.asks_contents = asks

    def watch_times(self, changed: Callable[[int], None]) -> None:
        """Call `changed` with the id of each run whose files' attributes are to be asked for again (2.3, 3.1)."""
        self._directories.watch_times(changed)

    def watch_runs(self, is_watched: Callable[[int], bool], changed: Callable[[int, bool], None]) -> None:
        """Call `changed` with the id of each run that is watched when its row (True), or a listing, is another."""
        run_changes.watch(self._runs, self._listings, is_watched, changed)

    def watch_descriptions(self, describe_run: Callable[[int], Awaitable[bytes]]) -> None:
        """Have `describe_run` make what is in `/runs/<id>.json`."""
        self._catalogue.describe_run = describe_run

    async def find_runs(self, wanted: RunFilter) -> tuple[RunRecord, ...]:
        """Return the runs that a filter chooses, the last updated first; a request unless they are cached."""
        return await self._catalogue.find_runs(wanted)

    def contents_of(self, file: GeneratedFile) -> bytes:
        """Return what is in a generated file. Raises Superseded where a new lookup is needed."""
        return self._catalogue.contents_of(file)

    async def wait_for_indexes(self) -> None:
        """Wait until each index that was requested is there, or has failed."""
        if self._index is not None:
            await self._index.wait_for_all()

    def current(self, directory: ArtifactDir, entry: Entry) -> Entry:
        """Return an entry as its listing has it now; the same where that is not cached, or has another version."""
        held = self._listings.get_any((directory.run_id, directory.path))
        now = held.value.listing.by_name.get(entry.name) if held is not None else None
        return now if now is not None and same_version(entry, now) else entry

    def ensure_current(self, file: ArtifactFile) -> None:
        """Raise Superseded if the cached listing shows another version of a file, or none. No request."""
        directory = file.directory
        held = self._listings.get_any((directory.run_id, directory.path))
        if held is None:
            return
        entry = held.value.listing.by_name.get(file.entry.name)
        # With the same number it is the version, of which contents may have told more since.
        if entry is None or not (entry.number == file.entry.number or same_version(file.entry, entry)):
            raise errors.Superseded("the listing has another version of this file")

    def mark_suspect(self, directory: ArtifactDir) -> None:
        """Mark a directory's listing stale: reading a file failed in a way that a new listing may explain."""
        self._directories.force_direct(directory, self._listings.mark_stale)

    def record_size(self, file: ArtifactFile, size_bytes: int) -> ArtifactFile:
        """Record a size that the listing lacks, or has wrong; returns the file with it."""
        directory, entry = file.directory, file.entry
        held = self._listings.get_any((directory.run_id, directory.path))
        entries = held.value.listing.by_name if held is not None else {}
        listed = entries.get(entry.name)
        if listed is not None and listed.number == entry.number:
            # Its time may be another by now; and so may its size, which is older than what the contents say.
            entry = listed
        completed = resized(entry, size_bytes, self._wall_clock_ns())
        if entry is listed:
            entries[entry.name] = completed
            self._listings.save_again((directory.run_id, directory.path))
        if entry.size_bytes not in (None, size_bytes):
            key, now_ns = (directory.run_id, directory.path), self._wall_clock_ns()
            self._directories.sizes.record(key, entry, completed, now_ns, same_version=True)
        return ArtifactFile(directory, completed)

    def record_size_conflict(self, file: ArtifactFile, size_bytes: int | None) -> None:
        """Record that a file's contents are of another version than listed, with their size if the answer has it.

        If a fresh listing still disagrees, the size of the contents counts (docs/semantics.md 4.1).
        """
        directory, entry = file.directory, file.entry
        if (last := self._listings.last_value((directory.run_id, directory.path))) is not None:
            # The next listing continues the entries of the other files, and not this one.
            last.listing.by_name.pop(entry.name, None)
        self._directories.force_direct(directory, self._listings.invalidate)
        sizes, key = self._directories.sizes, (directory.run_id, directory.path)
        sizes.record_other_version(key, entry, size_bytes)
        if size_bytes is not None:
            completed = msgspec.structs.replace(entry, size_bytes=size_bytes)
            sizes.record(key, entry, completed, self._wall_clock_ns(), same_version=False)

    def mark_all_stale(self) -> None:
        """Make everything stale (docs/semantics.md 3.3). Stale listings are served if their refresh fails."""
        self._catalogue.mark_all_stale()
        self._directories.mark_all_stale()

    def switch_account(self, owner: str) -> None:
        """Remove everything: it belongs to another account (docs/semantics.md 6.3). `owner`: see WriteBehind."""
        if self._store is not None:
            self._store.switch_owner(owner)
        self._catalogue.clear()
        self._directories.clear()

    def go_offline(self) -> None:
        """Show what is stored, however old, and ask the service for nothing (docs/semantics.md 8.3)."""
        self._health.set_offline(True)

    def go_online(self) -> None:
        """Ask the service from now on: what was shown so far is as good as its store says."""
        self._health.set_offline(False)
        self._catalogue.clear()
        self._directories.clear(is_other_account=False)

    def refresh(self, node: Node) -> Callable[[tuple[int, str]], bool]:
        """Make a node and everything below it stale (3.3); for a file, its directory.

        Returns whether a directory, by run id and path, is stale now.
        """
        if isinstance(node, ArtifactDir | ArtifactFile):
            directory = node if isinstance(node, ArtifactDir) else node.directory
            run_id, key = directory.run_id, (directory.run_id, directory.path)
            is_meant = is_at_or_below(*key) if node is directory else key.__eq__
            self._directories.mark_stale_where(run_id, is_meant)
            run = self.known_run(run_id)
            self._runs.mark_stale_where(lambda known: known == run_id)
            if self._index is not None and run is not None:
                self._index.refresh(run.project_id)
            return is_meant
        if is_all := node in (self.root, self.runs) or not isinstance(node, ProjectDir | FacetDir | StaticDir):
            self.mark_all_stale()
        else:
            self._catalogue.refresh(node)
        return lambda _key: is_all

    async def save_again(self, run_id: int) -> None:
        """See Directories: another process may have deleted what is stored."""
        await self._directories.save_again(run_id)

    def known_run(self, run_id: int) -> Run | None:
        """Return a cached run, fresh or stale. No request."""
        held, root = self._runs.get_any(run_id), self._directories.cached_run_root(run_id)
        return held.value if held is not None else root[0] if root is not None else None

    async def project_name(self, project_id: int) -> str:
        """Return a project's name; a request unless it is cached."""
        return await self._catalogue.project_name(project_id)

    def facts(self, node: Node) -> ListingFacts | None:
        """Return the facts of a directory's cached listing, for a file of its directory's; None without. No request."""
        if not isinstance(node, ArtifactDir | ArtifactFile):
            return self._catalogue.facts(node)
        directory = node if isinstance(node, ArtifactDir) else node.directory
        held = self._listings.get_any((directory.run_id, directory.path))
        if held is None:
            return None
        found = held.value
        age_s, left_s = self._clock() - held.requested_at + found.age_s, self._listings.ttl_left_s(held)
        return ListingFacts(age_s, found.source, listing.count(found.listing), left_s, found.is_stored)

    def state(self) -> TreeState:
        """Return the state of the tree, for status. No request."""
        found = (self._health, self._walks, self._listings, self._index, self._prefetch)
        return tree_stats.state_of(*found, known=self._catalogue.known())
