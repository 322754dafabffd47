"""3.2, 3.4, 5.1: a service that is away, and comes back; a machine that slept.

The mount's clock is a test's (tests/launch.py), so that an hour is over at once. The kernel's is not: an
entry that it caches for a minute lasts a minute.
"""

import sys

import pytest

from artifactfs.emulator import sample
from tests.contract.reading import read
from tests.harness import CHECKOUT, Lab, Mount, Shell, wait_until
from tests.launch import tell
from tests.status import failed_requests
from tests.tcpproxy import tcp_proxy

SIZE = 3 << 20
DIRECTORIES = 30
NIGHT_S = 9 * 3600.0


class Clock:
    """The clock of a mount, ahead of the real one by what the test says."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._ahead_s = 0.0
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds
        tell(self._path, f"{self._ahead_s:.3f}")


@pytest.fixture
def clock(shell: Shell) -> Clock:
    """The clock of all mounts of `shell` from now on."""
    path = shell.path("clock")
    shell.program = (sys.executable, "-m", "tests.launch", "clock")
    shell.more_env |= {"PYTHONPATH": CHECKOUT, "TEST_CLOCK": path}
    return Clock(path)


def find(mounted: Mount, run_id: int) -> set[str]:
    """Return what `find` finds in a run; it must not complain."""
    done = mounted.sh('cd "$M/runs/$1" && find . -mindepth 1 -printf "%P %y %s\\n"', run_id).ok()
    assert done.err == ""
    return set(done.text.splitlines())


def away(how: str, lab: Lab) -> None:
    """Let the service be away."""
    if how == "refuses":
        lab.stop()
    else:
        lab.fault("any", {"stall": True})


# One that fails: tests/simulated/test_outages.py.
@pytest.mark.parametrize("how", ["refuses", "stalls"])
def test_half_an_hour_without_a_service(how: str, own_lab: Lab, shell: Shell, clock: Clock) -> None:
    """3.2, 5.1: a second traversal sees the whole tree, and waits once; then it is fresh."""
    shell.lab = own_lab
    run_id = own_lab.new_run({f"d{i}/f": i for i in range(DIRECTORIES)}, status="running")
    # What was asked for while the service stalled is under way until then.
    mounted = shell.mount("--deadline", "3s")
    mounted.log.announce("refuses connections|was lost|answer|no content", optional=True)
    path = ("runs", run_id, "d7/f")
    before = find(mounted, run_id)
    assert len(before) == 2 * DIRECTORIES
    assert read(mounted, "whole", *path) == own_lab.sha256(run_id, "d7/f")
    digest = own_lab.sha256(run_id, "d7/f")
    truth = own_lab.truth(sample.RUN)
    assert mounted.tree(sample.RUN) == truth
    clock.advance(61)  # listings of running runs are old
    own_lab.reset()
    away(how, own_lab)

    assert find(mounted, run_id) == before
    for _ in range(2):
        clock.advance(14 * 60)
        assert find(mounted, run_id) == before
        assert read(mounted, "whole", *path) == digest
        assert mounted.tree(sample.RUN) == truth
    # What was listed ahead before the trouble showed, and probes: not every directory of each of the three walks, each
    # of which would be a second (3.2; by the clock: tests/simulated/test_outages.py).
    refused = failed_requests(mounted, "connection_refused", "connection_lost")
    assert (refused if how == "refuses" else own_lab.total()) <= 2 * DIRECTORIES
    if how != "refuses":
        own_lab.faults()
        own_lab.files(run_id, add={"new": 1})
        wait_until(lambda: "new f 1" in find(mounted, run_id), "what came meanwhile")
        return
    own_lab.start()  # another one: it never heard of `run_id`
    clock.advance(3600)
    wait_until(lambda: mounted.sh('ls "$M/runs/$1"', run_id).code != 0, "the run's absence")
    assert mounted.tree(sample.RUN) == truth


def test_a_service_that_dies_and_comes_back(own_lab: Lab, shell: Shell) -> None:
    """5.1, 5.3: while no server listens, what is new is refused, and what is cached is there; afterwards all is."""
    shell.lab = own_lab
    mounted = shell.mount("--deadline", "2s")
    mounted.log.announce("refuses connections")
    mounted.log.announce("was lost|content", optional=True)
    other = ("runs", sample.FIRST_OF_MANY)
    truth = own_lab.truth(sample.RUN)
    assert mounted.tree(sample.RUN) == truth
    known = "model/weights.safetensors"
    assert read(mounted, "whole", *other, known) == own_lab.sha256(sample.FIRST_OF_MANY, known)
    digest = own_lab.sha256(sample.FIRST_OF_MANY, known)
    config = own_lab.sha256(sample.FIRST_OF_MANY, "config.json")
    away("refuses", own_lab)

    assert "Connection refused" in mounted.sh('ls "$M/runs/$1"', sample.FIRST_OF_MANY + 1).err
    assert "Connection refused" in mounted.sh('cat "$M/runs/$1/config.json"', sample.FIRST_OF_MANY).err
    assert mounted.tree(sample.RUN) == truth
    assert read(mounted, "whole", *other, known) == digest
    assert mounted.sh('ls "$M"; stat "$M/runs"; df "$M"').code == 0
    own_lab.start()
    assert mounted.tree(sample.FIRST_OF_MANY + 1) == own_lab.truth(sample.FIRST_OF_MANY + 1)
    assert read(mounted, "whole", *other, "config.json") == config


@pytest.mark.parametrize("how", ["close", "reset", "forget"])
def test_a_machine_that_slept_all_night(how: str, lab: Lab, shell: Shell, clock: Clock) -> None:
    """3.2, 5.1: with everything expired and all connections closed, reset or forgotten, the next look is right."""
    files = {f"d{i}/f": 10 + i for i in range(DIRECTORIES)}
    run_id = lab.new_run({**files, "a/model.bin": SIZE, "x/x": 1, "y/y": 2, "z/z": 3}, status="running")
    # What is stored of the listings is not old by the real clock: a refresh of more than a second would show it.
    shell.program = (sys.executable, "-m", "tests.launch", "clock+patient")
    mounted = shell.expected_mount()

    def ls() -> None:
        assert "new" in mounted.sh('ls "$M/runs/$1/a"', run_id).ok().text.split()

    def cat() -> None:
        assert read(mounted, "whole", "runs", run_id, "a/model.bin") == lab.sha256(run_id, "a/model.bin")

    def walk() -> None:
        assert "a/new f 1" in find(mounted, run_id)

    with tcp_proxy(lab.port) as wire:
        shell.cli("mount", "--api-url", wire.url, "--log-file", mounted.log_file, mounted.point).ok()
        for name, first_look in (("x", ls), ("y", cat), ("z", walk)):
            # In the middle of work: the connections of both pools were just in use.
            find(mounted, run_id)
            assert read(mounted, "whole", "runs", run_id, f"{name}/{name}") == lab.sha256(run_id, f"{name}/{name}")
            used = wire.taken
            wire.cut(how)
            clock.advance(NIGHT_S)
            lab.files(run_id, add={"a/new": 1})
            first_look()
            assert wire.taken > used
        mounted.umount()
