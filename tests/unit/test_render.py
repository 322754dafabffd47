"""artifactfs.cli.render: status and info as text: all of it, readable, and nothing that a terminal would obey."""

from collections.abc import Iterable

import pytest

from artifactfs.cli import render
from artifactfs.control import status_schema
from artifactfs.control.place_info import FileInfo, Info, Listed, ProjectInfo, ProjectName, RunInfo
from artifactfs.domain import Metric, Pair
from artifactfs.util.humanize import format_span
from tests.unit.test_status_schema import a_status

NASTY = "\x1b[2J\x07\u202e\nx\ud800"


def text_of(rows: Iterable[render.Row]) -> str:
    text = "\n".join(render.lines(rows))
    assert text.replace("\n", "").isprintable()
    return text


def test_all_of_a_status() -> None:
    """5.3: each part of a status is shown, in words, numbers that one can read, and times from now."""
    told = a_status(
        mountpoint=NASTY, origin=NASTY, account=NASTY, at="2026-01-01T00:10:00Z", mounted_since="2026-01-01T00:00:00Z",
        health=status_schema.Health("degraded", "2026-01-01T00:09:00Z", NASTY, "do this"),
        requests={
            "by_kind": {NASTY: {"server_error": 1234}},
            "times": {"run": {"count": 2, "sum_s": 0.5}, "runs": {"count": 0, "sum_s": 0.0}},
            "received_bytes": 3 << 20, "bodies_broken": 2, "paused_s": 1.25,
        },
        rate_limits=(
            status_schema.RateLimit("a", 100, 40, 30.4, 0.0), status_schema.RateLimit("", None, None, None, 12.0),
        ),
        cache={
            "directory": NASTY, "size_bytes": None, "limit_bytes": 1 << 30, "evicted_files": 1200, "keeps_up": False,
        },
        streaming=(
            status_schema.Streaming("1", NASTY, None, 5, fits=True),
            status_schema.Streaming("1", "p", 9, 5, fits=False),
        ),
        last_traversal=status_schema.LastTraversal(7, 20, 1.5, {"listing": 3}, 100),
        indexes=(status_schema.IndexStatus("10", "trusted", 1000, 5.0, 1, 0),),
        last_error=status_schema.Failed(NASTY, "try again", 3, "2026-01-01T00:00:00Z", "2026-01-01T00:09:30Z"),
        log_file=NASTY,
    )  # fmt: skip
    text = text_of(render.status_rows(told))
    for part in (
        "degraded, since 2026-01-01T00:09:00Z (60 s ago)", "do this", "1,234 server error",
        "250 ms on average", "received 3 MiB, bodies broken 2, paused 1.2 s", "40 of 100 left, reset in 30 s",
        "unnamed", "nothing known, paused for 12 s", "limit 1 GiB, evicted files 1,200, keeps up no",
        "unknown size, 5 B so far",
        "9 B, 5 B so far; fits neither cache nor memory: a read at an earlier offset restarts it",
        "run 7, 20 directories in 1.5 s; requests: 3 listing", "trusted, 1,000 files, 5 s old",
        "2026-01-01T00:09:30Z (30 s ago)", ", 3 times since 2026-01-01T00:00:00Z (10 min ago)", "try again",
    ):  # fmt: skip
        assert part in text, part
    assert "answers: runs" not in text
    assert render.summary(told).startswith("2026-01-01T00:10:00Z  ")


def test_what_a_newer_mount_says() -> None:
    """A state that this version does not know is shown as it is."""
    told = a_status(health=status_schema.Health("asleep\x1b", "?", "x"))
    assert "asleep" in text_of(render.status_rows(told))


def a_run(**told: object) -> RunInfo:
    return RunInfo(7, ProjectName("3", NASTY), NASTY, NASTY, **told)  # type: ignore[arg-type]  # the fields' own types


def test_all_of_a_run() -> None:
    """Each attribute of a run has a row; a missing one has none; long lists are cut, and say so."""
    run = a_run(
        description=NASTY, created_at="T", duration_s=7265.0, owner_id=NASTY, external_url="https://x/#/runs/1",
        params=tuple(Pair(f"p{n}", NASTY) for n in range(250)), tags=(Pair(NASTY, NASTY),),
        metrics=(Metric("m", 0.5, 0.1, 0.9, 0.4, 1000), Metric(NASTY)),
    )  # fmt: skip
    info = Info(1, "run", "runs/7", run=run, app_url="https://app.datadoghq.com/", error=NASTY)
    text = text_of(render.info_rows(info))
    for part in (
        "(7)", "2 h 1 min", "https://x/#/runs/1", "and 50 parameters more: see --json",
        "m = 0.5 (from 0.1 to 0.9, 1,000 values)",
        "? (from ? to ?)", "https://app.datadoghq.com/", "the service did not tell all",
    ):  # fmt: skip
        assert part in text, part
    assert "completed" not in text


@pytest.mark.parametrize("url", ["javascript:alert(1)", "http", "https://x/\x1b", "", None])
def test_what_is_no_link(url: str | None) -> None:
    """Only what a browser would open as a page is shown as a link."""
    assert render.link(url) is None
    assert "link" not in text_of(render.info_rows(Info(1, "run", "runs/7", run=a_run(external_url=url))))


def test_all_of_a_file_and_a_project() -> None:
    """A file tells size, time, version, and how much is cached; a project its names and times."""
    file = FileInfo(1000, "T", "C", "42", 250, 500, 2)
    text = text_of(render.info_rows(Info(1, "file", NASTY, file=file, listing=Listed(5.0, 55.0, "index", None))))
    for part in (
        "1000 B (1,000 bytes)",
        "T, created C",
        "42",
        "(25% on disk), open 2 times",
        "from the project's listing",
    ):
        assert part in text, part
    empty = FileInfo(None, "T", None, "42", 0, 0, 0)
    assert "not known" in text_of(render.info_rows(Info(1, "file", "x", file=empty)))
    project = ProjectInfo(3, None, description=NASTY, tags=(Pair("a", "b"),))
    assert "(none)" in text_of(render.info_rows(Info(1, "project", "projects/3", project=project)))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h 0 min"), (172_800, "2 d 0 h")],
)
def test_spans(seconds: float, said: str) -> None:
    assert format_span(seconds) == said


def test_times_that_are_none() -> None:
    """What is no time is shown as it is; one in the future was now."""
    assert render.ago("soon", "2026-01-01T00:00:00Z") == "soon"
    assert render.ago("2026-01-01T00:00:05Z", "2026-01-01T00:00:00Z") == "2026-01-01T00:00:05Z (0 s ago)"
