"""A mark for functions that let no other task run, checked at import.

Owns the check of the function itself. What the function calls is synchronous too, as only a coroutine can await. The
checkpoint of a coroutine that the function makes and hands out comes later, where that is awaited.
"""

import inspect
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

_CAN_SUSPEND = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def no_checkpoint(function: F) -> F:
    """Mark a function whose effects other tasks see all at once (docs/dev/concurrency.md), and return it as it is.

    Raises TypeError for a coroutine function and for a generator function, asynchronous or not: each may be suspended.
    """
    if any(can_suspend(function) for can_suspend in _CAN_SUSPEND):
        raise TypeError(f"{function.__qualname__} may be suspended, and has @no_checkpoint: make it a plain `def`")
    return function
