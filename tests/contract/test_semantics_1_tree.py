"""Section 1 of the contract: the tree, through a real mount, in every name that the sample has."""

import errno
import os
import re

import pytest

from artifactfs.emulator import edge_cases, sample
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, Truth

# Every awkward run of the sample that is a tree like any other.
AWKWARD = (80001, 80002, 80003, 80011, 80012, 80013, 80014, 80015, 80017, 80021, 80022, 80024, 80026, 80027, 80028)


def unescaped(name: bytes) -> bytes:
    """Undo `ls --quoting-style=escape`."""
    letters = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}

    def one(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8)]) if code.isdigit() else letters.get(code, code)

    return re.sub(rb"\\([0-7]{3}|.)", one, name)


@pytest.mark.parametrize("run_id", [sample.RUN, *AWKWARD])
def test_a_walk_sees_the_servers_tree(run_id: int, lab: Lab, standing: Mount) -> None:
    """1.1, 1.4: os.walk of a run shows the server's names, byte for byte, kinds and sizes, and nothing else."""
    if run_id == 80015:
        standing.log.announce("exactly 1000 entries")
    if run_id == 80013:
        standing.log.announce("exactly 10000 entries")

    assert standing.tree(run_id) == lab.truth(run_id)


@pytest.mark.parametrize("run_id", [sample.RUN, 80001, 80002, 80003, 80012])
def test_find_sees_the_servers_tree(run_id: int, lab: Lab, standing: Mount) -> None:
    """1.1, 1.4: `find` prints the same names, kinds and sizes as the server's."""
    done = standing.sh(r'cd "$M/runs/$1" && find . -mindepth 1 -printf "%P\0%y\0%s\0"', run_id).ok()

    fields = done.out.split(b"\0")[:-1]
    rows = zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    assert {name: None if kind == b"d" else int(size) for name, kind, size in rows} == lab.truth(run_id)


@pytest.mark.parametrize("run_id", [sample.RUN, 80001, 80002, 80003, 80012])
def test_stat_sees_the_servers_tree(run_id: int, lab: Lab, standing: Mount) -> None:
    """1.1, 1.4: `stat` of each name that the server has finds its kind and size."""
    for name, size in lab.truth(run_id).items():
        if len(name) > 100 and b"level" in name:
            continue  # 40 levels are for find; one stat a level is not worth its second
        done = standing.sh('stat -c "%F %s" -- "$M/runs/$1/$2"', run_id, os.fsdecode(name)).ok()
        kind = "directory" if size is None else "regular file" if size else "regular empty file"
        assert done.text == f"{kind} {size or 0}\n"


@pytest.mark.parametrize("run_id", [sample.RUN, 80001, 80002, 80003])
def test_ls_sees_the_servers_tree(run_id: int, lab: Lab, standing: Mount) -> None:
    """1.1, 1.4: `ls -laR` shows each directory with the server's names and sizes, `.` and `..`."""
    done = standing.sh('cd "$M/runs/$1" && LC_ALL=C ls -lanR --quoting-style=escape --time-style=+T', run_id).ok()

    found: Truth = {}
    directory, dots = b"", 0
    for line in done.out.splitlines():
        if line.endswith(b":"):
            directory = unescaped(line[:-1]).removeprefix(b".").removeprefix(b"/")
        elif line.startswith((b"d", b"-")):
            mode, _, _, _, size, _, name = (
                line.split(b" ", 6) if b"  " not in line else re.split(rb" +", line, maxsplit=6)
            )
            if name in (b".", b".."):
                dots += 1
                continue
            path = b"/".join(filter(None, (directory, unescaped(name))))
            found[path] = None if mode.startswith(b"d") else int(size)
    assert found == lab.truth(run_id)
    assert dots == 2 * (1 + sum(size is None for size in found.values()))


