"""artifactfs.tree.entry_table: entries by key, bounded by their weight and their time."""

import random

import pytest

from artifactfs.tree.entry_table import EntryTable
from artifactfs.tree.inflight_fetch import CacheEntry


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def entry(value: str, *, until: float = 1000.0, weight: int = 1) -> CacheEntry[str]:
    return CacheEntry(value, 0.0, until, until, weight=weight)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_least_recently_used_goes_first(clock: Clock) -> None:
    """6.4: what was looked at stays; the weight of all is never more than the bound."""
    table: EntryTable[str, str] = EntryTable(3, clock)
    for key in "abc":
        table[key] = entry(key)
    assert table.get("a") is not None
    table["d"] = entry("d")
    assert list(table) == ["c", "a", "d"]
    table["e"] = entry("e", weight=3)
    assert list(table) == ["e"]
    assert table.weight == 3
    with pytest.raises(ValueError, match="weighs more"):
        table["f"] = entry("f", weight=4)
    assert "e" in table


def test_an_entry_that_is_too_stale_is_not_there(clock: Clock) -> None:
    """3.2: past its time an entry is not found, not counted, and goes as others come."""
    table: EntryTable[str, str] = EntryTable(4, clock)
    table["a"], table["b"] = entry("a", until=110), entry("b", until=120)
    clock.now = 110
    assert table.get("a") is None
    assert "a" not in table
    assert (list(table), len(table), table.weight) == (["b"], 1, 1)
    assert table.pop("a") is None
    table["c"] = entry("c", until=110)
    assert "c" not in table
    clock.now = 120
    table["d"] = entry("d")
    assert list(table._held) == ["d"]  # what is gone takes no memory


def test_a_value_is_known_after_its_time(clock: Clock) -> None:
    """2.4: too stale or invalid, a value is not served, and is still the last one of its key, while there is room."""
    table: EntryTable[str, str] = EntryTable(100, clock)
    table["a"], table["b"], table["heavy"] = entry("a", until=110), entry("b"), entry("c", until=110, weight=20)
    table.invalidate("b")
    table.invalidate("never there")
    assert [table.is_invalid(key) for key in ("a", "b", "never there")] == [False, True, False]
    clock.now = 110
    assert (list(table), len(table), table.weight, table.get("b")) == ([], 0, 0, None)
    table["d"], table["e"] = entry("d"), entry("e")
    assert [table.last(key) for key in ("a", "b", "heavy", "d")] == [None, None, None, "d"]
    table.invalidate("d")
    table["d"] = entry("too late", until=110)
    for each in range(10):
        table[str(each)] = entry("x")
    assert table.last("d") == "d"
    table["d"] = entry("new")
    assert not table.is_invalid("d")
    table.pop("d")
    assert table.last("d") is None


@pytest.mark.parametrize("seed", range(10))
def test_any_use(seed: int, clock: Clock) -> None:
    """6.4: whatever is stored, replaced and removed, weights add up."""
    rng = random.Random(seed)
    table: EntryTable[int, str] = EntryTable(50, clock)
    for _ in range(2000):
        key = rng.randrange(30)
        match rng.randrange(4):
            case 0:
                table.pop(key)
            case 1:
                table.get(key)
            case _:
                table[key] = entry("x", until=clock.now + rng.randrange(50), weight=rng.randrange(1, 10))
        clock.now += 1
        found = [table.get(key) for key in list(table)]
        assert sum(each.weight for each in found if each is not None) == table.weight <= 50
    table.clear()
    assert (len(table), table.weight) == (0, 0)
