"""artifactfs.tree.run_tables: JSON lines and CSV that programs read (docs/semantics.md 1.9)."""

import csv
import io
import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.domain import Metric, Pair, RunDetails, RunRecord
from artifactfs.tree.run_tables import FORMATS
from tests.fakes import described, run

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def table(name: bytes, *records: RunRecord) -> str:
    return b"".join(FORMATS[name](records)).decode()


def record(run_id: int, **details: object) -> RunRecord:
    return RunRecord(run(run_id), described(run(run_id, name=f"r{run_id}"), **details))  # type: ignore[arg-type]


def as_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_types() -> None:
    """1.9: what is written as a number or a truth is one; all else, and what programs could not hold, is text."""
    params = {
        "rate": "1e-05", "whole": "16", "zero": "-0", "padded": "007", "yes": "True", "no": "false", "none": "",
        "huge": "1e999", "long": "9" * 40, "nan": "nan", "under": "1_0", "list": "[1, 2]", "arabic": "\u0661",
    }  # fmt: skip
    (line,) = table(b"runs.jsonl", record(1, params=params)).splitlines()
    assert json.loads(line)["params"] == {
        "rate": 1e-05, "whole": 16, "zero": 0, "padded": "007", "yes": True, "no": False, "none": "",
        "huge": "1e999", "long": "9" * 40, "nan": "nan", "under": "1_0", "list": "[1, 2]", "arabic": "\u0661",
    }  # fmt: skip
    (row,) = as_rows(table(b"runs.csv", record(1, params=params)))
    assert (row["params.yes"], row["params.rate"], row["params.padded"]) == ("true", "1e-05", "007")


def test_several_values_of_one_key() -> None:
    """1.9: of several tags, or parameters, with one key none is lost: they are an array, in CSV as JSON."""
    pairs = (("team", "a"), ("n", "1"), ("team", 'b, "c"'), ("n", "1"), ("team", "2"), ("team", "a"))
    several = tuple(Pair(key, value) for key, value in pairs)
    details = msgspec.json.decode(described(run(1)), type=RunDetails)
    made = RunRecord(run(1), msgspec.json.encode(msgspec.structs.replace(details, tags=several, params=several[:3])))
    (line,) = table(b"runs.jsonl", made).splitlines()
    assert json.loads(line)["tags"] == {"team": ["a", 'b, "c"', 2], "n": 1}
    assert json.loads(line)["params"] == {"team": ["a", 'b, "c"'], "n": 1}
    (row,) = as_rows(table(b"runs.csv", made))
    assert json.loads(row["tags.team"]) == ["a", 'b, "c"', 2]
    assert row["tags.n"] == "1"


def test_columns() -> None:
    """1.9: CSV has a column for each key of any run, and an empty field where a run has none; the order is kept."""
    loss = Metric("loss", latest=0.5, min="NaN", max=2.0, count=3)
    rows = as_rows(table(b"runs.csv", record(7, params={"a": "1"}), record(3, tags={"a": "x"}, metrics=(loss,))))
    assert [row["id"] for row in rows] == ["7", "3"]
    assert [(row["params.a"], row["tags.a"]) for row in rows] == [("1", ""), ("", "x")]
    assert rows[1]["metrics.loss.latest"] == "0.5"
    assert math.isnan(float(rows[1]["metrics.loss.min"]))
    assert table(b"runs.jsonl") == ""
    assert table(b"runs.csv").startswith("id,name,project_id,status,")


@given(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=4), max_size=4))
def test_any_text(many: list[dict[str, str]]) -> None:
    """1.9: no key or value, whatever is in it, moves a field or a line."""
    records = [record(number, tags=tags) for number, tags in enumerate(many, start=1)]
    lines = table(b"runs.jsonl", *records).split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["id"] for line in lines] == [each.run.run_id for each in records]
    rows = as_rows(table(b"runs.csv", *records))
    assert len(rows) == len(many)
    for row, line, tags in zip(rows, lines, many, strict=True):
        assert json.loads(line)["tags"].keys() == tags.keys()
        for key, value in tags.items():
            shown = row[f"tags.{key}"]
            assert shown == value or float(shown) == float(value) or shown == value.lower()


def test_pandas_reads_both() -> None:
    """1.9: pandas reads both, with types."""
    pandas = pytest.importorskip("pandas")
    loss = Metric("loss", latest=0.5, min="-Infinity")
    records = [record(1, params={"lr": "0.1", "ok": "True"}, metrics=(loss,)), record(2, params={"lr": "1e-5"})]
    frame = pandas.read_csv(io.StringIO(table(b"runs.csv", *records)))
    assert frame["params.lr"].tolist() == [0.1, 1e-5]
    assert frame["metrics.loss.min"].tolist()[0] == -math.inf
    lines = pandas.read_json(io.StringIO(table(b"runs.jsonl", *records)), lines=True)
    assert [each["lr"] for each in lines["params"]] == [0.1, 1e-5]
