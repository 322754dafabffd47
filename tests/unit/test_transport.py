"""artifactfs.modellab.transport: attempts, rate limits, deadlines, caps; the network is a function, time virtual."""

from collections.abc import Awaitable, Callable, Iterable

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import RequestUsage
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.connections import CONCURRENCY, RESERVED
from artifactfs.modellab.retry import RetryPolicy
from artifactfs.modellab.size_limits import DEFAULTS, SizeLimits
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret
from artifactfs.util.backoff import backoff_s
from tests.fakes import TurnedClock

KEYS = Credentials(Secret("api-s3cr3t"), Secret("app-s3cr3t"))
Answer = httpx.Response | Exception | Callable[[httpx.Request], Awaitable[httpx.Response]]


# As long as the policy allows, so that times are exact.
LONGEST_BACKOFF = RetryPolicy(backoff_s=lambda attempt: backoff_s(attempt, lambda _low, high: high))


class Network:
    """Answers requests from a list, the last one for ever, and keeps what was sent."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(trio.current_time())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return await answer(request)


def connect(*answers: Answer, url: str = "https://api.test", sizes: SizeLimits = DEFAULTS) -> tuple[Transport, Network]:
    network = Network(answers)
    sender = Transport(
        url,
        KEYS,
        clock=TurnedClock(),
        wall_clock=lambda: 1_778_922_000.0,
        transport=httpx.MockTransport(network),
        retry_policy=LONGEST_BACKOFF,
        sizes=sizes,
    )
    return sender, network


async def never(_request: httpx.Request) -> httpx.Response:
    await trio.sleep_forever()
    raise AssertionError


def limited(reset_s: int, name: str = "lab", **more: str) -> httpx.Response:
    headers = {"X-RateLimit-Reset": str(reset_s), "X-RateLimit-Name": name}
    return httpx.Response(429, headers=headers | more, json={"errors": ["Too many requests"]})


OK = httpx.Response(200, content=b"body")
# httpx leaves its generators to the collector where a body is not read to its end (httpx/_models.py, aiter_bytes).
ABANDONED = "ignore:Async generator:ResourceWarning"


async def test_one_get_with_keys(autojump_clock: MockClock) -> None:
    """One request, with the keys as headers, identity of the client, and nothing but GET."""
    sender, network = connect(OK)
    assert await sender.get("run", "/api/x?y=%2F", deadline_s=30) == b"body"
    (request,) = network.requests
    assert (request.method, str(request.url)) == ("GET", "https://api.test/api/x?y=%2F")
    assert request.headers["DD-API-KEY"] == "api-s3cr3t"
    assert request.headers["DD-APPLICATION-KEY"] == "app-s3cr3t"
    assert request.headers["User-Agent"].startswith("artifactfs/")
    assert "Authorization" not in request.headers
    assert sender.cost().requests == {"run": 1}
    await sender.aclose()


async def test_an_access_token_goes_alone(autojump_clock: MockClock) -> None:
    """A token goes as Authorization: Bearer, and no key beside it."""
    network = Network([OK])
    both = Credentials(Secret("a"), Secret("b"), Secret("ddpat_t"))
    sender = Transport("https://api.test", both, clock=TurnedClock(), transport=httpx.MockTransport(network))
    await sender.get("run", "/x", deadline_s=30)
    headers = network.requests[0].headers
    assert headers["Authorization"] == "Bearer ddpat_t"
    assert "DD-API-KEY" not in headers
    assert "DD-APPLICATION-KEY" not in headers


# --- attempts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 507, 509, 512])
async def test_a_passing_status_is_tried_again(status: int, autojump_clock: MockClock) -> None:
    """What the official client retries is retried, with pauses, and the answer is the last one's."""
    sender, network = connect(httpx.Response(status), httpx.Response(status), OK)
    assert await sender.get("run", "/x", deadline_s=30) == b"body"
    assert network.times == pytest.approx([0.0, 0.4, 1.2])


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, errors.ServerFailed), (408, errors.TimedOut), (504, errors.TimedOut), (503, errors.ServerFailed)],
)
async def test_attempts_end(status: int, error: type[Exception], autojump_clock: MockClock) -> None:
    """5.3: after four attempts the failure is the caller's, with its status and what the server said."""
    sender, network = connect(httpx.Response(status, json={"errors": [{"detail": "db is down"}]}))
    with pytest.raises(error, match=rf"api\.test answered {status} \(db is down\)"):
        await sender.get("run", "/x", deadline_s=30)
    assert len(network.requests) == RetryPolicy().max_attempts
    assert sender.cost().requests == {"run": RetryPolicy().max_attempts}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.BadRequest), (401, errors.AccessDenied), (403, errors.AccessDenied), (404, errors.NotFound),
        (405, errors.BadRequest), (410, errors.NotFound), (422, errors.BadRequest), (501, errors.ServerFailed),
        (301, errors.UnexpectedAnswer), (304, errors.UnexpectedAnswer),
    ],
)  # fmt: skip
async def test_what_the_server_means_is_not_tried_again(
    status: int, error: type[errors.ServiceError], autojump_clock: MockClock
) -> None:
    """5.3: one request, one of our exceptions, with the status."""
    sender, network = connect(httpx.Response(status, json={"errors": ["no"]}))
    with pytest.raises(error) as caught:
        await sender.get("run", "/x", deadline_s=30)
    assert caught.value.status == status
    assert "api.test" in str(caught.value)
    assert len(network.requests) == 1


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"\xff\xfe", b'{"errors":', b"[" * 70_000])
@pytest.mark.filterwarnings(ABANDONED)
async def test_error_bodies_of_any_shape(body: bytes, autojump_clock: MockClock) -> None:
    """5.3: error parsing never raises: a 403 is AccessDenied whatever comes with it, in one line."""
    sender, _ = connect(httpx.Response(403, content=body))
    with pytest.raises(errors.AccessDenied) as caught:
        await sender.get("run", "/x", deadline_s=30)
    assert len(str(caught.value).splitlines()) == 1


