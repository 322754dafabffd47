"""The model: projects, runs, and each run's tree of artifacts, all of it changeable while it is served.

Owns projects, runs and trees. Does not know HTTP, JSON bodies or switches: other modules render a tree in many forms.

Hard: 100,000 entries and listings computed from one directory's own children. So a directory is a dict of its
children, and a file's content is made from a seed when it is read (see contents.py).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeAlias

from artifactfs.emulator import file_bodies

CREATED_AT = "2026-05-16T09:00:00Z"  # of whatever is made without a time of its own: fixed, so that answers repeat
COMPLETED_AT = "2026-05-16T09:10:00.5Z"
UNFINISHED = ("pending", "running", "paused")  # the statuses of a run that goes on
OWNER = "1d45ac49-1e4e-11f1-8c3a-42221ed6388d"  # the owner in the recordings

Row: TypeAlias = dict[str, object]


class LabError(ValueError):
    """The model cannot make a change: the message names the path or run in the way."""


@dataclass(slots=True)
class File:
    """A file's facts. `size` in bytes, `created_at` in RFC 3339; `text` is its content if not made from `seed`."""

    size: int
    created_at: str
    seed: int
    version: int = 0
    text: bytes | None = None


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


class Folder(dict[str, "File | Folder"]):
    """A directory: its children by name."""


class MemoryTree:
    """A tree of made-up files. `build` fills it at the first look, so that a lab of many runs starts at once."""

    def __init__(self, key: str, build: "Callable[[MemoryTree], None] | None" = None) -> None:
        self._key = key
        self._build = build
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
            yield file.text[start:end]
        else:
            yield from file_bodies.pieces(path, file.seed, file.size, start, end)

    # --- changing ---------------------------------------------------------------------------------

    def add(self, path: str, size: int = 0, created_at: str = CREATED_AT, text: bytes | None = None) -> None:
        """Add a file of `size` bytes (or of `text`) and the directories above it; a file already there is replaced.

        Raises LabError if a file is where a directory is needed, or a directory where the file would be.
        """
        folder, name = self._parent(path)
        old = folder.get(name)
        if isinstance(old, Folder):
            raise LabError(f"{path!r} is a directory")
        version = old.version + 1 if old else 0
        length = size if text is None else len(text)
        folder[name] = File(length, created_at, self._seed(path, version), version, text)

    def mkdir(self, path: str) -> None:
        """Add a directory and those above it. Raises LabError if a file is in the way."""
        self._folder(path)

    def change(
        self, path: str, size: int | None = None, created_at: str | None = None, text: bytes | None = None
    ) -> None:
        """Give a file other content, and what else is named. Raises LabError if there is no such file."""
        file = self._file(path)
        self.add(path, file.size if size is None else size, created_at or file.created_at, text)

    def append(self, path: str, count: int) -> None:
        """Let a file grow by `count` bytes; its first bytes stay. Exceptions: .json and .md, which end properly."""
        file = self._file(path)
        if file.text is not None:
            file.text += bytes(count)
        file.size += count

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


@dataclass(slots=True)
class Run:
    """A run. `attributes` are those of its answers, `prefix` is its place in the project ("<32 hex>/artifacts")."""

    id: int
    project: int
    attributes: Row
    tree: Tree
    prefix: str
    tells_sizes: bool = True  # whether listings and the index give its files' sizes
    parent: int | None = None
    raw_rows: dict[str, list[Row]] = field(default_factory=dict)  # by directory: sent as they are, behind the tree's
    raw_index: list[Row] = field(default_factory=list)  # the same for the project's flat listing

    def tell(self, overrides: Row) -> None:
        """Change attributes. A status that says finished brings an end if there is none, any other takes it away."""
        if overrides.get("status") in UNFINISHED:
            self.attributes.pop("completed_at", None)
            self.attributes.pop("duration", None)
        elif "status" in overrides:
            self.attributes.setdefault("completed_at", COMPLETED_AT)
        self.attributes.update(overrides)


@dataclass(slots=True)
class Project:
    """A project. `attributes` are those of its answers."""

    id: int
    attributes: Row


def prefix_of(run_id: int) -> str:
    """Return a made-up run's `path_in_project`, of the recorded shape."""
    return hashlib.blake2b(b"run %d" % run_id, digest_size=16).hexdigest() + "/artifacts"


