"""python -m tests.follow.soak --minutes N: twenty files that live, followed by five programs each.

Emulators, four by default, each in a form of its own, with five files in one directory of one mount. Each file grows by
1 byte to 1 MiB every 0.2 to 20 s; now and then it is replaced, by a longer one or a shorter one, or truncated; and the
service fails. At the end nothing changes any more, and every program must have come to the end of the last version,
with no byte that is not of the version that it was in (follower.py). The requests are counted: a listing a directory
and `live_ttl`, content for what is new and its proof.

`--local` does the same in a local directory: what fails there is the soak's own fault.
"""

import argparse
import contextlib
import heapq
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.follow.places import FORMS, LabPlace, LocalPlace, Place, lab_place
from tests.follow.truth import LINE_BYTES, Version, content
from tests.harness import CHECKOUT, Lab, Shell
from tests.soak.watch import log_faults

FILES = 5  # of each place
LIVE_TTL_S = 5.0
MIB = 1 << 20
DEFAULT_FORMS = ("validators", "lags", "ahead-validators", "no-ranges")
# Of a hundred changes; the others are appends.
REPLACEMENTS, TRUNCATIONS = 4, 3
LARGEST_BYTES = 24 * MIB  # a file beyond this is replaced: `cat` and rsync read all of it each time
FAULT_EVERY_S, FAULT_LASTS_S = 20.0, 3.0
FAULTS: tuple[Mapping[str, Any], ...] = (
    {"match": {"kind": "listing"}, "then": {"status": 503}},
    {"match": {"kind": "content"}, "then": {"status": 500}},
    {"match": {"kind": "content"}, "then": {"cut_after": 1000}, "times": 3},
    {"match": {"kind": "content"}, "then": {"reset_after": 1}, "times": 3},
    {"match": {"kind": "any"}, "then": {"rate_limit": {"reset_s": 2}}, "times": 2},
    {"match": {"kind": "any"}, "then": {"delay_s": 1.0}},
)
END_S = 90.0
# What is read to prove that a file has grown: its first block and the last that was known, at most.
PROOF_BYTES = 2 * (512 << 10)


@dataclass
class LiveFile:
    """One file, and the process that follows it."""

    place: Place
    name: str
    journal: str
    version: int = 0
    size: int = 0
    changes: Counter[str] = field(default_factory=Counter)

    def change(self, rng: random.Random) -> int:
        """Let something happen to the file. Returns the bytes that have to be read to have it all again."""
        chance = rng.randrange(100)
        if self.version == 0 or chance < REPLACEMENTS or self.size > LARGEST_BYTES:
            longer = self.size + 1 if chance % 2 and self.size < LARGEST_BYTES else 1
            return self._replace(longer + _drawn(rng, LINE_BYTES, MIB))
        if chance < REPLACEMENTS + TRUNCATIONS and self.size > LINE_BYTES:
            return self._truncate(rng.randrange(LINE_BYTES, self.size))
        return self._append(_drawn(rng, 1, MIB))

    def _append(self, count: int) -> int:
        self.changes["append"] += 1
        self.place.append(self.name, content(self.version, self.size, self.size + count))
        self.size += count
        return count

    def _replace(self, size: int) -> int:
        self._begin(Version(self.version + 1), "replace")
        change = self.place.append if self.version == 1 else self.place.replace
        change(self.name, content(self.version, 0, size))
        self.size = size
        return size

    def _truncate(self, size: int) -> int:
        self._begin(Version(self.version + 1, self.version, size), "truncate")
        self.place.truncate(self.name, size)
        self.size = size
        return size

    def _begin(self, version: Version, how: str) -> None:
        self.changes[how] += 1
        with open(self.journal, "a", encoding="ascii") as file:
            file.write(version.line())
        self.version = version.number


@dataclass(frozen=True)
class CutByReplacing(LocalPlace):
    """A local directory where a file that is cut is another file, as in a mount."""

    def truncate(self, name: str, size: int) -> None:
        with open(self.path(name), "rb") as file:
            self.replace(name, file.read(size))


