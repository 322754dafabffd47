"""The facet endpoints: which tags, parameters and metrics occur, and with which values.

Owns little. artifactfs asks for those of runs; those of projects are here so that the whole of the recorded API is
answered.
"""

from typing import cast

from starlette.requests import Request
from starlette.types import ASGIApp

from artifactfs.emulator.filters import number
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Row
from artifactfs.emulator.responses import answer, document, error, missing, resource


async def project_keys(emulator: Emulator, _request: Request) -> ASGIApp:
    """Answer GET /project-facet-keys"""
    if recorded := emulator.lab.recorded.get("project-facet-keys"):
        return answer(recorded)
    rows = [project.attributes for project in emulator.lab.projects()]
    keys: Row = {"metrics": None, "parameters": [], "tags": _keys(rows, "tags")}
    return document(emulator, resource(emulator, 2, "facet_keys", keys))


async def run_keys(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /facet-keys?filter[project_id]="""
    project_id = number(request.query_params.get("filter[project_id]", ""))
    if project_id is None:
        return error(emulator, 400, "filter[project_id] is required")
    if emulator.lab.project(project_id) is None:
        return missing(emulator, "project")
    if recorded := emulator.lab.recorded.get(f"facet-keys {project_id}"):
        return answer(recorded)
    rows = [run.attributes for run in emulator.lab.runs_of(project_id)]
    kinds = {"metrics": "metric_summaries", "parameters": "params", "tags": "tags"}
    keys: Row = {kind: _in_form(emulator, _keys(rows, field)) for kind, field in kinds.items()}
    return document(emulator, resource(emulator, project_id, "facet_keys", keys))


async def project_values(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /project-facet-values?facet_type=tag&facet_name="""
    kind, name = request.query_params.get("facet_type"), request.query_params.get("facet_name")
    if kind != "tag" or not name:
        return error(emulator, 400, "facet_type=tag and facet_name are required")
    rows = [project.attributes for project in emulator.lab.projects()]
    return document(emulator, resource(emulator, f"{kind}:{name}", "facet_values", _values(rows, kind, name)))


async def run_values(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /facet-values?filter[project_id]=&facet_type=&facet_name="""
    query = request.query_params
    project_id = number(query.get("filter[project_id]", ""))
    kind, name = query.get("facet_type"), query.get("facet_name")
    if project_id is None or kind not in ("tag", "parameter", "attribute", "metric") or not name:
        return error(emulator, 400, "filter[project_id], facet_type and facet_name are required")
    if emulator.lab.project(project_id) is None:
        return missing(emulator, "project")
    rows = [run.attributes for run in emulator.lab.runs_of(project_id)]
    values = _values(rows, kind, name)
    values["values"] = _in_form(emulator, values["values"])
    return document(emulator, resource(emulator, f"{kind}:{name}:{project_id}", "facet_values", values))


def _in_form(emulator: Emulator, texts: object) -> object:
    forms = {"objects": [{"value": text} for text in cast("list[str]", texts)], "null": None, "empty": []}
    return forms.get(emulator.switches.facet_form, texts)


def _pairs(rows: list[Row], field: str) -> list[Row]:
    lists = [row.get(field) for row in rows]
    return [pair for pairs in lists if isinstance(pairs, list) for pair in pairs]


def _keys(rows: list[Row], field: str) -> list[str]:
    return sorted({str(pair["key"]) for pair in _pairs(rows, field)})


def _values(rows: list[Row], kind: str, name: str) -> Row:
    pairs = _pairs(rows, {"tag": "tags", "parameter": "params"}.get(kind, ""))
    values = sorted({str(pair["value"]) for pair in pairs if pair["key"] == name})
    return {"facet_name": name, "facet_type": kind, "values": values}
