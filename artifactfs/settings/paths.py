"""Where this user's files are (XDG Base Directory Specification).

Own code and no library: what a variable says counts only if it is an absolute path, says the specification, and where
there is no home at all the user has to hear it, and not find a directory called `~`.
"""

import hashlib
import os
import pwd
import re

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import trusted_files

APP = "artifactfs"


def home() -> str:
    """Return this user's home: HOME, else what the password database says. Raises UserError where neither is a path."""
    named = os.environ.get("HOME", "")
    if not os.path.isabs(named):
        try:
            named = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            named = ""
    if not os.path.isabs(named):
        raise UserError(
            ExitCode.USAGE,
            f"there is no home directory: user {os.getuid()} has none, and HOME is no absolute path; "
            f"set HOME to a directory of your own, as in `HOME=/var/lib/artifactfs artifactfs …`",
        )
    return named


def expanded(path: str) -> str:
    """Return a path with `~` or `~user` at its start replaced, as a shell does. Raises UserError without a home."""
    first, slash, rest = path.partition("/")
    return home().rstrip("/") + slash + rest if first == "~" else os.path.expanduser(path)


def config_home() -> str:
    """Return where this user's config files are."""
    return _base("XDG_CONFIG_HOME", ".config")


def cache_home() -> str:
    """Return where this user's caches are."""
    return _base("XDG_CACHE_HOME", ".cache")


def state_dir() -> str:
    """Return the user's state directory for artifactfs: logs, and the register of live mounts.

    Raises UserError without a home, and where root would write to what another user can change.
    """
    directory = os.path.join(_base("XDG_STATE_HOME", ".local/state"), APP)
    return _root_s_own(directory, "logs (unless --log-file names another) and of the register of mounts")


def user_unit_dir() -> str:
    """Return where this user's systemd units are (systemd.unit(5)). Raises UserError as `state_dir` does."""
    return _root_s_own(os.path.join(config_home(), "systemd", "user"), "units")


def data_home() -> str:
    """Return where this user's desktop looks for MIME packages, launchers and icons. UserError as `state_dir`."""
    return _root_s_own(_base("XDG_DATA_HOME", ".local/share"), "the desktop's files")


def has_display() -> bool:
    """Say whether a window could be shown."""
    return bool(os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY"))


def default_log_file(point: str) -> str:
    """Return where a mount in the background logs: a file of its own, so that two never rotate one."""
    bare = point.strip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", bare)[-200:] or "root"
    if name.replace("-", "/") != bare:
        # Something was lost: another mount point may have the same name.
        name += "-" + hashlib.blake2b(os.fsencode(point), digest_size=4).hexdigest()
    return os.path.join(state_dir(), "log", f"{name}.log")


def _base(variable: str, below_home: str) -> str:
    named = os.environ.get(variable, "")
    return named if os.path.isabs(named) else os.path.join(home(), below_home)


def _root_s_own(directory: str, what: str) -> str:
    """Return a directory that is written to, if no other user can lead root elsewhere by it (semantics 6.2).

    HOME is often another user's (`sudo -E`, `su -m`), and a symbolic link there would have root write to any file.
    """
    if os.geteuid() == 0:
        try:
            trusted_files.refuse_foreign(directory)
        except trusted_files.NotOurs as error:
            raise UserError(
                ExitCode.NOT_WRITABLE,
                f"{directory}, the place of {what}, {error}: run `sudo -H artifactfs …`, or set HOME to root's own",
            ) from None
    return directory
