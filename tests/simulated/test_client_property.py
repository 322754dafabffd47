"""artifactfs.modellab.client: any answer that the schema allows is shown completely, or refused in our own words.

The strategies are written after tests/openapi/model-lab.yaml; what is expected is worked out in the obvious way, and
shares nothing with forms.py and pages.py.
"""

import json
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import openapi_core.exceptions
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs import errors
from artifactfs.domain import DirectoryListing
from artifactfs.modellab.client import ModelLab
from tests import openapi
from tests.unit.test_client import API, Handler, Server, connect

T = TypeVar("T")

TEXTS = st.text(max_size=8)
_PARTS = st.sampled_from(["a", "b", "dir", ".", "..", "", "x" * 256, "é", "\0", ".a", "%2e"]) | st.text(max_size=3)
PATHS = st.builds(
    lambda lead, parts, end: lead + "/".join(parts) + end,
    st.sampled_from(["", "", "/", "./", "//", "/./", "././"]),
    st.lists(_PARTS, min_size=1, max_size=4),
    st.sampled_from(["", "", "/", "//"]),
)
SIZES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**63 - 1, -1, 0])
ROWS = st.fixed_dictionaries({"path": PATHS, "is_dir": st.booleans()}, optional={"file_size": SIZES, "new": TEXTS})


def told(body: object) -> httpx.Response:
    return httpx.Response(200, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"})


def ask(handler: Handler, question: Callable[[ModelLab], Awaitable[T]]) -> tuple[T, Server]:
    """Return what a client of a server makes of its answers, and the server."""

    async def asked() -> tuple[T, Server]:
        lab, server = connect(handler)
        return await question(lab), server

    return trio.run(asked)


def listed(rows: list[dict[str, Any]], prefix: str) -> DirectoryListing:
    """Return what the client makes of a run's root listing; it is one of the schema."""
    body = {
        "data": {"id": "7", "type": "artifacts", "attributes": {"files": rows, "path_in_project": prefix}},
    }
    openapi.check_body(f"{API}/runs/7/artifacts", json.dumps(body).encode())
    return ask(lambda _request: told(body), lambda lab: lab.list_directory(7, ""))[0]


def parts_of(path: str) -> list[str]:
    while path.startswith(("/", "./")):
        path = path.partition("/")[2]
    return path.rstrip("/").split("/")


def is_name(part: str) -> bool:
    return part not in ("", ".", "..") and "\0" not in part and len(part.encode()) <= 255


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, max_size=8), TEXTS)
def test_any_listing_is_shown_completely(rows: list[dict[str, Any]], prefix: str) -> None:
    """1.3 to 1.5: each row is an entry, or the directory itself, or left out and counted, and nothing else."""
    found = listed(rows, prefix)
    expected: dict[str, bool] = {}
    sizes: dict[str, int | None] = {}
    bad = 0
    for row in rows:
        first, *deeper = parts_of(row["path"])
        if not first and not deeper:
            continue
        if not all(map(is_name, [first, *deeper])):
            bad += 1
            continue
        is_dir = bool(deeper) or row["path"].endswith("/") or row["is_dir"]
        expected[first] = expected.get(first, False) or is_dir
        if not is_dir:
            sizes.setdefault(first, row.get("file_size"))
    children = found.children.by_name
    assert {name.decode(): child.is_dir for name, child in children.items()} == expected
    assert found.children.bad_names == bad
    assert found.path_in_project == prefix
    for name, child in children.items():
        size = None if child.is_dir else sizes[name.decode()]
        assert child.size_bytes == (size if size is not None and 0 <= size < 2**63 else None)


IDS = st.integers(1, 40).map(str) | st.sampled_from(["abc", "12.5", "", "-1", "0", "007", str(2**63)]) | TEXTS
META = st.fixed_dictionaries(
    {},
    optional={
        "first_number": st.integers(),
        "prev_number": st.none() | st.integers(),
        "type": TEXTS,
        "new": TEXTS,
    },
)


def run_row(run_id: str) -> dict[str, Any]:
    time = "2026-05-15T02:54:52Z"
    attributes = {
        "created_at": time, "descendant_match": False, "description": "", "has_children": False, "is_pinned": False,
        "metric_summaries": [], "mlflow_artifact_location": "", "name": "", "params": None, "project_id": 3,
        "started_at": time, "status": "completed", "tags": [], "updated_at": time,
    }  # fmt: skip
    return {"id": run_id, "type": "runs", "attributes": attributes}


