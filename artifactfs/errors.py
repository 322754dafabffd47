"""Our exceptions, and the one table that turns them into errno values.

    ArtifactfsError
    ├── UserError                   a command cannot be carried out; holds an ExitCode
    ├── NoThread                    the system has no thread for a call
    ├── TreeError                   the tree says no
    │   ├── NoSuchEntry             no such name, for `valid_s` seconds
    │   ├── NotADirectory, IsADirectory, NotALink
    │   ├── Superseded              the version behind an inode is no longer the server's
    │   └── ReadOnly                every attempt to write
    └── ServiceError                Model Lab, or the way to it, says no
        ├── NotFound                404, 410
        │   └── NoList              the same of all runs, or of all projects
        ├── AccessDenied            401, 403
        ├── BadRequest              400, 422
        ├── UnexpectedAnswer        a 2xx (or 3xx) that is not what was asked for
        ├── AnswerTooLarge          past our sanity caps
        └── PassingError            may be gone the next time: never an absence, never cached
            ├── RateLimited         429 whose reset lies past the deadline
            ├── ServerFailed        5xx after the retries
            ├── TimedOut            408, 504, connect, read, or the whole deadline
            │   └── NotAsked        the service has not answered others: nothing was sent
            ├── ConnectionLost      reset, or cut in the middle of the answer
            │   └── ShortBody       a body that ended early
            ├── ConnectionRefused
            ├── Unreachable         no route, no such host
            └── TlsFailed           not retried, never downgraded

An exception states a fact in a sentence that a user can read and holds what was measured; it knows no
errno. `errno_of` does: the table of model-lab-api.md, "Status to errno". `what_to_do` has a sentence about the way out.
"""

import enum
import errno
import os
import re
import sys


class ExitCode(enum.IntEnum):
    """What `artifactfs` exits with; listed in the README. Never renumber."""

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
    """Root of everything that artifactfs raises on purpose. `str()` is a sentence for the user."""


class UserError(ArtifactfsError):
    """A command cannot be carried out. `str()` is one line: `subject: fact; fix`.

    `fact`: what is wrong, in part of a sentence. `fix`: what the user can do about it, "" where nothing can be said.
    `subject`: the setting, file or place that the fact is about, "" where the fact names it.
    """

    def __init__(self, code: ExitCode, fact: str, fix: str = "", subject: str = "") -> None:
        super().__init__(code, fact, fix, subject)
        self.code = code
        self.fact = fact
        self.fix = fix
        self.subject = subject

    def __str__(self) -> str:
        about = f"{self.subject}: " if self.subject else ""
        return f"{about}{self.fact}; {self.fix}" if self.fix else about + self.fact


def of_the_system(error: BaseException) -> UserError | None:
    """Return what to say of an exception that is the machine's doing, and no defect of ours; None for any other.

    A file that does not open, a disk that is full, a limit that is reached: for what no caller had a better word for.
    """
    if _is_lack_of_memory(error):
        said = _LIMITS[errno.ENOMEM]
    elif _is_lack_of_a_thread(error):
        said = _LIMITS[errno.EAGAIN]
    elif isinstance(error, OSError):
        at = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        said = _LIMITS.get(error.errno or 0) or f"{at}{error.strerror or error}"
    else:
        return None
    return UserError(ExitCode.SYSTEM_FAILED, f"the system refuses something that is needed: {said}")


