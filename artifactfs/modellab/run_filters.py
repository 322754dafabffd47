"""What runs are chosen by, as the service's `filter[...]` takes it, and the test of the runs in an answer.

The filters of tags and parameters are lists, `key:value,key2:value2`, and the document names no way to escape. So what
holds a comma, and a key with a colon, is not sent: the runs of the answer are tested here, whatever was sent, since a
service may not know a filter, or take it for something else (run_finder.py). Source: model-lab-api.md, Endpoints.
"""

import operator
from collections.abc import Callable, Iterable

import msgspec

from artifactfs.domain import Pair, ParamTest, RunDetails, RunFilter, RunRecord

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
# By filter: what no run has. Random, but for the last id that there can be.
_NONE = "5d0cbb4e-8f0d-4b43-9a0f-6f1f6a1c7f5e"
OF_NO_RUN = {
    "filter": _NONE,
    "filter[parent_run_id]": str(2**63 - 1),
    "filter[owner_id]": _NONE,
    "filter[tags]": f"{_NONE}:{_NONE}",
    "filter[params]": f"{_NONE}:{_NONE}",
}
_details = msgspec.json.Decoder(RunDetails)


def query_of(wanted: RunFilter) -> dict[str, str]:
    """Return the query of the runs that are wanted, as far as it can be written."""
    tags = [f"{key}:{value}" for key, value in wanted.tags if _can_be_listed(key, value)]
    params = [f"{each.key}:{each.sign}{each.value}" for each in wanted.params if _can_be_compared(each)]
    query = {
        "filter[project_id]": "" if wanted.project_id is None else str(wanted.project_id),
        "filter": wanted.text,
        "filter[status]": wanted.status or "",
        "filter[owner_id]": wanted.owner or "",
        "filter[parent_run_id]": "" if wanted.parent is None else str(wanted.parent or "null"),
        "filter[tags]": ",".join(tags),
        "filter[params]": ",".join(params),
    }
    return {name: value for name, value in query.items() if value}


def unwritten(wanted: RunFilter) -> set[str]:
    """Return the filters of which `query_of` does not write all."""
    lacks = {
        "filter[tags]": not all(_can_be_listed(*tag) for tag in wanted.tags),
        "filter[params]": not all(map(_can_be_compared, wanted.params)),
    }
    return {name for name, is_lacking in lacks.items() if is_lacking}


def project_of(wanted: RunFilter) -> RunFilter:
    """Return the filter of the project alone."""
    return RunFilter(project_id=wanted.project_id)


def looser(wanted: RunFilter) -> RunFilter:
    """Return a filter without all that rows tell: `holds` can take the place of the service's choice by that."""
    return RunFilter(project_id=wanted.project_id, text=wanted.text, parent=wanted.parent)


def shown(query: dict[str, str], unwritten: Iterable[str] = ()) -> str:
    """Return a query for a log line, and the filters of which it does not say all."""
    written = (f"{name} {value!r}" for name, value in query.items())
    return ", ".join([*written, *(f"{name} (a part of it cannot be sent)" for name in sorted(unwritten))])


def holds(wanted: RunFilter, record: RunRecord) -> bool:
    """Whether a run may be one that is wanted: nothing that its row says speaks against that."""
    run = record.run
    if wanted.project_id is not None and run.project_id != str(wanted.project_id):
        return False
    if wanted.status is not None and run.status.lower() != wanted.status:
        return False
    if not (wanted.owner or wanted.tags or wanted.params):
        return True
    details = _details.decode(record.details)
    if wanted.owner is not None and (details.owner_id or wanted.owner).lower() != wanted.owner.lower():
        return False
    return all(not details.tags or Pair(key, value) in details.tags for key, value in wanted.tags) and all(
        not details.params or any(_is(each, pair) for pair in details.params) for each in wanted.params
    )


def unproven(wanted: RunFilter, record: RunRecord) -> set[str]:
    """Return the filters of which the row of a run that `holds` does not tell that it is one of the wanted.

    A row never names the parent. Which words a text is split into, and where they are looked for, is the service's to
    say. Parameters, tags and owner may be missing in rows.
    """
    if wanted == project_of(wanted):
        return set()
    details = _details.decode(record.details)
    text = f"{details.name}\n{details.description or ''}"
    missing = {
        "filter": wanted.text.casefold() not in text.casefold(),
        "filter[parent_run_id]": wanted.parent is not None,
        "filter[owner_id]": wanted.owner is not None and not details.owner_id,
        "filter[tags]": bool(wanted.tags) and not details.tags,
        "filter[params]": bool(wanted.params) and not details.params,
    }
    return {name for name, is_missing in missing.items() if is_missing}


def _is(test: ParamTest, pair: Pair) -> bool:
    if pair.key != test.key:
        return False
    if not test.sign:
        return pair.value == test.value
    try:
        return _COMPARISONS[test.sign](float(pair.value), float(test.value))
    except ValueError:
        return False


def _can_be_listed(key: str, value: str) -> bool:
    return bool(key) and ":" not in key and "," not in key + value


def _can_be_compared(test: ParamTest) -> bool:
    # A text that begins as a comparison does would be taken for one.
    return _can_be_listed(test.key, test.value) and (bool(test.sign) or not test.value.startswith(("<", ">")))
