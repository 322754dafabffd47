"""artifactfs.modellab: a mount that works offline sends nothing, and nothing counts that as a failure (8.3)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ArtifactRef
from artifactfs.modellab.circuit_breaker import CircuitBreaker, OfflineState, PendingRequest
from artifactfs.modellab.content_endpoint import ContentEndpoint
from tests.transports import OK, connect

STATE = OfflineState(0.0, "away", "wait")


async def test_no_request_is_sent(autojump_clock: MockClock) -> None:
    """8.3: buffered, streamed and of contents: each fails at once, without an attempt, and nothing is prefetched."""
    sender, network = connect(OK)
    sender.breaker.offline = STATE
    endpoint = ContentEndpoint(sender, deadline_s=30)
    assert endpoint.is_offline
    assert not endpoint.can_prefetch()
    with pytest.raises(errors.Offline):
        await sender.get("listing", "/x", deadline_s=30)
    with pytest.raises(errors.Offline):
        await sender.open("index", "/x", headers={}, deadline_s=30)
    with pytest.raises(errors.Offline):
        async with endpoint.get(ArtifactRef("1", "f"), 0, 10, size=10):
            pass
    assert trio.current_time() == 0
    assert not network.requests
    # Nor has anything of it failed.
    assert sender.cost().requests == {}
    assert not sender.breaker.is_failing
    assert (sender.breaker.failing_since, sender.breaker.silent_since, sender.breaker.probe_due_s(0.0)) == (None,) * 3


def test_what_failed_before_is_over() -> None:
    """8.5: once the service answers, requests go through as if the mount had just begun, with all their attempts."""
    breaker = CircuitBreaker("x")
    for target in ("a", "b", "c"):
        breaker.on_error(PendingRequest(breaker, "listing", target), errors.Unreachable("gone"), 1.0)
    breaker.record_origin(2.0, is_foreign=True)
    failing = [breaker.is_failing]
    breaker.offline = STATE
    with pytest.raises(errors.Offline):
        breaker.acquire("listing", "a", 30.0, 30.0)
    assert breaker.is_open("listing")
    breaker.go_online(40.0)
    assert [*failing, breaker.is_failing] == [True, False]
    assert [breaker.offline, breaker.failing_since, breaker.foreign_since] == [None] * 3
    assert breaker.recovered_at == 40.0
    assert not breaker.is_open("listing")
    assert breaker.acquire("listing", "d", 41.0, 30.0) == 30.0
