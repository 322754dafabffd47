"""Commands as they are typed in a terminal: all that they write reaches a pseudo-terminal, whose output is kept."""

import contextlib
import os
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping

from tests.nasty import obeyed
from tests.processes import LIMIT_S

# What we write ourselves: colours, a cleared screen, and a cleared line.
_OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[2J\x1b\[1;1H|\x1b\[K|\r")


class Terminal:
    """A process in a terminal, and what it has written so far."""

    def __init__(self, process: "subprocess.Popen[bytes]", screen: int) -> None:
        self.process = process
        self._screen = screen
        self._written = b""

    @property
    def text(self) -> str:
        """Return all that was written; a byte that is no UTF-8 stays as a surrogate."""
        return self._written.decode("utf-8", "surrogateescape")

    def read_until(self, part: str | None, limit_s: float = LIMIT_S) -> str:
        """Read until `part` was written; None: until the end of the process."""
        end = time.monotonic() + limit_s
        while part is None or part not in self.text:
            left_s = end - time.monotonic()
            assert left_s > 0, f"not within {limit_s:g} s: {part!a} in {self.text!a}"
            if not select.select([self._screen], [], [], left_s)[0]:
                continue
            try:
                piece = os.read(self._screen, 1 << 16)
            except OSError:
                piece = b""  # EIO: the other end is closed
            if not piece:
                assert part is None, f"ended without {part!a}: {self.text!a}"
                break
            self._written += piece
        return self.text

    def ends(self, limit_s: float = LIMIT_S) -> int:
        """Read to the end; returns the exit code."""
        self.read_until(None, limit_s)
        return self.process.wait(limit_s)


@contextlib.contextmanager
def terminal(*command: str, env: Mapping[str, str]) -> Iterator[Terminal]:
    """Start a command in a terminal of colours; it is killed at the end of the context."""
    screen, its = os.openpty()
    try:
        settings = termios.tcgetattr(its)
        # A newline stays one: none but the program's own carriage returns are in what it writes.
        settings[1] &= ~termios.OPOST
        termios.tcsetattr(its, termios.TCSANOW, settings)
        # `status --watch` prints as many lines as fit.
        more = {"TERM": "xterm-256color", "COLUMNS": "4000", "LINES": "100"}
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=its,
            stderr=its,
            env={**env, **more},
            start_new_session=True,
        )
    finally:
        os.close(its)
    try:
        yield Terminal(process, screen)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT_S)
        os.close(screen)


def check_safe(text: str) -> str:
    """Check that there is nothing in a text that a terminal would obey, except click's own; returns it without that."""
    plain = _OWN.sub("", text)
    assert obeyed(plain) == set(), ascii(plain)
    return plain
