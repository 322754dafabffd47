"""artifactfs.modellab.models: runs, pages, times, and what errors say."""

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.domain import Run, is_finished
from artifactfs.errors import UnexpectedAnswer
from artifactfs.modellab import details
from artifactfs.modellab.models import decode_run, decode_runs, error_text, parse_time_ns


def body(run_id: object = "70158", **attributes: object) -> bytes:
    return json.dumps({"data": {"id": run_id, "type": "runs", "attributes": attributes}}).encode()


def page(rows: object, **meta: object) -> bytes:
    return json.dumps({"data": rows, "meta": {"page": meta}}).encode()


def row(run_id: object, **attributes: object) -> dict[str, object]:
    return {"id": run_id, "type": "runs", "attributes": attributes}


# --- a run --------------------------------------------------------------------------------------------------


def test_a_run_as_recorded() -> None:
    """Id is text, project_id a number, times have 3 or 6 digits."""
    found = decode_run(
        body(
            name="ft-gpt2", project_id=2387, status="completed", created_at="2026-05-15T02:54:52.684452Z",
            completed_at="2026-05-15T02:57:03.079Z", updated_at="2026-05-15T02:57:03Z", params=None, tags=["a:b"],
        )
    )  # fmt: skip
    assert found == Run(
        70158, "2387", "ft-gpt2", "completed",
        created_ns=1778813692684452000, completed_ns=1778813823079000000, updated_ns=1778813823000000000,
    )  # fmt: skip
    assert is_finished(found)


def test_a_run_with_nothing_but_an_id() -> None:
    """Everything else may be absent or null."""
    assert decode_run(body()) == Run(70158, "")
    nothing = dict.fromkeys(["name", "project_id", "status", "created_at", "completed_at", "updated_at", "deleted_at"])
    assert decode_run(body(**nothing)) == Run(70158, "")


@pytest.mark.parametrize("status", ["Archived", "COMPLETED", "running"])
def test_a_status_is_the_services_own_word(status: str) -> None:
    """5.3: `info` shows the same word of a run, whether its details were fetched or it is only cached."""
    run, told = details.decode_run(body(status=status))
    assert decode_run(body(status=status)).status == run.status == told.status == status


@pytest.mark.parametrize(("status", "finished"), [
    ("completed", True), ("failed", True), ("killed", True), ("FAILED", True), ("pending", False), ("running", False),
    ("unresponsive", False), ("paused", False), ("something new", False), (5, False), (None, False),
])  # fmt: skip
def test_which_status_is_an_end(status: object, finished: bool) -> None:
    """3.1: completed, failed and killed; a status that the documentation leaves out is none."""
    assert is_finished(decode_run(body(status=status))) is finished


def test_soft_deletion() -> None:
    """1.2: `deleted_at` set means gone."""
    assert decode_run(body(deleted_at="2026-05-15T02:57:03Z")).deleted
    assert not decode_run(body(deleted_at=None)).deleted
    assert not decode_run(body(deleted_at="")).deleted


@pytest.mark.parametrize("name", ["", "a/b", "x" * 5000, "\ud800", "\x00", 5, None, ["x"]])
def test_any_name(name: object) -> None:
    """Real names hold anything; what is not text is no name, and no more is kept than a file name could show."""
    assert decode_run(body(name=name)).name == (name[:255] if isinstance(name, str) else "")


@pytest.mark.parametrize(
    "run_id",
    [
        None,
        True,
        "",
        "x",
        "-1",
        -1,
        "0",
        0,
        "1.5",
        1.5,
        "9" * 30,
        str(2**63),
        2**63,
        [],
        {},
        "٣",
        " 5",
        "5\n",
        "+5",
        "5_0",
    ],
)
def test_a_run_without_a_usable_id(run_id: object) -> None:
    """An id is a whole number, as text or not."""
    with pytest.raises(UnexpectedAnswer):
        decode_run(body(run_id))
    assert decode_run(body(5)).run_id == decode_run(body("5")).run_id == decode_run(body("005")).run_id == 5
    assert decode_run(body(str(2**63 - 1))).run_id == 2**63 - 1


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"null", b'{"data":[]}', b'{"data":{"id":"1"}}', b"<html>", b"\xff", b"[" * 100_000]
)
def test_what_is_no_run(raw: bytes) -> None:
    """Anything else is UnexpectedAnswer."""
    with pytest.raises(UnexpectedAnswer):
        decode_run(raw)


# --- pages --------------------------------------------------------------------------------------------------


def test_a_page_counted_from_zero_and_one_counted_from_one() -> None:
    """Pages are documented 1-indexed and recorded 0-indexed: only `next_number` is followed."""
    rows = [row("1"), row("2")]
    assert decode_runs(page(rows, number=0, next_number=1, last_number=5)).next_number == 1
    assert decode_runs(page(rows, number=1, next_number=2, last_number=5)).next_number == 2
    assert decode_runs(page(rows, number="0", next_number="1", last_number="5")).next_number == 1


