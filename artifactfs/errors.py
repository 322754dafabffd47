"""The exceptions of artifactfs, and the one table that gives each its errno and its advice.

    ArtifactfsError
    ├── UserError                   a command cannot be carried out; holds an ExitCode
    ├── NoThread                    the system has no thread for a call
    ├── TreeError                   the tree cannot answer a request of the kernel
    │   ├── NoSuchEntry             the name does not exist; may be cached for `valid_s` seconds
    │   ├── NotADirectory, IsADirectory, NotALink
    │   └── Superseded              the version behind an inode is no longer the server's
    └── ServiceError                a request to Model Lab failed
        ├── NotFound                404, 410
        │   └── NoList              404, 410 for the list of all runs, or of all projects
        ├── AccessDenied            401, 403
        ├── BadRequest              400, 422
        ├── UnexpectedAnswer        2xx or 3xx without the expected contents
        ├── AnswerTooLarge          an answer beyond the size limits of artifactfs
        │   └── BodyTooLarge        a body of unknown length that no cache has room for
        └── PassingError            may succeed at the next attempt; never cached as an absence
            ├── RateLimited         429, and the reset lies beyond the deadline
            ├── ServerFailed        5xx after the retries
            ├── TimedOut            408, 504, connect or read time-out, deadline exceeded
            │   └── NotAsked        the circuit breaker is open: no request was sent
            ├── ConnectionLost      the connection was reset, or ended within an answer
            │   └── ShortBody       the body ended before its size
            ├── ConnectionRefused
            ├── Unreachable         no route to the host, or its name does not resolve
            ├── Offline             the mount works offline: no request was sent
            └── TlsFailed           never retried, never downgraded

An exception states a fact in a sentence for the user and holds the measured values. It knows no errno and no fix:
`errno_of` and `what_to_do` take them from the table. docs/dev/model-lab-api.md ("Status to errno") gives the reasons.
"""

import enum
import errno
import os
import re
import sys
from dataclasses import dataclass


class ExitCode(enum.IntEnum):
    """The exit codes of `artifactfs`; listed in the README. Never renumber."""

    OK = 0
    BUG = 1
    USAGE = 2
    KEYS_MISSING = 3
    KEYS_REJECTED = 4
    MOUNTPOINT_MISSING = 5
    NOT_A_DIRECTORY = 6
    ALREADY_MOUNTED = 7
    NO_FUSE_DEVICE = 8
    NO_FUSERMOUNT = 9
    ALLOW_OTHER_REFUSED = 10
    UNREACHABLE = 11
    NOT_MODEL_LAB = 12
    BAD_CONFIG = 13
    SERVICE_FAILED = 14
    TLS_FAILED = 15
    MOUNT_REFUSED = 16
    NOT_MOUNTED = 17
    UMOUNT_FAILED = 18
    NOT_WRITABLE = 19
    MISSING_EXTRA = 20
    CACHE_REFUSED = 21
    INCOMPLETE = 22
    UNHEALTHY = 23
    NO_ANSWER = 24
    DESKTOP_FAILED = 25
    SYSTEM_FAILED = 26


class ArtifactfsError(Exception):
    """The root of all exceptions of artifactfs. `str()` is a sentence for the user."""


class UserError(ArtifactfsError):
    """A command cannot be carried out. `str()` is one line: `subject: fact; fix`.

    `fact`: the problem, as part of a sentence. `fix`: what the user can do, "" where nothing is known.
    `subject`: the setting, file or place that the fact is about, "" where the fact names it.
    `command`: a shell command that applies the fix, "" where there is none; without a `fix` it is the fix.
    """

    def __init__(self, code: ExitCode, fact: str, fix: str = "", subject: str = "", command: str = "") -> None:
        super().__init__(code, fact, fix, subject, command)
        self.code = code
        self.fact = fact
        self.fix = _fix(fix, command)
        self.subject = subject
        self.command = command

    def __str__(self) -> str:
        return f"{self.subject}: {self.without_subject}" if self.subject else self.without_subject

    @property
    def without_subject(self) -> str:
        return f"{self.fact}; {self.fix}" if self.fix else self.fact


@dataclass(frozen=True)
class Notice:
    """A warning: the command goes on. The fields are those of UserError."""

    fact: str
    fix: str = ""
    command: str = ""

    def __str__(self) -> str:
        fix = _fix(self.fix, self.command)
        return f"{self.fact}; {fix}" if fix else self.fact


def _fix(fix: str, command: str) -> str:
    return fix or (f"run `{command}`" if command else "")


def of_the_system(error: BaseException) -> UserError | None:
    """Return the error for an exception that the system caused (a full disk, a limit); None for a bug of artifactfs.

    For callers without a better description.
    """
    fix = ""
    if _is_lack_of_memory(error):
        fact, fix = _LIMITS[errno.ENOMEM]
    elif _is_lack_of_a_thread(error):
        fact, fix = _LIMITS[errno.EAGAIN]
    elif isinstance(error, OSError):
        at = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        fact, fix = _LIMITS.get(error.errno or 0, (f"{at}{error.strerror or error}", ""))
    else:
        return None
    return UserError(ExitCode.SYSTEM_FAILED, f"the system refuses a request: {fact}", fix)


