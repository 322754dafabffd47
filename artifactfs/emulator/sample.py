"""The built-in sample: the recorded project and runs, and one run for every edge case (see edge_cases.py).

Owns the runs that `artifactfs demo` shows. The recorded bodies are package data (recorded/) and are served unchanged;
the parts that the recordings leave out (the other runs' artifacts) are made up.

Hard: the first page of runs must be the recorded one, so everything made up was updated before it.
"""

import json
import math
from importlib import resources
from typing import cast

from artifactfs.emulator import edge_cases
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.model import OWNER, Lab, Project, Row, Run, project_attributes

RUN = 70158  # the run whose tree was recorded
PROJECT = 2387

MANY_RUNS = 250  # small runs: several pages of 100
FIRST_OF_MANY = 60001
MANY_PROJECT = 3006
_CHILDREN = 6
# By place modulo 25; all others are completed.
_STATUSES = {7: "failed", 16: "killed", 21: "failed"}
RATES = (1e-05, 3e-05, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
_OTHER_OWNER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


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
    tree = MemoryTree(f"run {run_id}", _fill_small)
    run = lab.create(
        run_id, MANY_PROJECT, tree, name=name, **times, status=_STATUSES.get(place % 25, "completed"),
        owner_id=(OWNER, _OTHER_OWNER)[place % 3 == 0], **_choices(place), has_children=place == 0,
    )  # fmt: skip
    # The first run began a sweep over seeds.
    run.parent = FIRST_OF_MANY if 0 < place <= _CHILDREN else None


def _choices(place: int) -> Row:
    """Return what a sweep chose for a run, and what came of it: values that a browser of facets meets."""
    rate, batch_size = RATES[place % len(RATES)], 16 << (place // 7 % 4)
    params = {
        "lr": round(0.05 * (1 + place % 20), 2),
        "bf16": place % 2 == 0,
        "learning_rate": rate,
        "batch_size": batch_size,
        "optimizer": ("adamw", "sgd", "lion")[place % 3],
        "base_model": ("gpt2", "meta-llama/Llama-3.2-1B", "Qwen/Qwen3-0.6B")[place // 3 % 3],
        "seed": place,
    }
    tags = {"team": ("vision", "speech")[place % 2], "dataset": ("imagenet/1k", "c4, en", "")[place // 5 % 3]}
    # The loss is least at a learning rate of 0.001 and a large batch.
    loss = round(1 + abs(math.log10(rate) + 3) / 2 + 4 / batch_size + place % 11 / 100, 4)
    return {
        "params": [{"key": key, "value": str(value)} for key, value in params.items()],
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
        "metric_summaries": [
            _metric("eval/loss", loss, loss + 2), _metric("eval/accuracy", round(1 / (1 + loss), 4), 0.1)
        ],
    }  # fmt: skip


def _metric(key: str, latest: float, first: float) -> Row:
    least, most = sorted((latest, first))
    mean = round((least + most) / 2, 4)
    return {
        "key": key, "min": least, "max": most, "mean": mean, "latest": latest,
        "count": 12, "first_step": 0, "last_step": 1100,
    }  # fmt: skip


def _rows(body: Row) -> list[Row]:
    return _list(body["data"] if isinstance(body["data"], list) else [body["data"]])


def _list(value: object) -> list[Row]:
    return cast("list[Row]", value)  # The recordings are our own data: their shape is known.


def _object(value: object) -> Row:
    return cast("Row", value)
