"""artifactfs.modellab.request_stats and the states of transport, breaker and rate limits (5.3)."""

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.circuit_breaker import CircuitBreaker, PendingRequest
from artifactfs.modellab.rate_limits import RateLimits
from artifactfs.modellab.request_stats import HEAD_BOUNDS_S, Outcome, RequestStats, attempt, head, outcome_of
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret
from tests.fakes import TurnedClock


def kinds(kind: type[errors.ServiceError] = errors.ServiceError) -> list[type[errors.ServiceError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in kinds(below))]


# Those that stand for others, and the one that is raised in place of a request (test_offline_gate.py).
NO_END = (errors.ServiceError, errors.PassingError, errors.Offline)


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind not in NO_END])
def test_every_failure_has_an_outcome(kind: type[errors.ServiceError]) -> None:
    """5.3: no failure of the service is counted as a bug of ours, or as success."""
    assert outcome_of(kind) not in (Outcome.OK, Outcome.BUG)


def test_what_is_no_failure_of_the_service() -> None:
    """5.3: a request that was given up is cancelled; any other exception is a bug."""
    assert outcome_of(trio.Cancelled) is Outcome.CANCELLED
    assert outcome_of(RuntimeError) is Outcome.BUG
    assert outcome_of(errors.ShortBody) is Outcome.LOST


def test_times_are_distinguished() -> None:
    """5.3: a time counts below the first bound that it does not exceed; past the last it is in the rest."""
    tally = RequestStats(lambda: 0.0)
    for seconds in (0.005, 0.0051, 30.0, 31.0):
        head(tally, "run", seconds)
    heads = tally.traffic().heads["run"]
    assert heads.counts == (1, 1, *[0] * (len(HEAD_BOUNDS_S) - 3), 1, 1)
    assert heads.count == 4
    assert heads.sum_s == pytest.approx(61.0101)


def test_since_when_keys_are_refused() -> None:
    """5.3: from the first refusal on, until anything works; what another origin says of itself does not count."""
    times = iter((10.0, 11.0, 12.0, 13.0))
    tally = RequestStats(lambda: next(times))
    with pytest.raises(errors.AccessDenied), attempt(tally, "content", 100.0, to_api=False):
        raise errors.AccessDenied("storage")
    assert tally.traffic().denied_since is None
    for _ in range(2):
        with pytest.raises(errors.AccessDenied), attempt(tally, "run", 100.0):
            raise errors.AccessDenied("x")
    assert (tally.traffic().denied_since, tally.traffic().denied_last) == (10.0, True)
    with pytest.raises(errors.ServerFailed), attempt(tally, "run", 100.0):
        raise errors.ServerFailed("x")
    assert not tally.traffic().denied_last
    with attempt(tally, "content", 100.0, to_api=False):
        pass
    assert tally.traffic().denied_since == 10.0
    with attempt(tally, "run", 100.0):
        pass
    assert (tally.traffic().denied_since, tally.traffic().taken_at) == (None, 11.0)
    assert tally.traffic().outcomes["run"] == {"denied": 2, "ok": 1, "server_error": 1}


async def test_what_the_transport_counts(autojump_clock: MockClock) -> None:
    """5.3: each attempt by its outcome; what ran into its deadline, what others gave up, what was never sent."""

    async def answer(request: httpx.Request) -> httpx.Response:
        kind = request.url.path
        if kind.startswith("/slow"):
            await trio.sleep_forever()
        if kind == "/lost":
            raise httpx.ReadError("x")
        await trio.sleep(0.2)
        return httpx.Response({"/ok": 200, "/no": 404, "/down": 503}[kind], content=b"{}")

    clock, breaker = TurnedClock(), CircuitBreaker("x")
    tally = RequestStats(clock)
    keys = Credentials(Secret("a"), Secret("b"))
    sender = Transport(
        "https://api.test", keys, clock=clock, transport=httpx.MockTransport(answer), breaker=breaker, tally=tally
    )
    await sender.get("ok", "/ok", deadline_s=5)
    for kind in ("no", "down", "lost"):
        with pytest.raises(errors.ServiceError):
            await sender.get(kind, f"/{kind}", deadline_s=30)
    with trio.move_on_after(1):
        await sender.get("given_up", "/slow", deadline_s=30)
    for path in ("/slow", "/slow2"):
        with pytest.raises(errors.TimedOut):
            await sender.get("slow", path, deadline_s=2)
    assert breaker.silent_since is not None
    for _ in range(2):
        with pytest.raises(errors.TimedOut):
            await sender.get("probe", "/slow", deadline_s=2)
    assert tally.traffic().outcomes == {
        "ok": {"ok": 1}, "no": {"not_found": 1}, "down": {"server_error": 4}, "lost": {"connection_lost": 4},
        "given_up": {"cancelled": 1}, "slow": {"timed_out": 2}, "probe": {"timed_out": 1, "circuit_open": 1},
    }  # fmt: skip
    assert tally.traffic().heads["ok"].sum_s == pytest.approx(0.2)
    assert sum(times.count for times in tally.traffic().heads.values()) == 6