def project_row(project_id: str) -> dict[str, Any]:
    time = "2026-05-15T02:54:52Z"
    attributes = {
        "artifact_storage_location": "", "created_at": time, "description": "", "is_starred": False, "name": "",
        "tags": [], "updated_at": time,
    }  # fmt: skip
    return {"id": project_id, "type": "projects", "attributes": attributes}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(IDS, max_size=40),
    st.integers(0, 7),
    st.integers(1, 9),
    META,
    st.sets(st.sampled_from(["next_number", "last_number"])),
    st.booleans(),
)
def test_all_rows_of_any_pages_are_shown(
    ids: list[str], first: int, cap: int, more: dict[str, Any], names: set[str], of_runs: bool
) -> None:
    """1, 1.2: whatever pages tell besides number, size and total, every row that can be asked for is there, once."""
    make = run_row if of_runs else project_row

    def handler(request: httpx.Request) -> httpx.Response:
        query = dict(urllib.parse.parse_qsl(request.url.query.decode()))
        number = int(query.get("page[number]", first))
        start = (number - first) * cap
        last = first + max(0, (len(ids) - 1) // cap)
        page = more | {"number": number, "size": cap, "total": len(ids)}
        optional = {"last_number": last, "next_number": number + 1 if number < last else None}
        page |= {name: optional[name] for name in names}
        body = {"data": [make(each) for each in ids[start : start + cap]], "meta": {"page": page}}
        openapi.check_body(request.url.path, json.dumps(body).encode())
        return told(body)

    async def numbers(lab: ModelLab) -> list[int]:
        if of_runs:
            return [run.run_id for run in await lab.list_runs(1000)]
        return [project.project_id for project in await lab.list_projects(1000)]

    # A page of which every row came before ends the list: rows move. Here none does.
    pages = [ids[start : start + cap] for start in range(0, len(ids), cap)]
    seen: dict[int, None] = {}
    for page in pages:
        good = [int(each) for each in page if each.isascii() and each.isdecimal() and 1 <= int(each) < 2**63]
        if good and all(each in seen for each in good):
            break
        seen |= dict.fromkeys(good)
    found, server = ask(handler, numbers)
    assert found == list(seen)
    assert len(server.requests) <= max(1, len(pages))


NUMBERS = st.integers(-3, 12) | st.integers()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.lists(IDS, max_size=5),
            st.fixed_dictionaries(
                {"number": NUMBERS, "size": NUMBERS, "total": NUMBERS},
                optional={"next_number": st.none() | NUMBERS, "last_number": NUMBERS},
            ),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 300),
)
def test_pages_that_lie_end(answers: list[tuple[list[str], dict[str, Any]]], count: int) -> None:
    """1: whatever numbers pages have, there is an end to asking, and what is shown was sent; or it is our error."""

    requests = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal requests
        ids, page = answers[min(requests, len(answers) - 1)]
        requests += 1
        body = {"data": [run_row(each) for each in ids], "meta": {"page": page}}
        openapi.check_body(request.url.path, json.dumps(body).encode())
        return told(body)

    try:
        found, _ = ask(handler, lambda lab: lab.list_runs(count))
    except errors.ServiceError:
        return
    sent = {each for ids, _ in answers for each in ids}
    assert all(str(run.run_id) in sent or f"00{run.run_id}" in sent for run in found)
    assert len({run.run_id for run in found}) == len(found) <= count
    # Eight side by side at most, behind the last that brought something new, and once more where pages may be shifted.
    assert requests <= len(answers) + 20


@settings(deadline=None, max_examples=60)
@given(IDS, IDS)
def test_any_run_is_the_one_asked_for_or_refused(run_id: str, project_id: str) -> None:
    """1.2: an answer about one run or project is that one's, or an error of ours."""

    def handler(request: httpx.Request) -> httpx.Response:
        return told({"data": run_row(run_id) if "/runs/" in request.url.path else project_row(project_id)})

    try:
        assert ask(handler, lambda lab: lab.get_run(5))[0].run_id == 5
    except errors.ServiceError:
        assert run_id.lstrip("0") != "5"
    try:
        assert ask(handler, lambda lab: lab.get_project(5))[0].project_id == 5
    except errors.ServiceError:
        assert project_id.lstrip("0") != "5"


def test_the_strategies_are_held_against_the_schema() -> None:
    """A row that the schema does not have would be noticed."""
    with pytest.raises(openapi_core.exceptions.OpenAPIError):
        listed([{"path": "a"}], "")
