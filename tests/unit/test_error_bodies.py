"""artifactfs.modellab.streams: the beginning of an error's body."""

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab import streams
from tests.transports import ABANDONED, connect

pytestmark = pytest.mark.filterwarnings(ABANDONED)


@pytest.mark.parametrize(
    ("status", "kind"), [(404, errors.NotFound), (403, errors.AccessDenied), (400, errors.BadRequest)]
)
async def test_a_body_that_never_ends(status: int, kind: type[errors.ServiceError], autojump_clock: MockClock) -> None:
    """5.3: the status decides, and is there: nothing waits for the deadline."""

    async def stalling(_request: httpx.Request) -> httpx.Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"errors": ['
            await trio.sleep_forever()

        return httpx.Response(status, headers={"Content-Length": "100"}, content=pieces())

    transport, _ = connect(stalling, url="https://api.test")
    began = trio.current_time()
    with pytest.raises(kind):
        async with transport.get_buffered("run", "/runs/1", deadline_s=30):
            pass
    assert trio.current_time() - began < 3


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
