"""Programs that follow a file, and what they have printed so far.

Their output goes to a file: a pipe that is not read would stop them. A check fails at the first byte that is not to be
there, and not only at the end.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from subprocess import Popen

from tests.follow.places import BEHIND_S
from tests.processes import describe, start_process


@dataclass(frozen=True)
class Follower:
    """A running program. `out`, `err`: the files that its output goes to."""

    process: "Popen[bytes]"
    out: str
    err: str

    def printed(self) -> bytes:
        with open(self.out, "rb") as file:
            return file.read()

    def complained(self) -> str:
        with open(self.err, encoding="utf-8", errors="replace") as file:
            return file.read()

    def prints(self, expected: bytes, limit_s: float = BEHIND_S) -> None:
        """Wait until it has printed exactly this; fails at once where it prints anything else."""
        end = time.monotonic() + limit_s
        while (printed := self.printed()) != expected:
            if not expected.startswith(printed):
                pairs = enumerate(zip_longest(printed, expected))
                at = next(place for place, (found, wanted) in pairs if found != wanted)
                raise AssertionError(f"from byte {at} on: {printed[at:][:200]!r}, not {expected[at:][:200]!r}")
            if time.monotonic() >= end:
                raise AssertionError(f"{len(printed)} of {len(expected)} bytes after {limit_s:g} s; {self._state()}")
            time.sleep(0.05)

    def last_line(self, expected: bytes, limit_s: float = BEHIND_S) -> list[bytes]:
        """Wait until this is the last line that it has printed. Returns all lines so far."""
        end = time.monotonic() + limit_s
        while (printed := self.printed().splitlines()[-1:]) != [expected]:
            if time.monotonic() >= end:
                raise AssertionError(f"{printed!r} and not {expected!r} after {limit_s:g} s; {self._state()}")
            time.sleep(0.05)
        return self.printed().splitlines()

    def _state(self) -> str:
        return f"{describe(self.process)}; {self.complained()[-500:]}"


@contextlib.contextmanager
def following(directory: str, *command: str) -> Iterator[Follower]:
    """Start a command whose output goes to files in `directory`; it is killed at the end of the context."""
    name = os.path.join(directory, f"follower-{len(os.listdir(directory))}")
    out, err = f"{name}.out", f"{name}.err"
    script = 'out="$1" err="$2"; shift 2; exec "$@" >"$out" 2>"$err"'
    for path in (out, err):
        with open(path, "wb"):
            pass
    with start_process(["sh", "-c", script, "sh", out, err, *command]) as process:
        yield Follower(process, out, err)


def python(code: str, *arguments: str) -> Sequence[str]:
    """Return the command that runs Python code; sys.argv[1:] are the arguments."""
    return (sys.executable, "-I", "-u", "-c", code, *arguments)
