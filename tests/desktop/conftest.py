"""The fixtures for a desktop: the mounts', and a desk."""

from collections.abc import Iterator

import pytest

from tests.desktop.desk import DesktopSession, desktop
from tests.fixtures import _shared_lab, lab, own_lab, shell, user, user_shell
from tests.harness import Mount, Shell

__all__ = ["_shared_lab", "lab", "own_lab", "shell", "user", "user_shell"]


@pytest.fixture
def desk(shell: Shell) -> Iterator[DesktopSession]:
    """A display, a session bus, and a home at them."""
    with desktop(shell) as found:
        yield found


@pytest.fixture
def mounted(shell: Shell) -> Mount:
    """The shared lab, mounted below the home, where file managers show mounts."""
    return shell.mount(name="home/model-lab")
