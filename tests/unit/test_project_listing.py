"""artifactfs.modellab.project_decoder: a project's listing in pieces, from bytes to rows (model-lab-api.md)."""

import itertools
import json
import tracemalloc
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.domain import IndexedFile, encode_name
from artifactfs.errors import UnexpectedAnswer
from artifactfs.modellab import project_decoder
from artifactfs.modellab.project_decoder import ProjectDecoder
from tests.project_listings import CREATED_AT, CREATED_NS, body, row


def decode(whole: bytes, *cuts: int, many_bytes: int = project_decoder._MANY_BYTES) -> list[IndexedFile]:
    """Decode a body that comes in pieces, cut at these places; so many bytes of rows are decoded at once."""
    with mock.patch.object(project_decoder, "_MANY_BYTES", many_bytes):
        decoder = ProjectDecoder()
        found: list[IndexedFile] = []
        for start, end in itertools.pairwise([0, *sorted(cuts), len(whole)]):
            found += decoder.feed(whole[start:end])
        return found + decoder.finish()


# --- rows ---------------------------------------------------------------------------------------------------


def test_the_recorded_shape() -> None:
    """Path, size and time of each row, in order; whatever else a row holds is nothing to us."""
    files = [
        row("a/f"),
        row("a/g", file_size=7, checksum={"artifact_path": "no", "deep": [{"file_size": 1}]}),
        row("h"),
    ]
    assert decode(body(files, page={"files": [row("no")]})) == [
        IndexedFile("a/f", 5, CREATED_NS),
        IndexedFile("a/g", 7, CREATED_NS),
        IndexedFile("h", 5, CREATED_NS),
    ]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"file_size": None}, IndexedFile("a/f", None, CREATED_NS)),
        ({"file_size": "7"}, IndexedFile("a/f", 7, CREATED_NS)),
        ({"file_size": 7.0}, IndexedFile("a/f", 7, CREATED_NS)),
        ({"file_size": True}, IndexedFile("a/f", None, CREATED_NS)),
        ({"file_size": [1]}, IndexedFile("a/f", None, CREATED_NS)),
        ({"file_size": {}}, IndexedFile("a/f", None, CREATED_NS)),
        ({"file_size": -1}, IndexedFile("a/f", None, CREATED_NS)), ({"created_at": None}, IndexedFile("a/f", 5)),
        ({"created_at": 5}, IndexedFile("a/f", 5)), ({"created_at": [CREATED_AT]}, IndexedFile("a/f", 5)),
        ({"artifact_path": None}, None), ({"artifact_path": 5}, None), ({"artifact_path": ["a/f"]}, None),
        ({"artifact_path": {"artifact_path": "a"}}, None), ({"artifact_path": ""}, IndexedFile("", 5, CREATED_NS)),
    ],
)  # fmt: skip
def test_odd_fields(told: dict[str, object], expected: IndexedFile | None) -> None:
    """A field of another type is absent; a row without a path is left out; its neighbours stay."""
    found = decode(body([row("before"), row() | told, row("after")]))
    assert [file.path for file in found if file.path in ("before", "after")] == ["before", "after"]
    assert found[1:-1] == ([expected] if expected is not None else [])


@pytest.mark.parametrize("name", ["file_size", "created_at", "artifact_path", "filename"])
def test_absent_fields(name: str) -> None:
    """Every field may be absent; without a path there is no row."""
    told = row()
    del told[name]
    assert len(decode(body([told]))) == (name != "artifact_path")


@pytest.mark.parametrize("odd", [None, 5, "a/f", [], {}, [row()], True, [[]]])
def test_rows_that_are_none(odd: object) -> None:
    """What is no row costs itself only."""
    assert [file.path for file in decode(body([row("x"), odd, row("y")]))] == ["x", "y"]


@pytest.mark.parametrize(
    "whole",
    [
        body(None), body([]), body({}), body("x"), body({"item": row()}), b'{"data":{"attributes":{}}}',
        b'{"data":null}', b'{"data":[]}', b"[]", b"{}", b"5", b'"x"', b"null",
        json.dumps({"data": [{"attributes": {"files": [row()]}}]}).encode(),
        json.dumps({"files": [row()]}).encode(), json.dumps({"data": {"files": [row()]}}).encode(),
        json.dumps([{"data": {"attributes": {"files": [row()]}}}]).encode(),
        json.dumps({"data": {"attributes": {"files": [[row()]]}}}).encode(),
        json.dumps({"data": {"x": 1, "attributes": {"other": [row()]}}, "attributes": {"files": [row()]}}).encode(),
    ],
)  # fmt: skip
def test_no_files(whole: bytes) -> None:
    """Rows stand in data.attributes.files and nowhere else; without any it is an empty index."""
    assert decode(whole) == []


