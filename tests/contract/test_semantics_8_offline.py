"""8.3, 8.4: which mounts work without the service, and which fail."""

import pytest

from artifactfs.errors import ExitCode
from tests.harness import Lab, Shell, mount_type

NO_KEYS = {"DD_API_KEY": None, "DD_APP_KEY": None}


def test_nothing_is_stored(shell: Shell, lab: Lab) -> None:
    """8.3: what was never mounted here cannot be mounted offline: one line says so, and nothing is asked."""
    lab.reset()
    point = shell.directory_for_mount()
    done = shell.cli("mount", "--offline", "--api-url", lab.url, point, env=NO_KEYS)
    assert done.code == ExitCode.MOUNT_REFUSED
    assert len(done.err.splitlines()) == 1
    assert "nothing of 127.0.0.1:" in done.err
    assert "--offline" in done.err
    assert mount_type(point) is None
    assert lab.total() == 0


@pytest.mark.parametrize("options", ["offline=auto", "offline=auto,wait,wait_max=1s"])
def test_auto_with_nothing_stored(options: str, own_lab: Lab, shell: Shell) -> None:
    """8.4: where nothing is stored, a service that is away fails the mount, or is waited for, as without the option."""
    shell.lab, url = own_lab, own_lab.url
    own_lab.stop()
    done = shell.cli("mount", "-o", options, "--api-url", url, shell.directory_for_mount())
    assert done.code == ExitCode.UNREACHABLE
    assert "refuses connections" in done.err
    assert ("gave up after 1 s" in done.err) == ("wait" in options)


def test_an_option_without_a_value(shell: Shell, lab: Lab) -> None:
    """8.3: --offline is a switch, which leaves the mount point alone; any other word than the three is refused."""
    assert shell.cli("mount", "--offline", shell.path("none"), env=NO_KEYS).code == ExitCode.MOUNTPOINT_MISSING
    done = shell.cli("mount", "-o", "offline=maybe", "--api-url", lab.url, shell.directory_for_mount())
    assert done.code == ExitCode.USAGE
    assert "-o offline: 'maybe' is none of never, auto, always" in done.err
