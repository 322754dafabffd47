"""artifactfs.modellab.listing_dialects: every form of "What the documentation leaves open" 1 to 9, one by one.

The same by random trees and all combinations: test_listing_dialects_property.py.
"""

from collections.abc import Callable

import pytest

from artifactfs.domain import Children, ListedChild, below_prefix, encode_name
from artifactfs.modellab.listing_dialects import ListingKind, PathBase, normalize, size_of
from artifactfs.modellab.models import FileRow, finish


def d(path: str, *, flag: bool = True) -> FileRow:
    """A directory's row, flagged as one by default."""
    return FileRow(path, flag)


def f(path: str, size: int | None = 5) -> FileRow:
    return FileRow(path, False, size)


def names(children: Children) -> list[bytes]:
    return list(children.by_name)


def sort(
    directory: str, *rows: FileRow, sent_slash: bool = True, known: PathBase | None = None
) -> tuple[ListingKind, Children, PathBase | None]:
    found = finish(normalize(rows, directory, sent_slash=sent_slash, known=known))
    return found.kind, found.children, found.evidence.base


# --- 1: slash in `path` -------------------------------------------------------------------------------------


def test_a_raw_prefix_answers_with_itself_and_its_namesakes() -> None:
    """Form 1: `dir` on raw S3 gives `dir/`, `dirx/`, `dir.txt` and no children: an echo, to be asked again."""
    verdict, children, base = sort("dir", d("dir/"), d("dirx/"), f("dir.txt"), sent_slash=False)
    assert (verdict, names(children), base) == (ListingKind.ECHO, [], None)
    verdict, children, _ = sort("dir", f("dir.txt"), sent_slash=False)
    assert (verdict, names(children)) == (ListingKind.ECHO, [])


def test_an_empty_answer_is_not_an_echo() -> None:
    """Form 1: nothing at all may be an empty directory, or the wrong form."""
    assert sort("dir")[0] is ListingKind.EMPTY
    assert sort("")[0] is ListingKind.EMPTY


def test_namesakes_beside_children_are_dropped() -> None:
    """Form 1: a recursive prefix search without the slash gives children and namesakes; the namesakes go."""
    verdict, children, base = sort("dir", f("dir/a"), d("dirx/"), f("dirx/b"), f("dir.txt"), sent_slash=False)
    assert (verdict, names(children), base) == (ListingKind.CHILDREN, [b"a"], PathBase.ROOT)


# --- 2: base of the paths -----------------------------------------------------------------------------------


def test_paths_from_the_root() -> None:
    """Form 2: documented: relative to the run's root."""
    _, children, base = sort("a/b", f("a/b/x"), d("a/b/c/"))
    assert (names(children), base) == ([b"x", b"c"], PathBase.ROOT)


def test_paths_from_the_directory() -> None:
    """Form 2: an MLflow proxy returns names relative to the queried directory."""
    _, children, base = sort("a/b", f("x"), d("c/"))
    assert (names(children), base) == ([b"x", b"c"], PathBase.DIRECTORY)


def test_at_the_root_both_are_the_same() -> None:
    """Form 2: the root's listing says nothing of the base."""
    _, children, base = sort("", f("x"), d("c/"))
    assert (names(children), base) == ([b"x", b"c"], None)


def test_a_child_that_is_named_like_its_directory() -> None:
    """Form 2: relative to `dir`, a file `dir` with bytes in it, or `dirx` after `dir/` was asked for, is a child."""
    _, children, base = sort("dir", f("dir", 5))
    assert (names(children), base) == ([b"dir"], PathBase.DIRECTORY)
    _, children, base = sort("dir", f("dirx", 5), sent_slash=True)
    assert (names(children), base) == ([b"dirx"], PathBase.DIRECTORY)
    _, children, base = sort("dir", d("dir/"), f("other"), known=PathBase.DIRECTORY)
    assert (names(children), base) == ([b"dir", b"other"], PathBase.DIRECTORY)


def test_a_nested_directory_that_repeats_its_path() -> None:
    """Form 2: relative to `data`, once that is known, `data/x` is a child of `data/data`."""
    _, children, _ = sort("data", d("data/"), f("data/x"), f("y"), known=PathBase.DIRECTORY)
    assert [(child.name, child.is_dir) for child in children.by_name.values()] == [(b"data", True), (b"y", False)]


