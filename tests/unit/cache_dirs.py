"""Directories for the tests of the cache directory."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs.content.cache_dir import ForeignDirectory, claim
from artifactfs.errors import ExitCode

TAG = "CACHEDIR.TAG"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def seen(path: Path) -> dict[str, tuple[int, int, int, bytes | str]]:
    """Return all that is known of a directory and its contents: modes, owners, times, bytes."""
    found = {}
    for each in [path, *sorted(path.rglob("*"))]:
        status = each.lstat()
        kind: bytes | str = ""
        if each.is_symlink():
            kind = os.readlink(each)
        elif each.is_file():
            kind = each.read_bytes()
        found[str(each.relative_to(path))] = (status.st_mode, status.st_uid, status.st_mtime_ns, kind)
    return found


def check_refused(path: Path, *, by: Callable[..., object] = claim) -> ForeignDirectory:
    """See that a directory is refused, in one line, and that nothing of it has changed. Returns the refusal."""
    before = seen(path)
    with pytest.raises(ForeignDirectory) as refused:
        by(str(path))
    assert seen(path) == before
    assert refused.value.code == ExitCode.CACHE_REFUSED
    said = str(refused.value)
    assert len(said.splitlines()) == 1
    assert f"--cache-dir {refused.value.instead}" in said
    return refused.value