def run_attributes(run_id: int, project: int, **overrides: object) -> Row:
    """Return a run's attributes, of the recorded shape, for a completed run; `overrides` replaces some."""
    attributes: Row = {
        "completed_at": COMPLETED_AT,
        "created_at": "2026-05-16T08:59:59.25Z",
        "descendant_match": False,
        "description": "",
        "duration": 600.5,
        "has_children": False,
        "is_pinned": False,
        "metric_summaries": [],
        "mlflow_artifact_location": f"mlflow-artifacts:///{project}/{run_id}/artifacts",
        "name": f"run-{run_id}",
        "owner_id": OWNER,
        "params": [],
        "project_id": project,
        "started_at": "2026-05-16T09:00:00Z",
        "status": "completed",
        "tags": [],
        "updated_at": "2026-05-16T09:10:00.75Z",
    }
    if overrides.get("status") in UNFINISHED:
        del attributes["completed_at"], attributes["duration"]
    return attributes | overrides


def project_attributes(project_id: int, **overrides: object) -> Row:
    """Return a project's attributes, of the recorded shape; `overrides` replaces some."""
    attributes: Row = {
        "artifact_storage_location": f"model-lab:///{project_id}",
        "created_at": "2026-05-10T08:00:00.5Z",
        "description": "",
        "is_starred": False,
        "name": f"project-{project_id}",
        "owner_id": OWNER,
        "tags": [],
        "updated_at": "2026-05-10T08:00:00.75Z",
    }
    return attributes | overrides


def moment(timestamp: object) -> datetime:
    """Return the time that an RFC 3339 string names, the epoch for anything else (for sorting)."""
    try:
        found = datetime.fromisoformat(str(timestamp))
    except ValueError:
        found = datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Source(Protocol):
    """Runs that are read again at every request (see disk.py)."""

    def project(self) -> Project: ...

    def runs(self) -> list[Run]: ...

    def run(self, run_id: int) -> Run | None: ...

    def run_of(self, prefix: str) -> Run | None: ...


class Lab:
    """All projects and runs: those in memory, and those of a `source` that is read again at each request."""

    def __init__(self, source: Source | None = None) -> None:
        self._runs: dict[int, Run] = {}
        self._prefixes: dict[str, Run] = {}
        self._projects: dict[int, Project] = {}
        self.source = source
        self.recorded: dict[str, Row] = {}  # whole bodies that cannot be computed, by path and query (see facets.py)

    def runs(self) -> list[Run]:
        """Return every run, soft-deleted ones too, in no particular order."""
        return [*self._runs.values(), *(self.source.runs() if self.source else ())]

    def run(self, run_id: int) -> Run | None:
        found = self._runs.get(run_id)
        return found or (self.source.run(run_id) if self.source else None)

    def projects(self) -> list[Project]:
        """Return every project, in no particular order."""
        return [*self._projects.values(), *([self.source.project()] if self.source else ())]

    def project(self, project_id: int) -> Project | None:
        if (found := self._projects.get(project_id)) is None and self.source is not None:
            found = self.source.project()
        return found if found is not None and found.id == project_id else None

    def runs_of(self, project_id: int) -> list[Run]:
        """Return a project's runs in the order of their prefixes, which is the index's order."""
        return sorted((run for run in self.runs() if run.project == project_id), key=lambda run: run.prefix)

    def by_artifact_path(self, artifact_path: str) -> tuple[Run, str] | None:
        """Return the run of a content request's path, and the path below its root."""
        head, mark, path = artifact_path.partition("/artifacts/")
        prefix = f"{head}/artifacts"
        run = self._prefixes.get(prefix) or (self.source.run_of(prefix) if self.source else None)
        return (run, path) if run and mark else None

    def add_project(self, project: Project) -> None:
        self._projects[project.id] = project

    def add_run(self, run: Run) -> None:
        """Add a run, and its project where that is unknown."""
        self._runs[run.id] = run
        self._prefixes[run.prefix] = run
        if self.project(run.project) is None:
            self.add_project(Project(run.project, project_attributes(run.project)))

    def create(self, run_id: int, project: int, tree: MemoryTree | None = None, **overrides: object) -> Run:
        """Add and return a run with the attributes `overrides`; by default it is completed and empty."""
        attributes = run_attributes(run_id, project, **overrides)
        run = Run(run_id, project, attributes, tree or MemoryTree(f"run {run_id}"), prefix_of(run_id))
        self.add_run(run)
        return run

    def forget(self, run_id: int) -> None:
        """Remove a run as if it had never been. Raises LabError if it is not in memory."""
        run = self._runs.pop(run_id, None)
        if run is None:
            raise LabError(f"no run {run_id} that could be removed")
        del self._prefixes[run.prefix]
