"""artifactfs.modellab.client: runs whose paths begin with `/` or `./`, beside runs whose paths do not."""

from contextlib import suppress

import httpx
import pytest
from trio.testing import MockClock

from artifactfs import errors
from tests.unit.test_client import Handler, connect, listing

# The keys of each run, as an object storage holds them.
KEYS = {
    1: ["model/w.pt", "model/cfg.json", "logs/a.log"],
    2: ["./odd/f.bin", "plain.txt"],
    3: ["/abs/x", "/abs/y"],
    4: ["model/w.pt", "./odd/f.bin", "/abs/x"],
}
# What the directories of each run hold.
TRUTH = {
    1: {"": ["model", "logs"], "model": ["w.pt", "cfg.json"], "logs": ["a.log"]},
    2: {"": ["odd", "plain.txt"], "odd": ["f.bin"]},
    3: {"": ["abs"], "abs": ["x", "y"]},
    4: {"": ["model", "odd", "abs"], "model": ["w.pt"], "odd": ["f.bin"], "abs": ["x"]},
}


def storage(recursive: bool) -> Handler:
    """Return a server that looks `path` up as a raw prefix of its keys."""

    def handler(request: httpx.Request) -> httpx.Response:
        run, prefix = int(request.url.path.split("/")[-2]), request.url.params.get("path", "")
        rows = {}
        for key in KEYS[run]:
            lead = key[: len(key) - len(key.lstrip("./"))]
            start = max(len(prefix), len(lead))
            name, is_deeper, _ = key[start:].partition("/")
            is_dir = bool(is_deeper) and not recursive
            path = key[:start] + name + "/" if is_dir else key
            if key.startswith(prefix):
                rows[path] = {"path": path, "is_dir": is_dir} | ({} if is_dir else {"file_size": 3})
        return listing(*rows.values())

    return handler


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("runs", [(1, 2, 3, 4), (2, 1, 4, 3), (4, 3, 2, 1), (3, 1, 2, 4)])
async def test_each_run_has_its_own_prefixes(runs: tuple[int, ...], recursive: bool, autojump_clock: MockClock) -> None:
    """1.1, 1.3: what is in front of one run's paths empties no directory of another run, nor of the same run."""
    lab, _ = connect(storage(recursive))
    # All roots first, then all directories: twice, since the first time teaches.
    places = [(run, "") for run in runs] + [(run, path) for run in runs for path in TRUTH[run] if path]
    for run, path in places * 2:
        found = await lab.list_directory(run, path)
        assert [name.decode() for name in found.children.by_name] == TRUTH[run][path], (run, path)


async def test_a_prefix_costs_requests_in_its_own_run_only(autojump_clock: MockClock) -> None:
    """7: one run with `./` in front costs the directories of other runs nothing, empty ones included."""
    lab, server = connect(storage(False))
    for run, path in ((1, ""), (1, "model"), (2, ""), (2, "odd"), (3, ""), (3, "abs")):
        await lab.list_directory(run, path)
    server.requests.clear()
    for run, path in ((1, "logs"), (1, "gone"), (2, "odd"), (2, "gone"), (3, "abs")):
        await lab.list_directory(run, path)
    assert [request.url.params["path"] for request in server.requests] == [
        "logs/", "gone/", "./odd/", "./gone/", "/abs/",
    ]  # fmt: skip


@pytest.mark.parametrize("status", [200, 400, 404])
async def test_the_root_was_listed_by_an_earlier_mount(status: int, autojump_clock: MockClock) -> None:
    """8.2: where the store had the root of a run, its prefixes are asked for before a directory counts as empty."""
    answer = storage(False)

    def handler(request: httpx.Request) -> httpx.Response:
        found = answer(request)
        return found if found.json()["data"]["attributes"]["files"] else httpx.Response(status)

    lab, server = connect(answer if status == 200 else handler)
    for run, path in ((2, "odd"), (3, "abs"), (4, "odd"), (4, "model"), (1, "model")):
        found = await lab.list_directory(run, path)
        assert [name.decode() for name in found.children.by_name] == TRUTH[run][path], (run, path)
    server.requests.clear()
    for _ in range(2):
        with suppress(errors.ServiceError):
            assert not (await lab.list_directory(1, "gone")).children.by_name
    # The root once.
    assert [request.url.params.get("path") for request in server.requests] == ["gone/", None, "gone/"]


@pytest.mark.parametrize("status", [400, 404])
async def test_a_refused_prefix_is_no_failure(status: int, autojump_clock: MockClock) -> None:
    """1.1: where a server refuses a path with the wrong prefix, the directory is listed by the right one."""
    answer = storage(False)

    def handler(request: httpx.Request) -> httpx.Response:
        found = answer(request)
        return found if found.json()["data"]["attributes"]["files"] else httpx.Response(status)

    lab, _ = connect(handler)
    for run, path in ((1, ""), (1, "model"), (4, ""), (4, "odd"), (4, "model"), (4, "abs"), (1, "logs")):
        found = await lab.list_directory(run, path)
        assert [name.decode() for name in found.children.by_name] == TRUTH[run][path], (run, path)
