"""A run's tree of artifacts, all of it changeable while it is served.

Owns files and directories, and the states that a file was in. Does not know runs, HTTP or switches.

Hard: 100,000 entries and listings computed from one directory's own children. So a directory is a dict of its
children, and a file's content is made from a seed when it is read (see file_bodies.py). Answers that lag behind what
changes while it is served (`Past`): so each change of a content is a new File that knows the one before it.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from artifactfs.emulator import file_bodies

CREATED_AT = "2026-05-16T09:00:00Z"  # of whatever is made without a time of its own: fixed, so that answers repeat
HISTORY_S = 60.0  # how long a file's former states are kept; arbitrary, longer than any lag worth having


class LabError(ValueError):
    """The model cannot make a change: the message names the path or run in the way."""


def moment(timestamp: object) -> datetime:
    """Return the time that an RFC 3339 string names, the epoch for anything else (for sorting)."""
    try:
        found = datetime.fromisoformat(str(timestamp))
    except ValueError:
        found = datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@dataclass(slots=True)
class File:
    """A state of a file. `size` in bytes, `created_at` in RFC 3339; `text` is its content if not made from `seed`."""

    size: int
    created_at: str
    seed: int
    version: int = 0  # how often it was replaced or truncated
    text: bytearray | None = None  # shared by the states of one version: only its first `size` bytes are this one's
    parts: tuple[tuple[int, int], ...] = ()  # (end, seed) of what truncations left, in front of what `seed` makes
    # How it came about, which is no difference between two states:
    changes: int = field(default=0, compare=False)  # of its content, appends included
    since: float = field(default=0.0, compare=False)  # seconds of the lab's clock
    before: "File | None" = field(default=None, compare=False)  # its former state, HISTORY_S back at most

    def as_of(self, moment_s: float) -> "File":
        """Return the state that it was in at a moment of the lab's clock, the oldest one known for earlier moments."""
        found = self
        while found.since > moment_s and found.before is not None:
            found = found.before
        return found

    def modified_at(self) -> datetime:
        """Return the time of the last change: each change of the content is a second."""
        return moment(self.created_at) + timedelta(seconds=self.changes)


class Tree(Protocol):
    """A run's artifacts. Paths have no slash at either end; the root is the empty string."""

    def is_dir(self, path: str) -> bool: ...

    def find(self, path: str) -> File | None:
        """Return the file at `path`; None for a directory and for nothing."""

    def children(self, path: str) -> list[tuple[str, File | None]]:
        """Return (name, file, or None for a directory) of what is in a directory, in the names' order of bytes."""

    def walk(self, path: str) -> Iterator[tuple[str, File | None]]:
        """Yield (path below `path`, file, or None for a directory) of everything below a directory, parents first."""

    def read(self, path: str, file: File, start: int, end: int, /) -> Iterator[memoryview | bytes]:
        """Yield bytes [start, end) in pieces of at most 1 MiB; less if the file has become shorter meanwhile."""


class Past:
    """A tree whose files are in the states of an earlier moment. What was removed since is not there."""

    def __init__(self, tree: Tree, moment_s: float) -> None:
        self._tree = tree
        self._moment_s = moment_s
        self.is_dir, self.read = tree.is_dir, tree.read

    def find(self, path: str) -> File | None:
        return self._then(self._tree.find(path))

    def children(self, path: str) -> list[tuple[str, File | None]]:
        return [(name, self._then(file)) for name, file in self._tree.children(path)]

    def walk(self, path: str) -> Iterator[tuple[str, File | None]]:
        return ((name, self._then(file)) for name, file in self._tree.walk(path))

    def _then(self, file: File | None) -> File | None:
        return None if file is None else file.as_of(self._moment_s)


class Folder(dict[str, "File | Folder"]):
    """A directory: its children by name."""


