"""What a program that follows a file is shown where listings give a size that is too large, or none (3.5, 4.1)."""

import errno

import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import MockClock

from tests.content_harness import BLOCK
from tests.fakes import finished_run
from tests.unit.test_following import LIVE_TTL_S, OTHER, WHOLE, Live, live
from tests.unit.test_operations import CONTEXT, DEADLINE_S
from tests.walking import count

# How an answer tells the length: a range with the total, Content-Length, or the end of the body alone.
FORMS = {"ranges": (True, True), "length": (False, True), "chunks": (False, False)}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[bool, bool]:
    return FORMS[request.param]


def answering(made: Live, form: tuple[bool, bool]) -> None:
    made.contents.granted, made.contents.told = form


async def opened(made: Live) -> tuple[int, int]:
    """Open the log as the kernel does, which looks a name up again once. Returns inode and handle."""
    for attempt in range(2):
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        try:
            return inode, (await made.operations.open(inode, 0, CONTEXT)).fh
        except FUSEError as failure:
            if attempt or failure.errno != errno.ESTALE:
                raise
    raise AssertionError


# --- listings that run ahead --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 700, 5 * BLOCK + 1])
async def test_programs_that_open_at_the_same_moment(
    form: tuple[bool, bool], size: int, autojump_clock: MockClock
) -> None:
    """3.5, 4.1: of a run that goes on, a file has the contents that there are; no listing is asked for that."""
    async with live(9 * BLOCK) as made:
        answering(made, form)
        made.contents.data = WHOLE[:size]
        await made.operations.lookup(made.parent, b"log", CONTEXT)
        made.service.asked()
        found: list[tuple[int, int]] = []

        async def program(after_s: float) -> None:
            await trio.sleep(after_s)
            inode, handle = await opened(made)
            found.append((inode, handle))
            assert await made.read_all(handle, inode) == WHOLE[:size]

        async with trio.open_nursery() as programs:
            for number in range(8):
                programs.start_soon(program, 0.01 * number)
        assert count(made.service.asked(), "listing") == 0
        assert len({inode for inode, _ in found}) == 1
        inode = found[0][0]
        assert await made.size(inode) == size
        made.contents.data = WHOLE[: 9 * BLOCK]
        assert await made.size(inode) == 9 * BLOCK
        for _, handle in found:
            assert await made.read_all(handle, inode) == WHOLE[: 9 * BLOCK]
            await made.operations.release(handle)
        assert made.dropped == []


async def test_programs_that_open_one_inode_at_the_same_moment(autojump_clock: MockClock) -> None:
    """4.1: each of them is sent to look the name up: the kernel has the size of a listing that runs ahead."""
    async with live(9 * BLOCK) as made:
        made.contents.data, made.contents.pause_s = WHOLE[:700], 0.1
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        failures: list[int] = []

        async def program() -> None:
            with pytest.raises(FUSEError) as caught:
                await made.operations.open(inode, 0, CONTEXT)
            failures.append(caught.value.errno)

        async with trio.open_nursery() as programs:
            for _ in range(3):
                programs.start_soon(program)
        assert failures == [errno.ESTALE] * 3
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:700]
        await made.operations.release(handle)


async def test_a_file_that_was_cut_is_another(form: tuple[bool, bool], autojump_clock: MockClock) -> None:
    """2.4, 4.1: contents that are shorter than they were are no listing that runs ahead."""
    async with live(5 * BLOCK) as made:
        answering(made, form)
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[: 5 * BLOCK]
        await made.operations.release(handle)
        made.become(WHOLE[: 2 * BLOCK], listed=6 * BLOCK)
        await trio.sleep(61)
        other, handle = await opened(made)
        assert other != inode
        assert await made.read_all(handle, other) == WHOLE[: 2 * BLOCK]
        await made.operations.release(handle)


async def failing(made: Live) -> None:
    """Check that the log cannot be opened, nor when it is tried again."""
    for _ in range(3):
        with pytest.raises(FUSEError) as caught:
            await opened(made)
        assert caught.value.errno == errno.EIO
        await trio.sleep(70)


