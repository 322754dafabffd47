"""The conditions of a mount, checked before it is tried, so that a failure has one true cause and leaves no trace.

`mount` calls `mountpoint` and `fuse`; `doctor` calls the functions that these consist of, which change nothing. All
raise UserError.
"""

import logging
import os
import pwd
import re
import stat

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import control_client, mount_table
from artifactfs.settings import Settings, find_program
from artifactfs.util import headroom
from artifactfs.util.escaping import shell_word

log = logging.getLogger(__name__)

FUSE_DEVICE = "/dev/fuse"
# devices.txt of the kernel's admin guide. A device of the same name with other numbers is another one.
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
_ANOTHER = "give an empty directory of your own"
_OWN = "mount on a directory of your own"


def mountpoint(path: str, *, heal: bool = True) -> tuple[str, str | None]:
    """Return the resolved mount point, without dead mounts, and a warning or None. Raises UserError.

    `heal` False: dead mounts stay, and are ignored.
    """
    point = resolve(path)
    while (mount := dead_mount(point)) is not None:  # several may lie on one another
        if not heal:
            return point, None
        if (reason := mount_table.unmount(point, lazy=True)) is not None:
            fact = f"a dead mount at {point} cannot be unmounted: {reason.fact}"
            raise UserError(ExitCode.ALREADY_MOUNTED, fact, reason.fix)
        log.info("unmounted a dead mount at %s", mount.point)
    return point, directory(point)


def memory() -> None:
    """Raise UserError if there is too little memory for a mount."""
    if not headroom.for_mount():
        fact = "there is too little memory left for a mount"
        raise UserError(ExitCode.SYSTEM_FAILED, fact, "see `free -h` and `ulimit -v`")


def resolve(path: str) -> str:
    """Return the resolved mount point for a path. Raises UserError for a directory that the system needs."""
    point = mount_table.resolve(path)
    if not path or point in _SHARED or point.removeprefix("/var/") in _SHARED_VAR:
        raise _refused(f"{path!r} is no place for a mount", _ANOTHER)
    # The links among them last, such as /bin to /usr/bin.
    for top in (*_SYSTEM, *map(os.path.realpath, _SYSTEM)):
        if top != "/" and (point == top or point.startswith(f"{top}/")) and not _USERS.fullmatch(point):
            raise _refused(f"{path!r} is no place for a mount: {top} is the system's", _ANOTHER)
    return point


def future(path: str) -> str:
    """Return the resolved mount point of a later mount, whose directory may be missing now. Raises UserError.

    Does not touch a mount that is there now.
    """
    point = resolve(path)
    if mount_table.mounted_at(point) is not None:
        return point
    if os.path.lexists(point):
        directory(point)
        return point
    above = os.path.dirname(point)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    fact = f"mount point {point} cannot be made: {above} is not"
    if not os.path.isdir(above):
        raise UserError(ExitCode.NOT_A_DIRECTORY, f"{fact} a directory", _ANOTHER)
    if not os.access(above, os.W_OK | os.X_OK):
        raise _refused(f"{fact} yours to write", "mount below a directory of your own")
    return point


def log_file(path: str, point: str) -> None:
    """Check that a mount does not hide its own log, which it would wait for. Raises UserError."""
    if (os.path.realpath(path) + "/").startswith(point + "/"):
        fact = f"the log {path} is below the mount point {point}, which would hide it"
        raise _refused(fact, "choose another with --log-file")


def directory(point: str) -> str | None:
    """Check the directory of a mount point that is not mounted; returns a warning or None. Raises UserError."""
    try:
        found = os.stat(point)
    except FileNotFoundError:
        fact, command = f"mount point {point} does not exist", f"mkdir -p {shell_word(point)}"
        raise UserError(ExitCode.MOUNTPOINT_MISSING, fact, f"create it with `{command}`", command=command) from None
    except OSError as error:
        raise _refused(f"mount point {point}: {error.strerror}", _ANOTHER) from None
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(ExitCode.NOT_A_DIRECTORY, f"mount point {point} is not a directory", "give an empty directory")
    # fusermount3 checks both, too, with a shorter message (its check_perm; root does without it).
    if os.geteuid() != 0 and not os.access(point, os.W_OK | os.X_OK):
        raise _refused(f"mount point {point} is not yours to write", _OWN)
    if os.geteuid() != 0 and found.st_mode & stat.S_ISVTX and found.st_uid != os.getuid():
        raise _refused(f"mount point {point} is shared (its sticky bit is set) and not yours", _OWN)
    try:
        with os.scandir(point) as entries:
            empty = not any(entries)
    except OSError as error:
        raise _refused(f"mount point {point} cannot be read: {error.strerror}", _ANOTHER) from None
    return None if empty else f"{point} is not empty; its contents are hidden until you unmount"


