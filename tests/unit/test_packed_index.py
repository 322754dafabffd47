"""artifactfs.tree.walk.packed_index: a project's flat listing; and `project_index.agrees` (semantics.md 1.3 to 1.6)."""

import tracemalloc
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from artifactfs import errors
from artifactfs.domain import Children, IndexedFile, ListedChild, encode_name
from artifactfs.modellab.models import ProjectFile
from artifactfs.modellab.project_decoder import indexed_file
from artifactfs.tree import listing
from artifactfs.tree.size_changes import DirectorySizes
from artifactfs.tree.walk.index_validation import agrees
from artifactfs.tree.walk.packed_index import PackedIndex
from tests import fakes
from tests.fakes import CREATED_AT, CREATED_NS


def packed(*rows: ProjectFile | str) -> PackedIndex:
    files = PackedIndex()
    files.add([IndexedFile(row, 1) if isinstance(row, str) else indexed_file(row) for row in rows])
    return files


async def names(files: PackedIndex, path: str = "") -> dict[str, int | None] | None:
    """Return what is in a directory: size by name, None for a directory or an unknown size."""
    found = await files.directory(path)
    return None if found is None else {name.decode(): child.size_bytes for name, child in found.items()}


async def everything(files: PackedIndex) -> dict[str, ListedChild]:
    """Return all that is in an index, by path."""
    found: dict[str, ListedChild] = {}
    for path in ["", *await files.below("")]:
        children = await files.directory(path)
        assert children or not path
        found |= {f"{path}/{child.name.decode()}".lstrip("/"): child for child in (children or {}).values()}
    return found


# --- what comes out -----------------------------------------------------------------------------------------


async def test_files_by_directory() -> None:
    """1.6: files stand in their directories, and these in theirs; each directory is there once."""
    files = packed("a/b/f", "a/b/g", "a/c/f", "top", "a/h")
    assert await names(files) == {"a": None, "top": 1}
    assert await names(files, "a") == {"b": None, "c": None, "h": 1}
    assert await names(files, "a/b") == {"f": 1, "g": 1}
    assert sorted(await files.below("a")) == ["a/b", "a/c"]
    assert sorted(await files.below("")) == ["a", "a/b", "a/c"]
    assert files.count == 5
    assert "a/c" in files
    assert "a/h" not in files


@pytest.mark.parametrize("path", ["nothing", "a/nothing", "a/f", "a/", "/a", "/"])
async def test_what_is_no_directory(path: str) -> None:
    """1.6: of a directory that it lacks, an index says nothing; that is not the same as empty."""
    files = packed("a/f")
    assert await files.directory(path) is None
    assert await files.below(path) == []
    assert await packed().directory("") is None


@pytest.mark.parametrize(
    "path",
    ["", "/", "./", "/..", "/a//f", "a//f", "a/./f", "a/../f", "../f", ".", "..", "a/..", "a/\0", "a\0b/f",
     "a/" + "x" * 256, "x" * 256 + "/f", "é" * 128, "a/\ud800", "\udfff/f", "a/b/", "a/", "/".join(["ab"] * 1400)],
)  # fmt: skip
async def test_what_no_tree_can_hold(path: str) -> None:
    """1.3: such a row is left out, makes no directories, and costs the others nothing."""
    files = packed("a/before", path, "a/after")
    assert list(await everything(files)) == ["a", "a/before", "a/after"]
    assert files.count == 2


@pytest.mark.parametrize(
    "name", ["x" * 255, "é" * 127, " ", "\n", "%2e%2e", "...", "cafe\u0301", "\U0001f600", "\\", "~"]
)
async def test_odd_names_that_can_be(name: str) -> None:
    """1.4: whatever else a name holds is kept byte for byte, in files and directories."""
    files = packed(f"{name}/{name}")
    assert await names(files) == {name: None}
    assert await names(files, name) == {name: 1}


@pytest.mark.parametrize("rows", [["x", "x/f"], ["x/f", "x"]])
async def test_of_file_and_directory_the_directory(rows: list[str]) -> None:
    """1.5: a name that is both is the directory, in either order."""
    found = await packed(*rows).directory("")
    assert found == {b"x": ListedChild(b"x", True)}


async def test_of_duplicates_the_first() -> None:
    """1.5: of two rows for one file the first counts, with its size and time."""
    found = await packed(ProjectFile("f", 1, CREATED_AT), ProjectFile("f", 2, "")).directory("")
    assert found == {b"f": ListedChild(b"f", False, 1, CREATED_NS)}


