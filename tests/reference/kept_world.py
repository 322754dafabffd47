"""A world whose mount ends and begins again, by force, too, without the service, and with a damaged database."""

import contextlib
import glob
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from artifactfs.errors import ExitCode
from tests.harness import END_S, Lab, mount_type, run, wait_until
from tests.reference.driver import DEADLINE, World, world

# What the log may say of a mount that was killed, that works offline, and of a damaged database.
_SAID = (
    "works offline", "metadata", "so there is nothing to mount", "is dead|was dead|left behind|dead mount",
    "it was mounted last with another account",
)  # fmt: skip
# Options of the mounts by their mode.
MODES: dict[str, tuple[str, ...]] = {
    "normal": (),
    "offline": ("--offline",),
    "other account": ("--account", "other"),
}
# How listings are stored: bytes of MessagePack.
_A, _NOT_A = b"\xc4\x01a", b"\xc4\x01q"


class KeptWorld(World):
    """See the module. `is_up`: whether anything is mounted."""

    def __init__(self, there: World) -> None:
        super().__init__(there.lab, there.mount, there._looker, believes=there.believes)
        self._shell = there.mount.shell
        self.is_up = True

    def umount(self) -> None:
        """End the mount, and wait for the end of its process."""
        plainly = ("umount",) if os.geteuid() == 0 else ("fusermount3", "-u")
        # Whoever looks at all mounts of the machine may look at this one just now.
        wait_until(lambda: run(*plainly, self.mount.point).code == 0, "umount", END_S)
        wait_until(lambda: not self._shell.processes(), "the end of the mount's process", END_S)
        self.is_up = False

    def kill(self, *, written: bool) -> None:
        """Kill the mount's process: at once, or when all that was seen is written."""
        if written:
            wait_until(lambda: _text(self._shell.path("clock.written")) == "idle", "the store's writing")
        os.kill(self._pid, signal.SIGKILL)
        wait_until(lambda: not self._shell.processes(), "the end of the mount's process", END_S)
        self.is_up = False

    def up(self, mode: str) -> bool:
        """Mount again; says whether that was done. It is refused offline where nothing is stored."""
        with open(self._shell.path("refreshes"), "w", encoding="ascii") as file:
            file.write("0")
        options = ("--api-url", self.lab.url, "--log-file", self.mount.log_file, "--deadline", DEADLINE)
        done = self._shell.run_forked("mount", *options, "--prefetch", "off", *MODES[mode], self.mount.point)
        if mode == "offline" and done.code == ExitCode.MOUNT_REFUSED and "so there is nothing to mount" in done.err:
            return False
        done.ok()
        self._pid = self.mount.pid
        self.is_up = True
        return True

    def pin(self, run_id: int) -> bool:
        """Keep a run; says whether all of it is kept, which a database that was found damaged does not do."""
        done = self._shell.cli("pin", "--quiet", self.mount.path("runs", run_id))
        if done.code == ExitCode.INCOMPLETE and "could not be stored" in done.err:
            return False
        done.ok()
        return True

    def unpin(self) -> None:
        """Keep nothing."""
        self._shell.cli("unpin", "--all").ok()

    def damage(self, how: str, where: float) -> None:
        """Damage the database, and its log if there is one, while nothing is mounted.

        `where`: a place between 0 and 1. "names": each name `a` of a stored listing becomes another one.
        """
        for path in (each for each in self._database() if not each.endswith("-shm")):
            at = int(os.path.getsize(path) * where)
            with open(path, "r+b") as file:
                if how == "cut":
                    file.truncate(at)
                elif how == "names":
                    there = file.read()
                    file.seek(0)
                    file.write(there.replace(_A, _NOT_A))
                else:
                    file.seek(at)
                    there = file.read(4_000 if how == "garbage" else 1)
                    file.seek(at)
                    file.write(bytes(byte ^ (0x5A if how == "garbage" else 1 << 3) for byte in there))

    def without_database(self) -> None:
        """Delete the database while nothing is mounted: what was damaged is not to be found by another script."""
        for path in self._database():
            os.unlink(path)

    def _database(self) -> list[str]:
        return glob.glob(os.path.join(glob.escape(self._shell.path("cache")), "artifactfs", "metadata-*.sqlite*"))


@contextlib.contextmanager
def kept_world(lab: Lab, directory: Path, *plants: str) -> Iterator[KeptWorld]:
    """Mount a lab as `world` does, in a way that it can be mounted again."""
    with world(lab, directory, "written", *plants, believes=True) as there:
        for said in _SAID:
            there.mount.log.announce(said, optional=True)
        kept = KeptWorld(there)
        yield kept
        if not kept.is_up and mount_type(kept.mount.point) is not None:
            run("umount", kept.mount.point)


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
