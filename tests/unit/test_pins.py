"""artifactfs.pins: the list of what a user keeps is whole or as it was, whatever happens to its file."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from artifactfs.pins import Pin, PinFile, UnchangedPins, UnreadablePins, needs_bytes
from tests.harness import needs_root

SITE = "https://api.example.org"
RUN = Pin(SITE, "=me", 7, "", 12.5, 100, 2)
BELOW = msgspec.structs.replace(RUN, path="sub/ü")
OTHERS = msgspec.structs.replace(RUN, account="a" * 32)


@pytest.fixture
def pins(tmp_path: Path) -> PinFile:
    return PinFile(str(tmp_path))


def test_pins_are_kept_over_processes(pins: PinFile, tmp_path: Path) -> None:
    """What is added is there for the next one who looks, privately; what is removed is not."""
    assert pins.load() == ()
    for pin in (RUN, BELOW, OTHERS):
        pins.add(pin)
    assert PinFile(str(tmp_path)).load() == pins.load() == (RUN, BELOW, OTHERS)
    assert stat.S_IMODE((tmp_path / "pins.json").stat().st_mode) == 0o600
    assert pins.remove(lambda pin: pin.account == "=me") == [RUN, BELOW]
    assert PinFile(str(tmp_path)).load() == (OTHERS,)
    assert os.listdir(tmp_path) == ["pins.json"]


def test_a_full_disk_can_be_unpinned(pins: PinFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no room is left for another list, all pins can still be removed: that is how room is made."""
    pins.add(RUN)
    pins.add(OTHERS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("artifactfs.pins.replace_file", full)
    sentence = "the list of pins .*/pins.json cannot be changed: No space left on device; free space there"
    with pytest.raises(UnchangedPins, match=sentence):
        pins.remove(lambda pin: pin == RUN)
    assert pins.remove(lambda _pin: True) == [RUN, OTHERS]
    assert pins.load() == ()
    assert os.listdir(tmp_path) == []


def test_a_cache_that_is_not_there_yet(tmp_path: Path) -> None:
    """It has no pins, so there is nothing to remove; what cannot be pinned there is said in one line."""
    pins = PinFile(str(tmp_path / "none"))
    assert pins.remove(lambda _pin: True) == []
    with pytest.raises(UnchangedPins, match="No such file or directory"):
        pins.add(RUN)


def test_a_pin_replaces_the_one_of_its_place(pins: PinFile) -> None:
    """And no other; one that is not there is not updated."""
    later = msgspec.structs.replace(RUN, pinned_at=99.0)
    pins.add(RUN)
    pins.add(OTHERS)
    pins.add(later)
    assert set(pins.load()) == {later, OTHERS}
    pins.update(RUN.owner, RUN.place, files=5)
    pins.update(RUN.owner, BELOW.place, files=6)
    assert set(pins.load()) == {msgspec.structs.replace(later, files=5), OTHERS}


def test_what_a_pin_covers(pins: PinFile) -> None:
    """All that is at and below its place, at its site."""
    pins.add(msgspec.structs.replace(RUN, path="sub"))
    pins.add(msgspec.structs.replace(RUN, run_id=8))
    assert not pins.covers(SITE, "7/sub")  # as of the last `load`
    pins.load()
    covered = {
        place: pins.covers(SITE, place) for place in ("7/sub", "7/sub/a/b", "8", "8/x", "7", "7/su", "70/sub", "")
    }
    assert [place for place, is_covered in covered.items() if is_covered] == ["7/sub", "7/sub/a/b", "8", "8/x"]
    assert not pins.covers("https://api.example.com", "8")


def test_pins_within_pins() -> None:
    """A pin covers those below it, of its own site and account."""
    assert RUN.covers(BELOW)
    assert RUN.covers(RUN)
    assert not BELOW.covers(RUN)
    assert not OTHERS.covers(BELOW)


def test_what_pins_need() -> None:
    """On disk, about: what is pinned twice counts once."""
    beside = msgspec.structs.replace(RUN, run_id=8, size_bytes=1 << 20, files=1)
    assert needs_bytes([RUN, BELOW, beside]) == (100 + 2 * 4096) + ((1 << 20) + 1024 + 4096)


def test_another_process_is_seen(pins: PinFile, tmp_path: Path) -> None:
    """The list is read again when its file is another."""
    assert pins.load() == ()
    PinFile(str(tmp_path)).add(RUN)
    assert pins.load() == (RUN,)
    os.unlink(tmp_path / "pins.json")
    assert pins.load() == ()
    assert not pins.covers(SITE, "7")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b"[]", b'{"format": 2, "pins": []}', b'{"format": 1, "pins": [{"run_id": "x"}]}']
)
def test_a_damaged_list(text: bytes, pins: PinFile, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is pinned, which is said once; it is not replaced, and counts again when it is repaired."""
    pins.add(RUN)
    file = tmp_path / "pins.json"
    good = file.read_bytes()
    file.write_bytes(text)
    assert pins.load() == pins.load() == ()
    assert not pins.covers(SITE, "7")
    assert len(caplog.records) == 1
    with pytest.raises(UnreadablePins, match="move it away"):
        pins.add(BELOW)
    with pytest.raises(UnreadablePins):
        pins.read()
    with pytest.raises(UnreadablePins):
        pins.remove(lambda _pin: True)
    assert file.read_bytes() == text
    file.write_bytes(good)
    assert pins.load() == (RUN,)


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_list_that_was_cut(cut: int, pins: PinFile, tmp_path: Path) -> None:
    """A part of it is no list."""
    pins.add(RUN)
    file = tmp_path / "pins.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: min(cut, len(whole) - 3)])
    assert pins.load() == ()


def test_a_link_is_not_followed(pins: PinFile, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """6.2: neither to be read nor to be written."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    PinFile(str(elsewhere)).add(RUN)
    before = (elsewhere / "pins.json").read_bytes()
    (tmp_path / "pins.json").symlink_to(elsewhere / "pins.json")
    assert pins.load() == ()
    assert "is a link" in caplog.text
    with pytest.raises(UnreadablePins):
        pins.add(BELOW)
    assert (elsewhere / "pins.json").read_bytes() == before


def test_a_directory_behind_a_link(tmp_path: Path) -> None:
    """6.2: a directory that is exchanged for a link while it is used."""
    (tmp_path / "cache").mkdir()
    pins = PinFile(str(tmp_path / "cache"))
    pins.add(RUN)
    (tmp_path / "cache").rename(tmp_path / "other")
    (tmp_path / "cache").symlink_to("other")
    assert pins.load() == ()
    with pytest.raises(UnchangedPins, match="see whether its directory can be written"):
        pins.add(BELOW)


def test_a_pipe_is_not_waited_for(pins: PinFile, tmp_path: Path) -> None:
    """6.2: whatever has the name of the list."""
    os.mkfifo(tmp_path / "pins.json")
    assert pins.load() == ()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_list_that_others_may_write(mode: int, pins: PinFile, tmp_path: Path) -> None:
    """6.2: nobody else says what is kept."""
    pins.add(RUN)
    (tmp_path / "pins.json").chmod(mode)
    assert pins.load() == ()


@needs_root
def test_a_list_of_another_user(pins: PinFile, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """6.2: it says nothing, and is not replaced."""
    pins.add(RUN)
    os.chown(tmp_path / "pins.json", 65534, 65534)
    assert PinFile(str(tmp_path)).load() == ()
    assert "another user" in caplog.text


_ADD = """
import sys
from artifactfs.pins import Pin, PinFile
pins = PinFile(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 30):
    pins.add(Pin("https://api.example.org", "=me", number, "", 1.0))
    print(number, flush=True)
"""


def adding(directory: Path, first: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _ADD, str(directory), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_and_threads_add_at_once(pins: PinFile, tmp_path: Path) -> None:
    """No pin of either is lost."""
    both = [adding(tmp_path, first) for first in (100, 200)]

    def add() -> None:
        for number in range(1, 20):
            pins.add(msgspec.structs.replace(RUN, run_id=number))

    thread = threading.Thread(target=add)
    thread.start()
    for process in both:
        process.communicate()
        assert process.returncode == 0
    thread.join()
    assert {pin.run_id for pin in pins.load()} == {*range(1, 20), *range(100, 130), *range(200, 230)}


@pytest.mark.parametrize("after", [1, 2, 3, 5, 8, 13])
def test_a_process_is_killed_while_it_adds(after: int, pins: PinFile, tmp_path: Path) -> None:
    """All that it had said is there, and at most one more; the next one goes on, and tidies up."""
    with adding(tmp_path, 100) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(after)]
        process.kill()
        said += [int(line) for line in process.stdout]
    found = [pin.run_id for pin in pins.load()]
    assert found in (said, [*said, said[-1] + 1])
    (tmp_path / ".pins.json.0123456789abcdef").write_bytes(b"{")
    pins.add(RUN)
    assert [pin.run_id for pin in pins.load()] == [*found, 7]
    assert os.listdir(tmp_path) == ["pins.json"]
