"""What `filter[…]` of runs and projects means: text, ids, owners, tags, and parameters compared as numbers.

Owns the grammar of the filters' values, as far as the documentation gives it: `key:value,key2:>0.5,key3:true`. Where it
says nothing, the stricter reading: a value that fits no form is refused.
"""

import operator
import uuid
from collections.abc import Callable

from artifactfs.emulator.model import Row, Run

STATUSES = ("pending", "running", "completed", "failed", "killed", "unresponsive", "paused")

Test = Callable[[Row], bool]

# The longer signs first.
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class BadQuery(ValueError):
    """A query value that the service refuses."""


def number(text: str) -> int | None:
    """Return a decimal id, None for anything else."""
    return int(text) if text.isascii() and text.isdecimal() else None


def integer(name: str, text: str) -> int:
    """Return the integer that a query value is. Raises BadQuery."""
    value = number(text.strip())
    if value is None:
        raise BadQuery(f"{name} is not an integer: {text!r}")
    return value


def attributes_test(query: dict[str, str]) -> Test:
    """Return the test of what runs and projects both have: text, owner, tags. Raises BadQuery."""
    tests: list[Test] = []
    if text := query.get("filter", "").lower():
        tests.append(lambda row: any(text in str(row.get(name) or "").lower() for name in ("name", "description")))
    if owner := query.get("filter[owner_id]"):
        wanted = _uuid(owner)
        tests.append(lambda row: str(row.get("owner_id", "")).lower() == wanted)
    if tags := query.get("filter[tags]"):
        tests += [_is(key, value, "tags") for key, value in _pairs("filter[tags]", tags)]
    return lambda row: all(test(row) for test in tests)


def run_test(query: dict[str, str]) -> Callable[[Run], bool]:
    """Return the test of all that runs can be filtered by. Raises BadQuery."""
    common_test = attributes_test(query)
    param_tests: list[Test] = []
    tests: list[Callable[[Run], bool]] = [lambda run: common_test(run.attributes)]
    if ids := query.get("filter[id]"):
        wanted = {integer("filter[id]", each) for each in ids.split(",")}
        tests.append(lambda run: run.id in wanted)
    if project := query.get("filter[project_id]"):
        project_id = integer("filter[project_id]", project)
        tests.append(lambda run: run.project == project_id)
    if parent := query.get("filter[parent_run_id]"):
        parent_id = None if parent == "null" else integer("filter[parent_run_id]", parent)
        tests.append(lambda run: run.parent == parent_id)
    if status := query.get("filter[status]"):
        if status not in STATUSES:
            raise BadQuery(f"filter[status] is one of {', '.join(STATUSES)}, not {status!r}")
        tests.append(lambda run: run.attributes.get("status") == status)
    if params := query.get("filter[params]"):
        param_tests += [_compared(key, value) for key, value in _pairs("filter[params]", params)]
    return lambda run: all(test(run) for test in tests) and all(test(run.attributes) for test in param_tests)


def _pairs(name: str, text: str) -> list[tuple[str, str]]:
    pairs = [(key, value) for key, colon, value in (each.partition(":") for each in text.split(",")) if colon and key]
    if len(pairs) < len(text.split(",")):
        raise BadQuery(f"{name} is key:value,key2:value2, not {text!r}")
    return pairs


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise BadQuery(f"filter[owner_id] is no UUID: {text!r}") from None


def _values(row: Row, field: str, key: str) -> list[str]:
    rows = row.get(field)
    return [str(each["value"]) for each in rows if each["key"] == key] if isinstance(rows, list) else []


def _is(key: str, value: str, field: str) -> Test:
    # Python writes `True`, as recorded, where the documentation's example asks for `true`.
    return lambda row: value.lower() in (each.lower() for each in _values(row, field, key))


def _compared(key: str, value: str) -> Test:
    sign = next((sign for sign in _SIGNS if value.startswith(sign)), None)
    if sign is None:
        return _is(key, value, "params")
    bound = _float(value.removeprefix(sign))
    if bound is None:
        raise BadQuery(f"filter[params] compares {key!r} with what is no number: {value!r}")
    holds, limit = _SIGNS[sign], bound

    def test(row: Row) -> bool:
        numbers = (_float(each) for each in _values(row, "params", key))
        return any(each is not None and holds(each, limit) for each in numbers)

    return test


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
