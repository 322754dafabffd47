"""Section 1 of the contract: runs by facets and searches, the latest, tables (1.7 to 1.9), and what they cost (7)."""

import csv
import io
import json

import pytest

from artifactfs.emulator import sample
from artifactfs.emulator.model import OWNER
from tests.contract.test_semantics_7_cost import DESKTOP_PROBES
from tests.fixtures import Mounting
from tests.harness import ARTIFACTFS, Lab, Mount, Shell

MANY = f"projects/{sample.MANY_PROJECT}"


def shown(mounted: Mount, path: str) -> list[str]:
    """Return the names in a directory, in its order."""
    return mounted.sh('ls -f "$M/$1" | grep -vx "[.]*"', path).ok().text.splitlines()


def runs(mounted: Mount, path: str) -> list[int]:
    """Return the runs that a directory links to, each link followed, in its order."""
    code = "d = os.path.join(sys.argv[1], sys.argv[2])\n"
    code += "found = [os.path.realpath(os.path.join(d, name)) for name in os.listdir(d) if '~' in name]\n"
    code += "print(json.dumps([int(os.path.basename(path)) for path in found if os.path.isdir(path)]))"
    found: list[int] = mounted.python(f"import json, os, sys\n{code}", path)
    return found


def test_a_run_by_its_facets(lab: Lab, standing: Mount) -> None:
    """1.7, 7: from a project to a run by a parameter: a request a level, and none the second time."""
    standing.sh('cd "$M/$1" && cd by', MANY).ok()
    lab.reset()
    assert shown(standing, f"{MANY}/by") == ["status", "tag", "parameter", "owner", "parent"]
    assert lab.total() == 0
    assert "learning_rate" in shown(standing, f"{MANY}/by/parameter")
    assert lab.total() == 1
    assert "1e-05" in shown(standing, f"{MANY}/by/parameter/learning_rate")
    assert lab.total() == 2
    found = runs(standing, f"{MANY}/by/parameter/learning_rate/1e-05")
    assert lab.total() == 3
    assert found == [run for run in range(60250, 60000, -1) if (run - 60001) % 8 == 0]
    for path in ("parameter", "parameter/learning_rate", "parameter/learning_rate/1e-05"):
        shown(standing, f"{MANY}/by/{path}")
    standing.sh(
        'cd "$M/$1" && ls -lL latest latest-completed && stat -L latest-failed',
        f"{MANY}/by/parameter/learning_rate/1e-05",
    ).ok()
    assert lab.requests().keys() <= {"facets", "runs", "listing", "index", "run"}
    assert lab.requests()["runs"] == 1


def test_choices_nest(standing: Mount) -> None:
    """1.7: all that was chosen holds; a comparison is found; a link leads to its run from any depth."""
    path = f"{MANY}/by/status/completed/by/parameter/learning_rate/>1e-4/by/tag/team/vision/by/parameter/optimizer/sgd"
    found = runs(standing, path)
    places = [run - 60001 for run in range(60250, 60000, -1)]
    rates = sample.RATES
    assert found == [
        60001 + place
        for place in places
        if place % 25 not in (7, 16, 21) and rates[place % 8] > 1e-4 and place % 2 == 0 and place % 3 == 1
    ]
    standing.sh('cat "$M/$1/latest/config.json" > /dev/null', path).ok()
    assert standing.error_of(MANY, "by/parameter/learning_rate/>x") == 2
    assert standing.error_of(MANY, "by/status/done") == 2


def test_awkward_values(lab: Lab, standing: Mount) -> None:
    """1.7: values that no file can be called are shown by names of their own, which lead to their runs."""
    project = lab.new_project()
    values = ["a/b", "a_b", "", "a,b", "a:b", ".x", ">1", "a\nb", "x" * 300, "ä", "日本", "..", "a_b~0123456789"]
    expected = {}
    for value in values:
        run_id = lab.new_run(project=project)
        lab.change_run(run_id, set={"tags": [{"key": "k/k", "value": value}]})
        expected[run_id] = value
    # What holds a comma cannot be written into a filter.
    standing.log.announce("does not choose runs by all of")
    (key,) = shown(standing, f"projects/{project}/by/tag")
    names = standing.python(
        "import json, os, sys; print(json.dumps(os.listdir(sys.argv[1] + sys.argv[2])))",
        f"/projects/{project}/by/tag/{key}",
    )
    assert len(set(names)) == len(values)
    found = [runs(standing, f"projects/{project}/by/tag/{key}/{name}") for name in names]
    assert sorted(run for some in found for run in some) == sorted(expected)
    assert all(len(some) == 1 for some in found)


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_facets_that_fail(status: int, lab: Lab, mounting: Mounting) -> None:
    """1.7: where the facets fail, the keys and values of the rows are shown, and `errors` says so."""
    lab.fault("facets", {"status": status})
    mounted = mounting()
    mounted.log.announce("keys")
    mounted.log.announce("values")
    assert "learning_rate" in shown(mounted, f"{MANY}/by/parameter")
    assert "1e-05" in shown(mounted, f"{MANY}/by/parameter/learning_rate")
    assert len(runs(mounted, f"{MANY}/by/parameter/learning_rate/1e-05")) == 32
    report = mounted.sh('cat "$M/.artifactfs/errors"').ok().text
    assert "notice: " in report
    assert "bug" not in report


