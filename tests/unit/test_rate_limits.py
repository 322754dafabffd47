"""artifactfs.modellab.rate_limits: rate limits and the retry policy, as pure functions (docs/semantics.md 5.4)."""

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.modellab.rate_limits import RateLimits, reset_after_s
from artifactfs.modellab.retry import RETRIED, RetryPolicy
from artifactfs.util.backoff import backoff_s

WALL = 1_778_922_000.0


def limited(reset: str, name: str = "a", **more: str) -> dict[str, str]:
    """Return the headers of a 429."""
    headers = {"x-ratelimit-reset": reset, "x-ratelimit-name": name}
    return headers | {key.replace("_", "-"): value for key, value in more.items()}


@pytest.mark.parametrize("attempt", range(1, RetryPolicy().max_attempts + 1))
def test_backoff_has_full_jitter(attempt: int) -> None:
    """A pause is anything from nothing to a bound that doubles, at most 5 s."""
    spans: list[tuple[float, float]] = []

    def highest(low: float, high: float) -> float:
        spans.append((low, high))
        return high

    pause_s = backoff_s(attempt, highest)
    assert spans == [(0.0, pause_s)]
    assert pause_s == min(5.0, 0.2 * 2**attempt)
    assert 0 <= backoff_s(attempt) <= pause_s


def test_which_statuses_are_retried() -> None:
    """408, 429 and every 5xx but 501, which no retry changes."""
    assert set(RETRIED) == {408, 429, 500, *range(502, 600)}


# --- before the limit ---------------------------------------------------------------------------------------


def near(remaining: int, reset_s: int, limit: int = 100) -> RateLimits:
    """Return the limits of one answer, at time 0."""
    limits = RateLimits()
    headers = {"x-ratelimit-name": "a", "x-ratelimit-limit": str(limit), "x-ratelimit-remaining": str(remaining),
               "x-ratelimit-reset": str(reset_s)}  # fmt: skip
    limits.observe("listing", 200, headers, 0.0, WALL)
    return limits


@pytest.mark.parametrize(("remaining", "turns"), [(100, [0] * 4), (20, [0] * 4), (19, [0, 1 / 9, 2 / 9, 3 / 9])])
def test_requests_slow_down_before_the_limit(remaining: int, turns: list[float]) -> None:
    """5.4: with less than a fifth left, what is left is spread over the time to the reset."""
    limits = near(remaining, reset_s=2)
    found = [limits.turn_s("listing", 0.0) for _ in range(4)]
    assert found == pytest.approx(turns, abs=0.03)


def test_a_lone_request_near_the_limit_goes_at_once() -> None:
    """5.4: a person who looks now and then waits for nothing, however little is left."""
    limits = near(5, reset_s=1000)
    assert [limits.turn_s("listing", 10.0 * number) for number in range(4)] == [0] * 4


def test_a_short_wait_for_the_request_before() -> None:
    """5.4: the pace is never below one request a second, and over when the limit is reset."""
    limits = near(2, reset_s=1000)
    assert [limits.turn_s("listing", 0.0) for _ in range(4)] == [0, 1, 2, 3]
    assert limits.turn_s("listing", 1001.0) == 0
    assert limits.turn_s("content", 0.0) == 0  # of another limit, as far as is known


