"""artifactfs.modellab.circuit_breaker: a dead service costs one wait, a sick object only its readers (5.1)."""

import pytest

from artifactfs.modellab.circuit_breaker import CircuitBreaker, PendingRequest


def silent(breaker: CircuitBreaker, *targets: str, since: float = 0.0, now: float = 30.0) -> None:
    """Let requests for these targets run into their deadlines, of which nothing came."""
    for target in targets:
        breaker.on_timeout("listing", target, now, since)


def test_all_is_well() -> None:
    """Requests may wait as long as they want."""
    breaker = CircuitBreaker("x")
    assert [breaker.acquire("listing", "a", now, 30.0) for now in (0, 1, 100)] == [30.0] * 3
    assert not breaker.is_open("listing")


@pytest.mark.parametrize("times", [1, 2, 100])
def test_one_target_that_stalls_is_no_dead_service(times: int) -> None:
    """5.1: however often one target runs into its deadline, the service is not judged by it."""
    breaker = CircuitBreaker("x")
    silent(breaker, *["sick"] * times)
    assert not breaker.is_open("listing")
    assert breaker.has_stalled("sick", 31.0)
    assert breaker.acquire("listing", "well", 31.0, 30.0) == 30.0


def test_a_second_target_tells() -> None:
    """5.1: two different targets of which nothing came, and nothing else either: no server answers."""
    breaker = CircuitBreaker("x")
    silent(breaker, "a", "b")
    assert breaker.is_open("listing")


@pytest.mark.parametrize("kind", ["run", "project"])
def test_what_is_looked_up_one_at_a_time_is_not_refused(kind: str) -> None:
    """5.1: runs that stall refuse no other run; a run that stalled before has little time, so that others come on."""
    breaker = CircuitBreaker("x")
    for now, target in ((4.0, "a"), (8.0, "b")):
        breaker.on_activity("listing", now - 2)
        breaker.on_timeout(kind, target, now, now - 4)
    # The first of them may have the turn of a probe; none is refused, and none has the whole deadline at first.
    assert [breaker.acquire(kind, target, 8.0, 4.0) for target in "cdea"] == [2.0, 1.0, 1.0, 1.0]
    breaker.on_activity(kind, 9.0)
    assert breaker.acquire(kind, "c", 9.0, 4.0) == 4.0
    # It stalled before: a short turn, then less.
    assert [breaker.acquire(kind, "a", now, 4.0) for now in (20.0, 21.0)] == [2.0, 1.0]


@pytest.mark.parametrize("others", [["runs"], ["runs", "listing"]])
def test_one_kind_of_requests_may_be_dead(others: list[str]) -> None:
    """5.1: contents of which none comes fail at once, except for probes, while listings are answered."""
    breaker = CircuitBreaker("x")
    for now, target in ((30.0, "a"), (60.0, "b")):
        for kind in others:
            breaker.on_activity(kind, now - 15)
        breaker.on_timeout("content", target, now, now - 30)
    assert [breaker.is_open(kind) for kind in ("content", "listing")] == [True, False]
    assert breaker.silent_since == 30.0
    assert breaker.acquire("listing", "a", 60.0, 30.0) == 30
    assert [breaker.acquire("content", target, 60.0, 30.0) for target in "cd"] == [2.5, None]
    breaker.on_activity("listing", 61.0)
    assert breaker.is_open("content")
    breaker.on_activity("content", 62.0)
    assert breaker.acquire("content", "d", 62.0, 30.0) == 30


def test_our_own_question_tells() -> None:
    """5.1: one target, and a question of our own that is not answered: no server answers."""
    breaker = CircuitBreaker("x")
    breaker.set_probe_pending(True)
    silent(breaker, "a")
    assert breaker.is_open("listing")


def test_a_question_that_failed_tells_nothing() -> None:
    """5.1: a question that was refused at once is no silence."""
    breaker = CircuitBreaker("x")
    breaker.set_probe_pending(True)
    breaker.set_probe_pending(False)
    silent(breaker, "a")
    assert not breaker.is_open("listing")


