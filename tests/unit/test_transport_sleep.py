"""artifactfs.modellab.transport: connections that a sleeping machine leaves behind (docs/semantics.md 3.2, 5.1)."""

from typing import ClassVar

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs.modellab.transport import Transport
from artifactfs.modellab.unsolicited import GuardedStream
from tests.fakes import TurnedClock
from tests.transports import KEYS


class Pool(httpx.AsyncBaseTransport):
    """In place of httpx's: keeps every one that was made, what was asked of it, and whether it was closed."""

    made: ClassVar[list["Pool"]] = []

    def __init__(self, **_settings: object) -> None:
        self.asked = 0
        self.closed = False
        Pool.made.append(self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        stream = GuardedStream.__new__(GuardedStream)  # as if the answer had come by one
        return httpx.Response(200, content=b"body", extensions={"network_stream": stream})

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Pool]:
    monkeypatch.setattr(Pool, "made", [])
    monkeypatch.setattr(httpx, "AsyncHTTPTransport", Pool)
    return Pool.made


def told(pools: list[Pool]) -> list[tuple[int, bool]]:
    return [(pool.asked, pool.closed) for pool in pools]


async def test_after_a_night_nothing_goes_to_an_old_connection(pools: list[Pool], autojump_clock: MockClock) -> None:
    """5.1: a machine that slept has dead connections: they are replaced before they are used."""
    clock = TurnedClock()
    sender = Transport("https://api.test", KEYS, clock=clock)
    for pause_s in (0, 29, 29, 8 * 3600, 1):
        clock.sleep_machine(pause_s)
        assert await sender.get("run", "/x", deadline_s=30) == b"body"
    assert told(pools) == [(3, True), (2, False)]
    await sender.aclose()
    assert told(pools) == [(3, True), (2, True)]


@pytest.mark.parametrize("shared", [False, True])
async def test_what_is_under_way_keeps_its_connection(
    shared: bool, pools: list[Pool], autojump_clock: MockClock
) -> None:
    """5.1: a body that a transport on the same connections reads is not cut off by that; they are closed after it."""
    clock = TurnedClock()
    sender = Transport("https://api.test", KEYS, clock=clock)
    reader = Transport("https://api.test", KEYS, clock=clock, shares=sender) if shared else sender
    stream = await reader.open("content", "/x", headers={}, deadline_s=30)
    clock.sleep_machine(60)
    await sender.get("run", "/x", deadline_s=30)
    assert told(pools) == [(1, False), (1, False)]
    assert b"".join([chunk async for chunk in stream.chunks()]) == b"body"
    await stream.aclose()
    await sender.get("run", "/x", deadline_s=30)
    assert told(pools) == [(1, True), (2, False)]
    await sender.aclose()
    assert told(pools) == [(1, True), (2, True)]


async def test_a_body_that_goes_on_for_hours_keeps_no_other_connection() -> None:
    """5.5: while one body is read, a request now and then leaves no idle connections behind."""
    open_now = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal open_now
        open_now += 1
        received = b""
        while received := received + await stream.receive_some():
            head, is_whole, received = received.partition(b"\r\n\r\n")
            # Of the long body only the first byte comes.
            size = b"1000" if b"/long" in head else b"1"
            assert is_whole
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: " + size + b"\r\n\r\nx")
        open_now -= 1

    clock = TurnedClock()
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        sender = Transport(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", KEYS, clock=clock)
        stream = await sender.open("content", "/long", headers={}, deadline_s=30)
        for _ in range(10):
            clock.sleep_machine(31)
            assert await sender.get("run", "/x", deadline_s=30) == b"x"
        # That of the body, the last one, and one whose end has not been seen here yet.
        assert open_now <= 3
        await stream.aclose()
        await sender.aclose()
        nursery.cancel_scope.cancel()