@pytest.mark.parametrize(
    "meta",
    [
        {"number": 0}, {"number": 0, "next_number": None}, {"number": 3, "next_number": 3},
        {"number": 3, "next_number": 1},
        {"number": 5, "next_number": 6, "last_number": 5}, {"number": 6, "next_number": 7, "last_number": 5}, {},
        {"number": 0, "next_number": "x"}, {"number": 0, "next_number": 1.5}, {"number": 0, "next_number": True},
    ],
)  # fmt: skip
def test_where_pages_end(meta: dict[str, object]) -> None:
    """Stop on null or absent, not greater than the current number, current at or past the last."""
    assert decode_runs(page([row("1")], **meta)).next_number is None


@pytest.mark.parametrize("rows", [[], None])
def test_an_empty_page_is_the_last(rows: object) -> None:
    """Stop on empty data, whatever `next_number` says."""
    found = decode_runs(page(rows, number=0, next_number=1, last_number=5))
    assert (found.rows, found.sent, found.number, found.next_number, found.last_number) == ([], 0, 0, None, 5)


@pytest.mark.parametrize("meta", [None, [], "x", {}, {"page": None}, {"page": []}])
def test_a_page_without_numbers(meta: object) -> None:
    """The rows count, and it is the last page."""
    found = decode_runs(json.dumps({"data": [row("7")], "meta": meta}).encode())
    assert [run.run_id for run in found.rows] == [7]
    assert (found.number, found.next_number) == (None, None)


def test_an_odd_row_of_a_page_is_left_out() -> None:
    """One odd row costs itself and nothing else."""
    rows = [row("1"), None, 5, {}, {"id": "3"}, row("x\n"), {"id": "4", "attributes": None}, row("2", name="\ud800")]
    found = decode_runs(page(rows, number=0))
    assert [run.run_id for run in found.rows] == [1, 2]
    assert found.odd == ["null", "5", "null", "'3'", "'x\\n'", "'4'"]
    assert found.sent == len(rows)


@pytest.mark.parametrize("told", [b"NaN", b"-Infinity", b"1e400", b"9" * 5000, b'"\\ud800"', b'"\xff"', b'"\x01"'])
@pytest.mark.parametrize("field", [b"duration", b"id", b"project_id", b"name", b"metric_summaries"])
def test_an_odd_value_costs_its_own_row_only(field: bytes, told: bytes) -> None:
    """Item of a preview: a value that is no JSON, or that no machine has, costs its own row at most."""
    odd = b'{"id":"2","attributes":{"%b":%b}}' % (field, told)
    if field == b"id":
        odd = b'{"id":%b,"attributes":{}}' % told
    sent = b'{"data":[{"id":"1","attributes":{}},%b,{"id":"3","attributes":{}}],"meta":{"page":{"number":0}}}' % odd
    found = decode_runs(sent)
    assert [run.run_id for run in found.rows if run.run_id != 2] == [1, 3]
    assert found.sent == 3
    assert (len(found.rows) == 2) >= (field == b"id")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'{"data":{}}', b'{"data":"x"}', b"<html>", b"5"])
def test_what_is_no_page(raw: bytes) -> None:
    """Anything else is UnexpectedAnswer: an empty /runs is never made of an answer that is none."""
    with pytest.raises(UnexpectedAnswer):
        decode_runs(raw)


# --- times --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", range(10))
def test_times_with_any_number_of_digits(digits: int) -> None:
    """RFC 3339 with 0 to 9 fractional digits; microseconds are kept."""
    fraction = "." + "123456789"[:digits] if digits else ""
    expected = int("123456789"[: min(digits, 6)].ljust(9, "0"))
    assert parse_time_ns(f"2026-05-16T09:00:00{fraction}Z") == 1778922000 * 10**9 + expected


@given(st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2300, 1, 1)))  # noqa: DTZ001 - made UTC below
def test_times_are_exact(when: datetime.datetime) -> None:
    """No float in between: every microsecond is itself, before 1970 too."""
    since = when.replace(tzinfo=datetime.UTC) - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert parse_time_ns(when.isoformat() + "Z") == since // datetime.timedelta(microseconds=1) * 1000


