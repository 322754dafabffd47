"""Pages of runs and projects: numbers, filters, orders."""

from typing import Any

import pytest

from artifactfs.emulator.model import Lab
from tests.unit.test_emulator_middleware import Api


def many(count: int) -> Lab:
    """Runs 1 to `count`, updated in the order of their ids, in projects 1 and 2 in turn."""
    lab = Lab()
    for run_id in range(1, count + 1):
        lab.create(
            run_id,
            1 + run_id % 2,
            name=f"Run {run_id % 3}",
            updated_at=f"2026-01-01T00:{run_id // 60:02d}:{run_id % 60:02d}Z",
            created_at=f"2026-01-01T00:{(count - run_id) // 60:02d}:{(count - run_id) % 60:02d}Z",
            duration=float(run_id % 7),
            status="running" if run_id % 5 == 0 else "completed",
        )
    return lab


async def ids(api: Api, what: str = "/runs", **query: str) -> list[int]:
    answer = await api.get(what, **query)
    assert answer.status_code == 200, answer.text
    return [int(row["id"]) for row in answer.json()["data"]]


async def page(api: Api, **query: str) -> Any:
    return (await api.get("/runs", **query)).json()["meta"]["page"]


@pytest.mark.parametrize("first", [0, 1])
async def test_pages_follow_next_number_to_the_last(first: int) -> None:
    """page_base: pages count from 0 or 1; following next_number gives every run once, newest first."""
    async with Api(many(250), page_base=first) as api:
        query = {"page[size]": "100"}
        got: list[int] = []
        numbers = []
        for _ in range(4):
            meta = await page(api, **query)
            got += await ids(api, **query)
            numbers.append(meta["number"])
            assert (meta["first_number"], meta["last_number"], meta["total"]) == (first, first + 2, 250)
            assert meta["prev_number"] == (None if meta["number"] == first else meta["number"] - 1)
            if meta["next_number"] is None:
                break
            query["page[number]"] = str(meta["next_number"])
        assert numbers == [first, first + 1, first + 2]
        assert got == list(range(250, 0, -1))


async def test_a_page_past_the_last_is_empty() -> None:
    """A number that is too large gives no rows and no next page."""
    async with Api(many(3)) as api:
        assert await ids(api, **{"page[number]": "7"}) == []
        assert (await page(api, **{"page[number]": "7"}))["next_number"] is None


async def test_no_runs_are_one_empty_page() -> None:
    """An empty lab has a first page, which is the last."""
    async with Api(Lab()) as api:
        meta = await page(api)
        assert (meta["total"], meta["first_number"], meta["last_number"], meta["next_number"]) == (0, 0, 0, None)


@pytest.mark.parametrize(
    "query",
    [
        {"page[size]": "101"},
        {"page[size]": "0"},
        {"page[size]": "many"},
        {"page[number]": "-1"},
        {"sort": "color"},
        {"filter[id]": "1,x"},
        {"filter[project_id]": "x"},
        {"filter[parent_run_id]": "x"},
    ],
)
async def test_a_wrong_query_is_400(query: dict[str, str]) -> None:
    """A page above 100 rows, an unknown order and an id that is none are refused."""
    async with Api(many(3)) as api:
        assert (await api.get("/runs", **query)).status_code == 400


async def test_number_0_is_refused_where_pages_count_from_1() -> None:
    """page_base=1: there is no page 0."""
    async with Api(many(3), page_base=1) as api:
        assert (await api.get("/runs", **{"page[number]": "0"})).status_code == 400


async def test_page_meta_can_be_partial() -> None:
    """page_meta: no next_number, or no meta."""
    async with Api(many(30), page_meta="no_next") as api:
        assert "next_number" not in await page(api)
        assert (await page(api))["last_number"] == 1
        await api.order("switches", {"page_meta": "none"})
        assert "meta" not in (await api.get("/runs")).json()


