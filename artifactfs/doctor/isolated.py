"""Runs a function in a child process with a time limit, since it may hang where no signal reaches it.

A process that waits inside the kernel for a dead file system cannot be killed; a process with a thread there cannot
exit. So a child waits instead, and is left behind. Call before threads start: a fork does not copy them.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Sequence

import msgspec

from artifactfs.doctor.findings import Finding

_PIECE_BYTES = 64 << 10
# The time for a killed child to end before it is left behind.
_KILLED_S = 0.2


def run_isolated(look: Callable[[], Sequence[Finding]], within_s: float) -> Sequence[Finding] | None:
    """Return the findings of `look`; None at the time limit. Raises RuntimeError with the child's exception.

    Ctrl-C ends the child, too, since it is in the same process group.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(look, writer)
    os.close(writer)
    answer = b""
    end = time.monotonic() + within_s
    try:
        while (left_s := end - time.monotonic()) > 0:
            if select.select([reader], [], [], left_s)[0]:
                piece = os.read(reader, _PIECE_BYTES)
                if not piece:
                    break
                answer += piece
        else:
            return None
    finally:
        os.close(reader)
        _end(child)
    if answer.startswith(b"["):
        return msgspec.json.decode(answer, type=list[Finding])
    raise RuntimeError(
        msgspec.json.decode(answer, type=dict[str, str])["error"] if answer else "it ended without a result"
    )


def _child(look: Callable[[], Sequence[Finding]], writer: int) -> None:
    """Run in the child; never returns."""
    try:
        # A child left behind must not keep our output open. Without a /dev there is no null device.
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            answer = msgspec.json.encode(look())
        except Exception as error:
            answer = msgspec.json.encode({"error": f"{type(error).__name__}: {error}"})
        while answer:
            answer = answer[os.write(writer, answer) :]
    finally:
        # Not sys.exit, which would run the parent's exit handlers.
        os._exit(0)


def _end(child: int) -> None:
    end = time.monotonic() + _KILLED_S
    os.kill(child, signal.SIGKILL)
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.005)
