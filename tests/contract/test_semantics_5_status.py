"""5.1, 5.3, 5.6, 4.2: what a mount says of itself, in /.artifactfs: true, at once, and whatever the service does."""

import errno
import json
import os
import re
import stat

import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifactfs.emulator import sample
from tests.fixtures import Mounting
from tests.harness import LIMIT_S, Lab, Mount, Shell, holding, mount_type, start_process, wait_until
from tests.status import report, status

MIB = 1 << 20
REPORTS = ("errors", "metrics", "status.json")


def metrics(mounted: Mount) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of `metrics`, as Prometheus' own parser reads it; each is there once."""
    samples = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in text_string_to_metric_families(report(mounted, "metrics"))
        for sample in family.samples
    ]
    found = dict(samples)
    assert len(found) == len(samples)
    return found


# --- the files --------------------------------------------------------------------------------------------


def test_it_is_hidden_and_private(standing: Mount) -> None:
    """5.1: /.artifactfs is found by name and never listed; it is 0500, its files are 0400 and of who mounted."""
    assert ".artifactfs" not in standing.sh('ls -a "$M"; find "$M" -maxdepth 1').ok().text
    found = standing.walk(".artifactfs")
    assert set(found) == {name.encode() for name in REPORTS}
    assert {seen.mode for seen in found.values()} == {stat.S_IFREG | 0o400}
    told = standing.sh('stat -c "%a %u %F" "$M/.artifactfs" "$M/.artifactfs/metrics"').ok().text.splitlines()
    assert told == [f"500 {os.geteuid()} directory", f"400 {os.geteuid()} regular file"]
    for name in ("nothing", "info/1x", "refresh/0", "refresh/99999999999999999999"):
        assert standing.error_of(".artifactfs", name) == errno.ENOENT
    assert standing.sh('cat "$M/.artifactfs/refresh/123456789"').code != 0


def test_owner_and_umask_of_the_rest_do_not_count(mounting: Mounting) -> None:
    """5.1: whomever the mount shows as the owner of artifacts, /.artifactfs is of who mounted."""
    mounted = mounting("--uid", "12345", "--gid", "12345", "--umask", "077", "--allow-other")
    told = mounted.sh('stat -c "%a %u" "$M/.artifactfs/status.json" "$M/runs"').ok().text.splitlines()
    assert told == [f"400 {os.geteuid()}", "500 12345"]


_WAYS = {
    "cat": 'cat "$1" > "$2"',
    "cp": 'cp "$1" "$2"',
    "cp -a": 'cp -a "$1" "$2"',
    "dd": 'dd if="$1" of="$2" bs=7 status=none',
    "sed": 'sed p -n "$1" > "$2"',
    "tar": 'tar -C "$(dirname "$1")" -cf - "$(basename "$1")" | tar -xOf - > "$2"',
    "redirect": 'while IFS= read -r line; do printf "%s\\n" "$line"; done < "$1" > "$2"',
    "tail": 'tail -c +1 "$1" > "$2"',
}


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("name", REPORTS)
def test_programs_copy_it_whole(way: str, name: str, standing: Mount, tmp_path: os.PathLike[str]) -> None:
    """5.1: a report is a file to every program: none gets it cut, or padded, though no two are of one length."""
    copy = os.path.join(tmp_path, "copy")
    done = standing.sh(_WAYS[way], standing.path(".artifactfs", name), copy).ok()
    assert done.err == ""
    with open(copy, encoding="utf-8") as file:
        text = file.read()
    assert text.endswith("\n")
    assert "\0" not in text
    if name == "status.json":
        assert json.loads(text)["schema"] == 1
    elif name == "metrics":
        assert "artifactfs_failures_total" in {
            sample.name for family in text_string_to_metric_families(text) for sample in family.samples
        }


def test_python_copies_it_whole(standing: Mount, tmp_path: os.PathLike[str]) -> None:
    """5.1: shutil.copyfile (sendfile) gets it whole; a handle shows one moment, a later one a later moment."""
    code = """
import json, os, shutil, sys
path = sys.argv[1] + "/.artifactfs/status.json"
shutil.copyfile(path, sys.argv[2])
copied = json.load(open(sys.argv[2]))
with open(path, "rb") as first:
    half = first.read(100)
    assert os.fstat(first.fileno()).st_size == len(half) + len(first.read())
    os.stat(sys.argv[1] + "/runs/%d" % int(sys.argv[3])); os.listdir(sys.argv[1] + "/runs/%d" % int(sys.argv[3]))
    first.seek(0)
    before = json.loads(first.read())
with open(path, "rb") as second:
    after = json.loads(second.read())
size = os.stat(path).st_size
print(json.dumps([copied["schema"], before["open"]["inodes"] < after["open"]["inodes"], size > 1000]))
"""
    assert standing.python(code, os.path.join(tmp_path, "copy"), sample.FIRST_OF_MANY) == [1, True, True]