def test_what_is_known_of_the_server_decides_where_the_answer_does_not() -> None:
    """Form 2: an answer without evidence is read as this server is known to write."""
    for known, expected in ((PathBase.ROOT, []), (PathBase.DIRECTORY, [b"dirx"]), (None, [])):
        _, children, base = sort("dir", f("dirx"), sent_slash=False, known=known)
        assert (names(children), base) == (expected, None)


def test_evidence_beats_what_was_known() -> None:
    """Form 2: a wrong guess heals at the next answer that says better."""
    assert sort("a/b", f("a/b/x"), known=PathBase.DIRECTORY)[2] is PathBase.ROOT
    assert sort("a/b", f("x"), known=PathBase.ROOT)[2] is PathBase.DIRECTORY


def test_names_that_nothing_can_hold_are_no_evidence() -> None:
    """1.3: one hostile row does not turn the reading of a whole server around."""
    for path in ("../../etc/passwd", "..", "/..", "./../x", "x\0y", "\ud800", "n" * 256):
        _, children, base = sort("dir", f(path), known=PathBase.ROOT)
        assert (names(children), base) == ([], None), path


# --- 3: depth -----------------------------------------------------------------------------------------------


def test_a_recursive_answer_makes_the_directories_in_between() -> None:
    """Form 3: `model/weights.pt` in a root listing, as the documentation's example has it."""
    _, children, _ = sort("", f("model/weights.pt"), f("model/a/b/c"), f("x"))
    assert list(children.by_name.values()) == [ListedChild(b"model", True), ListedChild(b"x", False, 5)]


def test_a_recursive_answer_with_rows_for_directories() -> None:
    """Form 3: such rows and what is below them are one child."""
    _, children, _ = sort("a", d("a/b/"), d("a/b/c/"), f("a/b/c/d"), f("a/e"))
    assert names(children) == [b"b", b"e"]
    assert not children.shadowed


# --- 4: what a directory is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [d("x"), d("x/"), d("x/", flag=False), FileRow("x/"), FileRow("x//", False, 0)])
def test_a_directory_by_flag_or_slash(row: FileRow) -> None:
    """Form 4: `is_dir` true or a slash at the end; a directory has no size."""
    _, children, _ = sort("", row)
    (child,) = children.by_name.values()
    assert (child.name, child.is_dir, child.size_bytes) == (b"x", True, None)
    assert finish(normalize([row], "")).evidence.slash is row.path.endswith("/")


@pytest.mark.parametrize("size", [0, None])
@pytest.mark.parametrize(
    ("directory", "marker"), [("a/dir", "a/dir/"), ("a/dir", "a/dir"), ("dir", "dir/"), ("dir", "dir"), ("a/dir", "./")]
)
def test_markers_are_skipped(directory: str, marker: str, size: int | None) -> None:
    """Form 4: a zero-byte entry that ends in a slash, or names the queried directory itself, is no child."""
    verdict, children, _ = sort(directory, f(marker, size), known=PathBase.ROOT)
    assert (verdict is not ListingKind.CHILDREN, names(children)) == (True, [])
    _, children, _ = sort(directory, f(marker, size), f(f"{directory}/x") if marker != "./" else f("x"))
    assert names(children) == [b"x"]


def test_markers_of_a_server_that_answers_from_the_directory() -> None:
    """Form 4: the same where paths are relative to the directory: the directory's own name with a slash."""
    _, children, _ = sort("a/dir", f("dir/", 0), f("x"))
    assert names(children) == [b"x"]
    # Flagged as a directory it is one: a directory `dir` in `dir`.
    _, children, _ = sort("a/dir", d("dir/"), f("x"))
    assert names(children) == [b"dir", b"x"]


@pytest.mark.parametrize("rows", [(f("x"), d("x/")), (d("x/"), f("x")), (f("x"), f("x/y")), (f("x/y"), f("x"))])
def test_a_name_that_is_both_is_a_directory(rows: tuple[FileRow, ...]) -> None:
    """1.5: the directory is shown, and the file is logged."""
    _, children, _ = sort("", *rows)
    assert [(child.name, child.is_dir) for child in children.by_name.values()] == [(b"x", True)]
    assert children.shadowed == [b"x"]


