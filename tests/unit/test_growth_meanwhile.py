"""artifactfs.content: a version grows while answers, or other proofs, are on their way (semantics.md 2.4, 4.1, 5.1)."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.open_files import OpenFileTable
from artifactfs.content.reader import OpenFile
from artifactfs.domain import ArtifactRef, Chunk, ContentBody, ContentVersion, Room
from tests.content_harness import BLOCK, DEADLINE_S, GLANCE, Bench, Broken, Server, bench, noise

T = TypeVar("T")

OTHER = noise(100 * BLOCK, seed=3)
WHOLE = noise(100 * BLOCK)


def version(size: int, *, settled: bool = False, is_listed: bool = True) -> ContentVersion:
    return ContentVersion(ArtifactRef("10", "p/log.txt"), size, settled=settled, lineage=7, is_listed=is_listed)


async def contents(made: Bench, handle: OpenFile) -> bytes:
    """Read and close a file."""
    try:
        return await made.read_whole(handle)
    finally:
        handle.close()


@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
@pytest.mark.parametrize("says_total", [True, False], ids=["total", "no total"])
@pytest.mark.parametrize("validators", [True, False], ids=["validators", "none"])
async def test_an_answer_that_has_its_head_alone(
    granted: bool, says_total: bool, validators: bool, autojump_clock: MockClock
) -> None:
    """2.4, 4.1: where a file is replaced by a larger one before its first byte comes, no reader gets bytes of both."""
    server = Server(WHOLE[:3000], granted=granted, told=says_total, pause_s=1.0)
    if validators:
        server.validator = lambda: b"%16d" % len(server.data)
    async with bench(server) as made, trio.open_nursery() as nursery:

        async def read() -> None:
            assert await contents(made, await made.files.open(version(3000))) == OTHER[:9000]

        nursery.start_soon(read)
        await trio.sleep(0.5)
        assert len(server.asked) == server.open_bodies == 1
        server.data = OTHER[:9000]
        assert await contents(made, await made.files.open(version(9000))) == OTHER[:9000]


async def test_a_file_that_is_fetched_ahead(autojump_clock: MockClock) -> None:
    """2.4, 4.5: what was on its way ahead of its reader when the file was replaced by a larger one does not count."""
    server = Server(WHOLE[:900], pause_s=1.0)
    async with bench(server) as made:
        made.nursery.start_soon(made.files.fetch_ahead, version(900))
        await trio.sleep(0.5)
        server.data = OTHER[:9000]
        assert await contents(made, await made.files.open(version(9000))) == OTHER[:9000]


async def test_an_answer_for_what_follows_the_known_bytes(autojump_clock: MockClock) -> None:
    """2.4, 4.1: the rest of a smaller file that begins as the larger one does is not taken for the larger one's."""
    server = Server(WHOLE[: 4 * BLOCK])
    async with bench(server) as made, trio.open_nursery() as nursery:
        handle = await made.files.open(version(4 * BLOCK))
        server.pause_s = 1.0
        larger = WHOLE[:GLANCE] + OTHER[GLANCE : 9 * BLOCK]

        async def read() -> None:
            found = await handle.read(2 * BLOCK, 2 * BLOCK)
            assert found == larger[2 * BLOCK : 4 * BLOCK]

        nursery.start_soon(read)
        await trio.sleep(0.5)
        server.data, server.pause_s = larger, 0.0
        await handle.grow(version(9 * BLOCK))
        assert await contents(made, handle) == larger


async def test_bytes_that_come_while_the_size_is_asked(autojump_clock: MockClock) -> None:
    """2.4: where no listing gives the size, what readers get while contents are asked for it is compared, too."""
    server = Server(WHOLE[:3000], pause_s=1.0)
    async with bench(server) as made, trio.open_nursery() as nursery:

        async def read() -> None:
            handle = await made.files.open(version(3000, is_listed=False))
            assert await handle.read(0, 10) == WHOLE[:10]
            with pytest.raises(errors.Superseded):
                await contents(made, handle)

        nursery.start_soon(read)
        await trio.sleep(0.5)
        server.data = OTHER[:9000]
        made.files.expire_sizes()
        with pytest.raises(errors.Superseded):
            await made.files.open(version(3000, is_listed=False))


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "appended to"])
async def test_bytes_that_come_while_growth_is_proven(replaced: bool, autojump_clock: MockClock) -> None:
    """2.4: what readers get meanwhile of an answer that was on its way is compared with the larger file, too."""
    server = Server(WHOLE[: 20 * BLOCK])
    async with bench(server) as made, trio.open_nursery() as nursery:
        handle = await made.files.open(version(20 * BLOCK))
        server.pause_s = 1.0

        async def read() -> None:
            assert await handle.read(2 * BLOCK, 500) == WHOLE[2 * BLOCK : 2 * BLOCK + 500]

        nursery.start_soon(read)
        await trio.sleep(0.5)
        # It begins as the other one does, as far as that is known by now.
        server.data = WHOLE[:BLOCK] + (OTHER if replaced else WHOLE)[BLOCK : 30 * BLOCK]
        if replaced:
            with pytest.raises(errors.Superseded):
                await handle.grow(version(30 * BLOCK))
        else:
            await handle.grow(version(30 * BLOCK))
            server.pause_s = 0.0
            assert await made.read_whole(handle) == server.data
        handle.close()


class Late(Server):
    """A server whose answers come late."""

    delay_s: Callable[[int], float] = staticmethod(lambda _start: 0.0)

    @asynccontextmanager
    async def get(
        self, artifact: ArtifactRef, start: int, end: int | None, *, size: int | None
    ) -> AsyncIterator[ContentBody]:
        await trio.sleep(self.delay_s(start))
        async with super().get(artifact, start, end, size=size) as body:
            yield body


