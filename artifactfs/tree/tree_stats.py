"""The state of the tree, as values: for status, `artifactfs info` and extended attributes."""

import msgspec

from artifactfs.tree.listing import ListingSource
from artifactfs.tree.walk.project_index import IndexState
from artifactfs.tree.walk.traversals import TraversalCost


class ListingFacts(msgspec.Struct, frozen=True):
    """What is known of a cached listing: its age, its entries, and for how many more seconds it is fresh."""

    age_s: float
    source: ListingSource
    entries: int
    left_s: float


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
