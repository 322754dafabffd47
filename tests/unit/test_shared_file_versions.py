"""artifactfs.content: one open file is one version, sizes that are found, and what holds over a remount, in small."""

from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.reader import OpenFile
from artifactfs.domain import ArtifactRef, ContentVersion
from tests.content_harness import BLOCK, GLANCE, LISTING_TTL_S, NOW_S, Server, bench, noise

SIZE = 40 * BLOCK + 123
DATA = noise(SIZE)
NEW = noise(SIZE, seed=1)
A, B = b"A" * 16, b"B" * 16


async def read_all(handle: OpenFile, size: int = SIZE) -> bytes:
    """Read a file as a sequential reader does, by pieces."""
    return b"".join([bytes(await handle.read(at, 300)) for at in range(0, size, 300)])


def changed(server: Server, data: bytes = NEW) -> None:
    server.data = data
    server.validator = lambda: B


@pytest.mark.parametrize("disk", [True, False])
async def test_two_versions_of_one_size_never_meet_in_a_mount(
    autojump_clock: MockClock, tmp_path: Path, disk: bool
) -> None:
    """4.1: a file that changed between two opens, as its validator tells: ESTALE, then the new one; never both."""
    server = Server(DATA, validator=lambda: A)
    async with bench(server, directory=str(tmp_path) if disk else None) as made:
        handle = await made.open(SIZE)
        await handle.read(5 * BLOCK, 100)
        handle.close()
        changed(server)
        handle = await made.open(SIZE)
        with pytest.raises(errors.Superseded):
            await handle.read(20 * BLOCK, 100)
        with pytest.raises(errors.Superseded):
            await handle.read(5 * BLOCK, 100)
        with pytest.raises(errors.Superseded):
            await made.open(SIZE)
        asked = len(server.asked)
        again = await made.files.open(ContentVersion(ArtifactRef("10", "p/artifacts/f.bin"), SIZE, lineage=2))
        assert await read_all(again) == NEW
        assert len(server.asked) > asked
        # The old handle neither asks nor takes anything from the new one.
        asked = len(server.asked)
        with pytest.raises(errors.Superseded):
            await handle.read(9 * BLOCK, 100)
        handle.close()
        assert await read_all(again) == NEW
        assert len(server.asked) == asked
        again.close()


