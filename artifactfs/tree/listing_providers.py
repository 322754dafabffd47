"""Provides a directory's children: from the project index where it may answer, else by the directory's listing call.

Owns which of the two answers. `walk/project_index.py` owns the index and its trust, `directories.py` makes entries of
the children. Hard: a direct answer counts from the moment it comes, while its comparison with the index takes time.
"""

from collections.abc import Callable, Mapping

import cachetools
import msgspec

from artifactfs import errors
from artifactfs.domain import DirectoryListing, ListedChild, Run
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.listing import Rows, Service
from artifactfs.tree.walk.project_index import ProjectIndex
from artifactfs.tree.walk.traversals import Traversals
from artifactfs.util.no_checkpoint import no_checkpoint

# A direct listing of any time will do.
ANY_DIRECT = float("-inf")
# Directories for which the index was contradicted: rare.
_MAX_NEEDS_DIRECT = 10_000


class ListingAnswer(msgspec.Struct, frozen=True):
    """The children of a directory, by name. `prefix`: the run's `path_in_project`.

    `indexed_at`: when the index was requested that they are from; None for a direct answer. That may lack sizes and
    times: `indexed` is what the index has of its children.
    """

    run: Run
    path: str
    prefix: str
    children: Mapping[bytes, ListedChild]
    indexed_at: float | None = None
    indexed: Mapping[bytes, ListedChild] = {}


class ListingProvider:
    """The children of directories: from the `index` where it may answer, else by their listing calls.

    These validate the index; without one, they are all that there is. A key is (run id, path).
    `is_listed_since(key, then)`: whether a direct listing that was requested later than `then` is cached. Methods raise
    ServiceError. `directories.py` fills `run_roots` with what is cached.
    """

    def __init__(
        self,
        service: Service,
        max_runs: int,
        index: ProjectIndex | None,
        walks: Traversals,
        health: BackendHealth,
        is_listed_since: Callable[[tuple[int, str], float], bool],
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._index = index
        self._walks = walks
        self._health = health
        self._is_listed_since = is_listed_since
        self._clock = clock
        # Of runs that were listed: the run at that time, and its path in the project.
        self.run_roots: cachetools.LRUCache[int, tuple[Run, str]] = cachetools.LRUCache(max_runs)
        # Directories whose next listing must be direct: the index or contents were contradicted there. This outlives
        # the listing, which may be invalidated for the same reason. The value: when; a listing must be as new as that.
        self.needs_direct: cachetools.LRUCache[tuple[int, str], float] = cachetools.LRUCache(_MAX_NEEDS_DIRECT)

    @no_checkpoint
    def rows(self, run: Run, path: str) -> tuple[Rows, str, float] | None:
        """Return a directory's rows from the index, its run's prefix, and when the index was requested; never waits.

        None where the index may not answer, or not at once.
        """
        root = self.run_roots.get(run.run_id)
        if self._index is None or not path or root is None or (run.run_id, path) in self.needs_direct:
            return None
        found = self._index.try_directory(run, root[1], path)
        return None if found is None else (found[0], root[1], found[1])

    async def children(self, run: Run, path: str, *, has_stale: bool) -> ListingAnswer:
        """Return a directory's children. `has_stale`: a stale listing can be served, so the wait is to be short."""
        key, root = (run.run_id, path), self.run_roots.get(run.run_id)
        if self._index is not None and path and root is not None and key not in self.needs_direct:
            traversal = self._walks.walk(run.run_id) is not None
            found = await self._index.directory(run, root[1], path, traversal=traversal, has_stale=has_stale)
            # Of a directory that was listed since, the index may know files as they were before they grew.
            if found is not None and not self._is_listed_since(key, found[1]):
                return ListingAnswer(run, path, root[1], found[0], found[1])
        return await self.direct(run, path)

    async def direct(self, run: Run, path: str) -> ListingAnswer:
        """Return a directory's children by its own listing call; requests the index beside that, where it is due."""
        if self._index is not None and not self._health.is_degraded:
            self._index.request(run)
        requested_at = self._clock()
        try:
            found = await self._service.list_directory(run.run_id, path)
        except errors.NotFound:
            if self._index is not None and (root := self.run_roots.get(run.run_id)) is not None:
                await self._index.listed(run, root[1], path, {})
            raise
        return await self.accept(run, path, found, requested_at)

    async def accept(self, run: Run, path: str, found: DirectoryListing, requested_at: float) -> ListingAnswer:
        """Return the children in an answer to the listing call, which was requested at `requested_at`."""
        prefix, children = found.path_in_project, found.children.by_name
        if requested_at >= self.needs_direct.get((run.run_id, path), ANY_DIRECT):
            self.needs_direct.pop((run.run_id, path), None)
        indexed = await self._index.listed(run, prefix, path, children) if self._index is not None else {}
        return ListingAnswer(run, path, prefix, children, indexed=indexed)
