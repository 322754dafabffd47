"""Section 2.3 of the contract: times far off, before 1970 and up to the year 9999, by `stat` and by `info`."""

import json
import re

from tests.answers import ok, raw, told_run
from tests.attacked import Attacked
from tests.fixtures import Mounting
from tests.harness import Lab, Mount

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


def test_a_files_own_time_far_off(lab: Lab, mounting: Mounting) -> None:
    """2.3: a file's own time, which only the index tells, is shown alike by `stat` and `info`, whatever the year."""
    paths = [f"g{place // 20}/d{place}/f{each}" for place in range(40) for each in range(10)]
    run_id = lab.new_run(dict.fromkeys(paths, 10), project=lab.new_project())
    # In the directories that a walk comes to last: by then the index is there.
    times = dict(zip(paths[-10 * len(FAR_OFF) :: 10], FAR_OFF, strict=True))
    lab.files(run_id, touch=times)
    mounted = mounting()
    mounted.sh('cd "$M/runs/$1" && for i in $(seq 0 39); do ls -l g$((i / 20))/d$i; done', run_id).ok()
    places = [mounted.path("runs", run_id, path) for path in times]
    told = [each["file"] for each in json.loads(mounted.shell.cli("info", "--json", *places).ok().text)]
    assert [each["created_at"] for each in told] == list(FAR_OFF.values())
    assert [each["modified"] for each in told] == shown_by_stat(mounted, *places) == list(FAR_OFF.values())
