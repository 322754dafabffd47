"""uvicorn's HTTP/1.1 protocol, lending its socket to the app: cuts and resets cannot be said in ASGI.

Owns the only use of uvicorn's internals: the protocol's `app`, `transport` and `flow`, seen in 0.30 to 0.54.
"""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from artifactfs.emulator.middleware import EXTENSION

DRAIN_S = 2.0  # how long a reset waits for what was sent to arrive: RST throws away what the client has not yet got


class Wire:
    """The connection below a request."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    @property
    def gone(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    async def reset(self) -> None:
        """Let what was sent arrive (DRAIN_S at most), then close with SO_LINGER 0, which is RST (socket(7))."""
        plain: socket.socket = self._transport.get_extra_info("socket")
        # A client that does not read gets less than was said: there is no other way.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not self.gone and self._pending(plain):  # noqa: ASYNC110 - the kernel has no event for it
                    await asyncio.sleep(0.001)
        if self.gone:
            return  # The client was faster.
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _pending(self, plain: socket.socket) -> int:
        """Return the bytes that were sent and have not arrived."""
        return self._transport.get_write_buffer_size() + _unacknowledged(plain)


def _unacknowledged(plain: socket.socket) -> int:
    """Return the bytes that the other end's kernel does not have yet (SIOCOUTQ, tcp(7))."""
    (count,) = struct.unpack("i", fcntl.ioctl(plain.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(count)


class WireProtocol(H11Protocol):
    """H11Protocol with the connection in the scope's extensions."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        super().connection_made(transport)
        app: ASGIApp = self.app
        wire = Wire(transport)

        async def with_wire(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[EXTENSION] = wire
            await app(scope, receive, send)

        self.app = with_wire
