"""artifactfs.warm: what is planned of a tree that changes while it is looked at."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from artifactfs import warm


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> Iterator[None]:
    """Let the file of a name fail when its size is asked for."""
    scan = os.scandir

    def fail(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    def changed(entry: os.DirEntry[str]) -> object:
        if entry.name != name:
            return entry
        kinds = {"is_dir": lambda **_: False, "is_file": lambda **_: True}
        return SimpleNamespace(name=entry.name, path=entry.path, stat=fail, **kinds)

    @contextmanager
    def scandir(path: str) -> Iterator[Iterator[object]]:
        with scan(path) as entries:
            yield map(changed, entries)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        patched.setattr(warm, "_mount_of", lambda path: SimpleNamespace(device="1", point=path))
        patched.setattr(warm, "_silence", lambda _mount: None)
        yield


@pytest.mark.parametrize(
    ("code", "is_said"), [(errno.ENOENT, False), (errno.ESTALE, True), (errno.EIO, True)], ids=["gone", "stale", "EIO"]
)
def test_one_file_that_fails_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_said: bool
) -> None:
    """3.2: the others of its directory are planned; one that is gone is no failure."""
    for number in range(6):
        (tmp_path / f"f{number}").write_text("x")
    with failing(monkeypatch, "f2", code):
        plan = warm.plan([str(tmp_path)])
    assert sorted(os.path.basename(each) for each, _ in plan.files) == ["f0", "f1", "f3", "f4", "f5"]
    assert [text.startswith(str(tmp_path / "f2")) for text in plan.failures] == [True] * is_said


def test_a_mount_that_is_gone_is_one_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5.7: not one for each file."""
    for number in range(6):
        (tmp_path / f"f{number}").write_text("x")
    with failing(monkeypatch, "f2", errno.ENOTCONN):
        plan = warm.plan([str(tmp_path)])
    assert [text.startswith(f"{tmp_path}:") for text in plan.failures] == [True]
