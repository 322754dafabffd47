"""The control plane: truth, digests, and changes of a lab that is being served."""

import hashlib
from collections.abc import AsyncIterator

import pytest

from artifactfs.emulator.artifact_tree import CREATED_AT
from tests.unit.test_emulator_middleware import RUN, Api


async def tree(api: Api, run: int = RUN) -> dict[str, int | None]:
    answer = await api.client.get("/_emulator/tree", params={"run": str(run)})
    found: dict[str, int | None] = answer.json()
    return found


async def changed(api: Api, **order: object) -> dict[str, int | None]:
    answer = await api.order("files", {"run": RUN, **order})
    assert answer.status_code == 200, answer.text
    return await tree(api)


async def test_tree_is_the_truth() -> None:
    """Every path with its size, null for directories, whatever the switches say."""
    async with Api(size_form="absent", slash="refused", depth="recursive", index="empty") as api:
        assert await tree(api) == {
            "big.bin": (3 << 20) + 5,
            "dir": None,
            "dir.txt": 30,
            "dir/a.txt": 10,
            "dir/sub": None,
            "dir/sub/b.bin": 20,
            "dirx": None,
            "dirx/c.txt": 40,
            "empty": None,
            "zero.bin": 0,
        }


@pytest.mark.parametrize("order", ["reset", "faults", "no-such-order"])
async def test_an_order_is_answered_once_it_has_arrived(order: str) -> None:
    """The body is read whether it is needed or not: an answer that comes before it would be lost to a reset."""
    read = False

    async def arriving() -> AsyncIterator[bytes]:
        nonlocal read
        yield b"["
        yield b"]"
        read = True

    async with Api() as api:
        await api.client.post(f"/_emulator/{order}", content=arriving())
    assert read


async def test_sha256_is_the_contents() -> None:
    """The digest is that of the bytes that the content endpoint sends."""
    async with Api() as api:
        answer = await api.client.get("/_emulator/sha256", params={"run": str(RUN), "path": "big.bin"})
        served = (await api.content("big.bin")).content
        assert answer.json() == {"sha256": hashlib.sha256(served).hexdigest(), "size": len(served)}


async def test_files_are_added_with_size_time_or_text() -> None:
    """add: a size, or an object; the time is reported in the index."""
    async with Api() as api:
        files = {"n/one": 5, "n/two": {"size": 6, "created_at": "2026-01-01T00:00:00Z"}, "n/three": {"text": "é"}}
        told = await changed(api, add=files)
        assert {path: told[path] for path in files} == {"n/one": 5, "n/two": 6, "n/three": 2}
        assert (await api.content("n/three")).text == "é"
        rows = (await api.get("/projects/10/artifacts")).json()["data"]["attributes"]["files"]
        times = {row["filename"]: row["created_at"] for row in rows}
        assert (times["one"], times["two"]) == (CREATED_AT, "2026-01-01T00:00:00Z")


async def test_files_change_grow_move_and_go() -> None:
    """change, append, rename, remove and mkdir do what they say, while the same app serves."""
    async with Api() as api:
        before = (await api.content("dir.txt")).content
        assert (await changed(api, change={"dir.txt": {"size": 31}}))["dir.txt"] == 31
        assert (await api.content("dir.txt")).content[:30] != before
        assert (await changed(api, append={"dir.txt": 9}))["dir.txt"] == 40
        assert "dir/sub/b.bin" not in await changed(api, remove=["dir/sub"])
        told = await changed(api, rename={"dir": "moved/dir"}, mkdir=["new/empty"])
        assert told["moved/dir/a.txt"] == 10
        assert told["new/empty"] is None
        assert "dir" not in told
        assert await api.paths("moved/dir/") == ["moved/dir/a.txt"]


async def test_big_shapes_are_one_order_each() -> None:
    """grid, wide and file make a run that was not there, in the project named."""
    async with Api() as api:
        await api.order("files", {"run": 9001, "grid": {"dirs": 10, "files": 4}})
        await api.order("files", {"run": 9001, "wide": 50})
        answer = await api.order("files", {"run": 9002, "project": 77, "file": "model/big.bin", "size": 1 << 40})
        told = await tree(api, 9001)
        assert len([path for path, size in told.items() if size is not None]) == 90
        assert await tree(api, 9002) == {"model": None, "model/big.bin": 1 << 40}
        assert (answer.json()["run"], answer.json()["project"]) == (9002, 77)
        assert (await api.get("/runs/9001")).json()["data"]["attributes"]["project_id"] == 9000
        assert (await api.get("/projects/77")).status_code == 200


