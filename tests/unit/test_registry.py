"""artifactfs.mount.registry: which process serves a mount, whatever others have put in the place of its entry."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.mount import registry
from artifactfs.mount.registry import Entry
from tests.harness import needs_root
from tests.processes import Holding, holding

POINT = "/mnt/of the test\udcff\r"
DEVICE = "0:50"
FILE = "mounts/" + registry._path(POINT).rpartition("/")[2]
VICTIM = 12345

# A process that serves a mount, as far as the register goes. The descriptor stands for its connection.
_SERVING = """
import os, sys
from artifactfs.mount import registry
point = os.fsdecode(bytes.fromhex(sys.argv[1]))
registry.enter(point)
if sys.argv[2:]:
    connection = os.open("/dev/fuse", os.O_RDWR)
    registry.serves(point, sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
"""
# One that only has the lock of a file, as an editor or a backup might.
_LOCKING = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.readline()
"""

Serving = Callable[..., contextlib.AbstractContextManager[Holding]]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state directory, of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "artifactfs"


@pytest.fixture
def serving(state: Path) -> Serving:
    def start(*device: str) -> contextlib.AbstractContextManager[Holding]:
        return holding([sys.executable, "-c", _SERVING, os.fsencode(POINT).hex(), *device])

    return start


@contextlib.contextmanager
def found(device: str | None = DEVICE) -> Iterator[registry.Holder]:
    held = registry.find(POINT, device)
    assert held is not None
    with held:
        yield held


def locking(file: Path, way: str = "lockf") -> contextlib.AbstractContextManager[Holding]:
    return holding([sys.executable, "-c", _LOCKING, str(file), way])


def test_a_process_that_serves(serving: Serving, state: Path) -> None:
    """It is found by its mount point and by its device, waited for and distinguished from one that is gone."""
    assert registry.find(POINT, DEVICE) is None
    with serving(DEVICE) as process:
        with found() as held, found(None) as any_device:
            assert held.pid == any_device.pid == process.pid
            assert held.entry == any_device.entry == Entry(process.pid, POINT, DEVICE)
            assert not held.has_ended(0.0)
            # The kernel says (Linux 6.15) that this connection is of no mount; else nothing is in the way.
            assert held.doubt in (None, "it does not serve this mount")
            assert any_device.doubt is not None
            assert registry.is_served(POINT)
            process.go_on()
            assert held.has_ended(30.0)
        assert registry.find(POINT, DEVICE) is None
        assert not registry.is_served(POINT)
    assert (state / FILE).stat().st_mode & 0o777 == 0o600


def test_another_device(serving: Serving) -> None:
    """A process that serves what was mounted there before is not taken for the one that serves what is there now."""
    with serving("0:49"):
        assert registry.find(POINT, DEVICE) is None
        assert registry.find("/elsewhere", DEVICE) is None
        # Moved there, or bound.
        moved = registry.find("/elsewhere", "0:49")
        assert moved is not None
        with moved:
            assert moved.entry is not None
            assert moved.entry.mountpoint == POINT


def test_a_process_that_does_not_know_its_device(serving: Serving) -> None:
    """It is waited for, and not ended by force."""
    with serving() as process, found() as held:
        assert held.pid == process.pid
        assert not held.send(signal.SIGKILL)
        assert held.doubt is not None
        process.go_on()


def test_one_serves(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one serves a place, another cannot register; as soon as it is gone, it can."""
    monkeypatch.setattr(registry, "_ENDING_S", 0.0)
    with serving(DEVICE) as process:
        with pytest.raises(BlockingIOError):
            registry.enter(POINT)
        process.go_on()
    # In a process of its own, since this one would hold the lock from then on.
    with serving(DEVICE):
        assert registry.is_served(POINT)


CONTENTS = [
    b"", b"{", b"null", b"[]", b"7", b'"x"', b"{}", b'{"pid": "x"}', b'{"pid": null}', b'{"pid": []}', b'{"pid": true}',
    b'{"pid": 1}', b'{"pid": 0}', b'{"pid": -1}', b'{"pid": 1.5}', b'{"pid": 1e400}', b'{"pid": NaN}', b"\xff\x00",
    b'{"pid": ' + b"9" * 400 + b', "mountpoint": "x"}', b'{"pid": ' + b"9" * 9000 + b"}", b"[" * 9000, b" " * 100_000,
    b'{"pid": %d, "mountpoint": 7}', b'{"pid": %d, "mountpoint": "x", "device": 7}',
    b'{"pid": 4194305, "mountpoint": "x", "device": "0:50"}',
]  # fmt: skip


def test_what_an_entry_may_say(serving: Serving, state: Path) -> None:
    """5.6: whatever is written in it, the process is named by the kernel, and not ended by force."""
    with serving(DEVICE) as process:
        for text in CONTENTS:
            (state / FILE).write_bytes(text.replace(b"%d", b"%d" % process.pid))
            with found() as held:
                assert held.pid == process.pid, text
                # Nothing is sent here: a wrong number in a file could mean every process.
                assert held.doubt, text
        process.go_on()


def test_a_number_of_another_process(serving: Serving, state: Path) -> None:
    """5.6: an entry that names another process than the one that holds its lock names none."""
    with serving(DEVICE) as process, serving_elsewhere(state) as victim:
        (state / FILE).write_text(json.dumps({"pid": victim.pid, "mountpoint": POINT, "device": DEVICE}))
        with found() as held:
            assert held.pid == process.pid
            assert held.doubt == f"{state / FILE} names another process"
            assert not held.send(signal.SIGKILL)
        victim.go_on()


def serving_elsewhere(state: Path) -> contextlib.AbstractContextManager[Holding]:
    (state / "other").touch()
    return locking(state / "other")


def test_a_process_that_only_holds_the_lock(state: Path) -> None:
    """5.6: a process that holds the lock of an entry which names it, and serves no mount, is not ended."""
    (state / "mounts").mkdir(parents=True, mode=0o700)
    (state / FILE).touch(mode=0o600)
    with locking(state / FILE) as victim:
        (state / FILE).write_text(json.dumps({"pid": victim.pid, "mountpoint": POINT, "device": DEVICE}))
        with found() as held:
            assert held.pid == victim.pid
            assert held.doubt == "it does not serve this mount"
            assert not held.send(signal.SIGTERM)
        victim.go_on()
    # A lock of another kind is none.
    with locking(state / FILE, "flock") as victim:
        assert registry.find(POINT, DEVICE) is None
        victim.go_on()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: (state / FILE).chmod(0o606), "can be written by others"),
        (lambda state: (state / FILE).chmod(0o660), "can be written by others"),
        (lambda state: (state / "mounts").chmod(0o1777), "can be written by others"),
        (lambda state: (state / "mounts").chmod(0o770), "can be written by others"),
        pytest.param(
            lambda state: os.chown(state / FILE, VICTIM, VICTIM), "belongs to another user", marks=needs_root
        ),
        pytest.param(
            lambda state: os.chown(state / "mounts", VICTIM, -1), "belongs to another user", marks=needs_root
        ),
    ],
)  # fmt: skip
def test_what_others_can_write(change: Callable[[Path], None], said: str, serving: Serving, state: Path) -> None:
    """5.6: an entry that others can write, or put there, tells nothing; its process is waited for."""
    with serving(DEVICE) as process:
        change(state)
        with found() as held:
            assert held.pid == process.pid
            assert held.entry is None
            assert said in str(held.doubt)
            assert not held.send(signal.SIGKILL)
        process.go_on()


def replaced(state: Path, kind: str) -> None:
    """Put something in the place of an entry."""
    file = state / FILE
    file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    file.unlink(missing_ok=True)
    (state / "target").write_text("precious")
    if kind == "link":
        file.symlink_to(state / "target")
    elif kind == "dangling link":
        file.symlink_to(state / "none")
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory"])
def test_what_is_no_entry(kind: str, state: Path) -> None:
    """5.6: it is refused at once, neither followed nor waited for, by a look and by a mount."""
    replaced(state, kind)
    with pytest.raises(registry.Refused, match="is a symbolic link" if "link" in kind else "is not a regular file"):
        registry.find(POINT, DEVICE)
    assert not registry.is_served(POINT)
    with pytest.raises(registry.Refused):
        registry.enter(POINT)
    # What stands beside it is left out.
    assert registry.find("/elsewhere", DEVICE) is None
    assert (state / "target").read_text() == "precious"
    assert not (state / "none").exists()


@pytest.mark.parametrize("way", ["directory", "link to a directory"])
def test_a_register_of_others(way: str, state: Path) -> None:
    """A mount does not register where others could write, and says so; it goes on without."""
    (state / "mounts").mkdir(parents=True, mode=0o700)
    if way == "directory":
        (state / "mounts").chmod(0o1777)
    else:
        (state / "mounts").rename(state / "real")
        (state / "mounts").symlink_to("real")
    with pytest.raises(registry.Refused):
        registry.enter(POINT)


def test_an_entry_that_was_open_to_others(serving: Serving, state: Path) -> None:
    """A file of the user's own is closed to others, and says nothing of before."""
    (state / "mounts").mkdir(parents=True, mode=0o700)
    (state / FILE).write_bytes(b"x" * 100_000)
    (state / FILE).chmod(0o666)
    with serving(DEVICE) as process, found() as held:
        assert held.entry == Entry(process.pid, POINT, DEVICE)
        process.go_on()
    assert (state / FILE).stat().st_mode & 0o777 == 0o600
