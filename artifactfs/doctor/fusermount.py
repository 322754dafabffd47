"""The file systems that fusermount3 mounts over, for ordinary users. host_checks.py has its other conditions.

The facts are those of libfuse's util/fusermount.c and util/fuser_conf.c, from 3.14.0 to the master of 2026-08-20.
"""

import ctypes
import os
import re

from artifactfs.doctor.findings import Finding, fault
from artifactfs.errors import UserError
from artifactfs.mount import checks
from artifactfs.mount.host import Machine

# Types of file systems by statfs(2)'s f_type: check_nonroot_fstype's list.
_OVER = frozenset({
    0x61756673, 0x00000187, 0xCA451A4E, 0x9123683E, 0x00C36400, 0xFF534D42, 0x0000F15F, 0x2011BAB0, 0x0000EF53,
    0xF2F52010, 0x65735546, 0x01161970, 0x47504653, 0x0000482B, 0x000072B6, 0x3153464A, 0x0BD00BD0, 0x00004D44,
    0x0000564C, 0x00006969, 0x00003434, 0x5346544E, 0x5346414F, 0x794C7630, 0x52654973, 0xFE534D42, 0x73717368,
    0x01021994, 0x24051905, 0x736675005346544E, 0x58465342, 0x2FC12FC1,
})  # fmt: skip
# Types added later (NTFS3, ramfs, WekaFS, PanFS), with the first version that has them.
_OVER_SINCE = {
    0x7366746E: (3, 16, 2), 0x858458F6: (3, 17, 1), 0x18031977: (3, 18, 0), 0xAAD7AAEA: (3, 18, 0),
}  # fmt: skip
# struct statfs has some 120 bytes, and begins with f_type, a long.
_STATFS_BYTES = 512


def place(machine: Machine, path: str) -> Finding | None:
    """Check the file system that a mount point lies on; None if fusermount3 mounts over it. May hang."""
    if machine.euid == 0:
        return None
    try:
        point = checks.place(path)
        kind = file_system(point)
    except (UserError, OSError):
        # The check of the mount point reports this.
        return None
    since = _OVER_SINCE.get(kind)
    version = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", machine.output("fusermount3", "--version"))
    if kind in _OVER or (since is not None and (version is None or _numbers(version) >= since)):
        return None
    text = f"fusermount3 does not mount over a file system of the kind {kind:#x}, such as that of {point}"
    return fault("file system", text, "mkdir -p ~/model-lab  # and mount there")


def _numbers(version: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(part or 0) for part in version.groups())


def file_system(path: str) -> int:
    """Return the type of the file system that a path lies on, as statfs(2) gives it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(os.fsencode(path), found) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.c_ulong.from_buffer(found).value
