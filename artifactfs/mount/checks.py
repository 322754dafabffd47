"""What must hold before a mount is tried, so that a failure has one true cause and nothing is left behind.

`mountpoint`, `fuse`, `memory` and `log_file` are the checks of `mount`. `doctor` runs the same functions, or the single
checks of `fuse`, and adds its own. Only `mountpoint` changes anything: it unmounts a dead mount; and `made_directory`,
which is no check. All raise UserError with the fix.
"""

import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterator

from artifactfs.content import cache_dir
from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.mount import control_client, mount_table
from artifactfs.mount.host import Machine
from artifactfs.settings import Settings
from artifactfs.util import headroom
from artifactfs.util.escaping import shell_word
from artifactfs.util.humanize import format_size

log = logging.getLogger(__name__)

FUSE_DEVICE = "/dev/fuse"
# What is of that name and no such character device is none (devices.txt of the kernel's admin guide).
_FUSE_NUMBERS = os.makedev(10, 229)
FUSE_CONF = "/etc/fuse.conf"
REMAKE_DEVICE = f"rm -r {FUSE_DEVICE}; mknod -m 666 {FUSE_DEVICE} c 10 229"
# The system's own directories (hier(7), file-hierarchy(7)): none of them, nor anything below, is a mount point.
_SYSTEM = (
    "/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/proc", "/run", "/sbin",
    "/snap", "/sys", "/usr", "/lost+found", "/var/backups", "/var/lib/apt", "/var/lib/dpkg", "/var/lib/rpm",
    "/var/lib/systemd", "/var/log", "/var/mail", "/var/spool",
)  # fmt: skip
# Except for these: of a session (its directory itself holds sockets), of removable media, of a unit of ours.
_USERS = re.compile(r"/run/(?:user/[^/]+/.+|media/.+|artifactfs(?:/.+)?)", re.DOTALL)
# Users mount below these, and every program needs the directory itself.
_SHARED = frozenset({"/", "/home", "/root", "/tmp", "/var"})  # noqa: S108 - nothing is written there
_SHARED_VAR = frozenset({"cache", "lib", "log", "spool", "tmp"})


def mountpoint(path: str, *, heal: bool = True) -> tuple[str, Notice | None]:
    """Return the resolved mount point, and a warning or None. Unmounts a dead mount there.

    `heal` False: change nothing; a dead mount is a warning.

    Raises UserError: missing, not a directory, already mounted, not ours to mount on.
    """
    point = resolve(path)
    if heal:
        _heal(point)
    elif dead_mount(point) is not None:
        command = f"artifactfs umount {shell_word(point)}"
        return point, Notice(f"a dead mount is at {point}; the next mount there replaces it", command=command)
    return point, directory(point)


def memory() -> None:
    """Raise UserError where there is too little memory for a mount."""
    if not headroom.for_mount():
        fact = "there is too little memory left for a mount"
        raise UserError(ExitCode.SYSTEM_FAILED, fact, "see `free -h` and `ulimit -v`")


def resolve(path: str) -> str:
    """Return the resolved mount point for a path. Raises UserError where nothing may be mounted."""
    point = mount_table.resolve(path)
    # A mount there takes away what every program needs.
    is_shared = not path or point in _SHARED or point.removeprefix("/var/") in _SHARED_VAR
    system = _system_directory(point)
    if is_shared or system is not None:
        why = "" if is_shared else f": {system} is the system's"
        raise _refused(f"{path!r} is no place for a mount{why}", "give an empty directory of your own")
    return point


def _refused(fact: str, fix: str = "", command: str = "") -> UserError:
    return UserError(ExitCode.MOUNT_REFUSED, fact, fix, command=command)


def _system_directory(point: str) -> str | None:
    """Return the directory of the system that a resolved path is or is in; None where it is in none."""
    if _USERS.fullmatch(point):
        return None
    # The links among them last, such as /bin to /usr/bin.
    for top in (*_SYSTEM, *map(os.path.realpath, _SYSTEM)):
        if top != "/" and (point == top or point.startswith(f"{top}/")):
            return top
    return None


