"""5.3, 5.6: the files in /.artifactfs are private, can be copied, and never wait for the service."""

import errno
import glob
import json
import os
import stat

import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifactfs.emulator import sample
from tests.fixtures import Mounting
from tests.harness import LIMIT_S, Lab, Mount, Shell, mount_type, start_process, wait_until
from tests.status import report, status

REPORTS = ("errors", "metrics", "status.json")


# --- the files --------------------------------------------------------------------------------------------


def test_it_is_hidden_and_private(standing: Mount) -> None:
    """5.1: /.artifactfs is found by name and never listed; it is 0700, its files are 0600 and of who mounted."""
    assert ".artifactfs" not in standing.sh('ls -a "$M"; find "$M" -maxdepth 1').ok().text
    found = standing.walk(".artifactfs")
    assert set(found) == {name.encode() for name in REPORTS}
    assert {seen.mode for seen in found.values()} == {stat.S_IFREG | 0o600}
    told = standing.sh('stat -c "%a %u %F" "$M/.artifactfs" "$M/.artifactfs/metrics"').ok().text.splitlines()
    assert told == [f"700 {os.geteuid()} directory", f"600 {os.geteuid()} regular file"]
    for name in ("nothing", "info/1x", "refresh/0", "refresh/99999999999999999999"):
        assert standing.error_of(".artifactfs", name) == errno.ENOENT
    assert standing.sh('cat "$M/.artifactfs/refresh/123456789"').code != 0


def test_owner_and_umask_of_the_rest_do_not_count(mounting: Mounting) -> None:
    """5.1: whomever the mount shows as the owner of artifacts, /.artifactfs is of who mounted."""
    mounted = mounting("--uid", "12345", "--gid", "12345", "--umask", "077", "--allow-other")
    told = mounted.sh('stat -c "%a %u" "$M/.artifactfs/status.json" "$M/runs"').ok().text.splitlines()
    assert told == [f"600 {os.geteuid()}", "700 12345"]


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
        """Return the names of sockets that are of this test: by their place, or held by its processes."""
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
            rows = [line.split() for line in list(table)[1:]]
        named = {row[6]: row[7] for row in rows if len(row) > 7}
        fds = [path for pid in shell.processes() for path in glob.glob(f"/proc/{pid}/fd/*")]
        held = {os.readlink(path).removeprefix("socket:[").removesuffix("]") for path in fds if os.path.islink(path)}
        return {name for inode, name in named.items() if inode in held or shell.directory in name}

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