def test_du_adds_up_the_servers_sizes(lab: Lab, standing: Mount) -> None:
    """1.1: `du -a` shows every name, each directory with the sum of what is below it."""
    done = standing.sh('cd "$M/runs/$1" && du -a0 --apparent-size --block-size=1 .', sample.RUN).ok()

    found = {}
    for row in done.out.split(b"\0")[:-1]:
        size, _, name = row.partition(b"\t")
        found[name.removeprefix(b".").removeprefix(b"/")] = int(size)
    truth = lab.truth(sample.RUN)
    below = {
        directory: sum(
            size or 0 for name, size in truth.items() if name.startswith(directory + b"/" if directory else b"")
        )
        for directory in [b"", *(name for name, size in truth.items() if size is None)]
    }
    assert found == {**{name: size for name, size in truth.items() if size is not None}, **below}


def test_tree_sees_the_servers_tree(lab: Lab, standing: Mount) -> None:
    """1.1: `tree -a` prints exactly the server's names."""
    done = standing.sh('cd "$M/runs/$1" && tree -afiN --noreport .', sample.RUN).ok()

    assert {line.removeprefix(b"./") for line in done.out.splitlines()} - {b"."} == set(lab.truth(sample.RUN))


def test_many_directories_are_all_seen(lab: Lab, standing: Mount) -> None:
    """1.1: 1,000 directories of 20 files look to os.walk, find and du exactly as the server has them."""
    run_id = lab.new_run({}, project=lab.new_project())
    lab.files(run_id, grid={"dirs": 1000, "files": 20})
    truth = lab.truth(run_id)

    assert standing.tree(run_id) == truth
    found = standing.sh(r'cd "$M/runs/$1" && find . -mindepth 1 -printf "%P\n"', run_id).ok()
    assert sorted(found.out.splitlines()) == sorted(truth)
    summed = standing.sh('du -s --apparent-size --block-size=1 "$M/runs/$1"', run_id).ok()
    assert int(summed.text.split()[0]) == sum(size or 0 for size in truth.values())


def test_a_directory_is_one_listing_call_with_its_path(lab: Lab, standing: Mount) -> None:
    """1.1: listing a directory asks for that directory's `path`, once, and for nothing else."""
    run_id = lab.new_run({"one/two/file.txt": 1})
    standing.sh('ls "$M/runs/$1/one/two"', run_id).ok()

    asked = [path.rstrip("/") for path in lab.asked_with("listing", "path")]
    assert asked == ["", "one", "one/two"]


def test_an_absent_name_costs_no_request(lab: Lab, standing: Mount) -> None:
    """1.1: a name that the parent's fresh listing lacks is ENOENT without a request."""
    run_id = lab.new_run()
    standing.sh('ls "$M/runs/$1"', run_id).ok()
    lab.reset()

    assert standing.error_of("runs", run_id, "nothing.here") == errno.ENOENT
    assert standing.error_of("runs", run_id, "nothing", "below") == errno.ENOENT
    assert lab.total() == 0


@pytest.mark.parametrize(
    "name",
    ["0", "-1", "+70158", "070158", "70158.0", "70158 ", " 70158", "0x1", "7_0", "abc", "1e3", "\u0661", "\uff11",
     "9223372036854775808", "99999999999999999999", "1" * 255],
)  # fmt: skip
def test_what_is_no_run_id_is_not_there(name: str, lab: Lab, standing: Mount) -> None:
    """1.2: a name that is no decimal integer of 1 to 2^63-1 is ENOENT and costs no request."""
    assert standing.error_of("runs", name) == errno.ENOENT
    assert lab.total() == 0


def test_the_largest_run_id_is_asked_for(lab: Lab, standing: Mount) -> None:
    """1.2: 2^63-1 may be a run: it is asked for, and ENOENT where it is none."""
    assert standing.error_of("runs", 2**63 - 1) == errno.ENOENT
    assert lab.requests() == {"run": 1}


