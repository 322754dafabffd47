"""artifactfs.modellab.run_finder and run_filters: only runs that are wanted are shown (docs/semantics.md 1.7)."""

import logging

import pytest

from artifactfs import errors
from artifactfs.domain import ParamTest, RunFilter, RunRecord
from artifactfs.modellab.run_filters import OF_NO_RUN, query_of
from artifactfs.modellab.run_finder import RunFinder
from tests.fakes import described, run

P = RunFilter(project_id=10)


def record(run_id: int, **details: object) -> RunRecord:
    name = str(details.pop("name", "base"))
    return RunRecord(run(run_id, name=name), described(run(run_id, name=name), **details))  # type: ignore[arg-type]


class Asked:
    """A service that answers each query from a table, else with all rows; it ignores what it does not know."""

    def __init__(self, *rows: RunRecord, answers: dict[str, list[RunRecord] | Exception] | None = None) -> None:
        self.rows = [*rows]
        self.answers = answers or {}
        self.queries: list[dict[str, str]] = []

    async def __call__(self, count: int, query: dict[str, str]) -> list[RunRecord]:
        self.queries.append(query)
        found = next((self.answers[name] for name in query if name in self.answers), self.rows)
        if isinstance(found, Exception):
            raise found
        return found[:count]


async def find(asked: Asked, wanted: RunFilter) -> list[int]:
    return [each.run.run_id for each in await RunFinder(asked).find(200, wanted)]


def test_queries() -> None:
    """1.7: filters are written as documented; a comma, and a key with a colon, could be taken for something else."""
    wanted = RunFilter(
        10, "lora", "failed", "u", 0, (("a", "b:c"), ("a", "b,c"), ("k:", "v")),
        (ParamTest("lr", "0.1", ">="), ParamTest("x", ">1")),
    )  # fmt: skip
    assert query_of(wanted) == {
        "filter[project_id]": "10",
        "filter": "lora",
        "filter[status]": "failed",
        "filter[owner_id]": "u",
        "filter[parent_run_id]": "null",
        "filter[tags]": "a:b:c",
        "filter[params]": "lr:>=0.1",
    }


async def test_a_service_that_ignores_filters(caplog: pytest.LogCaptureFixture) -> None:
    """1.7: rows that are not such are left out, and a notice says that others may be missing."""
    rows = record(1, params={"lr": "0.1"}, tags={"a": "b"}), record(2, params={"lr": "1"}, tags={"a": "c"}), record(3)
    for wanted in (
        RunFilter(10, params=(ParamTest("lr", "0.1"),)),
        RunFilter(10, params=(ParamTest("lr", "0.5", "<"),)),
        RunFilter(10, tags=(("a", "b"),)),
    ):
        caplog.clear()
        assert await find(Asked(*rows), wanted) == [1]
        assert "does not choose runs by all of" in caplog.text
    assert await find(Asked(*rows), RunFilter(11)) == []


@pytest.mark.parametrize(
    "wanted", [RunFilter(10, parent=7), RunFilter(10, parent=0), RunFilter(10, text="lora")], ids=str
)
async def test_what_rows_do_not_tell(wanted: RunFilter) -> None:
    """1.7: no row names the parent, nor where a text was found: one request tells whether the filter is known."""
    name = "filter" if wanted.text else "filter[parent_run_id]"
    ignoring = Asked(record(1), record(2))
    assert await find(ignoring, wanted) == []
    assert ignoring.queries[1] == {name: OF_NO_RUN[name]}

    class Knowing(Asked):
        async def __call__(self, count: int, query: dict[str, str]) -> list[RunRecord]:
            found = await super().__call__(count, query)
            return [] if OF_NO_RUN[name] in query.values() else found

    knowing = Knowing(record(1), record(2))
    finder = RunFinder(knowing)
    for _ in range(3):
        assert [each.run.run_id for each in await finder.find(200, wanted)] == [1, 2]
    assert len(knowing.queries) == 4


async def test_a_text_that_rows_hold_needs_no_proof() -> None:
    """7: a search whose runs all have the text in their names or descriptions is one request."""
    asked = Asked(record(1, name="LoRA 8"), record(2, description="a lora"))
    assert await find(asked, RunFilter(text="lora")) == [1, 2]
    assert len(asked.queries) == 1


