"""5.1 of the contract: a service that accepts and says nothing is waited for once, and not by every caller."""

import errno

import pytest

from tests.fixtures import Mounting
from tests.harness import Lab, Mount, wait_until

# Each mount's own; the limits below are the contract's with twice the margin.
DEADLINE_S = 2.0
STALLED = {"stall": True}


@pytest.fixture
def hasty(mounting: Mounting) -> Mount:
    mounted = mounting("--deadline", f"{DEADLINE_S:g}s", "--prefetch", "off")
    mounted.log.announce("did not answer|does not answer|no answer within|no content came")
    return mounted


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_a_walk_of_a_dead_service_takes_no_thousand_deadlines(known: bool, lab: Lab, mounting: Mounting) -> None:
    """5.1: `find` over 150 directories ends within two deadlines, all known (and old), or none of them."""
    mounted = mounting("--deadline", f"{DEADLINE_S:g}s", "--prefetch", "off", "--listing-ttl", "0")
    mounted.log.announce("did not answer|does not answer|no answer within", optional=known)
    run_id = lab.new_run({f"d{number:03d}/f": 1 for number in range(150)})
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    if known:
        assert mounted.tree(run_id) == lab.truth(run_id)
    lab.fault("any", STALLED)
    lab.reset()
    done = mounted.sh('find "$M/runs/$1" | sort', run_id, limit_s=2 * 2 * DEADLINE_S)

    directories = [f"d{number:03d}" for number in range(150)]
    files = [f"{name}/f" for name in directories] if known else []
    assert done.text.splitlines() == [mounted.path("runs", run_id, name).rstrip("/")
                                      for name in sorted(["", *directories, *files])]  # fmt: skip
    assert done.err.count("Connection timed out") == (0 if known else 150)
    assert lab.total() <= 5  # one that waited, and probes: at most one in 5 s
    lab.faults()
    wait_until(lambda: mounted.sh('find "$M/runs/$1"', run_id).code == 0, "the probe that is answered")

    assert mounted.tree(run_id) == lab.truth(run_id)


@pytest.mark.parametrize("then", [{"status": 500}, {"reset_after": 0}], ids=str)
def test_a_walk_of_a_service_that_fails_at_once(then: dict[str, object], lab: Lab, mounting: Mounting) -> None:
    """5.1: `find` over 100 directories that all fail does not take the retries of a hundred."""
    mounted = mounting("--deadline", "5s", "--prefetch", "off")
    mounted.log.announce("answered 500|was lost")
    run_id = lab.new_run({f"d{number:03d}/f": 1 for number in range(100)})
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    lab.fault("any", then)
    lab.reset()
    done = mounted.sh('find "$M/runs/$1"', run_id, limit_s=2 * 2 * 5.0)
    assert done.err.count("Input/output error") == 100
    assert lab.total() <= 100 + 3 * 3  # three that were tried four times
    lab.faults()

    assert mounted.tree(run_id) == lab.truth(run_id)


def test_files_of_a_dead_service_take_no_deadline_each(lab: Lab, hasty: Mount) -> None:
    """5.1: `cat` of 50 files whose content does not come ends within two deadlines; then all of it is there."""
    run_id = lab.new_run({f"f{number:02d}": 1000 for number in range(50)})
    hasty.sh('ls "$M/runs/$1"', run_id).ok()
    lab.fault("content", STALLED)
    done = hasty.sh('cat "$M/runs/$1"/*', run_id, limit_s=2 * 2 * DEADLINE_S)
    assert done.out == b""
    assert done.err.count("Connection timed out") == 50
    lab.faults()

    wait_until(lambda: len(hasty.sh('cat "$M/runs/$1"/*', run_id).out) == 50_000, "the probe that is answered")


def test_the_first_look_after_an_outage_is_answered(lab: Lab, hasty: Mount) -> None:
    """5.1: the first request after a time-out is its probe: no caller waits for the service once it answers again."""
    lost, found = lab.new_run(), lab.new_run()
    lab.fault("any", STALLED)
    assert hasty.error_of("runs", lost) == errno.ETIMEDOUT
    lab.faults()

    assert hasty.tree(found) == lab.truth(found)
    assert hasty.tree(lost) == lab.truth(lost)


def test_a_stalled_target_fails_no_other(lab: Lab, hasty: Mount) -> None:
    """5.1: as long as others are answered, one directory that is not is no sign of a dead service."""
    run_id = lab.new_run({"bad/f": 1, **{f"good{number}/f": 1 for number in range(40)}})
    hasty.sh('ls "$M/runs/$1"', run_id).ok()
    lab.faults({"match": {"kind": "listing", "query_contains": "bad"}, "then": STALLED})
    both = 'ls "$M/runs/$1/bad" & for d in "$M/runs/$1"/good*; do ls "$d" && sleep 0.1; done; wait $!'
    done = hasty.sh(both, run_id)

    assert done.text == "f\n" * 40
    assert done.err.count("Connection timed out") == 1
    assert done.err.count("\n") == 1


def test_what_is_cached_and_fresh_does_not_notice(lab: Lab, mounting: Mounting) -> None:
    """5.1: what is cached and fresh, `/`, `stat` of `/runs` and `df` never wait for the network."""
    run_id = lab.new_run()
    mounted = mounting()
    warm = 'ls "$M" "$M/runs" && ls -lR "$M/runs/$1" && cat "$M/runs/$1/a.txt" && ! stat "$M/runs/$1/none"'
    mounted.sh(warm, run_id).ok()
    scripts = ['ls "$M"', 'stat "$M/runs"', 'df "$M"', 'ls -lR "$M/runs/$1"', 'cat "$M/runs/$1/a.txt"',
               'stat "$M/runs/$1/none" 2>/dev/null || true', 'find "$M/runs/$1" -size +0']  # fmt: skip
    before = [mounted.sh(script, run_id) for script in scripts]
    lab.fault("any", STALLED)
    lab.reset()

    after = [mounted.sh(script, run_id, limit_s=10.0) for script in scripts]
    assert [(done.code, done.out) for done in after] == [(done.code, done.out) for done in before]
    assert lab.total() == 0
