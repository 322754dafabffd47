"""The state of this machine, in one place, so that tests of checks pass machines of their own.

Files are read below `root`. Facts that are in no file (the user) are fields. Nothing here decides.
"""

import os
import pwd
from dataclasses import dataclass, field

from artifactfs.settings import find_program
from artifactfs.util.tools import ToolFailed, output_of

_PROGRAM_S = 5.0
_MAX_READ_BYTES = 1 << 20


def _user() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_name or None
    except KeyError:
        return None


@dataclass(frozen=True)
class Machine:
    """A machine. `user`: the user's name; None without one, as in some containers."""

    root: str = "/"
    euid: int = field(default_factory=os.geteuid)
    user: str | None = field(default_factory=_user)

    def read(self, path: str) -> str | None:
        """Return the start of a text file, None if it cannot be read. Lines end with "\\n" only."""
        try:
            with open(self._below_root(path), encoding="utf-8", errors="replace", newline="\n") as file:
                return file.read(_MAX_READ_BYTES)
        except OSError:
            return None

    def has(self, path: str) -> bool:
        """Return whether a path exists; a broken link does."""
        return os.path.lexists(self._below_root(path))

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a directory; an empty list without one."""
        try:
            return sorted(os.listdir(self._below_root(path)))
        except OSError:
            return []

    def stat(self, path: str) -> os.stat_result:
        """Return the state of a file. Raises OSError."""
        return os.stat(self._below_root(path))

    def is_nosuid(self, path: str) -> bool:
        """Return whether the file system of a file ignores set-uid bits."""
        return bool(os.statvfs(self._below_root(path)).f_flag & os.ST_NOSUID)

    def which(self, program: str) -> str | None:
        """Return the path of a program, None without it."""
        return find_program(program)

    def output(self, *command: str) -> str:
        """Return the output of a program in one line; "" if it fails."""
        try:
            return " ".join(output_of(*command, limit_s=_PROGRAM_S).split())
        except ToolFailed:
            return ""

    def process_status(self, name: str) -> str:
        """Return a field of this process's status (proc(5)), empty if the kernel does not have it."""
        for line in (self.read("/proc/self/status") or "").split("\n"):
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        return ""

    def _below_root(self, path: str) -> str:
        return path if self.root == "/" else self.root + path
