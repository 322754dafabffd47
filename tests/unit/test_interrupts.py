"""artifactfs.fuse.interrupts: whose wait a signal ends (docs/semantics.md 5.2). The real thing is in tests/contract."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from artifactfs.fuse.interrupts import PendingCalls, pending, signal_is_pending, watch
from tests.harness import wait_until


class Looked:
    """Threads for which a signal is pending, and which were looked at."""

    def __init__(self, pending: set[int] | None = None) -> None:
        self.pending = pending or set()
        self.looks: list[tuple[int, float]] = []

    def __call__(self, tid: int) -> bool:
        self.looks.append((tid, round(trio.current_time(), 3)))
        return tid in self.pending


async def wait(calls: PendingCalls, tid: int, seconds: float) -> tuple[bool, float]:
    """Wait on behalf of a thread; returns whether it was interrupted, and how long that took."""
    began = trio.current_time()
    with trio.CancelScope() as scope, pending(calls, tid, scope) as waiting:
        await trio.sleep(seconds)
    assert scope.cancelled_caught == waiting.interrupted
    return waiting.interrupted, round(trio.current_time() - began, 3)


async def test_a_signal_ends_a_wait_and_no_other(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.2: within 2 s; another caller that waits goes on to wait."""
    looked = Looked({7})
    calls = PendingCalls()
    nursery.start_soon(watch, calls, looked)
    results: dict[int, tuple[bool, float]] = {}

    async def one(tid: int) -> None:
        results[tid] = await wait(calls, tid, 30)

    async with trio.open_nursery() as waiters:
        for tid in (7, 8, 9):
            waiters.start_soon(one, tid)
    assert results == {7: (True, 0.6), 8: (False, 30), 9: (False, 30)}


async def test_a_short_wait_is_not_watched(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.2: an answer that comes soon costs nothing; nor does a mount that is idle."""
    looked = Looked()
    calls = PendingCalls()
    nursery.start_soon(watch, calls, looked)
    for _ in range(3):
        assert await wait(calls, 7, 0.02) == (False, 0.02)
        await trio.sleep(100)
    assert looked.looks == []


async def test_a_signal_for_another_thread_interrupts_no_call(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.2: what is pending at one look and gone at the next has found its way to who handles it."""
    looks: list[int] = []

    def every_other_time(tid: int) -> bool:
        looks.append(tid)
        return len(looks) % 2 == 0

    calls = PendingCalls()
    nursery.start_soon(watch, calls, every_other_time)
    assert await wait(calls, 7, 10) == (False, 10)
    assert len(looks) > 30


async def test_a_caller_hidden_from_proc_waits(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.2: thread 0 is one of another pid namespace."""
    looked = Looked({0})
    calls = PendingCalls()
    nursery.start_soon(watch, calls, looked)
    assert await wait(calls, 0, 10) == (False, 10)
    assert looked.looks == []


# --- what the kernel says ------------------------------------------------------------------------------------

SLEEPER = """
import os, signal, sys
number = getattr(signal, sys.argv[1])
if sys.argv[2] == 'ignored': signal.signal(number, signal.SIG_IGN)
if sys.argv[2] == 'caught': signal.signal(number, lambda *_: None)
if sys.argv[2] == 'blocked': signal.pthread_sigmask(signal.SIG_BLOCK, [number])
print('ready', flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def sleeper(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[bytes]"]:
    name, how = request.param
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SLEEPER, name, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("sleeper", "sent", "pending"),
    [
        # Stopped, so that what is sent stays pending: as if it waited for an answer of ours.
        (("SIGTERM", "default"), signal.SIGTERM, True), (("SIGINT", "caught"), signal.SIGINT, True),
        (("SIGHUP", "default"), signal.SIGHUP, True), (("SIGQUIT", "caught"), signal.SIGQUIT, True),
        (("SIGTERM", "blocked"), signal.SIGTERM, False), (("SIGINT", "ignored"), signal.SIGINT, False),
        (("SIGUSR1", "caught"), signal.SIGUSR1, False), (("SIGCHLD", "caught"), signal.SIGCHLD, False),
        (("SIGTERM", "default"), None, False),
    ],
    indirect=["sleeper"],
)  # fmt: skip
def test_what_counts_as_a_signal(sleeper: "subprocess.Popen[bytes]", sent: int | None, pending: bool) -> None:
    """5.2: KILL, INT, TERM, HUP and QUIT, neither blocked nor ignored; a caught one as well as a deadly one."""
    os.kill(sleeper.pid, signal.SIGSTOP)
    wait_until(lambda: _state(sleeper.pid) == "T", "the stop")
    if sent is not None:
        os.kill(sleeper.pid, sent)
    assert signal_is_pending(sleeper.pid) is pending


@pytest.mark.parametrize("name", [r"a\rb", r"a\rSigPnd:\t0", r"\r", r"a\205b\034", r"a\nb:c", r"SigPnd: 0"])
def test_a_caller_with_any_name(name: str) -> None:
    """5.2: a thread's name is in the same table, and may have any character in it but a line feed."""
    script = f'printf "{name}" > /proc/$$/comm; echo ready; read word'
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            os.kill(process.pid, signal.SIGSTOP)
            wait_until(lambda: _state(process.pid) == "T", "the stop")
            assert not signal_is_pending(process.pid)
            os.kill(process.pid, signal.SIGTERM)
            assert signal_is_pending(process.pid)
        finally:
            process.kill()


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_an_ended_caller_has_no_signal() -> None:
    """5.2: a thread that has ended, or that cannot be looked at, interrupts no call."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    assert not signal_is_pending(thread.native_id)
    assert not signal_is_pending(0)
    assert not signal_is_pending(-1)
