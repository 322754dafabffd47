"""artifactfs.fuse.operations: a change of the account while an answer is made (docs/semantics.md 6.3)."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from artifactfs.domain import Project
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.operations import Operations
from artifactfs.tree.nodes import GeneratedFile
from artifactfs.tree.tree import Tree
from tests.fakes import NOW_NS, FakeService, TurnedClock, described, run

CONTEXT: Any = SimpleNamespace(pid=0)


def fill(service: FakeService, name: str, count: int) -> None:
    service.runs = {number: run(number, "completed", name=name) for number in range(1, count + 1)}
    service.details = {number: described(each) for number, each in service.runs.items()}


@pytest.mark.parametrize("left", [0, 3])
async def test_a_table_is_of_one_account(left: int, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """6.3, 1.9: a table that is made of the runs of the account before is made again, of the other's runs."""
    service = FakeService(catalogue={10: Project(10, "vision", NOW_NS)})
    fill(service, "secret", 400)
    tree = Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)
    files: Any = None
    operations = Operations(tree, files, Ownership(0, 0), deadline_s=30.0, on_ready=lambda: None)
    number = 1
    for name in (b"projects", b"10"):
        number = (await operations.lookup(number, name, CONTEXT)).st_ino
    await operations.opendir(number, CONTEXT)
    found: list[int] = []

    async def look() -> None:
        found.append((await operations.lookup(number, b"runs.jsonl", CONTEXT)).st_ino)

    async with trio.open_nursery() as looking:
        looking.start_soon(look)
        for _ in range(2):
            await trio.lowlevel.checkpoint()
        assert not found
        fill(service, "other", left)
        tree.switch_account("test\0other")
        operations.switch_account()
    table = operations.inodes.node(found[0])
    assert isinstance(table, GeneratedFile)
    made = tree.contents_of(table)
    assert (made.count(b"secret"), made.count(b"other")) == (0, left)
