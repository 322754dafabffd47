"""Reads of a connection right into the memory where the bytes belong, without waiting for any.

With TLS a read gives one record of at most 16 KiB, and going through trio for each of them costs several times what
decrypting it does: 512 MiB took 3.5 s of CPU so, and 0.9 s without TLS (measured 2026-11-29). So what else has arrived
is decrypted at once. Only a private name of trio leads there; a release that lacks it is slower, and right.
"""

import contextlib
import os
import ssl
from collections.abc import Sequence
from typing import Any

import trio

from artifactfs.domain import Chunk, Room
from artifactfs.util.no_checkpoint import no_checkpoint

# The plain bytes of one record, at most (RFC 8446, 5.1).
RECORD_BYTES = 16 << 10


@no_checkpoint
def receive(socket: trio.socket.SocketType, room: Room) -> list[Chunk] | None:
    """Receive what has arrived; returns the parts of the room where it is, none at the end or without room.

    None if no byte has arrived. Raises OSError.
    """
    found: list[Chunk] = []
    if places := room():
        try:
            count = os.readv(socket.fileno(), places)
        except BlockingIOError:
            return None
        for place in places:
            if count > 0:
                found.append(place[:count])
                count -= len(place)
    return found


@no_checkpoint
def decrypt(stream: trio.SSLStream[Any], room: Room, first: bytes = b"") -> list[Chunk] | None:
    """Put `first`, and after it what has arrived beneath TLS, into the room; returns the parts of it where they are.

    Where there is no room for all of `first`, the rest comes last, as it is. None if there are no bytes.
    """
    places: Sequence[memoryview] = room()
    tls = _tls_of(stream)
    found: list[Chunk] = []
    for place in places:
        count = min(len(first), len(place))
        place[:count] = first[:count]
        first = first[count:]
        # What ends it, if only the lack of bytes, the stream's own next read meets again.
        try:
            while count < len(place) and tls is not None and (more := tls.read(len(place) - count, place[count:])):
                count += more  # type: ignore[operator]  # with a buffer it returns a number
        except ssl.SSLError:
            pass
        if count:
            found.append(place[:count])
        if count < len(place):
            break
    if first:
        found.append(first)
    return found or None


@no_checkpoint
def with_rest(stream: trio.SSLStream[Any], first: bytes, max_bytes: int) -> bytes:
    """Return `first` and, after it, what has arrived beneath TLS, up to about `max_bytes` in all."""
    parts = [first]
    left = max_bytes - len(first)
    tls = _tls_of(stream)
    with contextlib.suppress(ssl.SSLError):  # as in `decrypt`
        while tls is not None and parts[-1] and left > 0:
            parts.append(tls.read(RECORD_BYTES))
            left -= len(parts[-1])
    return b"".join(parts)


def _tls_of(stream: trio.SSLStream[Any]) -> ssl.SSLObject | None:
    return getattr(stream, "_ssl_object", None)
