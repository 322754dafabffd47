"""artifactfs.modellab.transport: where keys go, and how the way there fails (docs/semantics.md 5.3, 6.1).

The failures are real ones, on this process's own loopback, so that the chain of exceptions is what httpx makes of
them. Nothing waits: pauses between attempts are taken away.
"""

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import trio

from artifactfs import errors
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.connections import tls_context
from artifactfs.modellab.retry import RetryPolicy
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret

KEYS = Credentials(Secret("api-s3cr3t"), Secret("app-s3cr3t"))


NO_PAUSES = RetryPolicy(backoff_s=lambda _attempt: 0.0)


@contextlib.asynccontextmanager
async def sending(url: str, **more: str | None) -> AsyncIterator[Transport]:
    sender = Transport(url, KEYS, clock=trio.current_time, retry_policy=NO_PAUSES, **more)  # type: ignore[arg-type]  # proxy and ca_file
    try:
        yield sender
    finally:
        await sender.aclose()


class Heard:
    """What a listener on loopback was sent."""

    def __init__(self) -> None:
        self.connections = 0
        self.text = b""


@contextlib.asynccontextmanager
async def listening(answer: Callable[[trio.SocketStream], Awaitable[None]] | bytes) -> AsyncIterator[tuple[str, Heard]]:
    """Listen on loopback; yield its "127.0.0.1:port" and what was heard. Answers each connection once."""
    heard = Heard()

    async def serve(stream: trio.SocketStream) -> None:
        heard.connections += 1
        heard.text += await stream.receive_some(65536)
        if isinstance(answer, bytes):
            await stream.send_all(answer)
        else:
            await answer(stream)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"127.0.0.1:{port}", heard
        nursery.cancel_scope.cancel()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"


# --- where keys go ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    """6.1: keys go to the configured origin and nowhere else: not to where a redirect points."""
    async with listening(OK) as (elsewhere, heard):
        location = b"HTTP/1.1 %d Found\r\nLocation: http://%b/\r\nContent-Length: 0\r\n\r\n" % (
            status,
            elsewhere.encode(),
        )
        async with listening(location) as (here, _), sending(f"http://{here}") as sender:
            with pytest.raises(errors.UnexpectedAnswer, match="redirect that is not followed"):
                await sender.get("run", "/x", deadline_s=30)
    assert heard.connections == 0


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_a_proxy_from_the_environment_sees_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.1: proxy settings are read by us: httpx would send loopback's keys through HTTP_PROXY."""
    async with listening(OK) as (proxy, heard), listening(OK) as (here, _):
        monkeypatch.setenv(name, f"http://{proxy}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with sending(f"http://{here}") as sender:
            assert await sender.get("run", "/x", deadline_s=30) == b"body"
    assert heard.connections == 0


async def test_loopback_never_goes_through_a_proxy() -> None:
    """6.1: not even through the one that was configured."""
    async with (
        listening(OK) as (proxy, heard),
        listening(OK) as (here, _),
        sending(f"http://{here}", proxy=f"http://{proxy}") as sender,
    ):
        assert await sender.get("run", "/x", deadline_s=30) == b"body"
    assert heard.connections == 0


async def test_a_proxy_that_was_configured_is_used_without_the_keys() -> None:
    """6.1: it sees CONNECT and the host, never the keys; its refusal is Unreachable, without its password."""
    refusal = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with (
        listening(refusal) as (proxy, heard),
        sending("https://api.test", proxy=f"http://user:pr0xypass@{proxy}") as sender,
    ):
        with pytest.raises(errors.Unreachable, match=r"^the proxy .* refused the connection with") as caught:
            await sender.get("run", "/x", deadline_s=30)
    assert heard.text.startswith(b"CONNECT api.test:443 ")
    assert b"s3cr3t" not in heard.text
    assert "pr0xypass" not in str(caught.value)


async def test_a_ca_from_the_environment_is_not_picked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """6.1: SSL_CERT_FILE and SSLKEYLOGFILE are not read behind our back; certificates are verified."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    monkeypatch.setenv("SSLKEYLOGFILE", f"{tmp_path}/keys.log")
    context = tls_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats()["x509_ca"] > 50
    assert getattr(context, "keylog_filename", None) is None


@pytest.mark.parametrize("text", [None, "not a certificate"])
def test_a_ca_file_that_is_none(text: str | None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """--ca-file: missing or without certificates: one line with BAD_CONFIG."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="--ca-file") as caught:
        tls_context(str(path))
    assert caught.value.code is ExitCode.BAD_CONFIG
    assert len(str(caught.value).splitlines()) == 1


# --- how the way fails --------------------------------------------------------------------------------------


async def test_refused() -> None:
    """5.3: no server listens: ConnectionRefused, after the attempts."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: no other process gets the port meanwhile
        async with sending(f"http://127.0.0.1:{reserved.getsockname()[1]}") as sender:
            with pytest.raises(errors.ConnectionRefused, match=r"127\.0\.0\.1"):
                await sender.get("run", "/x", deadline_s=30)
        assert sender.cost().requests == {"run": NO_PAUSES.max_attempts}


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.3: DNS: Unreachable, with the resolver's reason."""

    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver())
    try:
        async with sending("https://api.nowhere.test") as sender:
            with pytest.raises(errors.Unreachable, match="Name or service not known"):
                await sender.get("run", "/x", deadline_s=30)
    finally:
        trio.socket.set_custom_hostname_resolver(None)


