"""The bundle of `artifactfs doctor --bundle`: what a maintainer needs to see of a problem, and nothing private.

One JSON file, which its user can read before it is sent. All of it goes through one `Redactor`; answer_forms.py has the
part about the service (docs/semantics.md 6.6).
"""

import contextlib
import ctypes
import importlib.metadata
import json
import os
import platform
import re
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import msgspec

from artifactfs import __version__, settings
from artifactfs.control import counters, status_schema
from artifactfs.doctor.findings import Finding, Mark
from artifactfs.doctor.redaction import KINDS, Redactor, log_lines
from artifactfs.errors import ExitCode, UserError
from artifactfs.logs.system_logs import IDENTIFIER
from artifactfs.modellab.request_stats import Outcome
from artifactfs.mount import control_client, mount_owner, mount_table
from artifactfs.mount.mount_table import Mount
from artifactfs.settings.schema import BY_NAME
from artifactfs.util.clock import rfc3339
from artifactfs.util.path_walk import open_path
from artifactfs.util.tools import ToolFailed, output_of
from artifactfs.util.urls import SITES

if TYPE_CHECKING:
    from artifactfs.doctor.answer_forms import Place
    from artifactfs.modellab.transport import Transport

ABOUT = (
    "What artifactfs knows of a problem, for its maintainers: read it before you send it.",
    "It holds versions, the findings of the doctor, settings, the state of your mounts, the end of their logs, and the",
    "form of the service's answers (statuses, header names, field names, sizes).",
    "Names, ids, paths, hosts other than Datadog's API, and keys are replaced: name1 is the same thing everywhere.",
)
# Of a log, and lines of it. Arbitrary.
_LOG_BYTES = 64 << 10
_LOG_LINES = 200
_DOCTOR = "artifactfs.doctor"
# Mounts that are asked, one after the other. Arbitrary.
_MAX_MOUNTS = 8
_ERRORS_ROW = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)  (notice: )?(.*)")
# Parts of a kernel's release that distributions use; a kernel of one's own may be named after a host.
_FLAVORS = frozenset(
    {"amd64", "arm64", "aws", "azure", "cloud", "gcp", "generic", "gke", "lowlatency", "microsoft", "oracle"}
    | {"rpi", "rt", "standard", "WSL2", "x86_64", "aarch64"}
)


# journald's answer; it may search hours of logs. Arbitrary.
_JOURNAL_S = 20.0
# Syslog's severities (logs/system_logs.py).
_LEVELS = {"2": "CRITICAL", "3": "ERROR", "4": "WARNING", "6": "INFO"}


class _JournalRecord(msgspec.Struct):
    message: str = msgspec.field(name="MESSAGE")
    priority: str = msgspec.field(name="PRIORITY")
    microseconds: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    logger: str = msgspec.field(name="LOGGER")


def _fields_of(*structs: type[msgspec.Struct]) -> set[str]:
    return {field.name for struct in structs for field in msgspec.structs.fields(struct)}


_STATUS = (status_schema.Status, status_schema.Health, status_schema.Times, status_schema.RateLimit)
_MORE = (status_schema.Streaming, status_schema.IndexStatus, status_schema.LastTraversal, status_schema.Failed)
_COUNTED = {counter.path.rpartition(".")[2] for counter in counters.COUNTERS if counter.kind}
_OUTCOMES = {str(outcome) for outcome in Outcome}
_KEYS = frozenset(
    {*_fields_of(*_STATUS, *_MORE), *(counter.path.rpartition(".")[2] for counter in counters.COUNTERS)}
    | {*_OUTCOMES, *KINDS, ""}
)
# Not the ids of processes, users, runs and projects.
_NUMBERS = frozenset(
    {*_COUNTED, *_OUTCOMES, *KINDS, "schema", "sum_s", "bounds_s", "within", "limit", "remaining", "reset_s"}
    | {"paused_s", "size_bytes", "came_to", "files", "age_s", "runs_right", "runs_wrong", "seconds", "directories"}
    | {"received_bytes", "count", "failures"}
)
_WORDS = {
    "state": frozenset({*status_schema.STATES, "pending", "trusted", "rejected", "unverified"}),
    "site": frozenset(SITES),
    "version": frozenset({__version__}),
}


