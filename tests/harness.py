"""What tests of real mounts stand on: an emulator, the command line, and commands on a mount that can be killed.

Owns processes and mounts: whatever is started here carries a mark in its environment, is found by it, and is gone
at the end. Nothing in this process ever touches a mount: a wedged one would hang the whole suite (pitfalls: D state).
Times: `LIMIT_S` only ends what hangs; the contract's own limits stand in the tests, doubled.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.checklogs import LogCheck

# A command that takes longer hangs. Far above what any of them needs on a busy machine of two cores.
LIMIT_S = 30.0
# The contract lets a mount take 3 s to end (semantics 5.6); tests allow twice that.
END_S = 6.0
FUSE_TYPE = "fuse.artifactfs"
ARTIFACTFS = os.path.join(os.path.dirname(sys.executable), "artifactfs")
CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_MARK = "ARTIFACTFS_TESTED_BY"

Truth = dict[bytes, int | None]  # path below a run's root -> size, None for a directory


def wait_until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Poll until `condition()` is true; fails the test with `what` past the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.02)


# --- commands -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A command that ended. `seconds`: how long it took."""

    command: Sequence[str]
    code: int
    out: bytes
    err: str
    seconds: float

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "surrogateescape")

    def ok(self) -> "Done":
        """Return itself; fails the test unless the exit code is 0."""
        assert self.code == 0, f"{self.command} exited with {self.code}: {self.err or self.text}"
        return self


def run(
    *command: str,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    limit_s: float = LIMIT_S,
    cwd: str | None = None,
) -> Done:
    """Run a command to its end, in a session of its own. One that hangs is killed and fails the test, saying where."""
    start = time.monotonic()
    with start_process(command, env=env, cwd=cwd) as process:
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hung for {limit_s:g} s: {describe(process)}") from None
    return Done(command, process.returncode, out, err.decode("utf-8", "replace"), time.monotonic() - start)