async def test_no_tls_on_the_other_side() -> None:
    """5.3: TLS failure: TlsFailed at the first attempt, without a retry or a downgrade."""
    plain = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    async with listening(plain) as (here, heard), sending(f"https://{here}") as sender:
        with pytest.raises(errors.TlsFailed, match=r"^TLS to") as caught:
            await sender.get("run", "/x", deadline_s=30)
    assert "--ca-file" in errors.what_to_do(caught.value)
    assert heard.connections == 1
    assert b"s3cr3t" not in heard.text


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort",
        b"not HTTP at all\r\n\r\n",
    ],
    ids=["closed", "short", "chunks", "nonsense"],
)
async def test_an_answer_that_breaks_off(answer: bytes) -> None:
    """5.3: closed before or in the middle of the answer: ConnectionLost, never a short body."""
    async with listening(answer) as (here, heard), sending(f"http://{here}") as sender:
        with pytest.raises(errors.ConnectionLost):
            await sender.get("run", "/x", deadline_s=30)
    assert heard.connections == NO_PAUSES.max_attempts


async def test_a_reset() -> None:
    """5.3: RST: ConnectionLost."""

    async def reset(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async with listening(reset) as (here, _), sending(f"http://{here}") as sender:
        with pytest.raises(errors.ConnectionLost):
            await sender.get("run", "/x", deadline_s=30)


# httpx leaves its generators to the collector where decoding fails (httpx/_models.py, aiter_bytes).
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_a_body_that_does_not_decompress() -> None:
    """5.3: a 2xx that is not what was asked for: UnexpectedAnswer."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    async with listening(answer) as (here, _), sending(f"http://{here}") as sender:
        with pytest.raises(errors.UnexpectedAnswer, match="decompress"):
            await sender.get("run", "/x", deadline_s=30)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (httpx.ConnectTimeout("x"), errors.TimedOut),
        (httpx.ReadTimeout("x"), errors.TimedOut),
        (httpx.PoolTimeout("x"), errors.TimedOut),
        (httpx.WriteError("x"), errors.ConnectionLost),
        (httpx.ReadError("x"), errors.ConnectionLost),
        (httpx.RemoteProtocolError("x"), errors.ConnectionLost),
        (httpx.ConnectError("All connection attempts failed"), errors.Unreachable),
        (httpx.ProxyError("http://u:s3cr3t@proxy"), errors.Unreachable),
    ],
)
async def test_foreign_exceptions_end_here(raised: httpx.HTTPError, error: type[errors.PassingError]) -> None:
    """5.3: every exception of httpx becomes one of ours, and its text, which may name the proxy, is not repeated."""

    def fail(_request: httpx.Request) -> httpx.Response:
        raise raised

    sender = Transport(
        "https://api.test", KEYS, clock=trio.current_time, transport=httpx.MockTransport(fail), retry_policy=NO_PAUSES
    )
    with pytest.raises(error) as caught:
        await sender.get("run", "/x", deadline_s=30)
    assert "s3cr3t" not in str(caught.value)
    assert sender.cost().requests == {"run": NO_PAUSES.max_attempts}


@pytest.mark.parametrize(
    ("cause", "error", "said"),
    [
        (
            ConnectionRefusedError(111, "Connection refused"),
            errors.ConnectionRefused,
            "^the proxy http://...@p:9 refuses",
        ),
        (
            socket.gaierror(-2, "Name or service not known"),
            errors.Unreachable,
            "^cannot reach the proxy http://...@p:9: Na",
        ),
        (
            OSError(113, "No route to host"),
            errors.Unreachable,
            "^cannot reach the proxy http://...@p:9: No route to host",
        ),
        (
            ConnectionResetError(104, "reset"),
            errors.Unreachable,
            "^cannot reach api.test through the proxy http://...@p:9",
        ),
        (
            httpx.ProxyError("407 http://u:s3cr3t@p"),
            errors.Unreachable,
            "^the proxy http://...@p:9 refused .* with 407",
        ),
        (
            httpx.ConnectTimeout("x"),
            errors.TimedOut,
            "^api.test did not answer in time through the proxy http://...@p:9",
        ),
    ],
)
async def test_a_proxy_that_is_not_there_is_named(
    cause: Exception, error: type[errors.PassingError], said: str
) -> None:
    """5.3, 6.1: with a proxy it is the proxy that cannot be connected to; its password is not shown."""

    def fail(_request: httpx.Request) -> httpx.Response:
        if isinstance(cause, httpx.HTTPError):
            raise cause
        raise httpx.ConnectError("All connection attempts failed") from cause

    sender = Transport(
        "https://api.test",
        KEYS,
        clock=trio.current_time,
        transport=httpx.MockTransport(fail),
        retry_policy=NO_PAUSES,
        proxy="http://u:s3cr3t@p:9",
    )
    with pytest.raises(error, match=said) as caught:
        await sender.get("run", "/x", deadline_s=30)
    assert "s3cr3t" not in str(caught.value)


async def test_a_path_too_long_for_a_url() -> None:
    """5.3: httpx refuses URLs of more than 64 KiB: BadRequest, not a bug."""
    async with sending("https://api.test") as sender:
        with pytest.raises(errors.BadRequest, match="URL"):
            await sender.get("run", "/x?path=" + "a" * 70_000, deadline_s=30)
