"""The emulator's model: trees, their changes, and made-up content."""

import hashlib
import json
import struct
import zlib

import pytest

from artifactfs.emulator import file_bodies
from artifactfs.emulator.artifact_tree import LabError, MemoryTree, moment
from artifactfs.emulator.model import Lab

MIB = 1 << 20


def tree_of(**files: int) -> MemoryTree:
    tree = MemoryTree("test")
    for path, size in files.items():
        tree.add(path, size)
    return tree


def read(tree: MemoryTree, path: str, start: int = 0, end: int | None = None) -> bytes:
    file = tree.find(path)
    assert file is not None
    return b"".join(tree.read(path, file, start, file.size if end is None else end))


@pytest.mark.parametrize("name", ["w.bin", "a.json", "a.md", "a.txt", "a.png"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 17, 400, 4096, 62_194])
def test_content_has_exactly_the_size(name: str, size: int) -> None:
    """A file's content is as long as its size says, whatever it is made of."""
    assert sum(map(len, file_bodies.pieces(name, 7, size, 0, size))) == size


def test_a_span_is_a_slice_of_the_whole() -> None:
    """Any [start, end) of a file is that slice of its whole content."""
    size = 3 * MIB + 5
    whole = b"".join(file_bodies.pieces("w.bin", 7, size, 0, size))
    for start, end in ((0, 1), (MIB - 1, MIB + 1), (MIB, 2 * MIB), (5, size), (size - 1, size), (9, 9)):
        assert b"".join(file_bodies.pieces("w.bin", 7, size, start, end)) == whole[start:end]


def test_no_mebibyte_of_a_file_is_like_another() -> None:
    """Content does not repeat, so that a block of the wrong place is a wrong block."""
    pieces = {hashlib.sha256(piece).digest() for piece in file_bodies.pieces("w.bin", 7, 64 * MIB, 0, 64 * MIB)}
    assert len(pieces) == 64


def test_pieces_are_a_mebibyte_at_most() -> None:
    """What is in memory at once is bounded, for noise and for text."""
    for name in ("w.bin", "a.txt"):
        assert max(len(piece) for piece in file_bodies.pieces(name, 7, 3 * MIB, 0, 3 * MIB)) <= MIB


@pytest.mark.parametrize("size", [2, 30, 991, 62_194])
def test_json_is_json(size: int) -> None:
    """A made-up .json of two bytes or more can be parsed."""
    assert isinstance(json.loads(b"".join(file_bodies.pieces("a.json", 7, size, 0, size))), dict)


def test_png_is_a_picture() -> None:
    """A made-up .png has the signature, and chunks whose checksums fit, up to IEND."""
    data = b"".join(file_bodies.pieces("a.png", 7, 400, 0, 400))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    offset, kinds = 8, []
    while b"IEND" not in kinds:
        (length,) = struct.unpack_from(">I", data, offset)
        body = data[offset + 4 : offset + 8 + length]
        assert struct.unpack_from(">I", data, offset + 8 + length) == (zlib.crc32(body),)
        kinds.append(body[:4])
        offset += length + 12
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]


def test_a_grown_log_continues_the_shorter_one() -> None:
    """append leaves the bytes that were there."""
    for path in ("train.log", "weights.bin"):
        tree = tree_of(**{path: 1000})
        before = read(tree, path)
        tree.append(path, 500)
        assert read(tree, path)[:1000] == before
        assert len(read(tree, path)) == 1500


def test_text_is_served_as_given() -> None:
    """A file added with text has that content and its length."""
    tree = MemoryTree("test")
    tree.add("a.json", text=b"hello")
    assert read(tree, "a.json") == b"hello"
    tree.append("a.json", 2)
    assert read(tree, "a.json") == b"hello\0\0"


def test_a_change_is_other_content_of_the_same_size() -> None:
    """change without anything named keeps size and time, not the bytes."""
    tree = tree_of(**{"a.bin": 100})
    before, content = tree.find("a.bin"), read(tree, "a.bin")
    assert before is not None
    tree.change("a.bin")
    after = tree.find("a.bin")
    assert after is not None
    assert (after.size, after.created_at, after.version) == (before.size, before.created_at, before.version + 1)
    assert read(tree, "a.bin") != content


def test_touch_changes_the_time_alone() -> None:
    """touch leaves size and bytes."""
    tree = tree_of(**{"a.bin": 100})
    content = read(tree, "a.bin")
    tree.touch("a.bin", "2026-01-01T00:00:00Z")
    file = tree.find("a.bin")
    assert file is not None
    assert (file.created_at, read(tree, "a.bin")) == ("2026-01-01T00:00:00Z", content)


