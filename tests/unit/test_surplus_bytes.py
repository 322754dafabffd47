"""artifactfs.content: an answer with more bytes than it announces (docs/semantics.md 4.1)."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.reader import OpenFile
from tests.content_harness import BLOCK, Server, bench, noise

SIZE = 40 * BLOCK + 123
DATA, NEW = noise(SIZE), noise(SIZE, seed=1)
A = b"A" * 16


async def read_all(handle: OpenFile) -> bytes:
    return bytes(await handle.read(0, SIZE))


async def read_slowly(handle: OpenFile) -> None:
    for at in range(0, SIZE, 256):
        await handle.read(at, 256)
        await trio.sleep(0.05)


@pytest.mark.parametrize("placed", [True, False])
async def test_an_answer_that_contradicts_itself_leaves_nothing(
    placed: bool, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """4.1: where more bytes come than were announced, those before them are as wrong: they are not kept."""
    server = Server(NEW, extra=b"!", placed=placed, chunk=16, validator=lambda: A)
    async with bench(server, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        with pytest.raises(errors.UnexpectedAnswer, match="more bytes"):
            await read_all(handle)
        server.data, server.extra = DATA, b""
        handle.close()
        handle = await made.open(SIZE)
        assert await read_all(handle) == DATA
        handle.close()


@pytest.mark.parametrize("number", [0, 2])
async def test_an_answer_that_contradicts_itself_ahead_of_its_reader(
    number: int, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """4.1: a program that was given bytes of such an answer gets an error, also where no read waited for its end."""
    server = Server(DATA, validator=lambda: A, chunk=256, pause_s=0.01)

    def spoil(answer: int) -> None:
        server.data, server.extra = (NEW, b"!") if answer == number else (DATA, b"")

    server.before_answer = spoil
    async with bench(server, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        with pytest.raises(errors.UnexpectedAnswer):
            await read_slowly(handle)
        handle.close()
        handle = await made.open(SIZE)
        assert await read_all(handle) == DATA
        handle.close()
