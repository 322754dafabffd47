"""artifactfs.modellab.transport against answers that would harm the loop, or the keys (semantics.md 5.1, 6.1, 6.4)."""

from collections.abc import AsyncIterator

import h11
import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab import h11_buffer
from artifactfs.modellab.models import decode_run, decode_run_listing, decode_runs
from artifactfs.settings import SETTINGS, drop_keys
from tests.transports import connect


class Crumbs(httpx.AsyncByteStream):
    """A body that comes at once, a byte at a time."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(20_000):
            yield b"x"


@pytest.mark.parametrize("way", ["get", "open", "decoded"])
async def test_a_body_of_single_bytes_leaves_turns_to_others(way: str, autojump_clock: MockClock) -> None:
    """5.1: chunks of a byte, all of which are there, do not stop another caller."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Crumbs())

    sender, _ = connect(answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        if way == "get":
            assert len(await sender.get("listing", "/x", deadline_s=30)) == 20_000
        else:
            stream = await sender.open("content", "/x", headers={}, deadline_s=30)
            pieces = stream.chunks() if way == "open" else stream.decoded()
            assert len([piece async for piece in pieces]) == 20_000
            await stream.aclose()
        nursery.cancel_scope.cancel()
    assert turns > 70


def test_heads_without_end() -> None:
    """6.4: a hundred heads that come at once are refused; spread over time they are only slow, and have a deadline."""
    head = b"HTTP/1.1 100 Continue\r\n\r\n"
    buffer = h11_buffer.ChunkedReceiveBuffer()
    for _ in range(300):
        buffer += head
        assert buffer.maybe_extract_lines() == [bytearray(b"HTTP/1.1 100 Continue")]
    buffer += head * 300
    for _ in range(100):
        assert buffer.maybe_extract_lines() is not None
    with pytest.raises(h11.RemoteProtocolError):
        buffer.maybe_extract_lines()


@pytest.mark.parametrize("padding", [0, 285, 290, 310])
async def test_keys_that_an_answer_repeats(padding: int, autojump_clock: MockClock) -> None:
    """6.1: a server that says what it was sent does not get it into a message, not even a part of it."""
    said = "x" * padding + " you sent api-s3cr3t and app-s3cr3t"
    for status in (400, 403, 500):
        sender, _ = connect(httpx.Response(status, json={"errors": [said]}))
        with pytest.raises(errors.ServiceError) as caught:
            await sender.get("run", "/x", deadline_s=30)
        assert "s3cr" not in str(caught.value)
        assert "api-" not in str(caught.value)


async def test_the_refusing_side_is_named(autojump_clock: MockClock) -> None:
    """5.3: a redirect that leads to where no server listens says where that is, and blames no other host."""
    refused = httpx.ConnectError("no")
    refused.__cause__ = ConnectionRefusedError()
    sender, _ = connect(refused)
    for url, host in (("https://storage.test:8443/x?signature=1", "storage.test:8443"), ("/x", "api.test")):
        with pytest.raises(errors.ConnectionRefused) as caught:
            await sender.open("storage", url, headers={}, deadline_s=30)
        assert str(caught.value).startswith(f"{host} refuses connections")


def test_texts_that_no_url_can_hold() -> None:
    """1.3, 6.4: a lone surrogate in what names a project or a prefix is an odd answer, and no bug."""
    run = b'{"data":{"id":"1","attributes":{"project_id":"\\ud800"}}}'
    with pytest.raises(errors.UnexpectedAnswer):
        decode_run(run)
    assert decode_runs(b'{"data":[' + run.removeprefix(b'{"data":').removesuffix(b"}") + b"]}").rows == []
    with pytest.raises(errors.UnexpectedAnswer):
        decode_run_listing(b'{"data":{"attributes":{"files":[],"path_in_project":"a/\\udfff"}}}')


def test_children_get_no_keys() -> None:
    """6.1: a process that a mount starts finds no key in its environment; everything else is as it was."""
    secret = [variable for setting in SETTINGS if not setting.flag for variable in setting.env]
    others = {"PATH": "/bin", "DD_SITE": "datadoghq.eu", "ARTIFACTFS_DEADLINE": "5s"}
    environ = others | dict.fromkeys(secret, "s3cr3t")
    drop_keys(environ)
    assert environ == others
    assert {"DD_API_KEY", "DD_APP_KEY", "DD_ACCESS_TOKEN", "DD_BEARER_TOKEN"} <= set(secret)
