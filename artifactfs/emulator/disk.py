"""A directory on the disk as a project: `DIR/<run id>/...`, read live, so that changed files show.

Owns the way from disk to runs and trees. Nothing is remembered between two requests, except for a second the time of
the last change of a run, which takes a traversal of it to find.

A run is running while something in its directory has changed within QUIET_S, and completed at its last change
otherwise: a training on this machine leaves no other sign of its end.

Hard: nothing outside DIR may be served. Symbolic links to directories are left out (which rules out loops), those
to files are followed only to regular files inside DIR, and a path from a request is checked after resolving it.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from artifactfs.emulator.artifact_tree import File, Tree
from artifactfs.emulator.file_bodies import CHUNK
from artifactfs.emulator.model import Project, Row, Run, Source, project_attributes, run_attributes

PROJECT = 1  # the id of the one project that DIR is
QUIET_S = 600.0  # after its last change a run counts as completed; arbitrary, more than most trainings are silent
LOOK_AGAIN_S = 1.0  # how long the time of the last change is remembered: requests for contents ask for it, too


class DiskTree(Tree):
    """The tree below one directory. `inside` is the resolved directory that no file may lie outside of."""

    def __init__(self, root: str, inside: str) -> None:
        self._root = root
        self._inside = inside

    def is_dir(self, path: str) -> bool:
        place = self._place(path)
        return place is not None and os.path.isdir(place)

    def find(self, path: str) -> File | None:
        place = self._place(path)
        return None if place is None else self._file(place)

    def children(self, path: str) -> list[tuple[str, File | None]]:
        place = self._place(path)
        if place is None or not os.path.isdir(place):
            return []
        found: list[tuple[str, File | None]] = []
        with os.scandir(place) as entries:
            for entry in entries:
                if not _is_utf8(entry.name):
                    continue  # Not UTF-8: a name that no JSON answer can carry.
                if entry.is_dir(follow_symlinks=False):
                    found.append((entry.name, None))
                elif file := self._file(entry.path):
                    found.append((entry.name, file))
        return sorted(found, key=lambda item: item[0])

    def walk(self, path: str) -> Iterator[tuple[str, File | None]]:
        for name, file in self.children(path):
            yield name, file
            if file is None:
                below = self.walk(f"{path}/{name}" if path else name)
                yield from ((f"{name}/{rest}", each) for rest, each in below)

    def read(self, path: str, _file: File, start: int, end: int) -> Iterator[memoryview | bytes]:
        # Read in the event loop, without a thread: the page cache answers, and this is a server for one user.
        with open(os.path.join(self._root, path), "rb", buffering=0) as opened:
            while start < end and (piece := os.pread(opened.fileno(), min(CHUNK, end - start), start)):
                yield piece
                start += len(piece)

    def _place(self, path: str) -> str | None:
        """Return where `path` is on the disk, resolved; None if that is outside, or no plain path."""
        if path and ("\0" in path or any(name in ("", ".", "..") for name in path.split("/"))):
            return None
        place = os.path.realpath(os.path.join(self._root, path))
        return place if place == self._inside or place.startswith(self._inside + os.sep) else None

    def _file(self, place: str) -> File | None:
        resolved = os.path.realpath(place)
        if not resolved.startswith(self._inside + os.sep):
            return None
        try:
            status = os.stat(resolved)
        except OSError:
            return None  # Removed since it was listed, or a link to nothing: not there.
        if not stat.S_ISREG(status.st_mode):
            return None
        return File(status.st_size, _timestamp(status.st_mtime), status.st_mtime_ns)


class Disk(Source):
    """The runs below `directory`: its subdirectories with a decimal name. `clock`: seconds since the epoch."""

    def __init__(self, directory: str, clock: Callable[[], float] = time.time) -> None:
        self._directory = os.path.realpath(directory)
        self._clock = clock
        self._lives: dict[int, tuple[float, float, float]] = {}  # by run: when looked, first and last change

    def project(self) -> Project:
        changed = _timestamp(os.stat(self._directory).st_mtime)
        name = os.path.basename(self._directory)
        return Project(PROJECT, project_attributes(PROJECT, name=name, created_at=changed, updated_at=changed))

    def runs(self) -> list[Run]:
        return [
            run
            for name in os.listdir(self._directory)
            if name.isascii() and name.isdecimal() and name[0] != "0" and (run := self.run(int(name)))
        ]

    def run(self, run_id: int) -> Run | None:
        root = os.path.join(self._directory, str(run_id))
        if not os.path.isdir(root) or os.path.islink(root):
            return None
        first_s, last_s = self._life(run_id, root)
        began, changed = _timestamp(first_s), _timestamp(last_s)
        facts: Row = {"created_at": began, "started_at": began, "updated_at": changed}
        if self._clock() - last_s < QUIET_S:
            facts["status"] = "running"
        else:
            facts |= {"completed_at": changed, "duration": last_s - first_s}
        attributes = run_attributes(run_id, PROJECT, **facts)
        return Run(run_id, PROJECT, attributes, DiskTree(root, self._directory), _prefix(run_id))

    def _life(self, run_id: int, root: str) -> tuple[float, float]:
        """Return the first and the last time, since the epoch, at which something in a run has changed."""
        now = self._clock()
        looked_s, first_s, last_s = self._lives.get(run_id, (-LOOK_AGAIN_S, 0.0, 0.0))
        if not 0 <= now - looked_s < LOOK_AGAIN_S:
            times = list(_times(root))
            first_s, last_s = min(times), max(times)
            self._lives[run_id] = (now, first_s, last_s)
        return first_s, last_s

    def run_of(self, prefix: str) -> Run | None:
        digits = prefix.partition("/")[0]
        try:
            run_id = int(digits, 16)
        except ValueError:
            return None
        return self.run(run_id) if prefix == _prefix(run_id) else None


def _times(root: str) -> Iterator[float]:
    """Yield the times of the last change of a directory and of all below it, links not followed."""
    yield os.stat(root).st_mtime
    for directory, directories, names in os.walk(root):
        for name in (*directories, *names):
            with contextlib.suppress(OSError):  # Removed since it was listed.
                yield os.lstat(os.path.join(directory, name)).st_mtime


def _prefix(run_id: int) -> str:
    """Return a run's prefix, of the recorded shape, which identifies the run without listing DIR."""
    return f"{run_id:032x}/artifacts"


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