class Bundle:
    """A bundle that is being made: the new file, the settings, and the forms of answers, as they come."""

    def __init__(self, path: str, given: settings.Arguments, mountpoint: str | None) -> None:
        """Make the file with mode 0600, before the checks; read the settings, before the keys leave the environment.

        Raises UserError where the file cannot be made. An existing file is left as it is.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:
            raise UserError(ExitCode.NOT_WRITABLE, "it exists already", "give the name of a new file", path) from None
        except (OSError, ValueError) as error:
            raise _not_writable(path, error) from None
        self._file = os.fdopen(fd, "w", encoding="ascii")
        self._path = path
        self._mountpoint = mountpoint
        self._redactor = Redactor()
        self._answers: list[Mapping[str, object]] = []
        self._settings = settings_shown(given, self._redactor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_rest: object) -> None:
        """Close the file, and delete it if the checks were interrupted."""
        with contextlib.suppress(OSError):
            # What is not written is reported already.
            self._file.close()
        if kind is not None:
            os.unlink(self._path)

    async def ask(self, transport: "Transport", place: "Place") -> None:
        """Send the requests about the open questions of the API."""
        from artifactfs.doctor import answer_forms

        self._answers += await answer_forms.ask(transport, place, self._redactor)

    def write(self, findings: Sequence[Finding], requests: Mapping[str, int]) -> int:
        """Write the file; returns its size in bytes. Raises UserError."""
        text = json.dumps(self._document(findings, requests), indent=1) + "\n"
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise _not_writable(self._path, error) from None
        return len(text)

    def _document(self, findings: Sequence[Finding], requests: Mapping[str, int]) -> dict[str, Any]:
        redactor = self._redactor
        return {
            "about": list(ABOUT),
            "at": rfc3339(time.time()),
            "versions": versions(),
            "checks": [_check(finding, redactor) for finding in findings],
            "requests": dict(requests),
            "settings": self._settings,
            "mounts": _mounts(redactor, self._mountpoint),
            "last_log": _last_log(redactor, self._mountpoint),
            "journal": _journal(redactor),
            "answers": self._answers,
        }


def _check(finding: Finding, redactor: Redactor) -> dict[str, str]:
    found = {"check": finding.check, "mark": finding.mark.value, "fact": redactor.text(finding.fact, _DOCTOR)}
    # A fix of what is right is none.
    if finding.mark is not Mark.GOOD and finding.fix is not None:
        found["fix"] = redactor.text(finding.fix, _DOCTOR)
    return found


def _not_writable(path: str, error: Exception) -> UserError:
    fact = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return UserError(ExitCode.NOT_WRITABLE, fact, "give --bundle another place", path or "--bundle ''")


def settings_shown(given: settings.Arguments, redactor: Redactor) -> dict[str, Any]:
    """Return every setting and its source, redacted. Call before the keys leave the environment."""
    try:
        found = settings.explain(**given)
    except UserError as error:
        return {"problem": _finding_text(error, redactor)}
    return {
        "config_exists": found.config_exists,
        "profile": found.profile and redactor.name(found.profile),
        "settings": {
            shown.name: {
                "value": _setting(shown, redactor),
                "source": _source(shown, redactor),
                **({} if shown.problem is None else {"problem": redactor.text(shown.problem)}),
                **({} if shown.used else {"used": False}),
            }
            for shown in found.settings
        },
        "warnings": [redactor.text(str(each)) for each in found.warnings],
        "problem": None if found.problem is None else _finding_text(found.problem, redactor),
    }


def _setting(shown: settings.Shown, redactor: Redactor) -> object:
    setting, text = BY_NAME[shown.name], shown.text
    if shown.value is None or shown.problem is not None:
        return None
    if text == "set":
        return text
    # Not the user's and group's ids, whose defaults are made of the process.
    is_number = isinstance(setting.default, bool | int | float) or shown.name == "wait_max"
    if (is_number and not isinstance(shown.value, str)) or (is_number and re.fullmatch(r"[0-7]{1,4}", text)):
        return text
    if setting.metavar and text in setting.metavar.split("|"):
        return text
    if text == setting.default and isinstance(setting.default, str):
        return text
    if shown.name == "site":
        return redactor.host(text)
    return redactor.text(text) if "://" in text else redactor.path(text)


def _source(shown: settings.Shown, redactor: Redactor) -> str:
    setting = BY_NAME[shown.name]
    known = {setting.default_source, "default", setting.option, f"-o {setting.name}", *setting.env}
    known.update(f"${name}" for name in setting.env)
    return redactor.one_of(shown.source, known) if "/" not in shown.source else redactor.text(shown.source)


def versions() -> dict[str, str | None]:
    """Return the versions of artifactfs and of all below it."""
    required = {
        match[0]
        for requirement in importlib.metadata.requires("artifactfs") or []
        if "extra ==" not in requirement and (match := re.match(r"[\w.-]+", requirement))
    }
    found: dict[str, str | None] = {"artifactfs": __version__, "python": platform.python_version()}
    found["implementation"] = sys.implementation.name
    found["kernel"] = release(platform.release())
    found["machine"] = platform.machine()
    found["libfuse"] = _libfuse()
    for name in sorted(required):
        try:
            found[name] = _version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _version(text: str) -> str:
    """Return a version without a builder's own mark: `1.2.post1` of `1.2.post1+acme`."""
    match = re.match(r"\d+(?:\.\d+)*(?:\.?(?:a|b|rc|post|dev)\d+)?", text)
    return match[0] if match else "?"


def release(text: str) -> str:
    """Return a kernel's release, without the parts that its builder may have chosen: `6.1.0-18-amd64`."""
    number, *parts = re.split(r"[-+_]", text)
    known = [part if part in _FLAVORS or re.fullmatch(r"\d{1,4}(?:\.\d{1,4})*", part) else "…" for part in parts]
    match = re.match(r"\d+(?:\.\d+){0,3}", number)
    return "-".join([match[0] if match else "…", *known])