def test_rows_may_come_late_and_twice() -> None:
    """Whatever comes before and after the rows is passed over."""
    text = b'{"meta":{"a":[1,{"b":[]}]},"data":{"attributes":{"files":[%b],"x":{},"files":[%b]}},"included":[[[]]]}'
    one, other = (json.dumps(row(path)).encode() for path in ("a", "b"))
    assert [file.path for file in decode(text % (one, other))] == ["a", "b"]


@pytest.mark.parametrize("path", ["é", "\U0001f600", "\0", "a\nb", '"\\/', "\x7f", "%2f", " "])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_names_byte_for_byte(path: str, ascii_only: bool) -> None:
    """A path is the server's, however it is written in JSON."""
    text = json.dumps({"data": {"attributes": {"files": [row(path)]}}}, ensure_ascii=ascii_only)
    assert [file.path for file in decode(text.encode())] == [path]


# --- pieces -------------------------------------------------------------------------------------------------

WHOLE = body(
    [row(f"d{i}/é\U0001f600{i}", file_size=i * 1.5 if i % 3 else str(i)) for i in range(20)], more=[{"a": [None]}]
)
COMPACT = json.dumps(json.loads(WHOLE), separators=(",", ":"), ensure_ascii=False).encode()


# By events only, all at once, and what is between.
MANY = st.sampled_from([1, 100, 1 << 30])


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20), MANY, st.sampled_from([WHOLE, COMPACT]))
def test_cut_anywhere(cuts: list[int], many_bytes: int, whole: bytes) -> None:
    """However a body is cut into pieces, in the middle of names, numbers and UTF-8, the same rows come out."""
    assert decode(whole, *cuts, many_bytes=many_bytes) == decode(WHOLE)


@pytest.mark.parametrize("name", ["},{", '"},{"', '"}, {"', "]},{[", "{}", "[", '\\"},{\\'])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n ", ":")])
def test_names_like_the_end_of_a_row(name: str, separators: tuple[str, str]) -> None:
    """What looks like the end of a row inside of a name, or of something else in a row, ends nothing."""
    files = [row(f"a/{name}{i}", filename=name, more=[{name: {}}, {"artifact_path": name}]) for i in range(20)]
    whole = json.dumps({"data": {"attributes": {name: [{}, {}], "files": files}}}, separators=separators).encode()
    for many_bytes in (1, 200, 1 << 30):
        for size in (7, 300, 1 << 20):
            found = decode(whole, *range(0, len(whole), size), many_bytes=many_bytes)
            assert [file.path for file in found] == [f"a/{name}{i}" for i in range(20)]


def test_one_odd_row_of_many() -> None:
    """A row that is none, in the middle of many, costs itself only."""
    odd: list[object] = [None, row(None), row(5), 5, [], {}, row("odd", file_size=True), row("odd", created_at=1)]
    for each in odd:
        files = [row(f"d/{i}") for i in range(200)]
        found = decode(body([*files, each, *files]), *range(0, 60_000, 8 << 10))
        assert [file for file in found if file.path != "odd"] == [
            IndexedFile(f"d/{i}", 5, CREATED_NS) for i in range(200)
        ] * 2


def test_byte_by_byte() -> None:
    """A row comes out with the piece that completes it, and not before."""
    decoder = ProjectDecoder()
    found = []
    for place in range(len(WHOLE)):
        for file in decoder.feed(WHOLE[place : place + 1]):
            found.append(file)
            assert WHOLE[place : place + 1] == b"}"
    assert decoder.finish() == []
    assert found == decode(WHOLE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["artifact_path", "file_size", "created_at", "files", "data", "attributes", "x"]), inner
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=5), st.integers(1, 50), MANY)
def test_any_json_as_rows(files: list[object], size: int, many_bytes: int) -> None:
    """Any JSON in the place of rows, NaN and numbers of any size in it, decodes as the rows that it holds."""
    try:
        whole = body(files)
    except UnicodeEncodeError:
        return
    found = decode(whole, *range(0, len(whole), size), many_bytes=many_bytes)
    rows = [each for each in files if isinstance(each, dict) and isinstance(each.get("artifact_path"), str)]
    assert [file.path for file in found] == [each["artifact_path"] for each in rows]


@given(st.binary(max_size=200), st.integers(1, 20), MANY)
def test_any_bytes(whole: bytes, size: int, many_bytes: int) -> None:
    """Anything at all decodes, or is refused."""
    for start in (b"", b'{"data":{"attributes":{"files":['):
        with_start = start + whole
        try:
            decode(with_start, *range(0, len(with_start), size), many_bytes=many_bytes)
        except UnexpectedAnswer:
            continue


