"""The places that each test runs in."""

import contextlib
import inspect
import os
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
            stack.callback(lab.close)
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


# ARTIFACTFS_ALL_FORMS=1 runs each test in all forms, and in a local directory: what programs do there is the truth.
ALL_FORMS = os.environ.get("ARTIFACTFS_ALL_FORMS") == "1"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the places of a test: one of two, or four, so that all tests of a module together run in each form."""
    others = [form for form in FORMS if form != "plain"]
    if "place" in metafunc.fixturenames:
        number, forms = _number(metafunc, "place"), ["served-directory", "plain"]
        metafunc.parametrize("place", ["local", *forms] if ALL_FORMS else [forms[number % 2]], indirect=True)
    if "any_place" in metafunc.fixturenames:
        first = 3 * _number(metafunc, "any_place")
        chosen = ["plain", *(others[place % len(others)] for place in range(first, first + 3))]
        metafunc.parametrize("any_place", ["local", "served-directory", *FORMS] if ALL_FORMS else chosen, indirect=True)


def _number(metafunc: pytest.Metafunc, fixture: str) -> int:
    """Return which one a test is of those in its module that take a fixture."""
    tests = [name for name in sorted(dir(metafunc.module)) if name.startswith("test")]
    taking = [name for name in tests if fixture in inspect.signature(getattr(metafunc.module, name)).parameters]
    return taking.index(metafunc.function.__name__)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A mount of a served directory, or of an emulator as it is by default: which one is no matter of programs."""
    with _place(request.param, request, tmp_path) as found:
        yield found


@pytest.fixture
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A mount of an emulator in some of its forms."""
    with _place(request.param, request, tmp_path) as found:
        yield found
