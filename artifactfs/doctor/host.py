"""The state of this machine for the checks, in one place, so that tests pass machines of their own.

Files are read below `root`. Facts that are in no file (the user, the mounts) are fields. Nothing here decides.
"""

import os
import platform
import pwd
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from artifactfs.mount import control_client, mount_table
from artifactfs.mount.mount_table import Mount

_PROGRAM_S = 5.0
_MOST_BYTES = 1 << 20


def _running_on() -> str:
    return f"Linux {platform.release()} ({platform.machine()})"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())  # a container's user may have no name


def _is_named() -> bool:
    try:
        return bool(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        return False


def _files_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(frozen=True)
class Machine:
    """See the module."""

    root: str = "/"
    euid: int = field(default_factory=os.geteuid)
    python: tuple[int, int, int] = tuple(sys.version_info[:3])  # type: ignore[assignment]  # mypy loses the length of the slice
    user: str = field(default_factory=_user)
    is_named: bool = field(default_factory=_is_named)
    kernel: str = field(default_factory=_running_on)
    files_limit: int = field(default_factory=_files_limit)
    mounts: Sequence[Mount] = field(default_factory=mount_table.mounts)

    def read(self, path: str) -> str | None:
        """Return the start of a text file, None if it cannot be read. Lines end with "\\n" only."""
        try:
            with open(self._at(path), encoding="utf-8", errors="replace", newline="\n") as file:
                return file.read(_MOST_BYTES)
        except OSError:
            return None

    def has(self, path: str) -> bool:
        """Whether a path exists; a broken link does."""
        return os.path.lexists(self._at(path))

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a directory; an empty list without one."""
        try:
            return sorted(os.listdir(self._at(path)))
        except OSError:
            return []

    def stat(self, path: str) -> os.stat_result:
        """Return the state of a file. Raises OSError."""
        return os.stat(self._at(path))

    def is_nosuid(self, path: str) -> bool:
        """Whether the file system of a file ignores set-uid bits."""
        return bool(os.statvfs(self._at(path)).f_flag & os.ST_NOSUID)

    def which(self, program: str) -> str | None:
        """Return the path of a program, found by PATH."""
        return shutil.which(program)

    def is_dead(self, mount: Mount) -> bool:
        """Whether a FUSE mount has no process that serves it."""
        return control_client.is_dead(mount)

    def output(self, *command: str) -> str:
        """Return the output of a program in one line; "" if it does not run."""
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=_PROGRAM_S
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return " ".join((done.stdout or done.stderr).decode(errors="replace").split())

    def process_status(self, name: str) -> str:
        """Return a field of this process's status (proc(5)), empty if the kernel does not have it."""
        for line in (self.read("/proc/self/status") or "").split("\n"):
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        return ""

    def _at(self, path: str) -> str:
        return path if self.root == "/" else self.root + path
