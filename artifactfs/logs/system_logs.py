"""The system's own logs: journald by its native protocol, syslogd by the classic one.

Both are datagram sockets on this machine. Hard: the mount must never wait for its log. So sends do not block: a record
that the socket does not accept is dropped and counted, and a notice before the next accepted record gives the count.
Either daemon may restart, so each datagram is sent to the path of the socket.
"""

import array
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct

from artifactfs.logs.formatters import Redaction, message_of, traceback_of
from artifactfs.util.escaping import one_line

JOURNAL_SOCKET = "/run/systemd/journal/socket"
SYSLOG_SOCKET = "/dev/log"
IDENTIFIER = "artifactfs"

# Facility and severities of syslog(3).
_FACILITY_DAEMON = 3
_SEVERITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_SEVERITY_DEBUG = 7


def severity(level: int) -> int:
    """Return syslog's severity for a level of Python's logging."""
    return next((number for least, number in _SEVERITIES if level >= least), _SEVERITY_DEBUG)


class _DatagramHandler(logging.Handler):
    """Sends each record as datagrams to a socket, or drops it. Raises OSError if the socket has no listener."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._dropped = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
                probe.connect(address)
        except OSError:
            self._socket.close()
            raise

    def datagrams(self, record: logging.LogRecord) -> list[bytes]:
        """Return the datagrams of a record."""
        raise NotImplementedError

    def emit(self, record: logging.LogRecord) -> None:
        try:
            datagrams = self.datagrams(record)
        except Exception:
            # A message that does not fit its arguments; every handler reports it so.
            self.handleError(record)
            return
        try:
            if self._dropped:
                for datagram in self.datagrams(_notice(self._dropped)):
                    self.send(datagram)
                self._dropped = 0
            for datagram in datagrams:
                self.send(datagram)
        except OSError:
            # The socket is full, or the daemon is restarting.
            self._dropped += 1

    def send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self._address)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _notice(dropped: int) -> logging.LogRecord:
    message = "%d records were dropped: the log did not accept them"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (dropped,), None)


class SyslogHandler(_DatagramHandler):
    """Sends records to syslogd, a datagram for each line (RFC 3164 has no multi-line messages)."""

    def __init__(self, address: str = SYSLOG_SOCKET) -> None:
        super().__init__(address)

    def datagrams(self, record: logging.LogRecord) -> list[bytes]:
        head = f"<{_FACILITY_DAEMON << 3 | severity(record.levelno)}>{IDENTIFIER}[{os.getpid()}]: "
        return [(head + line).encode("utf-8", "backslashreplace") for line in self.format(record).split("\n")]


class JournalHandler(_DatagramHandler):
    """Sends records to journald with their fields (systemd's JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, redact: Redaction, address: str = JOURNAL_SOCKET) -> None:
        super().__init__(address)
        self._redact = redact

    def datagrams(self, record: logging.LogRecord) -> list[bytes]:
        traceback = traceback_of(record, self._redact)
        fields = {
            "MESSAGE": "\n".join([message_of(record, self._redact), *traceback]),
            "PRIORITY": str(severity(record.levelno)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "SYSLOG_PID": str(os.getpid()),
            "LOGGER": one_line(record.name),
            "CODE_FILE": one_line(record.pathname),
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": one_line(record.funcName or ""),
        }
        if traceback:
            fields["EXCEPTION_TEXT"] = "\n".join(traceback)
        return [b"".join(_field(name, text) for name, text in fields.items())]

    def send(self, datagram: bytes) -> None:
        try:
            super().send(datagram)
        except OSError as error:
            # Too large for a datagram: the journal accepts a sealed file instead.
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_as_file(datagram)

    def _send_as_file(self, datagram: bytes) -> None:
        file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with contextlib.closing(os.fdopen(file, "wb")) as whole:
            whole.write(datagram)
            whole.flush()
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
            self._socket.sendmsg([b""], passed, 0, self._address)


def _field(name: str, text: str) -> bytes:
    value = text.encode("utf-8", "backslashreplace")
    if b"\n" not in value:
        return f"{name}=".encode() + value + b"\n"
    # The length comes first, so that no value can end early and continue as another field.
    return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