@pytest.mark.parametrize("lead", ["/", "./", "//", "/./", "././"])
async def test_what_stands_in_front_is_no_part_of_a_name(lead: str) -> None:
    """1.3: a path that begins with `/` or `./` is the path behind it."""
    files = packed(f"{lead}a/f", "a/g", f"{lead}top")
    assert await names(files) == {"a": None, "top": 1}
    assert await names(files, "a") == {"f": 1, "g": 1}


async def test_a_marker_is_no_file() -> None:
    """1.3: a row that ends in a slash marks a directory; empty directories are not in an index."""
    assert await packed("a/b/", "a/b/f").directory("a/b") == {b"f": ListedChild(b"f", False, 1)}
    assert await packed("a/b/").directory("a") is None


@pytest.mark.parametrize(
    ("sent", "size"),
    [(0, 0), (5, 5), ("5", 5), (" 7 ", 7), (5.0, 5), (2**63 - 1, 2**63 - 1), (None, None), (-1, None), ("x", None),
     (2**63, None), (5.5, None), (float("inf"), None), (1e300, None), ("", None), ("\u0665", None), ("1" * 30, None)],
)  # fmt: skip
async def test_sizes(sent: int | float | str | None, size: int | None) -> None:
    """2.2: a size in any form; what is none is unknown."""
    assert await names(packed(ProjectFile("f", sent, CREATED_AT))) == {"f": size}


@pytest.mark.parametrize(
    ("sent", "created_ns"),
    [(CREATED_AT, CREATED_NS), ("2026-05-16T08:30:00.5Z", CREATED_NS + 500_000_000),
     ("2026-05-16T08:30:00.123456Z", CREATED_NS + 123_456_000), ("2026-05-16T10:30:00+02:00", CREATED_NS),
     ("2026-05-16T08:30:00", CREATED_NS), ("1970-01-01T00:00:00Z", 0), ("1969-12-31T23:59:59Z", -(10**9)), ("", None),
     ("yesterday", None), ("2026-13-01T00:00:00Z", None), ("\0" * 3, None), (CREATED_AT + "\0", None),
     ("\ud800", None), ("é", None), ("2" * 1000, None), ("\u0662\u0660\u0662\u0666-05-16T08:30:00Z", None)],
)  # fmt: skip
async def test_times(sent: str, created_ns: int | None) -> None:
    """2.3: a time in any form; what is none is unknown, and never invented."""
    found = await packed(ProjectFile("f", 1, sent), "g").directory("")
    assert found is not None
    assert found[b"f"].created_ns == created_ns
    assert list(found) == [b"f", b"g"]


PARTS = st.text(st.characters() | st.sampled_from("/.a\0\ud800"), max_size=4)
ROWS = st.builds(
    ProjectFile,
    st.lists(PARTS | st.sampled_from(["a", "b", "", "..", "x" * 256]), min_size=1, max_size=4).map("/".join),
    st.none() | st.integers() | st.floats() | st.text(max_size=3),
    st.sampled_from([CREATED_AT, "", "x", "\0"]) | st.text(max_size=5),
)


@given(st.lists(st.lists(ROWS, max_size=10), max_size=5))
def test_what_is_added_comes_out_and_nothing_else(batches: list[list[ProjectFile]]) -> None:
    """1.3, 1.5, 1.6: an index is exactly its rows as a tree: nothing more, nothing less, whatever they hold."""
    files = PackedIndex()
    for batch in batches:
        files.add(map(indexed_file, batch))
    expected: dict[str, bool] = {}
    for row in (row for batch in batches for row in batch):
        path = row.path
        while path.startswith(("/", "./")):
            path = path.partition("/")[2]
        parts = path.split("/")
        if all(encode_name(part) is not None for part in parts):
            expected |= {"/".join(parts[:depth]): True for depth in range(1, len(parts))}
            expected.setdefault(path, False)
    assert {path: child.is_dir for path, child in trio.run(everything, files).items()} == expected


@given(st.lists(ROWS, max_size=10))
def test_a_listing_that_is_made_at_once(rows: list[ProjectFile]) -> None:
    """1.5, 2.1 to 2.4: where every file has a time, it is what is made of the directory's children."""
    files, site = PackedIndex(), b"site"
    files.add(map(indexed_file, rows))

    async def compare() -> None:
        for path in ["", *await files.below("")]:
            children, found = await files.directory(path), files.rows(path)
            assert (found is None) is (children is None)
            if found is None or children is None:
                continue
            run = fakes.run(created_ns=fakes.NOW_NS)
            made = listing.build_at_once(found, run, path, site)
            built = await listing.build(children, run, path, None, site, fakes.NOW_NS, DirectorySizes())
            if made is not None:
                assert len(made) == listing.count(built)
                assert made.by_name == built.by_name
            elif all(child.is_dir or None not in (child.size_bytes, child.created_ns) for child in children.values()):
                # A name that is there twice.
                assert found.files.count(b"\0") // 3 + len(found.directories) > len(children)

    trio.run(compare)


