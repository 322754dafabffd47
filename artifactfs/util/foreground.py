"""Runs the event loop of a command in the foreground, which Ctrl-C ends between two steps."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

from artifactfs import errors

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run(call: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Return the result of an async function. Raises its exception without the groups of nurseries around it."""
    try:
        # Elsewhere Ctrl-C might leave a coroutine that was never awaited, and Python would warn of it.
        return trio.run(call, *args, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from None
        raise errors.single(group) from None
