"""The soak can fail: each of its checks, given what it is there to notice.

A directory of plain files stands for the mount: what is wrong in it, a mount may never show.
"""

import dataclasses
import json
import os
import random
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.faults import Script
from artifactfs.emulator.switches import Switches
from tests.processes import MARK, run, start_process, wait_until
from tests.soak.crew import CrewStats, Sighting, Waits, sightings
from tests.soak.journal import Journal, State, true_bytes
from tests.soak.plan import FORMS, plan
from tests.soak.reading import HeldFile, Reader, Stopwatch, Wrong
from tests.soak.server import build, name_of
from tests.soak.verdict import Ending, Figures, verdicts
from tests.soak.watch import CacheState, Holdings, cache_state, holdings, log_faults

RUN = 1000
NAME = "sub/weights.bin"
SIZE = 400_000
READING = ("sequential", "backwards", "random", "direct", "sendfile", "mapped", "cat", "cp")
LOOKING = ("find", "scan")
# In a process of its own: one way to read forks.
ONCE = """
import json, os, random, sys
from tests.soak.worker import Worker
os.O_DIRECT = 0  # not every disk has it
worker = Worker(*sys.argv[1:4], "", "1")
worker.journal.refresh()
print(json.dumps([worker.once(way, int(sys.argv[4]), sys.argv[5]) for way in sys.argv[6:]]))
"""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal of one run with two files, long known; a tree that is just that is below `mnt`."""
    found = Journal(str(tmp_path / "journal"))
    found.set_run(RUN, 1, {"status": "running"})
    now = time.time()
    for name in (NAME, "a.bin"):
        found.set_file(RUN, name, State(SIZE, 0, "2026-05-16T09:00:00Z"))
        show(tmp_path, name, true_bytes(RUN, name, 0, SIZE, 0, SIZE))
    with open(found.path, "ab") as file:
        file.write(json.dumps({"run": RUN, "settled_at": now - 60.0}).encode() + b"\n")
    found.refresh()
    return found


def show(tmp_path: Path, name: str, data: bytes | bytearray) -> None:
    place = tmp_path / "mnt" / "runs" / str(RUN) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def outcomes(tmp_path: Path, *ways: str) -> dict[str, dict[str, Any]]:
    """Do these once with the file, and return what the worker reported of each."""
    told = [str(tmp_path / "mnt"), str(tmp_path / "journal"), str(tmp_path), str(RUN), NAME]
    done = run(sys.executable, "-c", ONCE, *told, *ways, cwd=str(Path(__file__).parents[2])).ok()
    return {each["way"]: each for each in json.loads(done.out)}


def test_what_is_right_passes(journal: Journal, tmp_path: Path) -> None:
    """Every way to read and to look finds nothing wrong where nothing is."""
    for way, told in outcomes(tmp_path, *READING, *LOOKING).items():
        assert (told["wrong"], told["error"]) == (None, None), way
        assert (told["bytes"] > 0) == (way in READING), way


def test_zeros_in_place_of_bytes_are_noticed(journal: Journal, tmp_path: Path) -> None:
    """Every way to read notices a file of the right length whose bytes are zeros."""
    show(tmp_path, NAME, bytes(SIZE))
    assert [way for way, told in outcomes(tmp_path, *READING).items() if not told["wrong"]] == []


@pytest.mark.parametrize("at", [0, 131_072, SIZE - 1])
def test_one_wrong_byte_is_noticed(at: int, journal: Journal, tmp_path: Path) -> None:
    """One bit in one byte, wherever it is, and the report says where."""
    data = bytearray(true_bytes(RUN, NAME, 0, SIZE, 0, SIZE))
    data[at] ^= 1
    show(tmp_path, NAME, data)
    told = outcomes(tmp_path, "sequential", "sendfile", "cat", "cp")
    assert [way for way, each in told.items() if not each["wrong"]] == []
    assert f"wrong byte at {at} " in told["sequential"]["wrong"]


def test_two_versions_in_one_file_are_noticed(journal: Journal, tmp_path: Path) -> None:
    """The first half of one version and the second of another are neither."""
    journal.set_file(RUN, NAME, State(SIZE + 1, 1, "2026-05-16T09:00:01Z"))
    halves = [true_bytes(RUN, NAME, 0, SIZE, 0, 200_000), true_bytes(RUN, NAME, 1, SIZE + 1, 200_000, SIZE + 1)]
    show(tmp_path, NAME, b"".join(halves))
    assert [way for way, told in outcomes(tmp_path, "sequential", "cp").items() if not told["wrong"]] == []


def test_an_early_end_is_noticed(journal: Journal, tmp_path: Path) -> None:
    """A file cut short has a size that it never had."""
    show(tmp_path, NAME, true_bytes(RUN, NAME, 0, SIZE, 0, SIZE - 1))
    assert [way for way, told in outcomes(tmp_path, *READING).items() if "never had" not in told["wrong"]] == []


@pytest.mark.parametrize("way", ["sequential", "sendfile"])
def test_an_end_before_the_size_is_noticed(way: str, journal: Journal, tmp_path: Path) -> None:
    """A read that returns nothing before the end is the end of no version, whatever was right so far."""

    class Ends(Stopwatch):
        def __call__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            got = super().__call__(call, *args, **kwargs)
            return {"read": b"", "sendfile": 0}.get(call.__name__, got)

    reader = Reader(str(tmp_path / "mnt"), journal, Ends(), random.Random(1), str(tmp_path))
    with pytest.raises(Wrong, match="the end at 0"):
        getattr(reader, way)(RUN, NAME)


def test_an_open_file_is_one_version(journal: Journal, tmp_path: Path) -> None:
    """It may grow, or be what took its place before its first byte; never two versions, or a part of one."""
    larger, other = SIZE + 1000, 2 * SIZE
    journal.set_file(RUN, NAME, State(larger, 0, "2026-05-16T09:01:00Z"))
    journal.set_file(RUN, NAME, State(other, 1, "2026-05-16T09:02:00Z"))

    def true(content: int, size: int, start: int, end: int) -> bytes:
        return true_bytes(RUN, NAME, content, size, start, end)

    def opened() -> HeldFile:
        return HeldFile(-1, RUN, NAME, journal, SIZE, 0)

    grown = opened()
    assert grown.check(0, true(0, SIZE, 0, SIZE), SIZE) == SIZE
    assert grown.check(SIZE, b"", 100) == 0
    assert grown.check(SIZE, true(0, larger, SIZE, larger), 9000) == 1000
    assert grown.check(larger, b"", 100) == 0
    with pytest.raises(Wrong, match="wrong byte"):
        grown.check(0, true(1, other, 0, 100), 100)

    replaced = opened()
    assert replaced.check(0, true(1, other, 0, SIZE), SIZE) == SIZE
    with pytest.raises(Wrong, match=f"the end at {SIZE} .* has {other} bytes"):
        replaced.check(SIZE, b"", 100)
    with pytest.raises(Wrong, match="wrong byte"):
        replaced.check(SIZE, true(0, larger, SIZE, larger), 1000)


def test_names_that_vanish_or_are_invented_are_noticed(journal: Journal, tmp_path: Path) -> None:
    """A file that is always there is missed, one that never was is not trusted."""
    show(tmp_path, "sub/ghost.bin", b"")
    assert [way for way, told in outcomes(tmp_path, *LOOKING).items() if "never was" not in told["wrong"]] == []
    os.unlink(tmp_path / "mnt" / "runs" / str(RUN) / "sub/ghost.bin")

    os.unlink(tmp_path / "mnt" / "runs" / str(RUN) / NAME)
    told = outcomes(tmp_path, *LOOKING, "sequential", "cat", "stat", "absent")
    assert told.pop("absent")["wrong"] is None
    assert [way for way, each in told.items() if "vanished" not in each["wrong"]] == []


def test_a_hang_is_noticed_from_outside() -> None:
    """A process that neither ran nor was woken for longer than the limit hangs; one that was woken does not."""
    env = {**os.environ, MARK: uuid.uuid4().hex}
    with start_process(["sleep", "1000"], env=env) as process:
        wait_until(lambda: sightings(env[MARK], 0) and sightings(env[MARK], 0)[0].what == "sleep 1000", "the sleep")
        wait_until(lambda: sightings(env[MARK], 0)[0].state == "S", "its wait")
        waits = Waits(20.0)
        assert waits.look(sightings(env[MARK], 0), 100.0) == []
        assert waits.look(sightings(env[MARK], 0), 119.0) == []
        assert [hang.split(" (")[0] for hang in waits.look(sightings(env[MARK], 0), 121.0)] == ["sleep 1000"]
        assert waits.look(sightings(env[MARK], 0), 122.0) == []  # reported once
        assert sightings(env[MARK], process.pid) == []

    woken = Waits(20.0)
    for second in range(0, 100, 10):
        assert woken.look([Sighting(1, "S", (second, 0), "find")], float(second)) == []


def test_a_traceback_in_the_log_is_noticed() -> None:
    """Warnings are the service's trouble; tracebacks, admitted bugs and what is critical are ours."""
    fine = ["2026-11-23 21:00:00,000 WARNING artifactfs.modellab.transport: listing: 500, trying again", "  a detail"]
    assert log_faults(fine) == []
    for line in (
        "Traceback (most recent call last):",
        "2026-11-23 21:00:00,000 ERROR artifactfs.fuse.operations: lookup failed: this is a bug",
        "2026-11-23 21:00:00,000 CRITICAL artifactfs.mount.session: over",
    ):
        assert log_faults([*fine, line]) == [line]