@pytest.mark.parametrize("told", [True, False], ids=["length", "chunks"])
async def test_a_short_body_of_a_finished_run(told: bool, autojump_clock: MockClock) -> None:
    """4.1: a finished run's file is as it was listed: a shorter body is EIO, however often it comes."""
    async with live(200, finished_run(1)) as made:
        answering(made, (False, told))
        made.contents.data = WHOLE[:150]
        for _ in range(3):
            _, handle = await opened(made)
            with pytest.raises(FUSEError) as caught:
                await made.operations.read(handle, 0, 200)
            assert caught.value.errno == errno.EIO
            await made.operations.release(handle)
            await trio.sleep(70)
        assert (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_size == 200


@pytest.mark.parametrize("told", [True, False], ids=["length", "chunks"])
async def test_a_proxy_that_cuts_each_body_at_the_same_length(told: bool, autojump_clock: MockClock) -> None:
    """4.1: a body that breaks off says nothing of the file's length, however often that happens."""
    async with live(200) as made:
        answering(made, (False, told))
        made.contents.cuts = [150] * 100
        await failing(made)
        assert (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_size == 200


async def test_a_body_whose_end_nothing_marks(autojump_clock: MockClock) -> None:
    """4.1: a body that ends with its connection may have been cut: it is not the file where the listing says more."""
    async with live(200) as made:
        answering(made, (False, False))
        made.contents.framed = False
        made.contents.data = WHOLE[:150]
        await failing(made)
        assert (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_size == 200
        made.contents.data = WHOLE[:200]
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:200]
        await made.operations.release(handle)


# --- listings without sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "stat"])
async def test_growth_that_no_listing_shows(form: tuple[bool, bool], is_open: bool, autojump_clock: MockClock) -> None:
    """3.5: a program that polls sees growth within `live_ttl` and two looks, and its inode stays."""
    async with live(700, lists_sizes=False) as made:
        answering(made, form)
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:700]
        if not is_open:
            await made.operations.release(handle)
        for size in (701, 5 * BLOCK, 5 * BLOCK + 1):
            made.become(WHOLE[:size])
            shown = [(await made.operations.getattr(inode, CONTEXT)).st_size]
            while shown[-1] != size:
                assert len(shown) <= LIVE_TTL_S + 2
                await trio.sleep(1)
                shown.append((await made.operations.getattr(inode, CONTEXT)).st_size)
            assert shown == sorted(shown)
            assert (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino == inode
        if not is_open:
            handle = (await made.operations.open(inode, 0, CONTEXT)).fh
        assert await made.read_all(handle, inode) == WHOLE[: 5 * BLOCK + 1]
        await made.operations.release(handle)
        assert made.dropped == []


@pytest.mark.parametrize("other", [OTHER[:900], OTHER[:700], WHOLE[:300]], ids=["longer", "as long", "cut"])
async def test_another_file_that_no_listing_shows(
    form: tuple[bool, bool], other: bytes, autojump_clock: MockClock
) -> None:
    """2.4: a replacement or a truncation has another inode, and what was open of the first fails."""
    async with live(700, lists_sizes=False) as made:
        answering(made, form)
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:700]
        made.become(other)
        assert await made.size(inode) == 700
        with pytest.raises(FUSEError) as caught:
            await made.operations.read(handle, 0, 100)
        assert caught.value.errno == errno.ESTALE
        await made.operations.release(handle)
        for more in (0, 50):
            made.become((WHOLE if other == WHOLE[:300] else OTHER)[: len(other) + more])
            await trio.sleep(61)
            now, handle = await opened(made)
            assert now != inode
            assert await made.read_all(handle, now) == made.contents.data
            await made.operations.release(handle)


@pytest.mark.parametrize("size", [700, 20 * BLOCK])
async def test_requests_without_sizes_are_bounded(
    form: tuple[bool, bool], size: int, autojump_clock: MockClock
) -> None:
    """3.5, 7: one request for the contents in `live_ttl`, however many programs poll; none where none does."""
    async with live(size, lists_sizes=False) as made:
        answering(made, form)
        inode, handle = await opened(made)
        await made.read_all(handle, inode)
        requests = len(made.contents.asked)
        await trio.sleep(600)
        assert len(made.contents.asked) == requests
        for _ in range(600):
            await made.operations.getattr(inode, CONTEXT)
            await trio.sleep(0.1)
        assert 8 <= len(made.contents.asked) - requests <= 60 / LIVE_TTL_S
        await made.operations.release(handle)


# --- a refresh ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lists_sizes", [True, False])
async def test_a_refresh_of_a_file_that_is_open(
    form: tuple[bool, bool], lists_sizes: bool, autojump_clock: MockClock
) -> None:
    """3.3: after a refresh the next `stat` shows the new size, and no poll is needed for that."""
    async with live(700, lists_sizes=lists_sizes) as made:
        answering(made, form)
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:700]
        for size in (701, 5 * BLOCK):
            made.become(WHOLE[:size])
            await trio.sleep(1)
            is_meant = made.tree.refresh(made.tree.root)
            assert await made.operations.refresh(is_meant) == {inode}
            assert (await made.operations.getattr(inode, CONTEXT)).st_size == size
            assert (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_size == size
            assert await made.read_all(handle, inode) == WHOLE[:size]
        made.become(OTHER[: 6 * BLOCK])
        await trio.sleep(1)
        await made.operations.refresh(made.tree.refresh(made.tree.root))
        other = await made.operations.lookup(made.parent, b"log", CONTEXT)
        assert (other.st_ino != inode, other.st_size) == (True, 6 * BLOCK)
        await made.operations.release(handle)


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_refresh_of_a_file_that_was_cut(
    form: tuple[bool, bool], is_open: bool, autojump_clock: MockClock
) -> None:
    """3.3: a file that grew and then became shorter shows what is there after a refresh, whether it is open or was."""
    async with live(700) as made:
        answering(made, form)
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:700]
        made.become(WHOLE[:900])
        assert await made.size(inode) == 900
        assert await made.read_all(handle, inode) == WHOLE[:900]
        if not is_open:
            await made.operations.release(handle)
        # Nothing polls it any more.
        await trio.sleep(40)
        made.become(OTHER[:51])
        await trio.sleep(1)
        refreshed = await made.operations.refresh(made.tree.refresh(made.tree.root))
        assert (inode in refreshed) == is_open
        other, again = await opened(made)
        assert other != inode
        assert await made.read_all(again, other) == OTHER[:51]