async def test_two_versions_of_one_size_never_meet_on_the_disk(autojump_clock: MockClock, tmp_path: Path) -> None:
    """4.1, 4.3: one half kept by one mount, the other, of another version, by the next: a third never mixes them."""
    server = Server(DATA, validator=lambda: A)
    async with bench(server, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        await handle.read(0, 5 * BLOCK)
        handle.close()
    changed(server)
    async with bench(server, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        await handle.read(20 * BLOCK, 21 * BLOCK)
        handle.close()
    async with bench(server, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        found = b""
        try:
            found = await read_all(handle)
        except errors.Superseded:
            handle.close()
            handle = await made.open(SIZE)
            found = await read_all(handle)
        handle.close()
        assert found == NEW


async def test_a_change_ends_what_else_is_under_way(autojump_clock: MockClock) -> None:
    """4.1: once another version is seen, bytes of the old one that are still on their way count no more."""
    server = Server(DATA, validator=lambda: A, pause_s=1)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        await handle.read(0, 100)
        async with trio.open_nursery() as nursery:

            async def slowly() -> None:
                with pytest.raises(errors.Superseded):
                    await handle.read(10 * BLOCK, 16 * BLOCK)

            nursery.start_soon(slowly)
            await trio.sleep(3)
            changed(server)
            with pytest.raises(errors.Superseded):
                await handle.read(30 * BLOCK, 100)
        handle.close()
        again = await made.open(SIZE)
        assert await again.read(10 * BLOCK, 16 * BLOCK) == NEW[10 * BLOCK : 26 * BLOCK]
        again.close()


async def test_validators_that_are_noise(autojump_clock: MockClock) -> None:
    """4.1: two answers that differ from each other and from what was known mean nothing, from then on."""
    count = iter(range(1000))
    server = Server(DATA, validator=lambda: next(count).to_bytes(16, "big"))
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await read_all(handle) == DATA
        handle.close()
        assert made.shop.validators_unreliable
    assert server.sent <= SIZE + BLOCK


async def test_a_file_that_is_rewritten_between_any_two_answers(autojump_clock: MockClock) -> None:
    """4.1: other bytes under validators that differ are other versions; the validators of other files still count."""
    count = iter(range(1000))
    server = Server(DATA, validator=lambda: next(count).to_bytes(16, "big"))
    server.before_answer = lambda number: setattr(server, "data", noise(SIZE, seed=number % 5))
    async with bench(server) as made:
        handle = await made.open(SIZE)
        with pytest.raises(errors.Superseded):
            await read_all(handle)
        handle.close()
        server.before_answer = lambda _number: None
        server.data, server.validator = DATA, lambda: A
        handle = await made.open(SIZE, "p/another")
        assert await handle.read(0, 100) == DATA[:100]
        changed(server)
        with pytest.raises(errors.Superseded):
            await read_all(handle)
        handle.close()


async def test_validators_that_are_noise_before_any_byte(autojump_clock: MockClock) -> None:
    """4.1: where no byte of a file is known, validators that differ contradict nothing."""
    count = iter(range(1000))
    server = Server(DATA, validator=lambda: next(count).to_bytes(16, "big"), cuts=[0])
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await read_all(handle) == DATA
        handle.close()


async def test_validators_of_a_log_that_grows_with_each_answer(autojump_clock: MockClock) -> None:
    """3.5, 4.1: where answers tell no size, validators that differ may be those of a file that grows."""
    server = Server(DATA[: 20 * BLOCK], told=False)
    server.validator = lambda: b"%d" % len(server.data)
    server.before_answer = lambda _number: setattr(server, "data", DATA[: min(SIZE, len(server.data) + 50)])
    async with bench(server) as made:
        version = ContentVersion(ArtifactRef("10", "p/log"), 20 * BLOCK, settled=False, lineage=2)
        handle = await made.files.open(version)
        found = await made.read_whole(handle)
        assert found == DATA[: len(found)]
        assert len(found) > 20 * BLOCK
        assert not made.shop.validators_unreliable
        handle.close()


async def test_validators_of_which_one_comes_again_and_again(autojump_clock: MockClock) -> None:
    """4.1: validators that are neither proven nor noise end a read, and not the mount's trust in others."""
    told = iter([A, B, b"C" * 16, *[A, A, B, b"C" * 16] * 10])
    server = Server(DATA, validator=lambda: next(told))
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await handle.read(0, 2 * BLOCK) == DATA[: 2 * BLOCK]
        with pytest.raises(errors.Superseded):
            await read_all(handle)
        assert not made.shop.validators_unreliable
        handle.close()


async def test_a_validator_that_comes_and_goes(autojump_clock: MockClock) -> None:
    """4.1: an answer of another replica, once, is asked for again and not trusted."""
    told = iter([A, A, B] + [A] * 100)
    server = Server(DATA, validator=lambda: next(told))
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await read_all(handle) == DATA
        handle.close()
        assert not made.shop.validators_unreliable


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
async def test_another_size(autojump_clock: MockClock, size: int) -> None:
    """4.1: a range of a file of another size is of another version, and says of which size."""
    server = Server(noise(size))
    async with bench(server) as made:
        handle = await made.open(SIZE)
        with pytest.raises(errors.Superseded) as caught:
            await handle.read(0, 100)
        assert caught.value.size_bytes == size
        handle.close()


async def test_reading_a_dead_version_costs_nothing(autojump_clock: MockClock) -> None:
    """4.1: each read of a superseded version fails at once, without a request, and holds on to nothing."""
    server = Server(noise(10))
    async with bench(server) as made:
        handle = await made.open(SIZE)
        for _ in range(50):
            with pytest.raises(errors.Superseded) as caught:
                await handle.read(0, 100)
        depth, trace = 0, caught.value.__traceback__
        while trace is not None:
            depth, trace = depth + 1, trace.tb_next
        assert depth < 20
        assert len(server.asked) == 1
        handle.close()


# --- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, GLANCE, GLANCE + 1, BLOCK, SIZE])
@pytest.mark.parametrize("granted", [True, False])
async def test_open_finds_the_size(autojump_clock: MockClock, size: int, granted: bool) -> None:
    """2.2: with one answer, before `open` answers; and that answer's bytes are not fetched again."""
    server = Server(noise(size), granted=granted)
    async with bench(server) as made:
        handle = await made.open(None)
        assert handle.size == size
        assert len(server.asked) == 1
        assert await read_all(handle, size + 1) == server.data
        handle.close()
    assert server.sent == size


async def test_an_unknown_length(autojump_clock: MockClock) -> None:
    """2.2: a short body tells its length by its end; a long one is read to its end without one."""
    server = Server(DATA[:100], granted=False, told=False)
    async with bench(server) as made:
        handle = await made.open(None)
        assert handle.size == 100
        handle.close()
    server = Server(DATA, granted=False, told=False)
    async with bench(server) as made:
        handle = await made.open(None)
        assert handle.size is None
        assert await made.read_whole(handle) == DATA
        assert await handle.read(SIZE + 5, 10) == b""
        handle.close()


async def test_a_body_is_read_to_know_its_length(autojump_clock: MockClock, tmp_path: Path) -> None:
    """2.2, 4.3: `open` reads a body whose length no answer tells; each byte once, and over a remount none."""
    server = Server(DATA, granted=False, told=False, validator=lambda: b"v" * 16)
    for remounts in range(2):
        async with bench(server, directory=str(tmp_path), pool=8 * BLOCK) as made:
            handle = await made.open(None, stream=False)
            assert handle.size == SIZE
            assert await made.read_whole(handle) == DATA
            handle.close()
        assert (len(server.asked), server.sent) == (1, SIZE), remounts


async def test_a_body_that_no_cache_has_room_for(autojump_clock: MockClock) -> None:
    """2.2: `open` refuses a body without a length that is larger than memory, where there is no cache."""
    server = Server(DATA, granted=False, told=False)
    async with bench(server, pool=8 * BLOCK) as made:
        with pytest.raises(errors.BodyTooLarge):
            await made.open(None, stream=False)


async def test_an_open_that_fails_leaves_nothing(autojump_clock: MockClock) -> None:
    """2.2: where the size cannot be found, `open` fails, and the next one asks again."""
    server = Server(DATA, failures=[errors.AccessDenied("no", 403)])
    async with bench(server) as made:
        with pytest.raises(errors.AccessDenied):
            await made.open(None)
        handle = await made.open(None)
        assert handle.size == SIZE
        handle.close()


# --- over remounts ---------------------------------------------------------------------------------


async def kept_after(
    tmp_path: Path, after_s: float, *, validator: bytes | None, stamps: tuple[bytes | None, bytes | None]
) -> bool:
    """Read a file, remount after a time, read it again: whether that asked nothing."""
    server = Server(DATA, validator=lambda: validator)
    for now, stamp in ((NOW_S, stamps[0]), (NOW_S + after_s, stamps[1])):
        asked = len(server.asked)
        async with bench(server, directory=str(tmp_path), now_s=[now]) as made:
            handle = await made.open(SIZE, run_stamp=stamp)
            assert await read_all(handle) == DATA
            handle.close()
    return len(server.asked) == asked


@pytest.mark.parametrize(
    ("after_s", "validator", "stamps", "kept"),
    [
        (LISTING_TTL_S - 1, None, (None, None), True),
        (LISTING_TTL_S + 1, None, (None, None), False),
        (-1, None, (None, None), False),
        (1e7, A, (None, None), True),
        (1e7, None, (b"r" * 16, b"r" * 16), True),
        (1e7, None, (b"r" * 16, b"s" * 16), False),
        (1, None, (b"r" * 16, None), False),
        (1e7, None, (None, b"r" * 16), False),
    ],
)
async def test_what_holds_over_a_remount(
    autojump_clock: MockClock,
    tmp_path: Path,
    after_s: float,
    validator: bytes | None,
    stamps: tuple[bytes | None, bytes | None],
    kept: bool,
) -> None:
    """4.3: what has a validator, what belongs to a settled run as it was; anything else for `listing_ttl`."""
    assert await kept_after(tmp_path, after_s, validator=validator, stamps=stamps) == kept


@pytest.mark.parametrize("stamp", [b"r" * 16, b"s" * 16, None], ids=["same time", "another time", "no time"])
async def test_a_file_of_another_time_after_a_remount(
    autojump_clock: MockClock, tmp_path: Path, stamp: bytes | None
) -> None:
    """2.4, 4.3: a file of a run that goes on is another version at another time, whatever validator its blocks have."""
    for now_s, data, validator, its in ((NOW_S, DATA, A, b"r" * 16), (NOW_S + 10, NEW, B, stamp)):
        server = Server(data, validator=partial(bytes, validator))
        async with bench(server, directory=str(tmp_path), now_s=[now_s]) as made:
            version = ContentVersion(ArtifactRef("10", "p/f.bin"), SIZE, its, settled=False)
            handle = await made.files.open(version)
            assert await read_all(handle) == (data if its == b"s" * 16 else DATA)
            handle.close()


@pytest.mark.parametrize("owner", ["site\0other", "other\0account"])
async def test_another_account_sees_nothing(autojump_clock: MockClock, tmp_path: Path, owner: str) -> None:
    """6.3: content belongs to a site and an account."""
    server = Server(DATA)
    for who in ("site\0account", owner):
        async with bench(server, directory=str(tmp_path), owner=who) as made:
            handle = await made.open(SIZE)
            assert await read_all(handle) == DATA
            handle.close()
    assert server.sent == 2 * SIZE


async def test_a_glance_is_kept_and_completed(autojump_clock: MockClock, tmp_path: Path) -> None:
    """4.3: what a glance fetched is kept, and a reader who comes later fetches only the rest of its block."""
    server = Server(DATA, validator=lambda: A)
    async with bench(server, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        await handle.read(0, 50)
        handle.close()
    async with bench(server, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        await handle.read(0, 50)
        assert len(server.asked) == 1
        assert await read_all(handle) == DATA
        handle.close()
    assert server.sent == SIZE
