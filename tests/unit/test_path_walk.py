"""artifactfs.util.path_walk: the path of what was opened, its own links followed, those of other users not."""

import os
from pathlib import Path

import pytest

from artifactfs.util.path_walk import ForeignLink, open_path
from tests.harness import needs_root

OTHER = 12345


def opened(path: str, flags: int = os.O_RDONLY) -> str:
    """Return the path that the walk reports, which is the kernel's own for the descriptor."""
    fd, found = open_path(path, flags)
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") == found
    finally:
        os.close(fd)
    return found


def test_the_path_without_links(tmp_path: Path) -> None:
    """6.2: links to links, absolute and relative, and `..` behind a link lead where they lead the kernel."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "relative").symlink_to("a/b")
    (tmp_path / "absolute").symlink_to(tmp_path / "relative")
    assert opened(f"{tmp_path}/absolute") == f"{tmp_path}/a/b"
    assert opened(f"{tmp_path}/absolute/../file") == f"{tmp_path}/a/file"
    assert opened(f"{tmp_path}/absolute/.") == f"{tmp_path}/a/b"
    assert opened("/") == "/"


def test_a_file_that_is_made(tmp_path: Path) -> None:
    """6.2: a new file is private, also behind a link to a place where it is not yet."""
    (tmp_path / "link").symlink_to("file")
    assert opened(f"{tmp_path}/link", os.O_WRONLY | os.O_CREAT) == f"{tmp_path}/file"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@needs_root
def test_the_link_of_another_user_is_named(tmp_path: Path) -> None:
    """6.2: the error names the link, not the path that led there, and its owner."""
    (tmp_path / "theirs").symlink_to("/etc")
    os.chown(tmp_path / "theirs", OTHER, OTHER, follow_symlinks=False)
    (tmp_path / "mine").symlink_to("theirs/passwd")
    with pytest.raises(ForeignLink) as caught:
        open_path(f"{tmp_path}/mine", os.O_RDONLY)
    assert (caught.value.filename, caught.value.user_id) == (f"{tmp_path}/theirs", OTHER)
