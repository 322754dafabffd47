"""The runs of a list as a table, in the order of the list (docs/semantics.md 1.9): a JSON object a line, or CSV. Pure.

A parameter or a tag that is written as a number or a truth is one. Of a key with several values all are shown, as a
JSON array. CSV has a column for each key of any run, and an empty field where a run lacks it.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence

import msgspec

from artifactfs.domain import Pair, RunDetails, RunRecord, by_key

# A number as JSON writes it: `007` and `1_0` are none.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,300})(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,3})?")
_TRUTHS = {"true": True, "True": True, "false": False, "False": False}
# Of a run, what is no list.
_FIELDS = (
    "id", "name", "project_id", "status", "description", "created_at", "started_at", "updated_at", "completed_at",
    "duration_s", "owner_id", "external_url", "has_children",
)  # fmt: skip
# Some 10 ms of work: the event loop goes on between pieces.
_ROWS_PER_PIECE = 100
# A whole number beyond 64 bits is one for few programs.
_MAX_WHOLE = 2**63
_NEEDS_QUOTES = re.compile(r'[,"\r\n]|^\s|\s$')
_decoder = msgspec.json.Decoder(RunDetails)

Typed = str | int | float | bool


def as_json_lines(runs: Sequence[RunRecord]) -> Iterator[bytes]:
    """Yield a JSON object a line, in pieces: the fields of a run, and `params`, `tags` and `metrics` by key."""
    for some in _in_pieces(runs):
        yield b"".join(json.dumps(_row(record)).encode() + b"\n" for record in some)


def as_csv(runs: Sequence[RunRecord]) -> Iterator[bytes]:
    """Yield CSV with a head, in pieces: the fields of a run, then `params.KEY`, `tags.KEY`, `metrics.KEY.latest`, say.

    Not Python's csv: before 3.13 it writes a carriage return in a field without quotes.
    """
    found: set[str] = set()
    for some in _in_pieces(runs):
        found.update(*(_flat(_row(record)) for record in some))
        yield b""
    columns = [*_FIELDS, *sorted(found - set(_FIELDS))]
    yield _csv_line(columns)
    for some in _in_pieces(runs):
        rows = (_flat(_row(record)) for record in some)
        yield b"".join(_csv_line([row.get(column) for column in columns]) for row in rows)


# By the ending of the file's name.
FORMATS: dict[bytes, Callable[[Sequence[RunRecord]], Iterator[bytes]]] = {
    b"runs.csv": as_csv,
    b"runs.jsonl": as_json_lines,
}


def _in_pieces(runs: Sequence[RunRecord]) -> Iterator[Sequence[RunRecord]]:
    for start in range(0, len(runs), _ROWS_PER_PIECE):
        yield runs[start : start + _ROWS_PER_PIECE]


def _row(record: RunRecord) -> dict[str, object]:
    details = _decoder.decode(record.details)
    row: dict[str, object] = {"id": details.run_id, "project_id": _typed(details.project_id)}
    row |= {name: getattr(details, name) for name in _FIELDS if name not in row}
    row = {name: row[name] for name in _FIELDS}
    metrics = {
        metric.key: {name: value for name, value in msgspec.structs.asdict(metric).items() if name != "key"}
        for metric in details.metrics
    }
    return row | {"params": _by_key(details.params), "tags": _by_key(details.tags), "metrics": metrics}


def _by_key(pairs: Sequence[Pair]) -> dict[str, Typed | list[Typed]]:
    # A run may have several tags with one key: each is a choice of its own in `by`, too.
    return {
        key: _typed(found) if isinstance(found, str) else [_typed(text) for text in found]
        for key, found in by_key(pairs).items()
    }


def _typed(text: str) -> Typed:
    if text in _TRUTHS:
        return _TRUTHS[text]
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    # A number that is too large stays as it is written.
    if match[1] or match[2]:
        return number if math.isfinite(number := float(text)) else text
    return whole if -_MAX_WHOLE <= (whole := int(text)) < _MAX_WHOLE else text


def _flat(row: dict[str, object]) -> dict[str, object]:
    """Return a row with one level: lists by their keys, metrics by key and summary."""
    flat = {name: row[name] for name in _FIELDS}
    for kind in ("params", "tags", "metrics"):
        found = row[kind]
        for key, value in found.items() if isinstance(found, dict) else ():
            if isinstance(value, dict):
                flat |= {f"{kind}.{key}.{name}": each for name, each in value.items() if each is not None}
            else:
                flat[f"{kind}.{key}"] = value
    return flat


def _csv_line(values: Sequence[object]) -> bytes:
    return (",".join(map(_field, values)) + "\n").encode()


def _field(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text
