"""Section 2.3 of the contract: one run shows one clock; times far off, before 1970 and up to the year 9999."""

import datetime
import json
import re

import pytest

from tests.answers import ok, raw, told_run
from tests.attacked import Attacked
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, wait_until

# What the service says, and the second of it in UTC.
FAR_OFF = {
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00.000001-14:00": "0001-01-01T14:00:00Z",
    "0001-01-01T00:00:00+14:00": "0000-12-31T10:00:00Z",
    "1601-01-01T00:00:00Z": "1601-01-01T00:00:00Z",
    "1900-03-01T00:00:00.999999999+14:00": "1900-02-28T10:00:00Z",
    "1969-12-31t23:59:59.999999z": "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z": "1970-01-01T00:00:00Z",
    "2016-12-31T23:59:60Z": "2017-01-01T00:00:00Z",
    "2038-01-19T03:14:08Z": "2038-01-19T03:14:08Z",
    "9999-12-31T23:59:59.999999+14:00": "9999-12-31T09:59:59Z",
    "9999-12-31T23:59:59.999999Z": "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999-14:00": "10000-01-01T13:59:59Z",
}


def shown_by_stat(mounted: Mount, *places: str) -> list[str]:
    """Return the times that stat(1) shows, to the second, as RFC 3339."""
    seen = mounted.sh('TZ=UTC exec stat -c "%y" -- "$@"', *places).ok().text.splitlines()
    # It writes 2016-12-31 23:59:59.000000000 +0000.
    return [re.sub(r"^(\S+) ([0-9:]+)\.\d+ \+0000$", r"\1T\2Z", line) for line in seen]


def test_times_far_off(own_attack: Attacked) -> None:
    """2.3: of any year and offset `stat` shows the moment that the service reported, and `info` the same."""
    server, mounted = own_attack.server, own_attack.mounted
    places = []
    for text in FAR_OFF:
        run_id = server.plant()
        times = {f"{name}_at": text for name in ("created", "completed", "updated")}
        server.of(run_id).run = raw(ok(told_run(server.of(run_id), **times)))
        places += [mounted.path("runs", run_id), mounted.path("runs", run_id, "a.bin")]
    seconds = [second for second in FAR_OFF.values() for _ in ("run", "file")]
    assert shown_by_stat(mounted, *places) == seconds
    told = json.loads(mounted.shell.cli("info", "--json", *places).ok().text)
    assert [each["file"]["modified"] for each in told[1::2]] == list(FAR_OFF.values())
    assert [each["run"]["created_at"] for each in told[::2]] == list(FAR_OFF)
    rows = mounted.shell.cli("info", *places[1::2]).ok().text.splitlines()
    assert [line.split()[1] for line in rows if line.startswith("time ")] == list(FAR_OFF.values())


def test_a_files_own_time_far_off(lab: Lab, standing: Mount) -> None:
    """2.3: a file's own time, which only the index tells, is shown alike by `stat` and `info`, whatever the year."""
    paths = [f"g{place // 20}/d{place}/f{each}" for place in range(40) for each in range(10)]
    run_id = lab.new_run(dict.fromkeys(paths, 10), project=lab.new_project())
    # In the directories that a walk comes to last: by then the index is there.
    times = dict(zip(paths[-10 * len(FAR_OFF) :: 10], FAR_OFF, strict=True))
    lab.files(run_id, touch=times)
    standing.sh('cd "$M/runs/$1" && for i in $(seq 0 39); do ls -l g$((i / 20))/d$i; done', run_id).ok()
    places = [standing.path("runs", run_id, path) for path in times]
    told = [each["file"] for each in json.loads(standing.shell.cli("info", "--json", *places).ok().text)]
    assert [each["created_at"] for each in told] == list(FAR_OFF.values())
    assert [each["modified"] for each in told] == shown_by_stat(standing, *places) == list(FAR_OFF.values())


# --- one run, one clock ---------------------------------------------------------------------------------------

# The files of a run by their age, the oldest first, in directories and with names that go another way.
BY_AGE = ["z/a/old.pt", "b/step-900.pt", "top-9.pt", "b/c/step-10.pt", "z/step-1000.pt", "top-1.pt", "b/c/d/new.pt"]
ENDED_AT = "2026-05-16T09:10:00Z"


def created_at(age: int) -> str:
    return f"2026-05-16T08:{age:02d}:00Z"


def seconds(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp())


TIMES = {path: seconds(created_at(age)) for age, path in enumerate(BY_AGE)}


def new_checkpoints(lab: Lab, **attributes: object) -> int:
    run_id = lab.new_run({path: 10 + age for age, path in enumerate(BY_AGE)}, project=lab.new_project())
    lab.files(run_id, touch={path: created_at(age) for age, path in enumerate(BY_AGE)})
    lab.change_run(run_id, set={"completed_at": ENDED_AT} | attributes)
    return run_id


def shown_by_find(mounted: Mount, run_id: int) -> dict[str, int]:
    """Return the times of a run's files as `find` prints them."""
    rows = mounted.sh('cd "$M/runs/$1" && find . -type f -printf "%T@ %P\\n"', run_id).ok().text.splitlines()
    return {path: int(float(time)) for time, path in (row.split(" ", 1) for row in rows)}


