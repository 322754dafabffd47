"""artifactfs.modellab.details: the attributes of one run or project, odd parts left out (model-lab-api.md)."""

import json
from pathlib import Path

import msgspec
import pytest

from artifactfs.domain import Metric, Pair
from artifactfs.errors import UnexpectedAnswer
from artifactfs.modellab import details

RECORDED = Path(__file__).parents[3] / "shared" / "recorded"


def run_body(**attributes: object) -> bytes:
    return json.dumps({"data": {"id": "7", "type": "runs", "attributes": {"project_id": 3, **attributes}}}).encode()


if RECORDED.exists():

    def test_the_recorded_run() -> None:
        """What was recorded is all there."""
        run, told = details.decode_run((RECORDED / "run_70158_trimmed.json").read_bytes())
        assert (run.run_id, told.run_id, told.project_id, told.status) == (70158, 70158, "2387", "completed")
        assert told.params[0] == Pair("_name_or_path", "gpt2")
        assert told.tags[-1] == Pair("resumed", "false")
        assert told.metrics[1].latest == 5.154639175257732e-07
        assert (told.metrics[0].count, told.metrics[0].last_step, told.duration_s) == (4, 204, 130.498)
        assert told.created_at == "2026-05-15T02:54:52.684452Z"
        assert told.external_url == "https://mlflow.us1.staging.dog/#/runs/f635c73b70594ab6bb6e212cdf87d0d5"

    def test_the_recorded_project() -> None:
        """What was recorded is all there."""
        project, told = details.decode_project((RECORDED / "project_2387.json").read_bytes())
        assert (project.project_id, told.project_id, told.name) == (2387, 2387, "ft-gpt2-smoke-1778812860")
        assert (told.tags, told.description) == ((), "")


@pytest.mark.parametrize("odd", [None, "x", 5, {}, [None, 7, "", [], {"value": "x"}, {"key": 5}]])
def test_what_is_odd_is_left_out(odd: object) -> None:
    """Lists that are null or something else, and rows that are none, are as good as nothing."""
    _, told = details.decode_run(run_body(params=odd, tags=odd, metric_summaries=odd))
    assert (told.params, told.tags, told.metrics) == ((), (), ())


def test_values_of_other_types() -> None:
    """Numbers and truths are text where text is meant; what is no number is none."""
    rows = [{"key": "a", "value": 5}, {"key": "b", "value": True}, {"key": "c", "value": None}, {"key": "d"}]
    metric = {"key": "m", "latest": True, "min": "3", "max": 10**400, "mean": 1, "count": 2.5, "last_step": 3}
    _, told = details.decode_run(run_body(params=rows, metric_summaries=[metric], name=5, duration="x", owner_id=[1]))
    assert [pair.value for pair in told.params] == ["5", "true", "null", ""]
    assert told.metrics == (Metric("m", min=3.0, mean=1.0, last_step=3),)
    assert (told.name, told.duration_s, told.owner_id) == ("5", None, None)


def test_metrics_that_have_diverged() -> None:
    """A loss that is NaN or infinite is shown: JSON has no number for it, and some encoders write it all the same."""
    sent = b'{"key":"m","latest":NaN,"min":-Infinity,"max":"Infinity","mean":1e400,"count":%b,"last_step":3}' % (
        b"9" * 5000
    )
    rest = b'"duration":NaN,"params":[{"key":"a","value":%b}]' % (b"9" * 5000)
    _, told = details.decode_run(b'{"data":{"id":"7","attributes":{"metric_summaries":[%b],%b}}}' % (sent, rest))
    assert told.metrics == (Metric("m", "NaN", "-Infinity", "Infinity", None, last_step=3),)
    assert msgspec.json.decode(msgspec.json.encode(told.metrics), type=tuple[Metric, ...]) == told.metrics
    assert (told.duration_s, told.params) == (None, (Pair("a", "9" * 5000),))


def test_odd_forms_whose_meaning_is_plain() -> None:
    """A tag as one text, an object in place of a list, a value that is no text, a number that is one: all is shown."""
    _, told = details.decode_run(run_body(tags=["a:b:c", "d", {"key": "e", "value": "f"}, {"key": "g"}]))
    assert told.tags == (Pair("a", "b:c"), Pair("d", ""), Pair("e", "f"), Pair("g", ""))
    _, told = details.decode_run(run_body(tags={"a": "b"}, params={"lr": 0.1, "key": "k"}))
    assert (told.tags, told.params) == ((Pair("a", "b"),), (Pair("lr", "0.1"), Pair("key", "k")))
    rows = [{"key": "a", "value": {"x": 1}}, {"key": "b", "value": [1, "ü\ud800"]}, {"key": "c", "value": None}]
    _, told = details.decode_run(run_body(params=rows))
    assert [pair.value for pair in told.params] == ['{"x":1}', '[1,"ü\ud800"]', "null"]
    metric = {"latest": "0.5", "min": "-1e-3", "max": "7.", "mean": "1_0", "count": "4", "first_step": 0.0}
    _, told = details.decode_run(run_body(duration="12.5", metric_summaries={"loss": metric, "no": 1}))
    assert told.duration_s == 12.5
    assert told.metrics == (Metric("loss", 0.5, -0.001, 7.0, None, 4, 0),)
    _, told = details.decode_run(run_body(duration="9" * 500, metric_summaries={"m": {"min": "nan", "count": 1e300}}))
    assert (told.duration_s, told.metrics) == (None, (Metric("m"),))
    body = b'{"data":{"id":7,"type":"projects","attributes":{"name":"p","tags":["team:x"]}}}'
    assert details.decode_project(body)[1].tags == (Pair("team", "x"),)


def test_text_stays_exact() -> None:
    """Controls and lone surrogates are the reader's to handle: nothing is lost."""
    _, told = details.decode_run(run_body(name="\x1b\ud800" + "n" * 1000))
    assert told.name == "\x1b\ud800" + "n" * 1000


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"data":null}', b'{"data":{"id":"x","attributes":{}}}'])
def test_what_is_no_run(body: bytes) -> None:
    """Anything else is an odd answer, and no traceback."""
    for decode in (details.decode_run, details.decode_project):
        with pytest.raises(UnexpectedAnswer):
            decode(body)
