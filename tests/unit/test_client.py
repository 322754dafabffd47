"""artifactfs.modellab.client: URLs, pages, and what odd answers do. The server is a function of the request."""

import json
import logging
import urllib.parse
from collections.abc import Callable, Sequence

import httpx
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import RunFilter
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.size_limits import DEFAULTS, SizeLimits
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret

API = "/api/v2/model-lab-api"
Handler = Callable[[httpx.Request], httpx.Response]


class Server:
    """Answers by a function, and keeps the requests."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._handler(request)

    def targets(self) -> list[str]:
        """The path and query of each request, as sent, below the API's prefix."""
        return [request.url.raw_path.decode().removeprefix(API) for request in self.requests]


def connect(handler: Handler, sizes: SizeLimits = DEFAULTS) -> tuple[ModelLab, Server]:
    server = Server(handler)
    sender = Transport(
        "https://api.test",
        Credentials(Secret("a"), Secret("b")),
        clock=trio.current_time,
        transport=httpx.MockTransport(server),
    )
    return ModelLab(sender, deadline_s=30.0, sizes=sizes), server


def listing(*rows: object, **more: object) -> httpx.Response:
    attributes = {"files": list(rows), "path_in_project": "p/artifacts"} | more
    return httpx.Response(200, json={"data": {"attributes": attributes}})


def row(run_id: int, **attributes: object) -> dict[str, object]:
    return {"id": str(run_id), "type": "runs", "attributes": {"status": "running"} | attributes}


def pages(rows: Sequence[object], first: int = 0, **meta: object) -> Handler:
    """Return a server that pages `rows`, counting pages from `first`."""

    def handler(request: httpx.Request) -> httpx.Response:
        query = dict(urllib.parse.parse_qsl(request.url.query.decode()))
        size, number = int(query["page[size]"]), int(query.get("page[number]", first))
        last = first + max(0, (len(rows) - 1) // size)
        start = (number - first) * size
        page: dict[str, object] = {
            "number": number, "size": size, "total": len(rows), "first_number": first, "last_number": last,
            "next_number": number + 1 if number < last else None,
        }  # fmt: skip
        links = {"next": "https://elsewhere.test/runs?page[number]=1"}
        return httpx.Response(
            200, json={"data": rows[start : start + size], "meta": {"page": page | meta}, "links": links}
        )

    return handler


# --- URLs ---------------------------------------------------------------------------------------------------


async def test_urls(autojump_clock: MockClock) -> None:
    """The endpoints as documented; the root of a run without `path`, a directory as the server wrote it."""

    def handler(request: httpx.Request) -> httpx.Response:
        if "artifacts" in request.url.path:
            return listing({"path": "dir/x", "is_dir": False, "file_size": 1})
        return httpx.Response(200, json={"data": [row(5)] if request.url.path.endswith("/runs") else row(5)})

    lab, server = connect(handler)
    await lab.check_keys()
    await lab.get_run(5)
    await lab.list_directory(5, "")
    await lab.list_directory(5, "dir")
    await lab.list_runs(7)
    assert server.targets() == [
        "/runs?page%5Bsize%5D=1",
        "/runs/5",
        "/runs/5/artifacts",
        "/runs/5/artifacts?path=dir%2F",
        "/runs?sort=-updated_at&page%5Bsize%5D=7",
    ]
    assert {request.method for request in server.requests} == {"GET"}


NASTY = [
    "a b",
    "100%25.webp",
    "step%1%.webp",
    "a+b",
    "a&b=c",
    "a#b",
    "a?b",
    "é",
    "e\u0301",
    "a;b",
    "'\"<>|\\^`{}",
    "..a",
    "~",
    "\x7f\n",
]


@pytest.mark.parametrize("name", NASTY)
async def test_names_are_encoded_exactly_once(name: str, autojump_clock: MockClock) -> None:
    """1.4, form 9: what the server decodes once is the name, byte for byte."""
    lab, server = connect(lambda _request: listing({"path": f"d/{name}/x", "is_dir": False}))
    await lab.list_directory(1, f"d/{name}")
    (target,) = server.targets()
    raw = target.partition("?path=")[2]
    assert urllib.parse.unquote_to_bytes(raw) == f"d/{name}/".encode()
    assert "+" not in raw
    assert urllib.parse.parse_qs(server.requests[0].url.query.decode()) == {"path": [f"d/{name}/"]}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=20))