_LIMITS = {
    errno.EMFILE: ("too many files are open", "raise the limit with `ulimit -n 1024`"),
    errno.ENFILE: ("too many files are open on the whole machine", "see /proc/sys/fs/file-nr"),
    errno.ENOMEM: ("there is no memory left", "see `free -h` and `ulimit -v`"),
    errno.EAGAIN: ("no process or thread can be started", "raise the limit with `ulimit -u`"),
}


class NoThread(ArtifactfsError):
    """The system has no thread for a call, which has not begun. A later attempt may succeed."""


class TreeError(ArtifactfsError):
    """The tree cannot answer a request of the kernel."""


class NoSuchEntry(TreeError):
    """The name does not exist. `valid_s`: how long the kernel may cache the negative entry, in seconds."""

    def __init__(self, message: str, valid_s: float = 0.0) -> None:
        super().__init__(message)
        self.valid_s = valid_s


class NotADirectory(TreeError):
    """A lookup below a file."""


class IsADirectory(TreeError):
    """A directory was opened as a file."""


class NotALink(TreeError):
    """A readlink of a file or directory that is no symbolic link."""


class Superseded(TreeError):
    """The server has replaced this version, or the inode is unknown.

    `size_bytes`: the size of the new version, where an answer gave it.
    """

    def __init__(self, message: str, size_bytes: int | None = None) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