async def test_no_attempt_begins_past_the_deadline(autojump_clock: MockClock) -> None:
    """5.1: retries count: where the next pause would outlast the deadline, the failure is told at once."""
    sender, network = connect(httpx.Response(503))
    with pytest.raises(errors.ServerFailed):
        await sender.get("run", "/x", deadline_s=1.0)
    assert trio.current_time() < 1.0
    assert len(network.requests) == 2


# --- deadline -----------------------------------------------------------------------------------------------


async def test_a_server_that_never_answers(autojump_clock: MockClock) -> None:
    """5.1: nothing waits longer than the deadline; what is raised says whom it waited for."""
    sender, network = connect(never)
    with pytest.raises(errors.TimedOut, match=r"api\.test did not answer within 30 s"):
        await sender.get("run", "/x", deadline_s=30)
    assert trio.current_time() == pytest.approx(30)
    assert len(network.requests) == 1


async def test_a_body_that_drips_for_ever(autojump_clock: MockClock) -> None:
    """5.1: metadata has a total limit: a body that keeps coming, a byte a second, ends with the deadline."""

    async def drip(_request: httpx.Request) -> httpx.Response:
        async def body() -> object:
            while True:
                await trio.sleep(1)
                yield b"x"

        return httpx.Response(200, content=body())  # type: ignore[arg-type]  # an async iterator of bytes

    sender, _ = connect(drip)
    with pytest.raises(errors.TimedOut):
        await sender.get("run", "/x", deadline_s=10)
    assert trio.current_time() == pytest.approx(10)


async def test_waiting_in_the_queue_counts(autojump_clock: MockClock) -> None:
    """5.1: queues count: a request that finds all places taken goes after half of its time, and ends with it."""
    sender, network = connect(never)
    async with trio.open_nursery() as nursery:
        for _ in range(CONCURRENCY):
            nursery.start_soon(_expect, errors.TimedOut, sender, 20.0)
        await trio.sleep(1)
        with pytest.raises(errors.TimedOut):
            await sender.get("run", "/x", deadline_s=5)
        assert trio.current_time() == pytest.approx(6)
    assert len(network.requests) == CONCURRENCY + 1
    assert network.times[-1] == pytest.approx(3.5)


async def _expect(error: type[Exception], sender: Transport, deadline_s: float) -> None:
    with pytest.raises(error):
        await sender.get("run", "/x", deadline_s=deadline_s)


