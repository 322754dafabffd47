"""The mount and the server that the reference model is held against, and the one process that looks at the mount.

Nothing here touches the mount but that process: it executes one call after the other, answers over a pipe, and is
killed, with a failed test, where it does not answer.
"""

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from tests.harness import CHECKOUT, Lab, Mount, Shell, start_process, wait_until
from tests.processes import describe

# Far above the mount's deadline: who is not answered within it hangs.
HANG_S = 20.0
# A stalled request costs as much. Ordinary ones take milliseconds; on a machine that is busy elsewhere, see SLOW_S.
DEADLINE = "2s"
# A refresh is waited for 1 s (docs/semantics.md 3.2). A look that took nearly as long may have met that, on a busy
# machine.
SLOW_S = 0.9
# More than the 5 s in which a service in trouble is not tried again, and more than the resets of our rate limits.
MINUTE_S = 61
HOUR_S = 3601

# What the faults make of it in the log; anything else there fails the test.
_SAID = (
    "answered [45]|was lost|not answer|no answer within|no content came|rate-limiting",  # the service's doing
    "changed while it was read|content of /runs/",  # the files'
)

# What there is to do: each prints one line of JSON, an error as the number that it has.
_LOOKER = """
import json, os, stat, sys
files = {}

def seen(found):
    kind = "directory" if stat.S_ISDIR(found.st_mode) else f"file of {found.st_size} bytes"
    return [kind, found.st_ino, found.st_size]

def ls(path):
    with os.scandir(path) as entries:
        return sorted(each.name + "/" * each.is_dir(follow_symlinks=False) for each in entries)

def names(path):
    return "|".join(os.listdir(path))

def link(path):
    # What is above is no link, but for `by`, which is as deep as what it leads to.
    return {"text": os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))}

def lines(path):
    with open(path) as file:
        size, text = os.fstat(file.fileno()).st_size, file.read()
    assert len(text.encode()) == size, f"{size} bytes were shown of {text!r}"
    return {"text": text}

def look(path):
    return seen(os.lstat(path))

def open_(path, number):
    file = os.open(path, os.O_RDONLY)
    found = os.fstat(file)
    if stat.S_ISDIR(found.st_mode):
        os.close(file)
    else:
        files[number] = file
    return seen(found)

def read(number, start, count):
    os.lseek(files[number], start, os.SEEK_SET)
    pieces = []
    while count and (piece := os.read(files[number], count)):
        pieces.append(piece)
        count -= len(piece)
    return {"text": b"".join(pieces).decode("latin-1")}

def close(number):
    os.close(files.pop(number))

for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        answer = globals()[name](*arguments)
    except OSError as error:
        answer = error.errno
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Seen:
    """What `stat` showed of a place, or an open file. `what`: as the model tells it."""

    what: str
    inode: int
    size: int


class World:
    """A server, a mount of it whose time is in our hands, and a process that looks at it."""

    def __init__(self, lab: Lab, mount: Mount, looker: "Popen[bytes]", *, believes: bool) -> None:
        self.lab = lab
        self.mount = mount
        self.believes = believes
        self._looker = looker
        self._pid = mount.pid
        self._clock = mount.shell.path("clock")
        self._refreshes = mount.shell.path("refreshes")
        self._ahead_s = 0
        self._unknown_run = 10**15
        self.slow = False

    # --- looks: each returns what it saw, or the name of an error; `slow` says whether it took long -----------

    def ls(self, *path: object) -> str:
        answer = self._ask("ls", self.mount.path(*path))
        return answer if isinstance(answer, str) else " ".join(answer)

    def names(self, *path: object) -> str:
        """Return the names in a directory, in its order, with "|" between them."""
        answer: str = self._ask("names", self.mount.path(*path))
        return answer

    def link(self, *path: object) -> str:
        """Return what a link leads to, from the mount on."""
        answer = self._ask("link", self.mount.path(*path))
        return answer if isinstance(answer, str) else os.path.relpath(answer["text"], self.mount.point)

    def lines(self, *path: object) -> str:
        """Return what is in a file."""
        answer = self._ask("lines", self.mount.path(*path))
        return answer if isinstance(answer, str) else answer["text"]

    def stat(self, *path: object) -> Seen | str:
        answer = self._ask("look", self.mount.path(*path))
        return answer if isinstance(answer, str) else Seen(*answer)

    def open(self, number: int, *path: object) -> Seen | str:
        """Open something, as handle `number`."""
        answer = self._ask("open_", self.mount.path(*path), number)
        return answer if isinstance(answer, str) else Seen(*answer)

    def read(self, number: int, start: int, count: int) -> bytes | str:
        answer = self._ask("read", number, start, count)
        return answer if isinstance(answer, str) else answer["text"].encode("latin-1")

    def close(self, number: int) -> None:
        self._ask("close", number)

    def _ask(self, *call: object) -> Any:
        stdin, stdout = self._looker.stdin, self._looker.stdout
        assert stdin is not None
        assert stdout is not None
        began = time.monotonic()
        stdin.write(json.dumps(call).encode() + b"\n")
        stdin.flush()
        if not select.select([stdout], [], [], HANG_S)[0]:
            raise AssertionError(f"{call} hangs: {describe(self._looker)}")
        answer = json.loads(stdout.readline())
        self.slow = time.monotonic() - began > SLOW_S
        return errno.errorcode[answer] if isinstance(answer, int) else answer

    # --- time and trouble -----------------------------------------------------------------------------------

    def pass_time(self, seconds: int) -> None:
        self._ahead_s += seconds
        _write(self._clock, str(self._ahead_s))

    def refresh(self) -> None:
        """Send SIGHUP, and wait until it is taken in."""
        before = _read(self._refreshes)
        os.kill(self._pid, signal.SIGHUP)
        wait_until(lambda: _read(self._refreshes) != before, "the refresh")

    def heal(self) -> None:
        """End all faults, wait for what they hold up, and for an answer: until then old listings may be served."""
        self.lab.faults()
        wait_until(lambda: self.lab.stats()["in_flight"] == 0, "the end of what was stalled")

        def answers() -> bool:
            self._unknown_run += 1
            return self.stat("runs", self._unknown_run) == "ENOENT" and not self.slow

        # What the mount asks in the background has been answered; looks give it the time to read that, before the
        # minute in which a rate limit ends.
        for _ in range(3):
            answers()
        self.pass_time(MINUTE_S)
        wait_until(answers, "an answer after the trouble")


@contextlib.contextmanager
def world(
    lab: Lab, directory: Path, *plants: str, believes: bool, options: Sequence[str] = (), said: Sequence[str] = ()
) -> Iterator[World]:
    """Mount a lab, with bugs planted where they are named, and have a process look at it.

    `options`: of the mount; `said`: what the log may say beside what the faults make of it.
    """
    # Every version has a time of its own, to the second: it proves itself by that.
    lab.switch(last_modified=True)
    shell = Shell(str(directory), lab)
    names = ("time", *(("unrepeated",) if believes else ()), *plants)
    shell.program = (sys.executable, "-m", "tests.reference.launch", *names, "--")
    shell.more_env |= {
        "PYTHONPATH": CHECKOUT,
        "TEST_CLOCK": shell.path("clock"),
        "TEST_REFRESHES": shell.path("refreshes"),
    }
    _write(shell.path("clock"), "0")
    _write(shell.path("refreshes"), "0")
    ttls = () if believes else ("--listing-ttl", "0", "--finished-ttl", "0", "--negative-ttl", "0")
    mount = shell.mount("--deadline", DEADLINE, "--prefetch", "off", *ttls, *options)
    # What the faults make of it; anything else in the log fails the test.
    for each in (*_SAID, *said):
        mount.log.announce(each, optional=True)
    with contextlib.ExitStack() as stack:
        looker = stack.enter_context(start_process(mount.python_command(_LOOKER)))
        try:
            yield World(lab, mount, looker, believes=believes)
        except BaseException:
            # What the log says is not to hide what the model says.
            mount.log.announce("", optional=True)
            raise
        finally:
            lab.faults()
            stack.close()
            shell.close()


def _write(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(text)
    os.replace(path + ".new", path)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