def test_of_duplicates_the_first_counts() -> None:
    """1.5: the first of two files, and the server's order."""
    _, children, _ = sort("", f("b", 1), f("a", 2), f("b", 3), d("c"), d("c/"))
    assert [(c.name, c.size_bytes) for c in children.by_name.values()] == [(b"b", 1), (b"a", 2), (b"c", None)]
    assert not children.shadowed


# --- 5: sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "size"),
    [(0, 0), (7, 7), ("7", 7), (None, None), (7.0, 7), (7.5, None), (-1, None), ("x", None), (2**63, None)],
)
def test_sizes(told: int | float | str | None, size: int | None) -> None:
    """Form 5: numbers and numeric text; anything else is unknown, never zero."""
    assert size_of(FileRow("a", False, told)) == size
    _, children, _ = sort("", FileRow("a", False, told))
    assert children.by_name[b"a"].size_bytes == size


# --- 7: `path` names a file, or nothing ---------------------------------------------------------------------


def test_a_listing_of_a_file_is_not_a_directory_with_that_file() -> None:
    """Form 7: where a directory has become a file, the answer may be that file; a known root base is not given up."""
    verdict, children, base = sort("dir", f("dir", 10), known=PathBase.ROOT)
    assert (verdict, names(children), base) == (ListingKind.ECHO, [], None)
    verdict, children, base = sort("a/dir", f("a/dir", 10), known=PathBase.ROOT)
    assert (verdict, names(children), base) == (ListingKind.ECHO, [], None)


# --- 9 and 1.3: names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["step%1%.webp", "a#b", "a+b", "a&b?c=d", "a b", " ", "é", "e\u0301", "%2F", "...", "\n", "-"]
)
def test_odd_names_are_names(name: str) -> None:
    """1.4, form 9: byte for byte in UTF-8, without decoding or normalising anything."""
    _, children, _ = sort("d", f(f"d/{name}"))
    assert names(children) == [name.encode()]
    assert children.bad_names == 0


@pytest.mark.parametrize(
    "path",
    [
        "..",
        ".",
        "../x",
        "/..",
        "/.",
        "./../x",
        "x/../y",
        "x/./y",
        "a//b",
        "/a//b",
        ".//a/./b",
        "x\0",
        "\ud800",
        "x/\udfff/y",
        "n" * 256,
        "é" * 128,
        "n" * 256 + "/x",
    ],
)
def test_names_that_no_filesystem_can_hold(path: str) -> None:
    """1.3: left out and counted; nothing that a server says names a path outside the run."""
    _, children, _ = sort("", f("a"), f(path), f("b"))
    assert names(children) == [b"a", b"b"]
    assert children.bad_names == 1


def test_bad_names_below_the_directory() -> None:
    """1.3: the same below `d/`, where a name may not climb either."""
    _, children, _ = sort("d", f("d/.."), f("d/../../x"), f("d//x"), f("d/ok"))
    assert (names(children), children.bad_names) == ([b"ok"], 3)


LEADS = ["/", "./", "//", "/./", "././", ".//", "/././/"]


@pytest.mark.parametrize("lead", LEADS)
def test_what_stands_in_front_is_no_part_of_a_name(lead: str) -> None:
    """1.3: `/` and `./` in front, in any mixture, are stripped, whatever the paths are relative to, on any level."""
    rows = [f(f"{lead}a"), d(f"{lead}d/"), d(f"{lead}e"), f(f"{lead}g/h"), f(f"{lead}.hidden"), d(f"{lead}..x/")]
    for directory in ("", "dir", "dir/sub"):
        _, children, base = sort(directory, *rows)
        assert names(children) == [b"a", b"d", b"e", b"g", b".hidden", b"..x"]
        assert (base, children.bad_names) == (PathBase.DIRECTORY if directory else None, 0)
    _, children, base = sort(
        "dir/sub", *(FileRow(f"{lead}dir/sub/{row.path[len(lead) :]}", row.is_dir) for row in rows)
    )
    assert names(children) == [b"a", b"d", b"e", b"g", b".hidden", b"..x"]
    assert base is PathBase.ROOT
    assert [child.is_dir for child in children.by_name.values()] == [False, True, True, True, False, True]