@contextlib.contextmanager
def start_process(
    command: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command with pipes, in a session of its own; it is killed, with its group, at the end of the context."""
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ) if env is None else dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        # One in D state does not die of it; the mount's end frees it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2.0)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Holding:
    """A process that holds something on a mount and waits for the word to go on."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def line(self, limit_s: float = LIMIT_S) -> bytes:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], limit_s)
        if not readable:
            raise AssertionError(f"said nothing for {limit_s:g} s: {describe(self._process)}")
        return self._process.stdout.readline()

    def go_on(self, limit_s: float = LIMIT_S) -> bytes:
        """Give the word, wait for the end, and return what it printed; it must end with 0."""
        try:
            out, err = self._process.communicate(b"\n", timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hung for {limit_s:g} s: {describe(self._process)}") from None
        assert self._process.returncode == 0, err.decode("utf-8", "replace")
        return out


@contextlib.contextmanager
def holding(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Holding]:
    """Start a command that prints `ready` and then waits for a line: yields when it is ready."""
    with start_process(command, env=env) as process:
        held = Holding(process)
        first = held.line()
        if first != b"ready\n":
            raise AssertionError(f"not ready: {first!r} {process.stderr.read() if process.stderr else b''!r}")
        yield held


def describe(process: subprocess.Popen[bytes]) -> str:
    """Return what is known of a hanging process: its command, state and where in the kernel it waits."""
    told = []
    for name in ("wchan", "syscall", "stack"):
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/{name}", encoding="ascii") as file:
            told.append(f"{name}: {' '.join(file.read().split())}")
    return f"{process.args!r}, state {_state(process.pid)}; {'; '.join(told)}"


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


# --- the kernel's tables --------------------------------------------------------------------------


def mount_type(point: str) -> str | None:
    """Return the type of what is mounted on top at `point`, from the mount table alone; None for nothing."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            head, _, tail = line.partition(" - ")
            at = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), head.split(" ")[4])
            if at == point:
                found = tail.split(" ")[0]
    return found


def marked(mark: str) -> list[int]:
    """Return the living processes (no zombies) that have `mark` in their environment: started by a test of ours."""
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0") and _state(int(name)) not in ("Z", "X", "gone"):
                found.append(int(name))
    return found


# --- the emulator ---------------------------------------------------------------------------------


class Lab:
    """An emulator in a process of its own, and what a test tells and asks it (emulator/control.py)."""

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._next_run = 900_001
        self.start(port)
        self._switches = self._ask("GET", "switches")

    def start(self, port: int = 0) -> None:
        """Start it, or start it again at the port that it had."""
        command = [sys.executable, "-m", "artifactfs.emulator", "--until-stdin-closes", "--port", str(port)]
        process = subprocess.Popen(
            [*command, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._process = process
        assert process.stdout is not None
        told = json.loads(process.stdout.readline() or b"{}")
        assert told, "the emulator did not start: see its error above"
        self.url: str = told["url"]
        self.other_url: str = told["other_url"]
        self.api_key: str = told["api_key"]
        self.app_key: str = told["app_key"]
        self.access_token: str = told["access_token"]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        """End it at once: from then on its port refuses connections."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def settle(self) -> None:
        """Back to how it was started: switches, faults, counts. What was done to runs stays."""
        self.faults()
        self._ask("POST", "switches", self._switches)
        self.reset()

    def faults(self, *rules: Mapping[str, object]) -> None:
        """Replace the fault script."""
        self._ask("POST", "faults", list(rules))

    def fault(self, kind: str, *, times: int | None = None, query: str = "", path: str = "", **then: object) -> None:
        """Let requests of a kind go wrong: a script of one rule. `then`: see emulator/faults.py."""
        match = {"kind": kind, "query_contains": query, "path_contains": path}
        self.faults({"match": match, "then": then, "times": times})

    def switch(self, **values: object) -> None:
        self._ask("POST", "switches", values)

    def files(self, run_id: int, **changes: object) -> None:
        """Change a run's tree, making the run if there is none: add, change, remove, rename, mkdir, grid, wide."""
        self._ask("POST", "files", {"run": run_id, **changes})

    def change_run(self, run_id: int, **changes: object) -> None:
        """Change what is told of a run: set, unset, delete."""
        self._ask("POST", "runs", {"run": run_id, **changes})

    def new_run(self, files: Mapping[str, int] | None = None, **attributes: object) -> int:
        """Make a run that no other test knows, with files of these sizes. Returns its id."""
        run_id = self._next_run
        self._next_run += 1
        self.files(run_id, add={"a.txt": 10, "sub/b.bin": 20} if files is None else files)
        self.change_run(run_id, set=attributes)
        return run_id

    def truth(self, run_id: int) -> Truth:
        """Return what a run holds."""
        return {path.encode(): size for path, size in self._ask("GET", f"tree?run={run_id}").items()}

    def stats(self) -> dict[str, Any]:
        return self._ask("GET", "stats")

    def requests(self) -> dict[str, int]:
        """Return the number of requests by kind since the last `reset`."""
        found: dict[str, int] = self.stats()["requests"]
        return found

    def total(self) -> int:
        return sum(self.requests().values())

    def reset(self) -> None:
        """Forget the requests so far."""
        self._ask("POST", "reset", {})

    def newest_runs(self, count: int) -> list[int]:
        """Return the runs last updated, newest first, without the deleted, as the API itself tells them."""
        found: list[int] = []
        rows: list[dict[str, Any]] = []
        number = int(self._ask("GET", "switches")["page_base"])
        while len(rows) < count:
            query = urllib.parse.urlencode({"page[size]": 100, "page[number]": number})
            page = self._ask("GET", f"../api/v2/model-lab-api/runs?{query}")["data"]
            if not page:
                break
            rows += page
            number += 1
        for row in rows[:count]:
            if not row["attributes"].get("deleted_at"):
                found.append(int(row["id"]))
        return found

    def _ask(self, method: str, name: str, body: object = None) -> Any:
        path = name.removeprefix("..") if name.startswith("..") else f"/_emulator/{name}"
        request = urllib.request.Request(
            self.url + path, method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("DD-API-KEY", self.api_key)
        request.add_header("DD-APPLICATION-KEY", self.app_key)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=LIMIT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"the emulator refuses {method} {path}: {error.read()!r}") from None


# --- the command line -----------------------------------------------------------------------------


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
            _MARK: self.mark,
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

    def background(self, *arguments: str, env: Mapping[str, str | None] | None = None) -> Any:
        """Start `artifactfs ARGUMENTS` and go on: a context with the process (see start_process)."""
        return start_process([*self.prefix, *self.program, *arguments], env=self._changed(env))

    def mount(self, *options: str, name: str = "mnt", env: Mapping[str, str | None] | None = None) -> "Mount":
        """Mount the lab in the background; what was asked for to do so is not counted."""
        assert self.lab is not None
        mounted = self.expected_mount(name)
        log_option = ("--log-file", mounted.log_file)
        self.cli("mount", "--api-url", self.lab.url, *log_option, *options, mounted.point, env=env).ok()
        assert mount_type(mounted.point) == FUSE_TYPE
        self.lab.reset()
        return mounted

    def expected_mount(self, name: str = "mnt") -> "Mount":
        """Return a mount that something else is about to make; it is ended and looked after like any."""
        point = self.directory_for_mount(name)
        known = next((mount for mount in self.mounts if mount.point == point), None)
        if known is None:
            known = Mount(self, point, self.path(f"{name}.log"))
            self.mounts.append(known)
        return known

    def processes(self) -> list[int]:
        """Return what still runs of all that was started from here."""
        return marked(self.mark)

    def close(self) -> None:
        """End all mounts and processes. Fails the test if they would not end, or logged what it did not announce."""
        faults = []
        for mounted in self.mounts:
            if mount_type(mounted.point) is not None:
                done = self.cli("umount", mounted.point)
                if done.code != 0:
                    faults.append(f"umount exited with {done.code}: {done.err}")
        try:
            wait_until(lambda: not self.processes(), "the end of all processes", END_S)
        except AssertionError:
            faults.append(f"still running: {[_command_line(pid) for pid in self.processes()]}")
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

    def tree(self, run_id: int, limit_s: float = LIMIT_S) -> Truth:
        """Return a run as the mount shows it, in the form of `Lab.truth`."""
        found = self.walk("runs", run_id, limit_s=limit_s)
        return {path: None if seen.is_dir else seen.size for path, seen in found.items()}

    def error_of(self, *parts: object, limit_s: float = LIMIT_S) -> int:
        """Return the errno that `stat` of a path fails with; 0 if it does not."""
        code = "import os, sys\ntry: os.stat(sys.argv[2]); print(0)\nexcept OSError as e: print(e.errno)"
        error: int = self.python(code, self.path(*parts), limit_s=limit_s)
        return error

    def umount(self) -> None:
        self.shell.cli("umount", self.point).ok()

    @property
    def pid(self) -> int:
        """Return the process that serves the mount."""
        serving = [pid for pid in self.shell.processes() if self.point in _command_line(pid).split("\0")]
        assert len(serving) == 1, f"not one process serves {self.point}: {serving}"
        return serving[0]


@dataclass(frozen=True)
class Seen:
    """What `lstat` told of a name."""

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
root, found = os.fsencode(sys.argv[2]), {}
for top, dirs, files in os.walk(root, onerror=raise_):
    for name in dirs + files:
        path = os.path.join(top, name)
        s = os.lstat(path)
        assert stat.S_ISDIR(s.st_mode) == (name in dirs), path
        key = path[len(root) + 1:].decode("latin-1")
        assert key not in found, path
        found[key] = [stat.S_ISDIR(s.st_mode), s.st_size, s.st_mode, s.st_ino, s.st_mtime_ns, s.st_blocks, s.st_nlink]
json.dump(found, sys.stdout)
"""


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
