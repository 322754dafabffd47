"""Finds this user's directories (XDG Base Directory Specification).

Own code in place of a library: the specification ignores variables that are no absolute path, and a user without a home
must get an error, not a directory called `~`.
"""

import os
import pwd
import re

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import trusted_files

APP = "artifactfs"


def home() -> str:
    """Return this user's home: HOME, else that of the password database. Raises UserError where neither is a path."""
    named = os.environ.get("HOME", "")
    if not os.path.isabs(named):
        try:
            named = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            named = ""
    if not os.path.isabs(named):
        fact = f"there is no home directory: user {os.getuid()} has none, and HOME is no absolute path"
        command = "HOME=/var/lib/artifactfs artifactfs …"
        fix = f"set HOME to a directory of your own, as in `{command}`"
        raise UserError(ExitCode.USAGE, fact, fix, command=command)
    return named


def expanded(path: str) -> str:
    """Return a path with `~` or `~user` at its start replaced, as a shell does. Raises UserError without a home."""
    first, slash, rest = path.partition("/")
    return home().rstrip("/") + slash + rest if first == "~" else os.path.expanduser(path)


def config_home() -> str:
    """Return the directory of this user's config files."""
    return _base("XDG_CONFIG_HOME", ".config")


def cache_home() -> str:
    """Return the directory of this user's caches."""
    return _base("XDG_CACHE_HOME", ".cache")


def state_dir() -> str:
    """Return this user's state directory for artifactfs: logs, and the register of live mounts.

    Raises UserError without a home, and where another user can change a directory that root would write to.
    """
    directory = os.path.join(_base("XDG_STATE_HOME", ".local/state"), APP)
    return _root_s_own(directory, "logs (unless --log-file names another) and of the register of mounts")


def user_unit_dir() -> str:
    """Return the directory of this user's systemd units (systemd.unit(5)). Raises UserError as `state_dir` does."""
    return _root_s_own(os.path.join(config_home(), "systemd", "user"), "units")


def own_config_home() -> str:
    """Return the directory of this user's config files, for writing. Raises UserError as `state_dir` does."""
    return _root_s_own(config_home(), "the settings of file managers")


def data_home() -> str:
    """Return the directory of MIME packages, launchers and icons. Raises UserError as `state_dir` does."""
    return _root_s_own(_base("XDG_DATA_HOME", ".local/share"), "the desktop's files")


def has_display() -> bool:
    """Return whether a window could be shown."""
    return bool(os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY"))


def wants_color() -> bool:
    """Return whether the user's terminal may show colors (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def default_log_file(point: str) -> str:
    """Return the log file of a background mount. Each mount has its own, so that two never rotate the same file."""
    bare = point.strip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", bare)[-200:] or "root"
    if name.replace("-", "/") != bare:
        import hashlib  # reads OpenSSL

        # The name is not unique: another mount point may have the same one.
        name += "-" + hashlib.blake2b(os.fsencode(point), digest_size=4).hexdigest()
    return os.path.join(state_dir(), "log", f"{name}.log")


def _base(variable: str, below_home: str) -> str:
    named = os.environ.get(variable, "")
    return named if os.path.isabs(named) else os.path.join(home(), below_home)


def _root_s_own(directory: str, what: str) -> str:
    """Return a directory for writing, unless another user can redirect root's writes by it (docs/semantics.md 6.2).

    HOME is often another user's (`sudo -E`, `su -m`), and a symbolic link there would let root write to any file.
    """
    if os.geteuid() == 0:
        try:
            trusted_files.refuse_foreign(directory)
        except trusted_files.NotOurs as error:
            fact = f"{directory}, the place of {what}, {error}"
            fix = "run `sudo -H artifactfs …`, or set HOME to root's own"
            raise UserError(ExitCode.NOT_WRITABLE, fact, fix, command="sudo -H artifactfs …") from None
    return directory
