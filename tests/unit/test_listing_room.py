"""artifactfs.modellab: what bodies that are kept whole hold together, and what is left of a refused one (6.4)."""

import gc
import io
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs import errors
from artifactfs.modellab import models, streams
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.size_limits import SizeLimits
from artifactfs.modellab.streams import BodyMemory
from tests.transports import connect

MIB = 1 << 20
OPEN = b'{"data":{"attributes":{"path_in_project":"p","files":['
CLOSE = b"]}}}"


async def test_the_oldest_goes_on(autojump_clock: MockClock) -> None:
    """6.4: the oldest body takes what it needs; all others share what there is, and are next when it is done."""
    room = BodyMemory(10)
    oldest, second, third = (io.BytesIO() for _ in range(3))
    await room.append(oldest, bytes(1000), 0.0)
    await room.append(second, bytes(6), 0.0)
    await room.append(third, bytes(4), 0.0)
    done = []

    async def more(body: io.BytesIO, name: str) -> None:
        await room.append(body, bytes(100), 30.0)
        done.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(more, third, "third")
        nursery.start_soon(more, second, "second")
        await wait_all_tasks_blocked()
        assert done == []
        await more(oldest, "oldest")
        room.release(oldest)
        await wait_all_tasks_blocked()
        assert done == ["oldest", "second"]
        room.release(second)
        await wait_all_tasks_blocked()
        assert done == ["oldest", "second", "third"]
        assert third.getvalue() == bytes(104)


async def test_a_body_that_has_nothing_yet_waits_too(autojump_clock: MockClock) -> None:
    """6.4: the first piece of a body counts like any."""
    room = BodyMemory(10)
    oldest, other = io.BytesIO(), io.BytesIO()
    await room.append(oldest, b"x", 0.0)
    with pytest.raises(errors.TimedOut, match="took all the memory"):
        await room.append(other, bytes(11), 5.0)
    assert trio.current_time() == 5.0
    room.release(oldest)
    await room.append(other, bytes(11), 0.0)


class Slow(httpx.AsyncByteStream):
    """A body of two halves; the second comes when `go_on` is set."""

    def __init__(self, half: bytes, go_on: trio.Event) -> None:
        self._half = half
        self._go_on = go_on

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._half
        await self._go_on.wait()
        yield self._half


async def test_a_listing_waits_for_others(autojump_clock: MockClock) -> None:
    """6.4: a listing that needs more than is left waits until another is done, within its deadline; then says so."""
    events = [trio.Event() for _ in range(3)]
    found: list[object] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        number = int(request.url.path[1:])
        return httpx.Response(200, stream=Slow(bytes(900), events[number]))

    sender, _ = connect(answer, sizes=SizeLimits(shared_bytes=1000, small_bytes=0))

    async def get(number: int, deadline_s: float) -> None:
        try:
            found.append(len(await sender.get("listing", f"/{number}", deadline_s=deadline_s)))
        except errors.TimedOut as error:
            found.append(str(error))

    async with trio.open_nursery() as nursery:
        for number, deadline_s in enumerate((60, 60, 5)):
            nursery.start_soon(get, number, deadline_s)
            await wait_all_tasks_blocked()
        events[1].set()
        events[2].set()
        await trio.sleep(6)
        assert found == ["other large listings took all the memory that there is for them"]
        events[0].set()
    assert found[1:] == [1800, 1800]


# --- what is left ------------------------------------------------------------------------------------------


def bomb(size_mib: int, start: bytes = b"", end: bytes = b"") -> httpx.Response:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    packed = packer.compress(start) + b"".join(packer.compress(b" " * MIB) for _ in range(size_mib))
    return httpx.Response(
        200, headers={"Content-Encoding": "gzip"}, stream=Whole(packed + packer.compress(end) + packer.flush())
    )


class Whole(httpx.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


REFUSED: dict[str, tuple[Callable[[], httpx.Response], type[Exception]]] = {
    "too large": (lambda: bomb(4), errors.AnswerTooLarge),
    "no JSON": (lambda: bomb(1), errors.UnexpectedAnswer),
    "JSON, and no listing": (lambda: bomb(1, b'{"data":', b"[]}"), errors.UnexpectedAnswer),
    "too many rows": (lambda: bomb(1, OPEN + b"{\"path\":\"x\"}," * 10_000, b"{}" + CLOSE), errors.AnswerTooLarge),
    "cut": (lambda: bomb(1, OPEN), errors.UnexpectedAnswer),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_listing_keeps_nothing(name: str, autojump_clock: MockClock) -> None:
    """6.4: an exception, which others may keep, keeps nothing of the listing that was refused."""
    # Small, and above what three kept answers may take.
    sizes = SizeLimits(body_bytes=2 * MIB, rows=5_000)
    make, kind = REFUSED[name]

    async def answer(_request: httpx.Request) -> httpx.Response:
        return make()

    sender, _ = connect(answer, sizes=sizes)
    lab = ModelLab(sender, deadline_s=30, sizes=sizes)
    kept: list[BaseException] = []
    gc.collect()
    gc.disable()  # what only a cycle keeps is kept for a while, too
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            try:
                await lab.list_directory(1, "")
            except errors.ServiceError as error:
                kept.append(error)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert [type(error) for error in kept] == [kind] * 3
    assert after - before < MIB, sys.getrefcount(kept)


@pytest.mark.parametrize(
    "filler", [b"[],", b"{},", b"0,", b'"",', b'{"path":1},'], ids=["lists", "objects", "numbers", "texts", "rows"]
)
async def test_many_values_are_not_made(filler: bytes, autojump_clock: MockClock) -> None:
    """6.4: values are counted before they are made: 3 bytes each in JSON, 64 in memory."""
    sizes = SizeLimits(uncounted_bytes=MIB, rows=10_000)
    body = OPEN + filler * (3 * MIB // len(filler)) + b"0" + CLOSE

    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body)

    sender, _ = connect(answer)
    tracemalloc.start()
    try:
        with pytest.raises(errors.AnswerTooLarge):
            await ModelLab(sender, deadline_s=30, sizes=sizes).list_directory(1, "")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * MIB


def test_a_large_answer_is_what_the_schema_says() -> None:
    """6.4: what is not, and larger than the bound, is not looked at closer, which takes several times its size."""
    row = b'{"path":"a","is_dir":false},'
    assert len(models.decode_run_listing(OPEN + row * 100 + row[:-1] + CLOSE, 100).files) == 101
    with pytest.raises(errors.UnexpectedAnswer, match="too large to look closer"):
        models.decode_run_listing(OPEN + row * 100 + b"0" + CLOSE, 100)


async def test_a_value_is_not_a_copy() -> None:
    """6.4: a body is in memory once: the value is the buffer's own bytes."""
    room, body = BodyMemory(0), io.BytesIO()
    await room.append(body, bytes(streams._MAX_PIECE_BYTES), 0.0)
    await room.append(body, b"x", 0.0)
    assert body.getvalue() is body.getvalue()
