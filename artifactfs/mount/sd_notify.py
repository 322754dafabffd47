"""The messages of a mount to its starter: systemd in the foreground (sd_notify(3)), a parent in the background.

By hand: the libraries for sd_notify are bindings that need a compiler, or hold no more than these lines. Nothing here
raises or waits: a mount does not depend on its starter. Texts are one line, so that none can pass for a field.
"""

import logging
import math
import socket
import time

from artifactfs.mount.daemon import PipeToParent
from artifactfs.util.escaping import one_line

log = logging.getLogger(__name__)

# Added to the duration of a step, until systemd gives up on a start.
_MARGIN_S = 15.0


class Notifier:
    """Reports the state of a mount. Without an address, systemd gets nothing; `parent` is None in the foreground."""

    def __init__(self, address: str | None = None, parent: PipeToParent | None = None) -> None:
        self.parent = parent
        self._ended = False
        if address and address[0] not in "/@":
            log.warning("NOTIFY_SOCKET is no local socket, so systemd gets no messages: %s", address)
            address = None
        # "@" stands for the first byte of an abstract address.
        self._address = "\0" + address[1:] if address and address[0] == "@" else address

    def starting(self, status: str, step_s: float) -> None:
        """Report an attempt to mount; the next message comes within `step_s` seconds."""
        self._send(f"STATUS={one_line(status)}", f"EXTEND_TIMEOUT_USEC={math.ceil((step_s + _MARGIN_S) * 1e6)}")

    def waiting(self, reason: str, step_s: float) -> None:
        """Report that the service does not answer; the next message comes within `step_s` seconds."""
        self.starting(f"waiting: {reason}", step_s)
        if self.parent is not None:
            self.parent.waiting(reason)

    def warn(self, text: str) -> None:
        """Have the parent print a warning."""
        if self.parent is not None:
            self.parent.warn(text)

    def ready(self, status: str) -> None:
        """Report that the mount answers."""
        if self.parent is not None:
            self.parent.ready()
        self._send("READY=1", f"STATUS={one_line(status)}")

    def failed(self, status: str) -> None:
        """Report why the mount was not made, or ended."""
        self._send(f"STATUS={one_line(status)}")

    def reloading(self) -> None:
        """Report that listings are being made stale; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report the end of the mount, once."""
        if not self._ended:
            self._ended = True
            self._send("STOPPING=1", "STATUS=ending")

    def _send(self, *fields: str) -> None:
        if not self._address:
            return
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.sendto("\n".join(fields).encode("utf-8", "backslashreplace"), self._address)
        except OSError as error:
            log.warning("cannot write to systemd's socket: %s", error)
