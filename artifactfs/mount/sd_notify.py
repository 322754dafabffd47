"""Notifications to systemd of a mount in the foreground: sd_notify(3), a few datagrams to the socket that it names.

By hand: the libraries for it are bindings that need a compiler, or hold no more than these lines. Nothing here
raises or waits: a mount does not depend on who started it. Texts are one line, so that none can pass for a field.
"""

import logging
import math
import socket
import time

from artifactfs.util.escaping import one_line

log = logging.getLogger(__name__)

# Over what a step takes, until systemd gives a start up.
_MARGIN_S = 15.0


class Notifier:
    """Reports the state of a mount to systemd. Without an address it does nothing."""

    def __init__(self, address: str | None = None) -> None:
        self._ended = False
        self._address: str | None = None
        if not address:
            return
        if address[0] not in "/@":
            log.warning("NOTIFY_SOCKET is no local socket, so systemd gets no messages: %s", address)
            return
        # "@" is how the first byte of an abstract address is written.
        self._address = "\0" + address[1:] if address[0] == "@" else address

    def starting(self, status: str, step_s: float) -> None:
        """Tell that the mount is being tried; the next word comes within `step_s` seconds."""
        self._send(f"STATUS={one_line(status)}", f"EXTEND_TIMEOUT_USEC={math.ceil((step_s + _MARGIN_S) * 1e6)}")

    def ready(self, status: str) -> None:
        """Tell that the mount answers."""
        self._send("READY=1", f"STATUS={one_line(status)}")

    def failed(self, status: str) -> None:
        """Tell why the mount did not come about, or ended."""
        self._send(f"STATUS={one_line(status)}")

    def reloading(self) -> None:
        """Tell that what is remembered is being dropped; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the mount is ending; once."""
        if not self._ended:
            self._ended = True
            self._send("STOPPING=1", "STATUS=ending")

    def _send(self, *fields: str) -> None:
        if self._address is None:
            return
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.sendto("\n".join(fields).encode("utf-8", "backslashreplace"), self._address)
        except OSError as error:
            log.warning("cannot write to systemd's socket: %s", error)