@pytest.mark.parametrize("form", ["objects", "null", "empty"])
def test_facets_in_every_form(form: str, lab: Lab, mounting: Mounting) -> None:
    """1.7: facets as objects, and as nothing although there are some: the same keys and values are shown."""
    lab.switch(facet_form=form)
    mounted = mounting()
    mounted.log.announce("names none of the keys or values", optional=form == "objects")
    assert shown(mounted, f"{MANY}/by/tag") == ["dataset", "team"]
    assert shown(mounted, f"{MANY}/by/tag/team") == ["speech", "vision"]


def test_searches(lab: Lab, standing: Mount) -> None:
    """1.8, 7: words are a directory that costs nothing until it is listed; a glob, and what desktops probe, nothing."""
    standing.sh('cd "$M/search" && ls -la && ls -d "lora*" "sweep-3 status:failed" && ls -d lora*').ok()
    probes = [name for name in DESKTOP_PROBES if name.startswith(".") or name == "autorun.inf"]
    for name in probes:
        assert standing.error_of("search", name) == 2
    assert lab.total() == 0
    assert runs(standing, f"search/sweep-7 status:failed project:{sample.MANY_PROJECT}") == [
        run for run in range(60250, 60000, -1) if (run - 60001) % 10 == 7 and (run - 60001) % 25 in (7, 21)
    ]
    assert lab.requests() == {"runs": 1}
    assert runs(standing, "search/param:learning_rate<=1e-5 param:batch_size>=128 tag:team=vision") != []


def test_an_unknown_term(mounted: Mount) -> None:
    """1.8: it is not there, and `errors` says which terms there are, and calls it no bug."""
    mounted.log.announce("is no term")
    assert mounted.error_of("search", "colour:red") == 2
    report = mounted.sh('cat "$M/.artifactfs/errors"').ok().text
    assert "/search/colour:red: colour: is no term; there are status:" in report
    assert "what to do" not in report


def test_latest(lab: Lab, standing: Mount) -> None:
    """1.9, 7: `latest` leads to the run that was created last; nothing is shown where there is none."""
    project = lab.new_project()
    first, second = lab.new_run(project=project), lab.new_run(project=project, status="running")
    lab.change_run(second, set={"created_at": "2026-05-17T09:00:00Z"})
    names = shown(standing, f"projects/{project}")
    assert names[-4:] == ["latest", "latest-completed", "runs.csv", "runs.jsonl"]
    lab.reset()
    links = standing.sh('cd "$M/projects/$1" && readlink latest latest-completed', project).ok().text.split()
    assert links == [f"../../runs/{second}", f"../../runs/{first}"]
    assert standing.error_of(f"projects/{project}/latest-failed") == 2
    assert lab.total() == 0
    third = lab.new_run(project=project)
    lab.change_run(third, set={"created_at": "2026-05-18T09:00:00Z"})
    standing.shell.cli("refresh", standing.path("projects", project)).ok()
    links = standing.sh('cd "$M/projects/$1" && readlink latest latest-completed', project).ok().text.split()
    assert links == [f"../../runs/{third}"] * 2
    lab.change_run(third, delete=True)
    standing.shell.cli("refresh", standing.path("projects", project)).ok()
    assert standing.sh('readlink "$M/projects/$1/latest"', project).ok().text == f"../../runs/{second}\n"


def test_tables(lab: Lab, standing: Mount) -> None:
    """1.9, 7: a line for each listed run, in the page's order, with its size; no request beyond the page's."""
    standing.sh('ls "$M/$1"', MANY).ok()
    lab.reset()
    done = standing.sh('cd "$M/$1" && cat runs.csv && test "$(wc -c < runs.csv)" = "$(stat -c %s runs.csv)"', MANY).ok()
    rows = list(csv.DictReader(io.StringIO(done.text)))
    lines = standing.sh('cat "$M/$1/runs.jsonl"', MANY).ok().text.splitlines()
    assert lab.total() == 0
    records = [json.loads(line) for line in lines]
    assert [int(row["id"]) for row in rows] == [record["id"] for record in records] == [*range(60250, 60050, -1)]
    assert {record["params"]["learning_rate"] for record in records} == set(sample.RATES)
    assert rows[0]["metrics.eval/loss.latest"] == str(records[0]["metrics"]["eval/loss"]["latest"])
    named = standing.sh('cat "$M/names/many-runs~$1/runs.csv"', sample.MANY_PROJECT).ok()
    assert named.text == done.text


