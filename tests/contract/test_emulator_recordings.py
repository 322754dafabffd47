"""The emulator against recorded answers of the service: what the sample tells in default switches."""

import json
import os
from importlib import resources
from typing import Any

import pytest

from artifactfs.emulator.edge_cases import IMPOSSIBLE
from artifactfs.emulator.sample import recorded, sample_lab
from tests.unit.test_emulator_middleware import Api

ORIGINALS = os.path.join(os.path.dirname(__file__), "..", "..", "..", "shared", "recorded")

SAME = {
    "project_2387.json": ("/projects/2387", {}),
    "project_artifacts_2387.json": ("/projects/2387/artifacts", {}),
    "run_70158_trimmed.json": ("/runs/70158", {}),
    "run_artifacts_70158.json": ("/runs/70158/artifacts", {}),
    "error_404_run.json": ("/runs/9999999", {}),
    "error_404_project.json": ("/projects/9999999", {}),
    "project_facet_keys.json": ("/project-facet-keys", {}),
    "project_facet_values_empty.json": ("/project-facet-values", {"facet_type": "tag", "facet_name": "model"}),
    "run_facet_keys_2387_trimmed.json": ("/facet-keys", {"filter[project_id]": "2387"}),
    "run_facet_values_empty.json": (
        "/facet-values",
        {"filter[project_id]": "2387", "facet_type": "tag", "facet_name": "model"},
    ),
}
PAGES = {"runs_page0_trimmed.json": "/runs", "projects_page0_trimmed.json": "/projects"}


def test_every_recording_is_checked() -> None:
    """No recorded body is left out of this module."""
    files = {entry.name for entry in resources.files("artifactfs.emulator").joinpath("recorded").iterdir()}
    assert files == set(SAME) | set(PAGES)


def test_the_packages_recordings_are_the_originals() -> None:
    """Where the originals lie beside the checkout, the package's copies equal them byte for byte."""
    if os.path.isdir(ORIGINALS):
        ours = resources.files("artifactfs.emulator").joinpath("recorded")
        for name in os.listdir(ORIGINALS):
            with open(os.path.join(ORIGINALS, name), "rb") as original:
                assert ours.joinpath(name).read_bytes() == original.read(), name


@pytest.mark.parametrize("name", SAME)
async def test_a_body_is_the_recorded_one(name: str) -> None:
    """The same request has the recorded answer, every key and value."""
    path, query = SAME[name]
    async with Api(sample_lab()) as api:
        answer = await api.get(path, **query)
        assert answer.json() == recorded(name)
        assert answer.status_code == (404 if "error" in name else 200)
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", PAGES)
async def test_the_first_page_starts_with_the_recorded_rows(name: str) -> None:
    """The recorded rows come first, in their order; the page tells what it is in the recorded form."""
    body: Any = recorded(name)
    async with Api(sample_lab()) as api:
        told = (await api.get(PAGES[name])).json()
        assert told["data"][: len(body["data"])] == body["data"]
        assert set(told) == set(body)
        page, recorded_page = told["meta"]["page"], body["meta"]["page"]
        assert set(page) == set(recorded_page)
        for key in ("type", "number", "size", "first_number", "prev_number"):
            assert page[key] == recorded_page[key]
        more = page["last_number"] > 0  # the recorded organisation has more projects than a page, the sample has not
        assert page["next_number"] == (1 if more else None)
        assert set(told["links"]) == {"self", "first", "last"} | ({"next"} if more else set())
        assert told["links"]["self"] == body["links"]["self"]
        assert told["links"]["first"] == body["links"]["first"]


async def test_a_row_of_a_page_is_the_run_itself() -> None:
    """Every recorded row is also the answer to the request for that run or project."""
    async with Api(sample_lab()) as api:
        for name, path in PAGES.items():
            body: Any = recorded(name)
            for row in body["data"]:
                assert (await api.get(f"{path}/{row['id']}")).json() == {"data": row}


