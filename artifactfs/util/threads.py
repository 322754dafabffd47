"""Blocking calls in threads, and what is left to do where no thread can be had.

A user's limit on processes (`ulimit -u`) counts threads, those of the user's other programs included, so it may be
reached at any moment and pass again. Then `run` raises NoThread, before anything of the call has happened.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from artifactfs.errors import NoThread

T = TypeVar("T")


class RunInThread(Protocol):
    """`run`, or a stand-in for it in tests."""

    async def __call__(
        self,
        call: Callable[..., T],
        *args: object,
        limiter: trio.CapacityLimiter | None = None,
        abandon_on_cancel: bool = False,
    ) -> T:
        """Return `call(*args)`."""


async def run(
    call: Callable[..., T],
    *args: object,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Return `call(*args)`, called in a thread (`trio.to_thread.run_sync`). Raises NoThread where none can be had."""
    has_begun = False

    def begin() -> T:
        nonlocal has_begun
        has_begun = True
        return call(*args)

    try:
        return await trio.to_thread.run_sync(begin, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    except (RuntimeError, MemoryError) as error:
        # threading raises nothing more telling than these.
        if has_begun:
            raise
        raise NoThread(f"no thread can be had ({error}): see `ulimit -u`") from error
