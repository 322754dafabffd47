"""5.6 and 2.5: the end of a mount that is hard at work, the neighbours of one that hangs, and many in a row."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.fixtures import Mounting
from tests.harness import (
    CHECKOUT,
    END_S,
    FUSE_TYPE,
    Done,
    Lab,
    Mount,
    Shell,
    holding,
    mount_type,
    needs_root,
    run,
    start_process,
    wait_until,
)
from tests.processes import mount_rows, state_of

SIZE = 24 << 20
# How often to mount; ARTIFACTFS_MOUNTS=1000 takes a quarter of an hour.
MOUNTS = int(os.environ.get("ARTIFACTFS_MOUNTS", "6"))
# Commands that never touch the network: what they need is waited for on a busy machine.
NEIGHBOUR_S = 10.0

# Each until it fails, as all do when the mount is gone.
_READERS = 'while :; do cat "$M/runs/$1/big.bin" >/dev/null || exit 1; done'
_WALKERS = 'while :; do find "$M/runs/$1" -ls >/dev/null || exit 1; done'
_WAITERS = {"cat": 'cat "$M/runs/$1/stalled.bin" >/dev/null', "find": 'find "$M/runs/$2"'}


@contextlib.contextmanager
def load(lab: Lab, mounted: Mount) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Have 16 processes at work on a mount, four of them on a server that stalls; yields them."""
    run_id = lab.new_run({f"d{i}/e/f{j}": i for i in range(20) for j in range(5)} | {"big.bin": SIZE, "stalled.bin": 9})
    stalled = lab.new_run()
    mounted.tree(run_id)
    lab.faults(
        {"match": {"kind": "content", "query_contains": "stalled.bin"}, "then": {"stall": True}},
        {"match": {"path_contains": f"/runs/{stalled}"}, "then": {"stall": True}},
    )
    scripts = [_READERS] * 6 + [_WALKERS] * 6 + list(_WAITERS.values()) * 2
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                start_process(
                    [*mounted.shell.prefix, "sh", "-c", script, "sh", str(run_id), str(stalled)],
                    env={**os.environ, "M": mounted.point},
                )
            )
            for script in scripts
        ]
        wait_until(lambda: lab.stats()["in_flight"] >= 2, "requests that stall")
        yield started


def check_gone(mounted: Mount) -> None:
    """Check that the mount ends within its time, and that nothing of it is left."""
    wait_until(lambda: mount_type(mounted.point) is None, "the unmount", END_S)
    wait_until(lambda: not mounted.shell.processes(), "the process's end", END_S)
    assert os.listdir(mounted.point) == []


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "umount"])
def test_a_mount_under_load_ends(way: str, lab: Lab, shell: Shell) -> None:
    """5.6: with 16 processes at work, some on a stalled server, it ends in time, with exit code 0, and so do they."""
    mounted = shell.expected_mount()
    mounted.log.announce("", optional=True)  # what calls that are cut off say is not this test's matter
    command = ("mount", "-f", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point)
    with shell.background(*command) as process:
        wait_until(lambda: mount_type(mounted.point) == FUSE_TYPE, "the mount")
        with load(lab, mounted) as started:
            if way == "umount":
                mounted.umount()
            else:
                process.send_signal(getattr(signal, way))
            _, err = process.communicate(timeout=END_S)
            assert process.returncode == 0, err
            assert b"Traceback" not in err
            check_gone(mounted)
            for each in started:
                each.communicate(timeout=END_S)
                assert each.returncode != 0
    assert not mounted.log.has("Traceback")


def test_a_mount_that_is_killed_under_load_heals(lab: Lab, mounting: Mounting) -> None:
    """5.6: after a SIGKILL with 16 processes at work the next mount at that place heals it, while they still look."""
    mounted = mounting()
    mounted.log.announce("", optional=True)
    with load(lab, mounted) as started:
        os.kill(mounted.pid, signal.SIGKILL)
        wait_until(lambda: not mounted.shell.processes(), "the process's end")
        lab.faults()
        run_id = lab.new_run()
        assert mounting().tree(run_id) == lab.truth(run_id)
        for each in started:
            each.kill()


# What looks at a mount from outside, and what it then says: {point} is the mount's place, {run} the run known to it.
NEIGHBOURS = {
    "ls of the parent": ('ls -la "$(dirname "$M")"', " mnt\n"),
    "ls of the mount": ('ls -la "$M"', " runs\n"),
    "find beside it": ('find "$(dirname "$M")" -maxdepth 1', "{point}\n"),
    "du of the parent": ('du -x --max-depth=0 "$(dirname "$M")"', "\t"),
    # The kernel is to ask the mount, and not what it remembers.
    "stat": ('stat --cached=never "$M" "$M/runs"', "{point}/runs"),
    "df": ("df -h 2>/dev/null; df -ah 2>/dev/null", " {point}\n"),
    "df of the mount": ('df "$M"', " {point}\n"),
    "mount": ("mount", " on {point} type fuse.artifactfs"),
    "findmnt": ('findmnt "$M"', "{point} "),
    "lsof of the mount": ('lsof -w +f -- "$M"', "{point}/runs/{run}/a.txt"),
    "lsof of everything": ("lsof -w", "{point}/runs/{run}/a.txt"),
    "what it holds": ('ls -l "/proc/$1/cwd" "/proc/$1/fd"', "{point}/runs/{run}/a.txt"),
    "a known directory": ('ls "$M/runs/$2"', "a.txt\nsub\n"),
}