def test_what_a_process_holds_is_counted() -> None:
    """A descriptor or a socket more is one more."""
    before = holdings(os.getpid())
    with socket.socket(), open(os.devnull, "rb"):
        during = holdings(os.getpid())
    assert (during.sockets, during.other_fds) == (before.sockets + 1, before.other_fds + 1)
    assert before.rss_kib > 1000
    assert holdings(os.getpid()).fds == before.fds


def test_what_does_not_belong_into_the_cache_is_noticed(tmp_path: Path) -> None:
    """What the cache itself writes is known; a file aside, and anything else, is not."""
    store = BlockStore(str(tmp_path), max_bytes=1 << 20, min_free_bytes=0)
    assert store.save(b"k" * 16, 0, [b"x" * 5000], Provenance(0.0, store.session))
    held = cache_state(str(tmp_path))
    assert (held.blocks, held.aside, held.strange) == (1, [], [])
    assert held.size_bytes >= 5000
    (tmp_path / "blocks-1" / ".0011-1-1000").touch()
    (tmp_path / "blocks-1" / "core").touch()
    left = cache_state(str(tmp_path))
    assert (left.aside, left.strange) == (["blocks-1/.0011-1-1000"], ["blocks-1/core"])


def test_a_killed_server_comes_back_with_its_tree(journal: Journal) -> None:
    """A lab built from the journal has the bytes of the one that lived through the changes."""
    lived = MemoryTree(f"run {RUN}")
    lived.add(NAME, 1000, "2026-05-16T09:00:00Z")
    lived.change(NAME, 2000, "2026-05-16T09:00:01Z")
    lived.append(NAME, 500)
    journal.set_file(RUN, NAME, State(1000, 0, "2026-05-16T09:00:00Z"))
    journal.set_file(RUN, NAME, State(2000, 1, "2026-05-16T09:00:01Z"))
    journal.set_file(RUN, NAME, State(2500, 1, "2026-05-16T09:00:01Z"))
    again = build(journal).run(RUN)
    assert again is not None
    trees = (lived, again.tree)
    assert trees[0].find(NAME) == trees[1].find(NAME)
    file = lived.find(NAME)
    assert file is not None
    for tree in trees:
        assert b"".join(tree.read(NAME, file, 0, 2500)) == true_bytes(RUN, NAME, 1, 2500, 0, 2500)


