"""artifactfs.tree.size_changes: which size counts where listing and contents differ (4.1, 3.5)."""

import msgspec
import pytest

from artifactfs.domain import ListedChild
from artifactfs.tree.nodes import Entry
from artifactfs.tree.size_changes import DirectorySizes, SizeChanges

KEY = (1, "d")
LIVE, SETTLED = True, False


def sizes_of(listed: int | None, contents: int) -> DirectorySizes:
    """Return the sizes of a directory in which a file was listed with one size and has another."""
    changes = SizeChanges()
    entry = Entry(b"f", False, 9, 0, listed)
    changes.record(KEY, entry, msgspec.structs.replace(entry, size_bytes=contents), same_version=True)
    return changes.of(KEY)


@pytest.mark.parametrize(
    ("live", "listed", "contents", "then", "shown"),
    [
        # A listing that lags behind: the contents count until it agrees, also where it shows a truncation late.
        (LIVE, 100, 900, [100, 100, 500, 900, 400], [900, 900, 900, 900, 400]),
        (LIVE, 1000, 300, [200, 250, 300, 100], [300, 300, 300, 100]),
        # A listing that runs ahead: it counts from the second time on, to be compared again.
        (LIVE, 1000, 300, [1000, 1000], [300, 1000]),
        (LIVE, 1000, 300, [1100], [1100]),
        # Of a run that is over the contents count as long as the listing says the same.
        (SETTLED, 1000, 300, [1000, 1000, 1000, 800, 1000], [300, 300, 300, 800, 1000]),
        (SETTLED, 100, 900, [100, 100, 500], [900, 900, 500]),
    ],
)
def test_the_size_that_counts(live: bool, listed: int, contents: int, then: list[int], shown: list[int]) -> None:
    """4.1, 3.5: where listing and contents differ, the size of the contents is shown as long as that may be right."""
    sizes = sizes_of(listed, contents)
    found = [sizes.overridden(ListedChild(b"f", False, size), live=live).size_bytes for size in then]
    assert found == shown


def test_growth_is_remembered() -> None:
    """2.4: a file whose contents are larger than listed has grown, and keeps its number; a smaller one has not."""
    grown = sizes_of(100, 900).grown[b"f"]
    assert grown.entry is not None
    assert (grown.entry.number, grown.entry.size_bytes, grown.numbers) == (9, 900, {9})
    assert sizes_of(900, 100).grown == {}
