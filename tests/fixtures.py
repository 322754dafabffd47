"""The fixtures of tests with real mounts; `conftest.py` of tests/mount and tests/contract take them from here."""

import contextlib
import os
import pwd
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import artifactfs
from tests.harness import Lab, Mount, Shell, mount_type, run

Mounting = Callable[..., Mount]
PATIENT = (sys.executable, "-m", "tests.launch", "patient")


@pytest.fixture(scope="session")
def _shared_lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def lab(_shared_lab: Lab) -> Iterator[Lab]:
    """The sample, in its ordinary form. One process for all tests: make runs of your own to change them."""
    _shared_lab.settle()
    yield _shared_lab
    _shared_lab.settle()


@pytest.fixture
def own_lab() -> Iterator[Lab]:
    """An emulator for this test alone, which may stop and start it."""
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def shell(tmp_path: Path, lab: Lab) -> Iterator[Shell]:
    """Where `artifactfs` is typed, with the keys of the shared lab; ends all mounts and checks their logs."""
    shell = Shell(str(tmp_path), lab)
    yield shell
    # Faults would make the mount's last requests fail.
    lab.faults()
    shell.close()


@pytest.fixture
def open_shell(lab: Lab) -> Iterator[Shell]:
    """Where root types `artifactfs`, in a directory that every user can enter: what is closed is closed by us."""
    directory = tempfile.mkdtemp(prefix="artifactfs-root-")
    os.chmod(directory, 0o755)
    shell = Shell(directory, lab)
    yield shell
    shell.close()
    if all(mount_type(mounted.point) is None for mounted in shell.mounts):
        shutil.rmtree(directory)


@pytest.fixture
def mounting(shell: Shell) -> Mounting:
    """Mount the shared lab: `mounting("--listing-ttl", "0")`."""
    return shell.mount


@pytest.fixture
def mounting_patiently(shell: Shell) -> Mounting:
    """The same, with a mount that is patient (tests/launch.py): what it shows depends on an index, or on a refresh that
    must not take longer than its second."""
    shell.program = PATIENT
    return shell.mount


@pytest.fixture
def mounted(mounting: Mounting) -> Mount:
    """The shared lab, mounted as it is by default."""
    return mounting()


@pytest.fixture(scope="module")
def _standing_mount(_shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    shell = Shell(str(tmp_path_factory.mktemp("standing")), _shared_lab, PATIENT)
    yield shell.mount()
    shell.close()


@pytest.fixture
def standing(_standing_mount: Mount, lab: Lab) -> Iterator[Mount]:
    """One mount of the shared lab for all tests of a module that only look; the log is checked test by test.

    It is patient (tests/launch.py): with `index="stall"`, use `mounting`.
    """
    with _standing_mount.log.watched():
        yield _standing_mount


# --- an ordinary user -----------------------------------------------------------------------------

# fusermount3 wants a user that has a name.
USER_ID = pwd.getpwnam("nobody").pw_uid
AS_USER = ("setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups", "--")


@dataclass(frozen=True)
class User:
    """An ordinary user who can run artifactfs: the commands that become him, and a Python that he can read."""

    prefix: tuple[str, ...]
    python: str
    env: dict[str, str]
    owner: int | None


@contextmanager
def ordinary_user() -> Iterator[User]:
    """An ordinary user: another one where the tests run as root, else who runs them.

    The interpreter and the package may lie where only root can read (/root is 0700), so they are bound to a place
    where every user can. /dev/fuse is opened to all, as udev does everywhere, and stays so: another run of these
    tests may be under way.
    """
    if os.geteuid() != 0:
        yield User((), sys.executable, {}, None)
        return
    parts = {
        "python": sys.base_prefix,
        "packages": sysconfig.get_path("purelib"),
        "checkout": os.path.dirname(os.path.dirname(os.path.abspath(artifactfs.__file__))),
    }
    with contextlib.ExitStack() as stack:
        os.chmod("/dev/fuse", 0o666)
        place = tempfile.mkdtemp(prefix="artifactfs-user-")
        # Never a recursive removal here: what is bound below is the real thing.
        stack.callback(os.rmdir, place)
        os.chmod(place, 0o755)
        for name, source in parts.items():
            target = os.path.join(place, name)
            os.mkdir(target)
            stack.callback(os.rmdir, target)
            run("mount", "--bind", "-o", "ro", source, target).ok()
            stack.callback(run, "umount", "-l", target)
        python = os.path.join(place, "python", "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
        path = os.pathsep.join(os.path.join(place, name) for name in ("packages", "checkout"))
        libraries = os.path.join(place, "python", "lib")
        yield User(AS_USER, python, {"PYTHONPATH": path, "LD_LIBRARY_PATH": libraries}, USER_ID)


@pytest.fixture(scope="session")
def user() -> Iterator[User]:
    """An ordinary user."""
    with ordinary_user() as found:
        yield found


@pytest.fixture
def user_shell(user: User, lab: Lab) -> Iterator[Shell]:
    """Where an ordinary user types `artifactfs`."""
    with shell_of(user, lab) as found:
        yield found


@contextmanager
def shell_of(user: User, lab: Lab) -> Iterator[Shell]:
    """Where an ordinary user types `artifactfs`, in a directory of his own."""
    directory = tempfile.mkdtemp(prefix="artifactfs-home-")
    if user.owner is not None:
        os.chmod(directory, 0o755)
        os.chown(directory, user.owner, user.owner)
    shell = Shell(
        directory,
        lab,
        program=(user.python, "-m", "artifactfs"),
        prefix=user.prefix,
        more_env=dict(user.env),
        owner=user.owner,
        python=user.python,
    )
    yield shell
    lab.faults()
    try:
        shell.close()
    finally:
        if all(mount_type(mount.point) is None for mount in shell.mounts):
            shutil.rmtree(directory, ignore_errors=True)
