"""Work in steps of a few milliseconds, between which the event loop has its turn."""

from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import TypeVar

import trio

T = TypeVar("T")


async def in_turns(steps: Generator[None, None, T], lock: trio.Lock | None = None) -> T:
    """Run a generator to its result, with a checkpoint after each step. After the first step, `lock` is held."""
    found: T
    try:
        next(steps)
        async with lock or nullcontext():
            while True:
                await trio.lowlevel.checkpoint()
                next(steps)
    except StopIteration as done:
        found = done.value
    return found


def in_one_step(decode: Callable[[bytes], T]) -> Callable[[bytes], Generator[None, None, T]]:
    """Return a decoder in steps, of one step."""

    def steps(body: bytes) -> Generator[None, None, T]:
        yield from ()
        return decode(body)

    return steps