def test_a_table_of_a_page_that_changes(lab: Lab, standing: Mount) -> None:
    """1.9, 2.4: an open table stays as it was; opened again it has the new rows."""
    project = lab.new_project()
    first = lab.new_run(project=project)
    # The first reader has it open while the project is refreshed.
    script = 'cd "$M/projects/$1"; exec 3< runs.jsonl; "$2" "$3" "$4" > /dev/null; cat <&3; echo; cat runs.jsonl'
    standing.sh('ls "$M/projects/$1"', project).ok()
    second = lab.new_run(project=project)
    refresh = (ARTIFACTFS, "refresh", standing.path("projects", project))
    before, after = standing.sh(script, project, *refresh).ok().text.split("\n\n")
    assert [json.loads(line)["id"] for line in before.splitlines()] == [first]
    assert sorted(json.loads(line)["id"] for line in after.splitlines()) == [first, second]


def test_a_run_as_json(lab: Lab, standing: Mount) -> None:
    """1.9: `/runs/<id>.json` is not listed, and holds what is known of a run, and its children."""
    assert "json" not in standing.sh('ls "$M/runs"').ok().text
    lab.reset()
    found = json.loads(standing.sh('cat "$M/runs/60001.json"').ok().text)
    assert found["run"]["id"] == 60001
    assert [child["id"] for child in found["run"]["children"]] == [*range(60007, 60001, -1)]
    assert {"key": "learning_rate", "value": "1e-05"} in found["run"]["params"]
    info = standing.shell.cli("info", standing.path("runs/60001")).ok().text
    assert "sweep-6 (60007), completed" in info
    for name in ("12345.json", "x.json", "060001.json", ".json", "60001.JSON"):
        assert standing.error_of("runs", name) == 2


def test_by_owner_over_all_projects(lab: Lab, standing: Mount) -> None:
    """1.7: `/by` chooses among all projects what the service can."""
    assert shown(standing, "by") == ["project", "status", "owner", "text"]
    many = f"many-runs~{sample.MANY_PROJECT}"
    assert many in shown(standing, "by/project")
    assert "sgd" in shown(standing, f"by/project/{many}/parameter/optimizer")
    assert OWNER in shown(standing, "by/owner")
    # The last updated: other tests have failed runs, too.
    failed = lab.new_run({}, status="failed")
    standing.shell.cli("refresh", standing.path("by/status/failed")).ok()
    assert failed in runs(standing, "by/status/failed")
    assert 60008 in runs(standing, "by/text/sweep-7/by/status/failed")


@pytest.mark.parametrize("command", ["find", "du -a", "ls -lR", "tree -a"])
def test_traversals_do_not_enter_facets(command: str, lab: Lab, mounting: Mounting) -> None:
    """1.7, 7: what walks over the mount, links not followed, sends nothing for `by` and `/search`."""
    mounted = mounting("--prefetch", "off", "--runs-listed", "2")
    done = mounted.sh(f'{command} "$M/names" "$M/search" "$M/by"').ok()
    assert lab.requests().keys() <= {"projects", "runs"}
    assert "learning_rate" not in done.text
    assert ".by/" not in done.text


def test_traversals_that_follow_links(lab: Lab, standing: Mount) -> None:
    """1.7, 7: `find -L` of a project (and so TensorBoard) enters its runs and no facets; in facets it ends."""
    project = lab.new_project()
    run_id = lab.new_run(project=project)
    lab.change_run(run_id, set={"tags": [{"key": "a", "value": "1"}], "params": [{"key": "b", "value": "2"}]})
    lab.reset()
    done = standing.sh('find -L "$M/projects/$1" -maxdepth 1 -printf "%f\\n"', project).ok()
    assert done.text.split()[1:] == [str(run_id), "latest", "latest-completed", "runs.csv", "runs.jsonl"]
    assert lab.requests() == {"project": 1, "runs": 1}
    done = standing.sh('find -L "$M/projects/$1/by/" -maxdepth 9 -name "*~$2" | sort', project, run_id).ok()
    found = [line.partition("/by/")[2].rpartition("/")[0] for line in done.text.splitlines()]
    assert [path for path in found if not path.startswith("owner")] == [
        "parameter/b/2", "parent/none", "status/completed", "tag/a/1",
    ]  # fmt: skip


def test_a_filter_that_fails_later(own_lab: Lab, mounting: Mounting, shell: Shell) -> None:
    """1.7, 3.2: what was shown stays while the service fails at a filter; at first sight the rows tell."""
    # Of its own: the rows are those of the runs that were updated last, which other tests would have made.
    shell.lab = lab = own_lab
    mounted = mounting("--runs-listed", "2", "--listing-ttl", "0")
    mounted.log.announce("answered 500", optional=True)
    path, other = f"{MANY}/by/tag/team/vision", f"{MANY}/by/tag/team/speech"
    before = runs(mounted, path)
    lab.fault("runs", {"status": 500})
    assert runs(mounted, path) == before
    lab.faults({"match": {"kind": "runs", "query_contains": "filter[tags]"}, "then": {"status": 500}})
    assert runs(mounted, path) == before
    mounted.log.announce("does not choose runs by")
    assert len(runs(mounted, other)) == 2
    assert len(runs(mounted, "search/tag:team=speech")) == 2