class ServiceError(ArtifactfsError):
    """A request to Model Lab failed, at the service or on the way to it. `fact`: the failure, as part of a sentence.

    `status`: the HTTP status, None without an answer. `proxy`: the proxy at fault, without its password; "" for none.
    """

    def __init__(self, fact: str, status: int | None = None, *, proxy: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.status = status
        self.proxy = proxy


class NotFound(ServiceError):
    """404 or 410."""


class NoList(NotFound):
    """404 or 410 for the list of all runs, or of all projects: such a list cannot be deleted."""


class AccessDenied(ServiceError):
    """401 or 403: the keys are wrong, belong to another site, or lack the permission."""


class BadRequest(ServiceError):
    """400, 422, or another 4xx that a retry does not change."""


class UnexpectedAnswer(ServiceError):
    """An answer that Model Lab does not send: HTML, incomplete JSON, another resource, a redirect."""


class AnswerTooLarge(ServiceError):
    """An answer beyond the size limits of artifactfs (docs/semantics.md 6.4)."""


class BodyTooLarge(AnswerTooLarge):
    """A body whose length no answer tells, and that no cache has room for (docs/semantics.md 2.2)."""


class PassingError(ServiceError):
    """A failure that a later attempt may not meet. It never becomes a negative entry (docs/semantics.md 3.2)."""

    retry_after_s = 0.0  # the pause that the answer asks for


class RateLimited(PassingError):
    """429, and the reset lies beyond the deadline. `reset_s`: seconds until the server's reset."""

    def __init__(self, fact: str, reset_s: float) -> None:
        super().__init__(fact, 429)
        self.reset_s = reset_s


class ServerFailed(PassingError):
    """A 5xx after all retries."""


class TimedOut(PassingError):
    """408, 504, a connect or read time-out, or the deadline of the operation."""


class NotAsked(TimedOut):
    """The circuit breaker is open after time-outs of other requests, so none was sent (docs/semantics.md 5.1)."""


class ConnectionLost(PassingError):
    """The connection was reset, or ended within an answer."""


class ShortBody(ConnectionLost):
    """A body that ended before the size in the listing. It is never served as the whole file.

    `size_bytes`: the length of the body, where it ended in order.
    """

    def __init__(self, fact: str, size_bytes: int | None = None) -> None:
        super().__init__(fact)
        self.size_bytes = size_bytes


class ConnectionRefused(PassingError):
    """No process listens at the address."""


class Unreachable(PassingError):
    """No route leads to the host, or its name does not resolve."""


class Offline(PassingError):
    """The mount works without the service, and what is asked for is not kept here (docs/semantics.md 8.3)."""


class TlsFailed(PassingError):
    """The TLS handshake failed: a proxy's certificate, a wrong CA, a wrong host.

    `verify_code`: OpenSSL's X509_V_ERR_*, 0 where the certificate is not the cause.
    """

    def __init__(self, fact: str, verify_code: int = 0) -> None:
        super().__init__(fact)
        self.verify_code = verify_code


# The errno and the fix of each kind of exception. A subclass without a row has its parent's.
_ROWS: dict[type[BaseException], tuple[int, str]] = {
    # Not EAGAIN: see RateLimited.
    NoThread: (errno.ENOMEM, "raise the limit on processes (`ulimit -u`), or end some"),
    TreeError: (errno.EIO, "list its directory again"),
    NoSuchEntry: (errno.ENOENT, "list its directory to see what is there"),
    NotADirectory: (errno.ENOTDIR, "give a directory"),
    IsADirectory: (errno.EISDIR, "give a file"),
    NotALink: (errno.EINVAL, "give a symbolic link"),
    Superseded: (errno.ESTALE, "open the file again: the server has another version"),
    ServiceError: (errno.EIO, "if it persists, report it with the log"),
    NotFound: (errno.ENOENT, "list its directory to see what is there: the server no longer has it"),
    NoList: (errno.ENOENT, "check --site or --api-url: the server there has no such list, and may not be Model Lab"),
    AccessDenied: (errno.EACCES, "check that the keys are right, belong to this site (--site), and may read this"),
    BadRequest: (errno.EINVAL, "check the number or the name; if it is right, report this with the log"),
    UnexpectedAnswer: (errno.EBADMSG, "check --site, --api-url and the proxy; if it persists, report it with the log"),
    AnswerTooLarge: (
        errno.EFBIG,
        "use the names below it directly: the whole listing exceeds the limits of artifactfs",
    ),
    BodyTooLarge: (errno.EFBIG, "raise --cache-size, or read the file with O_DIRECT, as `dd iflag=direct` does"),
    PassingError: (errno.EIO, "try again"),
    # Never EAGAIN: a reader takes it for non-blocking mode and may return no data without an error.
    RateLimited: (errno.EBUSY, "try again after the reset; other tools with these keys count against the same limit"),
    ServerFailed: (errno.EIO, "try again later; if it persists, the service must fix it"),
    TimedOut: (errno.ETIMEDOUT, "check the network and --proxy; the next access sends a new request"),
    NotAsked: (errno.ETIMEDOUT, "wait: a request probes the service every few seconds, and an answer ends this"),
    ConnectionLost: (errno.EIO, "try again; if it persists, check the network and the proxy"),
    ConnectionRefused: (errno.ECONNREFUSED, "check --site, --api-url and --proxy, and that the service is up"),
    Unreachable: (errno.EHOSTUNREACH, "check the network (a VPN?), the name server, and --site, --api-url and --proxy"),
    Offline: (errno.ENETDOWN, "list or read it while the service can be reached; `artifactfs pin` keeps a whole run"),
    TlsFailed: (errno.EPROTO, "check --ca-file (a proxy that opens TLS has a CA of its own) and this machine's clock"),
}
# The resource that the system lacks, by errno.
_LACKS = {
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory",
    errno.EMFILE: "descriptor",
    errno.ENFILE: "descriptor",
}


def lack_of(error: BaseException) -> str | None:
    """Return the resource that the system lacked: memory, a descriptor, a thread; None for other failures."""
    if isinstance(error, BaseExceptionGroup):
        lacks = {lack_of(each) for each in error.exceptions}
        return lacks.pop() if len(lacks) == 1 else None
    if _is_lack_of_memory(error):
        return "memory"
    if isinstance(error, OSError) and error.errno is not None:
        return _LACKS.get(error.errno)
    return "thread" if _is_lack_of_a_thread(error) else None


def single(error: BaseException) -> BaseException:
    """Return the one exception that a nursery wrapped in groups, or the group if there were several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_lack_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    # Messages of CPython, C extensions and the dynamic loader after an unchecked failed allocation
    # (seen with `ulimit -v` from 33000 to 46000).
    words = {
        SystemError: r"without (setting an )?exception",
        ImportError: r"failed to map segment|cannot allocate memory",
    }
    pattern = next((words[kind] for kind in words if isinstance(error, kind)), None)
    return pattern is not None and re.search(pattern, str(error), re.IGNORECASE) is not None


def _is_lack_of_a_thread(error: BaseException) -> bool:
    # threading has no exception of its own for it.
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def unexpected() -> str:
    """Return the end of a log message about the current exception, which artifactfs did not raise.

    A lack of memory, descriptors or threads is no bug.
    """
    error = sys.exception()
    lack = lack_of(error) if error is not None else None
    return f"the system has no {lack} for it" if lack else "this is a bug in artifactfs, please report it"


def _row_of(error: BaseException) -> tuple[int, str] | None:
    return next((_ROWS[kind] for kind in type(error).__mro__ if kind in _ROWS), None)


def errno_of(error: BaseException) -> int:
    """Return the errno for an exception; EIO without a row in the table."""
    if lack_of(error) is not None:
        # Not EAGAIN for a thread: see RateLimited.
        return error.errno if isinstance(error, OSError) and error.errno is not None else errno.ENOMEM
    row = _row_of(error)
    return row[0] if row is not None else errno.EIO


def what_to_do(error: BaseException) -> str:
    """Return the fix for an exception, as part of a sentence; the fix for a bug is to report it."""
    row = _row_of(error)
    if row is not None:
        return row[1]
    if isinstance(error, UserError):
        return error.fix or "fix what it names; `artifactfs config show` says where each setting comes from"
    if (refused := of_the_system(error)) is not None:
        return refused.fix or "see whether what it names can be read and written by this user"
    return "report it with the log: it is a bug in artifactfs"
