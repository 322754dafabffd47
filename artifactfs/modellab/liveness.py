"""A sign of life: a request of our own that tells a dead service from one object that stalls (docs/semantics.md 5.1).

It is sent while requests wait, once nothing at all came of the service for half of the time that one of them has. So
by the end of that time it is known which of the two it is. It goes over a connection of its own, since all others may
be taken, and asks for what is cheap and of another kind than what waits.
"""

import logging
from collections.abc import Callable

import trio

from artifactfs import errors
from artifactfs.modellab.circuit_breaker import CircuitBreaker
from artifactfs.modellab.transport import Transport
from artifactfs.util.urls import API_PREFIX

log = logging.getLogger(__name__)

# The same calls as those that check the keys, and list projects.
_QUESTIONS = {"runs": f"{API_PREFIX}/runs?page%5Bsize%5D=1", "projects": f"{API_PREFIX}/projects?page%5Bsize%5D=1"}
# After a question that a rate limit forbade, or that failed at once, and between two looks, at least. Arbitrary.
_PAUSE_S = 1.0
_LOOK_S = 0.05


class Liveness:
    """Asks on behalf of one breaker. `transport`: used for nothing else. `limit_s`: how long an answer may take."""

    def __init__(
        self,
        breaker: CircuitBreaker,
        transport: Transport,
        nursery: trio.Nursery,
        *,
        clock: Callable[[], float],
        limit_s: float,
    ) -> None:
        self._breaker = breaker
        self._transport = transport
        self._nursery = nursery
        self._clock = clock
        self._limit_s = limit_s
        self._watches = False
        breaker.on_wait = self._begin

    def _begin(self) -> None:
        if not self._watches:
            self._watches = True
            self._nursery.start_soon(self._watch)

    async def _watch(self) -> None:
        """Look after the requests that are under way, until there are none."""
        try:
            while (due_s := self._breaker.probe_due_s(self._clock())) is not None:
                if due_s > 0:
                    await trio.sleep(max(due_s, _LOOK_S))
                elif not await self._ask():
                    await trio.sleep(_PAUSE_S)
        except Exception:
            # The mount's nursery: this would end the mount.
            log.exception("looking after the service failed: %s", errors.unexpected())
        finally:
            self._watches = False

    async def _ask(self) -> bool:
        """Ask; returns whether that said something: an answer, or silence."""
        waited_for = self._breaker.pending_endpoints()
        endpoint = next((each for each in _QUESTIONS if each not in waited_for), "runs")
        if self._transport.is_held_back(endpoint):
            return False
        self._breaker.set_probe_pending(True)
        try:
            await self._transport.ask(endpoint, _QUESTIONS[endpoint], self._limit_s)
        except errors.TimedOut as error:
            return error.status is None
        except errors.PassingError:
            # Refused, or reset: others will hear that themselves.
            self._breaker.set_probe_pending(False)
            return False
        except errors.ServiceError:
            pass  # an answer, too
        return True