# --- what it costs ------------------------------------------------------------------------------------------


def test_memory_of_a_file() -> None:
    """6.4: a file takes about 50 bytes, and what it counts against the bound is about what it takes."""
    prefix = "0123456789abcdef0123456789abcdef/artifacts"
    tracemalloc.start()
    files = PackedIndex()
    for i in range(300):
        paths = [f"{prefix}/g{i // 32}/d{i:05d}/f{j:05d}.json" for j in range(50)]
        files.add(IndexedFile(path, 500 + j, CREATED_NS) for j, path in enumerate(paths))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert files.count == 15_000
    assert taken / files.count < 60
    assert 0.8 < taken / files.size_bytes < 1.25


def test_what_is_left_out_takes_nothing() -> None:
    """6.4: rows that no tree can hold do not grow an index."""
    files = packed(*(f"{'x' * 300}/{i}" for i in range(100)), *(f"../{i}" for i in range(100)))
    assert (files.count, files.size_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("row", "bound_kib", "more_kib"),
    [
        # One row of 2,000 directories more.
        (lambda i: IndexedFile(f"{i:06d}/" + "a/" * 2000 + "f", 1), 6 << 10, 18 << 10),
        (lambda i: IndexedFile(f"{i:06d}\U0001f600/" + "b/" * 2000 + "f", 1), 6 << 10, 18 << 10),
        (lambda i: IndexedFile(f"d{i}/f", 1), 512, 256),
        (lambda i: IndexedFile(f"{i:0250d}", 2**62, -(10**18)), 512, 256),
        (lambda _: IndexedFile("f", 1, CREATED_NS), 512, 256),
    ],
)
def test_a_hostile_index_is_given_up(row: Callable[[int], IndexedFile], bound_kib: int, more_kib: int) -> None:
    """6.4: past a bound of about bytes an index is refused, and never took much more than that."""
    files = PackedIndex(bound_kib << 10)
    tracemalloc.start()

    def add_all() -> None:
        for i in range(1_000_000):
            files.add([row(i)])

    with pytest.raises(errors.AnswerTooLarge):
        add_all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (bound_kib + more_kib) << 10


async def test_a_large_directory_lets_others_run() -> None:
    """5.1: 20,000 files of a directory, or 20,000 directories, give way to other tasks several times."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    files = packed(*(f"flat/f{i}" for i in range(20_000)), *(f"deep/d{i}/f" for i in range(20_000)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for work in (files.directory("flat"), files.directory("deep"), files.below("deep")):
            before = turns
            assert len(await work or ()) == 20_000
            assert turns >= before + 5
        flat = await files.directory("flat")
        before = turns
        assert await agrees(flat or {}, flat)
        assert turns >= before + 10
        nursery.cancel_scope.cancel()


# --- agreement ----------------------------------------------------------------------------------------------

FILE, DIRECTORY = ListedChild(b"x", False, 5, CREATED_NS), ListedChild(b"x", True)


@pytest.mark.parametrize(
    ("own", "in_index", "same"),
    [
        (None, None, True), (FILE, FILE, True), (DIRECTORY, DIRECTORY, True),
        # An empty directory is in no index; a size may be missing in either; a time is nowhere else.
        (DIRECTORY, None, True), (ListedChild(b"x", False, None), FILE, True), (FILE, ListedChild(b"x", False, None),
        False), (ListedChild(b"x", False, 5), FILE, True),
        (FILE, None, False), (None, FILE, False), (None, DIRECTORY, False), (FILE, DIRECTORY, False),
        (DIRECTORY, FILE, False), (ListedChild(b"x", False, 6), FILE, False), (ListedChild(b"x", False, 0), FILE,
        False),
    ],
)  # fmt: skip
async def test_agreement(own: ListedChild | None, in_index: ListedChild | None, same: bool) -> None:
    """1.6: names, kinds and known sizes must be the same in both, except for empty directories."""
    both = ListedChild(b"both", False, 1)
    ours, theirs = (Children({c.name: c for c in (one, both) if c is not None}).by_name for one in (own, in_index))
    assert await agrees(ours, theirs) is same


async def test_agreement_with_no_such_directory() -> None:
    """1.6: a directory that the index lacks agrees as long as it holds nothing but directories."""
    assert await agrees({}, None)
    assert await agrees({b"x": DIRECTORY}, None)
    assert not await agrees({b"x": FILE}, None)
