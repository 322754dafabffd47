"""The turns of those that may have to prove a file's growth: those that wait for a proof that fails, fail with it.

Otherwise each would wait for the deadline, one after the other.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from artifactfs import errors


class ProofTurns:
    """See the module."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        # Of the last proof that failed while others waited for it; and the same, if the turn of now was one of these.
        self._failure: errors.ServiceError | None = None
        self._shared: errors.ServiceError | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, which a proof ends by a ServiceError if it fails."""
        before = self._failure
        async with self._lock:
            self._shared = self._failure if self._failure is not before else None
            try:
                yield
            except errors.ServiceError as error:
                self._failure = error
                raise
            finally:
                if not self._lock.statistics().tasks_waiting:
                    # An error keeps its frames alive.
                    self._failure = self._shared = None

    def check(self) -> None:
        """Raise the ServiceError of a proof that failed while this turn was waited for: another would fail, too."""
        if self._shared is not None:
            raise self._shared
