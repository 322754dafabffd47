"""What started this process, as its environment tells: systemd, and where its standard error goes."""

import os
import shutil
from collections.abc import Mapping, MutableMapping

from artifactfs.errors import ExitCode, UserError
from artifactfs.logs import LogDestination
from artifactfs.settings.loading import Settings
from artifactfs.settings.parsers import is_descriptor
from artifactfs.settings.paths import default_log_file


def take_notify_socket(environ: MutableMapping[str, str] = os.environ) -> str | None:
    """Return the address that systemd wants to be told at (sd_notify(3)), and take it out of the environment.

    What this process starts (fusermount3) must not speak in its name.
    """
    return environ.pop("NOTIFY_SOCKET", None) or None


def find_program(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return where a program is by PATH, or where it would be without one: an empty PATH is none. None: nowhere."""
    return shutil.which(name, path=environ.get("PATH") or os.defpath)


def log_target(
    settings: Settings, point: str, *, foreground: bool, environ: Mapping[str, str] = os.environ
) -> LogDestination:
    """Return where the log of a mount at `point` goes. Raises UserError."""
    to, file = settings.log_to, settings.log_file
    if to == "auto" and (file is not None or not foreground):
        to = "file"
    elif to == "auto":
        to = "journal" if _stderr_is_journal(environ) else "stderr"
    if to == "stderr" and not foreground:
        raise UserError(ExitCode.USAGE, "a mount in the background has no standard error to log to: add -f")
    if to == "file" and file is not None and is_descriptor(file) and not foreground:
        raise UserError(
            ExitCode.USAGE, f"the log {file} is the caller's, of which a mount in the background keeps nothing: add -f"
        )
    return LogDestination(to, (file or default_log_file(point)) if to == "file" else None, settings.log_format)


def _stderr_is_journal(environ: Mapping[str, str]) -> bool:
    """Tell whether standard error is the stream that systemd has connected to the journal (systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
