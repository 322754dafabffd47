"""5.2 of the contract: a signal frees a caller of a stalled server, and its request goes on."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures import Mounting
from tests.harness import Lab, Mount, start_process, wait_until
from tests.processes import state_of
from tests.status import status

# The contract's limit, with twice the margin.
FREED_S = 4.0

CATCHABLE = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
# What waits: the command, and the kind of request that it waits for.
SIZE_UNKNOWN = {"size_form": "absent"}
WAITS = {
    "lookup of a run": ('stat "$M/runs/$1"', "run"),
    "lookup in a directory": ('stat "$M/runs/$1/sub/b.bin"', "listing"),
    "opendir": ('ls "$M/runs/$1"', "listing"),
    "open": ('cat "$M/runs/$1/a.txt"', "content"),
    "read": ('cat "$M/runs/$1/a.txt"', "content"),
}

# The same in Python, which catches SIGINT: for the kernel such a signal is not deadly, so only we can end the wait.
CATCHING = """
import os, signal, sys
what, run = sys.argv[2], os.path.join(sys.argv[1], "runs", sys.argv[3])
def caught(*_): raise KeyboardInterrupt
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"): signal.signal(getattr(signal, name), caught)
try:
    if what == "lookup of a run": os.stat(run)
    elif what == "lookup in a directory": os.stat(run + "/sub/b.bin")
    elif what == "opendir": os.listdir(run)
    else: open(run + "/a.txt", "rb").read()
    print("answered")
except KeyboardInterrupt: print("interrupted")
"""


@contextlib.contextmanager
def waiting(command: list[str], mounted: Mount, lab: Lab, kind: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command, and yield it when it waits for a request of a kind: others come and go, for the index, say."""
    before = lab.requests().get(kind, 0)
    with start_process(command, env={**os.environ, "M": mounted.point}) as process:
        wait_until(lambda: lab.requests().get(kind, 0) > before, "the request")
        wait_until(lambda: state_of(process.pid) in "DS", "the wait")
        yield process


def stalled_runs(what: str, count: int, lab: Lab, mounted: Mount) -> list[int]:
    """Return runs of which a kind of request stalls, and everything before that is known."""
    if what == "open":
        # Until it is known whether a server grants ranges, one asks at a time.
        mounted.sh('cat "$M/runs/$1/a.txt"', lab.new_run({"a.txt": 1 << 20})).ok()
        lab.switch(**SIZE_UNKNOWN)
    run_ids = [lab.new_run() for _ in range(count)]
    for run_id in run_ids:
        if what == "opendir":
            mounted.sh('stat "$M/runs/$1"', run_id).ok()
        elif what != "lookup of a run":
            mounted.sh('ls "$M/runs/$1"', run_id).ok()
    lab.fault(WAITS[what][1], {"stall": True})
    return run_ids


def check_healthy(lab: Lab, mounted: Mount) -> None:
    """Check that everything works: what is stalled stays so, but nothing else does."""
    lab.faults()
    lab.switch(size_form="int")
    run_id = lab.new_run()
    assert mounted.tree(run_id) == lab.truth(run_id)


def batches(what: str, numbers: list[signal.Signals]) -> list[list[signal.Signals]]:
    """Split signals into those that can be tried at once: the kernel has one lookup at a time in a directory."""
    return [[number] for number in numbers] if what == "lookup of a run" else [numbers]


@pytest.mark.parametrize("what", WAITS)
def test_a_signal_frees_a_waiting_caller(what: str, lab: Lab, patient: Mount) -> None:
    """5.2: KILL, INT, TERM, HUP and QUIT end a command that waits in lookup, opendir, open or a read."""
    for numbers in batches(what, [*CATCHABLE, signal.SIGKILL]):
        run_ids = stalled_runs(what, len(numbers), lab, patient)
        commands = [["sh", "-c", f"exec {WAITS[what][0]}", "sh", str(run_id)] for run_id in run_ids]
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(waiting(command, patient, lab, WAITS[what][1])) for command in commands]
            for process, number in zip(processes, numbers, strict=True):
                process.send_signal(number)
            for process, number in zip(processes, numbers, strict=True):
                process.communicate(timeout=FREED_S)
                assert process.returncode == -number
    check_healthy(lab, patient)


