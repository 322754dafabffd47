"""Checks the user's paths: mount point, cache, log, config file. Any may hang: call through isolated.py."""

import os
import stat
from collections.abc import Sequence

from artifactfs.content import cache_dir
from artifactfs.doctor.findings import Finding, fault, good, refused, skipped, warning
from artifactfs.errors import ExitCode, UserError
from artifactfs.logs import system_logs
from artifactfs.mount import checks, control_client, mount_table
from artifactfs.mount.mount_table import Mount
from artifactfs.settings import Settings, log_target
from artifactfs.util.escaping import shell_word
from artifactfs.util.humanize import format_size

# File systems on a network, and in memory (statfs(2) has only numbers for them).
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "fuse.")
_CACHE = "artifactfs mount --cache-dir /var/tmp/artifactfs-$USER …"
_LOG_FILE = "artifactfs mount --log-file /var/tmp/artifactfs-$USER.log …"
_MOUNTPOINT = "mkdir -p ~/model-lab  # and mount there"
_MEMORY = frozenset({"tmpfs", "ramfs"})


def mountpoint(path: str) -> Finding:
    """Check a mount point as `mount` does. Changes nothing: `mount` replaces a dead mount there."""
    try:
        point, notice = checks.mountpoint(path, heal=False)
    except UserError as error:
        return _mounted(path, error) or refused("mount point", error, error.command or _MOUNTPOINT)
    if notice is not None:
        return warning("mount point", notice.fact, notice.command or _MOUNTPOINT)
    return good("mount point", f"{point} is an empty directory of yours")


def _mounted(path: str, error: UserError) -> Finding | None:
    """Return the finding about a mount of artifactfs at a place where another is refused; None without one."""
    point = mount_table.resolve(path) if error.code is ExitCode.ALREADY_MOUNTED else ""
    mount = mount_table.mounted_at(point)
    if mount is None or not mount.is_ours:
        return None
    command = f"artifactfs status {shell_word(point)}"
    try:
        control_client.check_answers(mount)
    except UserError as silence:
        return refused("mount point", silence, command)
    return skipped("mount point", f"artifactfs is mounted at {point}", command)


def config(settings: Settings, *, understood: bool = True) -> Finding:
    """Check the config file's existence and mode; settings_checks reports its contents.

    `understood` False: the settings could not be read, so its contents are unknown.
    """
    path = settings.config_file
    if path == os.devnull:
        return good("config file", "none, as requested")
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return good("config file", f"none at {path}")
    except OSError as error:
        return warning("config file", f"{path}: {error.strerror}", f"chmod u+r {shell_word(path)}")
    if not understood:
        # For example, another user's file: the finding about the settings names it.
        return skipped("config file", path)
    mode = stat.S_IMODE(found.st_mode)
    private = "you alone can read it" if not mode & 0o077 else "others can read it, and it holds no keys"
    return good("config file", f"{path}; {private}")


def cache(mounts: Sequence[Mount], settings: Settings, point: str | None) -> Finding:
    """Check the cache directory: its owner, its file system, and the free space."""
    path = settings.cache_dir
    if settings.cache_size == 0:
        return good("cache", "turned off: repeated reads are fetched again")
    if point is not None:
        try:
            checks.cache_place(settings, os.path.realpath(point))
        except UserError as error:
            return refused("cache", error, _CACHE)
    try:
        notice = checks.cache(settings)
    except cache_dir.ForeignDirectory as error:
        return refused("cache", error, f"artifactfs mount --cache-dir {error.instead} …")
    if notice is not None:
        return warning("cache", notice.fact, notice.command)
    lies_at = checks.existing_above(path)
    private = "; its mode becomes 0700" if lies_at == path and stat.S_IMODE(os.stat(path).st_mode) & 0o077 else ""
    disk = os.statvfs(lies_at)
    around = mount_table.innermost(os.path.realpath(lies_at), mounts)
    kind = around.fstype if around is not None else ""
    free = f"{format_size(disk.f_bavail * disk.f_frsize)} free"
    if kind in _MEMORY:
        return warning("cache", f"{path} lies in memory ({kind}), which programs then lack", _CACHE)
    if kind.startswith(_REMOTE):
        return warning("cache", f"{path} lies on {kind}: reads are as slow as its network", _CACHE)
    most = format_size(settings.cache_size)
    return good("cache", f"{path} on {kind or 'an unknown file system'}, {most} at most, {free}{private}")


def log(settings: Settings, point: str | None) -> Finding:
    """Check that a mount in the background can write its log."""
    if settings.log_to == "stderr":
        return good("log", "goes to standard error, of a mount in the foreground")
    target = log_target(settings, point or "/mnt", foreground=False)
    if target.file is None:
        socket = system_logs.JOURNAL_SOCKET if target.to == "journal" else system_logs.SYSLOG_SOCKET
        if not os.path.exists(socket):
            return fault("log", f"{target.place} is not running: {socket} is missing", _LOG_FILE)
        return good("log", f"goes to {target.place}")
    path = target.file
    directory = os.path.dirname(path)
    place = checks.existing_above(path if os.path.lexists(path) else directory)
    if os.path.isdir(path):
        return fault("log", f"{path} is a directory", "artifactfs mount --log-file FILE …")
    if point is not None:
        try:
            checks.log_file(path, os.path.realpath(point))
        except UserError as error:
            return refused("log", error, _LOG_FILE)
    if not os.access(place, os.W_OK | (os.X_OK if os.path.isdir(place) else 0)):
        fact = f"the log of a mount in the background cannot be written: {place} is not yours to write"
        return fault("log", fact, _LOG_FILE)
    if os.path.lexists(path) and not os.path.isfile(path):
        return skipped("log", f"goes to {path}")
    return good("log", f"goes to {path if settings.log_file or point else directory}")
