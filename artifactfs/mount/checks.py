"""What must hold before a mount is tried, so that a failure has one true cause and nothing is left behind."""

import logging
import os
import shutil
import stat

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import table
from artifactfs.settings import Settings

log = logging.getLogger(__name__)

FUSE_DEVICE = "/dev/fuse"
FUSE_CONF = "/etc/fuse.conf"
_NO_PLACE = frozenset({"/", "/dev", "/etc", "/proc", "/run", "/sys", "/usr"})


def mountpoint(path: str, *, heal: bool = True) -> tuple[str, str | None]:
    """Return the resolved mount point, healed if a dead mount was there, and a warning or None.

    `heal` False: only look; a dead mount that would be healed is as good as none.

    Raises UserError: missing, not a directory, already mounted, not ours to mount on.
    """
    point = table.resolve(path)
    if not path or point in _NO_PLACE:
        # A mount there takes away what every program needs.
        raise UserError(
            ExitCode.MOUNT_REFUSED, f"{path!r} is no place for a mount: give an empty directory of your own"
        )
    if not _heal(point, take_away=heal):
        return point, None
    try:
        found = os.stat(point)
    except FileNotFoundError:
        raise UserError(
            ExitCode.MOUNTPOINT_MISSING, f"mount point {point} does not exist: create it with `mkdir -p {point}`"
        ) from None
    except OSError as error:
        raise UserError(ExitCode.MOUNT_REFUSED, f"mount point {point}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(ExitCode.NOT_A_DIRECTORY, f"mount point {point} is not a directory: give an empty directory")
    if os.geteuid() != 0 and not os.access(point, os.W_OK):
        # fusermount3 asks for it too, and says less.
        raise UserError(
            ExitCode.MOUNT_REFUSED, f"mount point {point} is not yours to write: mount on a directory of your own"
        )
    try:
        with os.scandir(point) as entries:
            empty = not any(entries)
    except OSError as error:
        raise UserError(ExitCode.MOUNT_REFUSED, f"mount point {point} cannot be read: {error.strerror}") from None
    return point, None if empty else f"{point} is not empty; what is in it is hidden until you unmount"


def _heal(point: str, *, take_away: bool) -> bool:
    """Take away dead FUSE mounts at `point`; several may lie on one another. Returns whether none is left."""
    while (mount := table.mounted_at(point)) is not None and mount.fstype.startswith("fuse"):
        if not table.is_dead(mount):
            raise UserError(
                ExitCode.ALREADY_MOUNTED,
                f"{point} is already mounted ({mount.fstype}): end that with `artifactfs umount`, or choose another",
            )
        if not take_away:
            return False
        if (reason := table.unmount(point, lazy=True)) is not None:
            raise UserError(ExitCode.ALREADY_MOUNTED, f"a dead mount at {point} cannot be taken away: {reason}")
        log.info("took away a dead mount at %s", point)
    return True


def fuse(settings: Settings) -> None:
    """Check what FUSE needs of this machine. Raises UserError with the command that mends it."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise UserError(
            ExitCode.NO_FUSE_DEVICE,
            f"{FUSE_DEVICE} is missing: run `modprobe fuse` as root; "
            f"in a container, start it with --device {FUSE_DEVICE}",
        ) from None
    except PermissionError:
        raise UserError(
            ExitCode.NO_FUSE_DEVICE,
            f"{FUSE_DEVICE} may not be opened by you: run `chmod 666 {FUSE_DEVICE}` as root; "
            f"in a container, start it with --device {FUSE_DEVICE}",
        ) from None
    except OSError as error:
        raise UserError(ExitCode.NO_FUSE_DEVICE, f"{FUSE_DEVICE} does not open: {error.strerror}") from None
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise UserError(
            ExitCode.NO_FUSERMOUNT, "fusermount3 is missing: install it with `apt-get install fuse3` (as root)"
        )
    if settings.allow_other and not _user_allow_other():
        raise UserError(
            ExitCode.ALLOW_OTHER_REFUSED,
            f"allow_other needs the line `user_allow_other` in {FUSE_CONF}: ask root for it, or leave the option out",
        )


def _user_allow_other() -> bool:
    try:
        with open(FUSE_CONF, encoding="utf-8", errors="replace") as file:
            return any(line.split("#", 1)[0].strip() == "user_allow_other" for line in file)
    except OSError:
        return False
