"""5.1, 5.3, 4.2: the contents of status, errors and metrics of a mount."""

import os
import re

import pytest

from tests.fixtures import Mounting
from tests.harness import Lab, Mount, holding, wait_until
from tests.status import metrics, report, status

MIB = 1 << 20


# --- what it says -----------------------------------------------------------------------------------------


def counted(mounted: Mount) -> dict[str, int]:
    """Return the requests that a mount has counted, by kind: those that have ended, but for the keys' check."""
    by_kind = status(mounted)["requests"]["by_kind"]
    asked = {kind: sum(outcomes.values()) - (kind == "runs") for kind, outcomes in by_kind.items()}
    return {kind: count for kind, count in asked.items() if count}


def test_what_a_mount_counts(lab: Lab, mounted: Mount) -> None:
    """5.3: status and metrics count what the server counts: requests by kind, bytes, listings, open files."""
    run_id = lab.new_run({"a.bin": 3 * MIB, "b/c.txt": 10, "b/d.txt": 20})
    mounted.tree(run_id)
    mounted.sh('cat "$M/runs/$1/a.bin" | sha256sum; cat "$M/runs/$1/missing" 2> /dev/null', run_id)
    wait_until(lambda: counted(mounted) == lab.requests(), "the end of what is asked in the background")
    before, told = lab.requests(), status(mounted)
    assert all(set(outcomes) == {"ok"} for outcomes in told["requests"]["by_kind"].values())
    assert told["health"]["state"] == "ok"
    assert told["reading"]["fetched_bytes"] == 3 * MIB
    assert told["listings"]["cached"] >= 2
    assert told["rate_limits"][0]["name"] == "model_lab_api"
    assert told["requests"]["received_bytes"] > 3 * MIB
    assert (told["mountpoint"], told["pid"], told["last_error"]) == (mounted.point, mounted.pid, None)
    assert lab.requests() == before  # nothing is asked for it

    found = metrics(mounted)
    assert found["artifactfs_requests_total", (("kind", "listing"), ("outcome", "ok"))] == before["listing"]
    assert found["artifactfs_answer_seconds_count", (("kind", "content"),)] == before["content"]
    assert found["artifactfs_answer_seconds_bucket", (("kind", "content"), ("le", "+Inf"))] == before["content"]
    assert found["artifactfs_health", (("state", "ok"),)] == 1
    assert found["artifactfs_read_bytes_total", (("source", "service"),)] == 3 * MIB


def test_what_the_cache_counts(lab: Lab, mounting: Mounting) -> None:
    """5.3: what is read again comes from memory or disk, and the cache's size and place are reported."""
    run_id = lab.new_run({"a.bin": 3 * MIB})
    mounted = mounting()
    read = 'cat "$M/runs/$1/a.bin" | wc -c'
    mounted.sh(read, run_id).ok()
    wait_until(lambda: (status(mounted)["cache"]["size_bytes"] or 0) >= 3 * MIB, "the cache's size")
    told = status(mounted)["cache"]
    assert told["directory"] == os.path.join(mounted.shell.path("cache"), "artifactfs")
    assert told["disk_free_bytes"] > 0
    mounted.umount()
    again = mounting()
    again.sh(read, run_id).ok()
    told = status(again)["reading"]
    assert (told["fetched_bytes"], told["disk_bytes"]) == (0, 3 * MIB)


def test_a_body_that_fits_nowhere(lab: Lab, mounting: Mounting) -> None:
    """4.2: status says so: which body is streamed, that it fits neither cache nor memory, and that it began again."""
    size = 160 * MIB
    lab.switch(ranges="ignored")
    run_id = lab.new_run({"big.bin": size, "small.bin": 100_000})
    mounted = mounting("--cache-size", "0")
    code = """
import os, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
for at in range(0, 40 << 20, 1 << 20): os.pread(fd, 1 << 20, at)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
print("ready", flush=True); sys.stdin.readline()
os.pread(fd, 4096, 0)
print("back")
"""
    with holding(mounted.python_command(code, mounted.path("runs", run_id, "big.bin"))) as held:
        told = status(mounted)
        assert told["reading"]["streamed"] == 1
        (body,) = told["streaming"]
        assert body["path"].endswith("/big.bin")
        assert (body["size_bytes"], body["fits"]) == (size, False)
        assert 40 * MIB <= body["came_to"] < size
        shown = mounted.shell.cli("status", mounted.point).ok().text
        assert re.search(r"streaming +\S+/big\.bin, 160 MiB, .* fits neither cache nor memory", shown)
        assert held.go_on() == b"back\n"
    assert status(mounted)["reading"]["streamed"] == 2
    assert mounted.log.has("fits neither the cache nor memory")