async def test_a_body_that_breaks_off_is_counted(autojump_clock: MockClock) -> None:
    """5.3: an answer whose head was in order, and whose body breaks off, is reported."""

    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]  # the base class's own
            yield b"x"
            raise httpx.RemoteProtocolError("cut")

    tally = RequestStats(trio.current_time)
    sender = Transport(
        "https://api.test", Credentials(Secret("a"), Secret("b")), clock=trio.current_time, tally=tally,
        transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Broken())),
    )  # fmt: skip
    stream = await sender.open("content", "/x", headers={}, deadline_s=5)
    with pytest.raises(errors.ConnectionLost):
        async for _ in stream.chunks():
            pass
    await stream.aclose()
    assert (tally.traffic().bodies_broken, tally.traffic().outcomes) == (1, {"content": {"ok": 1}})


# --- since when ---------------------------------------------------------------------------------------------


def since(breaker: CircuitBreaker) -> tuple[float | None, float | None, float]:
    return breaker.silent_since, breaker.failing_since, breaker.recovered_at


def test_since_when_a_service_is_silent_or_fails() -> None:
    """5.3: each kind of trouble knows since when, and when the last one was over."""
    breaker, never = CircuitBreaker("x"), float("-inf")
    assert since(breaker) == (None, None, never)
    requests = [PendingRequest(breaker, "run", target, 30.0) for target in "abc"]
    for request in requests:
        breaker.on_sent(request, 100.0)
        breaker.on_timeout(request, 130.0)
    assert since(breaker) == (100.0, None, never)
    breaker.on_activity(requests[0], 110.0)
    assert since(breaker) == (None, None, 110.0)
    breaker.on_error(requests[0], errors.ServerFailed("x", 500), 120.0)
    assert since(breaker) == (None, None, 110.0)  # one may be chance
    breaker.on_error(requests[0], errors.ConnectionRefused("x"), 121.0)
    breaker.on_error(requests[0], errors.Unreachable("x"), 122.0)
    assert since(breaker) == (None, 121.0, 110.0)
    breaker.on_success(requests[0], 130.0)
    breaker.on_success(requests[0], 140.0)
    assert since(breaker) == (None, None, 130.0)


def test_what_is_known_of_rate_limits() -> None:
    """5.3, 5.4: what is left of each until its reset; since when, and for how long, one holds requests back."""
    limits = RateLimits()
    told = {
        "x-ratelimit-name": "a",
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "40",
        "x-ratelimit-reset": "30",
    }
    limits.observe("run", 200, told, 1000.0, 0.0)
    limits.observe("content", 429, {"x-ratelimit-name": "b", "x-ratelimit-reset": "20"}, 1001.0, 0.0)
    limits.observe("content", 429, {"x-ratelimit-name": "b", "x-ratelimit-reset": "20"}, 1002.0, 0.0)
    first, second = limits.states(1010.0)
    assert (first.name, first.limit, first.remaining, first.reset_s) == ("a", 100, 40, 20.0)
    assert (first.paused_s, first.paused_since) == (0.0, None)
    assert (second.name, second.remaining, second.paused_s, second.paused_since) == ("b", None, 12.0, 1001.0)
    assert limits.recovered_at(1010.0) == float("-inf")
    after = limits.states(1040.0)
    assert [(state.remaining, state.paused_s, state.paused_since) for state in after] == [(None, 0.0, None)] * 2
    assert limits.recovered_at(1040.0) == 1022.0
