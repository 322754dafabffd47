"""artifactfs.modellab.transport: attempts and deadlines; the network is a function, time virtual."""

from functools import partial

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import RequestUsage
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.places import CONCURRENCY, RESERVED
from artifactfs.modellab.retry import RetryPolicy
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret
from tests import scripted
from tests.fakes import TurnedClock
from tests.transports import ABANDONED, OK, Answer, Network, connect, limited


async def never(_request: httpx.Request) -> httpx.Response:
    await trio.sleep_forever()
    raise AssertionError


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
    """5.1: retries count: where the next pause would outlast the deadline, the failure is reported at once."""
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


async def test_transports_that_share_connections(autojump_clock: MockClock) -> None:
    """5.4: contents use the connections that listings have made, and none of their places."""
    held, go_on = trio.Event(), trio.Event()

    async def serve(connection: scripted.Connection) -> None:
        while (head := await connection.request()) is not None:
            if b"/slow" in head:
                held.set()
                await go_on.wait()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with scripted.scripted(serve) as network:
        listings = network.transport()
        contents = network.transport(shares=listings)
        for sender in (listings, contents, listings):
            assert await sender.get("run", "/x", deadline_s=5) == b"ok"
        assert len(network.connections) == 1
        async with trio.open_nursery() as nursery:
            for _ in range(CONCURRENCY):
                nursery.start_soon(partial(contents.get, "content", "/slow", deadline_s=60))
            await held.wait()
            assert not contents.can_prefetch("content")
            assert listings.can_prefetch("run")
            assert await listings.get("run", "/x", deadline_s=5) == b"ok"
            go_on.set()
        assert len(network.connections) == CONCURRENCY + 1


async def test_room_for_requests_ahead(autojump_clock: MockClock) -> None:
    """5.4: prefetches leave two places free, so that a new caller does not wait."""

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
    # No caller fails for it, or waits for more than half of its time.
    await sender.get("listing", "/x", deadline_s=0.5)
    assert trio.current_time() == pytest.approx(3.25)


async def test_no_room_near_the_rate_limit(autojump_clock: MockClock) -> None:
    """5.4: nothing is asked ahead when little of the rate limit is left; what a caller waits for is."""
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
