"""The schema of `artifactfs info --json`: the facts about one place of a mount.

docs/status.md describes it; fields are only ever added. Text is the server's, exact. No keys in it.
"""

import msgspec

from artifactfs.domain import Metric, Pair


class Listed(msgspec.Struct, frozen=True):
    """The listing of a directory, or of a file's directory: age, time left, and origin (direct or project index).

    `stored`: it comes from the metadata store, so it may be older than the mount.
    """

    age_s: float
    fresh_for_s: float
    origin: str
    entries: int | None
    stored: bool = False


class ProjectName(msgspec.Struct, frozen=True):
    """A project; `name` is None if it is not cached."""

    id: str
    name: str | None


class Child(msgspec.Struct, frozen=True):
    """A run that another one has started."""

    id: int
    name: str
    status: str


class RunInfo(msgspec.Struct, frozen=True):
    """A run. Without an answer of the service (`Info.error`), details are None or empty.

    Times are RFC 3339, as the service writes them; `external_url` is the service's, too. `children`: the last updated.
    """

    id: int
    project: ProjectName
    name: str
    status: str
    description: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    updated_at: str | None = None
    completed_at: str | None = None
    duration_s: float | None = None
    owner_id: str | None = None
    external_url: str | None = None
    params: tuple[Pair, ...] = ()
    tags: tuple[Pair, ...] = ()
    metrics: tuple[Metric, ...] = ()
    has_children: bool = False
    children: tuple[Child, ...] = ()


class ProjectInfo(msgspec.Struct, frozen=True):
    """A project; its fields are like those of RunInfo."""

    id: int
    name: str | None
    description: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    owner_id: str | None = None
    external_url: str | None = None
    tags: tuple[Pair, ...] = ()


class FileInfo(msgspec.Struct, frozen=True):
    """A file. `size_bytes`: None for an unknown size. `cached_bytes` of it are on disk, `memory_bytes` in memory.

    `version`: its inode number, which stands for the version. A string, since JavaScript and jq round integers above
    2^53.
    """

    size_bytes: int | None
    modified: str
    created_at: str | None
    version: str
    cached_bytes: int
    memory_bytes: int
    open_handles: int


class Info(msgspec.Struct, frozen=True):
    """A place. `kind`: mount, runs, projects, names, project, choice, run, directory, file, report or other.

    `path`: from the mount point. `run`: of the place. `app_url`: Datadog's web application for the site.
    `pinned`: whether all of it is, of a run and what is in one. `error`, `what_to_do`: why details are missing.
    """

    schema: int
    kind: str
    path: str
    run: RunInfo | None = None
    project: ProjectInfo | None = None
    file: FileInfo | None = None
    listing: Listed | None = None
    app_url: str | None = None
    pinned: bool | None = None
    error: str | None = None
    what_to_do: str | None = None
