"""artifactfs.content.open_files: files that are fetched before their readers come, who see no failure of that."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs import errors
from artifactfs.domain import ArtifactRef, ContentVersion
from tests.content_harness import BLOCK, DEADLINE_S, Server, bench, noise

DATA = noise(200)
VERSION = ContentVersion(ArtifactRef("10", "p/artifacts/f.json"), len(DATA), lineage=7, settled=False)


async def test_the_reader_asks_for_nothing(autojump_clock: MockClock) -> None:
    """4.3, 4.5: what was fetched ahead is served to `open` and read, also in a run that goes on."""
    server = Server(DATA)
    async with bench(server) as made:
        assert await made.files.fetch_ahead(VERSION)
        assert not await made.files.fetch_ahead(VERSION)
        handle = await made.files.open(VERSION)
        assert await handle.read(0, BLOCK) == DATA
        handle.close()
        assert made.shop.stats.files_ahead == 1
    assert server.asked == [(0, len(DATA))]


async def test_the_reader_joins_it(autojump_clock: MockClock) -> None:
    """4.3: a reader that comes meanwhile waits for the same request, and keeps it when the wait ahead of it ends."""
    server = Server(DATA, pause_s=5.0)
    async with bench(server) as made, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def ahead() -> None:
            with scope:
                await made.files.fetch_ahead(VERSION)

        nursery.start_soon(ahead)
        await wait_all_tasks_blocked()

        async def read() -> None:
            handle = await made.files.open(VERSION)
            assert await handle.read(0, BLOCK) == DATA
            handle.close()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        scope.cancel()
    assert server.asked == [(0, len(DATA))]


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_failure_is_not_the_readers(failures: int, autojump_clock: MockClock) -> None:
    """4.5: a reader that has joined a request that fails sends one of its own, and fails where that does."""
    server = Server(DATA, failures=[errors.ServerFailed("500", 500)] * failures)
    gate = trio.Event()
    async with bench(server) as made, trio.open_nursery() as nursery:
        results: list[object] = []

        async def ahead() -> None:
            with pytest.raises(errors.ServerFailed):
                await made.files.fetch_ahead(VERSION)
            gate.set()

        async def read() -> None:
            try:
                handle = await made.files.open(VERSION)
            except errors.ServerFailed as error:
                results.append(error)
                return
            results.append(bytes(await handle.read(0, BLOCK)))
            handle.close()

        nursery.start_soon(ahead)
        nursery.start_soon(read)
        await gate.wait()
    assert server.asked == [(0, len(DATA))] * 2
    assert results == [DATA] if failures == 1 else isinstance(results[0], errors.ServerFailed)


async def test_a_stall_ahead_of_a_reader(autojump_clock: MockClock) -> None:
    """5.1: a reader that joins a request that stalls waits for a deadline of its own, and no longer."""
    server = Server(DATA, stall=True)
    async with bench(server) as made, trio.open_nursery() as nursery:

        async def ahead() -> None:
            with trio.move_on_after(10.0):
                await made.files.fetch_ahead(VERSION)

        nursery.start_soon(ahead)
        await trio.sleep(9.0)
        began = trio.current_time()
        with pytest.raises(errors.TimedOut):
            await made.files.open(VERSION)
        assert trio.current_time() - began == pytest.approx(DEADLINE_S)


async def test_another_version(autojump_clock: MockClock) -> None:
    """4.1: a file that is another one by now is not kept, and its reader finds that out."""
    server = Server(noise(300))
    settled = ContentVersion(ArtifactRef("10", "p/artifacts/f.json"), len(DATA), lineage=7)
    async with bench(server) as made:
        with pytest.raises(errors.Superseded):
            await made.files.fetch_ahead(settled)
        handle = await made.files.open(settled)
        with pytest.raises(errors.Superseded):
            await handle.read(0, BLOCK)
        handle.close()


async def test_contents_that_are_shorter_than_listed(autojump_clock: MockClock) -> None:
    """3.5: where a fetch ahead came to nothing, nothing is known of the contents: the first answer tells their size."""
    server = Server(DATA[:150], failures=[errors.ServerFailed("500", 500)])
    async with bench(server) as made:
        with pytest.raises(errors.ServerFailed):
            await made.files.fetch_ahead(VERSION)
        handle = await made.files.open(VERSION)
        assert handle.size == 150
        handle.close()


async def test_without_a_budget(autojump_clock: MockClock) -> None:
    """Nothing is fetched ahead where the budget of all read-ahead is used up."""
    server = Server(DATA)
    async with bench(server) as made:
        give_back = made.shop.budget.take(32 * BLOCK)
        assert give_back is not None
        assert not await made.files.fetch_ahead(VERSION)
        give_back()
        server.room = False
        assert not made.files.can_fetch_ahead()
    assert not server.asked


async def test_what_has_grown_is_left_to_its_reader(autojump_clock: MockClock) -> None:
    """2.4: a larger size is compared at `open`, not ahead of it."""
    server = Server(DATA)
    larger = ContentVersion(VERSION.artifact, 250, lineage=7, settled=False)
    async with bench(server) as made:
        assert await made.files.fetch_ahead(VERSION)
        assert not await made.files.fetch_ahead(larger)
    assert len(server.asked) == 1


async def test_forgetting(autojump_clock: MockClock) -> None:
    """What no program has read is dropped, unless a program has it open."""
    server = Server(DATA)
    async with bench(server) as made:
        assert await made.files.fetch_ahead(VERSION)
        handle = await made.files.open(VERSION)
        await made.files.forget(VERSION)
        assert await handle.read(0, BLOCK) == DATA
        handle.close()
        assert len(server.asked) == 1
        await made.files.forget(VERSION)
        assert await made.files.fetch_ahead(VERSION)
    assert len(server.asked) == 2
