"""A wake-up for all tasks that wait now."""

import trio


class Pulse:
    """A condition that changes again and again.

    A waiter checks its condition, then calls `wait` without an await in between, so that it loses no wake-up. It checks
    again after each wake-up, since another task may have run first.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        """Wait for the next `notify`."""
        await self._event.wait()

    def notify(self) -> None:
        """Wake all tasks that wait."""
        event, self._event = self._event, trio.Event()
        event.set()