@pytest.mark.parametrize("first", ["", "z", "b/c/d", "b/c/d/new.pt"])
def test_whatever_is_opened_first(first: str, lab: Lab, standing: Mount) -> None:
    """2.3: find, ls -t, glob with getmtime and find -newer agree with the server, whichever directory came first."""
    run_id = new_checkpoints(lab)
    lab.reset()
    standing.sh('ls -l "$M/runs/$1/$2"', run_id, first).ok()

    assert shown_by_find(standing, run_id) == TIMES
    newest_first = standing.sh('ls -t "$M/runs/$1"', run_id).ok().text.split()
    assert [name for name in newest_first if name.endswith(".pt")] == ["top-1.pt", "top-9.pt"]
    by_glob = (
        "import glob, json, os, sys\n"
        "os.chdir(sys.argv[1] + '/runs/' + sys.argv[2])\n"
        "print(json.dumps(sorted(glob.glob('**/*.pt', recursive=True), key=os.path.getmtime)))"
    )
    assert standing.python(by_glob, run_id) == BY_AGE
    newer = standing.sh('cd "$M/runs/$1" && find . -type f -newer b/c/step-10.pt', run_id).ok().text.split()
    assert {path.removeprefix("./") for path in newer} == set(BY_AGE[4:])
    assert lab.requests()["index"] == 1


def test_rsync_after_a_remount(lab: Lab, mounting_patiently: Mounting) -> None:
    """2.3: `rsync -a` into a copy that another mount made finds nothing to do, whatever was looked at before."""
    run_id = new_checkpoints(lab)
    mounted = mounting_patiently()
    copy = mounted.shell.make_directory("copy")
    mounted.sh('ls "$M/runs/$1/z/a" && rsync -a "$M/runs/$1/" "$2"', run_id, copy).ok()
    mounted.umount()
    again = mounting_patiently()
    again.sh('cat "$M/runs/$1/b/c/d/new.pt" >"$2"', run_id, again.shell.path("read")).ok()
    assert again.sh('rsync -ai "$M/runs/$1/" "$2"', run_id, copy).ok().text == ""


def test_an_index_that_comes_late(lab: Lab, mounting: Mounting) -> None:
    """2.3: the whole run shows the run's time until it is there; then all of it changes, what the kernel has, too."""
    run_id = new_checkpoints(lab)
    # Longer than a busy machine takes for the walk below.
    lab.fault("index", {"delay_s": 8})
    mounted = mounting()

    before = mounted.sh('cd "$M/runs/$1" && exec 9<top-1.pt && find . -type f -printf "%T@ %P\\n"', run_id).ok()
    assert {int(float(row.split()[0])) for row in before.text.splitlines()} == {seconds(ENDED_AT)}
    assert before.seconds < 7
    wait_until(lambda: shown_by_find(mounted, run_id) != dict.fromkeys(BY_AGE, seconds(ENDED_AT)), "other times")
    assert shown_by_find(mounted, run_id) == TIMES
    places = [mounted.path("runs", run_id, path) for path in BY_AGE]
    assert mounted.sh('stat -c %Y "$@"', *places).ok().text.split() == [str(time) for time in TIMES.values()]


@pytest.mark.parametrize("form", ["404", "empty", "html", "cut", "other", "no_sizes", "ghosts"])
def test_an_index_of_no_use(form: str, lab: Lab, standing: Mount) -> None:
    """2.3: without a right index every file shows its run's time, however the run is gone through, and how often."""
    shows_the_runs_time(form, lab, standing)


def test_an_index_that_is_never_answered(lab: Lab, mounting: Mounting) -> None:
    """2.3: so it is where the index is never answered."""
    shows_the_runs_time("stall", lab, mounting())


def shows_the_runs_time(form: str, lab: Lab, mounted: Mount) -> None:
    """Check what a run shows that is made where the index has this form."""
    run_id = new_checkpoints(lab)
    lab.switch(index=form)
    for _ in range(2):
        assert shown_by_find(mounted, run_id) == dict.fromkeys(BY_AGE, seconds(ENDED_AT))


def test_an_index_that_turns_out_to_be_wrong(lab: Lab, standing: Mount) -> None:
    """2.3, 1.6: where a directory disagrees with the index, all files of the run go back to the run's time."""
    run_id = new_checkpoints(lab)
    assert standing.sh('stat -c %Y "$M/runs/$1/top-1.pt"', run_id).ok().text == f"{TIMES['top-1.pt']}\n"
    lab.files(run_id, add={"z/a/more.pt": 5})

    standing.sh('ls -l "$M/runs/$1/z/a"', run_id).ok()
    wait_until(
        lambda: standing.sh('stat -c %Y "$M/runs/$1/top-1.pt"', run_id).ok().text == f"{seconds(ENDED_AT)}\n",
        "the run's time",
    )
    assert set(shown_by_find(standing, run_id).values()) == {seconds(ENDED_AT)}


def test_a_new_file_of_a_live_run(lab: Lab, standing: Mount) -> None:
    """2.3: a checkpoint that came after the index is the newest one, and the times of the others stay."""
    run_id = new_checkpoints(lab, status="running", completed_at=None)
    standing.sh('ls -l "$M/runs/$1"', run_id).ok()
    lab.files(run_id, add={"b/step-950.pt": 7})

    assert standing.sh('ls -t "$M/runs/$1/b"', run_id).ok().text.split()[:1] == ["step-950.pt"]
    shown = shown_by_find(standing, run_id)
    assert shown.pop("b/step-950.pt") > max(TIMES.values())
    assert shown == TIMES
