"""Blocking calls in threads, and the error if the system has no thread.

The limit on processes (`ulimit -u`) counts all threads of the user, those of other programs included, so it may be
reached at any moment, and pass again. Then `run` raises NoThread before the call begins.
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
    """Return `call(*args)`, called in a thread (`trio.to_thread.run_sync`). Raises NoThread if there is none."""
    has_begun = False

    def begin() -> T:
        nonlocal has_begun
        has_begun = True
        return call(*args)

    try:
        return await trio.to_thread.run_sync(begin, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    except (RuntimeError, MemoryError) as error:
        # threading has no exception of its own for it.
        if has_begun:
            raise
        raise NoThread(f"no thread can be had ({error}): see `ulimit -u`") from error
