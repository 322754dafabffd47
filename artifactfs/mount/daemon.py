"""Runs a mount in the background: a fork before anything else exists, and a pipe that carries "ready" or the error.

The parent stays until the mount answers, so that `artifactfs mount` returns when it can be used, and prints the
true cause if it cannot. Threads, event loops, TLS and log handlers do not survive a fork: none of them may
exist yet when `start` is called (pitfalls.md).
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from artifactfs.errors import ExitCode, UserError, of_the_system

# The time for a child to end after SIGTERM, before SIGKILL.
_GRACE_S = 5.0


def start(
    serve: Callable[["PipeToParent"], int],
    log_place: str,
    *,
    on_waiting: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> None:
    """Run `serve(parent)` in a child process; return when it reports `ready`.

    `serve` returns an exit code, or raises UserError. Raises UserError with the child's cause; then the child
    is gone. `log_place` names the log, for a child that ended without a message. `on_waiting` gets the reason,
    `on_warning` the text.
    """
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by the caller
            stream.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_child(serve, writer)
    os.close(writer)
    interrupts = _forward_interrupts(child)
    message: dict[str, Any] = {}
    with os.fdopen(reader, "rb") as pipe:
        # A line each, up to the outcome, or the end of file when the child is gone.
        for line in pipe:
            with contextlib.suppress(ValueError):  # a line that was cut off
                message = json.loads(line)
            if "waiting" in message:
                on_waiting(message.pop("waiting"))
            elif "warning" in message:
                on_warning(message.pop("warning"))
            else:
                break
    if "ready" in message and not interrupts:
        return
    status = _reap(child)
    if interrupts:
        raise KeyboardInterrupt
    if "fact" in message:
        raise UserError(**{**message, "code": ExitCode(message["code"])})
    how = f"signal {-status}" if status < 0 else f"exit code {status}"
    raise UserError(ExitCode.BUG, f"the mount process ended ({how}) before it was ready", f"see {log_place}")


def _forward_interrupts(child: int) -> list[int]:
    """Forward the signals that end this process to the child; the returned list collects them."""
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Ignored: behind `&` in a script, or nohup.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    return received


def _reap(child: int) -> int:
    """Wait for the child; kill it if it does not end. Returns its exit code, or minus its signal."""
    end = time.monotonic() + _GRACE_S
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


class PipeToParent:
    """The child's end of the pipe: at most one reason for waiting, warnings, then one outcome."""

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self._has_ended = self._has_reported_waiting = False

    def ready(self) -> None:
        """Report once that the mount answers; the parent returns."""
        if not self._has_ended:
            # The child keeps its process group until now: autofs of systemd lets only that group pass to the mount
            # point; every other process waits there for this mount.
            os.setsid()
            self._end({"ready": True})

    def waiting(self, reason: str) -> None:
        """Report once that the mount waits for the service, and why."""
        if not self._has_ended and not self._has_reported_waiting:
            self._has_reported_waiting = True
            self._write({"waiting": reason})

    def warn(self, text: str) -> None:
        """Report what the user should know of a mount that goes on."""
        if not self._has_ended:
            self._write({"warning": text})

    def failed(self, error: UserError) -> int:
        """Report the error, its fields as they are; returns the exit code."""
        fields = {"fact": error.fact, "fix": error.fix, "subject": error.subject, "command": error.command}
        self._end({"code": int(error.code), **fields})
        return int(error.code)

    def _end(self, outcome: dict[str, object]) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._write(outcome)
            os.close(self._writer)

    def _write(self, message: dict[str, object]) -> None:
        # The parent may have been killed.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writer, json.dumps(message).encode() + b"\n")


def _detach(writer: int) -> None:
    """Keep nothing of the process that started this one but the pipe to it (docs/semantics.md 5.6).

    The mount would hold an inherited lock, or the end of a pipe, for as long as it lives. Nothing of ours is open yet;
    files that came as descriptors (`--config <(…)`) have been read.
    """
    os.chdir("/")
    # Not closed: 0 to 2 would become the numbers of the next sockets.
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    # Not up to the limit: that may be a billion, and a descriptor from before it was lowered lies above it.
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor != writer:
            # The listing's own is closed by now.
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _run_child(serve: Callable[[PipeToParent], int], writer: int) -> None:
    """Run in the child; never returns."""
    code = int(ExitCode.BUG)
    parent = PipeToParent(writer)
    try:
        _detach(writer)
        code = serve(parent)
    except UserError as error:
        code = parent.failed(error)
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        # The terminal gets one line; `serve` has logged the traceback if it had a log.
        fact = f"artifactfs failed: {type(error).__name__}: {error}"
        code = parent.failed(of_the_system(error) or UserError(ExitCode.BUG, fact, "report it with the log"))
    finally:
        # Not sys.exit: the parent's exit handlers are not ours.
        os._exit(code)
