"""Sixteen workers: started, killed, replaced, watched for waits that do not end. Owns their processes and the tally.

A hang is found from outside: what hangs in the kernel cannot tell. A process without children that neither ran nor was
woken since the last look is in the same wait as then.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.processes import MARK, marked

ROLES = (
    "find", "find", "ls", "stat", "scan", "absent",
    "cp", "cat", "sequential", "sequential", "random", "backwards", "mapped", "sendfile", "direct", "hot",
)  # fmt: skip


@dataclass
class CrewStats:
    """What the workers did, and what came of it."""

    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    longest_s: dict[str, float] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    longest_call: tuple[float, str] = (0.0, "")
    longest_wait: tuple[float, str] = (0.0, "")
    longest_death: tuple[float, str] = (0.0, "")
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)

    def take(self, told: Mapping[str, Any]) -> None:
        """Count one thing that a worker says that it did."""
        way = told["way"]
        self.done[way] += 1
        self.bytes[way] += told["bytes"]
        self.longest_s[way] = max(self.longest_s.get(way, 0.0), told["s"])
        self.longest_call = max(self.longest_call, (told["call_s"], f"{told['call']}, in {way}"))
        if told["wrong"] is not None:
            self.wrong.append(f"{way}: {told['wrong']}")
        elif told["error"] is not None:
            self.failed[way] += 1
            self.errors[told["error"]] += 1


@dataclass(frozen=True)
class Sighting:
    """A process at a moment. `ran`: what changes whenever it runs or is woken."""

    pid: int
    state: str
    ran: tuple[int, ...]
    what: str


class Waits:
    """How long each process has been in one wait; those over the limit are hangs, reported once each."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.longest = (0.0, "")
        self._since: dict[int, tuple[Sighting, float]] = {}
        self._told: set[Sighting] = set()

    def look(self, sightings: Iterable[Sighting], now: float) -> list[str]:
        """Take what is seen `now`; return what has begun to count as a hang."""
        found, hangs = {}, []
        for seen in sightings:
            before, since = self._since.get(seen.pid, (seen, now))
            since = since if (before.ran, before.what) == (seen.ran, seen.what) and seen.state in "SD" else now
            found[seen.pid] = (seen, since)
            self.longest = max(self.longest, (now - since, seen.what))
            if now - since > self.limit_s and seen not in self._told:
                self._told.add(seen)
                hangs.append(f"{seen.what} (process {seen.pid}, state {seen.state}) waits for {now - since:.1f} s")
        self._since = found
        return hangs


@dataclass
class _Member:
    index: int
    process: subprocess.Popen[bytes]
    output: str
    errors: str
    begun: str = ""
    read_to: int = 0
    killed: bool = False


