"""The model: projects and runs, all of them changeable while they are served.

Owns projects and runs; artifact_tree.py owns what is in a run. Does not know HTTP, JSON bodies or switches: other
modules render a run in many forms.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from artifactfs.emulator.artifact_tree import LabError, MemoryTree, Tree

COMPLETED_AT = "2026-05-16T09:10:00.5Z"
UNFINISHED = ("pending", "running", "paused")  # the statuses of a run that goes on
GENERATED_PROJECT = 9000  # of runs that are made without naming one
OWNER = "1d45ac49-1e4e-11f1-8c3a-42221ed6388d"  # the owner in the recordings

Row: TypeAlias = dict[str, object]


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


class Source(Protocol):
    """Runs that are read again at every request (see disk.py)."""

    def project(self) -> Project: ...

    def runs(self) -> list[Run]: ...

    def run(self, run_id: int) -> Run | None: ...

    def run_of(self, prefix: str) -> Run | None: ...


class Lab:
    """All projects and runs: those in memory, and those of a `source` that is read again at each request."""

    def __init__(self, source: Source | None = None, clock: Callable[[], float] = time.time) -> None:
        self._runs: dict[int, Run] = {}
        self._prefixes: dict[str, Run] = {}
        self._projects: dict[int, Project] = {}
        self.source = source
        self.clock = clock
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

    def create(
        self, run_id: int, project: int = GENERATED_PROJECT, tree: MemoryTree | None = None, **overrides: object
    ) -> Run:
        """Add and return a run with the attributes `overrides`; by default it is completed and empty."""
        attributes = run_attributes(run_id, project, **overrides)
        run = Run(run_id, project, attributes, tree or MemoryTree(f"run {run_id}", clock=self.clock), prefix_of(run_id))
        self.add_run(run)
        return run

    def forget(self, run_id: int) -> None:
        """Remove a run as if it had never been. Raises LabError if it is not in memory."""
        run = self._runs.pop(run_id, None)
        if run is None:
            raise LabError(f"no run {run_id} that could be removed")
        del self._prefixes[run.prefix]
