"""Samples, failures and timed looks for the tests of the project index."""

from collections.abc import Sequence

import trio

from artifactfs.tree.tree import Tree
from tests.fakes import FakeService
from tests.walking import node

FEW = 9  # requests that a walk by the index costs at most


def sample(service: FakeService, *paths: str) -> list[Sequence[str]]:
    """Have these directories chosen in place of any; returns what there was to choose from."""
    offered: list[Sequence[str]] = []

    def choose(among: list[str], how_many: int) -> list[str]:
        assert how_many <= len(among)
        offered.append(among)
        return [path for path in paths if path in among]

    service.choose = choose
    return offered


def refuse(service: FakeService, error: Exception | None) -> None:
    """Have the index fail with an error, or no more."""
    service.refusals.pop(("index", "10"), None)
    if error is not None:
        service.refusals["index", "10"] = error


async def looks(tree: Tree, *paths: str) -> list[float]:
    """Look at directories one after the other; returns how long each took."""
    took = []
    for path in paths:
        place = await node(tree, 1, path)
        began = trio.current_time()
        await tree.contents(place)
        took.append(round(trio.current_time() - began, 3))
    return took