# --- the reset ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "reset_s"),
    [
        ({}, None), ({"x-ratelimit-reset": "7"}, 7.0), ({"x-ratelimit-reset": "0"}, 0.0), ({"retry-after": "9"}, 9.0),
        ({"x-ratelimit-reset": "7", "retry-after": "9"}, 9.0), ({"x-ratelimit-reset": "9", "retry-after": "7"}, 9.0),
        ({"x-ratelimit-reset": "soon"}, None), ({"x-ratelimit-reset": "-5"}, None),
        ({"x-ratelimit-reset": "nan"}, None),
        ({"x-ratelimit-reset": "inf"}, None), ({"x-ratelimit-reset": "1778922060"}, None), ({"retry-after": "x"}, None),
        ({"x-ratelimit-reset": "1.5"}, 1.5), ({"x-ratelimit-reset": ""}, None), ({"retry-after": ""}, None),
        ({"retry-after": "Mon, 01 Jan 2026 00:00:00 +99999999999999999"}, None),
    ],
)  # fmt: skip
def test_the_reset_that_an_answer_names(headers: dict[str, str], reset_s: float | None) -> None:
    """Seconds until the reset, not a time; Retry-After is honoured; the longer counts; nonsense is nothing."""
    assert reset_after_s(headers, WALL) == reset_s


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Tokyo", "UTC"])
def test_a_date_without_a_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """5.4: it is of UTC, wherever this machine is."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", zone)
        time.tzset()
        when = time.asctime(time.gmtime(WALL + 30))
        assert reset_after_s({"retry-after": when}, WALL) == 30.0
    time.tzset()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "120, 120"}, 120.0),
        ({"retry-after": "5, 120"}, 120.0),
        ({"x-ratelimit-reset": "7,9"}, 9.0),
        ({"retry-after": "5, x"}, None),
        ({"retry-after": "5, -1"}, None),
    ],
)
def test_a_header_that_came_twice(headers: dict[str, str], seconds: float | None) -> None:
    """5.4: of what a gateway and its backend say, the longer pause counts."""
    assert reset_after_s(headers, WALL) == seconds


def test_retry_after_as_a_date() -> None:
    """A proxy's Retry-After may be an HTTP date; one that has passed is now."""
    soon = email.utils.formatdate(WALL + 30, usegmt=True)
    assert reset_after_s({"retry-after": soon}, WALL) == 30.0
    assert reset_after_s({"retry-after": soon}, WALL + 60) == 0.0


@pytest.mark.parametrize("ahead_s", [0, 60, -3600])
def test_retry_after_as_a_date_goes_by_the_clock_of_the_server(ahead_s: int) -> None:
    """5.4: where the answer has a Date, a wrong clock of this machine changes nothing."""
    sent, until = (email.utils.formatdate(WALL - ahead_s + seconds, usegmt=True) for seconds in (0, 20))
    assert reset_after_s({"date": sent, "retry-after": until}, WALL) == 20.0
    assert reset_after_s({"date": "x", "retry-after": until}, WALL - ahead_s) == 20.0


@given(st.text(max_size=40))
def test_any_header_is_a_time_or_nothing(text: str) -> None:
    """No header raises, and none makes a pause that is negative or infinite."""
    date = email.utils.formatdate(WALL, usegmt=True)
    for headers in ({"x-ratelimit-reset": text}, {"retry-after": text}, {"retry-after": date, "date": text}):
        reset_s = reset_after_s(headers, WALL)
        assert reset_s is None or 0 <= reset_s < float("inf")


# --- who must wait ------------------------------------------------------------------------------------------


def test_a_throttled_endpoint_waits_until_the_reset() -> None:
    """5.4: not before the reset that the server named, and then it may."""
    limits = RateLimits()
    limits.observe("listing", 429, limited("10"), 100.0, WALL)
    assert limits.pause_s("listing", 100.0) == 10.0
    assert limits.pause_s("listing", 109.5) == 0.5
    assert limits.pause_s("listing", 110.0) == 0.0


def test_all_requests_under_one_name_wait() -> None:
    """5.4: nor any other under the same X-RateLimit-Name; other names go on."""
    limits = RateLimits()
    limits.observe("run", 200, {"x-ratelimit-name": "a"}, 100.0, WALL)
    limits.observe("content", 200, {"x-ratelimit-name": "b"}, 100.0, WALL)
    limits.observe("listing", 429, limited("10", "a"), 100.0, WALL)
    assert limits.pause_s("run", 100.0) == 10.0
    assert limits.pause_s("content", 100.0) == 0.0
    assert limits.pause_s("never asked", 100.0) == 0.0


