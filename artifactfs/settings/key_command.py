"""Running a command that prints a key: a password manager's.

Owns the child process and its time. What is hard: it may hang, print without end, leave a helper behind that keeps the
pipes open (gpg-agent), or ask on a terminal that is not there. Whatever happens, this ends in time, and what was
started is killed where it can be.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import IO

# More than any key; a whole log printed by mistake is none.
_MAX_OUT_BYTES = 64 << 10
_MAX_ERR_BYTES = 4 << 10
# How often a running command is looked at, to see whether its result is still wanted.
_LOOK_S = 0.1


class CommandFailed(Exception):
    """A command gave no answer. `str()` says why in one line, and holds nothing of its output."""


def answer(
    argv: tuple[str, ...],
    environ: Mapping[str, str],
    *,
    limit_s: float,
    terminal: bool,
    stop: threading.Event | None = None,
) -> bytes:
    """Run a command and return what it printed to its standard output.

    No shell. It runs in `/`: a mount in the background does, and it shall find the same there as now. Its standard
    input is empty. `terminal`: it may ask on the terminal that this process has, if any; else it is in a session of its
    own and all of it can be killed. Ends it after `limit_s` seconds, or when `stop` is set. Raises CommandFailed.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=dict(environ),
            start_new_session=not terminal,
        )
    except OSError as error:
        raise CommandFailed(f"it cannot be started: {error.strerror}") from None
    try:
        out, err = _collect(process, time.monotonic() + limit_s, limit_s, stop, terminal)
    except BaseException:
        _kill(process, group=not terminal)
        raise
    finally:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if process.returncode == 0:
        return out
    code = process.returncode
    how = f"it was ended by {_signal(-code)}" if code < 0 else f"it ended with exit code {code}"
    raise CommandFailed(f"{how}{_said(err, terminal)}")


def _signal(number: int) -> str:
    """Return a signal's name. Of the real-time signals only the first and the last have one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _collect(
    process: subprocess.Popen[bytes], end: float, limit_s: float, stop: threading.Event | None, terminal: bool
) -> tuple[bytes, bytes]:
    """Read both pipes until the process has ended: not until they close, since a helper may keep them."""
    out, err = _Pipe(process.stdout, _MAX_OUT_BYTES + 1), _Pipe(process.stderr, _MAX_ERR_BYTES)
    with selectors.DefaultSelector() as selector:
        for pipe in (out, err):
            selector.register(pipe.file, selectors.EVENT_READ, pipe)
        while True:
            ended = process.poll() is not None
            for key, _ in selector.select(0 if ended else _LOOK_S) if selector.get_map() else ():
                key.data.drain()
                if key.data.closed:
                    selector.unregister(key.fileobj)
            if len(out.text) > _MAX_OUT_BYTES:
                raise CommandFailed("it prints more than a key")
            if ended:
                return bytes(out.text), bytes(err.text)
            if not selector.get_map():
                # Both are closed, so nothing more will come: it is about to end, or runs on without a word.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
            if stop is not None and stop.is_set():
                raise CommandFailed("its answer is not wanted any more")
            if time.monotonic() >= end:
                raise CommandFailed(f"it did not end within {limit_s:g} s{_said(bytes(err.text), terminal)}")


class _Pipe:
    """What came out of a pipe, as far as `most_bytes`; the rest is read and dropped."""

    def __init__(self, file: IO[bytes] | None, most_bytes: int) -> None:
        if file is None:
            raise TypeError("a pipe that was not asked for")
        self.file = file
        self.text = bytearray()
        self.closed = False
        self._most_bytes = most_bytes
        os.set_blocking(file.fileno(), False)

    def drain(self) -> None:
        """Take what there is, up to twice as much as is kept: one that is never empty must not keep us here."""
        for _ in range(2):
            try:
                piece = os.read(self.file.fileno(), self._most_bytes)
            except BlockingIOError:
                return
            if not piece:
                self.closed = True
                return
            self.text += piece[: self._most_bytes - len(self.text)]


def _kill(process: subprocess.Popen[bytes], *, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _said(err: bytes, terminal: bool) -> str:
    """Return the end of a message: what a command said of its failure, in one line, to who stands before it.

    A mount that runs has a log, and what is said may be a key (`sh -x`): there is nobody who could blot it out.
    """
    if not terminal:
        return ""
    text = " ".join("".join(c if c.isprintable() else " " for c in err.decode("utf-8", "replace")).split())
    return f": {text[:200]}" if text else ""
