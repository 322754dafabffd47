"""The state of the tree, as values: for status, `artifactfs info` and extended attributes."""

import msgspec

from artifactfs.tree.walk.project_index import IndexState
from artifactfs.tree.walk.traversals import TraversalCost


class ListingFacts(msgspec.Struct, frozen=True):
    """What is known of a cached listing: its age, and for how many more seconds it is fresh.

    `own`: from the directory's own listing, not from the project index. `entries` None: not counted.
    """

    age_s: float
    own: bool
    entries: int | None = None
    left_s: float = 0.0

    @property
    def origin(self) -> str:
        """The source of the listing, in a word."""
        return "own" if self.own else "index"


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