def test_any_name_is_encoded_exactly_once(name: str) -> None:
    """1.4: the same for any name that a filesystem can hold."""

    async def ask() -> list[httpx.Request]:
        lab, server = connect(lambda request: listing({"path": "x" if request.url.query else "y", "is_dir": False}))
        await lab.list_directory(1, name)
        return [request for request in server.requests if request.url.query]

    for request in trio.run(ask):
        raw = request.url.raw_path.decode().partition("?path=")[2]
        assert urllib.parse.unquote_to_bytes(raw).removesuffix(b"/") == name.encode()


# --- runs ---------------------------------------------------------------------------------------------------


async def test_a_run_that_is_gone(autojump_clock: MockClock) -> None:
    """1.2: `deleted_at` set is NotFound, as is a 404."""
    lab, _ = connect(lambda _request: httpx.Response(200, json={"data": row(5, deleted_at="2026-05-16T09:00:00Z")}))
    with pytest.raises(errors.NotFound, match="deleted"):
        await lab.get_run(5)
    lab, _ = connect(lambda _request: httpx.Response(404, json={"errors": [{"detail": "run not found"}]}))
    with pytest.raises(errors.NotFound, match="run not found"):
        await lab.get_run(5)


async def test_another_run_than_was_asked_for(autojump_clock: MockClock) -> None:
    """5.3: a cache in between that mixes up answers does not give one run another's files."""
    lab, _ = connect(lambda _request: httpx.Response(200, json={"data": row(6)}))
    with pytest.raises(errors.UnexpectedAnswer, match="asked for run 5, got run 6"):
        await lab.get_run(5)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("count", "requests"), [(1, 1), (100, 1), (101, 2), (200, 2), (250, 3), (1000, 3)])
async def test_pages(first: int, count: int, requests: int, autojump_clock: MockClock) -> None:
    """7: one request per 100 runs shown, whether pages count from 0 or 1; `links` are never followed."""
    lab, server = connect(pages([row(i) for i in range(1, 251)], first))
    assert [run.run_id for run in await lab.list_runs(count)] == list(range(1, min(count, 250) + 1))
    assert len(server.requests) == requests
    assert {request.url.host for request in server.requests} == {"api.test"}
    assert "page%5Bnumber%5D" not in server.targets()[0]


async def test_no_runs_asked_for(autojump_clock: MockClock) -> None:
    """7: `runs_listed = 0` costs nothing."""
    lab, server = connect(pages([row(1)]))
    assert await lab.list_runs(0) == []
    assert server.requests == []


async def test_rows_that_move_between_pages(autojump_clock: MockClock) -> None:
    """Rows move while pages are read: an id that comes twice is shown once, where it came first."""
    answers = iter([[row(3), row(2)], [row(2), row(1)], [row(1), row(3)]])

    def handler(_request: httpx.Request) -> httpx.Response:
        number = len(server.requests) - 1
        page = {"number": number, "next_number": number + 1, "last_number": 99}
        return httpx.Response(200, json={"data": next(answers), "meta": {"page": page}})

    lab, server = connect(handler)
    assert [run.run_id for run in await lab.list_runs(1000)] == [3, 2, 1]
    assert len(server.requests) == 3  # the third brought nothing new: the end, whatever next_number says


async def test_a_server_that_pages_for_ever(autojump_clock: MockClock) -> None:
    """A server without numbers that always names a next page is asked twice, not for ever."""
    lab, server = connect(lambda _r: httpx.Response(200, json={"data": [row(1)], "meta": {"page": {"next_number": 1}}}))
    assert [run.run_id for run in await lab.list_runs(1000)] == [1]
    assert len(server.requests) == 2


