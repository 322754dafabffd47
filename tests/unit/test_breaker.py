"""artifactfs.modellab.breaker, and how requests go by it: a dead service is waited for once (semantics 5.1)."""

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.breaker import PROBE_INTERVAL_S, Breaker, Wait
from artifactfs.modellab.liveness import Liveness
from artifactfs.modellab.throttle import RateLimits
from artifactfs.modellab.transport import Transport
from tests.unit.test_transport import KEYS, OK, Answer, Network, never


def silent(breaker: Breaker, *targets: str, since: float = 0.0, now: float = 30.0) -> None:
    """Let requests for these targets run into their deadlines, of which nothing came."""
    for target in targets:
        breaker.stalled("listing", target, now, since)


def test_all_is_well() -> None:
    """Requests may wait as long as they want."""
    breaker = Breaker("x")
    assert [breaker.admit("listing", "a", now, 30.0) for now in (0, 1, 100)] == [30.0] * 3
    assert not breaker.is_open("listing")


@pytest.mark.parametrize("times", [1, 2, 100])
def test_one_target_that_stalls_is_no_dead_service(times: int) -> None:
    """5.1: however often one target runs into its deadline, the service is not judged by it."""
    breaker = Breaker("x")
    silent(breaker, *["sick"] * times)
    assert not breaker.is_open("listing")
    assert breaker.has_stalled("sick", 31.0)
    assert breaker.admit("listing", "well", 31.0, 30.0) == 30.0


def test_a_second_target_tells() -> None:
    """5.1: two different targets of which nothing came, and nothing else either: nobody answers."""
    breaker = Breaker("x")
    silent(breaker, "a", "b")
    assert breaker.is_open("listing")


@pytest.mark.parametrize("others", [["runs"], ["runs", "listing"]])
def test_one_kind_of_requests_may_be_dead(others: list[str]) -> None:
    """5.1: contents of which none comes fail at once, but for probes, while listings are answered."""
    breaker = Breaker("x")
    for now, target in ((30.0, "a"), (60.0, "b")):
        for kind in others:
            breaker.heard(kind, now - 15)
        breaker.stalled("content", target, now, now - 30)
    assert [breaker.is_open(kind) for kind in ("content", "listing")] == [True, False]
    assert breaker.silent_since == 30.0
    assert breaker.admit("listing", "a", 60.0, 30.0) == 30
    assert [breaker.admit("content", target, 60.0, 30.0) for target in "cd"] == [2.5, None]
    breaker.heard("listing", 61.0)
    assert breaker.is_open("content")
    breaker.heard("content", 62.0)
    assert breaker.admit("content", "d", 62.0, 30.0) == 30


def test_our_own_question_tells() -> None:
    """5.1: one target, and a question of our own that is not answered: nobody answers."""
    breaker = Breaker("x")
    breaker.asked(True)
    silent(breaker, "a")
    assert breaker.is_open("listing")


def test_a_question_that_failed_tells_nothing() -> None:
    """5.1: a question that was refused at once is no silence."""
    breaker = Breaker("x")
    breaker.asked(True)
    breaker.asked(False)
    silent(breaker, "a")
    assert not breaker.is_open("listing")


@pytest.mark.parametrize("asked", [True, False])
def test_after_a_silence_only_probes_go(asked: bool) -> None:
    """5.1: at most one in 5 s; the first at once. They have a second where our own question went unanswered, else a
    little more; every other one has all of its deadline."""
    breaker = Breaker("x")
    breaker.asked(asked)
    silent(breaker, "a", "b")
    went = {
        now / 10: limit_s
        for now in range(300, 700)
        if (limit_s := breaker.admit("listing", f"c{now}", now / 10, 30.0)) is not None
    }
    short_s = 1 if asked else 2.5
    assert went == {30: short_s, 35: 30, 40: short_s, 45: 30, 50: short_s, 55: 30, 60: short_s, 65: 30}


