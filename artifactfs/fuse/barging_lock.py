"""A lock that the worker which comes back first takes, ahead of those that wait: one turn of the loop for each request.

pyfuse3's workers take a lock to wait for the next request, and release it with each. trio's lock is handed over to the
worker that has waited longest, which runs in a turn of the loop of its own, although the worker that has the request
mostly answers it in the turn in which it came, and could wait again. Hard: where that worker does wait for something
else, another one must take the lock at once. So a release calls the worker that waits by a deadline that has passed:
the loop looks at deadlines in its next turn, and a worker that comes back in this turn withdraws the call.
"""

import math
from types import TracebackType

import trio

from artifactfs.util.no_checkpoint import no_checkpoint


class BargingLock:
    """As `async with` has trio.Lock, without fairness, and without a checkpoint where it is free.

    The last worker that began to wait is called first: its buffer is in the processor's cache.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: list[trio.CancelScope] = []
        # The worker that is to take the lock, unless another comes first.
        self._called: trio.CancelScope | None = None

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._wait()
        self._take()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_held = False
        self._call()

    async def _wait(self) -> None:
        scope = trio.CancelScope()
        self._waiting.append(scope)
        try:
            with scope:
                await trio.sleep_forever()
        finally:
            self._left(scope, is_called=scope.cancelled_caught)

    @no_checkpoint
    def _take(self) -> None:
        self._is_held = True
        if (called := self._called) is not None:
            # Where the call has been heard already, it finds the lock held, and waits again.
            called.deadline = math.inf
            self._waiting.append(called)
            self._called = None

    @no_checkpoint
    def _call(self) -> None:
        if self._waiting:
            self._called = self._waiting.pop()
            self._called.deadline = -math.inf

    @no_checkpoint
    def _left(self, scope: trio.CancelScope, *, is_called: bool) -> None:
        """Take note that a worker waits no more; one that was cancelled passes its call on."""
        if scope in self._waiting:
            self._waiting.remove(scope)
        if self._called is scope:
            self._called = None
            if not is_called:
                self._call()