async def test_deleted_runs_are_not_listed(autojump_clock: MockClock) -> None:
    """1.2: they are among the rows and not among the runs."""
    lab, _ = connect(pages([row(3), row(2, deleted_at="2026-05-16T09:00:00Z"), row(1)]))
    assert [run.run_id for run in await lab.list_runs(10)] == [3, 1]


async def test_rows_that_cannot_be_asked_for(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """1.2: rows whose id is no integer, or that are none, are left out, with a line in the log; once for each place."""
    good = [row(i) for i in range(1, 201)]
    odd: list[object] = [
        {"id": each, "attributes": {}} for each in ("abc\x1b", "12.5", "", None, "-1", "0", str(2**63))
    ]
    sent = [*good[:100], *odd, None, 5, "x", [], {"attributes": {}}, *good[100:]]
    lab, server = connect(pages(sent))
    for _ in range(3):
        assert len(await lab.list_runs(1000)) == 200
        assert len(await lab.find_runs(1000, RunFilter(project_id=7))) == 0
        assert len(await lab.list_projects(1000)) == 200
    assert len(server.requests) == 3 * 3 * 3
    told = [record.getMessage() for record in caplog.records if "cannot be asked for" in record.getMessage()]
    assert [line.partition(":")[0] for line in told] == ["runs", "runs by filter[project_id] '7'", "projects"]
    assert all("left out 12 rows" in line and "'abc" in line and line.isprintable() for line in told)


# --- listings -----------------------------------------------------------------------------------------------


async def test_a_listing_past_the_cap(autojump_clock: MockClock) -> None:
    """6.4: a listing's entries have a bound: past it AnswerTooLarge, which is EFBIG."""
    sizes = SizeLimits(rows=3)
    rows = [{"path": f"f{i}"} for i in range(4)]
    lab, _ = connect(lambda _request: listing(*rows), sizes)
    with pytest.raises(errors.AnswerTooLarge, match="more than 3 entries"):
        await lab.list_directory(1, "")
    lab, _ = connect(lambda _request: listing(*rows[:3]), sizes)
    assert len((await lab.list_directory(1, "")).children.by_name) == 3


@pytest.mark.parametrize(
    "body", [b"<html>login</html>", b"", b'{"data":null}', b'{"errors":["x"]}', b'{"data":{"attributes":{}}}']
)
async def test_a_listing_that_is_none(body: bytes, autojump_clock: MockClock) -> None:
    """5.3, form 13: a 200 with the wrong body is UnexpectedAnswer, never an empty directory."""
    lab, server = connect(lambda _request: httpx.Response(200, content=body))
    with pytest.raises(errors.UnexpectedAnswer):
        await lab.list_directory(1, "")
    assert len(server.requests) == 1


async def test_the_log_says_what_was_left_out(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """1.3, 1.5, form 8: bad names and shadowed files are counted, a full thousand is logged, in printable lines."""
    rows: list[object] = [{"path": f"f{i}"} for i in range(994)]
    rows += [{"path": ".."}, {"path": "a/../b"}, None, {"path": "both"}, {"path": "both/"}, {"path": "ok"}]
    lab, _ = connect(lambda _request: listing(*rows, {"path": "x\x1b"}))
    with caplog.at_level(logging.WARNING, "artifactfs"):
        found = await lab.list_directory(1, "")
    assert found.children.bad_names == 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "left out 3 entries" in told[0]
    assert "one is both" in told[1]
    assert "exactly 1000 entries" in told[2]
    assert all(line.isprintable() for line in told)


async def test_sorting_a_long_answer_lets_others_run(autojump_clock: MockClock) -> None:
    """5.1: 50,000 rows are sorted in pieces: other tasks get many turns meanwhile."""
    body = json.dumps(
        {"data": {"attributes": {"path_in_project": "p", "files": [{"path": f"f{i}"} for i in range(50_000)]}}}
    ).encode()
    lab, _ = connect(lambda _request: httpx.Response(200, content=body))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        assert len((await lab.list_directory(1, "")).children.by_name) == 50_000
        nursery.cancel_scope.cancel()
    assert turns > 20