@dataclass
class Traffic:
    """The requests of one mount, taken from the emulator before it forgets them.

    Listings of the followed run alone: a search of the whole machine enters the mount, too, and lists all of its runs.
    """

    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    content_bytes: int = 0

    def take(self, lab: Lab, run_id: int) -> None:
        """Count what was asked since the last time."""
        stats = lab.reset()
        for entry in stats["log"]:
            if entry["kind"] == "listing" and f"/runs/{run_id}/" not in entry["path"]:
                continue
            (self.answered if (entry["status"] or 599) < 400 else self.failed)[entry["kind"]] += 1
        self.content_bytes += stats["content_bytes"]


@dataclass
class Followed:
    """One place with its files: a mount of an emulator, or a local directory."""

    form: str
    files: list[LiveFile]
    lab: Lab | None = None
    traffic: Traffic = field(default_factory=Traffic)
    new_bytes: int = 0

    def verdicts(self, seconds: float, proof_bytes: int) -> Iterator[tuple[str, float, float]]:
        """Yield what was counted: its name, how much it was, and how much it may be."""
        changes = sum((file.changes for file in self.files), Counter[str]())
        versions = changes["replace"] + changes["truncate"]
        listings = self.traffic.answered["listing"]
        # A version that is gone has its directory listed again, once by who opens it and once by who has it open.
        yield "listings answered", listings, seconds / LIVE_TTL_S + 2 * versions + 2
        if "ranges" not in FORMS[self.form]:
            # Each file may have grown at each listing.
            proofs = min(changes.total(), listings * len(self.files)) * proof_bytes
            yield "bytes of content", self.traffic.content_bytes, self.new_bytes + proofs


def _drawn(rng: random.Random, low: float, high: float) -> int:
    return round(low * math.exp(rng.uniform(0, math.log(high / low))))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def places(directory: str, forms: Sequence[str], local: bool) -> Iterator[list[Followed]]:
    """Start the emulators and mount them; at the end nothing is left."""

    def files(place: Place, form: str) -> list[LiveFile]:
        return [LiveFile(place, f"{n}.log", os.path.join(directory, f"{form}-{n}.journal")) for n in range(FILES)]

    with contextlib.ExitStack() as stack:
        found = []
        for form in forms:
            if local:
                here = os.path.join(directory, form)
                os.mkdir(here)
                found.append(Followed(form, files(CutByReplacing(here), form)))
                continue
            lab = Lab(*(word for name, value in FORMS[form].items() for word in ("--switch", f"{name}={value}")))
            stack.callback(lab.close)
            shell = Shell(os.path.join(directory, form), lab)
            stack.callback(shell.close)
            mounted = shell.mount("--live-ttl", f"{LIVE_TTL_S:g}s", "--deadline", "10s")
            mounted.log.announce("", optional=True)
            found.append(Followed(form, files(lab_place(lab, mounted), form), lab))
        yield found


