"""Sections 1.6 and 7 of the contract: what a traversal by the index costs, and other users beside it."""

import os
import signal
from collections.abc import Sequence

import pytest

from tests.contract.indexed_runs import BY_INDEX, directories_of, found, many, new_run
from tests.fixtures import Mounting
from tests.harness import Holding, Lab, Mount, start_process, wait_until

SETTLED = {"status": "completed", "completed_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:06Z"}

# --- what it costs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["find", "du -a", "ls -lR"])
def test_a_thousand_directories(command: str, lab: Lab, standing: Mount) -> None:
    """7: a walk over 1,000 directories of 20 files costs at most twelve requests, and none the second time."""
    run_id = lab.new_run({}, project=lab.new_project())
    lab.files(run_id, grid={"dirs": 1000, "files": 20})
    lab.reset()
    for _ in range(2):
        standing.sh(f'{command} "$M/runs/$1" >/dev/null', run_id).ok()
        assert lab.total() <= BY_INDEX
    told = rf"walked \d{{4}} directories of run {run_id} in .*: \d listing;"
    wait_until(lambda: standing.log.has(told), "the walk's line in the log")


def test_forty_levels_down(lab: Lab, standing: Mount) -> None:
    """7: `stat` 40 levels down on a cold mount costs a handful of requests, not one for each level."""
    path = "/".join(f"level{depth}" for depth in range(40))
    run_id = lab.new_run({f"{path}/deep.txt": 5}, project=lab.new_project())
    lab.reset()

    assert standing.sh('stat -c %s "$M/runs/$1/$2/deep.txt"', run_id, path).ok().text == "5\n"
    assert lab.total() <= BY_INDEX


@pytest.mark.parametrize("prefetch", ["tree", "off"])
def test_without_it(prefetch: str, lab: Lab, mounting: Mounting) -> None:
    """7: with prefetch = tree and off the index is not requested, and a walk costs one request for each directory."""
    run_id = new_run(lab, 100, 2)
    lab.switch(latency_s=0.01)
    mounted = mounting("--prefetch", prefetch)

    truth = lab.truth(run_id)
    assert found(mounted, run_id) == truth
    assert lab.requests() == {"run": 1, "listing": directories_of(truth)}
    assert (lab.stats()["peak"] > 2) is (prefetch == "tree")


def test_several_runs_of_a_project(lab: Lab, standing: Mount) -> None:
    """7: the index of a project is asked for once, and serves all its runs, each after a look at the run itself."""
    project = lab.new_project()
    run_ids = [lab.new_run(many(40, 2), project=project) for _ in range(5)]
    lab.reset()

    for run_id in run_ids:
        assert found(standing, run_id) == lab.truth(run_id)
    asked = lab.requests()
    assert asked["index"] == 1
    assert sum(asked.values()) <= BY_INDEX * len(run_ids)


def test_a_walk_over_many_runs(lab: Lab, standing: Mount) -> None:
    """7: after three runs of a project, each further settled run costs two requests, and all is shown as it is."""
    project, count = lab.new_project(), 20
    run_ids = [lab.new_run(many(40, 2), project=project, **SETTLED) for _ in range(count)]
    lab.reset()

    for run_id in run_ids:
        assert found(standing, run_id) == lab.truth(run_id)
    asked = lab.requests()
    assert asked["index"] == 1
    # Runs are numbered, not listed, so that each is asked for, too. A sample may be of a directory that is being asked
    # for.
    assert asked["listing"] <= BY_INDEX * 3 + 3 * (count - 3)
    assert sum(asked.values()) <= 1 + count + asked["listing"]


def test_a_listing_in_pieces_of_a_large_project(lab: Lab, standing: Mount) -> None:
    """7, 6.4: an index of 30 runs and 36,000 files answers for one of them."""
    project = lab.new_project()
    run_ids = [lab.new_run(many(60, 20), project=project) for _ in range(30)]
    lab.reset()

    assert found(standing, run_ids[17]) == lab.truth(run_ids[17])
    assert lab.total() <= BY_INDEX


# --- beside others ------------------------------------------------------------------------------------------


# Lists the directories below a place that it is told, one for each line, and says when each is listed.
_LISTING = """
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    os.listdir(os.path.join(sys.argv[2], line.strip()))
    print("listed", flush=True)
"""


def rounds(lab: Lab, mounted: Mount, looks: Sequence[str], run_id: int) -> list[float]:
    """Return how many round trips passed while each directory was listed: requests sent meanwhile, 16 to a round.

    By a process that runs already: a machine may take longer to start one than the service for three answers.
    """
    passed = []
    with start_process(mounted.python_command(_LISTING, mounted.path("runs", run_id))) as process:
        lister = Holding(process)
        assert lister.line() == b"ready\n"
        assert process.stdin is not None
        for path in looks:
            before = lab.total()
            process.stdin.write(f"{path}\n".encode())
            process.stdin.flush()
            assert lister.line() == b"listed\n"
            passed.append((lab.total() - before) / 16)
    return passed


def test_another_users_look_during_a_walk(lab: Lab, mounting: Mounting) -> None:
    """7: while a `find` without an index sends all the requests that it may, an `ls` takes three round trips."""
    walked, looked_at = new_run(lab, 1000, 1), new_run(lab, 40, 2)
    mounted = mounting("--prefetch", "tree")
    mounted.sh('ls "$M/runs/$1"', looked_at).ok()
    lab.switch(latency_s=0.3)
    lab.reset()

    with start_process(["find", mounted.path("runs", walked)]):
        wait_until(lambda: lab.stats()["in_flight"] >= 12, "a walk in full swing")
        passed = rounds(lab, mounted, ["g0", "g1", "g0/d3"], looked_at)
        assert lab.stats()["peak"] >= 12
    assert max(passed) <= 3


def test_another_users_look_while_an_index_stalls(lab: Lab, mounting_patiently: Mounting) -> None:
    """7: while a process waits for the index of a project, an `ls` in another run of it goes on by itself."""
    project = lab.new_project()
    walked, looked_at = (lab.new_run(many(40, 2), project=project) for _ in range(2))
    mounted = mounting_patiently()
    lab.switch(index="stall")
    lab.reset()

    with start_process(["find", mounted.path("runs", walked)]):
        wait_until(lambda: lab.requests().get("index"), "the index was asked for")
        done = mounted.sh('ls "$M/runs/$1/g0"', looked_at).ok()
    # Less than what a patient mount waits for an index, ten seconds.
    assert done.seconds < 9


def test_the_mount_ends_in_the_middle_of_it(lab: Lab, mounting: Mounting) -> None:
    """5.6: an index on its way, and listing ahead, hold up no end of the mount."""
    run_id = new_run(lab, 400, 1)
    lab.switch(index="stall", latency_s=0.2)
    mounted = mounting()

    with start_process(["find", mounted.path("runs", run_id)]):
        wait_until(lambda: lab.stats()["in_flight"] >= 8, "a walk in full swing")
        os.kill(mounted.pid, signal.SIGTERM)
        wait_until(lambda: not mounted.shell.processes(), "the end", 6)