@pytest.mark.parametrize("what", WAITS)
def test_a_signal_that_is_caught_frees_as_well(what: str, lab: Lab, patient: Mount) -> None:
    """5.2: a program that handles the signal gets to handle it: Ctrl-C in Python is KeyboardInterrupt."""
    for numbers in batches(what, CATCHABLE):
        run_ids = stalled_runs(what, len(numbers), lab, patient)
        commands = [patient.python_command(CATCHING, what, run_id) for run_id in run_ids]
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(waiting(command, patient, lab, WAITS[what][1])) for command in commands]
            for process, number in zip(processes, numbers, strict=True):
                process.send_signal(number)
            for process in processes:
                assert process.communicate(timeout=FREED_S) == (b"interrupted\n", b"")
    check_healthy(lab, patient)


def test_an_ignored_signal_frees_no_caller(lab: Lab, patient: Mount) -> None:
    """5.2: who ignores or blocks a signal goes on to wait; another one, who does neither, is freed meanwhile."""
    deaf = (
        "import os, signal, sys\n"
        "if sys.argv[3] == 'ignores': signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "else: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "os.listdir(os.path.join(sys.argv[1], 'runs', sys.argv[2]))\n"
    )
    ignoring, blocking, neither = stalled_runs("opendir", 3, lab, patient)
    with (
        waiting(patient.python_command(deaf, ignoring, "ignores"), patient, lab, "listing") as one,
        waiting(patient.python_command(deaf, blocking, "blocks"), patient, lab, "listing") as two,
        waiting(["ls", patient.path("runs", neither)], patient, lab, "listing") as freed,
    ):
        for process in (one, two, freed):
            process.send_signal(signal.SIGTERM)
        freed.communicate(timeout=FREED_S)
        assert freed.returncode == -signal.SIGTERM
        assert (one.poll(), two.poll()) == (None, None)
        assert state_of(one.pid) == state_of(two.pid)
    check_healthy(lab, patient)


def test_what_was_waited_for_is_not_given_up(lab: Lab, patient: Mount) -> None:
    """5.2: the answer to an interrupted caller serves the next one, without a request."""
    run_id = lab.new_run()
    patient.sh('stat "$M/runs/$1"', run_id).ok()
    lab.fault("listing", {"delay_s": 2.0}, times=1)
    lab.reset()
    with waiting(["ls", patient.path("runs", run_id)], patient, lab, "listing") as process:
        process.send_signal(signal.SIGINT)
        process.wait(FREED_S)
    wait_until(lambda: status(patient)["listings"]["cached"] == 1, "the answer")

    assert patient.sh('ls "$M/runs/$1"', run_id).ok().text == "a.txt\nsub\n"
    assert lab.requests() == {"listing": 1, "index": 1}


def test_fifty_interrupted_lists_leave_a_healthy_mount(lab: Lab, mounting: Mounting) -> None:
    """5.2: fifty cold directories of a stalled server, each with a process that gives up; then everything works."""
    mounted = mounting()
    mounted.log.announce("did not answer|does not answer", optional=True)
    run_ids = [lab.new_run() for _ in range(50)]
    mounted.sh('cd "$M/runs" && stat "$@"', *run_ids).ok()
    # The place of the mount is $M, what follows are the runs.
    descriptors = len(os.listdir(f"/proc/{mounted.pid}/fd"))
    lab.fault("listing", {"stall": True})
    with contextlib.ExitStack() as stack:
        commands = [["timeout", "-s", "INT", "1", "ls", mounted.path("runs", run_id)] for run_id in run_ids]
        processes = [stack.enter_context(start_process(command)) for command in commands]
        for process in processes:
            process.communicate(timeout=30)
            assert process.returncode == 124  # timeout's own
    lab.faults()

    assert mounted.trees(*run_ids) == {run_id: lab.truth(run_id) for run_id in run_ids}
    assert len(os.listdir(f"/proc/{mounted.pid}/fd")) <= descriptors + 2 * 16


def test_ctrl_c_of_a_walk(lab: Lab, patient: Mount) -> None:
    """5.2: `find`, interrupted at a server that stalls in the middle of a walk, ends, and tells of no error."""
    run_id = lab.new_run({f"d{number}/f": 1 for number in range(20)})
    patient.sh('ls "$M/runs/$1" "$M/runs/$1/d3"', run_id).ok()
    lab.fault("listing", {"stall": True})
    done = patient.sh('timeout -s INT 1 find "$M/runs/$1"', run_id, limit_s=1 + FREED_S)
    assert (done.code, done.err) == (124, "")
    check_healthy(lab, patient)


@pytest.fixture
def patient(mounting: Mounting) -> Mount:
    """A mount with the default deadline of 30 s: it frees no caller."""
    mounted = mounting()
    mounted.log.announce("did not answer|does not answer|ending", optional=True)
    return mounted