def test_what_stalled_takes_no_turn_of_others() -> None:
    """5.1: a target that stalled before probes too, where no other does, and never in place of another."""
    breaker = Breaker("x")
    silent(breaker, "a", "b")
    assert breaker.admit("listing", "a", 30.0, 30.0) == 2.5
    assert breaker.admit("listing", "b", 30.0, 30.0) is None
    assert breaker.admit("listing", "c", 30.1, 30.0) == 2.5
    assert breaker.admit("listing", "d", 30.2, 30.0) is None
    assert breaker.admit("listing", "a", 35.05, 30.0) is None  # c's answer will tell it
    assert breaker.admit("listing", "a", 35.2, 30.0) == 30


def test_a_probe_never_has_a_whole_deadline_at_first() -> None:
    """5.1: the first two together stay below two deadlines, however short that is."""
    breaker = Breaker("x")
    silent(breaker, "a", "b")
    assert breaker.admit("listing", "c", 1.0, 0.5) == 0.25


@pytest.mark.parametrize("heard_at", [0.1, 15.0, 30.0])
def test_a_service_that_answers_others_is_not_dead(heard_at: float) -> None:
    """5.1: directories that stall, however many, fail nobody who asks for another."""
    breaker = Breaker("x")
    breaker.heard("listing", heard_at)
    silent(breaker, *"abcdef")
    assert breaker.admit("listing", "g", 30.0, 30.0) == 30.0


def test_anything_that_comes_ends_it() -> None:
    """5.1: until a probe is answered, or an older request; the next silence begins with nothing known of it."""
    breaker = Breaker("x")
    silent(breaker, "a", "b")
    for now, limit_s in ((30.0, 2.5), (40.0, 30), (50.0, 2.5)):
        assert breaker.admit("listing", "c", now, 30.0) == limit_s
    breaker.heard("listing", 51.0)
    assert breaker.admit("listing", "c", 51.0, 30.0) == 30.0
    silent(breaker, "a", since=51.0)
    assert not breaker.is_open("listing")
    silent(breaker, "d", since=51.0)
    assert breaker.admit("listing", "e", 80.0, 30.0) == 2.5
    assert breaker.admit("listing", "f", 80.0, 30.0) is None


def test_a_second_silence_changes_nothing() -> None:
    """5.1: sixteen requests that time out together are one dead service."""
    breaker = Breaker("x")
    silent(breaker, "a", "b")
    assert breaker.admit("listing", "x", 30.0, 30.0) == 2.5
    silent(breaker, "a", "b", "c", "d")
    assert breaker.admit("listing", "y", 30.0, 30.0) is None


def test_a_target_is_sick_until_it_answers() -> None:
    """5.1: and not for ever."""
    breaker = Breaker("x")
    silent(breaker, "a", "b")
    breaker.answered("a")
    assert (breaker.has_stalled("a", 31.0), breaker.has_stalled("b", 31.0)) == (False, True)
    assert not breaker.has_stalled("b", 10_000.0)


def test_one_target_that_always_fails_costs_others_no_retries() -> None:
    """5.1: retries are in vain where different targets failed, not where one failed often."""
    breaker = Breaker("x")
    for now in range(100):
        breaker.failed("sick", float(now), surely=False)
    known = [breaker.is_failing]
    for target in "abc":
        breaker.failed(target, 100.0, surely=False)
    known.append(breaker.is_failing)
    breaker.worked("well", 101.0)
    for target in "abc":
        breaker.failed(target, 102.0, surely=False)
    assert [*known, breaker.is_failing] == [False, True, False]  # of these it is known in the end that they fail


def test_a_refused_connection_is_no_chance() -> None:
    """5.1: where no connection comes about, one target is enough."""
    breaker = Breaker("x")
    breaker.failed("a", 1.0, surely=True)
    assert breaker.is_failing
    breaker.worked("b", 2.0)
    assert not breaker.is_failing