def dead_mount(point: str) -> mount_table.Mount | None:
    """Return the dead FUSE mount on top at `point`, None if no FUSE mount is. Raises UserError for a live one."""
    mount = mount_table.mounted_at(point)
    if mount is None or not mount.fstype.startswith("fuse"):
        return None
    if not control_client.is_dead(mount):
        raise UserError(
            ExitCode.ALREADY_MOUNTED,
            f"{point} is already mounted ({mount.fstype})",
            "end that with `artifactfs umount`, or choose another",
            command=f"artifactfs umount {shell_word(point)}",
        )
    return mount


def fuse(settings: Settings) -> None:
    """Check this machine's FUSE. Raises UserError with the command that fixes it."""
    device()
    if os.geteuid() == 0:
        return
    fusermount()
    user_name()
    if settings.allow_other and not user_allow_other():
        fact = f"allow_other needs the line `user_allow_other` in {FUSE_CONF}"
        raise UserError(ExitCode.ALLOW_OTHER_REFUSED, fact, "ask root for it, or leave the option out")


def device() -> None:
    """Check that the FUSE device is one, and opens. Raises UserError."""
    fix = f"in a container, start it with --device {FUSE_DEVICE}"
    try:
        found = os.stat(FUSE_DEVICE)
        is_fuse = stat.S_ISCHR(found.st_mode) and found.st_rdev == _FUSE_NUMBERS
        if is_fuse:
            os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        fact, run = f"does not open: {error.strerror}", "modprobe fuse"
        if isinstance(error, FileNotFoundError):
            fact = "is missing"
        elif isinstance(error, PermissionError):
            fact, run = "may not be opened by you", f"chmod 666 {FUSE_DEVICE}"
        fix = f"run `{run}` as root; {fix}"
        raise UserError(ExitCode.NO_FUSE_DEVICE, f"{FUSE_DEVICE} {fact}", fix, command=f"sudo {run}") from None
    if not is_fuse:
        # `docker -v /dev/fuse:/dev/fuse` makes a directory, or brings in a file; mounting says "Invalid argument".
        fix = f"run `{REMAKE_DEVICE}` as root; {fix}, and without a volume of that name"
        command = f"sudo sh -c '{REMAKE_DEVICE}'"
        raise UserError(ExitCode.NO_FUSE_DEVICE, f"{FUSE_DEVICE} is not the FUSE device", fix, command=command)


def fusermount() -> str:
    """Return the path of fusermount3, which mounts for ordinary users. Raises UserError."""
    found = find_program("fusermount3")
    if found is None:
        fix, command = "install it with `apt-get install fuse3` (as root)", "sudo apt-get install fuse3"
        raise UserError(ExitCode.NO_FUSERMOUNT, "fusermount3 is missing", fix, command=command)
    return found


def user_name() -> str:
    """Return the name of the user, without which fusermount3 does not mount. Raises UserError."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        fact = f"fusermount3 mounts for users with a name, and user {os.getuid()} has none"
        command = f"useradd -M -u {os.getuid()} artifactfs"
        fix = f"run `{command}` as root; or, in a container, be root"
        raise _refused(fact, fix, f"sudo {command}") from None


def binding() -> str:
    """Return the version of the FUSE binding, loaded. Raises UserError if its library is missing."""
    try:
        import pyfuse3
    except ImportError as error:
        # The message names the library: libfuse3.so.3, say, after an upgrade of the system.
        command = "apt-get install libfuse3-3"
        raise _refused(f"pyfuse3 does not load ({error})", f"run `{command}` (as root)", f"sudo {command}") from None
    return str(pyfuse3.__version__)


def user_allow_other() -> bool:
    """Whether ordinary users may use allow_other here."""
    try:
        with open(FUSE_CONF, "rb") as file:
            # fusermount3 reads it by lines that end with a line feed, and not a last line that does not end.
            return any(line.endswith(b"\n") and line.split(b"#", 1)[0].strip() == b"user_allow_other" for line in file)
    except OSError:
        return False


def _refused(fact: str, fix: str, command: str = "") -> UserError:
    return UserError(ExitCode.MOUNT_REFUSED, fact, fix, command=command)