def test_a_seed_is_a_plan() -> None:
    """The same seed gives the same plan, a longer one goes on; the emulator takes all that is in it."""
    events = list(plan(7, 20.0))
    assert events == list(plan(7, 20.0))
    assert events != list(plan(8, 20.0))
    assert list(plan(7, 5.0)) == [event for event in events if event.at_s < 300.0]
    assert {event.kind for event in events} == {
        "faults", "forms", "outage", "change", "finish", "delete", "hangup", "kill",
    }  # fmt: skip
    scripts = [event.facts["rules"] for event in events if event.kind == "faults"]
    named = {name_of(then) for rules in scripts for _ in rules if (then := Script.parse(rules).next("any", "", ""))}
    assert {"stall before the answer", "stall inside the body", "429", "HTML with 200", "cut", "reset"} <= named
    for form in FORMS:
        assert Switches().changed(form) != Switches()


# --- the verdict ----------------------------------------------------------------------------------

HELD = Holdings(100 << 10, 5, Counter({"socket": 10, "/dev/fuse": 1}))
FINE = Figures(
    tally=CrewStats(),
    deadline_s=5.0,
    before=HELD,
    after=HELD,
    cache_size=16 << 20,
    cache_most=16 << 20,
    cache=CacheState(16 << 20, 9, [], []),
    log_faults=[],
    ending=Ending([], 0, 0.1, []),
)


