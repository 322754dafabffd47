"""5.5: what the system cannot give costs the operations concerned, never the mount."""

import contextlib
import os
import resource
from collections.abc import Callable

import pytest

from tests.fixtures import Mounting
from tests.harness import Lab, start_process

FILES = 40
SIZE = 200_000
# Far below what hangs, above any deadline here.
READ_S = 25.0


def memory_now(pid: int) -> int:
    """Return how many bytes of addresses a process has."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def descriptors_now(pid: int) -> int:
    return max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1


@pytest.mark.parametrize("more", [0, 3 << 20])
def test_a_mount_outlives_a_lack_of_memory(more: int, lab: Lab, mounting: Mounting) -> None:
    """5.5: with no memory to be had, operations fail and none hangs; with memory again, all is as before."""
    outlives(resource.RLIMIT_AS, lambda pid: memory_now(pid) + more, lab, mounting)


@pytest.mark.parametrize("more", [0, 2])
def test_a_mount_outlives_a_lack_of_descriptors(more: int, lab: Lab, mounting: Mounting) -> None:
    """5.5: with no descriptor to be had, operations fail and none hangs; with some again, all is as before."""
    outlives(resource.RLIMIT_NOFILE, lambda pid: descriptors_now(pid) + more, lab, mounting)


def outlives(limit: int, now: Callable[[int], int], lab: Lab, mounting: Mounting) -> None:
    """Take a mount what it has not yet, use it, give it back, and use it again."""
    mounted = mounting("--deadline", "4s")
    mounted.log.announce("", optional=True)  # what fails is not this test's matter, nor what is said of it
    names = [f"f{number}" for number in range(FILES)]
    run_id = lab.new_run(dict.fromkeys(names, SIZE))
    known = lab.new_run(dict.fromkeys(names, SIZE))
    mounted.sh('cat "$M/runs/$1"/* | wc -c', known).ok()
    pid = mounted.pid
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (now(pid), before[1]))
    mounted.sh('ls "$M/runs/$1"; ls "$M/runs"', run_id, limit_s=READ_S)
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(start_process([*mounted.shell.prefix, "cat", mounted.path("runs", run_id, name)]))
            for name in names
        ]
        for reader in readers:
            out, _ = reader.communicate(timeout=READ_S)
            # All, or an error: never a file that is short without one.
            assert reader.returncode != 0 or len(out) == SIZE
    resource.prlimit(pid, limit, before)

    assert mounted.pid == pid
    assert mounted.tree(run_id) == lab.truth(run_id)
    for name in (names[0], names[-1]):
        digest = mounted.sh('sha256sum < "$M/runs/$1/$2"', run_id, name).ok().text.split()[0]
        assert digest == lab.sha256(run_id, name)
    assert not mounted.log.has("this is a bug")