@pytest.mark.parametrize("path", LEADS)
@pytest.mark.parametrize("row", [d, f])
def test_what_stands_in_front_alone_is_the_directory_itself(path: str, row: Callable[[str], FileRow]) -> None:
    """1.3: a row that is nothing else names the directory that was asked for, and is none of its children."""
    for directory in ("", "dir"):
        _, children, _ = sort(directory, row(path), f("x"))
        assert (names(children), children.bad_names) == ([b"x"], 0)


@pytest.mark.parametrize("lead", LEADS)
def test_an_echo_with_something_in_front(lead: str) -> None:
    """Form 1: the prefix that was asked for is recognised with `/` or `./` in front, and so are its namesakes."""
    verdict, children, base = sort("dir", d(f"{lead}dir/"), d(f"{lead}dirx/"), f(f"{lead}dir.txt"), sent_slash=False)
    assert (verdict, names(children), base) == (ListingKind.ECHO, [], None)
    _, children, _ = sort("dir", f(f"{lead}dir/", 0), f(f"{lead}dir/x"))
    assert names(children) == [b"x"]


def test_with_and_without_something_in_front_it_is_one_name() -> None:
    """1.5: `/a` and `a` are duplicates: the first counts."""
    _, children, _ = sort("", f("/a", 1), f("a", 2), f("./a", 3))
    assert [(child.name, child.size_bytes) for child in children.by_name.values()] == [(b"a", 1)]


@pytest.mark.parametrize(
    ("prefix", "path", "joined"),
    [
        ("p/artifacts", "a/b", "p/artifacts/a/b"),
        ("p/artifacts/", "a/b", "p/artifacts/a/b"),
        ("/p", "a", "/p/a"),
        ("p", "", "p"),
        (".", "a", "./a"),
        *((root, path, path) for root in ("", "/", "//") for path in ("", "a/b")),
    ],
)
def test_paths_in_the_project(prefix: str, path: str, joined: str) -> None:
    """1.3: an empty `path_in_project`, or one of slashes alone, puts no slash in front; any other is opaque."""
    assert below_prefix(prefix, path) == joined


@pytest.mark.parametrize(("name", "ok"), [("n" * 255, True), ("n" * 256, False), ("é" * 127, True), ("é" * 128, False)])
def test_the_longest_name(name: str, ok: bool) -> None:
    """1.3: 255 bytes of UTF-8, not characters."""
    assert (encode_name(name) is not None) is ok


@pytest.mark.parametrize("path", ["", "/", "//"])
def test_rows_without_a_name(path: str) -> None:
    """The queried directory itself is not a name of its own."""
    verdict, children, _ = sort("", f(path))
    assert (verdict, names(children), children.bad_names) == (ListingKind.EMPTY, [], 0)


def test_an_answer_of_bad_names_only_is_an_answer() -> None:
    """1.3: it is not taken for the wrong form and asked for again."""
    assert sort("", f(".."))[0] is ListingKind.CHILDREN


# --- long answers -------------------------------------------------------------------------------------------


def test_a_long_answer_is_sorted_in_pieces() -> None:
    """A long answer does not hold up the loop: no 2,000 rows are looked at without a turn for others."""
    rows = [d("dir/"), f("dir/a"), f("dirx"), f("dir/b/c"), f("dir/a", 9), f("dir/..")]
    whole = sort("dir", *rows)
    assert names(whole[1]) == [b"a", b"b"]
    long = rows + [f("dirx")] * 10_000
    assert len(list(normalize(long, "dir"))) == 2 * 5
    assert sort("dir", *long) == whole


def test_children_do_not_share_their_lists() -> None:
    """Two answers are two: what was shadowed in one is not in the other."""
    sort("", f("x"), d("x/"))
    assert sort("", f("x"))[1].shadowed == []
    assert Children({}).shadowed is not Children({}).shadowed


def test_a_path_of_megabytes() -> None:
    """6.4: what it begins with is there; it is not looked at name by name."""
    rows = [FileRow(path="a/" * 6_000_000 + "x", is_dir=False), FileRow(path="b", is_dir=False)]
    for directory in ("", "c"):
        listing = finish(normalize(rows, directory, known=PathBase.DIRECTORY))
        assert list(listing.children.by_name) == [b"a", b"b"]