def future(path: str) -> str:
    """Return the resolved mount point of a mount that will be made later, after its directory where that is missing.

    Raises UserError where that cannot be. Touches nothing that is mounted there now.
    """
    point = resolve(path)
    if mount_table.mounted_at(point) is not None:
        return point
    if os.path.lexists(point):
        directory(point)
        return point
    above = existing_above(point)
    if not os.path.isdir(above):
        raise UserError(ExitCode.NOT_A_DIRECTORY, f"mount point {point} cannot be made: {above} is not a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        fact = f"mount point {point} cannot be made: {above} is not yours to write"
        raise _refused(fact, "mount below a directory of your own")
    return point


def cache(settings: Settings) -> Notice | None:
    """Return a warning where nothing can be cached on the disk, None where it can. Raises ForeignDirectory.

    Changes nothing, so what makes the cache may still fail.
    """
    path = settings.cache_dir
    if settings.cache_size == 0:
        return None
    own = "artifactfs mount --cache-dir /var/tmp/artifactfs-$USER …"
    lies_at = existing_above(path)
    try:
        if lies_at == path:
            cache_dir.find(path)
        disk = os.statvfs(lies_at)
    except OSError as error:
        return Notice(f"cache directory {path}: {error.strerror}; nothing is cached", command=own)
    if disk.f_flag & os.ST_RDONLY:
        return Notice(f"cache directory {path} lies on a read-only disk: nothing is cached", command=own)
    if not os.access(lies_at, os.W_OK | os.X_OK):
        if lies_at == path:
            fact = f"cache directory {path} cannot be written: nothing is cached"
            return Notice(fact, command=f"chmod u+rwx {shell_word(path)}")
        # A directory that root makes helps only if this user can enter its parent.
        if os.access(lies_at, os.X_OK):
            own = f"sudo install -d -m 700 -o $(id -u) {shell_word(path)}"
        return Notice(f"cache directory {path} cannot be made in {lies_at}: nothing is cached", command=own)
    free_bytes = disk.f_bavail * disk.f_frsize
    if free_bytes <= settings.cache_min_free:
        free, least = format_size(free_bytes), format_size(settings.cache_min_free)
        fact = f"the disk of cache directory {path} has {free} free, of which {least} must stay free: nothing is cached"
        return Notice(fact, command=own)
    return None


def existing_above(path: str) -> str:
    """Return a path, or its nearest existing parent."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def cache_place(settings: Settings, point: str) -> None:
    """Check that a mount does not hide its own cache, which other commands would not find. Raises UserError."""
    path = settings.cache_dir
    if settings.cache_size and _is_at_or_below(path, point):
        fact = f"the cache directory {path} is at or below the mount point {point}, which would hide it"
        raise UserError(ExitCode.CACHE_REFUSED, fact, "choose another with --cache-dir")


def _is_at_or_below(path: str, point: str) -> bool:
    return (os.path.realpath(path) + "/").startswith(point + "/")


def log_file(path: str, point: str) -> None:
    """Check that a mount does not hide its own log, which it would wait for. Raises UserError."""
    if _is_at_or_below(path, point):
        fact = f"the log {path} is below the mount point {point}, which would hide it"
        raise _refused(fact, "choose another with --log-file")


def directory(point: str) -> Notice | None:
    """Check the directory of a mount point, where nothing is mounted; returns a warning or None. Raises UserError."""
    try:
        found = os.stat(point)
    except FileNotFoundError:
        fact, command = f"mount point {point} does not exist", f"mkdir -p {shell_word(point)}"
        raise UserError(ExitCode.MOUNTPOINT_MISSING, fact, f"create it with `{command}`", command=command) from None
    except OSError as error:
        raise _refused(f"mount point {point}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(ExitCode.NOT_A_DIRECTORY, f"mount point {point} is not a directory", "give an empty directory")
    # fusermount3 asks for both too, and says less (its check_perm; root does without it).
    if os.geteuid() != 0 and not os.access(point, os.W_OK | os.X_OK):
        raise _refused(f"mount point {point} is not yours to write", "mount on a directory of your own")
    if os.geteuid() != 0 and found.st_mode & stat.S_ISVTX and found.st_uid != os.getuid():
        fact = f"mount point {point} is shared (its sticky bit is set) and not yours"
        raise _refused(fact, "mount on a directory of your own")
    try:
        with os.scandir(point) as entries:
            empty = not any(entries)
    except OSError as error:
        raise _refused(f"mount point {point} cannot be read: {error.strerror}") from None
    if empty:
        return None
    return Notice(f"{point} is not empty, and a mount hides its files until it ends", "mount on an empty directory")


@contextlib.contextmanager
def made_directory(point: str, fix: str = "") -> Iterator[bool]:
    """Make a missing mount point; yields whether it was missing. Removes it after an error, if nothing is in it."""
    missing = mount_table.mounted_at(point) is None and not os.path.lexists(point)
    try:
        if missing:
            os.makedirs(point)
    except OSError as error:
        raise _refused(f"cannot create {point}: {error.strerror}", fix) from None
    try:
        yield missing
    except UserError:
        if missing:
            remove_if_empty(point)
        raise


def remove_if_empty(directory: str) -> None:
    # A directory that is still mounted, or has files, stays.
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _heal(point: str) -> None:
    """Take away dead FUSE mounts at `point`; several may lie on one another."""
    while (mount := dead_mount(point)) is not None:
        if (reason := mount_table.unmount(point, lazy=True)) is not None:
            fact = f"a dead mount at {point} cannot be unmounted: {reason.fact}"
            raise UserError(ExitCode.ALREADY_MOUNTED, fact, reason.fix)
        log.info("took away a dead mount at %s", mount.point)


def dead_mount(point: str) -> mount_table.Mount | None:
    """Return the dead FUSE mount on top at `point`, None where no FUSE mount is. Raises UserError for a live one."""
    mount = mount_table.mounted_at(point)
    if mount is None or not mount.fstype.startswith("fuse"):
        return None
    if not control_client.is_dead(mount):
        fact, command = f"{point} is already mounted ({mount.fstype})", f"artifactfs umount {shell_word(point)}"
        fix = "end that with `artifactfs umount`, or choose another"
        raise UserError(ExitCode.ALREADY_MOUNTED, fact, fix, command=command)
    return mount


def fuse(settings: Settings, machine: Machine | None = None) -> None:
    """Check what FUSE needs of this machine. Raises UserError with the command that fixes it."""
    machine = machine or Machine()
    device()
    if machine.euid == 0:
        return
    fusermount(machine)
    user_name(machine)
    if settings.allow_other:
        user_allow_other(machine)


def device() -> None:
    """Check that the FUSE device is one, and opens. Raises UserError."""
    container = f"in a container, start it with --device {FUSE_DEVICE}"
    try:
        found = os.stat(FUSE_DEVICE)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _FUSE_NUMBERS:
            # `docker -v /dev/fuse:/dev/fuse` makes a directory, or brings in a file; mounting says "Invalid argument".
            fix = f"run `{REMAKE_DEVICE}` as root; {container}, and without a volume of that name"
            command = f"sudo sh -c '{REMAKE_DEVICE}'"
            raise UserError(ExitCode.NO_FUSE_DEVICE, f"{FUSE_DEVICE} is not the FUSE device", fix, command=command)
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        fact, fix = f"{FUSE_DEVICE} is missing", f"run `modprobe fuse` as root; {container}"
        raise UserError(ExitCode.NO_FUSE_DEVICE, fact, fix, command="sudo modprobe fuse") from None
    except PermissionError:
        fact, fix = f"{FUSE_DEVICE} may not be opened by you", f"run `chmod 666 {FUSE_DEVICE}` as root; {container}"
        raise UserError(ExitCode.NO_FUSE_DEVICE, fact, fix, command=f"sudo chmod 666 {FUSE_DEVICE}") from None
    except OSError as error:
        # The kernel's module is missing.
        fact = f"{FUSE_DEVICE} does not open: {error.strerror}"
        raise UserError(ExitCode.NO_FUSE_DEVICE, fact, command="sudo modprobe fuse") from None


def fusermount(machine: Machine) -> str:
    """Return the path of fusermount3, which mounts for ordinary users. Raises UserError."""
    found = machine.which("fusermount3")
    if found is None:
        fix, command = "install it with `apt-get install fuse3` (as root)", "sudo apt-get install fuse3"
        raise UserError(ExitCode.NO_FUSERMOUNT, "fusermount3 is missing", fix, command=command)
    return found


def user_name(machine: Machine) -> None:
    """Check that the user has a name, without which fusermount3 does not mount. Raises UserError."""
    if machine.user is None:
        command = f"useradd -M -u {machine.euid} artifactfs"
        fact = f"fusermount3 mounts for users with a name, and user {machine.euid} has none"
        raise _refused(fact, f"run `{command}` as root; or, in a container, be root", f"sudo {command}")


def fuse_conf(machine: Machine) -> list[str]:
    """Return the lines of fuse.conf without comments. fusermount3 ignores a last line without a line feed."""
    complete = (machine.read(FUSE_CONF) or "").rpartition("\n")[0]
    return [line.split("#", 1)[0].strip() for line in complete.split("\n")]


def user_allow_other(machine: Machine) -> None:
    """Check that ordinary users may use allow_other here. Raises UserError."""
    if "user_allow_other" in fuse_conf(machine):
        return
    text = machine.read(FUSE_CONF) or ""
    line_feed = "" if not text or text.endswith("\n") else f"echo | sudo tee -a {FUSE_CONF}; "
    fact = f"allow_other needs the line `user_allow_other` in {FUSE_CONF}"
    fix = "ask root for it, or leave the option out"
    command = f"{line_feed}echo user_allow_other | sudo tee -a {FUSE_CONF}"
    raise UserError(ExitCode.ALLOW_OTHER_REFUSED, fact, fix, command=command)


def binding() -> str:
    """Return the version of the FUSE binding, loaded. Raises UserError where its library is missing."""
    try:
        import pyfuse3
    except ImportError as error:
        # The message names the library: libfuse3.so.3, say, after an upgrade of the system.
        fix, command = "run `apt-get install libfuse3-3` (as root)", "sudo apt-get install libfuse3-3"
        raise _refused(f"pyfuse3 does not load ({error})", fix, command) from None
    return str(pyfuse3.__version__)
