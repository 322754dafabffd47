"""What the emulator's filters mean, and which queries it refuses (model-lab-api.md, Endpoints)."""

import pytest

from artifactfs.emulator.model import Lab, Project, project_attributes
from tests.unit.test_emulator_middleware import Api
from tests.unit.test_emulator_records import ids

OWNERS = ("1d45ac49-1e4e-11f1-8c3a-42221ed6388d", "00000000-0000-0000-0000-00000000000A")


def lab() -> Lab:
    """Runs 1 to 6: 3 and 4 are children of 1, 5 is one of 3."""
    made = Lab()
    for run_id in range(1, 7):
        made.create(
            run_id,
            10,
            name=f"Run {run_id}",
            description="the best: " + "loss" if run_id == 2 else None,
            owner_id=OWNERS[run_id % 2],
            params=[{"key": "lr", "value": str(run_id / 10)}, {"key": "bf16", "value": str(run_id > 3)}],
            tags=[{"key": "team", "value": "vision" if run_id < 4 else "speech"}, {"key": "url", "value": "a:b"}],
            updated_at=f"2026-01-01T00:00:0{run_id}Z",
        )
    for child, parent in ((3, 1), (4, 1), (5, 3)):
        run = made.run(child)
        assert run is not None
        run.parent = parent
    void = made.run(6)
    assert void is not None
    void.attributes |= {"params": None, "tags": []}
    for project_id, team in ((20, "vision"), (30, "speech")):
        told = project_attributes(project_id, owner_id=OWNERS[0], tags=[{"key": "team", "value": team}])
        made.add_project(Project(project_id, told | {"description": f"about {team}"}))
    return made


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"filter[parent_run_id]": "null"}, [1, 2, 6]),
        ({"filter[parent_run_id]": "1"}, [3, 4]),
        ({"filter[parent_run_id]": "6"}, []),
        ({"filter[tags]": "team:vision"}, [1, 2, 3]),
        ({"filter[tags]": "team:vision,url:a:b"}, [1, 2, 3]),
        ({"filter[tags]": "team:vision,url:a"}, []),
        ({"filter[params]": "lr:0.2"}, [2]),
        ({"filter[params]": "lr:>0.3"}, [4, 5]),
        ({"filter[params]": "lr:>=0.3"}, [3, 4, 5]),
        ({"filter[params]": "lr:<0.3"}, [1, 2]),
        ({"filter[params]": "lr:<=3e-1"}, [1, 2, 3]),
        ({"filter[params]": "bf16:true"}, [4, 5]),
        ({"filter[params]": "lr:>0.1,lr:<0.5,bf16:false"}, [2, 3]),
        ({"filter[params]": "bf16:>0"}, []),
        ({"filter[params]": "none:>0"}, []),
        ({"filter[owner_id]": OWNERS[0]}, [2, 4, 6]),
        ({"filter[owner_id]": OWNERS[1].lower()}, [1, 3, 5]),
        ({"filter[owner_id]": "00000000-0000-0000-0000-000000000000"}, []),
        ({"filter": "LOSS"}, [2]),
        ({"filter": "run 5"}, [5]),
        ({"filter[tags]": "team:speech", "filter[params]": "lr:>0.4", "filter": "run"}, [5]),
        ({"filter[status]": "completed"}, [1, 2, 3, 4, 5, 6]),
        ({"filter[status]": "unresponsive"}, []),
    ],
)
async def test_filters_of_runs(query: dict[str, str], expected: list[int]) -> None:
    """Each filter alone and several together; a value may hold colons, True is true, a text is searched in both."""
    async with Api(lab()) as api:
        assert sorted(await ids(api, **query)) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"filter": "SPEECH"}, [30]),
        ({"filter": "project-2"}, [20]),
        ({"filter[tags]": "team:vision"}, [20]),
        ({"filter[owner_id]": OWNERS[0]}, [10, 20, 30]),
        ({"filter[owner_id]": OWNERS[1]}, []),
    ],
)
async def test_filters_of_projects(query: dict[str, str], expected: list[int]) -> None:
    """Text in name or description, owner, tags."""
    async with Api(lab()) as api:
        assert sorted(await ids(api, "/projects", **query)) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"filter[status]": "done"},
        {"filter[status]": "Completed"},
        {"filter[owner_id]": "me"},
        {"filter[tags]": "team"},
        {"filter[tags]": "team:a,"},
        {"filter[tags]": ":a"},
        {"filter[params]": "lr"},
        {"filter[params]": "lr:>x"},
        {"filter[params]": "lr:>="},
        {"filter[parent_run_id]": "none"},
    ],
)
async def test_filters_that_make_no_sense(query: dict[str, str]) -> None:
    """400, in the documented form: title, detail, status."""
    async with Api(lab()) as api:
        answer = await api.get("/runs", **query)
        (told,) = answer.json()["errors"]
        assert (answer.status_code, told["status"], told["title"]) == (400, "400", "Generic Error")
        assert next(iter(query)) in told["detail"]


