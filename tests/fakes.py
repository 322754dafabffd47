"""What the unit tests share: a clock that can be turned, a Model Lab without a network, and short ways to make values.

Nothing here sleeps in real time: `TurnedClock` follows trio's clock, which is a MockClock in these tests.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from artifactfs.domain import (
    Children,
    DirectoryListing,
    FacetKeys,
    IndexedFile,
    ListedChild,
    Metric,
    Pair,
    Project,
    RequestUsage,
    Run,
    RunDetails,
    RunFilter,
    RunRecord,
)
from artifactfs.errors import NotFound
from artifactfs.modellab import run_filters
from artifactfs.tree.nodes import Node
from artifactfs.tree.tree import Tree

# 2026-05-16T09:00:00Z, in nanoseconds since the epoch.
NOW_NS = 1_778_922_000 * 10**9
MINUTE_NS = 60 * 10**9
# What the index says of files by default, as sent and as read.
CREATED_AT = "2026-05-16T08:30:00Z"
CREATED_NS = NOW_NS - 30 * MINUTE_NS


class TurnedClock:
    """Seconds of trio's clock, and what the machine slept besides (`sleep_machine`)."""

    def __init__(self) -> None:
        self._slept = 0.0

    def __call__(self) -> float:
        return trio.current_time() + self._slept

    def sleep_machine(self, seconds: float) -> None:
        """Let the machine be suspended: trio's clock stands still, this one goes on."""
        self._slept += seconds


def run(run_id: int = 1, status: str = "running", **told: object) -> Run:
    """Return a run of project 10, created an hour before NOW_NS by default."""
    values: dict[str, object] = {"project_id": "10", "created_ns": NOW_NS - 60 * MINUTE_NS, "updated_ns": NOW_NS}
    return Run(run_id=run_id, status=status, **(values | told))  # type: ignore[arg-type]  # the fields' own types


def described(
    of: Run,
    *,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: tuple[Metric, ...] = (),
    **details: object,
) -> bytes:
    """Return the details of a run as a list has them."""
    rows = [tuple(Pair(key, value) for key, value in (each or {}).items()) for each in (params, tags)]
    names = ("description", "created_at", "started_at", "updated_at", "completed_at", "duration_s", "owner_id")
    known = dict.fromkeys(names) | details
    return msgspec.json.encode(
        RunDetails(
            of.run_id,
            of.project_id,
            of.name,
            of.status,
            **known,  # type: ignore[arg-type]  # the fields' own types
            external_url=None,
            params=rows[0],
            tags=rows[1],
            metrics=metrics,
        )
    )


def finished_run(run_id: int = 1, *, minutes_ago: float = 60.0) -> Run:
    """Return a completed run that ended so long before NOW_NS."""
    return run(run_id, "completed", completed_ns=NOW_NS - int(minutes_ago * MINUTE_NS))


def directory(
    files: Mapping[str, int | None] | None = None, dirs: Sequence[str] = (), prefix: str = "prefix/artifacts"
) -> DirectoryListing:
    """Return a listing with these directories and files (sizes in bytes, None: unknown), in this order."""
    children = [ListedChild(name.encode(), True) for name in dirs]
    children += [ListedChild(name.encode(), False, size) for name, size in (files or {}).items()]
    return DirectoryListing(Children({child.name: child for child in children}), prefix)


async def walk(tree: Tree, path: str) -> Node:
    """Return the node at a path from the mount's root, looked up name by name."""
    node: Node = tree.root
    for name in path.split("/"):
        node = (await tree.lookup(node, name.encode())).node
    return node


