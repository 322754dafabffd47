"""Reads the environment that systemd gives a service, and finds the destination of the log."""

import os
import shutil
from collections.abc import Mapping, MutableMapping

from artifactfs.errors import ExitCode, UserError
from artifactfs.logs import LogDestination
from artifactfs.settings.loading import Settings
from artifactfs.settings.parsers import is_descriptor
from artifactfs.settings.paths import default_log_file


def take_notify_socket(environ: MutableMapping[str, str] = os.environ) -> str | None:
    """Remove the address for notifications to systemd (sd_notify(3)) from the environment, and return it.

    Child processes (fusermount3) must not notify in the name of this one.
    """
    return environ.pop("NOTIFY_SOCKET", None) or None


def find_program(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return a program's path by PATH, or by the default PATH where it is empty; None where there is none."""
    return shutil.which(name, path=environ.get("PATH") or os.defpath)


def log_target(
    settings: Settings, point: str, *, foreground: bool, environ: Mapping[str, str] = os.environ
) -> LogDestination:
    """Return the destination of the log of a mount at `point`. Raises UserError."""
    to, file = settings.log_to, settings.log_file
    if to == "auto" and (file is not None or not foreground):
        to = "file"
    elif to == "auto":
        to = "journal" if _stderr_is_journal(environ) else "stderr"
    if to == "stderr" and not foreground:
        raise UserError(ExitCode.USAGE, "a mount in the background has no standard error to log to", "add -f")
    if to == "file" and file is not None and is_descriptor(file) and not foreground:
        fact = f"a mount in the background closes the caller's descriptors, such as the log {file}"
        raise UserError(ExitCode.USAGE, fact, "add -f")
    return LogDestination(to, (file or default_log_file(point)) if to == "file" else None, settings.log_format)


def _stderr_is_journal(environ: Mapping[str, str]) -> bool:
    """Return whether standard error is connected to the journal (systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