async def test_no_more_requests_at_once_than_connections(autojump_clock: MockClock) -> None:
    """A limiter as wide as the pool stands in front of it, so that nothing queues in httpcore's pool."""
    flying = most = 0

    async def slow(_request: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await trio.sleep(1)
        flying -= 1
        return httpx.Response(200)

    sender, network = connect(slow)
    async with trio.open_nursery() as nursery:
        for _ in range(3 * CONCURRENCY):
            nursery.start_soon(_get, sender)
    assert most == CONCURRENCY
    assert len(network.requests) == 3 * CONCURRENCY
    assert trio.current_time() == pytest.approx(3)


async def test_room_for_requests_ahead(autojump_clock: MockClock) -> None:
    """5.4: two places are left free by requests that nobody waits for, so that whoever comes is not held up."""

    async def slow(_request: httpx.Request) -> httpx.Response:
        await trio.sleep(5)
        return httpx.Response(200)

    sender, network = connect(slow)
    async with trio.open_nursery() as nursery:
        room = []
        for _ in range(CONCURRENCY):
            room.append(sender.can_prefetch("run"))
            nursery.start_soon(_get, sender)
            await trio.sleep(0.01)
        room.append(sender.can_prefetch("run"))
        await trio.sleep(10)
    assert room == [True] * (CONCURRENCY - RESERVED) + [False] * (RESERVED + 1)
    assert len(network.requests) == CONCURRENCY
    assert sender.can_prefetch("run")


async def test_requests_slow_down_near_the_rate_limit(autojump_clock: MockClock) -> None:
    """5.4: a walk that is near the limit goes on at a pace that lasts to the reset, and says what that cost."""
    headers = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "20", "X-RateLimit-Reset": "10",
               "X-RateLimit-Name": "lab"}  # fmt: skip
    near = headers | {"X-RateLimit-Remaining": "10"}
    sender, network = connect(httpx.Response(200, headers=headers), httpx.Response(200, headers=near))
    for _ in range(6):
        await sender.get("listing", "/x", deadline_s=30)
    assert network.times == pytest.approx([0, 0, 0, 1, 2, 3])
    assert sender.cost().paused_s == pytest.approx(3)
    # Nobody fails for it, and nobody waits for more than half of his time.
    await sender.get("listing", "/x", deadline_s=0.5)
    assert trio.current_time() == pytest.approx(3.25)


async def test_no_room_near_the_rate_limit(autojump_clock: MockClock) -> None:
    """5.4: nothing is asked ahead when little of the rate limit is left; what somebody waits for is."""
    headers = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "10", "X-RateLimit-Reset": "7"}
    sender, network = connect(httpx.Response(200, headers=headers, content=b"body"))
    assert sender.can_prefetch("run")
    await sender.get("run", "/x", deadline_s=30)
    assert not sender.can_prefetch("run")
    await sender.get("run", "/x", deadline_s=30)
    assert network.times == pytest.approx([0.0, 0.0])
    await trio.sleep(7.1)
    assert sender.can_prefetch("run")


async def test_what_it_cost(autojump_clock: MockClock) -> None:
    """7: requests by kind, every attempt one; bytes of bodies; seconds that a rate limit cost."""
    sender, _ = connect(limited(12), OK)
    assert sender.cost() == RequestUsage({})
    await sender.get("run", "/x", deadline_s=30)
    await sender.get("listing", "/x", deadline_s=30)
    cost = sender.cost()
    assert cost.requests == {"run": 2, "listing": 1}
    assert cost.received_bytes == 2 * len(b"body") + len(limited(12).content)
    assert cost.paused_s == pytest.approx(12)


async def test_fewer_attempts(autojump_clock: MockClock) -> None:
    """5.4: what is not worth it is not tried again."""
    for attempts in (1, 2):
        sender, network = connect(httpx.Response(503))
        with pytest.raises(errors.ServerFailed):
            await sender.open("index", "/x", headers={}, deadline_s=30, max_attempts=attempts)
        assert len(network.requests) == attempts
        assert sender.can_prefetch("index")


async def _get(sender: Transport) -> None:
    await sender.get("run", "/x", deadline_s=30)


async def test_a_cancelled_request_gives_its_place_back(autojump_clock: MockClock) -> None:
    """After a burst of cancellations requests go through as before (pitfalls: a poisoned pool)."""
    stalled: list[Answer] = [never] * CONCURRENCY
    sender, _ = connect(*stalled, OK)
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            for _ in range(2 * CONCURRENCY):
                nursery.start_soon(_get, sender)
    assert await sender.get("run", "/x", deadline_s=5) == b"body"
    assert trio.current_time() == pytest.approx(1)


# --- rate limits --------------------------------------------------------------------------------------------


async def test_a_reset_within_the_deadline_is_waited_for(autojump_clock: MockClock) -> None:
    """5.4: not sent again before the reset that the server named, and then it is."""
    sender, network = connect(limited(12), OK)
    assert await sender.get("run", "/x", deadline_s=30) == b"body"
    assert network.times == pytest.approx([0.0, 12.0])