def test_a_proxys_429_without_a_name_counts() -> None:
    """5.4: a request that was throttled without a name is not sent again before Retry-After either."""
    limits = RateLimits()
    limits.observe("listing", 200, {"x-ratelimit-name": "a"}, 100.0, WALL)
    limits.observe("listing", 429, {"retry-after": "20"}, 100.0, WALL)
    assert limits.pause_s("listing", 100.0) == 20.0
    fresh = RateLimits()
    fresh.observe("listing", 429, {"retry-after": "20"}, 100.0, WALL)
    assert fresh.pause_s("listing", 100.0) == 20.0


def test_a_429_without_a_reset() -> None:
    """5.4: some seconds, rather than at once."""
    limits = RateLimits()
    limits.observe("listing", 429, {}, 100.0, WALL)
    assert limits.pause_s("listing", 100.0) == 5.0


def test_nothing_left_of_the_limit() -> None:
    """5.4: `Remaining: 0` on a 200 says that the next one would be throttled."""
    limits = RateLimits()
    limits.observe("listing", 200, limited("10", x_ratelimit_remaining="0"), 100.0, WALL)
    assert limits.pause_s("listing", 100.0) == 10.0
    limits = RateLimits()
    limits.observe("listing", 200, limited("10", x_ratelimit_remaining="1"), 100.0, WALL)
    limits.observe("listing", 200, {"x-ratelimit-remaining": "0"}, 100.0, WALL)
    assert limits.pause_s("listing", 100.0) == 0.0


def test_a_reset_beyond_the_period_is_probed_after_the_period() -> None:
    """5.4: a reset that lies further away than the named period makes no sense: ask again after the period."""
    limits = RateLimits()
    limits.observe("listing", 429, limited("3600", x_ratelimit_period="60"), 100.0, WALL)
    assert limits.pause_s("listing", 100.0) == 60.0
    for period in ("0", "x", "-1"):
        limits = RateLimits()
        limits.observe("listing", 429, limited("3600", x_ratelimit_period=period), 100.0, WALL)
        assert limits.pause_s("listing", 100.0) == 3600.0


def test_the_latest_reset_counts() -> None:
    """5.4: an answer that comes late does not shorten a pause."""
    limits = RateLimits()
    limits.observe("listing", 429, limited("30"), 100.0, WALL)
    limits.observe("listing", 429, limited("5"), 101.0, WALL)
    assert limits.pause_s("listing", 101.0) == 29.0


@pytest.mark.parametrize("throttled", [limited("600", "org"), {"retry-after": "600"}])
def test_an_answer_that_names_another_limit_ends_no_pause(throttled: dict[str, str]) -> None:
    """5.4: an endpoint that was throttled under one name, or none, waits whatever name its other answers have."""
    limits = RateLimits()
    limits.observe("listing", 429, throttled, 100.0, WALL)
    limits.observe("listing", 200, {"x-ratelimit-name": "user"}, 101.0, WALL)
    assert limits.pause_s("listing", 101.0) == 599.0
    assert limits.is_near("listing", 101.0)
    assert limits.pause_s("listing", 700.0) == 0.0
    # Other endpoints under that other name go on; of two pauses the later counts.
    limits.observe("run", 200, {"x-ratelimit-name": "user"}, 101.0, WALL)
    assert limits.pause_s("run", 101.0) == 0.0
    limits.observe("run", 429, limited("900", "user"), 101.0, WALL)
    assert limits.pause_s("listing", 101.0) == 900.0


def test_ordinary_answers_delay_no_request() -> None:
    """Rate-limit headers come on 200s too, and 404s and 500s are no throttling."""
    limits = RateLimits()
    for status in (200, 206, 302, 403, 404, 500, 503):
        limits.observe("listing", status, limited("30", x_ratelimit_remaining="99"), 100.0, WALL)
    assert limits.pause_s("listing", 100.0) == 0.0