# --- what is no listing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "whole",
    [
        b"", b" ", b"<!DOCTYPE html><html></html>", b"Service Unavailable", b"\xff\xfe{}", b"{'data': 1}",
        WHOLE + b"x", WHOLE + b"{}",
        b'{"data":{"attributes":{"files":[,]}}}', b'{"data":{"attributes":{"files":[NaNx]}}}',
        b'{"data":{"attributes":{"files":[01]}}}', b'{"data":{"attributes":{"files":[{"a":"\\x"}]}}}',
        b'{"data":{"attributes":{"files":[\xff]}}}',
    ],
)  # fmt: skip
def test_what_is_not_the_json_expected(whole: bytes) -> None:
    """HTML, words that are none, something behind the end: the whole of it is refused."""
    with pytest.raises(UnexpectedAnswer):
        decode(whole)


@pytest.mark.parametrize("whole", [WHOLE, body([]), b'{"data":{"attributes":{"files":[{"artifact_path":"a"}]}}}'])
def test_truncated_anywhere(whole: bytes) -> None:
    """A body that breaks off, wherever, is not taken for a whole one."""
    for many_bytes in (1, 1 << 30):
        for end in range(len(whole)):
            with pytest.raises(UnexpectedAnswer):
                decode(whole[:end], many_bytes=many_bytes)


ODD = [
    b'"artifact_path":"a/\\ud800x"', b'"artifact_path":"a/\\udc00x"', b'"artifact_path":"a/\xffx"',
    b'"artifact_path":"a/\\ud800\\ud800"', b'"artifact_path":"\xc3"',
]  # fmt: skip
NUMBERS = [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"9" * 5000, b"-" + b"9" * 5000, b"9" * 19, b"123456789" * 9]


@pytest.mark.parametrize("odd", [*ODD, *(b'"artifact_path":"odd","file_size":' + number for number in NUMBERS)])
@pytest.mark.parametrize("rows", [0, 200])
def test_an_odd_value_costs_its_own_row_only(odd: bytes, rows: int) -> None:
    """1.3: a name that is no text, or a number that is none, costs its own row, or its size, and no other.

    Such a name never comes out as another one: yajl alone would read a lone surrogate as a question mark.
    """
    good = [b'{"artifact_path":"d/%d","file_size":%d}' % (i, i) for i in range(rows + 1)]
    whole = b'{"data":{"attributes":{"files":[%b]}}}' % b",".join([*good, b"{%b}" % odd, *good])
    for size in (1, 7, 8 << 10, 1 << 20):
        found = decode(whole, *range(0, len(whole), size))
        seen = [file for file in found if all(encode_name(part) is not None for part in file.path.split("/"))]
        assert [file for file in seen if file.path != "odd"] == [IndexedFile(f"d/{i}", i) for i in range(rows + 1)] * 2
        assert [file.size_bytes for file in seen if file.path == "odd"] == ([] if odd in ODD else [None])


@pytest.mark.parametrize("size", [16 << 10, 64 << 10])
@pytest.mark.parametrize(
    "start",
    [b"[", b'{"a":', b'{"data":{"attributes":{"files":[[', b'{"data":{"attributes":{"files":[{"x":{"y":'],
)
def test_nesting_costs_no_memory(start: bytes, size: int) -> None:
    """6.4: a body of a hundred thousand opening brackets is refused, at no cost: ready-made parsers take 10 GB."""
    opener = b"[" if start.endswith(b"[") else b'{"a":'
    whole = start + opener * 100_000
    tracemalloc.start()
    with pytest.raises(UnexpectedAnswer, match="nested"):
        decode(whole, *range(0, len(whole), size))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_rows_hold_no_more_than_they_must() -> None:
    """6.4: a row of millions of values costs no memory; only what is asked for is kept of it."""
    decoder = ProjectDecoder()
    tracemalloc.start()
    decoder.feed(b'{"data":{"attributes":{"files":[{"artifact_path":"a","x":[0')
    for _ in range(25):
        decoder.feed(b",[[],{}]" * 1000)
        decoder.feed(b",0" * 4000)
    found = decoder.feed(b"]}]}}}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [IndexedFile("a")]
    assert peak < 1 << 20


def test_many_fields_in_a_row() -> None:
    """6.4: of a row with a hundred thousand fields only the known ones are kept."""
    fields = ",".join(f'"field{i}":"{"x" * 50}"' for i in range(20_000))
    text = '{"data":{"attributes":{"files":[{' + fields + ',"artifact_path":"a"}]}}}'
    assert decode(text.encode(), *range(0, len(text), 16 << 10)) == [IndexedFile("a")]


def test_a_text_without_end() -> None:
    """6.4: a name of many megabytes is refused before it is all there."""
    decoder = ProjectDecoder()
    decoder.feed(b'{"data":{"attributes":{"files":[{"artifact_path":"')
    for _ in range(64):
        assert decoder.feed(b"x" * (16 << 10)) == []
    with pytest.raises(UnexpectedAnswer, match="longer than"):
        decoder.feed(b"x" * (16 << 10))
