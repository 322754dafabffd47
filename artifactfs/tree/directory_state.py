"""What is cached of a directory in a run."""

import msgspec

from artifactfs.domain import Run
from artifactfs.tree.file_times import RunClock
from artifactfs.tree.listing import AnyListing, ListingSource

# A directory: run id, and path in the run ("" for its root).
DirectoryKey = tuple[int, str]


class DirectoryState(msgspec.Struct, frozen=True, gc=False):
    """A directory's listing, and the run at the time of its request, which decides the time to live.

    `prefix`: the run's `path_in_project`. `clock`: the times that its files showed when it was made. `age_s`: its age
    when it was made. `is_stored`: it comes from the metadata store. What must outlive an evicted listing is elsewhere:
    sizes (size_changes.py) and `needs_direct`.
    """

    run: Run
    prefix: str
    listing: AnyListing
    source: ListingSource
    clock: RunClock
    age_s: float = 0.0
    is_stored: bool = False