_LIMITS = {
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n 1024`",
    errno.ENFILE: "too many files are open on the whole machine: see /proc/sys/fs/file-nr",
    errno.ENOMEM: "there is no memory left: see `free -h` and `ulimit -v`",
    errno.EAGAIN: "no process or thread can be started: raise the limit with `ulimit -u`",
}


class NoThread(ArtifactfsError):
    """No thread can be had for a call, of which nothing has happened. It may be had a moment later."""


class TreeError(ArtifactfsError):
    """The tree says no."""


class NoSuchEntry(TreeError):
    """There is no such name; `valid_s` is for how many more seconds that may be believed."""

    def __init__(self, message: str, valid_s: float = 0.0) -> None:
        super().__init__(message)
        self.valid_s = valid_s


class NotADirectory(TreeError):
    """A name was looked for below a file."""


class IsADirectory(TreeError):
    """A directory was opened as a file."""


class NotALink(TreeError):
    """The target of something was asked for that is no symbolic link."""


class Superseded(TreeError):
    """A version that the server has replaced, or an inode that we no longer know.

    `size_bytes`: of the version that replaced it, where an answer said so.
    """

    def __init__(self, message: str, size_bytes: int | None = None) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


class ReadOnly(TreeError):
    """Somebody tried to write."""


class ServiceError(ArtifactfsError):
    """Model Lab, or the way to it, fails. `fact`: what happened. `what_to_do` has the way out.

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
    """404 or 410 of all runs, or of all projects: nothing that could have been deleted."""


class AccessDenied(ServiceError):
    """401 or 403: keys that are wrong, of another site, or without the permission."""


class BadRequest(ServiceError):
    """400 or 422, or another 4xx that no retry would change."""


class UnexpectedAnswer(ServiceError):
    """An answer that is not what Model Lab sends: HTML, half JSON, another resource, a redirect."""


class AnswerTooLarge(ServiceError):
    """An answer past our sanity caps (semantics 6.4)."""


class PassingError(ServiceError):
    """A failure that may be gone the next time. Never remembered as an absence (semantics 3.2)."""


class RateLimited(PassingError):
    """429, and the reset lies past the deadline. `reset_s`: seconds until the server's reset."""

    def __init__(self, fact: str, reset_s: float) -> None:
        super().__init__(fact, 429)
        self.reset_s = reset_s


class ServerFailed(PassingError):
    """A 5xx that the retries did not cure."""


class TimedOut(PassingError):
    """408, 504, a connect or read time-out, or the operation's whole deadline."""


class NotAsked(TimedOut):
    """The service has let others run into their deadline a moment ago: nothing was sent (semantics 5.1)."""


class ConnectionLost(PassingError):
    """The connection was reset, or ended in the middle of an answer."""


class ShortBody(ConnectionLost):
    """A body that ended before the size that the listing gives: never taken for the whole file."""


class ConnectionRefused(PassingError):
    """Nobody listens there."""


class Unreachable(PassingError):
    """No route to the host, or its name does not resolve."""


class TlsFailed(PassingError):
    """The TLS handshake failed: a proxy's certificate, a wrong CA, a wrong host. `reason`: OpenSSL's words."""

    def __init__(self, fact: str, reason: str = "") -> None:
        super().__init__(fact)
        self.reason = reason


# One row per row of the table in model-lab-api.md; a subclass without a row has its parent's.
_ERRNO: dict[type[BaseException], int] = {
    # Not EAGAIN: see RateLimited.
    NoThread: errno.ENOMEM,
    NoSuchEntry: errno.ENOENT,
    NotADirectory: errno.ENOTDIR,
    IsADirectory: errno.EISDIR,
    NotALink: errno.EINVAL,
    Superseded: errno.ESTALE,
    ReadOnly: errno.EROFS,
    NotFound: errno.ENOENT,
    AccessDenied: errno.EACCES,
    BadRequest: errno.EINVAL,
    UnexpectedAnswer: errno.EBADMSG,
    AnswerTooLarge: errno.EFBIG,
    # Never EAGAIN: a reader takes it for non-blocking mode and may return no data without an error.
    RateLimited: errno.EBUSY,
    ServerFailed: errno.EIO,
    TimedOut: errno.ETIMEDOUT,
    ConnectionLost: errno.EIO,
    ConnectionRefused: errno.ECONNREFUSED,
    Unreachable: errno.EHOSTUNREACH,
    TlsFailed: errno.EPROTO,
}
# What the system may not have for an operation, by the errno that says so.
_LACKS = {
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory",
    errno.EMFILE: "descriptor",
    errno.ENFILE: "descriptor",
}


def lack_of(error: BaseException) -> str | None:
    """Return what the system did not have for an operation: memory, a descriptor, a thread; None for other failures."""
    if isinstance(error, BaseExceptionGroup):
        lacks = {lack_of(each) for each in error.exceptions}
        return lacks.pop() if len(lacks) == 1 else None
    if _is_lack_of_memory(error):
        return "memory"
    if isinstance(error, OSError) and error.errno is not None:
        return _LACKS.get(error.errno)
    return "thread" if _is_lack_of_a_thread(error) else None


def _is_lack_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    # The words of CPython, of C extensions and of the dynamic loader where an allocation failed that they did not check
    # (seen with `ulimit -v` from 33000 to 46000).
    words = {
        SystemError: r"without (setting an )?exception",
        ImportError: r"failed to map segment|cannot allocate memory",
    }
    pattern = next((words[kind] for kind in words if isinstance(error, kind)), None)
    return pattern is not None and re.search(pattern, str(error), re.IGNORECASE) is not None


def _is_lack_of_a_thread(error: BaseException) -> bool:
    # threading's own words; there is no exception of its own for it.
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def unexpected() -> str:
    """Return what the log says of the exception in hand, where it is none of ours: a lack of the system's is no bug."""
    error = sys.exception()
    lack = lack_of(error) if error is not None else None
    return f"the system has no {lack} for it" if lack else "this is a bug in artifactfs, please report it"


def errno_of(error: BaseException) -> int:
    """Return the errno for an exception; EIO for whatever has no row."""
    if lack_of(error) is not None:
        # Not EAGAIN for a thread: see above.
        return error.errno if isinstance(error, OSError) and error.errno is not None else errno.ENOMEM
    for kind in type(error).__mro__:
        if kind in _ERRNO:
            return _ERRNO[kind]
    return errno.EIO


# What a user can do about it; a subclass without a row has its parent's. A test sees that each kind has one.
_WHAT_TO_DO: dict[type[BaseException], str] = {
    NoThread: "raise the limit on processes (`ulimit -u`), or end some",
    NoSuchEntry: "list its directory to see what is there",
    NotADirectory: "give a directory",
    IsADirectory: "give a file",
    NotALink: "give a symbolic link",
    Superseded: "open the file again: the server has another version by now",
    ReadOnly: "copy it elsewhere and change the copy: the mount is read-only",
    NotFound: "list its directory to see what is there: the server no longer has it",
    NoList: "check --site or --api-url: what answers there has no such list, and may be no Model Lab",
    AccessDenied: "check the keys, that they are of this site (--site), and that they may see this",
    BadRequest: "check the number or the name that was asked for; if it is right, report this with the log",
    UnexpectedAnswer: "check --site or --api-url, and what proxy is in between; if it goes on, report it with the log",
    AnswerTooLarge: "look at what is below it by name: as a whole it is more than artifactfs takes",
    RateLimited: "try again after the reset; other tools with these keys use up the same limit",
    ServerFailed: "try again later; if it goes on, it is the service's to mend",
    TimedOut: "check the network and --proxy; it is asked again at the next look",
    NotAsked: "nothing now: it is tried again every few seconds, and used again as soon as it answers",
    ConnectionLost: "try again; if it goes on, check the network and what proxy is in between",
    ConnectionRefused: "check --api-url and --proxy, and that the service is up",
    Unreachable: "check the network, the name server, and --site, --api-url and --proxy",
    TlsFailed: "check --ca-file (a proxy that opens TLS has a CA of its own) and this machine's clock",
    PassingError: "try again",
    ServiceError: "if it goes on, report it with the log",
    TreeError: "look at its directory again",
}


def what_to_do(error: BaseException) -> str:
    """Return what a user can do about an exception of ours, in part of a sentence; a bug is to be reported."""
    for kind in type(error).__mro__:
        if kind in _WHAT_TO_DO:
            return _WHAT_TO_DO[kind]
    if isinstance(error, UserError):
        if error.fix:
            return error.fix
        return "mend what it names; `artifactfs config show` says where each setting comes from"
    return "report it with the log: it is a bug in artifactfs"
