"""The places that each test runs in."""

from pathlib import Path

import pytest

from tests.fixtures import Mounting, _shared_lab, lab, mounting, own_lab, shell
from tests.follow.places import FORMS, OPTIONS, LocalPlace, Place, lab_place
from tests.harness import Lab

__all__ = ["_shared_lab", "lab", "mounting", "own_lab", "shell"]


def _place(form: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if form == "local":
        directory = tmp_path / "run"
        directory.mkdir()
        return LocalPlace(str(directory))
    lab: Lab = request.getfixturevalue("lab")
    mounting: Mounting = request.getfixturevalue("mounting")
    lab.switch(**FORMS[form])
    mounted = mounting(*OPTIONS)
    # A log that changes while it is looked at is what these tests are about.
    mounted.log.announce("changed while it was read", optional=True)
    return lab_place(lab, mounted)


@pytest.fixture(params=["local", "plain"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A local directory, and a mount of an emulator as it is by default."""
    return _place(request.param, request, tmp_path)


@pytest.fixture(params=["local", *FORMS])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A local directory, and a mount of an emulator in each of its forms."""
    return _place(request.param, request, tmp_path)
