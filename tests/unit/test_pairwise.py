"""tests.pairwise: every two values of two factors meet, in few rows, and in none that is not allowed."""

import itertools

from tests.pairwise import Row, pairs, pairwise

FACTORS: dict[str, list[object]] = {"a": [1, 2, 3], "b": ["x", "y"], "c": [True, False], "d": [None, 0, "0"]}


def product() -> list[Row]:
    return [dict(zip(FACTORS, values, strict=True)) for values in itertools.product(*FACTORS.values())]


def test_every_two_values_meet() -> None:
    """The 36 rows of the product have no pair that the chosen ones lack; those are a few more than nine."""
    chosen = pairwise(FACTORS)
    assert set().union(*map(pairs, chosen)) == set().union(*map(pairs, product()))
    assert len(chosen) <= 12
    assert chosen == pairwise(FACTORS)


def test_what_is_not_allowed_is_left_out() -> None:
    """A row that is not allowed is not there; what only such rows have is not asked for."""

    def allowed(row: Row) -> bool:
        return row["a"] != 1 or row["b"] == "x"

    chosen = pairwise(FACTORS, allowed)
    assert all(map(allowed, chosen))
    assert set().union(*map(pairs, chosen)) == set().union(*map(pairs, filter(allowed, product())))
