"""How requests go by the breaker, and its questions: a dead service is waited for once (docs/semantics.md 5.1)."""

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.circuit_breaker import PROBE_INTERVAL_S, CircuitBreaker
from artifactfs.modellab.liveness import Liveness
from artifactfs.modellab.rate_limits import RateLimits
from artifactfs.modellab.transport import Transport
from tests.transports import KEYS, OK, Answer, Network
from tests.unit.test_transport import never


def connect(nursery: trio.Nursery, *answers: Answer) -> tuple[Transport, Network, CircuitBreaker]:
    """Return a transport whose breaker asks for signs of life over another one, of the same network."""
    network, breaker, limits = Network(answers), CircuitBreaker("api.test"), RateLimits()
    sender, questions = (
        Transport(
            "https://api.test",
            KEYS,
            clock=trio.current_time,
            transport=httpx.MockTransport(network),
            limits=limits,
            breaker=breaker,
        )
        for _ in range(2)
    )
    Liveness(breaker, questions, nursery, clock=trio.current_time, limit_s=30)
    return sender, network, breaker


@pytest.mark.parametrize("same", [True, False])
async def test_a_dead_service_costs_a_deadline_once(
    same: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """5.1: a thousand requests one after the other: one deadline, a second for a probe, and no time for the others."""
    sender, network, _ = connect(nursery, never)
    kinds = []
    for number in range(1000):
        with pytest.raises(errors.TimedOut) as caught:
            await sender.get("listing", "/x" if same else f"/{number}", deadline_s=30)
        kinds.append(type(caught.value))
    assert trio.current_time() == 31
    assert kinds == [errors.TimedOut] * 2 + [errors.NotAsked] * 998
    assert len(network.requests) == 3  # the first, our own question, a probe
    assert not sender.can_prefetch("listing")


async def test_the_first_look_after_the_trouble_works(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: the first request when the service is back is its probe, and closes the breaker for all."""
    sender, network, breaker = connect(nursery, never, never, OK)
    with pytest.raises(errors.TimedOut):
        await sender.get("listing", "/x", deadline_s=30)
    assert breaker.is_open("listing")
    for _ in range(3):
        assert await sender.get("listing", "/x", deadline_s=30) == b"body"
    assert trio.current_time() == 30
    assert len(network.requests) == 5
    assert sender.can_prefetch("listing")


async def test_a_slow_service_is_found_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: a service that takes 6 s for an answer is not taken for dead for ever."""
    sender, _, breaker = connect(nursery, never, never, slow)
    with pytest.raises(errors.TimedOut):
        await sender.get("listing", "/x", deadline_s=30)
    while breaker.is_open("listing"):
        try:
            await sender.get("listing", "/x", deadline_s=30)
        except errors.TimedOut:
            await trio.sleep(PROBE_INTERVAL_S)
        assert trio.current_time() < 60
    assert await sender.get("listing", "/x", deadline_s=30)


async def soon(_request: httpx.Request) -> httpx.Response:
    await trio.sleep(0.1)
    return OK


async def slow(_request: httpx.Request) -> httpx.Response:
    await trio.sleep(6)
    return OK


@pytest.mark.parametrize(
    "answer",
    [OK, slow, httpx.Response(403), httpx.Response(404), httpx.Response(429), httpx.Response(503)],
    ids=["well", "slow", "403", "404", "429", "503"],
)
async def test_any_answer_to_our_own_question_is_a_sign_of_life(
    answer: Answer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """5.1: a slow one, too: it has half of a deadline."""
    sender, network, breaker = connect(nursery, never, answer, OK)
    with pytest.raises(errors.TimedOut):
        await sender.get("listing", "/x", deadline_s=30)
    assert not breaker.is_open("listing")
    assert [request.url.path for request in network.requests[:2]] == ["/x", "/api/v2/model-lab-api/runs"]
    assert await sender.get("listing", "/y", deadline_s=30)


async def test_the_question_is_of_another_kind(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: while lists of runs stall, projects are asked for; never more than a question in half a deadline."""
    sender, network, _ = connect(nursery, never, soon, never, soon, never, soon)
    for _ in range(3):
        with pytest.raises(errors.TimedOut):
            await sender.get("runs", "/runs?sort=x", deadline_s=30)
    assert [request.url.path.rpartition("/")[2] for request in network.requests] == ["runs", "projects"] * 3
    assert network.times == [0, 15, 30, 45, 60, 75]


async def test_a_rate_limit_holds_questions_back(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.4: no question goes before the reset of a rate limit that it would count against."""
    throttled = httpx.Response(429, headers={"X-RateLimit-Reset": "100", "X-RateLimit-Name": "x"})
    sender, network, _ = connect(nursery, throttled, never)
    with pytest.raises(errors.RateLimited):
        await sender.get("runs", "/runs?page", deadline_s=15)
    with pytest.raises(errors.TimedOut):
        await sender.get("listing", "/x", deadline_s=30)
    assert [request.url.path for request in network.requests] == ["/runs", "/x"]


async def test_a_refused_question_is_no_silence(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: one request hangs, and connections are refused: the next request hears that itself."""
    sender, _, breaker = connect(nursery, never, httpx.ConnectError("refused"))
    with pytest.raises(errors.TimedOut):
        await sender.get("listing", "/x", deadline_s=30)
    assert not breaker.is_open("listing")
    with pytest.raises(errors.Unreachable):
        await sender.get("listing", "/y", deadline_s=30)


async def test_an_error_is_an_answer(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: a service that answers 500, or refuses the connection, is not taken for silent: the next request goes."""
    for answer in (httpx.Response(500), httpx.ConnectError("refused")):
        sender, _, breaker = connect(nursery, answer, OK)
        assert await sender.get("listing", "/x", deadline_s=30) == b"body"
        assert not breaker.is_open("listing")


@pytest.mark.parametrize(("answer", "tries"), [(httpx.Response(500), 3), (httpx.ConnectError("refused"), 1)], ids=str)
async def test_a_service_that_fails_at_once_is_retried_by_few(
    answer: Answer, tries: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """5.1: a walk over a thousand directories of a service that fails takes no second for each; the first that works
    brings the retries back."""
    sender, network, _ = connect(nursery, *[answer] * (4 * tries + 997), OK, answer)
    for number in range(997 + tries):
        with pytest.raises(errors.PassingError):
            await sender.get("listing", f"/{number}", deadline_s=30)
    assert trio.current_time() < 10 * tries
    assert len(network.requests) == 4 * tries + 997
    assert await sender.get("listing", "/x", deadline_s=30) == b"body"
    with pytest.raises(errors.PassingError):
        await sender.get("listing", "/x", deadline_s=30)
    assert len(network.requests) == 4 * tries + 997 + 1 + 4


async def test_a_no_is_an_answer(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: 404 and 403 tell that the service is well."""
    failing = [httpx.Response(500)] * 4
    sender, network, _ = connect(nursery, *failing, *failing, httpx.Response(404), httpx.Response(500))
    failures = (errors.ServerFailed, errors.ServerFailed, errors.NotFound, errors.ServerFailed, errors.ServerFailed)
    for number, error in enumerate(failures):
        with pytest.raises(error):
            await sender.get("listing", f"/{number}", deadline_s=30)
    assert len(network.requests) == 17


async def test_a_stall_after_another_failure(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: a request that was reset first and then not answered ran into its deadline like any."""
    sender, _, breaker = connect(nursery, httpx.ReadError("reset"), never)
    with pytest.raises(errors.ConnectionLost):
        await sender.get("listing", "/x", deadline_s=30)
    assert breaker.is_open("listing")


async def test_a_rate_limit_is_no_silence(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.4: a pause that the service named is nothing that it failed to answer."""
    throttled = httpx.Response(429, headers={"X-RateLimit-Reset": "10", "X-RateLimit-Name": "x"})
    sender, _, breaker = connect(nursery, throttled)
    with pytest.raises(errors.RateLimited):
        await sender.get("listing", "/x", deadline_s=15)
    assert not breaker.is_open("listing")


class Stalling(httpx.AsyncByteStream):
    """A body that stops after its first piece; the connection says so after a while."""

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        yield b"x"
        await trio.sleep(30)
        raise httpx.ReadTimeout("nothing came")


@pytest.mark.parametrize("others", [False, True])
async def test_a_body_that_stalls(others: bool, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """5.1: content that stops in the middle counts like an answer that does not come, unless others were answered."""

    async def stalling(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Stalling())

    sender, _, breaker = connect(nursery, stalling, OK if others else never)
    stream = await sender.open("content", "/x", headers={}, deadline_s=30)
    with pytest.raises(errors.TimedOut):
        async for _ in stream.chunks():
            pass
    await stream.aclose()
    assert breaker.is_open("listing") is not others
    assert breaker.has_stalled("/x", trio.current_time())
