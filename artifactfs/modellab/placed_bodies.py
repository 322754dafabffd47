"""Bodies that are received right into the memory that keeps them, in place of a new object for each piece.

For 512 MiB that spares copying them once, and a page fault for each page of the pieces. httpcore makes bytes of each
piece, and only its private names lead around that. Where a release lacks them, or a body comes with TLS, pieces come as
they did.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import h11
import httpcore
import httpx

from artifactfs.domain import Chunk, Room
from artifactfs.modellab.unsolicited import GuardedStream

_ROOM = "artifactfs.room"
_Body = AsyncGenerator[Chunk, None]

_NAME = "_receive_response_body"
_httpcores_own: Any = getattr(httpcore.AsyncHTTP11Connection, _NAME, None)


def place(response: httpx.Response, room: Room) -> None:
    """Receive a body that has a length, and of which nothing was read yet, into `room()` as far as that is possible."""
    response.request.extensions[_ROOM] = room


async def _receive_response_body(self: httpcore.AsyncHTTP11Connection, request: httpcore.Request) -> _Body:
    """Yield a body as it arrives: bytes, or the part of the room where they are."""
    room: Room | None = request.extensions.get(_ROOM)
    stream, parser = (getattr(self, name, None) for name in ("_network_stream", "_h11_state"))
    if room is None or not isinstance(stream, GuardedStream) or not isinstance(parser, h11.Connection):
        async with aclosing(_httpcores_own(self, request)) as copies:
            async for copy in copies:
                yield copy
        return
    timeout = request.extensions.get("timeout", {}).get("read")
    pieces: list[Any] = []  # h11_buffer.py takes views
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            raise httpcore.RemoteProtocolError(error) from error
        if event is h11.NEED_DATA:
            if not pieces:
                pieces += await stream.read_into(room, self.READ_NUM_BYTES, timeout)
            parser.receive_data(pieces.pop(0))
        elif isinstance(event, h11.Data):
            yield event.data
        elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
            for piece in pieces:
                # Bytes behind the body: what looks for them (unsolicited.py) asks the parser.
                parser.receive_data(piece)
            return


def install() -> None:
    """Make httpcore's connections able to do so, as far as the installed release can."""
    if _httpcores_own is not None:
        setattr(httpcore.AsyncHTTP11Connection, _NAME, _receive_response_body)
