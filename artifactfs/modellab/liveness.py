"""Liveness probes: requests that tell a dead service from one object that stalls (docs/semantics.md 5.1).

A probe is sent while requests are pending, once nothing at all arrived from the service for half of the time that one
of them has. So at the end of that time the breaker knows which of the two it is. Probes have a transport of their own,
since all other connections may be in use, and request a list that is cheap and of another kind than those pending.
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
_TARGETS = {"runs": f"{API_PREFIX}/runs?page%5Bsize%5D=1", "projects": f"{API_PREFIX}/projects?page%5Bsize%5D=1"}
# After a probe that a rate limit forbade, or that failed at once; and between two looks, at least. Arbitrary.
_PAUSE_S = 1.0
_LOOK_S = 0.05


def start(
    breaker: CircuitBreaker,
    transport: Transport,
    nursery: trio.Nursery,
    *,
    clock: Callable[[], float],
    limit_s: float,
) -> None:
    """From now on, send probes in a task of `nursery`. An answer to a probe may take `limit_s` seconds."""
    is_watching = False

    def on_wait() -> None:
        nonlocal is_watching
        if not is_watching:
            is_watching = True
            nursery.start_soon(watch)

    async def watch() -> None:
        nonlocal is_watching
        try:
            while (due_s := breaker.probe_due_s(clock())) is not None:
                if due_s > 0:
                    await trio.sleep(max(due_s, _LOOK_S))
                elif not await _probe(breaker, transport, limit_s):
                    await trio.sleep(_PAUSE_S)
        except Exception:
            # The mount's nursery: this would end the mount.
            log.exception("watching the service failed: %s", errors.unexpected())
        finally:
            is_watching = False

    breaker.on_wait = on_wait


async def _probe(breaker: CircuitBreaker, transport: Transport, limit_s: float) -> bool:
    """Send a probe; returns whether its end is a sign: an answer, or silence."""
    pending = breaker.pending_endpoints()
    endpoint = next((each for each in _TARGETS if each not in pending), "runs")
    if transport.is_held_back(endpoint):
        return False
    breaker.set_probe_pending(True)
    try:
        await transport.probe(endpoint, _TARGETS[endpoint], limit_s)
    except errors.TimedOut as error:
        return error.status is None
    except errors.PassingError:
        # Refused, or reset: other requests fail with that themselves.
        breaker.set_probe_pending(False)
        return False
    except errors.ServiceError:
        pass  # an answer, too
    return True
