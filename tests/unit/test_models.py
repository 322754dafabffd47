"""artifactfs.modellab.models: every odd shape of a listing, and what becomes of it."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.domain import encode_name
from artifactfs.errors import UnexpectedAnswer
from artifactfs.modellab import models
from artifactfs.modellab.listing_dialects import size_of
from artifactfs.modellab.models import FileRow, RunListing, decode_run_listing

PREFIX = "f635c73b70594ab6bb6e212cdf87d0d5/artifacts"


def listing(files: object = None, **attributes: object) -> bytes:
    """Return the body of a listing whose `files` is this, and whatever else is named."""
    told = {"files": files, "path_in_project": PREFIX} | attributes
    return json.dumps({"data": {"id": "1", "type": "artifacts", "attributes": told}}).encode()


def rows(*files: object) -> list[FileRow]:
    return decode_run_listing(listing(list(files))).files


def test_the_recorded_shape() -> None:
    """A directory with a slash and without a size, as recorded; a file, as documented."""
    answer = decode_run_listing(
        listing([{"path": "lora_model/", "is_dir": True}, {"path": "model/w.pt", "is_dir": False, "file_size": 5}])
    )
    assert answer == RunListing([FileRow("lora_model/", True), FileRow("model/w.pt", False, 5)], PREFIX, 0)


@pytest.mark.parametrize(
    "body",
    [
        listing(None),
        listing([]),
        b'{"data":{"attributes":{"path_in_project":"%b"}}}' % PREFIX.encode(),
    ],
    ids=["null", "empty", "absent"],
)
def test_no_files_are_an_empty_listing(body: bytes) -> None:
    """Form 6: `files` absent or null is an empty listing."""
    assert decode_run_listing(body) == RunListing([], PREFIX, 0)


@pytest.mark.parametrize("prefix", [None, 5, ["x"]])
def test_a_listing_without_path_in_project(prefix: object) -> None:
    """Form 6: `path_in_project` absent (or nothing that could be a path) is a protocol error."""
    with pytest.raises(UnexpectedAnswer):
        decode_run_listing(listing([], path_in_project=prefix))
    with pytest.raises(UnexpectedAnswer, match="path_in_project"):
        decode_run_listing(b'{"data":{"attributes":{"files":[]}}}')


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"null", b"[]", b"1", b'"x"', b"{}", b'{"data":null}', b'{"data":[]}', b'{"data":{}}', b"<html>",
        b"{",
        b'{"data":{"attributes":null}}', b'{"data":{"attributes":[]}}', b'{"errors":["x"]}', b"[" * 100_000,
        b"\xff\xfe",
        b'{"data":{"attributes":{"files":"x","path_in_project":"p"}}}', b'{"data":' * 5000 + b"1" + b"}" * 5000,
        b'{"data":{"attributes":{"files":[],"path_in_project":"p"}}', b"9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_listing(body: bytes) -> None:
    """A 2xx that is not the JSON expected is UnexpectedAnswer, whatever it is; never a RecursionError or a KeyError."""
    with pytest.raises(UnexpectedAnswer):
        decode_run_listing(body)


@pytest.mark.parametrize("body", [b" " * (4 << 20), b"<html>" * 500_000, b"[" * (4 << 20), b"\xff" * (4 << 20)])
def test_what_cannot_be_a_listing_costs_no_work(body: bytes) -> None:
    """6.4: megabytes that do not begin as a listing does are refused at once."""
    with pytest.raises(UnexpectedAnswer):
        next(models.run_listing_in_steps(body))


def test_unknown_fields_are_ignored() -> None:
    """All of it is a preview: fields that the documentation leaves out change nothing."""
    assert rows({"path": "a", "is_dir": False, "file_size": 1, "checksum": None, "x": {"y": [1]}}) == [
        FileRow("a", False, 1)
    ]
    assert decode_run_listing(listing([], extra=[1])).path_in_project == PREFIX


@pytest.mark.parametrize("odd", [None, 1, "x", [], {}, {"path": None}, {"path": 5}, {"is_dir": True}])
def test_an_odd_row_costs_itself_only(odd: object) -> None:
    """A row that is none is left out and counted; its neighbours stay."""
    answer = decode_run_listing(listing([{"path": "a"}, odd, {"path": "b"}]))
    assert [row.path for row in answer.files] == ["a", "b"]
    assert answer.odd_rows == 1


@pytest.mark.parametrize(
    ("told", "size"),
    [
        (0, 0), (5, 5), (2**63 - 1, 2**63 - 1), ("5", 5), (" 5 ", 5), (5.0, 5), (None, None), ("", None), ("x", None),
        ("-1", None), (-1, None), (5.5, None), (2**63, None), (10**30, None), (1e300, None), (True, None),
        (False, None),
        ([5], None), ({}, None), ("5.0", None), ("٣", None),
    ],
)  # fmt: skip
def test_sizes(told: object, size: int | None) -> None:
    """Form 5: a size is a number or numeric text; null, negative, huge, fractional or nonsense is unknown."""
    (row,) = rows({"path": "a", "is_dir": False, "file_size": told})
    assert size_of(row) == size
    # The same where another row of the answer makes it go the slow way.
    slow, _ = rows({"path": "a", "is_dir": False, "file_size": told}, {"path": "b", "is_dir": []})
    assert size_of(slow) == size


@pytest.mark.parametrize(
    "told",
    ["NaN", "Infinity", "-Infinity", "1e999", "1e400", "-1e400", "9" * 400, "9" * 5000, "-" + "9" * 5000,
     "1e" + "9" * 99, "-1", "1.5", str(2**63), str(2**64), '"12abc"', '""', '"NaN"', "true", "[NaN]", '{"a":Infinity}'],
)  # fmt: skip
@pytest.mark.parametrize("field", ["file_size", "checksum"])
def test_numbers_that_are_not_json(told: str, field: str) -> None:
    """Form 5: numbers that only some encoders write, or that no machine has, are unknown sizes: the rows stay, all."""
    body = (
        b'{"data":{"attributes":{"files":[{"path":"a","file_size":1},{"path":"b","%b":%b},{"path":"NaN","file_size":2}],'
        b'"path_in_project":"p"}}}' % (field.encode(), told.encode())
    )
    answer = decode_run_listing(body)
    assert [(row.path, size_of(row)) for row in answer.files] == [("a", 1), ("b", None), ("NaN", 2)]
    assert answer.odd_rows == 0


def test_a_long_listing_with_one_odd_row_lets_others_run() -> None:
    """5.1: what makes it long is done in steps."""
    files: list[object] = [{"path": f"f{i}", "file_size": i} for i in range(20_000)]
    steps = models.run_listing_in_steps(listing([*files, {"path": "odd", "file_size": math.nan}]))
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            answer: RunListing = done.value
            break
        count += 1
    assert count > 10
    assert len(answer.files) == 20_001


@pytest.mark.parametrize(
    ("told", "is_dir"),
    [(True, True), (False, False), (None, False), ("true", True), ("false", False), (1, True), (0, False)],
)
def test_the_flag_for_directories(told: object, is_dir: bool) -> None:
    """Form 4: `is_dir` may be absent or null; what is not a boolean does not lose the row."""
    (row,) = rows({"path": "a", "is_dir": told})
    assert bool(row.is_dir) is is_dir
    (absent,) = rows({"path": "a"})
    assert absent.is_dir is None


def test_a_lone_surrogate_costs_its_own_row_only() -> None:
    """1.3: JSON can escape half a surrogate pair; the neighbours are read, and the row is there to be counted.

    Its name has a NUL, which nothing can hold: it is not taken for another name.
    """
    body = (
        rb'{"data":{"attributes":{"files":[{"path":"a","is_dir":false,"file_size":7},{"path":"x\ud800","is_dir":true},'
        rb'{"path":"\ud83d\ude00/"}],"path_in_project":"p"}}}'
    )
    assert decode_run_listing(body).files == [FileRow("a", False, 7), FileRow("x\0", True), FileRow("\U0001f600/")]


def test_invalid_utf8_costs_its_own_row_only() -> None:
    """1.3: bytes that are not UTF-8 become a name that nothing can hold; the neighbours are read."""
    body = (
        b'{"data":{"attributes":{"files":[{"path":"a"},{"path":"x\xff"},{"path":"\xc3\xa9"}],"path_in_project":"p"}}}'
    )
    first, bad, last = decode_run_listing(body).files
    assert (first.path, last.path) == ("a", "é")
    assert encode_name(bad.path) is None


def test_names_are_the_servers_byte_for_byte() -> None:
    """1.4: composed and decomposed, percent signs and escapes stay what they are."""
    names = ["é", "e\u0301", "100%25.webp", "%2e%2e", "a+b&c#d?e", "A", "a", "\x01", "a\nb", "\u202e"]
    assert [row.path for row in rows(*({"path": name} for name in names))] == names


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "attributes", "files", "path", "is_dir", "file_size", "path_in_project", "id"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_json)
def test_any_json_decodes_or_is_unexpected(document: object) -> None:
    """No JSON raises anything but UnexpectedAnswer from any decoder, and every row that is let in has a path."""
    body = json.dumps(document).encode()
    for decode in (models.decode_run_listing, models.decode_run, models.decode_runs):
        try:
            answer = decode(body)
        except UnexpectedAnswer:
            continue
        if isinstance(answer, RunListing):
            assert all(isinstance(row.path, str) for row in answer.files)


@given(_json)
def test_any_json_as_files(files: object) -> None:
    """The same inside a listing that is otherwise well formed: rows in, plus odd rows, are the rows sent."""
    try:
        answer = decode_run_listing(listing(files))
    except UnexpectedAnswer:
        return
    assert len(answer.files) + answer.odd_rows == (len(files) if isinstance(files, list) else 0)
    assert all(size is None or 0 <= size < 2**63 for size in map(size_of, answer.files))


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_unexpected(body: bytes) -> None:
    """No bytes raise anything but UnexpectedAnswer, and an error body never raises at all."""
    assert isinstance(models.error_text(body, "application/json"), str)
    with pytest.raises(UnexpectedAnswer):
        decode_run_listing(body)  # 80 bytes at random are no listing
