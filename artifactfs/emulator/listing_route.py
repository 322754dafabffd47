"""The two listings: a run's artifacts, one directory at a time, and a project's, flat.

Owns the forms of a listing (docs/dev/model-lab-api.md, "What the documentation leaves open", 1 to 7).
"""

import dataclasses
import re
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from artifactfs.emulator.artifact_tree import CREATED_AT, File
from artifactfs.emulator.filters import number
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Row, Run
from artifactfs.emulator.responses import LOGIN_PAGE, Broken, Silence, document, error, missing, resource
from artifactfs.emulator.switches import SizeForm, Switches

EVERY_TENTH = 10  # of the files, the partial index lacks one
GHOST = "gone.bin"  # what an index of ghosts has more in every directory
# What `path_start` puts in front of paths; of several, another one for paths of another length.
STARTS = {"none": ("",), "slash": ("/",), "dot_slash": ("./",), "mixed": ("", "/", "./", "//", "/./", "././")}


_START = re.compile(r"\A(?:\.?/)+")


class Refused(Exception):
    """The listing is an error with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def run_artifacts(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /runs/{run_id}/artifacts?path="""
    run_id = number(request.path_params["run_id"])
    if run_id is None:
        return error(emulator, 400, "run_id is not an integer")
    run = emulator.lab.run(run_id)
    if run is None:
        return missing(emulator, "run")
    run = _as_listed(emulator, run)
    try:
        rows = run_rows(run, request.query_params.get("path", ""), emulator.switches)
    except Refused as refusal:
        return error(emulator, refusal.status, "path cannot be listed")
    attributes = files(emulator, rows) | {"path_in_project": prefix(run, emulator.switches)}
    return document(emulator, resource(emulator, run.id, "artifacts", attributes))