@dataclass
class FakeService:
    """The tree's Service: answers from tables that a test fills, and keeps a log of what was asked.

    `failures` are raised by the next calls, one each (None: that one succeeds); `latency_s` is how long a call takes;
    `gate`, where set, holds every call until the event is set. `refusals`: what a call, as it stands in the log, raises
    as long as it stands there. `catalogue`: the projects; `projects`: the index of each that has one, which takes
    `index_s` more to come; `room`: whether requests ahead may go; `choose`: see TreeTuning.
    """

    runs: dict[int, Run] = field(default_factory=dict)
    listings: dict[tuple[int, str], DirectoryListing] = field(default_factory=dict)
    failures: list[Exception | None] = field(default_factory=list)
    broken: Exception | None = None
    latency_s: float = 0.0
    gate: trio.Event | None = None
    log: list[tuple[object, ...]] = field(default_factory=list)
    catalogue: dict[int, Project] = field(default_factory=dict)
    projects: dict[str, list[IndexedFile]] = field(default_factory=dict)
    index_s: float = 0.0
    room: bool = True
    choose: Callable[[list[str], int], list[str]] = field(default_factory=lambda: random.Random(20261123).sample)
    refusals: dict[tuple[object, ...], Exception] = field(default_factory=dict)
    details: dict[int, bytes] = field(default_factory=dict)
    parents: dict[int, int] = field(default_factory=dict)
    facets: dict[int, FacetKeys] = field(default_factory=dict)
    facet_texts: dict[tuple[int, str, str], tuple[str, ...]] = field(default_factory=dict)

    def add_tree(
        self,
        run_id: int,
        files: Mapping[str, int | None],
        *,
        project_id: str = "10",
        prefix: str = "prefix/artifacts",
        created_ns: int | None = CREATED_NS,
    ) -> None:
        """Give a run files by their paths, with their directories' listings and their part of the project's index."""
        held: dict[str, tuple[dict[str, int | None], dict[str, None]]] = {"": ({}, {})}
        for path, size in files.items():
            *above, name = path.split("/")
            for depth, part in enumerate(above):
                held["/".join(above[:depth])][1][part] = None
                held.setdefault("/".join(above[: depth + 1]), ({}, {}))
            held["/".join(above)][0][name] = size
        for path, (its_files, its_dirs) in held.items():
            self.listings[run_id, path] = directory(its_files, list(its_dirs), prefix)
        base = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        self.projects.setdefault(project_id, []).extend(
            IndexedFile(base + path, size, created_ns) for path, size in files.items()
        )

    async def get_run(self, run_id: int) -> Run:
        await self._called("run", run_id)
        if run_id not in self.runs:
            raise NotFound(f"run {run_id} is not there", 404)
        return self.runs[run_id]

    async def list_runs(self, count: int) -> list[Run]:
        runs = [*self.runs.values()]
        await self._called("runs", count)
        return runs[:count]

    async def find_runs(self, count: int, wanted: RunFilter, *, has_older: bool = False) -> list[RunRecord]:
        records = [RunRecord(run, self.details.get(run.run_id) or described(run)) for run in self.runs.values()]
        whole = wanted == RunFilter(project_id=wanted.project_id)
        await self._called("runs", count, wanted.project_id if whole else wanted)
        if wanted.parent is not None:
            records = [record for record in records if self.parents.get(record.run.run_id, 0) == wanted.parent]
        records = [record for record in records if wanted.text in record.run.name]
        return [record for record in records if run_filters.holds(wanted, record)][:count]

    async def facet_keys(self, project_id: int) -> FacetKeys:
        await self._called("facet keys", project_id)
        return self.facets.get(project_id, FacetKeys())

    async def facet_values(self, project_id: int, kind: str, key: str) -> tuple[str, ...]:
        await self._called("facet values", project_id, kind, key)
        return self.facet_texts.get((project_id, kind, key), ())

    async def get_project(self, project_id: int) -> Project:
        await self._called("project", project_id)
        if project_id not in self.catalogue:
            raise NotFound(f"project {project_id} is not there", 404)
        return self.catalogue[project_id]

    async def list_projects(self, count: int) -> list[Project]:
        answer = list(self.catalogue.values())
        await self._called("projects", count)
        return answer[:count]

    async def project_files(self, project_id: str, add: Callable[[Sequence[IndexedFile]], None]) -> None:
        await self._called("index", project_id)
        await trio.sleep(self.index_s)
        if project_id not in self.projects:
            raise NotFound(f"project {project_id} is not there", 404)
        add(self.projects[project_id])

    def can_prefetch(self) -> bool:
        return self.room

    def cost(self) -> RequestUsage:
        return RequestUsage(dict(Counter(str(kind) for kind, *_ in self.log)))

    async def list_directory(self, run_id: int, path: str) -> DirectoryListing:
        await self._called("listing", run_id, path)
        if (run_id, path) not in self.listings:
            raise NotFound(f"no {path!r} in run {run_id}", 404)
        return self.listings[run_id, path]

    async def _called(self, *call: object) -> None:
        self.log.append(call)
        await trio.sleep(self.latency_s)
        if self.gate is not None:
            await self.gate.wait()
        if (refusal := self.refusals.get(call)) is not None:
            raise refusal
        if self.broken is not None:
            raise self.broken
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure

    def asked(self) -> list[tuple[object, ...]]:
        """Return the calls since the last look, and forget them."""
        log, self.log = self.log, []
        return log


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until a condition holds. Fails after more turns than anything here needs."""
    for _ in range(1000):
        if condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("what was waited for did not happen")