@pytest.mark.parametrize("asked", [True, False])
def test_after_a_silence_only_probes_go(asked: bool) -> None:
    """5.1: at most one in 5 s; the first at once. They have a second where our own question went unanswered, else a
    little more; every other one has all of its deadline."""
    breaker = CircuitBreaker("x")
    breaker.set_probe_pending(asked)
    silent(breaker, "a", "b")
    went = {
        now / 10: limit_s
        for now in range(300, 700)
        if (limit_s := breaker.acquire("listing", f"c{now}", now / 10, 30.0)) is not None
    }
    short_s = 1 if asked else 2.5
    assert went == {30: short_s, 35: 30, 40: short_s, 45: 30, 50: short_s, 55: 30, 60: short_s, 65: 30}


def test_what_stalled_takes_no_turn_of_others() -> None:
    """5.1: a target that stalled before probes too, where no other does, and never in place of another."""
    breaker = CircuitBreaker("x")
    silent(breaker, "a", "b")
    assert breaker.acquire("listing", "a", 30.0, 30.0) == 2.5
    assert breaker.acquire("listing", "b", 30.0, 30.0) is None
    assert breaker.acquire("listing", "c", 30.1, 30.0) == 2.5
    assert breaker.acquire("listing", "d", 30.2, 30.0) is None
    assert breaker.acquire("listing", "a", 35.05, 30.0) is None  # c's answer will tell it
    assert breaker.acquire("listing", "a", 35.2, 30.0) == 30


def test_a_probe_never_has_a_whole_deadline_at_first() -> None:
    """5.1: the first two together stay below two deadlines, however short that is."""
    breaker = CircuitBreaker("x")
    silent(breaker, "a", "b")
    assert breaker.acquire("listing", "c", 1.0, 0.5) == 0.25


@pytest.mark.parametrize("heard_at", [0.1, 15.0, 30.0])
def test_a_service_that_answers_others_is_not_dead(heard_at: float) -> None:
    """5.1: directories that stall, however many, fail no request for another."""
    breaker = CircuitBreaker("x")
    breaker.on_activity("listing", heard_at)
    silent(breaker, *"abcdef")
    assert breaker.acquire("listing", "g", 30.0, 30.0) == 30.0


def test_anything_that_comes_ends_it() -> None:
    """5.1: until a probe is answered, or an older request; the next silence begins with nothing known of it."""
    breaker = CircuitBreaker("x")
    silent(breaker, "a", "b")
    for now, limit_s in ((30.0, 2.5), (40.0, 30), (50.0, 2.5)):
        assert breaker.acquire("listing", "c", now, 30.0) == limit_s
    breaker.on_activity("listing", 51.0)
    assert breaker.acquire("listing", "c", 51.0, 30.0) == 30.0
    silent(breaker, "a", since=51.0)
    assert not breaker.is_open("listing")
    silent(breaker, "d", since=51.0)
    assert breaker.acquire("listing", "e", 80.0, 30.0) == 2.5
    assert breaker.acquire("listing", "f", 80.0, 30.0) is None


def test_a_second_silence_changes_nothing() -> None:
    """5.1: sixteen requests that time out together are one dead service."""
    breaker = CircuitBreaker("x")
    silent(breaker, "a", "b")
    assert breaker.acquire("listing", "x", 30.0, 30.0) == 2.5
    silent(breaker, "a", "b", "c", "d")
    assert breaker.acquire("listing", "y", 30.0, 30.0) is None


def test_a_target_is_sick_until_it_answers() -> None:
    """5.1: and not for ever."""
    breaker = CircuitBreaker("x")
    silent(breaker, "a", "b")
    breaker.answered("a")
    assert (breaker.has_stalled("a", 31.0), breaker.has_stalled("b", 31.0)) == (False, True)
    assert not breaker.has_stalled("b", 10_000.0)


def test_one_target_that_always_fails_costs_others_no_retries() -> None:
    """5.1: retries are in vain where different targets failed, not where one failed often."""
    breaker = CircuitBreaker("x")
    for now in range(100):
        breaker.on_failure("sick", float(now), surely=False)
    known = [breaker.is_failing]
    for target in "abc":
        breaker.on_failure(target, 100.0, surely=False)
    known.append(breaker.is_failing)
    breaker.on_success("well", 101.0)
    for target in "abc":
        breaker.on_failure(target, 102.0, surely=False)
    assert [*known, breaker.is_failing] == [False, True, False]  # of these it is known in the end that they fail


