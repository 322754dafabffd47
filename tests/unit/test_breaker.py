"""artifactfs.modellab.breaker, and how requests go by it: a dead service is waited for once (semantics 5.1)."""

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.breaker import PROBE_INTERVAL_S, Breaker
from artifactfs.modellab.transport import Transport
from tests.unit.test_transport import KEYS, OK, Answer, Network, never


def test_all_is_well() -> None:
    """Requests may wait as long as they want."""
    breaker = Breaker("x")
    assert [breaker.admit(now, 30.0) for now in (0, 1, 100)] == [30.0] * 3
    assert not breaker.is_open


def test_after_a_silence_only_probes_go() -> None:
    """5.1: at most one in 5 s; the first at once. They have a second, every other one all of its deadline."""
    breaker = Breaker("x")
    breaker.silent(since=0.0)
    assert breaker.is_open
    went = {now / 10: limit_s for now in range(300, 700) if (limit_s := breaker.admit(now / 10, 30.0)) is not None}
    assert went == {30: 1, 35: 30, 40: 1, 45: 30, 50: 1, 55: 30, 60: 1, 65: 30}


def test_a_probe_never_has_a_whole_deadline_at_first() -> None:
    """5.1: the first two together stay below two deadlines, however short that is."""
    breaker = Breaker("x")
    breaker.silent(since=0.0)
    assert breaker.admit(1.0, 0.5) == 0.25


@pytest.mark.parametrize("heard_at", [0.1, 15.0, 30.0])
def test_a_service_that_answers_others_is_not_dead(heard_at: float) -> None:
    """5.1: one directory that stalls fails nobody who asks for another."""
    breaker = Breaker("x")
    breaker.heard(heard_at)
    breaker.silent(since=0.0)
    assert breaker.admit(30.0, 30.0) == 30.0


def test_anything_that_comes_ends_it() -> None:
    """5.1: until a probe is answered, or an older request; the next silence begins anew."""
    breaker = Breaker("x")
    breaker.silent(since=0.0)
    for now, limit_s in ((30.0, 1), (40.0, 30), (50.0, 1)):
        assert breaker.admit(now, 30.0) == limit_s
    breaker.heard(51.0)
    assert breaker.admit(51.0, 30.0) == 30.0
    breaker.silent(since=51.0)
    assert breaker.admit(80.0, 30.0) == 1
    assert breaker.admit(80.0, 30.0) is None


def test_a_second_silence_changes_nothing() -> None:
    """5.1: sixteen requests that time out together are one dead service."""
    breaker = Breaker("x")
    breaker.silent(since=0.0)
    assert breaker.admit(30.0, 30.0) == 1
    breaker.silent(since=0.0)
    assert breaker.admit(30.0, 30.0) is None


# --- requests -----------------------------------------------------------------------------------------------


def connect(*answers: Answer) -> tuple[Transport, Network, Breaker]:
    network, breaker = Network(answers), Breaker("api.test")
    sender = Transport(
        "https://api.test", KEYS, clock=trio.current_time, transport=httpx.MockTransport(network), breaker=breaker
    )
    return sender, network, breaker


async def test_a_dead_service_costs_a_deadline_once(autojump_clock: MockClock) -> None:
    """5.1: a thousand requests one after the other: one deadline, a second for a probe, and no time for the others."""
    sender, network, _ = connect(never)
    kinds = []
    for _ in range(1000):
        with pytest.raises(errors.TimedOut) as caught:
            await sender.get("listing", "/x", deadline_s=30)
        kinds.append(type(caught.value))
    assert trio.current_time() == 31
    assert kinds == [errors.TimedOut] * 2 + [errors.NotAsked] * 998
    assert len(network.requests) == 2
    assert not sender.has_room_ahead("listing")


async def test_the_first_look_after_the_trouble_works(autojump_clock: MockClock) -> None:
    """5.1: whoever looks first when the service is back is its probe, and closes the breaker for all."""
    sender, network, _ = connect(never, OK)
    with pytest.raises(errors.TimedOut):
        await sender.get("listing", "/x", deadline_s=30)
    for _ in range(3):
        assert await sender.get("listing", "/x", deadline_s=30) == b"body"
    assert trio.current_time() == 30
    assert len(network.requests) == 4
    assert sender.has_room_ahead("listing")