def test_rename_takes_content_along() -> None:
    """A directory moves with all below it, and its files keep their bytes."""
    tree = tree_of(**{"a/b/c.bin": 100, "z": 1})
    content = read(tree, "a/b/c.bin")
    tree.rename("a", "x/y")
    assert [path for path, _ in tree.walk("")] == ["x", "x/y", "x/y/b", "x/y/b/c.bin", "z"]
    assert read(tree, "x/y/b/c.bin") == content


def test_remove_takes_a_directory_with_all_below() -> None:
    """remove of a directory leaves nothing of it."""
    tree = tree_of(**{"a/b/c.bin": 100, "z": 1})
    tree.remove("a")
    assert tree.children("") == [("z", tree.find("z"))]
    assert not tree.is_dir("a/b")


@pytest.mark.parametrize(
    ("change", "arguments"),
    [
        ("add", ("a",)),
        ("add", ("f/x",)),
        ("add", ("a//x",)),
        ("add", ("",)),
        ("change", ("a",)),
        ("append", ("none", 1)),
        ("touch", ("none", "2026-01-01T00:00:00Z")),
        ("remove", ("none",)),
        ("rename", ("none", "b")),
        ("rename", ("a", "f")),
        ("rename", ("a", "a/b")),
        ("mkdir", ("f",)),
    ],
)
def test_an_impossible_change_is_refused(change: str, arguments: tuple[object, ...]) -> None:
    """A change that contradicts the tree raises LabError and changes nothing."""
    tree = tree_of(**{"a/inside": 1, "f": 2})
    before = list(tree.walk(""))
    with pytest.raises(LabError):
        getattr(tree, change)(*arguments)
    assert list(tree.walk("")) == before


def test_a_walk_is_in_the_order_of_object_storage() -> None:
    """Whole paths are sorted by their bytes, so `dir-x` comes before `dir/y`."""
    tree = tree_of(**{"dir/y": 1, "dir-x": 1, "dir0": 1, "B": 1, "é": 1, "z": 1})
    files = [path for path, file in tree.walk("") if file]
    assert files == sorted(files, key=lambda path: path.encode()) == ["B", "dir-x", "dir/y", "dir0", "z", "é"]


def test_a_tree_is_built_at_the_first_look() -> None:
    """Many runs cost nothing until they are looked at, and then are built once."""
    built: list[int] = []

    def build(tree: MemoryTree) -> None:
        built.append(1)
        tree.add("a", 1)

    tree = MemoryTree("test", build)
    assert built == []
    assert tree.is_dir("")
    assert tree.find("a")
    assert built == [1]


def test_shapes_have_the_size_asked_for() -> None:
    """grid and wide make what they say."""
    tree = MemoryTree("test")
    tree.grid(40, 3)
    tree.wide(500)
    assert len([1 for _, file in tree.walk("") if file]) == 40 * 3 + 500
    assert [name for name, _ in tree.children("")] == ["flat", "g000", "g001"]
    assert len(tree.children("g000")) == 32


def test_a_run_brings_its_project() -> None:
    """A run of an unknown project adds that project; forgetting the run leaves it."""
    lab = Lab()
    run = lab.create(5, 77)
    assert lab.project(77) is not None
    assert lab.by_artifact_path(f"{run.prefix}/a/b") == (run, "a/b")
    lab.forget(5)
    assert lab.by_artifact_path(f"{run.prefix}/a/b") is None
    with pytest.raises(LabError):
        lab.forget(5)


@pytest.mark.parametrize("status", ["running", "pending", "paused"])
def test_a_run_that_goes_on_has_no_end(status: str) -> None:
    """completed_at goes with an unfinished status and comes back with a finished one."""
    lab = Lab()
    run = lab.create(5, 77)
    run.tell({"status": status})
    assert "completed_at" not in run.attributes
    assert "completed_at" not in lab.create(6, 77, status=status).attributes
    run.tell({"status": "failed"})
    assert "completed_at" in run.attributes


def test_times_sort_whatever_their_digits() -> None:
    """Timestamps of 0 to 6 fractional digits compare as times, and none of them fails."""
    texts = ["2026-05-18T15:55:50Z", "2026-05-18T15:55:50.38705Z", "2026-05-18T15:55:50.387051Z", "2026-05-18T15:55:51"]
    assert sorted([*texts, "never"], key=moment) == ["never", *texts]