@pytest.mark.parametrize("path", ["/facet-keys", "/facet-values"])
async def test_facets_of_an_unknown_project(path: str) -> None:
    """404, as for the project itself."""
    query = {"facet_type": "tag", "facet_name": "team"}
    async with Api(lab()) as api:
        assert (await api.get(path, **query, **{"filter[project_id]": "10"})).status_code == 200
        answer = await api.get(path, **query, **{"filter[project_id]": "11"})
        assert answer.status_code == 404
        assert answer.json() == {"errors": [{"title": "Generic Error", "detail": "project not found"}]}


@pytest.mark.parametrize("form", ["400", "404", "500"])
async def test_missing_content(form: str) -> None:
    """missing_content: what is not there is one of three errors."""
    async with Api(lab(), missing_content=form) as api:
        answer = await api.get("/artifacts/content", project_id="10", artifact_path="nothing")
        assert answer.status_code == int(form)
        assert answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize("form", ["slash", "dot_slash", "mixed"])
async def test_what_stands_in_front_of_paths(form: str) -> None:
    """path_start: `/`, `./` or any mixture before paths of listing and index; a listing's `path` is taken with it."""
    async with Api(path_start=form) as api:
        paths = [*await api.paths(), *await api.paths("dir"), *await api.paths("/dir/"), *await api.paths("././dir")]
        starts = {path[: len(path) - len(path.lstrip("./"))] for path in paths}
        assert starts == {"slash": {"/"}, "dot_slash": {"./"}}.get(form, starts)
        assert len(starts) > 2 or form != "mixed"
        assert sorted(path.lstrip("./") for path in paths[-2:]) == ["dir/a.txt", "dir/sub/"]


@pytest.mark.parametrize(("form", "told"), [("empty", ""), ("slash", "/")])
async def test_a_run_at_its_projects_root(form: str, told: str) -> None:
    """path_in_project: "" or "/": then a file's path alone is what content takes, and what the index has."""
    made = Lab()
    run = made.create(5, 50)
    run.tree.add("a/b.txt", 3)  # type: ignore[attr-defined]  # a MemoryTree
    async with Api(made, path_in_project=form) as api:
        assert (await api.get("/runs/5/artifacts")).json()["data"]["attributes"]["path_in_project"] == told
        (row,) = (await api.get("/projects/50/artifacts")).json()["data"]["attributes"]["files"]
        assert row["artifact_path"] == "a/b.txt"
        answer = await api.get("/artifacts/content", project_id="50", artifact_path="a/b.txt")
        assert (answer.status_code, len(answer.content)) == (200, 3)
        answer = await api.get("/artifacts/content", project_id="50", artifact_path="/a/b.txt")
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("form", "names"),
    [("required", {"number", "size", "total"}), ("null_next", {"number", "size", "total", "next_number"})],
)
async def test_pages_of_little(form: str, names: set[str]) -> None:
    """page_meta: only what the schema requires, or with a next_number of null; page_cap: fewer rows than asked for."""
    async with Api(lab(), page_meta=form, page_cap=4) as api:
        body = (await api.get("/runs", **{"page[size]": "100"})).json()
        page = body["meta"]["page"]
        assert (set(page), page["size"], page["total"], len(body["data"])) == (names, 4, 6, 4)
        assert page.get("next_number") is None
