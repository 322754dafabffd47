"""The emulator, and the recorded answers, against what is known of the API, as a schema (tests/openapi)."""

import dataclasses
import os
import typing
from collections.abc import Iterator
from importlib import resources

import pytest
from openapi_core.exceptions import OpenAPIError

from artifactfs.emulator.app import API
from artifactfs.emulator.sample import sample_lab
from artifactfs.emulator.switches import Switches
from tests import openapi
from tests.contract.test_emulator_recordings import ORIGINALS, PAGES, SAME
from tests.unit.test_emulator_middleware import PROJECT, RUN, Api

# What is meant to be no answer of the document: what other servers and proxies do, and the document does not rule out
# for the future. Of a switch that is not here every value must fit.
OUTSIDE: dict[str, set[object]] = {
    "size_form": {"string"},
    "index_size_form": {"string"},
    "empty_form": {"null", "absent"},
    "page_meta": {"none"},
    "error_form": {"strings", "html", "empty", "nonsense"},
    "index": {"html", "stall", "cut"},
    "redirect": {"same", "other", "loop"},
    "wrong_content": {"html"},
    "content_type": {"text/plain"},
    "keys_refused": {"401"},
    "facet_form": {"null"},
}
# Of switches whose values are not listed: one that is not the default.
OTHERS: dict[str, object] = {
    "page_cap": 2, "content_type": "text/plain", "redirect_to": "http://127.0.0.1:1", "clock_skew_s": 60,
    "latency_s": 0.001, "bytes_per_s": 10_000_000, "listing_lag_s": 1.0, "content_lag_s": 1.0,
}  # fmt: skip


def requests() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield a request for each endpoint, and for each kind of answer that it has."""
    run, project, facet = f"/runs/{RUN}", f"/projects/{PROJECT}", {"facet_type": "tag", "facet_name": "team"}
    of_project = {"filter[project_id]": str(PROJECT)}
    for query in ({}, {"page[size]": "1"}, {"page[number]": "9"}, {"filter[status]": "killed"}, {"filter[status]": "x"},
                  {"filter[params]": "a:>1"}, {"filter[params]": "a"}, {"filter[parent_run_id]": "null"},
                  {"sort": "-duration"}, {"sort": "x"}):  # fmt: skip
        yield "/runs", query
        yield "/projects", query
    for path in ("", "dir", "dir/", "dir.txt", "dir.txt/", "empty/", "none"):
        yield f"{run}/artifacts", {"path": path}
    for path in (run, project, f"{run}/artifacts", f"{project}/artifacts"):
        yield path, {}
        for wrong in ("/runs/1x", "/projects/1x", "/runs/99999", "/projects/99999"):
            yield (wrong + "/artifacts" if path.endswith("/artifacts") else wrong), {}
    yield "/facet-keys", of_project
    yield "/facet-keys", {"filter[project_id]": "99999"}
    yield "/facet-keys", {}
    yield "/facet-values", of_project | facet
    yield "/facet-values", facet | {"filter[project_id]": "99999"}
    yield "/facet-values", of_project
    yield "/project-facet-keys", {}
    yield "/project-facet-values", facet
    yield "/project-facet-values", {}


async def check_all(api: Api) -> None:
    """Hold the answers to all requests against the schema."""
    for path, query in requests():
        openapi.check(await api.get(path, **query))
    for path in ("dir.txt", "zero.bin", "dir", "none"):
        openapi.check(await api.content(path))
    openapi.check(await api.content("dir.txt", "bytes=3-7"))
    openapi.check(await api.get("/artifacts/content"))


def values() -> Iterator[tuple[str, object]]:
    """Yield every value of every switch but the defaults."""
    kinds: dict[str, object] = typing.get_type_hints(Switches)
    for field in dataclasses.fields(Switches):
        kind = kinds[field.name]
        listed: tuple[object, ...] = (True, False) if kind is bool else typing.get_args(kind)
        for value in listed or (OTHERS[field.name],):
            if value != field.default:
                yield field.name, value


@pytest.mark.parametrize(("name", "value"), [each for each in values() if each[1] not in OUTSIDE.get(each[0], ())])
async def test_every_answer_is_one_of_the_document(name: str, value: object) -> None:
    """Whatever the switch, as far as it is meant to be within the document."""
    async with Api(None, (), **{name: value}) as api:
        await check_all(api)


async def test_every_default_answer_is_one_of_the_document() -> None:
    """Every endpoint, every kind of answer; also what is refused for too many requests."""
    async with Api() as api:
        await check_all(api)
    limit = {"reset_s": 3, "period": 60}
    async with Api(None, [{"match": {}, "then": {"rate_limit": limit}}]) as api:
        for path, query in requests():
            answer = await api.get(path, **query)
            assert answer.status_code == 429
            openapi.check(answer)


async def test_the_whole_sample_is_of_the_document() -> None:
    """Every run and project, every page, the awkward ones' listings, and each project's."""
    lab = sample_lab()
    async with Api(lab) as api:
        for number in range(3):
            for what in ("/runs", "/projects"):
                openapi.check(await api.get(what, **{"page[size]": "100", "page[number]": str(number)}))
        for run in lab.runs():
            openapi.check(await api.get(f"/runs/{run.id}"))
            openapi.check(await api.get(f"/runs/{run.id}/artifacts"))
        for project in lab.projects():
            openapi.check(await api.get(f"/projects/{project.id}"))
            if len(lab.runs_of(project.id)) < 20:
                openapi.check(await api.get(f"/projects/{project.id}/artifacts"))


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, outside in OUTSIDE.items() for value in sorted(map(str, outside))]
)
async def test_what_is_outside_of_the_document_is_so(name: str, value: str) -> None:
    """What is left out above is left out for a reason: some answer is none of the document."""
    if (name, value) == ("index", "stall"):
        return  # no answer at all
    async with Api(None, (), **{"redirect_to": "http://127.0.0.1:1", name: value}) as api:
        api.client.headers["DD-API-KEY"] = "wrong" if name == "keys_refused" else api.client.headers["DD-API-KEY"]
        with pytest.raises(OpenAPIError):
            await check_all(api)


def test_every_value_is_known() -> None:
    """No name or value above is of a switch that there is no more."""
    known = {(name, value) for name, value in values()}
    assert {(name, value) for name, outside in OUTSIDE.items() for value in outside} <= known


@pytest.mark.parametrize("name", [*SAME, *PAGES])
def test_every_recording_is_of_the_document(name: str) -> None:
    """The schema is not ours alone: what was recorded fits it; so do the originals, where they are."""
    path = API + (SAME[name][0] if name in SAME else PAGES[name])
    status = 404 if "error" in name else 200
    recorded = resources.files("artifactfs.emulator").joinpath("recorded", name).read_bytes()
    openapi.check_body(path, recorded, status)
    original = os.path.join(ORIGINALS, name)
    if os.path.exists(original):
        with open(original, "rb") as file:
            openapi.check_body(path, file.read(), status)


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"data":[]}', b'{"data":[],"meta":{"page":{"number":0,"size":1}}}',
     b'{"data":[{"id":5}],"meta":{"page":{"number":0,"size":1,"total":1}}}', b"[]", b"<html>"],
)  # fmt: skip
def test_the_check_can_fail(body: bytes) -> None:
    """What is no page of runs is none."""
    openapi.check_body(f"{API}/runs", b'{"data":[],"meta":{"page":{"number":0,"size":1,"total":0}}}')
    with pytest.raises(OpenAPIError):
        openapi.check_body(f"{API}/runs", body)
