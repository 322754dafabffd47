"""artifactfs.modellab.transport: rate limits, and bodies beyond the size limits (docs/semantics.md 5.4, 6.4)."""

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.size_limits import SizeLimits
from tests.transports import ABANDONED, OK, connect, limited

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


async def test_no_request_before_the_reset(autojump_clock: MockClock) -> None:
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


@pytest.mark.parametrize("left", [0, 1])
async def test_a_limit_of_the_api_holds_no_request_to_another_origin(left: int, autojump_clock: MockClock) -> None:
    """5.4: what the API's redirect has just granted is fetched at once from the storage: it has other limits."""
    headers = {"X-RateLimit-Name": "a", "X-RateLimit-Limit": "100", "X-RateLimit-Remaining": str(left)}
    redirect = httpx.Response(302, headers=headers | {"X-RateLimit-Reset": "40"})
    sender, network = connect(redirect, OK)
    api, storage = "https://api.test/x", "https://storage.test/x"
    await (await sender.open("content", api, headers={}, deadline_s=30, expected={302})).aclose()
    for _ in range(3):
        await (await sender.open("content", storage, headers={}, deadline_s=30)).aclose()
    assert network.times == [0.0] * 4
    assert sender.cost().paused_s == 0
    if left == 0:
        with pytest.raises(errors.RateLimited):
            await sender.open("content", api, headers={}, deadline_s=30)
    assert len(network.requests) == 4


async def test_a_throttled_request_to_another_origin_is_tried_again(autojump_clock: MockClock) -> None:
    """5.4: a 429 of the storage, while a limit of the API is used up, is repeated after a backoff, not at once."""
    used_up = httpx.Response(200, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "40"})
    sender, network = connect(used_up, httpx.Response(429), OK)
    await (await sender.open("content", "https://api.test/x", headers={}, deadline_s=30)).aclose()
    await (await sender.open("content", "https://storage.test/x", headers={}, deadline_s=30)).aclose()
    assert network.times == pytest.approx([0.0, 0.0, 0.4])


@pytest.mark.parametrize("status", [408, 500, 503, 504])
async def test_retry_after_of_a_failure(status: int, autojump_clock: MockClock) -> None:
    """5.4: what a proxy names with a 503, say, is waited for; past the deadline the request fails at once."""
    sender, network = connect(httpx.Response(status, headers={"Retry-After": "20"}), OK)
    assert await sender.get("run", "/x", deadline_s=30) == b"body"
    assert network.times == pytest.approx([0.0, 20.0])
    # Without effect where it is shorter than the backoff.
    sender, network = connect(httpx.Response(status, headers={"Retry-After": "0"}), OK)
    await sender.get("run", "/x", deadline_s=30)
    assert network.times == pytest.approx([20.0, 20.4])
    sender, network = connect(httpx.Response(status, headers={"Retry-After": "40"}), OK)
    with pytest.raises(errors.PassingError, match=f"answered {status}"):
        await sender.get("run", "/x", deadline_s=30)
    assert network.times == pytest.approx([20.4])
    # Other requests were not throttled.
    assert await sender.get("run", "/y", deadline_s=30) == b"body"


async def test_retry_after_of_another_origin(autojump_clock: MockClock) -> None:
    """5.4: a storage's 429 names its own pause, which holds no request to the API."""
    sender, network = connect(httpx.Response(429, headers={"Retry-After": "20"}), OK)
    await (await sender.open("content", "https://storage.test/x", headers={}, deadline_s=30)).aclose()
    assert network.times == pytest.approx([0.0, 20.0])
    sender, _ = connect(httpx.Response(429, headers={"Retry-After": "40"}), OK)
    with pytest.raises(errors.RateLimited) as caught:
        await sender.open("content", "https://storage.test/x", headers={}, deadline_s=30)
    assert caught.value.reset_s == 40
    assert await sender.get("content", "/x", deadline_s=30) == b"body"


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