async def test_a_version_that_grows_while_growth_is_proven(autojump_clock: MockClock) -> None:
    """2.4: the bytes that a proof brings are those behind the end that the version had when it was made."""
    server, at = Late(WHOLE[: 39 * BLOCK]), 5 * BLOCK
    async with bench(server) as made, trio.open_nursery() as nursery:
        handle = await made.files.open(version(39 * BLOCK))
        server.data = WHOLE[: 40 * BLOCK]
        # Of the first proof and the second; and of the read, which another answer shows to be of a larger file.
        proofs, reads = [1.0, 2.0], [0.0, 1.0]
        server.delay_s = lambda start: ({0: proofs, at: reads}.get(start) or [0.0]).pop(0)

        async def read() -> None:
            assert await handle.read(at, BLOCK) == WHOLE[at : at + BLOCK]

        # The second answer to the read, and to the second proof, is the whole file.
        server.before_answer = lambda number: setattr(server, "granted", number not in (3, 5))
        nursery.start_soon(read)
        await trio.sleep(0.5)
        nursery.start_soon(handle.grow, version(40 * BLOCK + 100))
        await trio.sleep(1.0)
        server.data, server.pause_s = WHOLE[: 41 * BLOCK], 0.3
        await trio.sleep(1.0)
        server.data = WHOLE[: 42 * BLOCK]
        await trio.sleep(30.0)
        assert (proofs, reads) == ([], [])
        server.pause_s = 0.0
        assert await made.read_whole(handle) == server.data
        handle.close()


async def test_a_block_that_is_being_loaded(tmp_path: Path, autojump_clock: MockClock) -> None:
    """2.4, 4.3: a block on the disk that was not compared with the larger file is not taken for that file's."""
    waits: list[float] = []

    async def slowly(call: Callable[..., T], *args: object, **_: object) -> T:
        await trio.sleep(waits.pop(0) if waits else 0.0)
        return call(*args)

    server = Server(WHOLE[: 5 * BLOCK])
    async with bench(server, directory=str(tmp_path), run_in_thread=slowly) as made, trio.open_nursery() as nursery:
        handle = await made.files.open(version(5 * BLOCK, settled=True))
        assert await handle.read(2 * BLOCK, BLOCK) == WHOLE[2 * BLOCK : 3 * BLOCK]
        handle.close()
        await made.settle()
        made.shop.pool.clear()
        # As in the next mount, which does not know that a reader was given this.
        made.files = OpenFileTable(made.shop, owner=made.files.owner)
        handle = await made.files.open(version(5 * BLOCK, settled=True))
        waits += [5.0]

        async def read() -> None:
            assert await handle.read(2 * BLOCK, BLOCK) == OTHER[2 * BLOCK : 3 * BLOCK]

        nursery.start_soon(read)
        await trio.sleep(1.0)
        server.data = OTHER[: 9 * BLOCK]
        await handle.grow(version(9 * BLOCK))
        assert await contents(made, handle) == server.data


class Breaking(Server):
    """A server whose answers break off after a silence of `silent_s`, or after each byte, which takes that long."""

    silent_s = 0.0
    drips = 0

    async def _chunks(self, data: bytes, rooms: Sequence[Room] = ()) -> AsyncGenerator[Chunk, None]:
        if self.silent_s:
            for _ in range(self.drips):
                yield data[:1]
                data = data[1:]
                await trio.sleep(self.silent_s)
            await trio.sleep(self.silent_s)
            raise Broken("the body broke off")
        async with aclosing(super()._chunks(data, rooms)) as chunks:
            async for chunk in chunks:
                yield chunk


@pytest.mark.parametrize("drips", [0, 3], ids=["silence", "drips"])
async def test_a_proof_that_breaks_off_again_and_again(drips: int, autojump_clock: MockClock) -> None:
    """5.1: all attempts of a proof together wait for one deadline without progress; so do all that wait for it."""
    server = Breaking(WHOLE[:2000])
    waited: list[float] = []
    async with bench(server) as made:
        handle = await made.files.open(version(2000))
        assert await made.read_whole(handle) == WHOLE[:2000]
        server.data, server.silent_s, server.drips = WHOLE[:3000], 0.8 * DEADLINE_S / (drips + 1), drips

        async def open_larger() -> None:
            began = trio.current_time()
            with pytest.raises(errors.TimedOut):
                await made.files.open(version(3000))
            waited.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(open_larger)
                await trio.sleep(1)
            # What needs no proof does not fail.
            again = await made.files.open(version(2000))
            again.close()
        assert waited == [DEADLINE_S, DEADLINE_S - 1, DEADLINE_S - 2]
        # The next one tries again, and bytes renew the wait: three attempts may take as long as they bring some.
        server.silent_s, server.pause_s, server.chunk = 0.0, 0.9 * DEADLINE_S, 900
        larger = await made.files.open(version(3000))
        server.pause_s = 0.0
        assert await contents(made, larger) == WHOLE[:3000]
        handle.close()


async def test_a_proof_that_its_caller_gives_up(autojump_clock: MockClock) -> None:
    """5.1, 5.2: a proof that ends with the signal of one caller is begun again by the next one that waited for it."""
    server = Server(WHOLE[:2000])
    async with bench(server) as made, trio.open_nursery() as nursery:
        handle = await made.files.open(version(2000))
        assert await made.read_whole(handle) == WHOLE[:2000]
        server.data, server.stall = WHOLE[:3000], True
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await made.files.open(version(3000))

        async def go_on() -> None:
            assert await contents(made, await made.files.open(version(3000))) == WHOLE[:3000]

        nursery.start_soon(give_up)
        await trio.sleep(1)
        nursery.start_soon(go_on)
        await trio.sleep(1)
        server.stall = False
        scope.cancel()
        handle.close()
