"""Ending somebody's mount from outside: what `artifactfs umount` does (semantics 5.6)."""

import os

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import register, table

# How long the serving process may take, by contract, before it is ended by force.
_WAIT_S = 3.0


def end(path: str) -> None:
    """End the mount at `path`, lazily where files are open, and wait until its process is gone. Raises UserError."""
    if not path:
        raise UserError(ExitCode.NOT_MOUNTED, "no mount point was given: the argument is empty")
    point = table.resolve(path)
    mounted = table.mounted_at(point)
    if mounted is None or not mounted.fstype.startswith("fuse"):
        raise UserError(
            ExitCode.NOT_MOUNTED, f"nothing of artifactfs is mounted at {point}: see `mount -t fuse.artifactfs`"
        )
    if mounted.fstype != table.FUSE_TYPE:
        raise UserError(
            ExitCode.NOT_MOUNTED, f"{point} is a {mounted.fstype} mount, not ours: end it with its own program"
        )
    if table.unmount(point, lazy=False) is not None and (reason := table.unmount(point, lazy=True)) is not None:
        # fusermount3 has reasons of its own, a missing /etc/mtab for one; the process can unmount itself.
        pid = register.wait_for_end(point, 0.0)
        if pid is None or not register.terminate(pid) or register.wait_for_end(point, _WAIT_S) is not None:
            if mounted.user is not None and os.geteuid() not in (0, mounted.user_id):
                # fusermount3 only says that it has no such mount of this user's.
                who = "root" if mounted.user_id == 0 else f"{mounted.user} and root"
                reason = f"{mounted.user} has mounted it, and only {who} can end it"
            raise UserError(ExitCode.UMOUNT_FAILED, f"cannot unmount {point}: {reason}")
    if (pid := register.wait_for_end(point, _WAIT_S)) is not None:
        register.kill(pid)
        if register.wait_for_end(point, _WAIT_S) is not None:
            raise UserError(ExitCode.UMOUNT_FAILED, f"{point} is unmounted, but process {pid} does not end")
