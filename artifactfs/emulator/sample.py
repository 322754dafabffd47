"""The built-in sample: the recorded project and runs, and one run for every edge case (see edge_cases.py).

Owns the runs that `artifactfs demo` shows. The recorded bodies are package data (recorded/) and are served unchanged;
the parts that the recordings leave out (the other runs' artifacts) are made up.

Hard: the first page of runs must be the recorded one, so everything made up was updated before it.
"""

import json
from importlib import resources
from typing import cast

from artifactfs.emulator import edge_cases
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.model import Lab, Project, Row, Run, project_attributes

RUN = 70158  # the run whose tree was recorded
PROJECT = 2387

MANY_RUNS = 250  # small runs: several pages of 100
FIRST_OF_MANY = 60001
MANY_PROJECT = 3006


def recorded(name: str) -> Row:
    """Return the recorded body `name` ("run_70158_trimmed.json"), decoded."""
    body: Row = json.loads(resources.files(__package__).joinpath("recorded", name).read_bytes())
    return body


def sample_lab() -> Lab:
    """Return a new lab with the whole sample."""
    lab = Lab()
    _add_recorded(lab)
    edge_cases.add_projects(lab)
    edge_cases.add_runs(lab)
    lab.add_project(Project(MANY_PROJECT, project_attributes(MANY_PROJECT, name="many-runs")))
    for run_id in range(FIRST_OF_MANY, FIRST_OF_MANY + MANY_RUNS):
        _add_small(lab, run_id)
    return lab


def _add_recorded(lab: Lab) -> None:
    for name in ("projects_page0_trimmed.json", "project_2387.json"):
        for data in _rows(recorded(name)):
            lab.add_project(Project(int(str(data["id"])), _object(data["attributes"])))
    for name in ("runs_page0_trimmed.json", "run_70158_trimmed.json"):
        for data in _rows(recorded(name)):
            _add_recorded_run(lab, int(str(data["id"])), _object(data["attributes"]))
    lab.recorded["project-facet-keys"] = recorded("project_facet_keys.json")
    lab.recorded[f"facet-keys {PROJECT}"] = recorded("run_facet_keys_2387_trimmed.json")


def _add_recorded_run(lab: Lab, run_id: int, attributes: Row) -> None:
    # For the run whose listing was recorded, the external URL ends in the first part of path_in_project; so for all.
    prefix = str(attributes["external_url"]).rpartition("/")[2] + "/artifacts"
    project = int(str(attributes["project_id"]))
    key = f"run {run_id}"
    tree = MemoryTree(key, _fill_recorded if run_id == RUN else _fill_small)
    if lab.project(project) is None:
        invented = project_attributes(project, name=f"project of {attributes['name'] or 'a run without a name'}")
        lab.add_project(Project(project, invented))
    lab.add_run(Run(run_id, project, attributes, tree, prefix))


def _fill_recorded(tree: MemoryTree) -> None:
    (data,) = _rows(recorded("project_artifacts_2387.json"))
    for row in _list(_object(data["attributes"])["files"]):
        _, _, path = str(row["artifact_path"]).partition("/artifacts/")
        tree.add(path, int(str(row["file_size"])), str(row["created_at"]))


def _fill_small(tree: MemoryTree) -> None:
    tree.add("config.json", 412)
    tree.add("metrics.jsonl", 2300)
    tree.add("model/README.md", 640)
    tree.add("model/weights.safetensors", 196_613)


def _add_small(lab: Lab, run_id: int) -> None:
    place = run_id - FIRST_OF_MANY
    minute, second = divmod(place, 60)
    updated = f"2026-05-12T10:{minute:02d}:{second:02d}.5Z"
    name = f"sweep-{place % 10}"  # ten runs share each name, as in the recorded organisation
    started = f"2026-05-12T09:{minute:02d}:{second:02d}Z"
    times = {"created_at": started, "started_at": started, "completed_at": updated, "updated_at": updated}
    params = [
        {"key": "lr", "value": str(round(0.05 * (1 + place % 20), 2))},
        {"key": "bf16", "value": str(place % 2 == 0)},
    ]
    tags = [{"key": "team", "value": ("vision", "speech")[place % 2]}]
    tree = MemoryTree(f"run {run_id}", _fill_small)
    lab.create(run_id, MANY_PROJECT, tree, name=name, params=params, tags=tags, **times)


def _rows(body: Row) -> list[Row]:
    return _list(body["data"] if isinstance(body["data"], list) else [body["data"]])


def _list(value: object) -> list[Row]:
    return cast("list[Row]", value)  # The recordings are our own data: their shape is known.


def _object(value: object) -> Row:
    return cast("Row", value)
