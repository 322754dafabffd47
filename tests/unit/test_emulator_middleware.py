"""What every request passes, in process; and `Api`, with which the other emulator tests ask."""

import ast
from importlib import resources
from types import TracebackType
from typing import Any

import httpx
import pytest
import trio

from artifactfs.emulator.app import API, create_app
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.faults import Script
from artifactfs.emulator.lab_state import Emulator, Keys
from artifactfs.emulator.model import Lab, Run
from artifactfs.emulator.switches import Switches

RUN, PROJECT = 1, 10
KEYS = {"DD-API-KEY": "demo-api-key", "DD-APPLICATION-KEY": "demo-app-key"}


def small_lab() -> Lab:
    """A lab of one run that has everything a listing can show, namesakes included."""
    lab = Lab()
    tree = MemoryTree("test")
    for path, size in (
        ("big.bin", (3 << 20) + 5),
        ("dir/a.txt", 10),
        ("dir/sub/b.bin", 20),
        ("dir.txt", 30),
        ("dirx/c.txt", 40),
        ("zero.bin", 0),
    ):
        tree.add(path, size)
    tree.mkdir("empty")
    lab.create(RUN, PROJECT, tree)
    return lab


class Api:
    """A client of an emulator in process. Use as an async context."""

    def __init__(self, lab: Lab | None = None, script: object = (), **switches: object) -> None:
        parsed = Script.parse(list(script) if isinstance(script, tuple) else script)
        app = create_app(lab or small_lab(), Switches().changed(switches), script=parsed)
        self.emulator: Emulator = app.state.emulator
        transport = httpx.ASGITransport(app=app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://lab", headers=KEYS)

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()

    @property
    def run(self) -> Run:
        """The run that small_lab has."""
        run = self.emulator.lab.run(RUN)
        assert run is not None
        return run

    async def get(self, path: str, headers: dict[str, str] | None = None, /, **query: str) -> httpx.Response:
        """GET below the API's prefix."""
        return await self.client.get(API + path, params=query, headers=headers)

    async def files(self, path: str | None = None) -> Any:
        """The decoded `files` of the run's listing."""
        query = {} if path is None else {"path": path}
        answer = await self.get(f"/runs/{RUN}/artifacts", **query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["attributes"].get("files")

    async def paths(self, path: str | None = None) -> list[str]:
        """The paths in the run's listing."""
        return [row["path"] for row in await self.files(path)]

    async def content(self, path: str, range_: str | None = None, **headers: str) -> httpx.Response:
        """The content endpoint's answer for a file of the run."""
        if range_ is not None:
            headers["Range"] = range_
        query = {"project_id": str(self.run.project), "artifact_path": f"{self.run.prefix}/{path}"}
        return await self.get("/artifacts/content", headers, **query)

    def bytes_of(self, path: str) -> bytes:
        """A file's true content."""
        file = self.run.tree.find(path)
        assert file is not None
        return b"".join(self.run.tree.read(path, file, 0, file.size))

    async def order(self, name: str, body: object) -> httpx.Response:
        """POST to the control plane."""
        return await self.client.post(f"/_emulator/{name}", json=body)

    async def stats(self) -> Any:
        """The decoded statistics."""
        return (await self.client.get("/_emulator/stats")).json()


def test_the_emulator_shares_no_code_with_the_client() -> None:
    """No module of the emulator imports anything of artifactfs but the emulator."""
    for entry in resources.files("artifactfs.emulator").iterdir():
        if entry.name.endswith(".py"):
            for node in ast.walk(ast.parse(entry.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    assert not node.level
                    names = [node.module or ""]
                ours = [name for name in names if name.split(".")[0] == "artifactfs"]
                assert all(name.startswith("artifactfs.emulator") for name in ours), entry.name


@pytest.mark.parametrize(
    "headers", [{"DD-API-KEY": "wrong"}, {"DD-APPLICATION-KEY": ""}, {"Authorization": "Bearer no"}]
)
async def test_a_wrong_key_is_refused(headers: dict[str, str]) -> None:
    """Any wrong credential is 403 with the recorded kind of body."""
    async with Api() as api:
        answer = await api.get("/runs", headers)
        assert (answer.status_code, answer.json()) == (403, {"errors": ["Forbidden"]})


async def test_a_bearer_token_is_enough() -> None:
    """The access token is let in without the two keys."""
    async with Api() as api:
        app = create_app(small_lab(), keys=Keys(access_token="other"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://lab") as client:
            assert (await client.get(API + "/runs")).status_code == 403
            answer = await client.get(API + "/runs", headers={"Authorization": "Bearer other"})
            assert answer.status_code == 200
        assert (await api.stats())["total"] == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "PATCH"])
async def test_only_get_is_allowed(method: str) -> None:
    """Every other method is 405, whatever the path, and is counted."""
    async with Api() as api:
        for path in ("/runs", f"/runs/{RUN}", "/artifacts/content"):
            assert (await api.client.request(method, API + path)).status_code == 405
        assert (await api.stats())["total"] == 3


async def test_requests_are_counted_by_kind_failing_ones_too() -> None:
    """The statistics count each request under its kind, and control requests not at all."""
    async with Api() as api:
        await api.get(f"/runs/{RUN}")
        await api.get("/runs/404")
        await api.files()
        await api.get("/runs", {"DD-API-KEY": "wrong"})
        await api.get("/nowhere")
        await api.content("dir/a.txt")
        stats = await api.stats()
        assert stats["requests"] == {"run": 2, "listing": 1, "runs": 1, "other": 1, "content": 1}
        assert stats["total"] == 6
        assert stats["content_bytes"] == 10
        assert [entry["status"] for entry in stats["log"]] == [200, 404, 200, 403, 404, 200]


async def test_the_log_tells_a_request_as_sent_and_decoded() -> None:
    """An entry has the raw query, the values decoded once, the range, and whether credentials came along."""
    async with Api() as api:
        await api.client.get(f"{API}/runs/{RUN}/artifacts?path=a%2525%2Bb+c", headers={"Range": "bytes=1-2"})
        (entry,) = (await api.stats())["log"]
        assert entry["query"] == "path=a%2525%2Bb+c"
        assert entry["args"] == {"path": "a%25+b c"}
        assert (entry["range"], entry["keys"], entry["kind"]) == ("bytes=1-2", True, "listing")


async def test_reset_forgets_what_was_asked() -> None:
    """POST reset zeroes counts and log."""
    async with Api() as api:
        await api.files()
        await api.order("reset", {})
        stats = await api.stats()
        assert (stats["total"], stats["requests"], stats["log"], stats["peak"]) == (0, {}, [], 0)


async def test_peak_is_the_most_in_flight(autojump_clock: object) -> None:
    """Three requests at once are a peak of three, and none is in flight afterwards."""
    async with Api(latency_s=1.0) as api:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(api.files)
        stats = await api.stats()
        assert (stats["peak"], stats["in_flight"]) == (3, 0)


async def test_latency_delays_every_answer_but_the_control_planes(autojump_clock: object) -> None:
    """latency_s is the time to an answer of the API; the control plane answers at once."""
    async with Api(latency_s=5.0) as api:
        before = trio.current_time()
        await api.stats()
        assert trio.current_time() == before
        await api.files()
        assert trio.current_time() - before == pytest.approx(5.0)


async def test_rate_limit_headers_count_down_within_a_minute() -> None:
    """X-RateLimit headers are on every answer, errors too; Reset is the seconds until the calendar minute ends."""
    async with Api() as api:
        now = 120.0 * 60 + 45
        api.emulator.clock = lambda: now
        first = (await api.get("/runs/404")).headers
        assert (first["x-ratelimit-reset"], first["x-ratelimit-remaining"]) == ("15", "5999")
        assert (await api.get("/runs")).headers["x-ratelimit-remaining"] == "5998"
        now += 20
        later = (await api.get("/runs")).headers
        assert (later["x-ratelimit-reset"], later["x-ratelimit-remaining"]) == ("55", "5999")
        assert {"x-ratelimit-limit", "x-ratelimit-period", "x-ratelimit-name"} <= set(later)


async def test_rate_limit_headers_can_be_off() -> None:
    """rate_limit_headers=false leaves them out."""
    async with Api(rate_limit_headers=False) as api:
        assert not [name for name in (await api.get("/runs")).headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize(
    ("form", "type_", "body"),
    [
        ("object", "application/json", b'{"errors":[{"title":"Generic Error","detail":"run not found"}]}'),
        ("strings", "application/json", b'{"errors":["run not found"]}'),
        ("title_only", "application/json", b'{"errors":[{"title":"run not found"}]}'),
        ("html", "text/html; charset=utf-8", None),
        ("empty", None, b""),
        ("nonsense", "application/json", None),
    ],
)
async def test_error_form(form: str, type_: str | None, body: bytes | None) -> None:
    """error_form decides the body of an error and its type, never its status."""
    async with Api(error_form=form) as api:
        answer = await api.get("/runs/404")
        assert (answer.status_code, answer.headers.get("content-type")) == (404, type_)
        if body is not None:
            assert answer.content == body
        if form == "nonsense":
            with pytest.raises(ValueError):
                answer.json()


async def test_a_documented_error_tells_its_status() -> None:
    """A 400 is a list of objects with title, detail and status."""
    async with Api() as api:
        answer = await api.get("/runs/abc")
        (told,) = answer.json()["errors"]
        assert (answer.status_code, set(told), told["status"]) == (400, {"title", "detail", "status"}, "400")
