"""Covering arrays: few combinations of factors in which every two values of two factors meet at least once."""

import itertools
from collections.abc import Callable, Mapping, Sequence

Row = dict[str, object]


def pairwise(factors: Mapping[str, Sequence[object]], allowed: Callable[[Row], bool] = lambda _: True) -> list[Row]:
    """Return rows, a value of each factor, that hold each pair of values that an allowed row can hold; always the same.

    Greedy: the next row is the one that holds most of the missing pairs. For products of some hundreds of rows.
    """
    product = (dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values()))
    rows = [row for row in product if allowed(row)]
    missing = set().union(*map(pairs, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def pairs(row: Row) -> set[tuple[str, str, str, str]]:
    """Return the pairs of values in a row."""
    return {(a, repr(row[a]), b, repr(row[b])) for a, b in itertools.combinations(row, 2)}
