"""What the tree says of itself, for who asks how a mount is: status, `artifactfs info`, xattrs. Values, no more."""

import msgspec

from artifactfs.tree.walk.project_index import IndexState
from artifactfs.tree.walk.traversals import TraversalCost


class ListingFacts(msgspec.Struct, frozen=True):
    """What is known of a listing at hand: how old it is, and for how many more seconds it is believed.

    `own`: the directory's own, not the index's part of it. `entries` None: nobody counted.
    """

    age_s: float
    own: bool
    entries: int | None = None
    left_s: float = 0.0

    @property
    def origin(self) -> str:
        """Where it came from, in a word."""
        return "own" if self.own else "index"


class TreeState(msgspec.Struct, frozen=True):
    """How a tree is: what it remembers, old listings served, and since when there is trouble (None: there is none).

    `trouble_errors`: something failed in it, and did not only take long; `trouble_old`: old listings were served.
    """

    listings: int
    entries: int
    runs: int
    projects: int
    old_served: int
    trouble_since: float | None
    trouble_errors: bool
    trouble_old: bool
    recovered_at: float
    indexes: tuple[IndexState, ...]
    walking: int
    walks: int
    last_walk: TraversalCost | None
    listed_ahead: int
