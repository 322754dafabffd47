"""What tests of real mounts stand on: the command line, and mounts that other processes look at.

Owns processes and mounts: whatever is started here carries a mark in its environment, is found by it, and is gone
at the end. Nothing in this process ever touches a mount: a wedged one would hang the whole suite (pitfalls: D state).
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import forked
from tests.checklogs import LogCheck
from tests.lab import Lab, Truth
from tests.processes import (
    LIMIT_S,
    MARK,
    Done,
    Holding,
    command_line,
    holding,
    marked,
    mount_type,
    run,
    start_process,
    wait_until,
)

# What only root may do: network namespaces, other users, dropping the kernel's caches. CI is root, and a skip fails it
# there; for a developer who is not root these few are left out.
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, other users, the kernel's caches")

# Tests take all of these from here.
__all__ = [
    "ARTIFACTFS",
    "CHECKOUT",
    "END_S",
    "FUSE_TYPE",
    "LIMIT_S",
    "Done",
    "Holding",
    "Lab",
    "Mount",
    "Seen",
    "Shell",
    "Truth",
    "holding",
    "mount_type",
    "run",
    "start_process",
    "wait_until",
]

# The contract lets a mount take 3 s to end (docs/semantics.md 5.6); tests allow twice that.
END_S = 6.0
FUSE_TYPE = "fuse.artifactfs"
ARTIFACTFS = os.path.join(os.path.dirname(sys.executable), "artifactfs")
CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass
class Shell:
    """Where `artifactfs` is typed: a home, state and cache of its own, and the lab that it mounts.

    `program`: what is run in place of the console script. `prefix`: commands in front of it and of whatever looks
    at its mounts (setpriv). `owner`: the user that types. `python`: an interpreter that this user can run.
    """

    directory: str
    lab: Lab | None
    program: Sequence[str] = (ARTIFACTFS,)
    prefix: Sequence[str] = ()
    more_env: dict[str, str] = field(default_factory=dict)
    mounts: "list[Mount]" = field(default_factory=list)
    owner: int | None = None
    python: str = sys.executable

    def __post_init__(self) -> None:
        self.mark = uuid.uuid4().hex
        for name in ("home", "state", "cache", "config"):
            self.make_directory(name)

    def make_directory(self, name: str) -> str:
        """Make a directory that belongs to who types. Returns its path."""
        path = self.path(name)
        os.makedirs(path, exist_ok=True)
        if self.owner is not None:
            os.chown(path, self.owner, self.owner)
        return path

    @property
    def env(self) -> dict[str, str]:
        """Return the environment: no settings of the machine's, and the mark by which processes are found."""
        kept = {name: value for name, value in os.environ.items() if not re.match(r"DD_|DATADOG_|ARTIFACTFS_", name)}
        keys = {"DD_API_KEY": self.lab.api_key, "DD_APP_KEY": self.lab.app_key} if self.lab is not None else {}
        own = {
            "HOME": self.path("home"),
            "XDG_STATE_HOME": self.path("state"),
            "XDG_CACHE_HOME": self.path("cache"),
            "XDG_CONFIG_HOME": self.path("config"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            MARK: self.mark,
        }
        return kept | keys | own | self.more_env

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def directory_for_mount(self, name: str = "mnt") -> str:
        point = self.path(name)
        if mount_type(point) is None:
            self.make_directory(name)
        return point

    def cli(self, *arguments: str, env: Mapping[str, str | None] | None = None, limit_s: float = LIMIT_S) -> Done:
        """Run `artifactfs ARGUMENTS` to its end. `env`: changes to the environment; None takes a name out."""
        return run(*self.prefix, *self.program, *arguments, env=self._changed(env), limit_s=limit_s)

    def background(
        self, *arguments: str, env: Mapping[str, str | None] | None = None
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Start `artifactfs ARGUMENTS` and go on: a context with the process (see start_process)."""
        return start_process([*self.prefix, *self.program, *arguments], env=self._changed(env))

    def mount(self, *options: str, name: str = "mnt", env: Mapping[str, str | None] | None = None) -> "Mount":
        """Mount the lab in the background; what was asked for to do so is not counted."""
        assert self.lab is not None
        mounted = self.expected_mount(name)
        log_option = ("--log-file", mounted.log_file)
        command = ("mount", "--api-url", self.lab.url, *log_option, *options, mounted.point)
        # What it costs most is to start Python, for which a starved machine has taken more than LIMIT_S.
        self.run_forked(*command, env=env, limit_s=3 * LIMIT_S).ok()
        assert mount_type(mounted.point) == FUSE_TYPE
        self.lab.reset()
        return mounted

    def run_forked(
        self, *arguments: str, env: Mapping[str, str | None] | None = None, limit_s: float = LIMIT_S
    ) -> Done:
        """Do what `cli` does by a fork of a process that has done the imports, where there is one (tests/forked.py)."""
        command, changed = [*self.program, *arguments], self._changed(env)
        is_ours = self.program[0] == ARTIFACTFS or tuple(self.program[:2]) == (sys.executable, "-m")
        starter = forked.starter_for(command, changed) if is_ours and not self.prefix else None
        if starter is None or not starter.busy.acquire(blocking=False):
            return self.cli(*arguments, env=env, limit_s=limit_s)
        start = time.monotonic()
        try:
            done = starter.run(command, changed, limit_s)
        finally:
            starter.busy.release()
        return Done(command, done[0], done[1], done[2].decode("utf-8", "replace"), time.monotonic() - start)

    def expected_mount(self, name: str = "mnt") -> "Mount":
        """Return a mount that something else is about to make; it is ended and supervised like any."""
        point = self.directory_for_mount(name)
        known = next((mount for mount in self.mounts if mount.point == point), None)
        if known is None:
            known = Mount(self, point, self.path(f"{name}.log"))
            self.mounts.append(known)
        return known

    def processes(self) -> list[int]:
        """Return what still runs of all that was started from here."""
        return marked(self.mark, self.directory)

    def close(self) -> None:
        """End all mounts and processes. Fails the test if they would not end, or logged what it did not announce."""
        faults = []
        for mounted in self.mounts:
            if mount_type(mounted.point) is not None:
                # The system's own: a tenth of a second sooner than ours, which has tests of its own.
                plainly = ("umount",) if os.geteuid() == 0 else ("fusermount3", "-u")
                done = run(*plainly, mounted.point)
                end = time.monotonic() + END_S
                # Another test's `df`, doctor or status may look at it in this moment, as they do at every mount.
                while done.code != 0 and "busy" in done.err and time.monotonic() < end:
                    time.sleep(0.1)
                    done = run(*plainly, mounted.point)
                if done.code != 0:
                    faults.append(f"umount exited with {done.code}: {done.err}")
        try:
            wait_until(lambda: not self.processes(), "the end of all processes", END_S)
        except AssertionError:
            faults.append(f"still running: {[command_line(pid) for pid in self.processes()]}")
        self._force()
        for mounted in self.mounts:
            faults += mounted.log.faults()
        assert not faults, "\n".join(faults)

    def _force(self) -> None:
        for mounted in self.mounts:
            while mount_type(mounted.point) is not None:
                lazily = ("umount", "-l") if os.geteuid() == 0 else ("fusermount3", "-uz")
                if run(*lazily, mounted.point).code != 0:
                    break
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _changed(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        merged: dict[str, str | None] = {**self.env, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}


class Mount:
    """One mount: its place, its log, and commands on it."""

    def __init__(self, shell: Shell, point: str, log_file: str) -> None:
        self.shell = shell
        self.point = point
        self.log_file = log_file
        self.log = LogCheck(log_file)

    def path(self, *parts: object) -> str:
        return os.path.join(self.point, *map(str, parts))

    def sh(self, script: str, *arguments: object, limit_s: float = LIMIT_S) -> Done:
        """Run a shell script with the mount's place as $M and arguments as $1, $2, …"""
        env = {**os.environ, "LC_ALL": "C.UTF-8", "M": self.point}
        return run(*self.shell.prefix, "sh", "-c", script, "sh", *map(str, arguments), env=env, limit_s=limit_s)

    def python(self, code: str, *arguments: object, limit_s: float = LIMIT_S) -> Any:
        """Run Python code that prints JSON; returns that. The mount's place is sys.argv[1]."""
        return json.loads(run(*self.python_command(code, *arguments), limit_s=limit_s).ok().out)

    def python_command(self, code: str, *arguments: object) -> list[str]:
        """Return the command that runs Python code with the mount's place as sys.argv[1]."""
        return [*self.shell.prefix, self.shell.python, "-I", "-c", code, self.point, *map(str, arguments)]

    def walk(self, *parts: object, limit_s: float = LIMIT_S) -> "dict[bytes, Seen]":
        """Return everything below a directory as os.walk and lstat see it."""
        done = run(*self.python_command(_WALK, self.path(*parts)), limit_s=limit_s)
        return {path.encode("latin-1"): Seen(*row) for path, row in json.loads(done.ok().out).items()}

    def trees(self, *run_ids: int) -> dict[int, Truth]:
        """Return several runs, walked by one process."""
        done = run(*self.python_command(_WALK, *(self.path("runs", run_id) for run_id in run_ids)))
        return {
            run_id: {path.encode("latin-1"): None if row[0] else row[1] for path, row in json.loads(line).items()}
            for run_id, line in zip(run_ids, done.ok().out.splitlines(), strict=True)
        }

    def tree(self, run_id: int, limit_s: float = LIMIT_S) -> Truth:
        """Return a run as the mount shows it, in the form of `Lab.truth`."""
        found = self.walk("runs", run_id, limit_s=limit_s)
        return {path: None if seen.is_dir else seen.size for path, seen in found.items()}

    def wait_for_index(self, *run_ids: int) -> None:
        """Wait until files show their own times: until the index comes, the run's, as its directories do (2.3)."""

        def has_own_times(run_id: int) -> bool:
            found = self.walk("runs", run_id).values()
            return {seen.mtime_ns for seen in found if seen.is_dir}.isdisjoint(
                seen.mtime_ns for seen in found if not seen.is_dir
            )

        wait_until(lambda: all(has_own_times(run_id) for run_id in run_ids), "the files' own times")

    def error_of(self, *parts: object, limit_s: float = LIMIT_S) -> int:
        """Return the errno that `stat` of a path fails with; 0 if it does not."""
        code = "import os, sys\ntry: os.stat(sys.argv[2]); print(0)\nexcept OSError as e: print(e.errno)"
        error: int = self.python(code, self.path(*parts), limit_s=limit_s)
        return error

    def umount(self) -> None:
        self.shell.run_forked("umount", self.point).ok()

    @property
    def pid(self) -> int:
        """Return the process that serves the mount."""
        serving = [pid for pid in self.shell.processes() if self.point in command_line(pid).split("\0")]
        assert len(serving) == 1, f"not one process serves {self.point}: {serving}"
        return serving[0]


@dataclass(frozen=True)
class Seen:
    """What `lstat` reported of a name."""

    is_dir: bool
    size: int
    mode: int
    inode: int
    mtime_ns: int
    blocks: int
    links: int


_WALK = """
import json, os, stat, sys
def raise_(error): raise error
for root in map(os.fsencode, sys.argv[2:]):
    found = {}
    for top, dirs, files in os.walk(root, onerror=raise_):
        for name in dirs + files:
            path = os.path.join(top, name)
            s = os.lstat(path)
            assert stat.S_ISDIR(s.st_mode) == (name in dirs), path
            key = path[len(root) + 1:].decode("latin-1")
            assert key not in found, path
            is_dir = stat.S_ISDIR(s.st_mode)
            found[key] = [is_dir, s.st_size, s.st_mode, s.st_ino, s.st_mtime_ns, s.st_blocks, s.st_nlink]
    print(json.dumps(found))
"""
