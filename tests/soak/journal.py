"""The journal: every state that every file of the soak's lab has had, as lines of JSON in one file.

The driver writes a line before the service changes; the workers and each new server process read it. So whatever the
mount shows, fresh or stale, is in it, and what is not in it was invented.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from artifactfs.emulator import file_bodies

# After this a mount must know of a run that a process looked for too early: its negative_ttl (drive.py) and a margin.
KNOWN_S = 3.0


@dataclass(frozen=True)
class State:
    """What a file is: `size` in bytes, `content` the number of its content (it stays where a file grows)."""

    size: int
    content: int
    created_at: str


@dataclass
class RunTruth:
    """One run: its attributes, the files that it has, all sizes that they ever had, and what it always has.

    `settled_at`: since when the service has it, in seconds since the epoch; `always`: the files that it had then.
    """

    project: int
    told: dict[str, str] = field(default_factory=dict)
    deleted: bool = False
    files: dict[str, State] = field(default_factory=dict)
    sizes: dict[str, dict[int, int]] = field(default_factory=dict)  # path -> size -> content
    settled_at: float = float("inf")
    always: frozenset[str] = frozenset()

    @property
    def finished(self) -> bool:
        return self.told.get("status") not in ("running", "pending")


class Journal:
    """The file, and what its lines say so far. Several processes read, one writes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.runs: dict[int, RunTruth] = {}
        self._read_to = 0

    # --- writing ----------------------------------------------------------------------------------

    def set_run(self, run: int, project: int, told: dict[str, str], *, deleted: bool = False) -> None:
        """Note the attributes of a run from now on."""
        self._note({"run": run, "project": project, "told": told, "deleted": deleted})

    def set_file(self, run: int, path: str, state: State | None) -> None:
        """Note what a file is from now on; None: it is gone."""
        told = None if state is None else [state.size, state.content, state.created_at]
        self._note({"run": run, "path": path, "state": told})

    def settle(self, run: int) -> None:
        """Note that the service has a run: the files that it has now are never taken away."""
        self._note({"run": run, "settled_at": time.time()})

    def _note(self, entry: dict[str, object]) -> None:
        # One write: a reader sees a line whole, or its beginning without an end.
        with open(self.path, "ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")
        self.refresh()

    # --- reading ----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read what was noted since."""
        if not os.path.exists(self.path) or os.stat(self.path).st_size == self._read_to:
            return
        with open(self.path, "rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        if "settled_at" in entry:
            run = self.runs[entry["run"]]
            run.settled_at, run.always = entry["settled_at"], frozenset(run.files)
            return
        if "path" not in entry:
            run = self.runs.setdefault(entry["run"], RunTruth(entry["project"]))
            run.told, run.deleted = entry["told"], entry["deleted"]
            return
        run, path = self.runs[entry["run"]], entry["path"]
        if entry["state"] is None:
            run.files.pop(path, None)
            return
        state = State(*entry["state"])
        run.files[path] = state
        run.sizes.setdefault(path, {})[state.size] = state.content

    def content_of(self, run: int, path: str, size: int) -> int | None:
        """Return the number of the content that a file had when it had this size; None if it never had."""
        found = self._content_of(run, path, size)
        if found is None:
            self.refresh()
            found = self._content_of(run, path, size)
        return found

    def _content_of(self, run: int, path: str, size: int) -> int | None:
        truth = self.runs.get(run)
        return None if truth is None else truth.sizes.get(path, {}).get(size)

    def always(self, run: int) -> frozenset[str]:
        """Return the paths of a run that no look may miss, if one could know of it by now.

        What came later may be missed for as long as an old listing may be shown: for an hour while the service fails.
        """
        self.refresh()
        truth = self.runs.get(run)
        if truth is None or truth.deleted or time.time() < truth.settled_at + KNOWN_S:
            return frozenset()
        return truth.always

    def places(self, *, readable: bool = True) -> list[tuple[int, str]]:
        """Return (run, path) of every file that is there; `readable`: without the empty ones."""
        return [
            (run, path)
            for run, truth in self.runs.items()
            if not truth.deleted
            for path, state in truth.files.items()
            if state.size or not readable
        ]


def pieces(run: int, path: str, content: int, size: int, start: int, end: int) -> Iterator[memoryview]:
    """Yield the bytes [start, end) that the service has for one version of a file."""
    return file_bodies.pieces(path, seed(run, path, content), size, start, end)


def seed(run: int, path: str, content: int) -> int:
    """Return what the emulator makes a file's bytes from (see its MemoryTree)."""
    return file_bodies.seed(f"run {run}/{path}#{content}")


def true_bytes(run: int, path: str, content: int, size: int, start: int, end: int) -> bytes:
    """Return the bytes [start, end) of one version, cut at its end."""
    return b"".join(pieces(run, path, content, size, min(start, size), min(end, size)))
