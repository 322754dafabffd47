"""Section 3 of the contract: how old what is shown may be, and what happens when the server is in trouble."""

import errno
import time
from collections.abc import Iterator

import pytest

from tests.fixtures import PATIENT, Mounting
from tests.harness import Lab, Mount, Shell, wait_until
from tests.status import failed_requests

AT_ONCE = ("--listing-ttl", "0", "--finished-ttl", "0", "--negative-ttl", "0")
# More than are asked for while the service is in trouble: each that were would be a second that its caller waits.
DIRECTORIES = 20


@pytest.fixture(scope="module")
def _asking_mount(_shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    shell = Shell(str(tmp_path_factory.mktemp("asking")), _shared_lab, PATIENT)
    yield shell.mount(*AT_ONCE)
    shell.close()


@pytest.fixture
def asking(_asking_mount: Mount, lab: Lab) -> Iterator[Mount]:
    """One mount, for which each listing is old at once, for all tests that leave the service well."""
    with _asking_mount.log.watched():
        yield _asking_mount


def names(mounted: Mount, run_id: int) -> list[str]:
    return mounted.sh('ls "$M/runs/$1"', run_id).ok().text.split()


def test_a_listing_is_fresh_for_its_time(lab: Lab, mounting: Mounting) -> None:
    """3.1: within `listing_ttl` a listing is not asked for again; after it the next look shows the change."""
    run_id = lab.new_run(status="running")
    mounted = mounting("--listing-ttl", "1s", "--negative-ttl", "1s")
    assert names(mounted, run_id) == ["a.txt", "sub"]
    lab.files(run_id, add={"new.txt": 1})

    wait_until(lambda: names(mounted, run_id) == ["a.txt", "new.txt", "sub"], "the new name", limit_s=4.0)


def test_the_listing_of_a_finished_run_is_fresh_for_longer(lab: Lab, mounting_patiently: Mounting) -> None:
    """3.1: a run finished for more than ten minutes stays fresh for `finished_ttl`, a running one for `listing_ttl`."""
    running, finished = lab.new_run(status="running"), lab.new_run()
    mounted = mounting_patiently("--listing-ttl", "0", "--finished-ttl", "1h", "--negative-ttl", "0")
    for run_id in (running, finished):
        names(mounted, run_id)
        lab.files(run_id, add={"new.txt": 1})

    assert names(mounted, running) == ["a.txt", "new.txt", "sub"]
    assert names(mounted, finished) == ["a.txt", "sub"]


def test_the_listing_of_a_run_just_finished_has_the_short_ttl(lab: Lab, mounting_patiently: Mounting) -> None:
    """3.1: in the first ten minutes after its end a run stays fresh for `listing_ttl` only: uploads trail behind."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run_id = lab.new_run(status="completed", completed_at=now)
    mounted = mounting_patiently("--listing-ttl", "0", "--finished-ttl", "1h", "--negative-ttl", "0")
    names(mounted, run_id)
    lab.files(run_id, add={"new.txt": 1})

    assert names(mounted, run_id) == ["a.txt", "new.txt", "sub"]


def test_an_absence_is_cached_for_its_time(lab: Lab, mounting: Mounting) -> None:
    """3.1: "not there" stays fresh for at most `negative_ttl`: then what came is there, in a run, or a run itself."""
    known = lab.new_run(status="running")
    mounted = mounting("--listing-ttl", "1s", "--negative-ttl", "1s")
    absent = ((known, "new.txt"), (known + 500_000, "a.txt"))
    for run_id, name in absent:
        assert mounted.error_of("runs", run_id, name) == errno.ENOENT
    for run_id, name in absent:
        lab.files(run_id, add={name: 1})

    for run_id, name in absent:
        wait_until(lambda at=(run_id, name): mounted.error_of("runs", *at) == 0, "the name", limit_s=4.0)  # type: ignore[misc]


def test_the_kernel_asks_nothing_while_a_name_is_fresh(lab: Lab, standing: Mount) -> None:
    """3.1: the kernel learns the time that is left: an absence and a name are looked up once within it."""
    run_id = lab.new_run()
    standing.error_of("runs", run_id, "absent")
    names(standing, run_id)
    lab.change_run(run_id, delete=True)
    lab.fault("listing", {"status": 500})
    lab.reset()

    assert standing.error_of("runs", run_id, "absent") == errno.ENOENT
    assert standing.error_of("runs", run_id, "a.txt") == 0
    assert lab.total() == 0


# Each kind of trouble, and for how long by the clock: tests/simulated/test_outages.py.
@pytest.mark.parametrize(
    ("trouble", "said"), [({"rate_limit": {"reset_s": 2, "period": 2}}, "answered 429|rate-limiting")], ids=str
)
def test_an_old_tree_is_served_while_the_server_fails(
    trouble: dict[str, object], said: str, lab: Lab, mounting: Mounting
) -> None:
    """3.2: when a refresh fails for a passing reason, the old tree is served after 1 s once, and the log says so."""
    run_id = lab.new_run({f"d{i}/f": i for i in range(DIRECTORIES)})
    truth = lab.truth(run_id)
    mounted = mounting(*AT_ONCE)
    mounted.log.announce(said)
    mounted.tree(run_id)
    lab.fault("any", trouble)
    lab.reset()

    assert mounted.tree(run_id) == truth
    assert lab.total() < DIRECTORIES
    wait_until(lambda: mounted.log.has(said), "the warning in the log")


def test_an_old_tree_is_served_while_the_server_stalls(lab: Lab, mounting: Mounting) -> None:
    """3.2: with a server that accepts and never answers, a whole walk waits 1 s once, not at each directory."""
    run_id = lab.new_run({f"d{i}/f": i for i in range(DIRECTORIES)})
    truth = lab.truth(run_id)
    mounted = mounting(*AT_ONCE)
    mounted.log.announce("did not answer|found no end|no answer within", optional=True)
    mounted.tree(run_id)
    lab.fault("any", {"stall": True})
    lab.reset()

    assert mounted.tree(run_id) == truth
    # One, and a probe each 5 s; where each directory waits its second, 17.
    assert lab.total() <= DIRECTORIES // 2


def test_an_old_tree_is_served_during_an_outage(own_lab: Lab, shell: Shell) -> None:
    """3.2: with the server gone the old tree is served; with it back, what changed shows."""
    shell.lab = own_lab
    run_id = own_lab.new_run({f"d{i}/f": i for i in range(DIRECTORIES)})
    mounted = shell.mount(*AT_ONCE)
    truth = own_lab.truth(run_id)
    assert mounted.tree(run_id) == truth
    mounted.log.announce("refuses connections")
    mounted.log.announce("was lost", optional=True)
    own_lab.stop()

    assert mounted.tree(run_id) == truth
    assert failed_requests(mounted, "connection_refused", "connection_lost") < DIRECTORIES
    wait_until(lambda: mounted.log.has("refuses connections"), "the warning in the log")
    own_lab.start()  # a new one: it never heard of `run_id`
    wait_until(lambda: mounted.error_of("runs", run_id) == errno.ENOENT, "the run's absence")


def test_an_old_tree_is_not_served_for_ever(lab: Lab, mounting: Mounting) -> None:
    """3.2: past `stale_max` the old listing is not served: the error shows."""
    run_id = lab.new_run(status="running")
    mounted = mounting("--listing-ttl", "0", "--stale-max", "1s", "--deadline", "2s")
    mounted.log.announce("answered 500")
    mounted.log.announce("found no end|no answer within", optional=True)
    names(mounted, run_id)
    lab.fault("any", {"status": 500})

    wait_until(
        lambda: mounted.error_of("runs", run_id, "a.txt") in (errno.EIO, errno.ETIMEDOUT), "the error", limit_s=10
    )


@pytest.mark.parametrize("kind", ["run", "listing"])
def test_a_passing_error_is_no_absence(kind: str, lab: Lab, mounting: Mounting) -> None:
    """3.2: a passing error on a path never seen is an error, not ENOENT, and is not remembered."""
    run_id = lab.new_run()
    mounted = mounting("--deadline", "2s")
    mounted.log.announce("answered 500")
    mounted.log.announce("found no end|no answer within", optional=True)
    lab.fault(kind, {"status": 500})
    assert mounted.error_of("runs", run_id, "a.txt") in (errno.EIO, errno.ETIMEDOUT)
    lab.faults()

    assert mounted.error_of("runs", run_id, "a.txt") == 0


def test_a_passing_error_makes_nothing_vanish(lab: Lab, mounting: Mounting) -> None:
    """3.2: a run in /runs, its directories and files stay while pages, runs and listings fail."""
    run_id = lab.new_run(updated_at="2099-01-01T00:00:00Z")
    mounted = mounting(*AT_ONCE)
    mounted.log.announce("answered 502")
    runs = mounted.sh('ls "$M/runs"').ok().text
    mounted.tree(run_id)
    assert str(run_id) in runs
    lab.fault("any", {"status": 502})

    for _ in range(3):
        assert mounted.sh('ls "$M/runs"').ok().text == runs
        assert names(mounted, run_id) == ["a.txt", "sub"]
    wait_until(lambda: mounted.log.has("answered 502"), "the warning in the log")


def test_a_single_failure_is_not_even_seen(lab: Lab, standing: Mount) -> None:
    """3.2, 5.3: one 500, one reset and one cut answer are retried: no user sees an error."""
    for then in ({"status": 500}, {"reset_after": 0}, {"cut_after": 30}, {"cut_after": -1}):
        run_id = lab.new_run()
        lab.fault("any", then, times=1)
        assert standing.tree(run_id) == lab.truth(run_id)


def test_a_hangup_makes_everything_fresh(lab: Lab, mounted: Mount) -> None:
    """3.3: SIGHUP to a mount in the background makes the next look fresh."""
    run_id = lab.new_run()
    assert names(mounted, run_id) == ["a.txt", "sub"]
    lab.files(run_id, add={"new.txt": 1})
    mounted.sh('kill -HUP "$1"', mounted.pid).ok()
    wait_until(lambda: mounted.log.has("SIGHUP"), "the signal's line in the log")

    assert names(mounted, run_id) == ["a.txt", "new.txt", "sub"]


@pytest.mark.parametrize(
    "change",
    [
        {"add": {"dir/four": 4, "new/five": 5}},
        {"remove": ["two", "dir"]},
        {"rename": {"one": "uno", "dir": "other"}},
        {"append": {"two": 100}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_shows_at_the_next_look(change: dict[str, object], lab: Lab, asking: Mount) -> None:
    """3.4: a listing that comes back changed shows at the next look, in names and attributes."""
    run_id = lab.new_run({"one": 1, "two": 2, "dir/three": 3})
    assert asking.tree(run_id) == lab.truth(run_id)
    lab.files(run_id, **change)

    assert asking.tree(run_id) == lab.truth(run_id)


def test_a_content_that_fails_makes_no_listing_vanish(lab: Lab, mounting: Mounting) -> None:
    """3.2: with everything failing, a read that fails leaves its directory as it was seen before."""
    run_id = lab.new_run({"a": 10, "b": 20})
    mounted = mounting()
    mounted.log.announce("answered 503")
    mounted.tree(run_id)
    lab.fault("any", {"status": 503})
    assert mounted.sh('cat "$M/runs/$1/a"', run_id).code == 1
    assert mounted.tree(run_id) == lab.truth(run_id)
