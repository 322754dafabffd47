"""Section 1 of the contract: what the API's schema allows, and is unusual, is shown by its meaning."""

import itertools
import json

import pytest

from artifactfs.emulator import sample
from artifactfs.emulator.model import prefix_of
from tests.contract.test_semantics_1_names import BESIDE
from tests.fixtures import Mounting
from tests.harness import Lab
from tests.pairwise import pairwise

ODD_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5000, "-1", "1.5", str(2**63), '"12abc"', '""', "true"]


# --- paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["empty", "slash"])
@pytest.mark.parametrize("start", ["none", "mixed"])
def test_a_run_at_its_projects_root(form: str, start: str, lab: Lab, mounting_patiently: Mounting) -> None:
    """1.1: where `path_in_project` is empty, or the root, content is asked for by the path alone."""
    lab.switch(path_in_project=form, path_start=start)
    run_id = lab.new_run({f"d{i}/e/f{j}.bin": 10 + j for i in range(6) for j in range(3)}, project=lab.new_project())
    mounted = mounting_patiently()

    assert mounted.tree(run_id) == lab.truth(run_id)
    assert mounted.sh('cat "$M/runs/$1/d3/e/f2.bin" | sha256sum', run_id).ok().text.split()[0] == lab.sha256(
        run_id, "d3/e/f2.bin"
    )
    assert set(lab.asked_with("content", "artifact_path")) == {"d3/e/f2.bin"}
    # By the index, which was trusted: a listing for each of 13 directories would be more.
    assert lab.requests()["index"] == 1
    assert lab.requests()["listing"] < 13


# --- numbers and names ----------------------------------------------------------------------------------


def test_odd_numbers_and_names_in_a_listing(lab: Lab, mounting: Mounting) -> None:
    """1.3, 2.2: a number that is none costs its size, a name that is none its row: all others are shown and read."""
    run_id = lab.new_run({f"f{i}.bin": 100 + i for i in range(len(ODD_NUMBERS))} | {"good.bin": 7})
    rows = [f'{{"path":"f{i}.bin","is_dir":false,"file_size":{number}}}' for i, number in enumerate(ODD_NUMBERS)]
    names = ['"\\ud800"', '"a\\u0000"', "5", "null", "NaN", '{"path":"x"}']
    rows += [f'{{"path":{name},"is_dir":false}}' for name in names] + ["null", "NaN", "[]", "9" * 5000]
    rows.append('{"path":"good.bin","is_dir":false,"file_size":7,"checksum":NaN}')
    body = (
        f'{{"data":{{"id":"1","attributes":{{"files":[{",".join(rows)}],"path_in_project":"{prefix_of(run_id)}"}}}}}}'
    )
    lab.fault("listing", {"status": 200, "body": body})
    mounted = mounting("--prefetch", "off")
    mounted.log.announce("left out 10 entries")

    assert set(mounted.tree(run_id)) == {path for path in lab.truth(run_id) if b"/" not in path}
    for path in ("good.bin", *(f"f{i}.bin" for i in range(len(ODD_NUMBERS)))):
        done = mounted.sh('cat "$M/runs/$1/$2" | sha256sum', run_id, path).ok()
        assert done.text.split()[0] == lab.sha256(run_id, path)


# --- pages ------------------------------------------------------------------------------------------------


# Every two together; what rows have besides stands with one of them, at least.
PAGES = pairwise(
    {
        "page_meta": ["full", "no_next", "null_next", "required", "none"],
        "page_base": [0, 1],
        "page_cap": [100, 25],
    }
)
ROWS: list[dict[str, object]] = [{}, {"extra_fields": True}, {"null_params": True}]


@pytest.mark.parametrize("form", [pages | rows for pages, rows in zip(PAGES, itertools.cycle(ROWS))], ids=str)
def test_pages_in_every_form(form: dict[str, object], lab: Lab, mounting: Mounting) -> None:
    """1.2: /runs, /projects and /names show all that is to be shown, whatever the pages tell of themselves."""
    lab.switch(**form)
    newest = list(map(str, lab.newest_runs(200)))
    lab.reset()
    mounted = mounting("--prefetch", "off")

    def shown(path: str) -> list[str]:
        return [name for name in mounted.sh(f'ls -f "$M/{path}"').ok().text.split("\n") if name.strip(".")]

    assert shown("runs") == newest
    # One for each page; one more only where nothing tells whether pages count from 0 or from 1.
    untold = (form["page_meta"], form["page_base"]) == ("none", 1)
    assert lab.requests()["runs"] == 200 // int(str(form["page_cap"])) + untold
    many = sample.MANY_PROJECT
    of_project = shown(f"projects/{many}")
    assert of_project == [*(str(sample.FIRST_OF_MANY + place) for place in range(249, 49, -1)), *BESIDE]
    assert len(shown(f"names/many-runs~{many}")) == 200 + len(BESIDE)
    projects = shown("projects")
    assert len(projects) == len(set(projects)) == len(shown("names")) >= 10


def test_all_of_250_runs(lab: Lab, mounting: Mounting) -> None:
    """1.2: 250 of 250, where a page tells `number`, `size` and `total` alone, at a request for each 100."""
    lab.switch(page_meta="required")
    mounted = mounting("--prefetch", "off", "--runs-listed", "1000")

    names = mounted.sh(f'ls -f "$M/projects/{sample.MANY_PROJECT}"').ok().text.split()
    assert len([name for name in names if name.strip(".")]) == 250 + len(BESIDE)
    assert lab.requests()["runs"] == 3


def test_rows_whose_id_is_none(lab: Lab, mounting: Mounting) -> None:
    """1.2: rows that cannot be asked for are left out, with a line in the log and in `errors`, once."""
    odd: list[object] = [{"id": each, "attributes": {}} for each in ("abc", "12.5", "", None, "-1", "0", str(2**63))]
    runs = [{"id": str(each), "type": "runs", "attributes": {"project_id": 1}} for each in (5, 6)]
    page = {
        "data": [runs[0], *odd, None, 7, "x", [], runs[1]],
        "meta": {"page": {"number": 0, "size": 25, "total": 13}},
    }
    rules = [
        {"match": {"kind": kind}, "then": {"status": 200, "body": json.dumps(page)}} for kind in ("runs", "projects")
    ]
    mounted = mounting("--listing-ttl", "0")
    lab.faults(*rules)
    mounted.log.announce("runs: left out 11 rows that cannot be asked for")
    mounted.log.announce("projects: left out 11 rows that cannot be asked for")

    for _ in range(3):
        for path in ("runs", "projects"):
            assert sorted(mounted.sh(f'ls "$M/{path}"').ok().text.split()) == ["5", "6"]
    assert len([line for line in mounted.log.lines() if "left out" in line]) == 2
    told = mounted.sh('cat "$M/.artifactfs/errors"').ok().text
    assert "runs: left out 11 rows" in told
    assert "projects: left out 11 rows" in told
