"""artifactfs.errors: the tree of exceptions, and the one table to errno (docs/semantics.md 5.3)."""

import errno
import os
import re
from pathlib import Path

import httpx
import pytest

from artifactfs import errors
from artifactfs.modellab.error_mapping import error_from_exception

PAGE = Path(__file__).parents[2] / "docs" / "dev" / "model-lab-api.md"

# The rows of "Status to errno" in model-lab-api.md that an exception stands for.
ROWS: list[tuple[str, BaseException, str]] = [
    ("404, 410", errors.NotFound("x", 404), "ENOENT"),
    ("404, 410", errors.NoSuchEntry("x"), "ENOENT"),
    ("404, 410", errors.Superseded("x"), "ESTALE"),
    ("401, 403", errors.AccessDenied("x", 403), "EACCES"),
    ("400, 422 on a listing", errors.BadRequest("x", 400), "EINVAL"),
    ("400, 404, 500 on content", errors.NoSuchEntry("x"), "ENOENT"),
    ("400, 404, 500 on content", errors.IsADirectory("x"), "EISDIR"),
    ("400, 404, 500 on content", errors.ServerFailed("x", 500), "EIO"),
    ("408, 504, connect or read time-out", errors.TimedOut("x"), "ETIMEDOUT"),
    ("429 past the deadline", errors.RateLimited("x", 5.0), "EBUSY"),
    ("5xx after the retries, connection reset, short body", errors.ServerFailed("x", 503), "EIO"),
    ("5xx after the retries, connection reset, short body", errors.ConnectionLost("x"), "EIO"),
    ("5xx after the retries, connection reset, short body", errors.ShortBody("x"), "EIO"),
    ("connection refused; no route or DNS", errors.ConnectionRefused("x"), "ECONNREFUSED"),
    ("connection refused; no route or DNS", errors.Unreachable("x"), "EHOSTUNREACH"),
    ("no request, as the mount is offline", errors.Offline("x"), "ENETDOWN"),
    ("TLS failure", errors.TlsFailed("x"), "EPROTO"),
    ("2xx without the expected JSON", errors.UnexpectedAnswer("x", 200), "EBADMSG"),
    ("size or version changed under an open file", errors.Superseded("x"), "ESTALE"),
    ("listing larger than the sanity cap", errors.AnswerTooLarge("x"), "EFBIG"),
    ("the system has no memory, thread or descriptor for it", MemoryError(), "ENOMEM"),
    ("the system has no memory, thread or descriptor for it", errors.NoThread("x"), "ENOMEM"),
    ("the system has no memory, thread or descriptor for it", OSError(errno.EMFILE, "x"), "EMFILE"),
    ("a bug of ours", RuntimeError("x"), "EIO"),
]


@pytest.mark.parametrize(("event", "error", "name"), ROWS, ids=[f"{e}-{type(x).__name__}" for e, x, _ in ROWS])
def test_a_row_of_the_table(event: str, error: BaseException, name: str) -> None:
    """5.3: each event of the table has the errno that the table gives it."""
    assert errno.errorcode[errors.errno_of(error)] == name


def test_the_rows_here_are_those_of_the_page() -> None:
    """5.3: every row of the page is tested above, and every errno above stands in its row of the page."""
    table = PAGE.read_text(encoding="utf-8").split("## Status to errno", 1)[1]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE))
    # The kernel refuses a write, and no exception stands for it: tests/contract/test_semantics_5_failure.py.
    for head in ("event", "---", "any write"):
        rows.pop(head, None)
    assert {event for event, _, _ in ROWS} == set(rows)
    for event, _, name in ROWS:
        assert name in rows[event], (event, name)


def _kinds(kind: type[errors.ArtifactfsError]) -> list[type[errors.ArtifactfsError]]:
    below = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [kind, *(each for sub in below for each in _kinds(sub))]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every exception stands in the docstring's drawing, below its parent."""
    drawn: dict[str, int] = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)((?:[A-Z][A-Za-z]+)(?:, [A-Z][A-Za-z]+)*)", line):
            drawn |= dict.fromkeys(match[2].split(", "), len(match[1]) // 4)
    kinds = _kinds(errors.ArtifactfsError)
    assert set(drawn) == {kind.__name__ for kind in kinds}
    for kind in kinds:
        assert drawn[kind.__name__] == kind.__mro__.index(errors.ArtifactfsError)


def test_what_may_pass_is_a_passing_error() -> None:
    """3.2: 429, 5xx and the network are passing errors; what the server meant is not."""
    passing = {kind.__name__ for kind in _kinds(errors.PassingError)}
    assert passing >= {
        "RateLimited", "ServerFailed", "TimedOut", "ConnectionLost", "ConnectionRefused", "Unreachable", "TlsFailed",
    }  # fmt: skip
    for meant in (errors.NotFound, errors.AccessDenied, errors.BadRequest, errors.UnexpectedAnswer):
        assert not issubclass(meant, errors.PassingError)


def test_no_errno_that_misleads_a_reader() -> None:
    """Never EAGAIN (no data without an error), never ENOSYS (the kernel stops asking)."""
    given = {errors.errno_of(error) for _, error, _ in ROWS}
    assert not given & {errno.EAGAIN, errno.ENOSYS}


def test_a_subclass_without_a_row_has_its_parents() -> None:
    """An exception added later is not an EIO by accident."""

    class Special(errors.Unreachable):
        pass

    assert errors.errno_of(Special("x")) == errno.EHOSTUNREACH


@pytest.mark.parametrize("error", [errors.ServiceError("x"), errors.TreeError("x"), errors.PassingError("x")])
def test_an_error_without_any_row_is_eio(error: errors.ArtifactfsError) -> None:
    """Whatever has no row is EIO, never success."""
    assert errors.errno_of(error) == errno.EIO


@pytest.mark.parametrize("kind", _kinds(errors.ServiceError) + _kinds(errors.TreeError), ids=lambda kind: kind.__name__)
def test_what_to_do_is_said_of_each(kind: type[errors.ArtifactfsError]) -> None:
    """5.3: each kind of failure has a way out of its own, in part of a sentence."""
    error = kind("x", 1.0) if kind is errors.RateLimited else kind("x")
    todo = errors.what_to_do(error)
    parent = kind.__mro__[1]
    assert kind is errors.ShortBody or todo != errors.what_to_do(parent("x"))
    assert todo == todo.strip(" .;")
    assert "\n" not in todo


def test_what_to_do_about_a_bug() -> None:
    """5.3: what is no failure of the service's is ours, and to be reported."""
    assert "report" in errors.what_to_do(RuntimeError("x"))
    for number in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EMFILE):
        assert "report" not in errors.what_to_do(OSError(number, os.strerror(number), "/a/file"))
    assert errors.what_to_do(errors.ShortBody("x")) == errors.what_to_do(errors.ConnectionLost("x"))