async def test_links_name_another_host() -> None:
    """links, as recorded, lead elsewhere; `next` and `prev` are there where such a page is."""
    async with Api(many(60)) as api:
        links = (await api.get("/runs", **{"page[number]": "1", "filter": "Run"})).json()["links"]
        base = "https://api.datad0g.com/api/v2/model-lab-api/runs?filter=Run&"
        assert links["next"] == base + "page[number]=2&page[size]=25"
        assert links["prev"] == base + "page[number]=0&page[size]=25"
        assert all(link.startswith("https://api.datad0g.com/") for link in links.values())
        assert set((await api.get("/runs", **{"page[size]": "100"})).json()["links"]) == {"self", "first", "last"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"filter[id]": "3,7,999"}, [7, 3]),
        ({"filter[project_id]": "2"}, [9, 7, 5, 3, 1]),
        ({"filter[status]": "running"}, [10, 5]),
        ({"filter": "rUN 2"}, [8, 5, 2]),
        ({"filter[parent_run_id]": "4"}, [6]),
        ({"filter[project_id]": "1", "filter[status]": "running"}, [10]),
        ({"sort": "updated_at"}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"sort": "-updated_at"}, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ({"sort": "created_at"}, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ({"sort": "name"}, [3, 6, 9, 1, 4, 7, 10, 2, 5, 8]),
        ({"sort": "-duration"}, [6, 5, 4, 10, 3, 9, 2, 8, 1, 7]),
    ],
)
async def test_filters_and_orders(query: dict[str, str], expected: list[int]) -> None:
    """Filters narrow, all of them together; orders sort, equals by id."""
    lab = many(10)
    child = lab.run(6)
    assert child is not None
    child.parent = 4
    async with Api(lab) as api:
        assert await ids(api, **query) == expected


async def test_projects_are_filtered_and_sorted_too() -> None:
    """filter and sort work on projects."""
    async with Api(many(10)) as api:
        assert await ids(api, "/projects", sort="-name") == [2, 1]
        assert await ids(api, "/projects", filter="PROJECT-1") == [1]
        assert (await api.get("/projects", sort="duration")).status_code == 400


async def test_null_params() -> None:
    """null_params: every run's params is null, alone and in pages."""
    async with Api(many(2), null_params=True) as api:
        assert (await api.get("/runs/1")).json()["data"]["attributes"]["params"] is None
        assert [row["attributes"]["params"] for row in (await api.get("/runs")).json()["data"]] == [None, None]


async def test_a_deleted_run_is_shown_with_its_time() -> None:
    """A soft-deleted run is answered, and listed, with deleted_at."""
    lab = many(2)
    run = lab.run(1)
    assert run is not None
    run.attributes["deleted_at"] = "2026-02-01T00:00:00Z"
    async with Api(lab) as api:
        assert (await api.get("/runs/1")).json()["data"]["attributes"]["deleted_at"]
        assert await ids(api) == [2, 1]


async def test_facets_are_counted_from_the_lab() -> None:
    """Keys and values of a project's runs' tags and parameters; without the query values: 400."""
    lab = many(4)
    run = lab.run(2)
    assert run is not None
    run.attributes |= {"tags": [{"key": "team", "value": "red"}], "params": [{"key": "lr", "value": "0.1"}]}
    async with Api(lab) as api:
        project = {"filter[project_id]": "1"}
        keys = (await api.get("/facet-keys", **project)).json()["data"]["attributes"]
        assert keys == {"metrics": [], "parameters": ["lr"], "tags": ["team"]}
        query = {**project, "facet_type": "parameter", "facet_name": "lr"}
        assert (await api.get("/facet-values", **query)).json()["data"]["attributes"]["values"] == ["0.1"]
        assert (await api.get("/project-facet-keys")).json()["data"]["attributes"]["tags"] == []
        for path in ("/facet-keys", "/facet-values", "/project-facet-values"):
            assert (await api.get(path)).status_code == 400