async def project_artifacts(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /projects/{project_id}/artifacts"""
    project_id = number(request.path_params["project_id"])
    if project_id is None:
        return error(emulator, 400, "project_id is not an integer")
    form = emulator.switches.index
    if form == "404" or emulator.lab.project(project_id) is None:
        return missing(emulator, "project")
    if form == "stall":
        return Silence()
    if form == "html":
        return Response(LOGIN_PAGE, media_type="text/html")
    runs = emulator.lab.runs_of(project_id)
    if form == "other":
        others = (emulator.lab.runs_of(each.id) for each in emulator.lab.projects() if each.id != project_id)
        runs = next(filter(None, others), [])
    rows = index_rows([_as_listed(emulator, run) for run in runs], emulator.switches)
    body = document(emulator, resource(emulator, project_id, "project_files", files(emulator, rows)))
    return Broken(body.body, media_type="application/json") if form == "cut" else body


def _as_listed(emulator: Emulator, run: Run) -> Run:
    return dataclasses.replace(run, tree=emulator.lagging(run.tree, emulator.switches.listing_lag_s))


def files(emulator: Emulator, rows: list[Row]) -> Row:
    """Return the `files` attribute, or none, as `empty_form` says for an empty one."""
    if emulator.switches.extra_fields:
        rows = [{**row, "checksum": None, "x_storage": {"class": "STANDARD"}} for row in rows]
    if rows or emulator.switches.empty_form == "list":
        return {"files": rows}
    return {"files": None} if emulator.switches.empty_form == "null" else {}


def run_rows(run: Run, asked: str, switches: Switches) -> list[Row]:
    """Return the rows for the query value `asked`, decoded once. Raises Refused where an error is the answer."""
    if switches.path_start != "none":
        asked = _START.sub("", asked)
    slash = asked.endswith("/")
    path = asked[:-1] if slash else asked
    if slash and switches.slash == "refused":
        return []
    if path and not slash and switches.slash == "required":
        return _prefix_rows(run, path, switches)
    if run.tree.is_dir(path):
        return _directory_rows(run, path, switches)
    file = None if slash else run.tree.find(path)
    if file is None:
        return _refuse(switches.path_missing)
    if switches.path_of_file == "self":
        return [_row(run, path, file, path.rpartition("/")[0], switches)]
    return _refuse(switches.path_of_file)


def _refuse(how: str) -> list[Row]:
    if how == "empty":
        return []
    raise Refused(int(how))


def _directory_rows(run: Run, path: str, switches: Switches) -> list[Row]:
    rows: list[Row] = []
    if path and switches.self_marker != "none":
        shown = path.rpartition("/")[2] if switches.base == "relative" else path
        marker = shown + "/" if switches.self_marker == "slash" else shown
        rows.append({"path": _started(marker, switches), "is_dir": False, "file_size": 0})
    base = path + "/" if path else ""
    if switches.depth == "one":
        rows += [_row(run, base + name, file, path, switches) for name, file in run.tree.children(path)]
    else:
        rows += _subtree_rows(run, path, path, switches)
    return rows + run.raw_rows.get(path, [])


def _subtree_rows(run: Run, path: str, relative_to: str, switches: Switches) -> Iterator[Row]:
    base = path + "/" if path else ""
    for name, file in run.tree.walk(path):
        if file is not None or switches.dir_rows:
            yield _row(run, base + name, file, relative_to, switches)


def _prefix_rows(run: Run, path: str, switches: Switches) -> list[Row]:
    """Return what raw object storage knows of the prefix `path`: the entry itself and its namesakes, no children."""
    above, _, stem = path.rpartition("/")
    base = above + "/" if above else ""
    file = run.tree.find(path)
    if file is not None and switches.path_of_file not in ("empty", "self"):
        return _refuse(switches.path_of_file)
    rows: list[Row] = []
    for name, found in run.tree.children(above):
        if name.startswith(stem):
            rows.append(_row(run, base + name, found, above, switches))
            if found is None and switches.depth == "recursive":
                rows += _subtree_rows(run, base + name, above, switches)
    return rows or _refuse(switches.path_missing)


def _row(run: Run, path: str, file: File | None, relative_to: str, switches: Switches) -> Row:
    shown = path[len(relative_to) + 1 :] if relative_to and switches.base == "relative" else path
    shown = _started(shown, switches)
    if file is None:
        return {"path": shown + "/" if switches.dir_slash else shown, "is_dir": switches.dir_flag}
    return {"path": shown, "is_dir": False, **_size(run, file, switches.size_form)}


def _started(path: str, switches: Switches) -> str:
    starts = STARTS[switches.path_start]
    return starts[len(path) % len(starts)] + path


def prefix(run: Run, switches: Switches) -> str:
    """Return a run's `path_in_project`, as the service sends it."""
    return {"hash": run.prefix, "empty": "", "slash": "/"}[switches.path_in_project]


def _size(run: Run, file: File, form: SizeForm) -> Row:
    """Return the `file_size` field, or none."""
    size = file.size
    if not run.tells_sizes or form == "absent" or (form == "absent_when_zero" and not size):
        return {}
    if form == "null" or (form == "null_when_zero" and not size):
        return {"file_size": None}
    return {"file_size": str(size) if form == "string" else size}


def _time(file: File, switches: Switches) -> str:
    if switches.created_at == "kept" or not file.changes:
        return file.created_at
    return file.modified_at().isoformat().replace("+00:00", "Z")


def index_rows(runs: list[Run], switches: Switches) -> list[Row]:
    """Return the rows of a project's flat listing. Soft-deleted runs' files are among them ([?]: the harder case)."""
    if switches.index == "empty":
        return []
    rows: list[Row] = []
    form: SizeForm = "absent" if switches.index == "no_sizes" else switches.index_size_form
    for run in runs:
        for path, file in run.tree.walk(""):
            if file is not None:
                place = f"{run.prefix}/{path}" if switches.path_in_project == "hash" else path
                row: Row = {"filename": path.rpartition("/")[2], "artifact_path": _started(place, switches)}
                rows.append({**row, "created_at": _time(file, switches), **_size(run, file, form)})
        rows += run.raw_index
    if switches.index == "partial":
        return [row for place, row in enumerate(rows, 1) if place % EVERY_TENTH]
    if switches.index == "ghosts":
        directories = dict.fromkeys(str(row["artifact_path"]).rpartition("/")[0] for row in rows)
        ghost: Row = {"filename": GHOST, "created_at": CREATED_AT, "file_size": 1}
        rows += [{**ghost, "artifact_path": f"{directory}/{GHOST}"} for directory in directories]
    return rows
