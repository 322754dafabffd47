"""artifactfs.fuse.reading_order: which order a program reads in is known after two files."""

import random

import pytest

from artifactfs.fuse.reading_order import Order, ReadingOrder, in_order, kind_of
from artifactfs.tree.nodes import Entry

NAMES = [f"f{number:02d}.json".encode() for number in range(40)]
SHUFFLED = random.Random(1).sample(NAMES, len(NAMES))


def listing(names: list[bytes], dirs: frozenset[bytes] = frozenset()) -> dict[bytes, Entry]:
    """Return entries in this order, whose numbers are in yet another."""
    numbers = random.Random(2).sample(range(10 * len(names)), len(names))
    return {name: Entry(name, name in dirs, number, 0, 1) for name, number in zip(names, numbers, strict=True)}


def names(order: ReadingOrder) -> list[bytes]:
    found = []
    while (entry := order.take()) is not None:
        found.append(entry.name)
    return found


@pytest.mark.parametrize("order", list(Order))
def test_two_files_show_the_order(order: Order) -> None:
    """The second file, if it is the next in one of the orders; the rest is taken in that order, each once."""
    entries = listing(SHUFFLED)
    expected = [entry.name for entry in in_order(list(entries.values()), order)]
    reading = ReadingOrder(lambda: entries)
    reading.note(expected[5])
    assert reading.steps == 0
    reading.note(expected[6])
    assert (reading.steps, reading.order) == (1, order)
    assert names(reading) == expected[7:]
    assert names(reading) == []
    reading.note(expected[7])
    assert names(reading) == []


def test_a_gap_at_first() -> None:
    """What does not follow at once is no order, and begins one."""
    entries = listing(NAMES)
    reading = ReadingOrder(lambda: entries)
    for place in (0, 20, 10):
        reading.note(NAMES[place])
        assert reading.steps == 0
    reading.note(NAMES[11])
    assert reading.steps == 1


def test_threads_overtake_each_other() -> None:
    """Once the order is known, a few files more or less are in order; what stays far behind was left behind."""
    entries = listing(NAMES)
    reading = ReadingOrder(lambda: entries)
    left = []
    for place in (0, 1, 3, 2, 6, 4, 14, 15, 22):
        left += [entry.name for entry in reading.note(NAMES[place])]
        assert reading.steps == reading.noted - 1
    assert left == NAMES[:14]
    reading.note(NAMES[39])
    assert reading.steps == 0


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 3, 2), (2, 0, 3, 1)])
def test_threads_that_always_overtake_each_other(order: tuple[int, ...]) -> None:
    """No entry need follow another: those without a gap between them, and then one behind them, are in order, too."""
    entries = listing(NAMES)
    reading = ReadingOrder(lambda: entries)
    for round_of_four in (0, 4):
        for place in order:
            reading.note(NAMES[round_of_four + place])
    assert reading.steps
    assert names(reading)[:3] == NAMES[8:11]


def test_backwards_is_no_order() -> None:
    """Entries from the last to the first have nothing behind them that is to come."""
    entries = listing(NAMES)
    reading = ReadingOrder(lambda: entries)
    for name in reversed(NAMES[3:16]):
        reading.note(name)
        assert reading.steps == 0


def test_an_expected_order_begins_with_the_first_file() -> None:
    """In the next directory the first file is enough, if it is the first."""
    entries = listing(SHUFFLED)
    reading = ReadingOrder(lambda: entries, expected=Order.NAMES)
    reading.note(NAMES[0])
    assert (reading.steps, reading.order) == (1, Order.NAMES)
    other = ReadingOrder(lambda: entries, expected=Order.NAMES)
    other.note(NAMES[9])
    assert other.steps == 0


def test_kinds() -> None:
    """Files of kinds that were not read do not count, until one is read."""
    mixed = [name for number in range(20) for name in (b"a%d.txt" % number, b"a%d.json" % number, b"a%d.py" % number)]
    entries = listing(mixed)
    kinds: set[bytes] = set()
    reading = ReadingOrder(lambda: entries, kinds=kinds)
    reading.note(b"a0.json")
    reading.note(b"a1.json")
    assert reading.steps == 1
    assert reading.take() == entries[b"a2.json"]
    reading.note(b"a1.py")
    assert reading.steps == 2
    assert kinds == {b"json", b"py"}
    assert [entry and entry.name for entry in (reading.take(), reading.take())] == [b"a2.json", b"a2.py"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(b"a.JSON", b"json"), (b"a.tar.gz", b"gz"), (b"LICENSE", b""), (b"part.00017", b""), (b"a." + b"x" * 40, b"")],
)
def test_the_kind_of_a_name(name: bytes, kind: bytes) -> None:
    """A number, or no end at all, is no kind of its own: such files are all of one."""
    assert kind_of(name) == kind


def test_random_reading_is_given_up() -> None:
    """After some files in no order nothing is an order any more, and costs nothing."""
    names_of_many = [b"f%05d" % number for number in range(9_000)]
    entries = listing(names_of_many)
    reading = ReadingOrder(lambda: entries)
    for name in random.Random(3).sample(names_of_many, 60):
        reading.note(name)
    for name in names_of_many[100:110]:
        reading.note(name)
    assert reading.steps == 0
    assert reading.take() is None


def test_files_and_directories() -> None:
    """Each of them has an order of its own."""
    entries = listing(SHUFFLED, frozenset(SHUFFLED[::2]))
    for dirs in (False, True):
        mine = [name for name in SHUFFLED if entries[name].is_dir is dirs]
        reading = ReadingOrder(lambda: entries, dirs=dirs)
        for name in mine[:3]:
            reading.note(name)
        assert reading.steps == 2
        assert [entry.name for entry in reading.following()] == mine[3:]


def test_large_directories() -> None:
    """They are followed in the order of the listing only, and very large ones not at all."""
    for count, steps in ((20_000, 1), (100_001, 0)):
        entries = (
            listing([b"f%06d" % number for number in range(count)])
            if count < 50_000
            else dict.fromkeys([b"f%06d" % number for number in range(count)], Entry(b"f", False, 1, 0, 1))
        )
        reading = ReadingOrder(lambda entries=entries: entries)  # type: ignore[misc]  # a default is no part of the type
        reading.note(b"f000100")
        reading.note(b"f000101")
        assert reading.steps == steps
