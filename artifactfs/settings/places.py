"""Where this user's files are."""

import hashlib
import os
import re

import platformdirs

APP = "artifactfs"


def state_dir() -> str:
    """Return the user's state directory for artifactfs: logs, and the register of live mounts."""
    return platformdirs.user_state_dir(APP, appauthor=False)


def user_unit_dir() -> str:
    """Return where this user's systemd units are (systemd.unit(5))."""
    return os.path.join(platformdirs.user_config_dir("systemd", appauthor=False), "user")


def data_home() -> str:
    """Return where this user's desktop looks for MIME packages, launchers and icons (XDG Base Directory)."""
    named = os.environ.get("XDG_DATA_HOME", "")
    # A relative one is to be ignored, says the specification.
    return named if os.path.isabs(named) else os.path.expanduser("~/.local/share")


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