class Crew:
    """The workers on the mount that the process `serving` serves.

    `limit_s`: how long any wait of theirs may last. `env`: by the mark in it they are found again.
    """

    def __init__(
        self, point: str, serving: int, journal: str, scratch: str, seed: int, env: Mapping[str, str], limit_s: float
    ) -> None:
        self._serving = serving
        self.tally = CrewStats()
        self._point, self._journal, self._scratch = point, journal, scratch
        self._seed, self._env, self._started = seed, dict(env), 0
        self._stop = os.path.join(scratch, "stop")
        self._waits = Waits(limit_s)
        self._members: list[_Member] = []
        # Groups that were killed: since when, and what they were doing.
        self._dying: dict[int, tuple[float, str]] = {}

    def start(self) -> None:
        """Start all of them."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._stop)
        self._members = [self._new(index) for index in range(len(ROLES))]

    def stop(self, limit_s: float) -> None:
        """Have each end after what it is doing; who is not done within the limit hangs."""
        with open(self._stop, "w", encoding="ascii"):
            pass
        end = time.monotonic() + limit_s
        while (running := [each for each in self._members if each.process.poll() is None]) and time.monotonic() < end:
            self.look()
            time.sleep(0.1)
        for member in running:
            if member.process.poll() is None:
                self.tally.hung.append(f"{member.begun} does not end")
                self._signal(member, signal.SIGKILL)
        self.look(replace=False)
        self._members = []

    def abort(self) -> None:
        """End all of them at once."""
        for member in self._members:
            self._signal(member, signal.SIGKILL)
            # One in D state does not die of it; the mount's end frees it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(2.0)
        self._members = []

    def kill(self, pick: float, number: int) -> None:
        """Send a signal to one of them and all that it started, as Ctrl-C does."""
        living = [each for each in self._members if each.process.poll() is None]
        if not living:
            return
        member = living[int(pick * len(living))]
        self._read(member)
        # What it has not begun yet, the interpreter's own start, is no matter of the mount's.
        if member.begun:
            self.tally.killed[signal.Signals(number).name] += 1
            self._dying[member.process.pid] = (time.monotonic(), member.begun)
            member.killed = True
            self._signal(member, number)

    def look(self, *, replace: bool = True) -> None:
        """Take their reports, note the waiting ones, and replace those that are gone."""
        now = time.monotonic()
        self.tally.hung += self._waits.look(sightings(self._env[MARK], self._serving), now)
        self.tally.longest_wait = self._waits.longest
        for index, member in enumerate(self._members):
            over = member.process.poll()
            self._read(member)
            if over is None:
                continue
            if not member.killed and over != 0:
                with open(member.errors, encoding="utf-8", errors="replace") as file:
                    self.tally.died.append(f"{member.begun}: exit code {over}: {file.read()[-2000:]}")
            if replace and not os.path.exists(self._stop):
                self._members[index] = self._new(member.index)
        self._bury(now)

    def _bury(self, now: float) -> None:
        """Note how long those that were killed have been dying."""
        living = _living_groups() if self._dying else set()
        for group, (since, what) in list(self._dying.items()):
            self.tally.longest_death = max(self.tally.longest_death, (now - since, what))
            if group not in living:
                del self._dying[group]

    def _new(self, index: int) -> _Member:
        self._started += 1
        output, errors = (os.path.join(self._scratch, f"worker-{self._started}.{name}") for name in ("out", "err"))
        seed = f"{self._seed} {self._started}"
        command = [sys.executable, "-m", "tests.soak.worker", self._point, self._journal, self._scratch]
        with open(output, "ab") as out, open(errors, "ab") as err:
            process = subprocess.Popen(
                [*command, ROLES[index], seed],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._env,
                start_new_session=True,
                # Behind a shell's `&` it is ignored.
                preexec_fn=_heed_interrupts,
            )
        return _Member(index, process, output, errors)

    def _read(self, member: _Member) -> None:
        with open(member.output, "rb") as file:
            file.seek(member.read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                member.read_to += len(line)
                told = json.loads(line)
                if "begins" in told:
                    member.begun = told["begins"]
                else:
                    self.tally.take(told)

    def _signal(self, member: _Member, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(member.process.pid, number)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    group: int
    state: str


def _processes(pids: Iterable[int]) -> list[_Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, parent, group = file.read().rpartition(")")[2].split()[:3]
            found.append(_Process(pid, int(parent), int(group), state))
    return found


def _living_groups() -> set[int]:
    """Return the groups with a process that is not gone: one that is about to go has lost its mark already."""
    every = _processes(int(name) for name in os.listdir("/proc") if name.isdecimal())
    return {each.group for each in every if each.state not in "ZX"}


def sightings(mark: str, serving: int) -> list[Sighting]:
    """Return who, of those with the mark, waits for no child: nothing but the mount can keep them."""
    processes = _processes(marked(mark))
    parents = {each.parent for each in processes}
    found = []
    for each in processes:
        if each.pid in parents or each.pid == serving:
            continue
        with contextlib.suppress(OSError), open(f"/proc/{each.pid}/status", encoding="utf-8") as file:
            switches = tuple(int(line.split()[1]) for line in file if "ctxt_switches" in line)
            with open(f"/proc/{each.pid}/cmdline", "rb") as line_file:
                words = line_file.read().decode("utf-8", "replace").rstrip("\0").split("\0")
            what = " ".join(os.path.basename(word) or word for word in words)
            found.append(Sighting(each.pid, each.state, switches, what))
    return found
