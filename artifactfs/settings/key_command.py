"""Runs a command that prints a key, such as a password manager.

Owns the child process and its time limit. The command may block, print without end, leave a helper that keeps the pipes
open (gpg-agent), or prompt on a missing terminal. In every case the call returns in time and kills its processes as far
as it may.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping

# More than any key, and no less than a pipe holds.
_MAX_BYTES = 64 << 10
# Between two checks whether the result is still wanted.
_LOOK_S = 0.1


class CommandFailed(Exception):
    """A command printed no key. `str()` is the reason in one line, without the command's standard output."""


def answer(
    argv: tuple[str, ...],
    environ: Mapping[str, str],
    *,
    limit_s: float,
    terminal: bool,
    stop: threading.Event | None = None,
) -> bytes:
    """Run a command without a shell and return its standard output. Raises CommandFailed.

    It runs in `/`, as a background mount does, so that later runs find the same files. Its standard input is empty.
    `terminal`: it may prompt on the terminal of this process; otherwise it has a session of its own, which can be
    killed whole. It is killed after `limit_s` seconds, or when `stop` is set.
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
    with process:
        try:
            out, err = _collect(process, time.monotonic() + limit_s, limit_s, stop, terminal)
        except BaseException:
            _kill(process, group=not terminal)
            raise
    if process.returncode == 0:
        return out
    code = process.returncode
    how = f"it was ended by {_signal(-code)}" if code < 0 else f"it ended with exit code {code}"
    raise CommandFailed(f"{how}{_said(err, terminal)}")


def _signal(number: int) -> str:
    """Return a signal's name. Most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _collect(
    process: subprocess.Popen[bytes], end: float, limit_s: float, stop: threading.Event | None, terminal: bool
) -> tuple[bytes, bytes]:
    """Read both pipes until the process ends. A helper may keep them open for longer."""
    out, err = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, text in zip(filter(None, (process.stdout, process.stderr)), (out, err), strict=True):
            selector.register(pipe, selectors.EVENT_READ, text)
        while True:
            ended = process.poll() is not None
            for key, _ in selector.select(0 if ended else _LOOK_S):
                # One read takes all that is in a pipe, or more than a key.
                piece = os.read(key.fd, _MAX_BYTES + 1)
                if not piece:
                    selector.unregister(key.fileobj)
                key.data.extend(piece[: _MAX_BYTES + 1 - len(key.data)])
            if len(out) > _MAX_BYTES:
                raise CommandFailed("it prints more than a key")
            if ended:
                return bytes(out), bytes(err)
            if not selector.get_map():
                # Both pipes are closed: the process is about to end, or runs on silently.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
            if stop is not None and stop.is_set():
                raise CommandFailed("its answer is not wanted any more")
            if time.monotonic() >= end:
                raise CommandFailed(f"it did not end within {limit_s:g} s{_said(bytes(err), terminal)}")


def _kill(process: subprocess.Popen[bytes], *, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _said(err: bytes, terminal: bool) -> str:
    """Return the end of a message: the command's standard error in one line, where a user is at the terminal.

    The log of a running mount never has it, as it may hold a key (`sh -x`).
    """
    if not terminal:
        return ""
    text = " ".join("".join(c if c.isprintable() else " " for c in err.decode("utf-8", "replace")).split())
    return f": {text[:200]}" if text else ""