def test_a_refused_connection_is_no_chance() -> None:
    """5.1: where no connection comes about, one target is enough."""
    breaker = CircuitBreaker("x")
    breaker.on_failure("a", 1.0, surely=True)
    assert breaker.is_failing
    breaker.on_success("b", 2.0)
    assert not breaker.is_failing


# --- what one request knows ---------------------------------------------------------------------------------


def waiting(breaker: CircuitBreaker, target: str, sent_at: float, limit_s: float = 30.0) -> PendingRequest:
    wait = breaker.wait("listing", target)
    wait.limit_s = limit_s
    wait.sent(sent_at)
    return wait


def test_a_request_that_queued_says_nothing() -> None:
    """5.1: one that was never sent, or only at the end of its time, is no sign of anything."""
    breaker = CircuitBreaker("x")
    breaker.set_probe_pending(True)
    never_sent = breaker.wait("listing", "a")
    never_sent.limit_s = 30.0
    never_sent.timed_out(30.0)
    waiting(breaker, "b", 16.0).timed_out(30.0)
    assert not breaker.is_open("listing")
    assert not any(breaker.has_stalled(target, 30.0) for target in "ab")


def test_a_time_out_and_another_attempt_are_one_wait() -> None:
    """5.1: connections that do not come about within ten seconds each are a silence of thirty."""
    breaker = CircuitBreaker("x")
    breaker.set_probe_pending(True)
    wait = waiting(breaker, "a", 0.0)
    wait.sent(10.0)
    wait.sent(20.0)
    wait.timed_out(30.0)
    assert breaker.is_open("listing")


@pytest.mark.parametrize("size_bytes", [1, 400])
def test_a_drip_is_a_sick_object_of_a_live_service(size_bytes: int) -> None:
    """5.1: less than 16 KiB in a deadline is no progress of that object, and a sign of life all the same."""
    breaker = CircuitBreaker("x")
    breaker.set_probe_pending(True)
    wait = waiting(breaker, "a", 0.0)
    for now in range(1, 31):
        wait.on_activity(float(now), size_bytes)
    assert breaker.has_stalled("a", 30.0)
    assert not breaker.is_open("listing")
    wait.on_activity(31.0, 16 << 10)
    assert not breaker.has_stalled("a", 31.0)


def test_a_reader_that_takes_its_time_makes_no_drip() -> None:
    """5.1: as long as a reader is busy with what came, nothing is waited for."""
    breaker = CircuitBreaker("x")
    wait = waiting(breaker, "a", 0.0)
    wait.on_activity(1.0, 100)
    wait.pause(1.0)
    assert breaker.probe_due_s(20.0) == 15.0
    wait.given_up(100.0)
    wait.resume(100.0)
    wait.on_activity(101.0, 100)
    assert not breaker.has_stalled("a", 101.0)


@pytest.mark.parametrize(("now", "sick"), [(5.0, False), (26.0, False), (29.0, True)])
def test_a_reader_that_gives_up(now: float, sick: bool) -> None:
    """5.1: a user's Ctrl-C says nothing; a reader whose own deadline ends a moment before the request's does."""
    breaker = CircuitBreaker("x")
    waiting(breaker, "a", 0.0).given_up(now)
    assert breaker.has_stalled("a", now) is sick


def test_when_to_ask_for_a_sign_of_life() -> None:
    """5.1: once nothing came of the service for half of the time that a request has; not of one that is not there."""
    breaker = CircuitBreaker("x")
    assert breaker.probe_due_s(0.0) is None
    wait = waiting(breaker, "a", 10.0)
    assert breaker.probe_due_s(10.0) == 15.0
    breaker.on_activity("listing", 20.0)
    assert breaker.probe_due_s(30.0) == 5.0
    assert breaker.probe_due_s(35.0) == 0.0
    breaker.set_probe_pending(True)
    assert breaker.probe_due_s(35.0) == 15.0
    wait.ended()
    assert breaker.probe_due_s(36.0) is None