def test_times_with_an_offset_and_without() -> None:
    """An offset counts; without one it is UTC."""
    assert parse_time_ns("2026-05-16T11:00:00+02:00") == parse_time_ns("2026-05-16T09:00:00Z") == 1778922000 * 10**9
    assert parse_time_ns("2026-05-16T09:00:00") == 1778922000 * 10**9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        ("0001-01-01T00:00:00-14:00", -62_135_596_800 + 14 * 3600),
        # Of the years 0 and 10000, in UTC.
        ("0001-01-01T00:00:00+14:00", -62_135_596_800 - 14 * 3600),
        ("9999-12-31T23:59:59-14:00", 253_402_300_799 + 14 * 3600),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
        ("1601-01-01T00:00:00Z", -11_644_473_600),
        ("1969-12-31t23:59:59z", -1),
        ("2026-05-16t11:00:00+02:00", 1778922000),
        # Leap seconds: at the end of a day, of UTC.
        ("2016-12-31T23:59:60Z", 1483228800),
        ("2017-01-01T00:59:60+01:00", 1483228800),
        ("2016-12-31t23:59:60z", 1483228800),
    ],
)
def test_times_far_off_and_in_rare_forms(text: str, seconds: int) -> None:
    """2.3: what RFC 3339 allows is the moment that it says, whatever the year."""
    assert parse_time_ns(text) == seconds * 10**9


def test_a_fraction_before_1970_and_in_a_leap_second() -> None:
    assert parse_time_ns("1601-01-01T00:00:00.25Z") == -11_644_473_600 * 10**9 + 250_000_000
    assert parse_time_ns("2016-12-31T23:59:60.5Z") == 1483228800 * 10**9 + 500_000_000
    assert parse_time_ns("9999-12-31T23:59:59.999999Z") == 253_402_300_799 * 10**9 + 999_999_000


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "x",
        5,
        1.5,
        True,
        [],
        {},
        "2026-13-01T00:00:00Z",
        "2026-05-16T09:00:60Z",
        "\ud800",
        "0000-00-00",
        "2016-12-31T23:59:61Z",
    ],
)
def test_what_is_no_time(value: object) -> None:
    """2.3: a time is never invented; what cannot be read is None."""
    assert parse_time_ns(value) is None


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text: str) -> None:
    """No text raises."""
    assert parse_time_ns(text) is None or isinstance(parse_time_ns(text), int)


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"errors":[{"title":"Generic Error","detail":"run not found"}]}', "run not found"),
        (b'{"errors":["Forbidden"]}', "Forbidden"),
        (b'{"errors":[{"title":"Forbidden"}]}', "Forbidden"),
        (b'{"errors":["a","b","a"]}', "a; b"),
        (b'{"errors":"text"}', "text"),
        (b'{"error":"text"}', "text"),
        (b'{"message":"text"}', "text"),
        (b'["a"]', "a"),
        (b'"a"', "a"),
        (b'{"errors":[{"status":"403"}]}', "403"),
        (b'{"errors":[]}', ""),
        (b'{"errors":null}', ""),
        (b'{"errors":[null,{}]}', ""),
        (b"{}", ""),
        (b"null", ""),
        (b"", ""),
        (b" \n", ""),
        (b"\xff\xfe", ""),
        (b"{", ""),
        (b"<!DOCTYPE html><p>Forbidden", "an HTML page"),
        (b'{"errors":["line\\none\\u001b[31m"]}', "line one\x1b[31m"),
        (b'{"errors":["\\ud83d\\ude00x"]}', "\U0001f600x"),
        (b'{"errors":["\\ud800x"]}', "\ud800x"),
        (b'{"errors":[' + b"9" * 5000 + b"]}", "9" * 300),
        (b'{"errors":[NaN]}', "nan"),
    ],
)
def test_what_an_error_says(raw: bytes, said: str) -> None:
    """Objects, strings, titles only, HTML, nothing: one line, the server's own, or nothing."""
    assert error_text(raw, "application/json") == said


def test_html_is_recognised_by_its_type_too() -> None:
    """A 429 can be HTML or empty."""
    assert error_text(b"Too many requests", "text/html; charset=utf-8") == "an HTML page"
    assert error_text(b"Too many requests", "text/plain") == ""
    assert error_text(b"", "text/html") == ""


@pytest.mark.parametrize("depth", [100, 900, *range(940, 1010), 100_000])
def test_nested_errors_never_raise(depth: int) -> None:
    """Error parsing never raises, however deep the brackets go."""
    for raw in (b"[" * depth + b"]" * depth, b'{"detail":' * depth + b"1" + b"}" * depth):
        text = error_text(b'{"errors":[' + raw + b"]}", "application/json")
        assert len(text) <= 300


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["errors", "error", "detail", "title", "message", "status"]), inner, max_size=3),
    max_leaves=12,
))  # fmt: skip
def test_errors_of_any_shape_never_raise(document: object) -> None:
    """Whatever JSON an error is, it gives one line of bounded length."""
    text = error_text(json.dumps(document).encode(), "application/json")
    assert len(text) <= 300
    assert len(text.splitlines()) <= 1


def test_a_huge_error_is_cut() -> None:
    """An error's text is a sentence, not a page."""
    assert len(error_text(json.dumps({"errors": ["x" * 10_000]}).encode(), "")) == 300