async def test_listings_and_index_tell_the_same_tree() -> None:
    """Walking the recorded run's directories gives the files of the recorded index, with their sizes."""
    async with Api(sample_lab()) as api:
        found: dict[str, int] = {}
        todo = [""]
        while todo:
            attributes = (await api.get("/runs/70158/artifacts", path=todo.pop())).json()["data"]["attributes"]
            for row in attributes["files"]:
                if row["is_dir"]:
                    todo.append(row["path"])
                else:
                    found[f"{attributes['path_in_project']}/{row['path']}"] = row["file_size"]
        index: Any = recorded("project_artifacts_2387.json")
        assert found == {row["artifact_path"]: row["file_size"] for row in index["data"]["attributes"]["files"]}


async def test_recorded_files_have_content_of_their_size_that_can_be_opened() -> None:
    """Each recorded file is served with exactly its size, and its .json is JSON."""
    index: Any = recorded("project_artifacts_2387.json")
    async with Api(sample_lab()) as api:
        for row in index["data"]["attributes"]["files"]:
            query = {"project_id": "2387", "artifact_path": row["artifact_path"]}
            content = (await api.get("/artifacts/content", **query)).content
            assert len(content) == row["file_size"]
            if row["filename"].endswith(".json"):
                json.loads(content)
            if row["filename"] == "README.md":
                assert content.decode().startswith("# ")


async def test_the_sample_has_runs_for_several_pages() -> None:
    """At 100 rows a page there are more than two pages, and ids do not repeat."""
    async with Api(sample_lab()) as api:
        seen: list[str] = []
        number: int | None = 0
        while number is not None and number < 10:
            body = (await api.get("/runs", **{"page[size]": "100", "page[number]": str(number)})).json()
            seen += [row["id"] for row in body["data"]]
            number = body["meta"]["page"]["next_number"]
        assert len(seen) == len(set(seen)) > 200


async def test_each_awkward_run_is_awkward_in_its_way() -> None:
    """The runs of awkward.py's table are there and have what their names say."""
    lab = sample_lab()
    async with Api(lab) as api:

        async def attributes(run_id: int) -> Any:
            return (await api.get(f"/runs/{run_id}")).json()["data"]["attributes"]

        async def rows(run_id: int, **query: str) -> Any:
            return (await api.get(f"/runs/{run_id}/artifacts", **query)).json()["data"]["attributes"]["files"]

        assert {"caf\u00e9.txt", "cafe\u0301.txt"} <= {row["path"] for row in await rows(80001)}
        assert {"a b.txt", "a%20b.txt", "a+b.txt", "new\nline.txt"} <= {row["path"] for row in await rows(80002)}
        longest = [row["path"].rstrip("/").encode() for row in await rows(80003)]
        assert {len(name) for name in longest} == {255}
        assert 0 in [row.get("file_size") for row in await rows(80011)]
        assert [
            row["path"].count("/") for row in await rows(80012, path="/".join(f"level{i:03d}" for i in range(39)))
        ] == [40]
        assert len(await rows(80013, path="flat/")) == 10_000
        assert await rows(80014, path="empty/") == []
        assert len(await rows(80015)) == 1000
        assert all("file_size" not in row for row in await rows(80016))
        assert (await attributes(80021))["status"] == "running"
        assert "completed_at" not in await attributes(80021)
        assert (await attributes(80022))["status"] == "failed"
        assert (await attributes(80023))["deleted_at"]
        assert ((await attributes(80024))["name"], (await attributes(80024))["params"]) == ("", None)
        assert await rows(80027) == []
        assert set(IMPOSSIBLE) <= {row["path"] for row in await rows(80031)}
        doubles = [row["path"].rstrip("/") for row in await rows(80032)]
        assert (doubles.count("both"), doubles.count("twice.txt")) == (2, 2)
        children = (await api.get("/runs", **{"filter[parent_run_id]": "80025"})).json()["data"]
        assert [row["id"] for row in children] == ["80026"]