# A shell that sees no other mount of FUSE's: other tests run beside this one, and stop theirs.
_ALONE = """
import ctypes, os, sys
from artifactfs.mount import mount_table
point, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
for mount in mount_table.mounts():
    if mount.fstype.startswith("fuse") and mount.point != point and libc.umount2(os.fsencode(mount.point), 2) != 0:
        sys.exit(f"{mount.point}: {os.strerror(ctypes.get_errno())}")
os.execvp("sh", ["sh", "-c", *command])
"""


def alone(mounted: Mount, script: str, *arguments: object) -> Done:
    """Run a shell script as `mounted.sh` does; root's has this mount alone, in a mount namespace of its own."""
    if os.geteuid() != 0:
        return mounted.sh(script, *arguments)
    words = (mounted.point, script, "sh", *map(str, arguments))
    env = {**os.environ, "LC_ALL": "C.UTF-8", "M": mounted.point, "PYTHONPATH": CHECKOUT}
    return run("unshare", "-m", "--propagation", "private", "--", sys.executable, "-c", _ALONE, *words, env=env)


def test_the_neighbours_of_a_mount_that_hangs(lab: Lab, mounted: Mount) -> None:
    """2.5, 5.1: while a process waits on a stalled server, a look at the mount from outside does not wait."""
    known, stalled = lab.new_run(), lab.new_run()
    mounted.log.announce("", optional=True)  # how the one that waits is ended is not this test's matter
    mounted.tree(known)
    code = (
        "import os, sys\n"
        "os.chdir(sys.argv[1] + '/runs/' + sys.argv[2] + '/sub')\n"
        "held = open('../a.txt')\n"
        "print('ready', flush=True)\n"
        "os.stat(sys.argv[1] + '/runs/' + sys.argv[3])"
    )
    lab.fault("any", {"stall": True})
    with holding(mounted.python_command(code, known, stalled)) as held:
        wait_until(lambda: lab.stats()["in_flight"] >= 1, "the request that stalls")
        for name, (script, expected) in NEIGHBOURS.items():
            done = alone(mounted, script, held.pid, known)
            assert expected.format(point=mounted.point, run=known) in done.text, f"{name}: {done}"
            assert done.seconds < NEIGHBOUR_S, f"{name} took {done.seconds:.1f} s"
        # It hung all that while.
        assert state_of(held.pid) in ("S", "D")
        assert lab.stats()["in_flight"] >= 1


def kept(shell: Shell) -> dict[str, set[str]]:
    """Return the files in each place where a mount may keep some: home, state, cache, config, runtime, temporary."""
    places = ("home", "state", "cache", "config", "run", "tmp")
    return {
        place: {os.path.join(top, name) for top, _, names in os.walk(shell.path(place)) for name in names}
        for place in places
    }


def zombies() -> set[int]:
    """Return the processes that ended and that neither this one nor init has waited for.

    Those of other tests, which run beside this one, may be there for as long as these last.
    """
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) in (1, os.getpid()):
                found.add(int(name))
    return found


def orphaned_connections() -> set[int]:
    """Return the numbers of the kernel's FUSE connections that belong to no mount."""
    listed = 'mount -t fusectl none "$1" && ls "$1"'
    with tempfile.TemporaryDirectory() as place:
        done = run("unshare", "-m", "--", "sh", "-c", listed, "sh", place).ok()
    # Other tests have mount namespaces of their own.
    namespaces = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            namespaces[os.readlink(f"/proc/{name}/ns/mnt")] = int(name)
    mounts = set()
    for pid in namespaces.values():
        with contextlib.suppress(OSError):
            mounts |= {
                int(row[2].partition(b":")[2]) for row in mount_rows(pid) if b"fuse" in row[row.index(b"-", 6) + 1]
            }
    return set(map(int, done.text.split())) - mounts


@needs_root
def test_many_mounts_leave_nothing(lab: Lab, shell: Shell) -> None:
    """5.6: mounted, used and unmounted many times: no process, zombie, mount, connection or file is left."""
    for place in ("run", "tmp"):
        shell.make_directory(place)
    shell.more_env |= {"TMPDIR": shell.path("tmp"), "XDG_RUNTIME_DIR": shell.path("run")}
    run_id = lab.new_run()
    dead, orphans = zombies(), orphaned_connections()
    first: dict[str, set[str]] = {}
    for number in range(MOUNTS):
        mounted = shell.mount()
        assert mounted.sh('cat "$M/runs/$1/a.txt" "$M/runs/$1/sub/b.bin" | wc -c', run_id).text.strip() == "30"
        if number % 2:
            mounted.umount()
        else:
            os.kill(mounted.pid, signal.SIGTERM)
        check_gone(mounted)
        first = first or kept(shell)
    assert kept(shell) == first
    # Others may be mounting, unmounting and ending processes at this moment: theirs come and go.
    wait_until(lambda: zombies() <= dead, "the end of all zombies")
    wait_until(lambda: orphaned_connections() <= orphans, "the end of all connections without a mount")