async def test_a_slow_service_is_found_again(autojump_clock: MockClock) -> None:
    """5.1: a service that takes 6 s for an answer is not taken for dead for ever."""

    async def slow(_request: httpx.Request) -> httpx.Response:
        await trio.sleep(6)
        return OK

    sender, _, breaker = connect(never, slow)
    with pytest.raises(errors.TimedOut):
        await sender.get("listing", "/x", deadline_s=30)
    while breaker.is_open:
        try:
            await sender.get("listing", "/x", deadline_s=30)
        except errors.TimedOut:
            await trio.sleep(PROBE_INTERVAL_S)
        assert trio.current_time() < 60
    assert await sender.get("listing", "/x", deadline_s=30)


async def test_an_error_is_an_answer(autojump_clock: MockClock) -> None:
    """5.1: who answers 500, or refuses the connection, is not taken for silent: the next one asks."""
    for answer in (httpx.Response(500), httpx.ConnectError("refused")):
        sender, _, breaker = connect(answer, OK)
        assert await sender.get("listing", "/x", deadline_s=30) == b"body"
        assert not breaker.is_open


@pytest.mark.parametrize(("answer", "tries"), [(httpx.Response(500), 3), (httpx.ConnectError("refused"), 1)], ids=str)
async def test_a_service_that_fails_at_once_is_retried_by_few(
    answer: Answer, tries: int, autojump_clock: MockClock
) -> None:
    """5.1: a walk over a thousand directories of a service that fails takes no second for each; the first that works
    brings the retries back."""
    sender, network, _ = connect(*[answer] * (4 * tries + 997), OK, answer)
    for _ in range(997 + tries):
        with pytest.raises(errors.PassingError):
            await sender.get("listing", "/x", deadline_s=30)
    assert trio.current_time() < 10 * tries
    assert len(network.requests) == 4 * tries + 997
    assert await sender.get("listing", "/x", deadline_s=30) == b"body"
    with pytest.raises(errors.PassingError):
        await sender.get("listing", "/x", deadline_s=30)
    assert len(network.requests) == 4 * tries + 997 + 1 + 4


async def test_a_no_is_an_answer(autojump_clock: MockClock) -> None:
    """5.1: 404 and 403 tell that the service is well."""
    failing = [httpx.Response(500)] * 4
    sender, network, _ = connect(*failing, *failing, httpx.Response(404), httpx.Response(500))
    for error in (errors.ServerFailed, errors.ServerFailed, errors.NotFound, errors.ServerFailed, errors.ServerFailed):
        with pytest.raises(error):
            await sender.get("listing", "/x", deadline_s=30)
    assert len(network.requests) == 17


async def test_a_stall_after_another_failure(autojump_clock: MockClock) -> None:
    """5.1: a request that was reset first and then not answered ran into its deadline like any."""
    sender, _, breaker = connect(httpx.ReadError("reset"), never)
    with pytest.raises(errors.ConnectionLost):
        await sender.get("listing", "/x", deadline_s=30)
    assert breaker.is_open


async def test_a_rate_limit_is_no_silence(autojump_clock: MockClock) -> None:
    """5.4: a pause that the service named is nothing that it failed to answer."""
    throttled = httpx.Response(429, headers={"X-RateLimit-Reset": "10", "X-RateLimit-Name": "x"})
    sender, _, breaker = connect(throttled)
    with pytest.raises(errors.RateLimited):
        await sender.get("listing", "/x", deadline_s=15)
    assert not breaker.is_open


class Stalling(httpx.AsyncByteStream):
    """A body that stops after its first piece; the connection says so after a while."""

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        yield b"x"
        await trio.sleep(30)
        raise httpx.ReadTimeout("nothing came")


@pytest.mark.parametrize("others", [False, True])
async def test_a_body_that_stalls(others: bool, autojump_clock: MockClock) -> None:
    """5.1: content that stops in the middle counts like an answer that does not come, unless others were answered."""

    async def stalling(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Stalling())

    sender, _, breaker = connect(stalling, OK)
    stream = await sender.open("content", "/x", headers={}, deadline_s=30)

    async def other() -> None:
        await trio.sleep(10)
        await sender.get("listing", "/y", deadline_s=30)

    async with trio.open_nursery() as nursery:
        if others:
            nursery.start_soon(other)
        with pytest.raises(errors.TimedOut):
            async for _ in stream.chunks():
                pass
    await stream.aclose()
    assert breaker.is_open is not others
