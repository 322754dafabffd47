"""The state of the tree, as values: for status, `artifactfs info` and extended attributes."""

from typing import Any

import msgspec

from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.listing import ListingSource
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from artifactfs.tree.walk.prefetcher import Prefetcher
from artifactfs.tree.walk.project_index import IndexState, ProjectIndex
from artifactfs.tree.walk.traversals import TraversalCost, Traversals


class ListingFacts(msgspec.Struct, frozen=True):
    """What is known of a cached listing: its age, its entries, and for how many more seconds it is fresh.

    `is_stored`: it comes from the metadata store, so it may be older than the mount.
    """

    age_s: float
    source: ListingSource
    entries: int
    left_s: float
    is_stored: bool = False


class TreeState(msgspec.Struct, frozen=True):
    """The state of a tree: what is cached, stale listings served, and since when the service is degraded, or None.

    `degraded_with_errors`: since then a fetch failed, and did not only time out. `degraded_with_stale`: since then a
    stale listing was served.
    """

    listings: int
    entries: int
    runs: int
    projects: int
    stale_served: int
    degraded_since: float | None
    degraded_with_errors: bool
    degraded_with_stale: bool
    recovered_at: float
    indexes: tuple[IndexState, ...]
    walking: int
    walks: int
    last_walk: TraversalCost | None
    listed_ahead: int


def state_of(
    health: BackendHealth,
    walks: Traversals,
    listings: StaleWhileRevalidateCache[Any, Any],
    index: ProjectIndex | None,
    prefetcher: Prefetcher | None,
    *,
    known: tuple[int, int],
) -> TreeState:
    """Return the state of a tree. `known`: how many runs and projects are cached."""
    runs, projects = known
    return TreeState(
        listings=len(listings),
        entries=listings.weight - len(listings),
        runs=runs,
        projects=projects,
        stale_served=health.stale_served,
        degraded_since=health.degraded_since,
        degraded_with_errors=health.with_errors,
        degraded_with_stale=health.with_stale,
        recovered_at=health.recovered_at,
        indexes=tuple(index.states()) if index is not None else (),
        walking=len(walks),
        walks=walks.ended,
        last_walk=walks.last,
        listed_ahead=prefetcher.listed if prefetcher is not None else 0,
    )
