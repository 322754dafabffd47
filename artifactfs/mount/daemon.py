"""Going to the background: fork before anything else exists, and a pipe that carries "ready" or the error.

The parent stays until the mount answers, so that `artifactfs mount` returns when it can be used, and prints the
true cause when it cannot. Threads, event loops, TLS and log handlers do not survive a fork: none of them may
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
from typing import Protocol

from artifactfs.errors import ExitCode, UserError, of_the_system

# Time in which a child must end after SIGTERM, before SIGKILL.
_GRACE_S = 5.0


class Parent(Protocol):
    """The process that has started a mount and waits for it."""

    def ready(self) -> None:
        """Report that the mount answers; the parent returns."""

    def waiting(self, reason: str) -> None:
        """Report once that the mount waits for the service, and why."""


def start(serve: Callable[[Parent], int], log_place: str, *, hear: Callable[[str], None]) -> None:
    """Run `serve(parent)` in a child process; return when it reports `ready`.

    `serve` returns an exit code, or raises UserError. Raises UserError with the child's cause; then the child
    is gone. `log_place` names the log, for a child that ended without a message. `hear` gets the reason for waiting.
    """
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by the caller
            stream.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(serve, writer)
    os.close(writer)
    interrupted = _forward_interrupts(child)
    message: object = None
    with os.fdopen(reader, "rb") as pipe:
        # A line each, or the end of file when the child is gone.
        for line in pipe:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict) or "waiting" not in message:
                break
            hear(message["waiting"])
            message = None
    if message == {"ready": True} and not interrupted:
        return
    status = _reap(child)
    if interrupted:
        raise KeyboardInterrupt
    if isinstance(message, dict) and "fact" in message:
        raise UserError(**{**message, "code": ExitCode(message["code"])})
    how = f"signal {-status}" if status < 0 else f"exit code {status}"
    raise UserError(ExitCode.BUG, f"the mount process ended ({how}) before it was ready", f"see {log_place}")


def _forward_interrupts(child: int) -> list[int]:
    """Forward the signals that end this process to the child; the returned list collects them."""
    came: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Ignored: behind `&` in a script, or nohup.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    return came


def _reap(child: int) -> int:
    """Wait for the child; kill it if it does not end. Returns its exit code, or minus its signal."""
    end = time.monotonic() + _GRACE_S
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class _Waiting:
    """The child's end of the pipe: at most one reason for waiting, then one last message."""

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self._has_ended = self._has_reported_waiting = False

    def ready(self) -> None:
        # The child keeps its process group until now: autofs of systemd lets only that group pass to the mount
        # point; every other process waits there for this mount.
        os.setsid()
        self.last({"ready": True})

    def waiting(self, reason: str) -> None:
        if not self._has_ended and not self._has_reported_waiting:
            self._has_reported_waiting = True
            self._write({"waiting": reason})

    def last(self, message: dict[str, object]) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._write(message)
            os.close(self._writer)

    def failed(self, error: UserError) -> int:
        """Report the error, its fields as they are; returns the exit code."""
        fields = {"fact": error.fact, "fix": error.fix, "subject": error.subject, "command": error.command}
        self.last({"code": int(error.code), **fields})
        return int(error.code)

    def _write(self, message: dict[str, object]) -> None:
        # The parent may have been killed.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writer, json.dumps(message).encode() + b"\n")


def _let_go(writer: int) -> None:
    """Keep nothing of the process that started this one but the pipe to it (docs/semantics.md 5.6).

    A lock or the end of a pipe that it was given would be held for as long as the mount lives. Nothing of ours is open
    yet; what came through a descriptor (`--config <(…)`) has been read.
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


def _child(serve: Callable[[Parent], int], writer: int) -> None:
    """Everything that happens in the child; never returns."""
    code = int(ExitCode.BUG)
    parent = _Waiting(writer)
    try:
        _let_go(writer)
        code = serve(parent)
    except UserError as error:
        code = parent.failed(error)
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        # The terminal gets one line; `serve` has logged the traceback if it had a log.
        fact = f"artifactfs failed: {type(error).__name__}: {error}"
        code = parent.failed(of_the_system(error) or UserError(ExitCode.BUG, fact))
    finally:
        # Not sys.exit: the parent's exit handlers are not ours.
        os._exit(code)
