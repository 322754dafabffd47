"""The connections to one origin: TLS, proxy, how long they are kept, and what a sleeping machine does to them.

httpx's transport itself, not a client around it: we follow no redirect, keep no cookie and take nothing from the
environment, and the client's part costs 0.07 ms of CPU a request (measured 2026-11-23, httpx 0.28.1). What is hard:
httpx's clock stands still while the machine sleeps, so that it takes dead connections for live ones.
"""

import functools
import logging
import socket
import ssl
from collections.abc import Callable

import certifi
import httpx
import trio

from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab import h11_buffer, resolver, unsolicited
from artifactfs.settings import bounded_read

log = logging.getLogger(__name__)

# Idle connections are closed after this; below what load balancers commonly allow (60 s).
_KEEPALIVE_S = 30.0
# A peer that acknowledges nothing for so long is gone: in time for another attempt within a deadline of 30 s.
_UNACKNOWLEDGED_MS = 10_000
_SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)]
_CLOSE_S = 1.0


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a verifying TLS context that trusts `ca_file`, or the bundled CAs.

    Not `ssl.create_default_context`: that picks up SSLKEYLOGFILE and SSL_CERT_FILE behind our back
    (docs/semantics.md 6.1). Raises UserError.
    """
    return _bundled_context() if ca_file is None else _read_context(ca_file)


@functools.cache
def _bundled_context() -> ssl.SSLContext:
    """Return the context of the bundled CAs: reading them costs 20 ms, and a mount has three transports."""
    return _read_context(None)


def _read_context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if ca_file is not None:
            # OpenSSL would wait for a pipe, for ever, and read a device without end.
            bounded_read.refuse_special(ca_file)
        context.load_verify_locations(cafile=ca_file or certifi.where())
    except (OSError, ssl.SSLError) as error:
        reason = (
            error.strerror
            if isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
            else "no certificates in it"
        )
        raise UserError(ExitCode.BAD_CONFIG, f"--ca-file {ca_file}: {reason}") from None
    return context


class Connections:
    """At most `width` connections. `clock` goes on while the machine sleeps; `transport` replaces httpx's in tests."""

    def __init__(
        self,
        *,
        width: int,
        tls: ssl.SSLContext,
        proxy: str | None,
        clock: Callable[[], float],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        h11_buffer.install()
        resolver.install()
        unsolicited.install()

        def connect() -> httpx.AsyncBaseTransport:
            if transport is not None:
                return transport
            sender = httpx.AsyncHTTPTransport(
                verify=tls,
                proxy=proxy,
                trust_env=False,
                limits=httpx.Limits(
                    max_connections=width,
                    max_keepalive_connections=width if self._may_keep else 0,
                    keepalive_expiry=_KEEPALIVE_S,
                ),
                socket_options=_SOCKET_OPTIONS,
            )
            # httpx has no argument for it. `send` sees whether it was taken.
            if (pool := getattr(sender, "_pool", None)) is not None:
                pool._network_backend = unsolicited.GuardedNetwork()
            return sender

        # Whether connections may be used again: not where a test's network, or another httpx, makes them itself.
        self._may_keep = transport is None
        self._clock = clock
        self._connect = connect
        self._sender = connect()
        # Those of before a sleep, until their last request ends; and when a request went last.
        self._retired: list[httpx.AsyncBaseTransport] = []
        self._sent_at = clock()

    async def send(self, request: httpx.Request, *, alone: bool) -> httpx.Response:
        """Send a request; returns the answer's head. Raises httpx.HTTPError. `alone`: nothing else is under way."""
        now, before = self._clock(), self._sent_at
        self._sent_at = now
        if now - before > _KEEPALIVE_S:
            self._renew()
        if self._retired and alone:
            retired, self._retired = self._retired, []
            with trio.move_on_after(_CLOSE_S, shield=True):
                for sender in retired:
                    await sender.aclose()
        response = await self._sender.handle_async_request(request)
        response.request = request
        if self._may_keep and not isinstance(response.extensions.get("network_stream"), unsolicited.GuardedStream):
            log.warning("this httpx makes its connections otherwise: each serves one request only")
            self._may_keep = False
            self._renew()
        return response

    def _renew(self) -> None:
        self._retired.append(self._sender)
        self._sender = self._connect()

    async def aclose(self) -> None:
        """Close them all."""
        for sender in (*self._retired, self._sender):
            await sender.aclose()