@pytest.mark.parametrize(
    ("then", "state", "outcome", "announced", "said"),
    [
        ({"status": 403}, "keys_rejected", "denied", "answered 403", "check the keys"),
        ({"stall": True}, "not_answering", "timed_out", "not answer|no answer within", "check the network"),
        ({"status": 500}, "degraded", "server_error", "answered 500", "see the last error"),
        (
            {"rate_limit": {"reset_s": 600, "period": 600}},
            "rate_limited", "throttled", "rate-limiting|too many requests", "wait for the reset",
        ),
    ],
)  # fmt: skip
def test_what_went_wrong(
    then: dict[str, object], state: str, outcome: str, announced: str, said: str, lab: Lab, mounting: Mounting
) -> None:
    """5.3: status and the log say in a sentence what happened and what to do; once it works again, that it does."""
    mounted = mounting("--listing-ttl", "0", "--negative-ttl", "0", "--finished-ttl", "0", "--deadline", "2s")
    mounted.log.announce(announced)
    mounted.log.announce("not answer|no answer within|answers again", optional=True)
    run_id = lab.new_run()
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    lab.fault("any", then)
    wait_until(
        lambda: (
            mounted.sh('ls "$M/runs/$1" "$M/runs/$2"', run_id, run_id + 1)
            and status(mounted)["health"]["state"] == state
        ),
        state,
    )
    told = status(mounted)
    assert said in told["health"]["what_to_do"]
    assert sum(outcomes.get(outcome, 0) for outcomes in told["requests"]["by_kind"].values()) >= 1
    assert re.search(announced, told["last_error"]["message"])
    assert told["last_error"]["what_to_do"]
    lines = report(mounted, "errors").splitlines()
    assert any(re.search(announced, line) for line in lines)
    assert any(line.startswith("    what to do: ") for line in lines)
    assert any(re.search(announced, line) and "; " in line for line in mounted.log.lines())
    done = mounted.shell.cli("status", mounted.point)
    assert done.code == 23
    assert said in done.text
    assert said in done.err
    lab.faults()
    if state != "rate_limited":  # its reset is ten minutes away
        wait_until(
            lambda: mounted.sh('ls "$M/runs/$1"', run_id) and status(mounted)["health"]["state"] == "ok", "health"
        )
        assert status(mounted)["health"]["since"] >= told["health"]["since"]
        assert mounted.shell.cli("status", mounted.point).code == 0


def test_a_failure_says_of_what(lab: Lab, mounting: Mounting) -> None:
    """5.3: each failure names its place: a name that was looked up, a directory listed, a file read."""
    mounted = mounting()
    run_id = lab.new_run({"sub dir/a.bin": 10})
    mounted.tree(run_id)
    unknown = run_id + 1
    for kind, then, script, where, said in (
        ("run", {"status": 422}, '! stat "$M/runs/$2"', f"lookup of /runs/{unknown}", "answered 422"),
        ("runs", {"html": True}, '! ls "$M/projects/3006"', "opendir of /projects/3006", "not JSON"),
        ("runs", {"status": 403}, '! ls "$M/projects/3006"', "opendir of /projects/3006", "answered 403"),
        (
            "content",
            {"status": 403},
            '! cat "$M/runs/$1/sub dir/a.bin"',
            f"read of /runs/{run_id}/sub dir/a.bin",
            "403",
        ),
    ):
        mounted.log.announce(said)
        lab.fault(kind, then)
        mounted.sh(script, run_id, unknown).ok()
        lab.faults()
        assert f"  {where}: " in report(mounted, "errors").splitlines()[0]
        assert any(f" {where}: " in line and said in line for line in mounted.log.lines())
        assert where in status(mounted)["last_error"]["message"]


def test_ways_out_that_lead_somewhere(lab: Lab, mounting: Mounting) -> None:
    """5.3: without the list of all runs the advice is not to list it; a wrong number is first doubted itself."""
    mounted = mounting()
    mounted.log.announce("the service has no list of runs")
    lab.fault("runs", {"status": 404})
    mounted.sh('! ls "$M/runs"').ok()
    failed = status(mounted)["last_error"]
    assert "no list of runs" in failed["message"]
    assert "--api-url" in failed["what_to_do"]
    mounted.log.announce("answered 400")
    lab.fault("run", {"status": 400})
    mounted.sh('! stat "$M/runs/99"').ok()
    assert status(mounted)["last_error"]["what_to_do"].startswith("check the number")


