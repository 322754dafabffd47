"""Ways to look at the tree: nothing may be shown that never was, nothing missed that always was."""

import os
import random
import re
import stat
import subprocess
from dataclasses import dataclass

from tests.soak.journal import Journal
from tests.soak.reading import Stopwatch, Wrong, raise_of

STATS = 30  # of one look; arbitrary


@dataclass
class Walker:
    """Looks at what is below `point`. A file that was not opened yet may show size 0 (semantics.md 2.2)."""

    point: str
    journal: Journal
    watch: Stopwatch
    rng: random.Random

    def place(self, run: int, path: str = "") -> str:
        return os.path.join(self.point, "runs", str(run), path)

    def find(self, run: int, _path: str) -> int:
        """`find`, with the type and size of everything."""
        always = self.journal.always(run)
        command = ["find", self.place(run), "-printf", r"%y\t%s\t%P\0"]
        done = subprocess.run(command, capture_output=True, check=False)
        found = set()
        for row in done.stdout.decode().split("\0")[:-1]:
            kind, size, path = row.split("\t")
            if path:
                self._check(run, path, kind == "d", int(size))
                found.add(path)
        raise_of(done, always & self.journal.always(run))
        self._check_whole(run, always, found)
        return 0

    def scan(self, run: int, _path: str) -> int:
        """The same by system calls."""
        always = self.journal.always(run)
        found, waiting = set(), [""]
        while waiting:
            above = waiting.pop()
            for name in self.watch(os.listdir, self.place(run, above)):
                path = os.path.join(above, name)
                status = self.watch(os.lstat, self.place(run, path))
                self._check(run, path, stat.S_ISDIR(status.st_mode), status.st_size)
                found.add(path)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
        self._check_whole(run, always, found)
        return 0

    def ls(self, run: int, _path: str) -> int:
        """`ls -lR` of a run, or `ls -l` of what is ours above the runs."""
        if self.rng.random() < 0.7:
            place = ["-lR", self.place(run)]
        else:
            ours = ["", *self.watch(os.listdir, self.point)]
            place = ["-lL", os.path.join(self.point, self.rng.choice(ours))]
        done = subprocess.run(["ls", *place], capture_output=True, check=False)
        raise_of(done, self.journal.always(run))
        return 0

    def stat(self, _run: int, _path: str) -> int:
        """`stat` of files anywhere, of the mount's root and its size."""
        self.watch(os.statvfs, self.point)
        self.watch(os.stat, self.point)
        for run, path in self.rng.choices(self.journal.places(readable=False), k=STATS):
            status = self.watch(os.stat, self.place(run, path))
            self._check(run, path, stat.S_ISDIR(status.st_mode), status.st_size)
        return 0

    def absent(self, run: int, path: str) -> int:
        """Names that were never there, beside one that is."""
        name = self.place(run, f"{path}.{self.rng.randrange(1000)}")
        try:
            self.watch(os.stat, name)
        except FileNotFoundError:
            return 0
        raise Wrong(f"{name} is there, and never was")

    def _check(self, run: int, path: str, is_dir: bool, size: int) -> None:
        if self._known(run, path, is_dir, size):
            return
        self.journal.refresh()
        if not self._known(run, path, is_dir, size):
            kind = "directory" if is_dir else f"file of {size} bytes"
            raise Wrong(f"{path} in run {run} is shown as a {kind}, which it never was")

    def _known(self, run: int, path: str, is_dir: bool, size: int) -> bool:
        sizes = self.journal.runs[run].sizes
        if is_dir:
            return any(known.startswith(f"{path}/") for known in sizes)
        return path in sizes and (size == 0 or size in sizes[path])

    def _check_whole(self, run: int, before: frozenset[str], found: set[str]) -> None:
        """What was there before the walk, and still is, has to be in it."""
        if missed := (before & self.journal.always(run)) - found:
            raise Wrong(f"vanished: {len(missed)} of {len(before)} from run {run}, {min(missed)} for one")


def is_missing(error: OSError, point: str, journal: Journal) -> bool:
    """Say whether ENOENT was answered for a path that is always there."""
    match = re.fullmatch(re.escape(os.path.join(point, "runs")) + r"/(\d+)(?:/(.*))?", str(error.filename))
    if match is None:
        return error.filename is not None
    run, path = int(match[1]), match[2] or ""
    return any(not path or f"{known}/".startswith(f"{path}/") for known in journal.always(run))
