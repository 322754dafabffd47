"""The order in which a program goes through the entries of one directory. Pure: no I/O, no clock.

Programs read in the order of the listing (`grep -r`, `tar`, `os.walk`), of the names (a shell's glob) or of the inode
numbers (`cp -r`). Some read the files of one kind only, and several threads of one program overtake each other.
"""

import enum
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

from artifactfs.tree.nodes import Entry

# How far the threads of one program overtake each other, in entries. Arbitrary.
_SLACK = 8
# So many entries without a gap, in whatever order, and then one behind them are a step in order. Arbitrary.
_FEW = 2
# Entries that follow none before them, until the directory is taken to be read at random. Arbitrary.
_MAX_MISSES = 16
# Steps in one order after which the other orders do not count. Arbitrary.
_SURE = 16
# Entries that are sorted, and compared by kind: 10 ms of work. A larger directory is followed in the order of its
# listing only, up to where that takes as long.
_MAX_SORTED = 10_000
_MAX_FOLLOWED = 100_000
# A longer end of a name tells no kind. Arbitrary.
_MAX_KIND = 12

Entries = Mapping[bytes, Entry]


class Order(enum.Enum):
    """An order, by the field of an entry that it goes by."""

    LISTED = None
    NAMES = "name"
    NUMBERS = "number"


def in_order(entries: Sequence[Entry], order: Order) -> Sequence[Entry]:
    """Return entries, which are in the order of the listing, in an order."""
    if order.value is None or len(entries) > _MAX_SORTED:
        return entries
    return sorted(entries, key=attrgetter(order.value))


def kind_of(name: bytes) -> bytes:
    """Return what the end of a file's name tells of its kind: "json"; nothing where that is a number, or no end."""
    kind = name[name.rfind(b".") + 1 :]
    return b"" if len(kind) == len(name) or len(kind) > _MAX_KIND or kind.isdigit() else kind.lower()


class _Candidate:
    """The entries in one order. `at`: the last that was reached; `steps`: how many in a row were in this order.

    `taken`: the last that was handed out. `first`, `last`, `count`: before the first step, of those near each other.
    """

    def __init__(self, order: Order, entries: Sequence[Entry]) -> None:
        self.order = order
        self.entries = entries
        self.at = -1
        self.steps = 0
        self.taken = -1
        self.first = self.last = -1
        self.count = 0

    def place(self, name: bytes) -> None:
        """Start at an entry."""
        self.at = next((position for position, entry in enumerate(self.entries) if entry.name == name), -1)
        self.first = self.last = self.at
        self.count = 1

    def note(self, name: bytes) -> None:
        # The first step is to the very next entry, since any two entries are near each other in a small directory.
        first, last = (self.at - _SLACK, self.at + _SLACK) if self.steps else (self.at + 1, self.at + 1)
        for position in range(max(0, first), min(len(self.entries), last + 1)):
            if self.entries[position].name == name:
                self.steps += 1
                self.at = max(self.at, position)
                return
        before = self.first, self.last, self.count
        self.steps = 0
        self.place(name)
        self._begin(*before)

    def _begin(self, first: int, last: int, count: int) -> None:
        """See whether an entry is near those before. Threads may read 3, 2, 1, 0, 7, 6, 5, 4: no two of them follow."""
        if last < self.at <= last + _SLACK and count > _FEW and last - first < count:
            self.steps = 1
        elif max(0, first - _SLACK) <= self.at <= last + _SLACK:
            self.first, self.last, self.count = min(first, self.at), max(last, self.at), count + 1


class ReadingOrder:
    """See the module. `listed()` returns the entries in the order of the listing; none if that is not known now.

    `dirs`: directories, or files, are what is read. `kinds`: the kinds of file that count, to which each that is read
    is added. `expected`: the order of what was read before, which is taken to begin with the first entry.
    """

    def __init__(
        self,
        listed: Callable[[], Entries],
        *,
        dirs: bool = False,
        kinds: set[bytes] | None = None,
        expected: Order | None = None,
    ) -> None:
        self._listed = listed
        self._dirs = dirs
        self._kinds = kinds
        self._expected = expected
        self._candidates: list[_Candidate] = []
        self._kinds_seen = 0
        self._misses = 0
        # The entries that were noted, and the first of them.
        self._noted: set[bytes] = set()
        self.first = b""

    @property
    def noted(self) -> int:
        """How many entries were noted."""
        return len(self._noted)

    @property
    def order(self) -> Order:
        """The order that fits best."""
        return self._best().order

    @property
    def steps(self) -> int:
        """How many entries in a row were noted in that order; 0 if none fits."""
        return self._best().steps if self._candidates else 0

    def has(self, name: bytes) -> bool:
        """Whether an entry was noted."""
        return name in self._noted

    def note(self, name: bytes) -> Sequence[Entry]:
        """Take note that a program has come to an entry; returns those that it has left behind by that."""
        if name in self._noted or self._misses > _MAX_MISSES:
            return ()
        self._noted.add(name)
        self.first = self.first or name
        if self._kinds is not None:
            self._kinds.add(kind_of(name))
        if self.noted == 1 and self._expected is None:
            # Most directories of which one file is read are done with: they cost no more than this.
            return ()
        before = self._best()
        was_at = before.at
        for each in self._candidates:
            each.note(name)
        best = self._best()
        if not best.steps:
            self._misses += 1
            if self._misses > _MAX_MISSES:
                self._candidates = []
        elif best.steps == _SURE:
            self._candidates = [best]
        if best is not before or not best.steps:
            return ()
        return best.entries[max(0, was_at - _SLACK) : max(0, best.at - _SLACK)]

    def following(self) -> Iterator[Entry]:
        """Return the entries that come next."""
        best = self._best()
        return itertools.islice(best.entries, best.at + 1, None)

    def take(self) -> Entry | None:
        """Return the next entry that was not taken before; None behind the last."""
        if self._misses > _MAX_MISSES:
            return None
        best = self._best()
        best.taken = max(best.taken, best.at) + 1
        return best.entries[best.taken] if best.taken < len(best.entries) else None

    def retake(self) -> None:
        """Let everything that comes next be taken again."""
        for each in self._candidates:
            each.taken = -1

    def _best(self) -> _Candidate:
        kinds = 0 if self._kinds is None else len(self._kinds)
        if not self._candidates or kinds != self._kinds_seen:
            self._kinds_seen = kinds
            self._candidates = self._made()
        return max(self._candidates, key=lambda each: each.steps)

    def _made(self) -> list[_Candidate]:
        """Return the candidates, as far as those of before came."""
        listed, kinds, is_dir = self._listed(), self._kinds, self._dirs
        before = {each.order: each for each in self._candidates}
        orders = list(before) or sorted(Order, key=lambda order: order is not self._expected)
        if len(listed) > _MAX_SORTED:
            orders, kinds = [Order.LISTED], None
        entries = [
            entry
            for entry in (listed.values() if len(listed) <= _MAX_FOLLOWED else ())
            if entry.is_dir is is_dir and (kinds is None or kind_of(entry.name) in kinds)
        ]
        made = []
        for order in orders:
            candidate = _Candidate(order, in_order(entries, order))
            if (old := before.get(order)) is not None and old.at >= 0:
                candidate.place(old.entries[old.at].name)
                candidate.steps = old.steps
            elif self._expected is None and self.first:
                candidate.place(self.first)
            made.append(candidate)
        return made