async def test_a_reset_past_the_deadline_fails_at_once(autojump_clock: MockClock) -> None:
    """5.4: a reset can be an hour away: EBUSY now, with how long it takes."""
    sender, network = connect(limited(3000), OK)
    with pytest.raises(errors.RateLimited, match=r"3000 s") as caught:
        await sender.get("run", "/x", deadline_s=30)
    assert caught.value.reset_s == pytest.approx(3000)
    assert trio.current_time() == 0
    assert len(network.requests) == 1


async def test_nobody_asks_before_the_reset(autojump_clock: MockClock) -> None:
    """5.4: nor any other under the same name: it costs no request until then, and goes through after it."""
    sender, network = connect(limited(40), OK)
    with pytest.raises(errors.RateLimited):
        await sender.get("listing", "/x", deadline_s=30)
    with pytest.raises(errors.RateLimited):
        await sender.get("listing", "/y", deadline_s=30)
    assert len(network.requests) == 1
    await trio.sleep(20)
    assert await sender.get("listing", "/y", deadline_s=30) == b"body"
    assert network.times == pytest.approx([0.0, 40.0])


async def test_a_reset_beyond_the_period_is_probed(autojump_clock: MockClock) -> None:
    """5.4: after the named period it is asked again, though the reset lies further away."""
    sender, network = connect(limited(3600, **{"X-RateLimit-Period": "10"}), OK)
    assert await sender.get("run", "/x", deadline_s=30) == b"body"
    assert network.times == pytest.approx([0.0, 10.0])


async def test_a_proxys_429(autojump_clock: MockClock) -> None:
    """5.4: Retry-After without any other header, and a body of HTML."""
    named = httpx.Response(200, headers={"X-RateLimit-Name": "lab"})
    html = httpx.Response(429, headers={"Retry-After": "7", "Content-Type": "text/html"}, content=b"<html>")
    sender, network = connect(named, html, OK)
    await sender.get("run", "/x", deadline_s=30)
    assert await sender.get("run", "/x", deadline_s=30) == b"body"
    assert network.times == pytest.approx([0.0, 0.0, 7.0])


async def test_a_limit_used_up_holds_the_next_request(autojump_clock: MockClock) -> None:
    """5.4: `Remaining: 0` on a 200: the next one waits instead of being throttled."""
    last = httpx.Response(
        200, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9", "X-RateLimit-Name": "a"}
    )
    sender, network = connect(last, OK)
    await sender.get("run", "/x", deadline_s=30)
    await sender.get("run", "/x", deadline_s=30)
    assert network.times == pytest.approx([0.0, 9.0])


async def test_throttled_again_and_again(autojump_clock: MockClock) -> None:
    """5.4: every 429 is an attempt: a server that throttles each of them gets four requests, not more."""
    sender, network = connect(limited(2))
    with pytest.raises(errors.RateLimited):
        await sender.get("run", "/x", deadline_s=30)
    assert network.times == pytest.approx([0.0, 2.0, 4.0, 6.0])


# --- bodies -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(ABANDONED)
async def test_an_answer_past_the_cap(autojump_clock: MockClock) -> None:
    """6.4: answers have bounds; past it nothing more is read, and it is not tried again."""
    read = 0

    async def endless(_request: httpx.Request) -> httpx.Response:
        async def body() -> object:
            nonlocal read
            while True:
                read += 1
                yield bytes(64 << 10)

        return httpx.Response(200, content=body())  # type: ignore[arg-type]  # an async iterator of bytes

    sender, network = connect(endless, sizes=SizeLimits(body_bytes=1 << 20))
    with pytest.raises(errors.AnswerTooLarge, match="more than 1 MiB"):
        await sender.get("run", "/x", deadline_s=30)
    assert read <= 18
    assert len(network.requests) == 1


@pytest.mark.filterwarnings(ABANDONED)
async def test_an_endless_error_is_cut(autojump_clock: MockClock) -> None:
    """6.4: of an error's body only so much is read as a sentence takes; it is still that error."""
    read = 0

    async def endless(_request: httpx.Request) -> httpx.Response:
        async def body() -> object:
            nonlocal read
            while True:
                read += 1
                yield b"<" * (16 << 10)

        return httpx.Response(404, content=body())  # type: ignore[arg-type]  # an async iterator of bytes

    sender, _ = connect(endless)
    with pytest.raises(errors.NotFound):
        await sender.get("run", "/x", deadline_s=30)
    assert read <= 6


async def test_a_body_just_within_the_cap(autojump_clock: MockClock) -> None:
    """6.4: the bound itself is allowed."""
    sender, _ = connect(httpx.Response(200, content=bytes(1000)), sizes=SizeLimits(body_bytes=1000))
    assert len(await sender.get("run", "/x", deadline_s=30)) == 1000