def test_exit_codes_are_never_renumbered() -> None:
    """Scripts rely on these numbers."""
    assert [(code.name, code.value) for code in errors.ExitCode][:7] == [
        ("OK", 0), ("BUG", 1), ("USAGE", 2), ("KEYS_MISSING", 3), ("KEYS_REJECTED", 4), ("MOUNTPOINT_MISSING", 5),
        ("NOT_A_DIRECTORY", 6),
    ]  # fmt: skip
    assert {errors.ExitCode(code).name for code in range(7, 21)} == {
        "ALREADY_MOUNTED", "NO_FUSE_DEVICE", "NO_FUSERMOUNT", "ALLOW_OTHER_REFUSED", "UNREACHABLE", "NOT_MODEL_LAB",
        "BAD_CONFIG", "SERVICE_FAILED", "TLS_FAILED", "MOUNT_REFUSED", "NOT_MOUNTED", "UMOUNT_FAILED", "NOT_WRITABLE",
        "MISSING_EXTRA",
    }  # fmt: skip


def test_errors_hold_facts() -> None:
    """A message is the user's sentence; facts are attributes."""
    assert str(errors.UserError(errors.ExitCode.USAGE, "say what")) == "say what"
    assert errors.UserError(errors.ExitCode.USAGE, "x").code is errors.ExitCode.USAGE
    assert errors.RateLimited("x", 17.0).reset_s == 17.0
    assert errors.RateLimited("x", 17.0).status == 429
    assert errors.NoSuchEntry("x", 3.0).valid_s == 3.0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", b"/x"), "/x: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError("without a number"), "without a number"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (MemoryError(), "no memory left"),
        (SystemError("<built-in function compile> returned NULL without setting an exception"), "no memory left"),
    ],
)
def test_what_the_machine_refuses(error: BaseException, said: str) -> None:
    """It is reported as what it is, with the limit to raise: no defect of ours."""
    told = errors.of_the_system(error)
    assert told is not None
    assert told.code is errors.ExitCode.SYSTEM_FAILED
    assert said in str(told)


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("x"), KeyError("x"), UnicodeEncodeError("a", "b", 0, 1, "c")]
)
def test_what_is_a_defect(error: BaseException) -> None:
    """Everything else is one."""
    assert errors.of_the_system(error) is None


LACKS: list[tuple[BaseException, str | None, str]] = [
    (MemoryError(), "memory", "ENOMEM"),
    (OSError(errno.ENOMEM, "x"), "memory", "ENOMEM"),
    (OSError(errno.EMFILE, "x"), "descriptor", "EMFILE"),
    (OSError(errno.ENFILE, "x"), "descriptor", "ENFILE"),
    (RuntimeError("can't start new thread"), "thread", "ENOMEM"),
    (ExceptionGroup("x", [MemoryError(), MemoryError()]), "memory", "ENOMEM"),
    (ExceptionGroup("x", [MemoryError(), ValueError()]), None, "EIO"),
    (OSError(errno.EIO, "x"), None, "EIO"),
    (OSError("x"), None, "EIO"),
    (RuntimeError("x"), None, "EIO"),
]


@pytest.mark.parametrize(("error", "lack", "name"), LACKS, ids=[repr(error) for error, _, _ in LACKS])
def test_a_lack_of_the_systems_is_no_bug(error: BaseException, lack: str | None, name: str) -> None:
    """5.5: memory, descriptors or threads that cannot be had have an errno of their own, and are not to be reported."""
    assert errors.lack_of(error) == lack
    assert errno.errorcode[errors.errno_of(error)] == name
    try:
        raise error  # noqa: TRY301 - it has to be in hand
    except BaseException:
        said = errors.unexpected()
    assert ("please report it" in said) == (lack is None)


@pytest.mark.parametrize(
    ("error", "why"),
    [(httpx.ReadError(""), "the other end closed it"),
     (httpx.RemoteProtocolError("http://user:s3cr3t@proxy/"), "the answer broke off, or is no HTTP")],
    ids=repr,
)  # fmt: skip
def test_a_lost_connection_says_why(error: httpx.HTTPError, why: str) -> None:
    """No name of Python's, nor its text: what the system says of it, else what it means."""
    assert str(error_from_exception("api.test", error)) == f"the connection to api.test was lost: {why}"
    error.__cause__ = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    assert str(error_from_exception("api.test", error)).endswith("was lost: Connection reset by peer")
