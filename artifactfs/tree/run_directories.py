"""The directories of runs whose listings are cached, or were, and what ends a listing before its time.

A row that shows that a settled run goes on makes the run's listings stale: they were to be fresh for an hour
(docs/semantics.md 3.1). A directory that is gone is taken out of its parent's listing, which is stale from then on, and
no more than that: what else it has is served where the service fails.
"""

from collections.abc import Callable, Iterator

import cachetools
import trio

from artifactfs.domain import Run
from artifactfs.tree.directory_state import DirectoryKey, DirectoryState
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.listing import settled
from artifactfs.tree.nodes import is_at_or_below
from artifactfs.tree.size_changes import SizeChanges
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache

# Listings that are stored between two turns of the event loop: some milliseconds.
_STEP = 500


class RunDirectories(cachetools.LRUCache[int, dict[str, None]]):
    """The paths of such directories by run id, in the order in which they were listed (`track`).

    `runs`: the rows of runs. `sizes`: see SizeChanges. `wall_clock_ns` gives nanoseconds since the epoch.
    """

    def __init__(
        self,
        max_runs: int,
        *,
        listings: StaleWhileRevalidateCache[DirectoryKey, DirectoryState],
        runs: StaleWhileRevalidateCache[int, Run],
        sizes: SizeChanges,
        wall_clock_ns: Callable[[], int],
    ) -> None:
        super().__init__(max_runs)
        self._listings = listings
        self._runs = runs
        self._sizes = sizes
        self._wall_clock_ns = wall_clock_ns
        # Called with the id of a run that was settled and goes on: the kernel has its files' attributes for an hour.
        self.on_resumed: Callable[[int], None] = lambda _run_id: None
        runs.on_entry.append(self._on_row)
        runs.on_absent.append(lambda run_id, _requested_at: self._expire(run_id))
        listings.on_absent.append(self._on_absent)

    def cached(self, run_id: int) -> Iterator[tuple[str, CacheEntry[DirectoryState]]]:
        """Yield every directory of a run that is cached, fresh or stale."""
        for path, _ in self.known(run_id):
            if (held := self._listings.get_any((run_id, path))) is not None:
                yield path, held

    def known(self, run_id: int) -> Iterator[tuple[str, DirectoryState]]:
        """Yield every directory of a run with its last listing, which may be served no more."""
        paths = self.get(run_id, {})
        for path in list(paths):
            if (last := self._listings.last_value((run_id, path))) is not None:
                yield path, last
            else:
                paths.pop(path, None)

    async def save_again(self, run_id: int) -> None:
        """Store the row of a run, and its listings, as they are cached."""
        self._runs.save_again(run_id)
        for count, (path, _) in enumerate(self.cached(run_id), 1):
            if count % _STEP == 0:
                await trio.lowlevel.checkpoint()
            self._listings.save_again((run_id, path))

    def end(self, run_id: int, path: str) -> None:
        """Let nothing continue a directory that is gone (docs/semantics.md 2.4)."""
        self._listings.evict((run_id, path))
        self._sizes.end((run_id, path))

    def _on_row(self, run_id: int, old: Run | None, new: Run) -> None:
        """Make the listings of a run stale whose new row shows that it did not stay as it was settled."""
        if old is None:
            return
        now_ns = self._wall_clock_ns()
        is_same = (old.status, old.completed_ns) == (new.status, new.completed_ns) and settled(new, now_ns)
        if settled(old, now_ns) and not is_same:
            self._expire(run_id)
            self.on_resumed(run_id)

    def _expire(self, run_id: int) -> None:
        for path, _ in self.cached(run_id):
            self._listings.expire((run_id, path))

    def _on_absent(self, key: DirectoryKey, requested_at: float) -> None:
        """End a directory that turned out to be gone, and all below it. Its parent is asked again."""
        run_id, path = key
        is_gone = is_at_or_below(run_id, path)
        for each in list(self.get(run_id, ())):
            if is_gone((run_id, each)):
                self.end(run_id, each)
        if not path:
            return
        parent, _, name = path.rpartition("/")
        if (held := self._listings.get_any((run_id, parent))) is None:
            self._listings.invalidate((run_id, parent))
            return
        entries = held.value.listing.by_name
        entry = entries.get(name.encode())
        if entry is not None and entry.is_dir and held.requested_at <= requested_at:
            del entries[entry.name]
            self._listings.save_again((run_id, parent))
        self._listings.mark_stale((run_id, parent))


def track(directories: RunDirectories, run_id: int, path: str) -> None:
    """Record that a directory is cached from now on."""
    paths = directories.setdefault(run_id, {})
    paths.pop(path, None)  # the latest at the end
    paths[path] = None