def live(followed: list[Followed], minutes: float, rng: random.Random) -> None:
    """Let the files live for so long: changes, faults, and the count of requests."""
    start = time.monotonic()
    due = [(start + rng.uniform(0, 5), number) for number in range(len(followed) * FILES)]
    heapq.heapify(due)
    fault_at, heal_at, count_at = start + FAULT_EVERY_S, float("inf"), start
    labs = [each.lab for each in followed if each.lab is not None]
    while (now := time.monotonic()) < start + minutes * 60:
        if due[0][0] <= now:
            at, number = heapq.heappop(due)
            place = followed[number // FILES]
            place.new_bytes += place.files[number % FILES].change(rng)
            heapq.heappush(due, (max(at, now - 1) + 0.2 * 100 ** rng.random(), number))
        if now >= heal_at:
            for lab in labs:
                lab.faults()
            heal_at = float("inf")
        if now >= fault_at:
            for lab in labs:
                lab.faults(rng.choice(FAULTS))
            fault_at, heal_at = now + FAULT_EVERY_S, now + FAULT_LASTS_S
        if now >= count_at:
            take(followed)
            count_at = now + 2.0
        time.sleep(max(0.0, min(0.1, due[0][0] - time.monotonic())))
    for lab in labs:
        lab.faults()


def take(followed: list[Followed]) -> None:
    """Count the requests since the last time."""
    for each in followed:
        place = each.files[0].place
        if isinstance(place, LabPlace):
            each.traffic.take(place.lab, place.run_id)


def soak(
    directory: str, minutes: float, seed: int, *, forms: Sequence[str], local: bool, proof_bytes: int
) -> list[str]:
    """Run it. Returns all that is wrong."""
    rng, wrong = random.Random(seed), []
    with places(directory, forms, local) as followed:
        files = [file for each in followed for file in each.files]
        for each in followed:
            each.new_bytes += sum(file.change(rng) for file in each.files)
        with contextlib.ExitStack() as stack:
            followers = []
            for number, file in enumerate(files):
                scratch = os.path.join(directory, f"scratch-{number}")
                os.mkdir(scratch)
                followers.append(stack.enter_context(_follower(file, scratch)))
            start = time.monotonic()
            live(followed, minutes, rng)
            seconds = time.monotonic() - start
            take(followed)
            for file, follower in zip(files, followers, strict=True):
                assert follower.stdin is not None
                follower.stdin.write(json.dumps({"version": file.version, "size": file.size}).encode() + b"\n")
                follower.stdin.flush()
            for file, follower in zip(files, followers, strict=True):
                wrong += _result(file, follower)
        for each in followed:
            if each.lab is None:
                continue
            counted = {"answered": dict(each.traffic.answered), "failed": dict(each.traffic.failed)}
            _say(f"{each.form}: {each.new_bytes} bytes new, {each.traffic.content_bytes} sent; requests {counted}")
            for name, count, most in each.verdicts(seconds, proof_bytes):
                _say(f"{each.form}: {name}: {count:.0f}, at most {most:.0f}")
                if count > most:
                    wrong.append(f"{each.form}: {count:.0f} {name}, at most {most:.0f}")
            place = each.files[0].place
            assert isinstance(place, LabPlace)
            wrong += [f"{each.form}: {line}" for line in log_faults(place.mount.log.lines())]
    return wrong


@contextlib.contextmanager
def _follower(file: LiveFile, scratch: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "tests.follow.follower", file.place.path(file.name), file.journal, scratch]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT, start_new_session=True
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


def _result(file: LiveFile, follower: "subprocess.Popen[bytes]") -> list[str]:
    try:
        out, _ = follower.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        return [f"{file.place.path(file.name)}: its followers hang"]
    report = json.loads(out)
    _say(f"{report['path']}: {dict(file.changes)}, errors {report['errors']}, bytes {report['bytes']}")
    return [f"{report['path']}: {each}" for each in report["wrong"]]


def main() -> int:
    """Soak; print what was seen; return 0 if all is right."""
    parser = argparse.ArgumentParser(prog="python -m tests.follow.soak", description="Twenty live files are followed.")
    parser.add_argument("--minutes", type=float, default=10.0, help="[10]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="[random]")
    parser.add_argument(
        "--forms", default=",".join(DEFAULT_FORMS), help=f"of the servers: some of {', '.join(FORMS)} [%(default)s]"
    )
    parser.add_argument("--local", action="store_true", help="in a local directory, without a mount")
    parser.add_argument("--proof-bytes", type=int, default=PROOF_BYTES, help=f"of one growth, at most [{PROOF_BYTES}]")
    given = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="artifactfs-follow-")
    _say(f"{given.minutes:g} minutes, seed {given.seed}, in {directory}")
    forms = given.forms.split(",")
    if unknown := set(forms) - set(FORMS):
        parser.error(f"no such form: {', '.join(sorted(unknown))}")
    wrong = soak(directory, given.minutes, given.seed, forms=forms, local=given.local, proof_bytes=given.proof_bytes)
    for each in wrong:
        _say(f"WRONG: {each}")
    _say(f"{len(wrong)} wrong")
    if not wrong:
        shutil.rmtree(directory)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
