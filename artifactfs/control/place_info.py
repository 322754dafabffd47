"""What a mount knows of one place in it: the schema of `artifactfs info --json`, and of the xattrs' values.

Owns the schema: docs/status.md describes it; fields are only ever added. Text is the server's, exact. No keys in it.
"""

import msgspec

from artifactfs.modellab.details import Metric, Pair


class Listed(msgspec.Struct, frozen=True):
    """The listing of a directory, or of a file's directory: age, time left, and origin (direct or project index)."""

    age_s: float
    fresh_for_s: float
    origin: str
    entries: int | None


class ProjectName(msgspec.Struct, frozen=True):
    """A project; `name` None: not known."""

    id: str
    name: str | None


class RunInfo(msgspec.Struct, frozen=True):
    """A run. What only the service knows is None, or empty, where it did not answer (`Info.error`).

    Times are RFC 3339, as the service writes them. `external_url`: what the service itself gives for it.
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


class ProjectInfo(msgspec.Struct, frozen=True):
    """A project, as RunInfo tells a run."""

    id: int
    name: str | None
    description: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    owner_id: str | None = None
    external_url: str | None = None
    tags: tuple[Pair, ...] = ()


class FileInfo(msgspec.Struct, frozen=True):
    """A file. `size_bytes` None: not known. `version`: its inode number, which stands for the version.

    As a string: JavaScript and jq round integers above 2^53.

    `cached_bytes` of it are on disk, `memory_bytes` in memory; `open_handles` are open.
    """

    size_bytes: int | None
    modified: str
    created_at: str | None
    version: str
    cached_bytes: int
    memory_bytes: int
    open_handles: int


class Info(msgspec.Struct, frozen=True):
    """A place. `kind`: mount, runs, projects, names, project, run, directory, file, report or other.

    `path`: from the mount point. `run`: that the place is, or is in. `app_url`: Datadog's web application, of the site.
    `error`, `what_to_do`: the service did not tell all.
    """

    schema: int
    kind: str
    path: str
    run: RunInfo | None = None
    project: ProjectInfo | None = None
    file: FileInfo | None = None
    listing: Listed | None = None
    app_url: str | None = None
    error: str | None = None
    what_to_do: str | None = None
