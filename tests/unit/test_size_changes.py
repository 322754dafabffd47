"""artifactfs.tree.size_changes: which size counts where listing and contents differ (docs/semantics.md 4.1, 3.5)."""

import msgspec
import pytest

from artifactfs.domain import ListedChild
from artifactfs.tree.nodes import Entry
from artifactfs.tree.size_changes import DirectorySizes, SizeChanges, keep, sizes_of

KEY = (1, "d")
LIVE, SETTLED = True, False


def record(changes: SizeChanges, listed: int, contents: int) -> None:
    entry = Entry(b"f", False, 9, 0, listed)
    changes.record(KEY, entry, msgspec.structs.replace(entry, size_bytes=contents), 0, same_version=True)


def _recorded(listed: int, contents: int) -> DirectorySizes:
    """Return the sizes of a directory in which a file was listed with one size and has another."""
    changes = SizeChanges()
    record(changes, listed, contents)
    return sizes_of(changes, KEY)


@pytest.mark.parametrize(
    ("live", "listed", "contents", "then", "shown"),
    [
        # A listing that lags behind: the contents count until it has come to them.
        (LIVE, 100, 900, [100, 100, 500, 900, 901], [900, 900, 900, 900, 901]),
        # A listing that runs ahead: it counts once it is not of the moment at which the contents were asked.
        (LIVE, 1000, 300, [1000, 1000], [300, 1000]),
        (LIVE, 1000, 300, [1100, 1100], [300, 1100]),
        # Of a run that is over the contents count as long as the listing says the same.
        (SETTLED, 1000, 300, [1000, 1000, 1000, 800, 1000], [300, 300, 300, 800, 1000]),
    ],
)
def test_the_size_that_counts(live: bool, listed: int, contents: int, then: list[int], shown: list[int]) -> None:
    """4.1, 3.5: where listing and contents differ, the contents count as long as that may be right."""
    sizes = _recorded(listed, contents)
    items = [ListedChild(b"f", False, size) for size in then]
    found = [sizes.overridden(item, second * 10**9, live=live) for second, item in enumerate(items)]
    assert [item.size_bytes for item in found] == shown


@pytest.mark.parametrize(
    ("contents", "then", "shown"),
    [
        (300, [(30, 1200, 77), (30, 1300, 77), (31, 1300, 77)], [(300, None), (300, None), (1300, 77)]),
        (1000, [(30, 1000, 77), (90, 1000, 77), (91, 1000, 88)], [(1000, None), (1000, None), (1000, 88)]),
        # The listing was right of the size, so one of the same moment that gives another size counts.
        (1000, [(30, 1000, 77), (30, 1001, 88)], [(1000, None), (1001, 88)]),
    ],
)
def test_the_contents_of_another_version(
    contents: int, then: list[tuple[int, int, int]], shown: list[tuple[int, int | None]]
) -> None:
    """4.1, 2.4: their size counts for the first listing, however late; and they have not the time of what is gone."""
    changes, entry = SizeChanges(), Entry(b"f", False, 9, 0, 1000, 77)
    changes.record(KEY, entry, msgspec.structs.replace(entry, size_bytes=contents), 0, same_version=False)
    sizes = sizes_of(changes, KEY)
    found = [
        sizes.overridden(ListedChild(b"f", False, size, time_ns), second * 10**9, live=LIVE)
        for second, size, time_ns in then
    ]
    assert [(item.size_bytes, item.created_ns) for item in found] == shown


def test_what_contents_told_while_a_listing_was_made() -> None:
    """2.4, 4.1: a listing that is made on entries of before has the size that contents have, and no version's number
    whose place another one has taken.
    """
    changes, entry = SizeChanges(), Entry(b"f", False, 9, 0, 1000)
    shorter = msgspec.structs.replace(entry, size_bytes=900)
    changes.record(KEY, entry, shorter, 0, same_version=True)
    assert sizes_of(changes, KEY).corrected(entry, b"f") == shorter
    other = msgspec.structs.replace(entry, number=8)
    assert sizes_of(changes, KEY).corrected(other, b"f") == other
    changes.record_other_version(KEY, entry, 300)
    assert sizes_of(changes, KEY).corrected(entry, b"f") is None


def test_growth_is_remembered() -> None:
    """2.4: a file whose contents are larger than listed has grown, and keeps its number; a smaller one has not."""
    grown = _recorded(100, 900).grown[b"f"]
    assert grown.entry is not None
    assert (grown.entry.number, grown.entry.size_bytes, grown.numbers) == (9, 900, {9})
    assert _recorded(900, 100).grown == {}


def test_a_size_that_is_recorded_while_a_listing_is_made() -> None:
    """4.1: the making of a large listing yields to other tasks, and loses no size that one of them records."""
    changes = SizeChanges()
    making = sizes_of(changes, KEY)
    record(changes, 100, 900)
    keep(changes, KEY, making)
    assert sizes_of(changes, KEY).overrides[b"f"].size_bytes == 900
