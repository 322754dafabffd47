"""The fault script in process, under trio; what needs a socket is in tests/contract/test_emulator_served.py."""

from typing import Any

import pytest
import trio

from artifactfs.emulator.faults import FaultError, Script
from tests.unit.test_emulator_middleware import RUN, Api


def rule(then: dict[str, Any], kind: str = "any", **more: Any) -> dict[str, Any]:
    match = {"kind": kind} | {name: more.pop(name) for name in ("path_contains", "query_contains") if name in more}
    return {"match": match, "then": then, **more}


async def statuses(api: Api, count: int, path: str = f"/runs/{RUN}") -> list[int]:
    return [(await api.get(path)).status_code for _ in range(count)]


async def test_times_ends_a_fault() -> None:
    """times: so many requests go wrong, the next ones do not."""
    async with Api(script=[rule({"status": 503}, times=2)]) as api:
        assert await statuses(api, 4) == [503, 503, 200, 200]


async def test_without_times_a_fault_stays() -> None:
    """times null or absent: every request goes wrong."""
    async with Api(script=[rule({"status": 503}, times=None)]) as api:
        assert await statuses(api, 3) == [503, 503, 503]


async def test_skip_lets_the_first_ones_through() -> None:
    """skip: so many matching requests pass before the first one goes wrong, and others do not use it up."""
    async with Api(script=[rule({"status": 500}, kind="run", skip=2, times=1)]) as api:
        await api.files()
        assert await statuses(api, 4) == [200, 200, 500, 200]


async def test_the_first_rule_in_force_decides() -> None:
    """Rules are tried in order; one that skips, or is used up, leaves the request to the next."""
    script = [rule({"status": 500}, times=1), rule({"status": 502}, skip=1, times=1), rule({"status": 503}, times=1)]
    async with Api(script=script) as api:
        assert await statuses(api, 4) == [500, 503, 502, 200]


@pytest.mark.parametrize("kind", ["run", "runs", "project", "projects", "listing", "index", "content", "any"])
async def test_a_kind_matches_its_requests_alone(kind: str) -> None:
    """match.kind picks one kind of request; any picks all."""
    places = {
        "run": f"/runs/{RUN}",
        "runs": "/runs",
        "project": "/projects/10",
        "projects": "/projects",
        "listing": f"/runs/{RUN}/artifacts",
        "index": "/projects/10/artifacts",
        "content": "/artifacts/content",
    }
    async with Api(script=[rule({"status": 418}, kind=kind)]) as api:
        hit = {name for name, path in places.items() if (await api.get(path)).status_code == 418}
        assert hit == (set(places) if kind == "any" else {kind})


async def test_path_contains_looks_at_the_url() -> None:
    """match.path_contains: a part of the decoded URL path."""
    async with Api(script=[rule({"status": 503}, path_contains="/runs/1/")]) as api:
        assert (await api.get("/runs/1")).status_code == 200
        assert (await api.get("/runs/1/artifacts")).status_code == 503


@pytest.mark.parametrize("text", ["path=dir/sub", "path=dir%2Fsub", "dir/s"])
async def test_query_contains_looks_at_the_query_sent_or_decoded(text: str) -> None:
    """match.query_contains: a part of the query as it was sent, or decoded."""
    async with Api(script=[rule({"status": 503}, query_contains=text)]) as api:
        assert (await api.get(f"/runs/{RUN}/artifacts", path="dir")).status_code == 200
        answer = await api.client.get(f"/api/v2/model-lab-api/runs/{RUN}/artifacts?path=dir%2Fsub")
        assert answer.status_code == 503


async def test_status_body_and_headers_are_the_answer() -> None:
    """then.status, body and headers make the answer; a header replaces the one that would be sent."""
    then = {"status": 502, "body": "<oops>", "headers": {"Content-Type": "text/x", "Retry-After": "7"}}
    async with Api(script=[rule(then)]) as api:
        answer = await api.get("/runs")
        assert (answer.status_code, answer.text) == (502, "<oops>")
        assert (answer.headers["content-type"], answer.headers["retry-after"]) == ("text/x", "7")


async def test_headers_alone_leave_the_answer() -> None:
    """then.headers without anything else are added to the ordinary answer."""
    async with Api(script=[rule({"headers": {"X-RateLimit-Limit": "1"}})]) as api:
        answer = await api.get(f"/runs/{RUN}")
        assert answer.json()["data"]["id"] == str(RUN)
        assert answer.headers.get_list("x-ratelimit-limit") == ["1"]


async def test_a_status_has_the_body_of_error_form() -> None:
    """then.status without a body: an error in the form that the switch asks for, 401 as a list of strings."""
    async with Api(script=[rule({"status": 401}, times=1), rule({"status": 500})]) as api:
        assert isinstance((await api.get("/runs")).json()["errors"][0], str)
        assert (await api.get("/runs")).json()["errors"][0]["status"] == "500"
        await api.order("switches", {"error_form": "empty"})
        assert (await api.get("/runs")).content == b""


