"""The places that each test runs in."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import Mounting, _shared_lab, lab, mounting, own_lab, shell
from tests.follow.places import FORMS, OPTIONS, LocalPlace, Place, ServedPlace, lab_place
from tests.harness import Lab, Mount, Shell

__all__ = ["_shared_lab", "lab", "mounting", "own_lab", "shell"]

RUN = 12


@contextlib.contextmanager
def _place(form: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if form == "local":
        directory = tmp_path / "run"
        directory.mkdir()
        yield LocalPlace(str(directory))
    elif form == "served-directory":
        directory = tmp_path / "served" / str(RUN)
        directory.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            lab = Lab(str(directory.parent))
            stack.callback(lab.stop)
            shell = Shell(str(tmp_path / "shell"), lab)
            stack.callback(shell.close)
            mounted = _looked_at(shell.mount(*OPTIONS))
            yield ServedPlace(LocalPlace(str(directory)), mounted.path("runs", RUN))
    else:
        shared: Lab = request.getfixturevalue("lab")
        mounting: Mounting = request.getfixturevalue("mounting")
        shared.switch(**FORMS[form])
        yield lab_place(shared, _looked_at(mounting(*OPTIONS)))


def _looked_at(mounted: Mount) -> Mount:
    # A log that changes while it is looked at is what these tests are about.
    mounted.log.announce("changed while it was read", optional=True)
    return mounted


@pytest.fixture(params=["local", "served-directory", "plain"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A local directory, and mounts: of a served directory, and of an emulator as it is by default."""
    with _place(request.param, request, tmp_path) as found:
        yield found


@pytest.fixture(params=["local", "served-directory", *FORMS])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A local directory, and mounts: of a served directory, and of an emulator in each of its forms."""
    with _place(request.param, request, tmp_path) as found:
        yield found
