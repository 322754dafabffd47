"""Directories of 100,000 entries: the kernel's side of listing, and what stays in memory afterwards."""

import json
import os
import sys

from tests.fixtures import Mounting
from tests.harness import CHECKOUT, LIMIT_S, Holding, Lab, Shell, holding, needs_root, run, start_process, wait_until
from tests.processes import cpu_s

ENTRIES = 100_000
CUT = "exactly 100000 entries"


def large_run(lab: Lab, entries: int = ENTRIES) -> int:
    # In a project of its own: in that of most runs it would make the index of many other tests as large.
    run_id = lab.new_run({}, project=lab.new_project())
    lab.files(run_id, wide=entries)
    return run_id


def test_a_large_directory_is_one_request(lab: Lab, mounting: Mounting) -> None:
    """1.1, 7: a directory of 100,000 entries lists in one request, complete and without duplicates, also `ls -l`."""
    run_id = large_run(lab)
    truth = lab.truth(run_id)
    mounted = mounting()
    mounted.log.announce(CUT)
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    # The index, which a listing of directories alone does not wait for.
    wait_until(lambda: "index" in lab.requests() and lab.stats()["in_flight"] == 0, "the index")
    lab.reset()

    names = mounted.sh('ls -f "$M/runs/$1/flat"', run_id).ok().out.splitlines()
    assert len(names) == len(set(names)) == ENTRIES + 2
    assert {b"flat/" + name for name in names if not name.startswith(b".")} == set(truth) - {b"flat"}
    assert lab.requests() == {"listing": 1}
    assert mounted.tree(run_id) == truth
    assert lab.requests() == {"listing": 1}


def test_a_large_listing_starts_soon(lab: Lab, mounting: Mounting) -> None:
    """7: `ls -f` of 100,000 entries prints its first name within 2 s (twice that here) of the server's answer."""
    run_id = large_run(lab)
    mounted = mounting()
    mounted.log.announce(CUT)
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    lab.reset()

    with start_process(["ls", "-f", mounted.path("runs", run_id, "flat")]) as process:
        wait_until(lambda: lab.requests() and lab.stats()["in_flight"] == 0, "the answer")
        answered = cpu_s(mounted.pid)
        assert Holding(process).line() != b""
        # By the processor: a machine that has other things to do has them in between.
        assert cpu_s(mounted.pid) - answered < 4.0


def test_a_listing_that_changes_while_it_is_read(lab: Lab, mounting: Mounting) -> None:
    """3.4, 1.1: an open directory shows what stays exactly once, however the server's changes while it is read."""
    run_id = large_run(lab)
    mounted = mounting("--listing-ttl", "1s", "--finished-ttl", "1s")
    mounted.log.announce(CUT)
    code = (
        "import itertools, json, os, sys\n"
        "entries = os.scandir(sys.argv[1] + '/runs/' + sys.argv[2] + '/flat')\n"
        "names = [e.name for e in itertools.islice(entries, 1000)]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "names += [e.name for e in entries]\n"
        "print(json.dumps(names))"
    )
    with holding(mounted.python_command(code, run_id)) as held:
        gone = [f"flat/f{i:07d}.bin" for i in range(0, ENTRIES, 100)]
        lab.files(
            run_id, remove=gone, add={f"flat/a{i}": 1 for i in range(500)} | {f"flat/z{i}": 1 for i in range(500)}
        )
        # The change is known to the mount, and to the kernel, while the first listing is still being read.
        count = ENTRIES - len(gone) + 1000 + 2
        wait_until(
            lambda: len(mounted.sh('ls -f "$M/runs/$1/flat"', run_id).ok().out.splitlines()) == count, "the change"
        )
        names = [name.encode() for name in json.loads(held.go_on())]
    assert len(names) == len(set(names))
    stayed = {path.removeprefix(b"flat/") for path in lab.truth(run_id) if path.startswith(b"flat/f")}
    assert stayed <= set(names)
    known = stayed | {path.removeprefix("flat/").encode() for path in gone}
    assert {name for name in names if not name.startswith((b"a", b"z"))} <= known


def test_a_directory_rewound_is_as_it_is_now(lab: Lab, mounting_patiently: Mounting) -> None:
    """3.4: `rewinddir` shows the directory as it is then; a position from telldir leads back to where it was."""
    run_id = lab.new_run({f"f{i}": 1 for i in range(10)})
    mounted = mounting_patiently("--listing-ttl", "0", "--finished-ttl", "0")
    code = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p\n"
        "libc.telldir.restype = ctypes.c_long\n"
        "D = ctypes.c_void_p(libc.opendir(os.fsencode(sys.argv[1] + '/runs/' + sys.argv[2])))\n"
        "def name():\n"
        "    entry = libc.readdir(D)\n"
        "    return ctypes.string_at(entry + 19).decode() if entry else None\n"
        "def rest(): return list(iter(name, None))\n"
        "some = [name() for _ in range(5)]\n"
        "at = libc.telldir(D)\n"
        "first = rest()\n"
        "libc.seekdir(D, ctypes.c_long(at))\n"
        "assert rest() == first, 'seekdir'\n"
        "assert sorted(some + first) == sorted(['.', '..'] + [f'f{i}' for i in range(10)]), 'first'\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "libc.rewinddir(D)\n"
        "print(' '.join(sorted(rest())))"
    )
    with holding(mounted.python_command(code, run_id)) as held:
        lab.files(run_id, add={"new": 1}, remove=["f0"])
        assert held.go_on().decode().split() == [".", "..", *(f"f{i}" for i in range(1, 10)), "new"]


@needs_root
def test_the_inode_table_forgets(lab: Lab, shell: Shell) -> None:
    """2.4: after a walk of 20,001 entries, and once the kernel drops its caches, only the inodes in use are kept."""
    count_file = shell.path("inodes")
    shell.program = (sys.executable, "-m", "tests.launch", "count-inodes")
    shell.more_env |= {"PYTHONPATH": CHECKOUT, "TEST_INODE_COUNT": count_file}
    entries = 20_001  # no page's end
    run_id = large_run(lab, entries)
    mounted = shell.mount()

    def inodes() -> int:
        try:
            with open(count_file, encoding="ascii") as file:
                return int(file.read())
        except FileNotFoundError:
            return -1

    def dropped_to(most: int) -> bool:
        drop_caches()
        return 0 <= inodes() <= most

    assert len(mounted.tree(run_id, limit_s=2 * LIMIT_S)) == entries + 1
    code = "import os, sys; os.chdir(sys.argv[1] + '/runs/' + sys.argv[2]); print('ready', flush=True); input()"
    with holding(mounted.python_command(code, run_id)):
        # The root, /runs and the run are in use.
        wait_until(lambda: dropped_to(3), "the inodes' end", limit_s=LIMIT_S)
        assert inodes() == 3
    wait_until(lambda: dropped_to(1), "the last inodes' end")
    assert len(mounted.tree(run_id)) == entries + 1


def drop_caches() -> None:
    """Let the kernel forget names and inodes that no caller uses."""
    asked = "echo 2 > /proc/sys/vm/drop_caches"
    run(*(() if os.geteuid() == 0 else ("sudo", "-n")), "sh", "-c", asked).ok()