class MemoryTree:
    """A tree of made-up files. `build` fills it at the first look, so that a lab of many runs starts at once."""

    def __init__(
        self,
        key: str,
        build: "Callable[[MemoryTree], None] | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._build = build
        self._clock = clock
        self._folders = Folder()

    # --- looking ----------------------------------------------------------------------------------

    @property
    def root(self) -> Folder:
        if self._build is not None:
            build, self._build = self._build, None
            build(self)
        return self._folders

    def _node(self, path: str) -> File | Folder | None:
        node: File | Folder | None = self.root
        for name in path.split("/") if path else ():
            if not isinstance(node, Folder):
                return None
            node = node.get(name)
        return node

    def is_dir(self, path: str) -> bool:
        return isinstance(self._node(path), Folder)

    def find(self, path: str) -> File | None:
        node = self._node(path)
        return node if isinstance(node, File) else None

    def children(self, path: str) -> list[tuple[str, File | None]]:
        node = self._node(path)
        folder = node if isinstance(node, Folder) else Folder()
        return [
            (name, child if isinstance(child, File) else None) for name, child in sorted(folder.items(), key=_by_key)
        ]

    def walk(self, path: str) -> Iterator[tuple[str, File | None]]:
        node = self._node(path)
        if isinstance(node, Folder):
            yield from _below(node, "")

    def read(self, path: str, file: File, start: int, end: int) -> Iterator[memoryview | bytes]:
        if file.text is not None:
            yield bytes(file.text[start:end])
            return
        for stop, seed in (*file.parts, (file.size, file.seed)):
            if start < min(stop, end):
                yield from file_bodies.pieces(path, seed, file.size, start, min(stop, end))
                start = min(stop, end)

    # --- changing ---------------------------------------------------------------------------------

    def add(
        self,
        path: str,
        size: int = 0,
        created_at: str = CREATED_AT,
        text: bytes | None = None,
        at_s: float | None = None,
    ) -> None:
        """Add a file of `size` bytes (or of `text`) and the directories above it; a file already there is replaced.

        `at_s`: when that happens, by the lab's clock; by default now. So with the other changes of content.

        Raises LabError if a file is where a directory is needed, or a directory where the file would be.
        """
        folder, name = self._parent(path)
        old = folder.get(name)
        if isinstance(old, Folder):
            raise LabError(f"{path!r} is a directory")
        version = old.version + 1 if old else 0
        content = None if text is None else bytearray(text)
        length = size if content is None else len(content)
        made = File(length, created_at, self._seed(path, version), version, content)
        if old is None:
            folder[name] = made
        else:
            self._put(path, old, made, at_s)

    def mkdir(self, path: str) -> None:
        """Add a directory and those above it. Raises LabError if a file is in the way."""
        self._folder(path)

    def change(
        self,
        path: str,
        size: int | None = None,
        created_at: str | None = None,
        text: bytes | None = None,
        at_s: float | None = None,
    ) -> None:
        """Give a file other content, and what else is named. Raises LabError if there is no such file."""
        file = self._file(path)
        self.add(path, file.size if size is None else size, created_at or file.created_at, text, at_s)

    def append(self, path: str, more: int | bytes, at_s: float | None = None) -> None:
        """Let a file grow by so many bytes, or by these; its first bytes stay.

        Exceptions: made-up .json, .md and .png, which end properly. A file of given text grows by zeros, unless bytes
        are given. Raises LabError if bytes are given for made-up content, or if there is no such file.
        """
        file = self._file(path)
        added = more if isinstance(more, bytes) else bytes(more if file.text is not None else 0)
        text = file.text
        if isinstance(more, bytes):
            if text is None and file.size:
                raise LabError(f"the content of {path!r} is made up: append a number of bytes")
            text = bytearray() if text is None else text
        if text is not None:
            text += added
        count = len(more) if isinstance(more, bytes) else more
        self._put(path, file, dataclasses.replace(file, size=file.size + count, text=text), at_s)

    def truncate(self, path: str, size: int, at_s: float | None = None) -> None:
        """Cut a file to its first `size` bytes; what is appended later differs from what was there before.

        Raises LabError if it is shorter than that, or is not there.
        """
        file = self._file(path)
        if size > file.size:
            raise LabError(f"{path!r} has {file.size} bytes: it cannot be cut to {size}")
        parts = [(min(stop, size), seed) for stop, seed in (*file.parts, (file.size, file.seed))]
        kept = tuple(part for at, part in enumerate(parts) if part[0] > (parts[at - 1][0] if at else 0))
        version = file.version + 1
        made = dataclasses.replace(
            file,
            size=size,
            seed=self._seed(path, version),
            version=version,
            text=None if file.text is None else file.text[:size],
            parts=kept,
        )
        self._put(path, file, made, at_s)

    def touch(self, path: str, created_at: str) -> None:
        """Give a file another time and leave its content. Raises LabError if there is no such file."""
        self._file(path).created_at = created_at

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it. Raises LabError if nothing is there."""
        folder, name = self._parent(path)
        if folder.pop(name, None) is None:
            raise LabError(f"nothing at {path!r}")

    def rename(self, old: str, new: str) -> None:
        """Move a file or a directory; content moves along. Raises LabError if `old` is nowhere or `new` is taken."""
        node = self._node(old)
        if node is None or not old:
            raise LabError(f"nothing at {old!r}")
        if f"{new}/".startswith(f"{old}/") or self._node(new) is not None:
            raise LabError(f"{old!r} cannot become {new!r}")
        folder, name = self._parent(new)
        folder[name] = node
        self.remove(old)

    def grid(self, dirs: int, files: int) -> None:
        """Add `dirs` directories of `files` small files, 32 directories to a parent: the shape of many checkpoints."""
        for i in range(dirs):
            folder = self._folder(f"g{i // 32:03d}/d{i:05d}")
            for j in range(files):
                name = f"f{j:05d}.json"
                folder[name] = File(500 + (i * 31 + j) % 4000, CREATED_AT, self._seed(f"g{i}/{name}", 0))

    def wide(self, count: int) -> None:
        """Add `flat/`, one directory of `count` small files."""
        folder = self._folder("flat")
        for j in range(count):
            name = f"f{j:07d}.bin"
            folder[name] = File(1000 + j % 977, CREATED_AT, self._seed(name, 0))

    def _seed(self, path: str, version: int) -> int:
        return file_bodies.seed(f"{self._key}/{path}#{version}")

    def _put(self, path: str, old: File, new: File, at_s: float | None) -> None:
        """Let a file's new state follow its old one."""
        new.since = self._clock() if at_s is None else at_s
        new.changes, new.before = old.changes + 1, old
        last = new
        while last.before is not None and last.since > new.since - HISTORY_S:
            last = last.before
        last.before = None
        folder, name = self._parent(path)
        folder[name] = new

    def _file(self, path: str) -> File:
        file = self.find(path)
        if file is None:
            raise LabError(f"no file at {path!r}")
        return file

    def _parent(self, path: str) -> tuple[Folder, str]:
        above, _, name = path.rpartition("/")
        if not name:
            raise LabError(f"{path!r} names no file")
        return self._folder(above), name

    def _folder(self, path: str) -> Folder:
        folder = self.root
        for name in path.split("/") if path else ():
            if not name:
                raise LabError(f"{path!r} has an empty component")
            below = folder.setdefault(name, Folder())
            if not isinstance(below, Folder):
                raise LabError(f"{name!r} in {path!r} is a file")
            folder = below
        return folder


def _by_key(item: tuple[str, object]) -> str:
    return item[0]


def _below(folder: Folder, base: str) -> Iterator[tuple[str, File | None]]:
    # "dir/" and not "dir" is what object storage sorts by: "dir-x" comes before "dir/y" there.
    for name, node in sorted(
        folder.items(), key=lambda item: item[0] + "/" if isinstance(item[1], Folder) else item[0]
    ):
        if isinstance(node, Folder):
            yield base + name, None
            yield from _below(node, f"{base}{name}/")
        else:
            yield base + name, node