# --- what it says -----------------------------------------------------------------------------------------


def test_what_a_mount_counts(lab: Lab, mounted: Mount) -> None:
    """5.3: status and metrics count what the server counts: requests by kind, bytes, listings, open files."""
    run_id = lab.new_run({"a.bin": 3 * MIB, "b/c.txt": 10, "b/d.txt": 20})
    mounted.tree(run_id)
    mounted.sh('cat "$M/runs/$1/a.bin" | sha256sum; cat "$M/runs/$1/missing" 2> /dev/null', run_id)
    before = lab.requests()
    told = status(mounted)
    asked = {kind: sum(outcomes.values()) for kind, outcomes in told["requests"]["by_kind"].items()}
    asked["runs"] -= 1  # the keys' check, before the lab forgot
    assert {kind: count for kind, count in asked.items() if count} == before
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
        ({"status": 401}, "keys_rejected", "denied", "answered 401", "check the keys"),
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


# --- at once ----------------------------------------------------------------------------------------------


def test_nothing_in_there_waits(lab: Lab, mounting: Mounting) -> None:
    """5.1: while a service stalls and programs wait for it, /.artifactfs answers at once, all of it."""
    mounted = mounting("--deadline", "20s")
    mounted.log.announce("not answer|no answer within", optional=True)
    lab.fault("any", {"stall": True})
    with (
        start_process(["ls", mounted.path("runs")]) as listing,
        start_process(["cat", mounted.path("runs", 70158, "x")]) as reading,
    ):
        wait_until(lambda: lab.total() >= 2, "programs that wait")
        for name in REPORTS:
            assert report(mounted, name, limit_s=10.0)
        assert mounted.sh('ls -l "$M/.artifactfs"; df "$M"', limit_s=10.0).code == 0
        told = mounted.shell.cli("status", "--json", mounted.point, limit_s=10.0)
        assert json.loads(told.text)["listings"]["runs"] == 0
        assert (listing.poll(), reading.poll()) == (None, None)  # they still wait
        lab.faults()
        for process in (listing, reading):
            process.kill()
            process.wait(LIMIT_S)


def test_what_info_says_while_the_service_stalls(lab: Lab, mounting: Mounting) -> None:
    """5.1, 5.3: info tells what is known of a run while the service stalls, and that it is not all."""
    mounted = mounting("--deadline", "2s")
    mounted.log.announce("not answer|no answer within", optional=True)
    run_id = lab.new_run(name="known")
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    lab.fault("any", {"stall": True})
    done = mounted.shell.cli("info", "--json", mounted.path("runs", run_id), limit_s=10.0)
    told = json.loads(done.text)
    assert (told["run"]["name"], told["run"]["params"]) == ("known", [])
    assert "did not answer" in told["error"]
    assert done.code == 22
    assert done.err.count("\n") == 1


def test_nothing_is_left_behind(mounted: Mount, shell: Shell) -> None:
    """5.6: no socket is made for any of this, while the mount lives or after."""
    shell.cli("status", mounted.point).ok()
    shell.cli("refresh", mounted.point).ok()

    def sockets() -> list[str]:
        return [
            os.path.join(top, name)
            for top, _, names in os.walk(shell.directory)
            for name in names
            if top != mounted.point and not top.startswith(mounted.point + "/")
            if stat.S_ISSOCK(os.lstat(os.path.join(top, name)).st_mode)
        ]

    def listening() -> set[str]:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
            return {line.split()[-1] for line in table if shell.directory in line or "artifactfs" in line}

    assert listening() == set()
    mounted.umount()
    assert mount_type(mounted.point) is None
    assert sockets() == []


def test_what_is_no_model_lab_is_not_well(lab: Lab, mounting: Mounting) -> None:
    """5.3: answers that are not Model Lab's, a login page say, are counted as that, and status is not well by them."""
    mounted = mounting("--listing-ttl", "0")
    mounted.log.announce("JSON|not Model Lab")
    lab.fault("runs", {"body": "<html>sign in</html>", "status": 200})
    mounted.sh('! ls "$M/runs"').ok()
    told = status(mounted)
    assert told["health"]["state"] == "failing"
    assert told["requests"]["by_kind"]["runs"].get("protocol_error") == 1
    lab.faults()
    mounted.sh('ls "$M/runs"').ok()
    assert status(mounted)["health"]["state"] == "ok"
