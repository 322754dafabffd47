"""A cache of values that a source gives, and its clock."""

from functools import partial

import pytest
import trio

from tests.fakes import TurnedClock
from tests.swr_caches import Make, Source, cache_of


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
async def make(nursery: trio.Nursery, source: Source, clock: TurnedClock) -> Make:
    return partial(cache_of, source, nursery, clock=clock, weight=lambda value: value)
