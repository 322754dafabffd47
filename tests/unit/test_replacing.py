"""artifactfs.util.replacing: files are replaced whole, with the mode that is meant, and nothing is left beside them."""

import os
import stat
from pathlib import Path

import pytest

from artifactfs.util.replacing import replace_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize(
    ("before", "given", "after"), [(None, None, 0o640), (0o604, None, 0o604), (0o666, 0o600, 0o600)]
)
def test_the_mode(before: int | None, given: int | None, after: int, tmp_path: Path) -> None:
    """That of the file before, or what the umask leaves a new one, unless one is given."""
    path = tmp_path / "file"
    if before is not None:
        path.write_text("old")
        path.chmod(before)
    umask = os.umask(0o027)
    try:
        replace_file(str(path), b"new\xff", given)
    finally:
        os.umask(umask)
    assert (path.read_bytes(), mode(path)) == (b"new\xff", after)
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_replaced(tmp_path: Path) -> None:
    """And not what it leads to: neither written, nor asked for its mode."""
    (tmp_path / "other").write_text("kept")
    (tmp_path / "file").symlink_to("other")
    replace_file(str(tmp_path / "file"), b"new", 0o600)
    assert ((tmp_path / "other").read_text(), (tmp_path / "file").read_text()) == ("kept", "new")
    assert not (tmp_path / "file").is_symlink()


def test_an_open_file_keeps_its_contents(tmp_path: Path) -> None:
    """A program that has the old file open reads it to its end."""
    path = tmp_path / "file"
    path.write_text("old and whole")
    with path.open() as reader:
        replace_file(str(path), b"new")
        assert reader.read() == "old and whole"


def test_failures(tmp_path: Path) -> None:
    """The error names the file, and nothing is left."""
    (tmp_path / "file").mkdir()
    for path in (tmp_path / "file", tmp_path / "missing/file"):
        with pytest.raises(OSError, match=path.name) as caught:
            replace_file(str(path), b"")
        assert caught.value.filename == str(path) or not path.parent.is_dir()
    assert os.listdir(tmp_path) == ["file"]
