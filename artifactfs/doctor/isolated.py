"""A function in a child process, for so long and no longer: for what may hang where no signal reaches it.

A process that waits inside the kernel for a dead file system cannot be killed; one that has a thread there cannot even
end. So a child waits in its place, and is left behind. Call before there are threads: a fork does not take them along.
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
# How long the child that was killed gets to be gone, before it is left behind.
_KILLED_S = 0.2


def run_isolated(look: Callable[[], Sequence[Finding]], within_s: float) -> Sequence[Finding] | None:
    """Return what `look` found; None if that took longer. Raises RuntimeError with the child's own words if it broke.

    Ctrl-C ends the child as well: it is of the same group of processes.
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
        msgspec.json.decode(answer, type=dict[str, str])["error"] if answer else "it ended without a word"
    )


def _child(look: Callable[[], Sequence[Finding]], writer: int) -> None:
    """Everything that happens in the child; never returns."""
    try:
        # A child that is left behind must not hold our output open. Without a /dev it does.
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
        # Not sys.exit: the parent's exit handlers are not ours.
        os._exit(0)


def _end(child: int) -> None:
    end = time.monotonic() + _KILLED_S
    os.kill(child, signal.SIGKILL)
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.005)