@pytest.mark.parametrize(
    "error", [errors.BadRequest("no", 400), errors.NotFound("no", 404), errors.ServerFailed("no", 500)], ids=str
)
async def test_filters_that_are_refused(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """1.7: the runs of the project that were last updated are looked through then; what they cannot tell fails."""
    rows = record(1, params={"lr": "0.1"}), record(2, params={"lr": "1"}), record(3)
    asked = Asked(*rows, answers={"filter[params]": error, "filter": error})
    with caplog.at_level(logging.WARNING):
        assert await find(asked, RunFilter(10, params=(ParamTest("lr", "0.1"),))) == [1]
    assert asked.queries == [{"filter[project_id]": "10", "filter[params]": "lr:0.1"}, {"filter[project_id]": "10"}]
    assert "does not choose runs by filter[project_id] '10', filter[params] 'lr:0.1': no" in caplog.text
    with pytest.raises(type(error)):
        await find(asked, RunFilter(10, text="x"))


async def test_a_filter_that_is_refused_over_all_projects() -> None:
    """1.7: without a project the last updated of all runs are looked through."""
    asked = Asked(record(1, tags={"a": "b"}), record(2), answers={"filter[tags]": errors.BadRequest("no", 400)})
    assert await find(asked, RunFilter(tags=(("a", "b"),))) == [1]
    assert asked.queries[1] == {}


async def test_a_failure_after_an_answer() -> None:
    """3.2: a failure that may pass hides no run of an older answer, unless that was looked through itself."""
    failing, wanted = errors.ServerFailed("no", 500), RunFilter(10, tags=(("a", "b"),))
    asked = Asked(record(1, tags={"a": "b"}))
    finder = RunFinder(asked)

    async def found(*, has_older: bool) -> list[int]:
        return [each.run.run_id for each in await finder.find(200, wanted, has_older=has_older)]

    assert await found(has_older=False) == [1]
    asked.answers["filter[tags]"] = failing
    with pytest.raises(errors.ServerFailed):
        await found(has_older=True)
    assert await found(has_older=False) == [1]
    asked.rows.insert(0, record(2, tags={"a": "b"}))
    # What the caller has was looked through, and is no better.
    assert await found(has_older=True) == [2, 1]
    # A refusal does not pass.
    del asked.answers["filter[tags]"]
    await found(has_older=True)
    asked.answers["filter[tags]"] = errors.BadRequest("no", 400)
    assert await found(has_older=True) == [2, 1]


async def test_a_refused_filter_beside_one_that_rows_do_not_tell() -> None:
    """1.7: what rows do not tell is still left to the service: the children of a run are looked through."""
    looser = {"filter[project_id]": "10", "filter[parent_run_id]": "7"}

    class Refusing(Asked):
        async def __call__(self, count: int, query: dict[str, str]) -> list[RunRecord]:
            if "filter[tags]" in query:
                raise errors.BadRequest("no", 400)
            found = await super().__call__(count, query)
            return found if query == looser else []

    asked = Refusing(record(1, tags={"a": "b"}), record(2, tags={"a": "c"}), record(3))
    assert await find(asked, RunFilter(10, parent=7, tags=(("a", "b"),))) == [1]
    assert asked.queries[0] == looser


async def test_a_proof_that_fails() -> None:
    """1.7, 3.2: a failure proves nothing of a filter: it is not remembered, and hides and invents no run."""
    probe = {"filter[parent_run_id]": OF_NO_RUN["filter[parent_run_id]"]}
    answers: list[Exception | None] = [errors.ServerFailed("no", 500), None]

    class Failing(Asked):
        async def __call__(self, count: int, query: dict[str, str]) -> list[RunRecord]:
            found = await super().__call__(count, query)
            if query == probe and (error := answers.pop(0)) is not None:
                raise error
            return found

    finder = RunFinder(Failing(record(1), record(2)))
    with pytest.raises(errors.ServerFailed):
        await finder.find(200, RunFilter(10, parent=7))
    # The filter is ignored, as the proof shows when it comes.
    assert await finder.find(200, RunFilter(10, parent=7)) == []


async def test_a_filter_that_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    """1.7: it is not sent, and the runs of the project are looked through: those without tags are none of them."""
    asked = Asked(record(1, tags={"a": "b,c"}), record(2, tags={"a": "b"}), record(3))
    assert await find(asked, RunFilter(10, tags=(("a", "b,c"),))) == [1]
    assert asked.queries == [{"filter[project_id]": "10"}]
    assert "all of filter[project_id] '10', filter[tags] (a part of it cannot be sent): of the" in caplog.text


async def test_rows_without_parameters() -> None:
    """1.7: where parameters are null in lists, the service's choice counts, if it knows the filter."""
    known = Asked(record(1), answers={"filter[project_id]": [record(1)], "filter[params]": []})
    assert await find(known, RunFilter(10, params=(ParamTest("lr", "0.1"),))) == [1]
    assert await find(Asked(record(1)), RunFilter(10, params=(ParamTest("lr", "0.1"),))) == []
