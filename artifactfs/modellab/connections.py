"""The connections to one origin: TLS, proxy, how long they are kept, and a machine's sleep.

httpx's transport itself, not a client around it: no redirect is followed, no cookie is kept, nothing comes from the
environment, and the client's part costs 0.07 ms of CPU a request (measured 2026-11-23, httpx 0.28.1). What is hard:

- httpx's clock stands still while the machine sleeps, so that it takes dead connections for live ones;
- httpcore's pool is poisoned by cancellations while requests queue inside it (encode/httpcore#1093), so each request
  acquires a place first (places.py), and nothing ever queues in the pool.
"""

import functools
import logging
import socket
import ssl
from collections.abc import Callable
from importlib.metadata import version

import certifi
import httpx
import trio

from artifactfs import __version__
from artifactfs.errors import ExitCode, UserError
from artifactfs.logs import NOTICE
from artifactfs.modellab import h11_buffer, placed_bodies, places, resolver, unsolicited
from artifactfs.modellab.places import MOST_PLACES, Places
from artifactfs.settings import bounded_read
from artifactfs.util.urls import without_password

log = logging.getLogger(__name__)

# Idle connections are closed after this; below what load balancers commonly allow (60 s).
_KEEPALIVE_S = 30.0
# A peer that acknowledges nothing for so long is gone: in time for another attempt within a deadline of 30 s.
_UNACKNOWLEDGED_MS = 10_000
_SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)]
_CLOSE_S = 1.0
_CONNECT_TIMEOUT_S = 10.0
# Transports that share one pool of connections, at most: those of listings and of contents.
_USERS = 2
USER_AGENT = f"artifactfs/{__version__} (pyfuse3/{version('pyfuse3')}; httpx/{httpx.__version__})"
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}


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
    """As many connections as there are places (`add_places`); a request that has a place uses any free connection.

    `clock` goes on while the machine sleeps; `transport` replaces httpx's in tests.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        proxy: str | None,
        clock: Callable[[], float],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        h11_buffer.install()
        resolver.install()
        unsolicited.install()
        placed_bodies.install()

        def connect() -> httpx.AsyncBaseTransport:
            if transport is not None:
                return transport
            most = MOST_PLACES * _USERS
            keep = most if self._may_keep else 0
            sender = httpx.AsyncHTTPTransport(
                verify=tls,
                proxy=proxy,
                trust_env=False,
                limits=httpx.Limits(
                    max_connections=most, max_keepalive_connections=keep, keepalive_expiry=_KEEPALIVE_S
                ),
                socket_options=_SOCKET_OPTIONS,
            )
            # httpx has no argument for it. `send` sees whether it was taken.
            if (pool := getattr(sender, "_pool", None)) is not None:
                pool._network_backend = unsolicited.GuardedNetwork()
            return sender

        self.proxy_shown = None if proxy is None else without_password(proxy)
        self._places: list[Places] = []
        # Whether connections may be used again: not where a test's network, or another httpx, makes them itself.
        self._may_keep = transport is None
        self._clock = clock
        self._connect = connect
        self._sender = connect()
        # Senders from before a sleep, until their last request ends; and when a request was sent last.
        self._retired: list[httpx.AsyncBaseTransport] = []
        self._sent_at = clock()

    def add_places(self) -> Places:
        """Return places for one more transport on these connections; there may be `_USERS`."""
        self._places.append(Places())
        return self._places[-1]

    async def send(self, url: httpx.URL, headers: dict[str, str], timeout_s: float) -> httpx.Response:
        """Send a GET; returns the answer's head. Each step may take `timeout_s` seconds. Raises httpx.HTTPError."""
        now, before = self._clock(), self._sent_at
        self._sent_at = now
        if now - before > _KEEPALIVE_S:
            self._renew()
        if self._retired:
            in_use = sum(map(places.in_use, self._places))
            unused = [sender for sender in self._retired if in_use <= 1 or _is_idle(sender)]
            self._retired = [sender for sender in self._retired if sender not in unused]
            with trio.move_on_after(_CLOSE_S, shield=True):
                for sender in unused:
                    await sender.aclose()
        timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s))
        request = httpx.Request("GET", url, headers=_HEADERS | headers, extensions={"timeout": timeout.as_dict()})
        response = await self._sender.handle_async_request(request)
        response.request = request
        if self._may_keep and not isinstance(response.extensions.get("network_stream"), unsolicited.GuardedStream):
            log.warning("this httpx makes its connections otherwise: each serves one request only", extra=NOTICE)
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


def _is_idle(sender: httpx.AsyncBaseTransport) -> bool:
    """Whether no request uses a connection of a sender, as far as its pool shows that."""
    connections = getattr(getattr(sender, "_pool", None), "connections", None)
    return connections is not None and all(connection.is_idle() for connection in connections)
