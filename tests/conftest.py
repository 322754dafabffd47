"""What holds for all tests: the package is compiled once, and a worker of xdist sees no mounts but its own."""

import compileall
import ctypes
import inspect
import os
import re
import subprocess

import pytest

import artifactfs

_CLONE_NEWNS = 0x00020000


# Much of these is waiting: begun first, they wait beside what computes, and not alone at the end.
_WAITING = ("tests/follow/", "tests/reference/", "tests/desktop/")
_CLOCK = "autojump_clock"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that wait; the rest stays in its order."""
    for item in items:
        # pytest-trio looks for a clock in a test's own arguments alone: a fixture's would turn nothing.
        own = inspect.signature(item.function).parameters if isinstance(item, pytest.Function) else ()
        if _CLOCK in getattr(item, "fixturenames", ()) and _CLOCK not in own:
            raise pytest.UsageError(f"{item.nodeid} sleeps in real time: let it take {_CLOCK} itself")
    items.sort(key=lambda item: not item.nodeid.startswith(_WAITING))


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the process before it collects tests."""
    if hasattr(config, "workerinput"):
        _leave_mount_namespace()
    else:
        # Hundreds of processes import the package; none of them writes bytecode (Shell.env), so that no file of root's
        # is left in a directory that a test removes.
        for package in (artifactfs.__path__[0], os.path.dirname(__file__)):
            compileall.compile_dir(package, quiet=2)


def _leave_mount_namespace() -> None:
    """Give this worker a mount namespace of its own, where it may have one: as root.

    Elsewhere workers see the mounts of each other, as `df` and doctor see all mounts of a machine.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return
    subprocess.run(["mount", "--make-rslave", "/"], check=True)
    # The new namespace has copies of all mounts. A copy would keep a FUSE mount alive after its umount elsewhere.
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        points = [row.split(" ")[4] for row in table if " - fuse.artifactfs " in row]
    for point in reversed(points):
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
        subprocess.run(["umount", "--lazy", "--", place], check=False, stderr=subprocess.DEVNULL)
