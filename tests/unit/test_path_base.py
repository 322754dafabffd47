"""artifactfs.modellab.client: what paths are relative to, learned from listings that may mislead."""

import httpx
import pytest
from trio.testing import MockClock

from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.listing_dialects import PathBase
from tests.unit.test_client import connect, listing

# A run as a server tells all of it, whatever `path` is.
ROWS: list[dict[str, object]] = [
    {"path": "model", "is_dir": True},
    {"path": "model/w.pt", "file_size": 3},
    {"path": "logs", "is_dir": True},
    {"path": "logs/a.log", "file_size": 3},
    {"path": "empty", "is_dir": True},
    {"path": "a.txt", "file_size": 1},
]


async def names(lab: ModelLab, path: str) -> list[str]:
    found = await lab.list_directory(1, path)
    return [name.decode() for name in found.children.by_name]


@pytest.mark.parametrize("order", [("model", "empty", "logs"), ("model", "logs", "empty")])
async def test_an_empty_directory_of_a_server_that_ignores_the_path(
    order: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """1.1, form 2: the whole run in answer to an empty directory makes no children of it: the tree has an end."""
    lab, _ = connect(lambda _request: listing(*ROWS))
    assert await names(lab, "") == ["model", "logs", "empty", "a.txt"]
    expected = {"model": ["w.pt"], "logs": ["a.log"], "empty": []}
    for path in order * 2:
        assert await names(lab, path) == expected[path]


async def test_a_base_that_two_directories_have_shown_stays(autojump_clock: MockClock) -> None:
    """1.1, form 2: after that, rows from elsewhere are no children: of a directory that is gone, or a namesake's."""
    lab, _ = connect(lambda _request: listing(*ROWS, {"path": "gonex", "file_size": 1}))
    for path in ("", "model", "logs"):
        await names(lab, path)
    assert await names(lab, "gone") == []
    assert await names(lab, "model/gone") == []
    assert await names(lab, "model") == ["w.pt"]
    assert lab.dialect.base is PathBase.ROOT


@pytest.mark.parametrize("gone", ["gone", "model/gone", "logsx"])
@pytest.mark.parametrize("before", [(), ("model",)])
async def test_a_directory_that_is_gone_before_the_base_is_proven(
    before: tuple[str, ...], gone: str, autojump_clock: MockClock
) -> None:
    """1.1, form 2: the whole run in answer to a directory that is gone is nothing of it, and teaches nothing wrong."""
    lab, server = connect(lambda _request: listing(*ROWS))
    for path in ("", *before):
        await names(lab, path)
    assert await names(lab, gone) == []
    assert await names(lab, "model") == ["w.pt"]
    assert await names(lab, "logs") == ["a.log"]
    asked = len(server.requests)
    assert await names(lab, "gone") == []
    assert len(server.requests) - asked <= 2


async def test_paths_that_are_relative_to_the_directory_cost_one_request(autojump_clock: MockClock) -> None:
    """7: the first directory of such a server is compared with the root of its run, and no other."""
    tree = {"": ["a/", "b/", "x"], "a": ["x"], "b": ["a/", "x"], "b/a": ["x"]}

    def handler(request: httpx.Request) -> httpx.Response:
        rows = tree[request.url.params.get("path", "").rstrip("/")]
        return listing(*({"path": path, "is_dir": path.endswith("/")} for path in rows))

    lab, server = connect(handler)
    for path in ("", "a", "b", "b/a"):
        assert await names(lab, path) == [name.rstrip("/") for name in tree[path]]
    assert [request.url.params.get("path", "") for request in server.requests] == ["", "a/", "", "b/", "b/a/"]


@pytest.mark.parametrize("is_refused", [True, False])
async def test_a_directory_with_the_names_of_the_root(is_refused: bool, autojump_clock: MockClock) -> None:
    """1.1, form 2: a run that was copied into itself is not taken for one whose server ignores `path`."""
    tree = {"": ["data/", "a"], "data": ["data/", "a"], "data/data": ["x"], "other": ["y"]}

    def handler(request: httpx.Request) -> httpx.Response:
        rows = tree.get(request.url.params.get("path", "").rstrip("/"))
        if rows is None and is_refused:
            return httpx.Response(404, json={"errors": []})
        return listing(*({"path": path, "is_dir": path.endswith("/"), "file_size": 1} for path in rows or ()))

    lab, _ = connect(handler)
    for path in ("", "data", "data/data", "other", "data"):
        assert await names(lab, path) == [name.rstrip("/") for name in tree[path]]


async def test_a_directory_that_holds_its_namesake_misleads_once(autojump_clock: MockClock) -> None:
    """1.1, form 2: where paths are relative to the directory, `data/x` in `data` misleads until the next answer."""
    tree = {"data": ["data/x"], "other": ["y"], "data/data": ["x"]}

    def handler(request: httpx.Request) -> httpx.Response:
        rows = tree.get(request.url.params.get("path", "").rstrip("/"), ["data/data/x", "other/y"])
        return listing(*({"path": path, "file_size": 1} for path in rows))

    lab, _ = connect(handler)
    for path in ("", "data", "other"):
        await names(lab, path)
    assert lab.dialect.base is PathBase.DIRECTORY
    assert await names(lab, "data") == ["data"]
    assert await names(lab, "data/data") == ["x"]
    assert await names(lab, "other") == ["y"]
