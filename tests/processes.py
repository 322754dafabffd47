"""Commands that can be killed, and what the kernel's tables say of processes and mounts. Nothing here touches a mount.

Times: `LIMIT_S` only ends what hangs; the contract's own limits stand in the tests, doubled.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

# A command that takes longer hangs. Far above what any of them needs on a busy machine of two cores.
LIMIT_S = 30.0
# By this variable of their environment the processes of a test are found.
MARK = "ARTIFACTFS_TESTED_BY"


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


def without_reader(*command: str) -> tuple[str, ...]:
    """Return a command that runs this one with a pipe whose other end is closed, and prints its code as a shell would.

    `COMMAND | true` is not that: on a busy machine the other end may still be open when COMMAND writes.
    """
    code = (
        "import os, subprocess, sys\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "code = subprocess.run(sys.argv[1:], stdout=writer).returncode\n"
        "print(code if code >= 0 else 128 - code)"
    )
    return (sys.executable, "-c", code, *command)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
        # Behind a shell's `&` SIGINT is ignored, and what the tests start would inherit that.
        preexec_fn=_heed_interrupts,
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
    return f"{process.args!r}, state {state_of(process.pid)}; {'; '.join(told)}"


def state_of(pid: int) -> str:
    """Return the letter of a process's state, "gone" for none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def cpu_s(pid: int) -> float:
    """Return how much time of the processor a process has had."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


# --- the kernel's tables --------------------------------------------------------------------------


def mount_type(point: str, seen_by: int | None = None) -> str | None:
    """Return the type of what is mounted on top at `point`, from the mount table alone; None for nothing.

    `seen_by`: a process in another mount namespace.
    """
    found = None
    for fields in mount_rows(seen_by):
        at = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields[4])
        if at == os.fsencode(point):
            found = fields[fields.index(b"-", 6) + 1].decode()
    return found


def mount_rows(seen_by: int | None = None) -> list[list[bytes]]:
    """Return the fields of each row of the mount table. Nothing but a line feed ends a row, whatever is mounted."""
    with open(f"/proc/{seen_by or 'self'}/mountinfo", "rb") as table:
        return [row.split(b" ") for row in table.read().split(b"\n") if row]


def marked(mark: str, place: str | None = None) -> list[int]:
    """Return the living processes (no zombies) that have `mark` in their environment: started by a test of ours.

    A mount shows its environment to root alone. To a developer who is not root it is known by its command line, which
    names something in the directory `place`.
    """
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                is_ours = wanted in file.read().split(b"\0")
        except PermissionError:
            is_ours = place is not None and place in command_line(int(name))
        except OSError:
            continue
        if is_ours and state_of(int(name)) not in ("Z", "X", "gone"):
            found.append(int(name))
    return found


def command_line(pid: int) -> str:
    """Return a process's command line, its words ended by NUL; empty for one that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
