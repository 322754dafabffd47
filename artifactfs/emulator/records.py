"""Runs and projects: one, and pages of many, filtered and sorted.

Owns pages and orders; filters.py owns filters. Hard: pages are recorded counted from 0 and documented counted from 1
(switch `page_base`), and `links` name another host, which no client may follow.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.types import ASGIApp

from artifactfs.emulator.artifact_tree import moment
from artifactfs.emulator.filters import BadQuery, attributes_test, integer, number, run_test
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Project, Row, Run
from artifactfs.emulator.responses import document, error, missing, resource

ELSEWHERE = "https://api.datad0g.com"  # the recorded host of `links`: not the one that was asked
PAGE_SIZE = 25  # rows, recorded
MAX_PAGE_SIZE = 100  # rows, documented

Sorting: TypeAlias = dict[str, Callable[[Row], Any]]


_TIMES: Sorting = {
    "created_at": lambda row: moment(row.get("created_at")),
    "updated_at": lambda row: moment(row.get("updated_at")),
}
_PROJECT_ORDERS: Sorting = {"name": lambda row: str(row["name"]), **_TIMES}
_RUN_ORDERS: Sorting = {**_PROJECT_ORDERS, "duration": lambda row: row.get("duration") or 0.0}


async def one_run(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /runs/{run_id}"""
    run_id = number(request.path_params["run_id"])
    if run_id is None:
        return error(emulator, 400, "run_id is not an integer")
    run = emulator.lab.run(run_id)
    return missing(emulator, "run") if run is None else document(emulator, _run(emulator, run))


async def one_project(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /projects/{project_id}"""
    project_id = number(request.path_params["project_id"])
    if project_id is None:
        return error(emulator, 400, "project_id is not an integer")
    project = emulator.lab.project(project_id)
    return missing(emulator, "project") if project is None else document(emulator, _project(emulator, project))


async def runs(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /runs. Soft-deleted runs are among them, with `deleted_at` ([?]: the harder case)."""
    try:
        found = list(filter(run_test(dict(request.query_params)), emulator.lab.runs()))
        ordered = _sorted(found, request, _RUN_ORDERS)
        return _page(emulator, request, "runs", ordered, _run)
    except BadQuery as problem:
        return error(emulator, 400, str(problem))


async def projects(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /projects"""
    try:
        test = attributes_test(dict(request.query_params))
        found = [project for project in emulator.lab.projects() if test(project.attributes)]
        ordered = _sorted(found, request, _PROJECT_ORDERS)
        return _page(emulator, request, "projects", ordered, _project)
    except BadQuery as problem:
        return error(emulator, 400, str(problem))


def _run(emulator: Emulator, run: Run) -> Row:
    attributes = run.attributes | {"params": None} if emulator.switches.null_params else run.attributes
    return resource(emulator, run.id, "runs", attributes)


def _project(emulator: Emulator, project: Project) -> Row:
    return resource(emulator, project.id, "projects", project.attributes)


def _sorted(found: Sequence[Run] | Sequence[Project], request: Request, orders: Sorting) -> list[Run | Project]:
    asked = request.query_params.get("sort", "-updated_at")
    order = orders.get(asked.removeprefix("-"))
    if order is None:
        raise BadQuery(f"cannot sort by {asked!r}")

    def key(each: Run | Project) -> tuple[Any, int]:
        return order(each.attributes), each.id  # The id decides between equals, so that pages do not overlap.

    return sorted(found, key=key, reverse=asked.startswith("-"))


Teller: TypeAlias = "Callable[[Emulator, Run], Row] | Callable[[Emulator, Project], Row]"


def _page(emulator: Emulator, request: Request, what: str, rows: list[Run | Project], tell: Teller) -> ASGIApp:
    query = request.query_params
    first = emulator.switches.page_base
    size = integer("page[size]", query.get("page[size]", str(PAGE_SIZE)))
    at = integer("page[number]", query.get("page[number]", str(first)))
    if not 1 <= size <= MAX_PAGE_SIZE:
        raise BadQuery(f"page[size] is 1 to {MAX_PAGE_SIZE}, not {size}")
    size = min(size, emulator.switches.page_cap)
    if at < first:
        raise BadQuery(f"page[number] starts at {first}")
    last = first + max(0, (len(rows) - 1) // size)
    start = (at - first) * size
    data = [tell(emulator, row) for row in rows[start : start + size]]  # type: ignore[arg-type]  # rows and tell are of one kind
    page: Row = {
        "type": "number_size",
        "number": at,
        "size": size,
        "total": len(rows),
        "first_number": first,
        "prev_number": at - 1 if at > first else None,
        "next_number": at + 1 if at < last else None,
        "last_number": last,
    }
    form = emulator.switches.page_meta
    if form == "no_next":
        del page["next_number"]
    elif form in ("required", "null_next"):
        page = {name: page[name] for name in ("number", "size", "total")}
        if form == "null_next":
            page["next_number"] = None
    more: Row = {"meta": {"page": page}} if form != "none" else {}
    return document(emulator, data, **more, links=_links(request, what, at, first, last, size))


def _links(request: Request, what: str, at: int, first: int, last: int, size: int) -> Row:
    base = f"{ELSEWHERE}/api/v2/model-lab-api/{what}"
    filters = [item for item in request.query_params.multi_items() if not item[0].startswith("page[")]

    def link(page: int) -> str:
        query = urlencode([*filters, ("page[number]", str(page)), ("page[size]", str(size))], safe="[]")
        return f"{base}?{query}"

    sent = request.scope["query_string"].decode("latin-1")
    links: Row = {"self": f"{base}?{sent}" if sent else base, "first": link(first), "last": link(last)}
    if at > first:
        links["prev"] = link(at - 1)
    if at < last:
        links["next"] = link(at + 1)
    return links
