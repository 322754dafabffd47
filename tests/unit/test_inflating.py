"""artifactfs.modellab.streams: what a body is inflated to."""

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs.modellab import streams
from tests.transports import ABANDONED

pytestmark = pytest.mark.filterwarnings(ABANDONED)


async def test_many_pieces_of_one_chunk_take_turns(autojump_clock: MockClock) -> None:
    """5.1: what a small chunk is inflated to stops nothing else: other tasks have their turns between its pieces."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    empty = gzip.compress(b"")

    async def chunk() -> AsyncIterator[bytes]:
        yield empty * 1000

    response = httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=chunk())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        assert b"".join([piece async for piece in streams.decoded(response)]) == b""
        nursery.cancel_scope.cancel()
    assert turns > 100