async def test_a_refresh_while_contents_stall(autojump_clock: MockClock) -> None:
    """3.3: a refresh waits for the service for 10 s at most; what is known stays."""
    async with live(700) as made:
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:700]
        made.become(WHOLE[:800])
        made.contents.stall = True
        await trio.sleep(1)
        began = trio.current_time()
        await made.operations.refresh(made.tree.refresh(made.tree.root))
        assert trio.current_time() - began <= 10
        assert (await made.operations.getattr(inode, CONTEXT)).st_size == 700
        assert await made.read_all(handle, inode) == WHOLE[:700]
        made.contents.stall = False
        assert await made.size(inode) == 700
        await trio.sleep(DEADLINE_S)
        assert await made.size(inode) == 800
        await made.operations.release(handle)


async def test_an_open_after_a_refresh(form: tuple[bool, bool], autojump_clock: MockClock) -> None:
    """3.3: where no listing gives the size, a refresh lets the next `open` ask for it."""
    async with live(700, lists_sizes=False) as made:
        answering(made, form)
        inode, handle = await opened(made)
        await made.operations.release(handle)
        made.become(WHOLE[:900])
        await trio.sleep(1)
        made.tree.refresh(made.tree.root)
        made.files.expire_sizes()
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:900]
        await made.operations.release(handle)


async def test_an_open_during_the_proof_that_the_file_was_replaced(autojump_clock: MockClock) -> None:
    """4.1: an inode that turns out to be of another version meanwhile is not opened: the kernel has its old size."""
    async with live(700, lists_sizes=False) as made:
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == WHOLE[:700]
        await made.operations.getattr(inode, CONTEXT)
        made.contents.data, made.contents.pause_s = OTHER[:2000], 0.1
        await trio.sleep(LIVE_TTL_S + 1)
        await made.operations.getattr(inode, CONTEXT)  # which begins the proof
        await trio.sleep(0.01)
        await made.operations.release(handle)
        made.files.drop(lambda _place: True)  # so that the opening, too, asks for contents
        with pytest.raises(FUSEError) as caught:
            await made.operations.open(inode, 0, CONTEXT)
        assert caught.value.errno == errno.ESTALE
        inode, handle = await opened(made)
        assert await made.read_all(handle, inode) == OTHER[:2000]
        await made.operations.release(handle)