# --- what one request knows ---------------------------------------------------------------------------------


def waiting(breaker: Breaker, target: str, sent_at: float, limit_s: float = 30.0) -> Wait:
    wait = breaker.wait("listing", target)
    wait.limit_s = limit_s
    wait.sent(sent_at)
    return wait


def test_a_request_that_queued_says_nothing() -> None:
    """5.1: one that was never sent, or only at the end of its time, is no sign of anything."""
    breaker = Breaker("x")
    breaker.asked(True)
    never_sent = breaker.wait("listing", "a")
    never_sent.limit_s = 30.0
    never_sent.timed_out(30.0)
    waiting(breaker, "b", 16.0).timed_out(30.0)
    assert not breaker.is_open("listing")
    assert not any(breaker.has_stalled(target, 30.0) for target in "ab")


def test_a_time_out_and_another_attempt_are_one_wait() -> None:
    """5.1: connections that do not come about within ten seconds each are a silence of thirty."""
    breaker = Breaker("x")
    breaker.asked(True)
    wait = waiting(breaker, "a", 0.0)
    wait.sent(10.0)
    wait.sent(20.0)
    wait.timed_out(30.0)
    assert breaker.is_open("listing")


@pytest.mark.parametrize("size_bytes", [1, 400])
def test_a_drip_is_a_sick_object_of_a_live_service(size_bytes: int) -> None:
    """5.1: less than 16 KiB in a deadline is no progress of that object, and a sign of life all the same."""
    breaker = Breaker("x")
    breaker.asked(True)
    wait = waiting(breaker, "a", 0.0)
    for now in range(1, 31):
        wait.heard(float(now), size_bytes)
    assert breaker.has_stalled("a", 30.0)
    assert not breaker.is_open("listing")
    wait.heard(31.0, 16 << 10)
    assert not breaker.has_stalled("a", 31.0)


def test_a_reader_that_takes_its_time_makes_no_drip() -> None:
    """5.1: as long as a reader is busy with what came, nothing is waited for."""
    breaker = Breaker("x")
    wait = waiting(breaker, "a", 0.0)
    wait.heard(1.0, 100)
    wait.pause(1.0)
    assert breaker.question_due_s(20.0) == 15.0
    wait.given_up(100.0)
    wait.resume(100.0)
    wait.heard(101.0, 100)
    assert not breaker.has_stalled("a", 101.0)


@pytest.mark.parametrize(("now", "sick"), [(5.0, False), (26.0, False), (29.0, True)])
def test_a_reader_that_gives_up(now: float, sick: bool) -> None:
    """5.1: a user's Ctrl-C says nothing; a reader whose own deadline ends a moment before the request's does."""
    breaker = Breaker("x")
    waiting(breaker, "a", 0.0).given_up(now)
    assert breaker.has_stalled("a", now) is sick


def test_when_to_ask_for_a_sign_of_life() -> None:
    """5.1: once nothing came of the service for half of the time that a request has; not of one that is not there."""
    breaker = Breaker("x")
    assert breaker.question_due_s(0.0) is None
    wait = waiting(breaker, "a", 10.0)
    assert breaker.question_due_s(10.0) == 15.0
    breaker.heard("listing", 20.0)
    assert breaker.question_due_s(30.0) == 5.0
    assert breaker.question_due_s(35.0) == 0.0
    breaker.asked(True)
    assert breaker.question_due_s(35.0) == 15.0
    wait.ended()
    assert breaker.question_due_s(36.0) is None


# --- requests -----------------------------------------------------------------------------------------------


def connect(nursery: trio.Nursery, *answers: Answer) -> tuple[Transport, Network, Breaker]:
    """Return a transport whose breaker asks for signs of life over another one, of the same network."""
    network, breaker, limits = Network(answers), Breaker("api.test"), RateLimits()
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
    assert not sender.has_room_ahead("listing")


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
    assert sender.has_room_ahead("listing")


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