async def test_delay_comes_before_the_answer(autojump_clock: object) -> None:
    """then.delay_s alone: the ordinary answer, later."""
    async with Api(script=[rule({"delay_s": 3}, times=1)]) as api:
        before = trio.current_time()
        assert (await api.get("/runs")).status_code == 200
        assert trio.current_time() - before == pytest.approx(3)


async def test_a_stall_is_never_answered(autojump_clock: object) -> None:
    """then.stall: accepted and counted, and in flight for as long as the client waits."""
    async with Api(script=[rule({"stall": True})]) as api:
        with trio.move_on_after(3600) as waited:
            await api.get("/runs")
        assert waited.cancelled_caught
        stats = await api.stats()
        assert (stats["total"], stats["in_flight"], stats["log"][0]["status"]) == (1, 0, None)


async def test_stall_after_sends_a_part_first(autojump_clock: object) -> None:
    """then.stall_after: so many bytes of body, then silence."""
    async with Api(script=[rule({"stall_after": 12})]) as api:
        with trio.move_on_after(3600) as waited:
            await api.content("dir.txt")
        assert waited.cancelled_caught
        (entry,) = (await api.stats())["log"]
        assert (entry["status"], entry["sent"]) == (200, 12)


async def test_the_index_can_stall(autojump_clock: object) -> None:
    """The switch index=stall is such a stall, for the index alone."""
    async with Api(index="stall") as api:
        with trio.move_on_after(3600) as waited:
            await api.get("/projects/10/artifacts")
        assert waited.cancelled_caught
        assert await api.paths("dir")


async def test_a_cut_body_ends_early() -> None:
    """then.cut_after: the promised length, and fewer bytes; a longer limit than the body cuts nothing."""
    async with Api(script=[rule({"cut_after": 12}, times=1), rule({"cut_after": 30})]) as api:
        answer = await api.content("dir.txt")
        assert (answer.headers["content-length"], answer.content) == ("30", api.bytes_of("dir.txt")[:12])
        assert (await api.content("dir.txt")).content == api.bytes_of("dir.txt")


async def test_what_needs_a_socket_is_an_exception() -> None:
    """In process a reset is ConnectionResetError, and an end before any answer ConnectionAbortedError."""
    script = [rule({"reset_after": 0}, times=1), rule({"reset_after": 12}, times=1), rule({"cut_after": -1})]
    async with Api(script=script) as api:
        for error in (ConnectionResetError, ConnectionResetError, ConnectionAbortedError):
            with pytest.raises(error):
                await api.content("dir.txt")
        stats = await api.stats()
        assert [(entry["status"], entry["sent"]) for entry in stats["log"]] == [(None, 0), (200, 12), (None, 0)]


async def test_a_rate_limit_is_a_429_with_its_headers() -> None:
    """then.rate_limit: 429, a list of strings, and the headers that say until when, once."""
    limit = {"reset_s": 17, "name": "other", "limit": 5, "period": 3600}
    async with Api(script=[rule({"rate_limit": limit}, times=1)]) as api:
        answer = await api.get("/runs")
        assert answer.status_code == 429
        assert isinstance(answer.json()["errors"][0], str)
        told = {
            name.removeprefix("x-ratelimit-"): value
            for name, value in answer.headers.multi_items()
            if "ratelimit" in name
        }
        assert told == {"limit": "5", "period": "3600", "remaining": "0", "reset": "17", "name": "other"}
        assert len([name for name in answer.headers.multi_items() if name[0] == "x-ratelimit-reset"]) == 1
        assert (await api.get("/runs")).status_code == 200


async def test_html_is_a_login_page() -> None:
    """then.html: a page with 200, or with the status given."""
    async with Api(script=[rule({"html": True}, times=1), rule({"html": True, "status": 429})]) as api:
        for status in (200, 429):
            answer = await api.get("/runs")
            assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({}, "list of rules"),
        ([{"then": {}, "when": 1}], "'when'"),
        ([{"match": {"kind": "listings"}, "then": {}}], "match.kind"),
        ([{"match": {"path": "x"}, "then": {}}], "'path'"),
        ([{"match": {}, "then": {"status": "503"}}], "then.status"),
        ([{"match": {}, "then": {"stall": 1}}], "then.stall"),
        ([{"match": {}, "then": {"headers": {"a": 1}}}], "then.headers"),
        ([{"match": {}, "then": {"rate_limit": {}}}], "reset_s"),
        ([{"match": {}, "then": {"rate_limit": {"reset_s": 1, "names": ""}}}], "'names'"),
        ([{"match": {}, "then": {}, "times": "2"}], "rule.times"),
        ([{"match": {}}], "then is an object"),
    ],
)
def test_a_wrong_script_says_what_is_wrong(script: object, said: str) -> None:
    """FaultError names the field."""
    with pytest.raises(FaultError, match=said):
        Script.parse(script)
