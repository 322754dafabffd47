"""What is done to the server, to time and to the mount, step by step, with the model asked about each answer."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from tests.reference.driver import Seen, World
from tests.reference.model import Handle, Model
from tests.reference.steps import Steps
from tests.reference.trust import is_error
from tests.reference.versions import Version

EPOCH = datetime(2026, 5, 16, tzinfo=UTC)


class Story(Steps[Model]):
    """One script: a run of its own, on the one server and the one mount of a test.

    A step for which there is nothing to do, like a read where nothing is open, does nothing.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world, Model(believes=world.believes))
        self._run = world.lab.new_run({}, status="running")
        self._versions = 0
        self._opened = 0
        self._open: list[tuple[int, Handle]] = []  # of files
        # The kernel says a moment later that a file was closed.
        self._last_closed: list[Handle] = []

    def end(self) -> None:
        """Close what is open, and leave the server as it was found."""
        for number, _ in self._open:
            self._world.close(number)
        super().end()

    # --- the server -----------------------------------------------------------------------------------------

    def put(self, path: str, size: int) -> None:
        """A file comes, or is another one from now on; what is in its way goes."""
        self._versions += 1
        self._script.append(f"server: put {path}, version {self._versions}, {size} bytes")
        kept = {other: file for other, file in self._files.items() if not in_the_way(other, path)}
        self._change(kept | {path: Version(self._versions, size)})

    def append(self, path: str, count: int) -> None:
        """A file that is there grows."""
        if (file := self._files.get(path)) is not None:
            self._script.append(f"server: append {count} bytes to {path}")
            self._world.lab.files(self._run, append={path: file.grown(count).read(file.size, count).decode()})
            self._model.change(self._files | {path: file.grown(count)})

    def truncate(self, path: str, size: int) -> None:
        """A file loses its end, if it is longer than that."""
        file = self._files.get(path)
        if file is not None and size < file.size:
            self._versions += 1
            self._script.append(f"server: truncate {path} to {size} bytes: version {self._versions}")
            self._world.lab.files(self._run, truncate={path: size})
            self._model.change(self._files | {path: file.cut(self._versions, size)})

    def remove(self, path: str) -> None:
        """A file or a directory goes, and with the last file in it a directory."""
        kept = {other: file for other, file in self._files.items() if not within(other, path)}
        if kept != self._files:
            self._script.append(f"server: remove {path}")
            self._change(kept)

    def rename(self, old: str, new: str) -> None:
        """A file goes, and the same comes under another name, if there is room for it."""
        files = dict(self._files)
        version = files.pop(old, None)
        if version is not None and old != new and not any(in_the_way(other, new) for other in files):
            self._script.append(f"server: rename {old} to {new}")
            self._change(files | {new: version})

    def finish(self) -> None:
        """The run has ended, half a year ago."""
        if not self._model.finished:
            self._script.append("server: the run finishes")
            self._world.lab.change_run(self._run, set={"status": "completed"})
            self._model.finished = True

    # --- time and trouble -----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """SIGHUP, taken in."""
        self._script.append("SIGHUP")
        self._world.refresh()
        self._model.refreshed([*self._last_closed, *(handle for _, handle in self._open)])

    # --- looks ----------------------------------------------------------------------------------------------

    def ls(self, path: str) -> str:
        answer = self._world.ls("runs", self._run, path)
        self._saw(f"ls {path}", answer, lambda: self._model.listed(path, answer))
        return answer

    def stat(self, path: str) -> None:
        answer = self._world.stat("runs", self._run, path)
        self._saw(f"stat {path}", told(answer), lambda: self._looked_up(path, answer))

    def walk(self, top: str) -> None:
        """`ls -lR`, step by step."""
        if is_error(answer := self.ls(top)):
            return
        for name in answer.split():
            path = f"{top}/{name}".strip("/")
            self.stat(path)
            if name.endswith("/"):
                self.walk(path)

    def open(self, path: str) -> bool:
        """Open something; says whether it was a file. A directory is closed again."""
        self._opened += 1
        answer = self._world.open(self._opened, "runs", self._run, path)
        self._saw(f"open {path} as {self._opened}", told(answer), lambda: self._looked_up(path, answer, opened=True))
        if isinstance(answer, str) or answer.what == "directory":
            return False
        self._open.append((self._opened, self._model.opened(path, answer.size, answer.inode)))
        return True

    def read(self, which: int, start: int, count: int) -> bool:
        """Read from anywhere, also a step back; says whether that brought something.

        `which` -1: opened last. `start` -1: from the end of the file, as far as it was shown.
        """
        if not self._open:
            return False
        number, handle = self._open[which % len(self._open)]
        start = handle.inode.size if start < 0 else start
        answer = self._world.read(number, start, count)
        seen = answer if isinstance(answer, str) else f"{len(answer)} bytes"
        self._saw(
            f"read {count} bytes at {start} of {number}", seen, lambda: self._model.read(handle, start, count, answer)
        )
        return isinstance(answer, bytes) and answer != b""

    def cat(self, path: str, count: int) -> None:
        """Open, read to the end, close."""
        if not self.open(path):
            return
        at = 0
        while self.read(-1, at, count):
            at += count
        self.close(-1)

    def close(self, which: int) -> None:
        if self._open:
            number, handle = self._open.pop(which % len(self._open))
            self._script.append(f"close {number}")
            self._world.close(number)
            self._model.closed(handle)
            self._last_closed = [handle]

    # --------------------------------------------------------------------------------------------------------

    @property
    def _files(self) -> dict[str, Version]:
        return self._model.moments[-1]

    def _change(self, files: dict[str, Version]) -> None:
        """Make these the files: those that go first, then those that come."""
        before, after = places(self._files), places(files)
        gone = {path for path, kind in before.items() if after.get(path) != kind}
        tops = sorted(path for path in gone if not any(within(path, other) for other in gone - {path}))
        new = {path: version for path, version in files.items() if self._files.get(path) != version}
        self._world.lab.files(self._run, remove=tops, add={path: facts(version) for path, version in new.items()})
        self._model.change(files)

    def _looked_up(self, path: str, answer: Seen | str, *, opened: bool = False) -> None:
        since = self._model.seen.get(path, 0)
        self._model.looked_up(path, told(answer), opened=opened)
        if isinstance(answer, Seen):
            self._model.identified(path, answer.what, answer.size, answer.inode, since)


def told(answer: Seen | str) -> str:
    """Return what was seen as the model tells it."""
    return answer if isinstance(answer, str) else answer.what


def within(path: str, other: str) -> bool:
    """Whether a path is another one, or below it."""
    return f"{path}/".startswith(f"{other}/")


def in_the_way(other: str, path: str) -> bool:
    """Whether two files cannot be at once: one is there where the other is, or needs a directory."""
    return within(other, path) or within(path, other)


def facts(version: Version) -> dict[str, str]:
    """Return what the emulator gets of a version. Each has a time of its own, by which it proves itself.

    The emulator adds a second for each change of a file.
    """
    created_at = EPOCH + timedelta(hours=version.number)
    return {"text": version.read(0, version.size).decode(), "created_at": created_at.isoformat().replace("+00:00", "Z")}


def places(files: Iterable[str]) -> dict[str, str]:
    """Return the kind of everything that there is if these files are."""
    found = dict.fromkeys(files, "file")
    for path in list(found):
        while path := path.rpartition("/")[0]:
            found[path] = "directory"
    return found