def _libfuse() -> str | None:
    try:
        library = ctypes.CDLL("libfuse3.so.3")
        library.fuse_pkgversion.restype = ctypes.c_char_p
        return _version(library.fuse_pkgversion().decode("ascii", "replace"))
    except (OSError, AttributeError):
        return None


def _mounts(redactor: Redactor, mountpoint: str | None) -> list[dict[str, Any]]:
    mine = {mount.point for mount in control_client.my_mounts()}
    asked_for = None if mountpoint is None else os.path.abspath(mountpoint)
    ours = [mount for mount in mount_table.mounts() if mount.is_ours]
    # Of more than are shown, the one that the report is about is the first.
    ours.sort(key=lambda mount: (mount.point != asked_for, mount.point not in mine))
    return [_mount(mount, mount.point in mine, redactor) for mount in ours[:_MAX_MOUNTS]]


def _mount(mount: Mount, is_mine: bool, redactor: Redactor) -> dict[str, Any]:
    row: dict[str, Any] = {
        "point": redactor.path(mount.point),
        "type": mount.fstype,
        "source": redactor.one_of(mount.source, {"artifactfs"}),
        "is_mine": is_mine,
        "user_id_is_mine": mount.user_id in mount_owner.my_ids(),
        "allow_other": mount.allow_other,
        "is_whole": mount.root == "/",
    }
    if not is_mine:
        return row
    try:
        status = json.loads(control_client.ask("status.json", mount.point).text)
        errors = control_client.ask("errors", mount.point).text
    except (UserError, ValueError) as error:
        return row | {"no_answer": redactor.text(str(error))}
    log_file = status.get("log_file") if isinstance(status, dict) else None
    return row | {
        "status": redactor.value(status, keys=_KEYS, numbers=_NUMBERS, words=_WORDS),
        "errors": [_errors_row(line, redactor) for line in errors.splitlines()],
        "log": _end_of(log_file, redactor) if isinstance(log_file, str) else None,
    }


def _errors_row(line: str, redactor: Redactor) -> str:
    if match := _ERRORS_ROW.fullmatch(line):
        return f"{match[1]}  {match[2] or ''}{redactor.text(match[3])}"
    return redactor.text(line.strip())


def _last_log(redactor: Redactor, mountpoint: str | None) -> list[str] | None:
    """Return the end of the log of MOUNTPOINT, or of the mount that was last to write one; None if there is none."""
    try:
        if mountpoint is not None:
            return _end_of(settings.default_log_file(os.path.abspath(mountpoint)), redactor)
        directory = os.path.join(settings.state_dir(), "log")
        files = [entry.path for entry in os.scandir(directory) if entry.name.endswith(".log")]
        return _end_of(max(files, key=lambda path: os.lstat(path).st_mtime), redactor) if files else None
    except (OSError, UserError):
        # There has been no mount in the background.
        return None


def _journal(redactor: Redactor) -> list[str] | None:
    """Return the last lines that mounts of this user wrote to systemd's journal; None without any, or without one."""
    found = (f"_UID={os.getuid()}", f"SYSLOG_IDENTIFIER={IDENTIFIER}")
    try:
        text = output_of(
            "journalctl", "--quiet", "--no-pager", "--output=json", f"--lines={_LOG_LINES}", *found, limit_s=_JOURNAL_S
        )
    except ToolFailed:
        return None
    lines = [line for row in text.splitlines() for line in _journal_lines(row)]
    return list(log_lines(lines[-_LOG_LINES:], redactor)) or None


def _journal_lines(row: str) -> list[str]:
    """Return a record of the journal as a log file has it: its line, and those of its traceback."""
    try:
        record = msgspec.json.decode(row, type=_JournalRecord)
        when = rfc3339(int(record.microseconds) / 1e6).replace("T", " ").rstrip("Z")
    except (msgspec.MsgspecError, ValueError):
        # A message that is no text is an array of numbers.
        return []
    message, *traceback = record.message.split("\n")
    return [f"{when} {_LEVELS.get(record.priority, 'DEBUG')} {record.logger}: {message}", *traceback]


def _end_of(path: str, redactor: Redactor) -> list[str] | None:
    """Return the last lines of a log, redacted; None where it cannot be read, or is no file."""
    try:
        fd, _ = open_path(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    with open(fd, "rb") as file:
        size = os.fstat(fd).st_size
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        file.seek(max(0, size - _LOG_BYTES))
        lines = file.read(_LOG_BYTES).decode("utf-8", "surrogateescape").splitlines()
    # The first may be a part of a line.
    lines = lines[1:] if size > _LOG_BYTES else lines
    return list(log_lines(lines[-_LOG_LINES:], redactor))


def _finding_text(error: UserError, redactor: Redactor) -> str:
    subject = f"{redactor.path(error.subject)}: " if error.subject else ""
    return f"{subject}{redactor.text(error.fact)}"