def test_runs_are_those_last_updated(lab: Lab, mounted: Mount) -> None:
    """1.2: /runs lists the 200 runs last updated, newest first, without deleted ones."""
    done = mounted.sh('ls -f "$M/runs"').ok()

    newest = lab.newest_runs(200)
    assert [name for name in done.text.split() if not name.startswith(".")] == list(map(str, newest))
    assert 80023 not in newest
    assert len(newest) > 190


def test_a_run_that_is_not_listed_can_be_entered(lab: Lab, mounting: Mounting) -> None:
    """1.2: a run need not be among those listed to be entered."""
    mounted = mounting("--runs-listed", "3")

    assert mounted.sh('ls "$M/runs"').text.split() == sorted(map(str, lab.newest_runs(3)))
    assert mounted.tree(60001) == lab.truth(60001)


def test_a_deleted_run_is_not_there(lab: Lab, mounting_patiently: Mounting) -> None:
    """1.2: a run is ENOENT once it was deleted, softly or for good."""
    mounted = mounting_patiently("--listing-ttl", "0", "--finished-ttl", "0", "--negative-ttl", "0")
    softly, for_good = lab.new_run(), lab.new_run()
    assert mounted.error_of("runs", softly) == mounted.error_of("runs", for_good) == 0
    lab.change_run(softly, delete=True)
    lab.change_run(for_good, remove=True)

    assert mounted.error_of("runs", 80023) == errno.ENOENT
    assert mounted.error_of("runs", softly) == errno.ENOENT
    assert mounted.error_of("runs", for_good) == errno.ENOENT


def test_impossible_names_are_left_out(lab: Lab, standing: Mount) -> None:
    """1.3: names that no filesystem can hold, or that lead out of the directory, are left out; all others are shown."""
    standing.log.announce(r"run 80031, directory /: left out \d+ entries")
    standing.log.announce(r"run 80031, directory logs: left out \d+ entries")

    assert standing.tree(80031) == lab.truth(80031) | {b"negative.bin": 0}


def test_impossible_names_are_logged_once_per_directory(lab: Lab, mounting: Mounting) -> None:
    """1.3: names left out are counted and logged once per directory, however often it is listed."""
    mounted = mounting("--listing-ttl", "0", "--finished-ttl", "0")
    mounted.log.announce(r"left out \d+ entries")
    for _ in range(3):
        mounted.sh('ls "$M/runs/80031"').ok()

    assert lab.requests()["listing"] >= 3
    assert sum("left out" in line for line in mounted.log.lines()) == 1


def test_a_name_is_not_normalised(lab: Lab, standing: Mount) -> None:
    """1.4: NFC and NFD, upper and lower case, `%41` and `A` are names of their own; none stands for another."""
    run_id = lab.new_run({"caf\u00e9": 1, "cafe\u0301": 2, "readme": 3, "README": 4, "%41": 5, "A": 6})

    for name, size in lab.truth(run_id).items():
        assert standing.sh('stat -c %s "$M/runs/$1/$2"', run_id, name.decode()).text == f"{size}\n"
    assert standing.error_of("runs", run_id, "Readme") == errno.ENOENT
    assert standing.error_of("runs", run_id, "a") == errno.ENOENT


def test_of_file_and_directory_the_directory_is_shown(lab: Lab, standing: Mount) -> None:
    """1.5: a name that is both file and directory is the directory; of two files with one name the first counts."""
    standing.log.announce("names are both file and directory")

    found = standing.tree(80032)
    assert found == lab.truth(80032)
    assert found[b"both"] is None
    assert found[b"twice.txt"] == 11


def test_the_sample_holds_what_it_says() -> None:
    """1.4: the names of the awkward runs are indeed awkward: over 127 bytes of UTF-8, control characters, escapes."""
    names = [*edge_cases.UNICODE, *edge_cases.PUNCTUATION, *edge_cases.LONGEST]

    assert max(len(part.encode()) for name in names for part in name.split("/")) == 255
    assert any("\n" in name for name in names)
    assert any("%" in name for name in names)
