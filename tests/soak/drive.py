"""A soak from its beginning to its end: the lab, the mount, the plan carried out, and what is found when all is quiet.

    warm-up     the crew works, with faults and all, so that whatever fills itself is full: then the first look
    the plan    the minutes that were asked for
    the end     no faults any more: the second look, everything read once, umount

The crew stops for each look, and the service is at rest.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.harness import Shell
from tests.processes import mount_type, run, wait_until
from tests.soak.crew import Crew
from tests.soak.journal import Journal, State
from tests.soak.plan import CONSTANT_FORMS, Event, Facts, plan
from tests.soak.server import SoakLab
from tests.soak.verdict import WAIT_DEADLINES, Ending, Figures, Result
from tests.soak.watch import Holdings, cache_state, holdings, log_faults, log_levels

# Of the mount: short times, so that much expires; a cache that holds a tenth of what there is.
DEADLINE_S = 5.0
FINISHED_TTL_S = 30.0
CACHE_SIZE = 16 << 20
OPTIONS = (
    "--deadline", f"{DEADLINE_S:g}s", "--listing-ttl", "5s", "--finished-ttl", f"{FINISHED_TTL_S:g}s", "--negative-ttl",
    "1s", "--cache-size", str(CACHE_SIZE), "--cache-min-free", "0",
)  # fmt: skip
WARM_UP_S = 45.0
LOOK_S = 0.25
# A program is many calls; one that makes some progress with each is no hang. Arbitrary.
PROGRAM_S = 120.0
# How long the mount may take to show what the service is: what it may trust, and its own deadlines.
SETTLE_S = FINISHED_TTL_S + 4 * DEADLINE_S

FINISHED_RUNS, RUNNING_RUNS = 4, 4
PROJECTS = (70, 71)


@dataclass
class Soak:
    """One soak in `directory`, which must be empty. Say where it is through `say`."""

    directory: str
    seed: int
    minutes: float
    say: Callable[[str], None]
    events: Counter[str] = field(default_factory=Counter)
    most_cached: int = 0
    rss_by_minute: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed} tree")
        self.journal = Journal(os.path.join(self.directory, "journal"))
        self.counts = os.path.join(self.directory, "faults")
        self.scratch = os.path.join(self.directory, "scratch")
        self.up_at: float | None = None
        self.began = 0.0
        self.next_run = 1000
        self.next_file = 0
        self.actions: dict[str, Callable[[Facts], None]] = {
            "faults": self.set_faults, "forms": self.set_forms, "outage": self.begin_outage,
            "change": self.change, "finish": self.finish, "delete": self.delete, "hangup": self.hang_up,
            "kill": self.kill_worker,
        }  # fmt: skip

    def go(self) -> Result:
        """Run it. Whatever happens, nothing is left mounted and no process running."""
        os.mkdir(self.scratch)
        self._make_tree()
        forms = {name: self.rng.choice(values) for name, values in CONSTANT_FORMS.items()}
        switches = [word for name, value in forms.items() for word in ("--switch", f"{name}={value}")]
        self.lab = SoakLab("--journal", self.journal.path, self.counts, *switches)
        self.shell = Shell(self.directory, self.lab)
        try:
            self.mount = self.shell.mount(*OPTIONS)
            self.pid = self.mount.pid
            limit_s = WAIT_DEADLINES * DEADLINE_S
            env = self.shell.env
            self.crew = Crew(self.mount.point, self.pid, self.journal.path, self.scratch, self.seed, env, limit_s)
            try:
                return self._phases()
            finally:
                self.crew.abort()
        finally:
            self.lab.close()
            close(self.shell)

    def _phases(self) -> Result:
        self.say(f"warm-up, {WARM_UP_S:g} s")
        # Another seed: the plan itself begins with the minutes that count.
        self._work(self.seed + 1, WARM_UP_S / 60.0)
        before = self._rest()
        self.events.clear()
        self.say(f"at rest: {before.rss_kib >> 10} MiB; now {self.minutes:g} minutes")
        self._work(self.seed, self.minutes)
        after = self._rest()
        self.say("the end: everything is read once")
        differences = self._differences()
        ending = self._end(differences)
        # After the end: what is being written while a process looks cannot be counted.
        cache, lines = cache_state(self._cache), self.mount.log.lines()
        figures = Figures(
            self.crew.tally, DEADLINE_S, before, after, CACHE_SIZE, self.most_cached, cache, log_faults(lines), ending
        )
        with open(self.counts, encoding="ascii") as file:
            faults = Counter(file.read().splitlines())
        return Result(figures, self.events, faults, log_levels(lines), self.rss_by_minute)

    # --- phases -----------------------------------------------------------------------------------

    def _work(self, seed: int, minutes: float) -> None:
        """Let the crew work while the plan happens."""
        self.crew.start()
        start = self.began = time.monotonic()
        self.rss_by_minute.clear()
        for event in plan(seed, minutes):
            self._until(start + event.at_s)
            self._happen(event)
        self._until(start + minutes * 60.0)
        self._end_outage()
        self.lab.settle()
        self.crew.stop(PROGRAM_S)

    def _until(self, when: float) -> None:
        while (left := when - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_S))
            if self.up_at is not None and time.monotonic() >= self.up_at:
                self._end_outage()
            self.crew.look()
            self.most_cached = max(self.most_cached, cache_state(self._cache).size_bytes)
            if time.monotonic() >= self.began + 60.0 * (len(self.rss_by_minute) + 1):
                self.rss_by_minute.append(holdings(self.pid).rss_kib)

    def _happen(self, event: Event) -> None:
        self.events[event.kind] += 1
        self.actions[event.kind](event.facts)

    def _rest(self) -> Holdings:
        """Wait until the service has nothing to do for the mount, and look at what the mount holds."""
        wait_until(lambda: self.lab.stats()["in_flight"] == 0, "the end of all requests", SETTLE_S)
        wait_until(lambda: not cache_state(self._cache).aside, "the end of all writing", SETTLE_S)
        return holdings(self.pid)

    def _differences(self) -> list[str]:
        """Hold all of the mount against the journal until they agree, or as long as an old listing may be trusted."""
        self.mount.log.announce("", optional=True)
        end = time.monotonic() + SETTLE_S
        self.hang_up({})
        while True:
            command = [sys.executable, "-m", "tests.soak.worker", self.mount.point, self.journal.path, self.scratch]
            found: list[str] = json.loads(run(*command, "everything", "0", limit_s=PROGRAM_S).ok().out)
            if not found or time.monotonic() >= end:
                return found

    def _end(self, differences: list[str]) -> Ending:
        done = self.shell.cli("umount", self.mount.point)
        left = [] if mount_type(self.mount.point) is None else [f"{self.mount.point} is mounted"]
        left += [f"process {pid}" for pid in self.shell.processes()]
        return Ending(differences, done.code, done.seconds, left)

    @property
    def _cache(self) -> str:
        return os.path.join(self.directory, "cache", "artifactfs")

    # --- what happens -----------------------------------------------------------------------------

    def set_faults(self, facts: Facts) -> None:
        if self.up_at is None:
            self.lab.faults(*facts["rules"])

    def set_forms(self, facts: Facts) -> None:
        if self.up_at is None:
            self.lab.switch(**{**self.lab.ordinary, **facts["switches"]})

    def begin_outage(self, facts: Facts) -> None:
        """Kill the service; it comes back at the same port, with no faults."""
        if self.up_at is None:
            self.lab.stop()
            self.up_at = time.monotonic() + facts["lasts_s"]

    def _end_outage(self) -> None:
        if self.up_at is not None:
            self.lab.start()
            self.up_at = None

    def hang_up(self, _: Facts) -> None:
        os.kill(self.pid, 1)

    def kill_worker(self, facts: Facts) -> None:
        self.crew.kill(facts["pick"], facts["signal"])

    def change(self, facts: Facts) -> None:
        """Let a file of a run that goes on come, change, grow or go."""
        run_id = self._running(facts["pick"])
        truth = self.journal.runs[run_id]
        passing = sorted(path for path in truth.files if path.startswith("passing/"))
        path = _picked(passing if facts["how"] == "remove" else sorted(truth.files), facts["pick"])
        if facts["how"] == "add" or path is None:
            self.next_file += 1
            self._set(run_id, f"passing/new-{self.next_file}.bin", facts["size"], 0, "add")
            return
        state = truth.files[path]
        if facts["how"] == "remove":
            self.journal.set_file(run_id, path, None)
            self._tell("files", run_id, remove=[path])
        elif facts["how"] == "grow":
            self._set(run_id, path, state.size + facts["size"] // 10 + 1, state.content, "grow")
        else:
            self._set(run_id, path, facts["size"], state.content + 1, "change")

    def finish(self, facts: Facts) -> None:
        """Let a run finish; another one begins."""
        run_id = self._running(facts["pick"])
        self._tell_run(run_id, status=random.Random(facts["pick"]).choice(("completed", "failed", "killed")))
        self._new_run("running")

    def delete(self, facts: Facts) -> None:
        """Let a run be deleted; another one begins."""
        run_id = self._running(facts["pick"])
        truth = self.journal.runs[run_id]
        self.journal.set_run(run_id, truth.project, truth.told, deleted=True)
        self._tell("change_run", run_id, delete=True)
        self._new_run("running")

    # --- the tree ---------------------------------------------------------------------------------

    def _make_tree(self) -> None:
        for status in ["completed"] * FINISHED_RUNS + ["running"] * RUNNING_RUNS:
            self._new_run(status)

    def _new_run(self, status: str) -> None:
        run_id = self.next_run
        self.next_run += 1
        now = _now()
        # Finished long ago, so that its listing counts as one that stays.
        told = {"status": status, "name": f"soak {run_id}", "created_at": now, "started_at": now, "updated_at": now}
        if status == "completed":
            told |= dict.fromkeys(("created_at", "started_at", "updated_at", "completed_at"), "2026-05-16T09:00:00Z")
        project = PROJECTS[run_id % len(PROJECTS)]
        self.journal.set_run(run_id, project, told)
        sizes = {
            "weights/model.bin": 12_000_000,
            "weights/optimizer.bin": 5_000_000,
            "log.txt": 200_000,
            "empty.bin": 0,
        }
        sizes |= {f"metrics/m{i:02d}.json": self.rng.randrange(200, 8_000) for i in range(12)}
        sizes |= {
            f"checkpoints/c{i}/part-{j}.bin": self.rng.randrange(1, 1_500_000) for i in range(4) for j in range(3)
        }
        for path, size in sizes.items():
            self.journal.set_file(run_id, path, State(size, 0, now))
        # At once: a caller that lists it sees all of it.
        first = {path: {"size": size, "created_at": now} for path, size in sizes.items()}
        self._tell("files", run_id, project=project, add=first)
        self._tell("change_run", run_id, set=told)
        self.journal.settle(run_id)

    def _set(self, run_id: int, path: str, size: int, content: int, how: str) -> None:
        """Give a file a state, in the journal and then in the service. No size comes twice."""
        truth = self.journal.runs[run_id]
        while size in truth.sizes.get(path, {}):
            size += 1
        old = truth.files.get(path)
        state = State(size, content, _now())
        self.journal.set_file(run_id, path, state)
        if how == "grow" and old is not None:
            self._tell("files", run_id, append={path: size - old.size}, touch={path: state.created_at})
        else:
            self._tell("files", run_id, **{how: {path: {"size": size, "created_at": state.created_at}}})

    def _tell_run(self, run_id: int, **told: str) -> None:
        truth = self.journal.runs[run_id]
        now = _now()
        changed = {**told, "updated_at": now, "completed_at": now}
        self.journal.set_run(run_id, truth.project, truth.told | changed, deleted=truth.deleted)
        self._tell("change_run", run_id, set=changed)

    def _tell(self, order: str, run_id: int, **facts: object) -> None:
        """Tell the service, unless it is down: then it comes back with the journal."""
        if hasattr(self, "lab") and self.up_at is None:
            getattr(self.lab, order)(run_id, **facts)

    def _running(self, pick: float) -> int:
        going_on = [run_id for run_id, truth in self.journal.runs.items() if not truth.finished and not truth.deleted]
        return going_on[int(pick * len(going_on))]


def _picked(names: list[str], pick: float) -> str | None:
    return names[int(pick * 7919 % 1.0 * len(names))] if names else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def close(shell: Shell) -> None:
    """End what is left of the mount and its processes, by force; the log was judged already."""
    for mounted in shell.mounts:
        mounted.log.announce("", optional=True)
    shell.close()
