"""The listings of a mount with project indexes: a trusted index has those of a traversal made at once.

Owns the way without a wait: no fetch, no task, no cancel scope, since all that it needs is in memory. Where anything
may have to be asked, compared or corrected, `directories.py` makes the listing, which is the same.
"""

from artifactfs.domain import Run
from artifactfs.tree import listing
from artifactfs.tree.directories import Directories
from artifactfs.tree.directory_state import DirectoryState
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.listing import ListingSource, PackedListing
from artifactfs.tree.nodes import ArtifactDir
from artifactfs.tree.run_directories import track
from artifactfs.tree.walk.project_index import ProjectIndex
from artifactfs.util.no_checkpoint import no_checkpoint


class IndexedDirectories(Directories):
    """See the module."""

    @no_checkpoint
    def try_get(self, directory: ArtifactDir) -> CacheEntry[DirectoryState] | None:
        """Return a directory's listing if it is cached and fresh, or if a trusted index has it."""
        held = super().try_get(directory)
        if held is not None or self.index is None:
            return held
        return self._made_at_once((directory.run_id, directory.path), self.index)

    async def prepare(self, run: Run) -> None:
        """List a run's root, and validate the index for the run, before a walk over runs comes to it."""
        held = await self.listings.recall_fresh((run.run_id, ""))
        if self.index is not None and not held.value.is_stored:
            await self.index.verify(held.value.run, held.value.prefix)

    def _made_at_once(self, key: tuple[int, str], index: ProjectIndex) -> CacheEntry[DirectoryState] | None:
        """Make a directory's listing, and cache it; None where anything else is known of the directory.

        The last listing of the same rows goes on: the kernel's inodes are packed with it.
        """
        (run_id, path), root = key, self._run_roots.get(key[0])
        if not path or root is None or (known := self._runs.get_fresh(run_id)) is None:
            return None
        run, prefix, clock = known.value, root[1], self.clocks.get(run_id)
        if clock is None or not clock.own or (found := index.try_directory(run, prefix, path)) is None:
            return None
        if key in self._needs_direct or key in self.sizes or not self.listings.is_quiet(key):
            return None
        rows, indexed_at = found
        if (last := self.listings.last_value(key)) is None:
            made = listing.build_at_once(rows, run, path, self._site)
        else:
            listed = last.listing
            made = listed if isinstance(listed, PackedListing) and listed.is_of(rows, run) else None
        if made is None:
            return None
        self._walks.asked(run_id, path)
        track(self._dirs, run_id, path)
        now = self._clock()
        state = DirectoryState(run, prefix, made, ListingSource.INDEX, clock, now - indexed_at)
        return self.listings.store(key, state, now)