def test_what_v_logs(lab: Lab, mounting: Mounting) -> None:
    """5.3: with -v the log has a line for each request and for each operation that may wait; without it, none."""
    run_id = lab.new_run({"sub dir/a\nb.bin": 1000})
    mounted, plain = mounting("-v"), mounting(name="plain")
    mounted.log.announce("answered 501")
    for each in (mounted, plain):
        each.sh('ls "$M/runs/$1"; cat "$M/runs/$1"/*/*; stat "$M/runs/$1/missing"; cat "$M/.artifactfs/errors"', run_id)
    lab.fault("run", {"status": 501})
    mounted.sh('! stat "$M/runs/$1"', run_id + 1).ok()
    ms = r"\d+\.\d ms$"
    inside = rf"/runs/{run_id}/sub dir/a\\nb\.bin"
    for expected in (
        rf"DEBUG .*: GET run /runs/{run_id}: 200, \d+ bytes, {ms}",
        rf"DEBUG .*: GET listing /runs/{run_id}/artifacts\?path=sub%20dir%2F: 200, \d+ bytes, {ms}",
        rf"DEBUG .*: GET content /artifacts/content\?.*: 20[06], 1000 bytes, {ms}",
        rf"DEBUG .*: GET run /runs/{run_id + 1}: 501, \d+ bytes, {ms}",
        rf"DEBUG .*: lookup of /runs/{run_id}: ok, {ms}",
        rf"DEBUG .*: lookup of /runs/{run_id}/missing: ENOENT, {ms}",
        rf"DEBUG .*: lookup of /runs/{run_id + 1}: EIO, {ms}",
        rf"DEBUG .*: opendir of /runs/{run_id}: ok, {ms}",
        rf"DEBUG .*: readdir of /runs/{run_id}: ok, {ms}",
        rf"DEBUG .*: open of {inside}: ok, {ms}",
        rf"DEBUG .*: read of {inside} at 0, \d+ bytes: ok, {ms}",
        rf"DEBUG .*: read of /\.artifactfs/errors at 0, \d+ bytes: ok, {ms}",
    ):
        wait_until(lambda wanted=expected: mounted.log.has(wanted), expected)  # type: ignore[misc]
    assert not plain.log.has("DEBUG| GET | of /runs")


def test_keys_are_not_blamed_for_what_came_later(lab: Lab, mounting: Mounting) -> None:
    """5.3: after one refusal, a service that fails whatever it is asked is said to fail; taken keys end both."""
    mounted = mounting("--deadline", "2s", "--negative-ttl", "0")
    mounted.log.announce("answered 403")
    mounted.log.announce("answered 501")
    run_id = lab.new_run()
    lab.fault("any", {"status": 403}, times=1)
    mounted.sh('! ls "$M/runs/$1"', run_id).ok()
    assert status(mounted)["health"]["state"] == "keys_rejected"
    lab.faults()
    lab.fault("any", {"status": 501})
    for _ in range(3):
        mounted.sh('! ls "$M/runs/$1"', run_id).ok()
    told = status(mounted)
    assert told["health"]["state"] == "failing"
    assert "keys" not in told["health"]["what_to_do"]
    lab.faults()
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    assert status(mounted)["health"]["state"] == "ok"


def test_nothing_old_is_claimed(lab: Lab, mounting: Mounting) -> None:
    """5.3: a service that fails before anything is known is not said to have its old listings served."""
    mounted = mounting("--deadline", "2s")
    mounted.log.announce("answered 501")
    lab.fault("runs", {"status": 501})
    mounted.sh('! ls "$M/runs"').ok()
    told = status(mounted)
    assert (told["health"]["state"], told["listings"]["stale_served"]) == ("degraded", 0)
    assert "there is no stale listing to serve" in told["health"]["message"]
    assert told["last_error"]


def test_slow_is_said_to_be_slow(lab: Lab, mounting: Mounting) -> None:
    """5.3: where a service only takes long, no advice names an error that is not there."""
    mounted = mounting("--listing-ttl", "0")
    mounted.sh('ls "$M/runs"').ok()
    lab.fault("runs", {"stall": True})
    mounted.sh('ls "$M/runs"').ok()
    told = status(mounted)
    assert (told["health"]["state"], told["failures"]) == ("degraded", 0)
    assert "takes longer" in told["health"]["message"]
    assert "last error" not in told["health"]["what_to_do"]


def test_a_failure_is_kept_once_and_counted(lab: Lab, mounting: Mounting) -> None:
    """5.3: the last failures are listed once each, with how often and since when."""
    mounted = mounting("--deadline", "2s")
    mounted.log.announce("answered 500")
    lab.fault("listing", {"status": 500})
    for _ in range(3):
        mounted.sh('ls "$M/runs/$1"', lab.new_run())
    (line, todo) = report(mounted, "errors").splitlines()
    assert re.search(r"answered 500.* \(the last of 3 since \S+Z\)$", line)
    assert "try again later" in todo
    assert status(mounted)["failures"] == 3
