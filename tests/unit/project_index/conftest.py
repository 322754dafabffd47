"""The run that the tests of the project index walk, and its service."""

import pytest
import trio

from artifactfs.tree.tree import Tree
from tests.fakes import FakeService, run
from tests.walking import many, mounted


@pytest.fixture
def service() -> FakeService:
    """A run of 40 directories of 3 files, four to ten to a parent, and a service that takes 20 ms."""
    service = FakeService(runs={1: run(1)}, latency_s=0.02)
    service.add_tree(1, many(40))
    return service


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return mounted(service, nursery)
