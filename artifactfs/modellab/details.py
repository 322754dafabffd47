"""The details of one run or project: parameters, tags, metrics, times, links.

The tree caches thousands of runs and needs none of this, so it is decoded for `artifactfs info` and xattrs alone. Text
is the server's, exact: the renderer makes it printable. Anything absent, null or odd (models.py) is None, or left out.
Odd forms whose meaning is plain are accepted: a tag that is `key:value` in one text, an object in place of a list of
pairs, a number that comes as text.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import msgspec

from artifactfs.domain import Metric, NotFinite, Pair, Project, ProjectDetails, Run, RunDetails, RunRecord, Value
from artifactfs.modellab import models

T = TypeVar("T")

# As JSON writes numbers, and a little more; short enough for what they are. `float` would take `1_0` and `nan`.
_NUMERIC = re.compile(r"[+-]?[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,4})?")
_NOT_FINITE: tuple[NotFinite, ...] = get_args(NotFinite)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def decode_run(body: bytes) -> tuple[Run, RunDetails]:
    """Decode the answer of `/runs/{id}`. Raises UnexpectedAnswer."""
    return _run(models.one_of(body))


def decode_records(body: bytes) -> models.Page[RunRecord]:
    """Decode a page of `/runs` with the details of each run. Raises UnexpectedAnswer."""
    return models.page_of(body, "runs", _record)


def _record(data: Any) -> RunRecord:
    run, found = _run(data)
    try:
        return RunRecord(run, msgspec.json.encode(found))
    except UnicodeEncodeError:  # a lone surrogate
        plain = json.dumps(msgspec.to_builtins(found), ensure_ascii=False, separators=(",", ":"))
        return RunRecord(run, plain.encode("utf-8", "replace"))


def _run(data: Any) -> tuple[Run, RunDetails]:
    run, attributes = models.run_of(data), data["attributes"]
    return run, RunDetails(
        run_id=run.run_id,
        project_id=run.project_id,
        name=_text(attributes.get("name")) or "",
        status=_text(attributes.get("status")) or "",
        description=_text(attributes.get("description")),
        created_at=_text(attributes.get("created_at")),
        started_at=_text(attributes.get("started_at")),
        updated_at=_text(attributes.get("updated_at")),
        completed_at=_text(attributes.get("completed_at")),
        duration_s=_number(attributes.get("duration")),
        owner_id=_text(attributes.get("owner_id")),
        external_url=_text(attributes.get("external_url")),
        has_children=attributes.get("has_children") in (True, "true"),
        params=_rows(_pairs(attributes.get("params")), _pair),
        tags=_rows(_tags(attributes.get("tags")), _pair),
        metrics=_rows(_metrics(attributes.get("metric_summaries")), _metric),
    )


def decode_project(body: bytes) -> tuple[Project, ProjectDetails]:
    """Decode the answer of `/projects/{id}`. Raises UnexpectedAnswer."""
    data = models.one_of(body)
    project, attributes = models.project_of(data), data["attributes"]
    return project, ProjectDetails(
        project_id=project.project_id,
        name=_text(attributes.get("name")) or "",
        description=_text(attributes.get("description")),
        created_at=_text(attributes.get("created_at")),
        updated_at=_text(attributes.get("updated_at")),
        owner_id=_text(attributes.get("owner_id")),
        external_url=_text(attributes.get("external_url")),
        tags=_rows(_tags(attributes.get("tags")), _pair),
    )


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else None


def _number(value: object) -> float | None:
    if isinstance(value, str) and _NUMERIC.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _value(value: object) -> Value | None:
    """Return a metric's value: a number, or the name of one that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        value = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return next((name for name in _NOT_FINITE if name == value), None) or _number(value)


def _whole(value: object) -> int | None:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _rows(value: object, decode: Callable[[dict[str, Any]], T | None]) -> tuple[T, ...]:
    rows = value if isinstance(value, list) else []
    return tuple(found for row in rows if isinstance(row, dict) and (found := decode(row)) is not None)


def _pairs(value: object) -> object:
    """Return parameters or tags as rows: an object stands for the list of its members."""
    if isinstance(value, dict):
        return [{"key": key, "value": each} for key, each in value.items()]
    return value


def _tags(value: object) -> object:
    """Return tags as rows: elsewhere Datadog writes a tag as the text `key:value`, or as a mere key."""
    if not isinstance(value, list):
        return _pairs(value)

    def row(tag: object) -> object:
        if not isinstance(tag, str) or not tag:
            return tag
        key, _, rest = tag.partition(":")
        return {"key": key, "value": rest}

    return [row(tag) for tag in value]


def _metrics(value: object) -> object:
    """Return metrics as rows: an object has them by their keys."""
    if isinstance(value, dict):
        return [{**each, "key": key} for key, each in value.items() if isinstance(each, dict)]
    return value


def _pair(row: dict[str, Any]) -> Pair | None:
    key = row.get("key")
    return Pair(key, _written(row["value"]) if "value" in row else "") if isinstance(key, str) else None


def _written(value: object) -> str:
    """Return a value as text; lists and objects as their JSON, so that nothing is lost."""
    plain = _text(value)
    if plain is not None:
        return plain
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return ""  # nested about as deep as can be decoded: no real parameter


def _metric(row: dict[str, Any]) -> Metric | None:
    key = row.get("key")
    if not isinstance(key, str):
        return None
    latest, least, most, mean = (_value(row.get(name)) for name in ("latest", "min", "max", "mean"))
    count, first, last = (_whole(row.get(name)) for name in ("count", "first_step", "last_step"))
    return Metric(key, latest, least, most, mean, count, first, last)