def test_a_soak_without_fault_holds() -> None:
    """Nothing found is nothing wrong; errors of the table are none."""
    fine = dataclasses.replace(FINE, tally=CrewStats(errors=Counter(EIO=3, ESTALE=1), longest_call=(9.0, "read")))
    assert [each for each in verdicts(fine) if not each.holds] == []


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"tally": CrewStats(wrong=["cat: wrong byte at 7"])}, "no wrong byte"),
        ({"tally": CrewStats(hung=["find waits"])}, "no hang"),
        ({"tally": CrewStats(longest_call=(21.0, "read"))}, "no hang"),
        ({"tally": CrewStats(longest_wait=(21.0, "ls"))}, "no hang"),
        ({"tally": CrewStats(longest_death=(21.0, "ls"))}, "no hang"),
        ({"tally": CrewStats(errors=Counter(ECONNABORTED=1))}, "no errno"),
        ({"tally": CrewStats(died=["cat: exit code 1"])}, "no worker died"),
        ({"log_faults": ["Traceback (most recent call last):"]}, "no traceback"),
        ({"after": dataclasses.replace(HELD, rss_kib=HELD.rss_kib + (65 << 10))}, "memory"),
        ({"after": dataclasses.replace(HELD, fds=HELD.fds + Counter({"socket": 23}))}, "descriptors"),
        ({"after": dataclasses.replace(HELD, fds=HELD.fds + Counter({"pipe": 1}))}, "descriptors"),
        ({"cache": CacheState(1, 1, ["blocks-1/.aside"], [])}, "no file left"),
        ({"cache": CacheState(1, 1, [], ["blocks-1/core"])}, "no file left"),
        ({"cache": CacheState((16 << 20) + 1, 1, [], [])}, "the cache keeps"),
        ({"cache_most": 21 << 20}, "the cache keeps"),
        ({"ending": Ending(["1000/a: only on one side"], 0, 0.1, [])}, "at the end"),
        ({"ending": Ending([], 18, 0.1, [])}, "umount"),
        ({"ending": Ending([], 0, 0.1, ["process 7"])}, "nothing mounted"),
    ],
)
def test_each_statement_can_fail(changes: dict[str, Any], failing: str) -> None:
    """Each of the statements fails by itself, for what it is about."""
    failed = [each.name for each in verdicts(dataclasses.replace(FINE, **changes)) if not each.holds]
    assert len(failed) == 1
    assert failed[0].startswith(failing)
