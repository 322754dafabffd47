"""python -m tests.soak.worker POINT JOURNAL SCRATCH ROLE SEED: one process that uses the mount until asked to stop.

Writes a line of JSON when it begins something and another when that is over. Ends when the file SCRATCH/stop is there.
With the role `everything` it looks at all there is once, and prints how that differs from the journal.
"""

import errno
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence

from tests.soak.journal import Journal, true_bytes
from tests.soak.reading import PIECE, Killed, Reader, Stopwatch, Wrong
from tests.soak.walking import Walker, is_missing

Way = Callable[[int, str], int]

# The file that many read at once changes this often, and this share of all looks goes there. Arbitrary.
HOT_S = 3.0
HOT_SHARE = 0.3


class Worker:
    """One role: what it does, again and again."""

    def __init__(self, point: str, journal_path: str, scratch: str, role: str, seed: str) -> None:
        self.point, self.role = point, role
        self.rng = random.Random(seed)
        self.journal = Journal(journal_path)
        self.watch = Stopwatch()
        reader = Reader(point, self.journal, self.watch, self.rng, scratch)
        walker = Walker(point, self.journal, self.watch, self.rng)
        self.ways: dict[str, Way] = {
            "sequential": reader.sequential, "backwards": reader.backwards, "random": reader.random,
            "direct": reader.direct, "sendfile": reader.sendfile, "mapped": reader.mapped,
            "cat": reader.cat, "cp": reader.cp,
            "find": walker.find, "scan": walker.scan, "ls": walker.ls, "stat": walker.stat, "absent": walker.absent,
        }  # fmt: skip

    def choose(self) -> tuple[str, int, str]:
        """Return what to do next, and with which file."""
        places = self.journal.places()
        if self.role == "hot" or self.rng.random() < HOT_SHARE:
            # The same for all workers, without a word between them.
            run, path = random.Random(time.time() // HOT_S).choice(places)
        else:
            run, path = self.rng.choice(places)
        way = self.rng.choice(("sequential", "backwards", "random", "cat")) if self.role == "hot" else self.role
        return way, run, path

    def once(self, way: str, run: int, path: str) -> dict[str, object]:
        """Do it, and return what came of it."""
        self.watch.name, self.watch.seconds = "", 0.0
        start = time.monotonic()
        told: dict[str, object] = {"way": way, "bytes": 0, "error": None, "wrong": None}
        try:
            told["bytes"] = self.ways[way](run, path)
        except Wrong as wrong:
            told["wrong"] = str(wrong)
        except Killed as killed:
            told["error"] = str(killed)
        except OSError as error:
            told["error"] = errno.errorcode.get(error.errno or 0, str(error))
            told["what"] = str(error)[-300:]
            if error.errno == errno.ENOENT and error.filename and is_missing(error, self.point, self.journal):
                told["wrong"] = f"vanished: {error.filename}"
        return told | {"s": time.monotonic() - start, "call": self.watch.name, "call_s": self.watch.seconds}

    def work(self, stop: str) -> None:
        """Go on until the file `stop` is there, or the driver is gone."""
        driver = os.getppid()
        while not os.path.exists(stop) and os.getppid() == driver:
            self.journal.refresh()
            way, run, path = self.choose()
            say({"begins": f"{way} {run}/{path}"})
            say(self.once(way, run, path))


def differences(point: str, journal: Journal) -> list[str]:
    """Read the whole mount; return how it differs from what the service has now."""
    journal.refresh()
    found = []
    shown = set(os.listdir(os.path.join(point, "runs")))
    for run, truth in sorted(journal.runs.items()):
        if truth.deleted:
            found += [f"run {run} is deleted and shown"] if str(run) in shown else []
            continue
        top = os.path.join(point, "runs", str(run))
        names = {
            os.path.relpath(os.path.join(above, name), top)
            for above, _, files in os.walk(top, onerror=_raise)
            for name in files
        }
        found += [f"{run}/{path}: only on one side" for path in sorted(names ^ set(truth.files))]
        for path in sorted(names & set(truth.files)):
            state = truth.files[path]
            with open(os.path.join(top, path), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                offset = 0
                while (data := file.read(PIECE)) and data == true_bytes(
                    run, path, state.content, state.size, offset, offset + PIECE
                ):
                    offset += len(data)
            if offset != state.size or size != state.size:
                found.append(f"{run}/{path}: size {size}, right up to {offset} of {state.size}")
    return found


def _raise(error: OSError) -> None:
    raise error


def say(told: object) -> None:
    """Write one line, at once."""
    os.write(1, json.dumps(told).encode() + b"\n")


def main(arguments: Sequence[str]) -> None:
    """See the module's docstring."""
    point, journal_path, scratch, role, seed = arguments
    # Python would make an exception of it, that a way to read might take for the mount's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if role == "everything":
        try:
            say(differences(point, Journal(journal_path)))
        except OSError as error:
            say([str(error)])
        return
    Worker(point, journal_path, scratch, role, seed).work(os.path.join(scratch, "stop"))


if __name__ == "__main__":
    main(sys.argv[1:])