# --- whether little is left ---------------------------------------------------------------------------------


def left(remaining: str, limit: str = "100", reset: str = "30", name: str = "a") -> dict[str, str]:
    """Return the headers of an answer that tells how much is left of a limit."""
    told = {"limit": limit, "remaining": remaining, "reset": reset, "name": name}
    return {f"x-ratelimit-{key}": value for key, value in told.items() if value}


@pytest.mark.parametrize(
    ("headers", "is_near"),
    [
        (left("100"), False), (left("21"), False), (left("20"), False), (left("19"), True), (left("0"), True),
        (left("999", "6000"), True), (left("1200", "6000"), False), (left("1", "5"), False), (left("0", "5"), True),
        # What does not say how much of how many says nothing.
        ({}, False), (left("", "100"), False), (left("5", ""), False), (left("5", "0"), False), (left("x"), False),
        (left("-5"), False), (left("5", "nan"), False),
    ],
)  # fmt: skip
def test_little_is_left(headers: dict[str, str], is_near: bool) -> None:
    """5.4: when less than a fifth of a limit is left, nothing is requested ahead; other requests may go."""
    limits = RateLimits()
    assert not limits.is_near("listing", 0.0)
    limits.observe("listing", 200, headers, 0.0, WALL)
    assert limits.is_near("listing", 0.0) is is_near
    if headers.get("x-ratelimit-remaining") != "0":
        assert limits.pause_s("listing", 0.0) == 0.0


def test_it_is_near_until_the_reset() -> None:
    """5.4: until the reset that the answer named, or a later answer that says there is more again."""
    limits = RateLimits()
    limits.observe("listing", 200, left("5", reset="30"), 100.0, WALL)
    assert [limits.is_near("listing", now) for now in (100.0, 129.9, 130.1)] == [True, True, False]
    limits.observe("listing", 200, left("5", reset="30"), 200.0, WALL)
    limits.observe("listing", 200, left("95", reset="60"), 210.0, WALL)
    assert not limits.is_near("listing", 211.0)
    # Without a reset: for a while.
    limits.observe("listing", 200, left("5", reset=""), 300.0, WALL)
    assert [limits.is_near("listing", now) for now in (304.9, 305.1)] == [True, False]


def test_a_throttled_client_is_near_its_limit() -> None:
    """5.4: as long as a limit is used up it is near, whatever else the answer says."""
    limits = RateLimits()
    limits.observe("listing", 429, limited("10"), 0.0, WALL)
    assert [limits.is_near("listing", now) for now in (0.0, 9.9, 10.1)] == [True, True, False]


def test_limits_are_near_by_name() -> None:
    """5.4: what little is left of one limit says nothing of another; kinds of requests may share one."""
    limits = RateLimits()
    limits.observe("listing", 200, left("5", name="a"), 0.0, WALL)
    limits.observe("run", 200, left("95", name="b"), 0.0, WALL)
    limits.observe("index", 200, {"x-ratelimit-name": "a"}, 0.0, WALL)
    assert limits.is_near("listing", 1.0)
    assert limits.is_near("index", 1.0)
    assert not limits.is_near("run", 1.0)
    assert not limits.is_near("never asked", 1.0)


# --- how many -----------------------------------------------------------------------------------------------


def test_a_name_for_each_answer_takes_no_memory() -> None:
    """5.4: of names without end the ones that are over first are forgotten, and a pause is not."""
    limits = RateLimits()
    limits.observe("run", 429, limited("600", "org"), 0.0, WALL)
    for number in range(1, 5_000):
        limits.observe("listing", 200, left("50", reset="30", name=f"request-{number}"), number / 100, WALL)
    limits.observe("content", 200, {"x-ratelimit-name": "org"}, 50.0, WALL)
    assert len(limits.states(50.0)) <= 100
    assert limits.pause_s("run", 50.0) == 550.0
    assert limits.pause_s("content", 50.0) == 550.0