async def test_a_run_is_made_finished_and_deleted() -> None:
    """runs: a run can be made running, finished, softly deleted (200 with deleted_at), and removed (404)."""
    async with Api() as api:

        async def told() -> dict[str, object]:
            attributes: dict[str, object] = (await api.get("/runs/5")).json()["data"]["attributes"]
            return attributes

        await api.order("runs", {"run": 5, "project": 10, "set": {"status": "running", "name": "mine"}})
        assert "completed_at" not in await told()
        end = "2026-11-01T00:00:00Z"
        await api.order("runs", {"run": 5, "set": {"status": "completed", "completed_at": end, "updated_at": end}})
        assert ((await told())["completed_at"], (await told())["name"]) == (end, "mine")
        await api.order("runs", {"run": 5, "unset": ["completed_at"]})
        assert "completed_at" not in await told()
        await api.order("runs", {"run": 5, "delete": True})
        assert (await told())["deleted_at"]
        await api.order("runs", {"run": 5, "remove": True})
        assert (await api.get("/runs/5")).status_code == 404


async def test_switches_are_patched_and_reported() -> None:
    """POST switches sets what it names and answers with all; GET tells them."""
    async with Api(slash="refused") as api:
        told = (await api.order("switches", {"depth": "recursive"})).json()
        assert (told["slash"], told["depth"]) == ("refused", "recursive")
        assert (await api.client.get("/_emulator/switches")).json() == told


async def test_a_script_is_replaced() -> None:
    """POST faults puts the new script in the place of the old one; an empty one ends all faults."""
    async with Api() as api:
        for script, status in (([{"match": {}, "then": {"status": 500}}], 500), ([], 200)):
            await api.order("faults", script)
            assert (await api.get("/runs")).status_code == status


async def test_control_is_neither_counted_nor_harmed() -> None:
    """No keys, no faults and no counts on the control plane."""
    async with Api(script=[{"match": {}, "then": {"status": 500}}]) as api:
        api.client.headers.clear()
        assert (await api.client.get("/_emulator/stats")).status_code == 200
        assert (await api.stats())["total"] == 0


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("switches", {"slash": "no"}, "any, required, refused"),
        ("switches", [], "is an object"),
        ("faults", {}, "list of rules"),
        ("files", {"add": {"x": 1}}, "run is a number"),
        ("files", {"run": RUN, "ad": {"x": 1}}, "'ad'"),
        ("files", {"run": RUN, "add": {"dir": 1}}, "is a directory"),
        ("files", {"run": RUN, "add": {"x": -1}}, "a size"),
        ("files", {"run": RUN, "remove": "x"}, "list of strings"),
        ("files", {"run": RUN, "grid": {"dirs": 1}}, "grid.files"),
        ("runs", {"run": RUN, "status": "running"}, "'status'"),
        ("runs", {"run": 404, "remove": True}, "no run 404"),
        ("nothing", {}, "no POST nothing"),
    ],
)
async def test_a_wrong_order_says_what_is_wrong(name: str, body: object, said: str) -> None:
    """A control request that makes no sense is 400 with a sentence."""
    async with Api() as api:
        before = await tree(api)
        answer = await api.order(name, body)
        assert answer.status_code == 400
        assert said in answer.json()["error"]
        assert await tree(api) == before


async def test_a_body_that_is_no_json_says_so() -> None:
    """A control request whose body cannot be decoded is 400, not 500."""
    async with Api() as api:
        answer = await api.client.post("/_emulator/faults", content=b"{")
        assert (answer.status_code, "not JSON" in answer.json()["error"]) == (400, True)
        assert (await api.client.get("/_emulator/tree?run=404")).status_code == 400
        assert (await api.client.get(f"/_emulator/sha256?run={RUN}&path=none")).status_code == 400


async def test_other_keys_are_let_in() -> None:
    """POST keys changes those that it names; the ones before are refused from then on, with the switch's status."""
    async with Api() as api:
        assert (await api.order("keys", {"app_key": "new"})).status_code == 200
        assert (await api.get("/runs")).status_code == 403
        await api.order("switches", {"keys_refused": "401"})
        assert (await api.get("/runs")).status_code == 401
        api.client.headers["DD-APPLICATION-KEY"] = "new"
        assert (await api.get("/runs")).status_code == 200
        bad: list[object] = [{"key": "x"}, {"api_key": 1}, {"api_key": ""}, {"api_key": "\u00e9"}, []]
        for order in bad:
            assert (await api.order("keys", order)).status_code == 400
        assert (await api.get("/runs")).status_code == 200
