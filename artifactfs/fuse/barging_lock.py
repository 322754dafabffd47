"""A lock that the worker which comes back first takes, ahead of those that wait: one turn of the loop for each request.

pyfuse3's workers take a lock to wait for the next request, and release it with each. trio's lock is handed over to the
worker that has waited longest, which runs in a turn of the loop of its own, although the worker that has the request
mostly answers it in the turn in which it came, and could wait again. Hard: where that worker does wait for something
else, another one must take the lock at once. So a release wakes no worker. trio says when a task has made a step
(trio.abc.Instrument), and a worker that waits is woken if the lock is free then.
"""

import contextlib
from types import TracebackType

import trio
from trio.lowlevel import Abort, Task

from artifactfs.util.no_checkpoint import no_checkpoint


class BargingLock(trio.abc.Instrument):
    """As `async with` has trio.Lock, without fairness, and without a checkpoint where it is free.

    The last worker that began to wait is woken first: its buffer is in the processor's cache.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: list[Task] = []
        # The worker that was woken, and has not run since.
        self._called: Task | None = None
        self._is_told = False

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._wait()
        self._is_held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_held = False

    async def _wait(self) -> None:
        task = trio.lowlevel.current_task()
        if not self._is_told:
            self._is_told = True
            trio.lowlevel.add_instrument(self)
        self._waiting.append(task)

        def abort(_: object) -> Abort:
            self._waiting.remove(task)
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._called = None

    @no_checkpoint
    def after_task_step(self, task: Task) -> None:  # noqa: ARG002 - whichever it was
        """Wake a worker if the lock is free, unless one that was woken has yet to come."""
        if not self._is_held and self._called is None and self._waiting:
            # trio asks an instrument no more that raised. The worker that is busy has another step before it.
            with contextlib.suppress(MemoryError):
                trio.lowlevel.reschedule(self._waiting[-1])
                self._called = self._waiting.pop()
