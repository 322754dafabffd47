"""The reports and commands of a mount: the files in /.artifactfs (tree/control_dir.py), and its xattrs.

Reports are made from memory, in less than a millisecond, and wait for neither network nor disk (docs/semantics.md 5.1).
Commands may send requests: the mount has the keys, so its users need none.
"""

import functools
import json
import logging
import time
from collections.abc import Awaitable, Callable

import trio
from msgspec import structs

from artifactfs import errors
from artifactfs.content.block_tree import Cleared
from artifactfs.content.cache_places import CachePart
from artifactfs.control.counters import Readings, metrics_text
from artifactfs.control.pin_commands import PinCommands
from artifactfs.control.place_info import Child, FileInfo, Info, Listed, ProjectInfo, ProjectName, RunInfo
from artifactfs.control.recent_errors import errors_text
from artifactfs.control.snapshot import MountComponents, readings_of, status_of
from artifactfs.control.status_schema import SCHEMA, exact_json, status_json
from artifactfs.domain import Pair, RunDetails, RunFilter, by_key
from artifactfs.fuse.control_files import ControlCommand, ReportGenerator
from artifactfs.fuse.inodes import Inode
from artifactfs.fuse.kernel_dentries import KernelDentries, Name
from artifactfs.fuse.operations import Operations
from artifactfs.fuse.xattrs import Attributes
from artifactfs.logs import NOTICE
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.nodes import (
    ArtifactDir,
    ArtifactFile,
    ControlFile,
    FacetDir,
    GeneratedFile,
    Node,
    ProjectDir,
    StaticDir,
    is_at_or_below,
    mount_path,
)
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from artifactfs.util.clock import boottime, rfc3339

log = logging.getLogger(__name__)

# Runs whose details are cached for xattrs: some kilobytes each.
_MAX_DETAILS = 500
_DETAILS_S = 5.0


class Control:
    """The reports and commands of one mount. `operations` must be set before the first request of the kernel."""

    def __init__(self, components: MountComponents, dentries: KernelDentries) -> None:
        self._components = components
        self._dentries = dentries
        self._mounted_at = boottime()
        settings = components.settings
        # One request for all attributes of a run.
        self._details: StaleWhileRevalidateCache[int, RunDetails] = StaleWhileRevalidateCache(
            lambda run_id: f"details of run {run_id}",
            fetch=self._fetch_details,
            # `getfattr` reads each attribute twice: its length, then its value.
            ttl_s=lambda _details: max(settings.listing_ttl, _DETAILS_S),
            weight=lambda _details: 1,
            max_weight=_MAX_DETAILS,
            negative_ttl_s=settings.negative_ttl,
            stale_max_s=settings.stale_max,
            health=BackendHealth(),
            nursery=components.nursery,
            clock=boottime,
        )
        self.operations: Operations | None = None
        self.pins = PinCommands(components, lambda number: self._inode(number).node)

    def report_generators(self) -> dict[str, ReportGenerator]:
        return {
            "status.json": lambda: status_json(status_of(self._components, self._readings())),
            "metrics": lambda: metrics_text(self._readings()),
            "errors": self._errors,
        }

    def _errors(self) -> bytes:
        recent, since = self._components.recent_errors, time.time() - (boottime() - self._mounted_at)
        return errors_text(recent.failures(), recent.notices(), rfc3339(since))

    def commands(self) -> dict[str, ControlCommand]:
        own = {"info": self._info, "refresh": self._refresh, "refresh-contents": self._refresh_contents}
        return own | self.pins.commands()

    def _readings(self) -> Readings:
        kernel = self.operations.state() if self.operations is not None else None
        return readings_of(self._components, kernel, self._mounted_at)

    # --- refresh -------------------------------------------------------------------------------------------

    async def refresh_all(self) -> None:
        """Refresh the whole mount: for SIGHUP (docs/semantics.md 3.3). Does not wait for files that are open."""
        is_meant, _ = await self._mark_stale(self._components.tree.root)
        self._components.nursery.start_soon(self._refresh_open, is_meant)

    async def go_online(self) -> None:
        """Let the kernel ask again for what it was shown while the mount was offline (docs/semantics.md 8.5)."""
        self._components.files.expire_sizes()
        self._details.mark_all_stale()
        await self._dentries.drop(self._dentries_above(self._components.tree.root))
        self._components.nursery.start_soon(self._refresh_open, lambda _key: True)

    @property
    def is_invalidating(self) -> bool:
        """Whether a thread waits in the kernel, to invalidate dentries."""
        return self._dentries.is_stuck

    def forget(self) -> None:
        """Clear the details of runs: the keys may be another account's (docs/semantics.md 6.3)."""
        self._details.clear()

    def switch_account(self) -> None:
        """Show nothing more of the account before, and have the kernel drop all that it has (docs/semantics.md 6.3)."""
        if self.operations is not None:
            names, inodes = self._dentries_above(self._components.tree.root), self.operations.switch_account()
            self._components.nursery.start_soon(self._dentries.drop_account, names, inodes)

    def end(self) -> None:
        """Stop invalidating dentries: the mount is about to be closed."""
        self._dentries.end()

    async def _refresh(self, number: int) -> bytes:
        node = self._inode(number).node
        is_meant, dropped = await self._mark_stale(node)
        await self._refresh_open(is_meant)
        log.info("refresh: %r is stale", mount_path(node) or "/")
        told = {"kernel_names_dropped": dropped, "is_offline": self._is_offline()}
        return exact_json({"schema": SCHEMA, "refreshed": mount_path(node)} | told)

    def _is_offline(self) -> bool:
        return self._components.breaker.offline is not None

    async def _refresh_open(self, is_meant: Callable[[tuple[int, str]], bool]) -> None:
        """Let the kernel see what the service has of files that are open: their growth is proven first (2.4)."""
        if self.operations is not None:
            await self._dentries.drop_attributes(await self.operations.refresh(is_meant))

    async def _refresh_contents(self, number: int) -> bytes:
        """Refresh a place, and drop the contents of its files: in memory, on disk, in the kernel (semantics.md 3.6)."""
        operations = self._operations()
        node = operations.inodes.node(number)
        if isinstance(node, FacetDir | GeneratedFile):
            return await self._refresh_choice(node)
        if self._is_offline():
            # Nothing could be fetched again.
            return exact_json({"schema": SCHEMA, "refreshed": mount_path(node), "is_offline": True})
        part = _cache_part(node, self._components.settings.api_url)
        inodes = {number} if isinstance(node, ArtifactFile) else operations.inodes.files(self._is_below(node))
        self._components.files.drop(part.covers)
        ended = operations.on_dropped(inodes)
        answer: dict[str, object] = {"schema": SCHEMA, "refreshed": mount_path(node), "ended_files": ended}
        failed: list[Exception] = []
        done = trio.Event()

        async def finish() -> None:
            try:
                _, answer["kernel_names_dropped"] = await self._mark_stale(node)
                answer.update(await self._delete_contents(part))
                answer["kernel_pages_dropped"] = await self._dentries.drop_pages(inodes)
                log.info("refresh: %r is stale, and its contents are dropped: %s", mount_path(node) or "/", answer)
            except Exception as error:
                failed.append(error)
            finally:
                done.set()

        # In a task of its own: a caller that gives up must not leave old contents on the disk.
        self._components.nursery.start_soon(finish)
        await done.wait()
        if failed:
            raise failed[0]
        return exact_json(answer)

    async def _refresh_choice(self, node: FacetDir | GeneratedFile) -> bytes:
        """Refresh a choice of runs: it holds links, and no contents of its own (semantics.md 3.6)."""
        _, dropped = await self._mark_stale(node)
        deleted = {"deleted_bytes": 0, "deleted_blocks": 0, "disk_is_clear": True, "kernel_pages_dropped": True}
        return exact_json({
            "schema": SCHEMA, "refreshed": mount_path(node), "ended_files": 0, "kernel_names_dropped": dropped
        } | deleted)  # fmt: skip

    async def _delete_contents(self, part: CachePart) -> dict[str, object]:
        """Delete blocks on disk. `disk_is_clear`: none is left; what is left is not served by this mount."""
        try:
            cleared = await self._components.content.disk_cache.delete(part.covers)
        except errors.NoThread:  # the disk cache has logged it
            cleared = Cleared(0, 0, 0, left_blocks=1)
        return {
            "deleted_bytes": cleared.size_bytes,
            "deleted_blocks": cleared.blocks,
            "disk_is_clear": not cleared.left_blocks,
        }

    def _is_below(self, node: Node) -> Callable[[ArtifactDir], bool]:
        """Return a test of whether a directory is a place, or below it."""
        tree = self._components.tree
        if isinstance(node, ArtifactDir):
            is_meant = is_at_or_below(node.run_id, node.path)
            return lambda directory: is_meant((directory.run_id, directory.path))
        if isinstance(node, ProjectDir):
            project_id = str(node.project_id)

            @functools.cache
            def is_of_project(run_id: int) -> bool:
                run = tree.known_run(run_id)
                return run is None or run.project_id == project_id

            return lambda directory: is_of_project(directory.run_id)
        return lambda _directory: True

    async def _mark_stale(self, node: Node) -> tuple[Callable[[tuple[int, str]], bool], bool]:
        """Make a node stale; returns which directories are, and whether the kernel has dropped its names."""
        is_meant = self._components.tree.refresh(node)
        self._components.files.expire_sizes()
        self._details.mark_all_stale()
        if node is self._components.tree.root:
            self._components.keys.expire()
        return is_meant, await self._dentries.drop(self._dentries_above(node))

    @staticmethod
    def _dentries_above(node: Node) -> list[Name]:
        """Return the dentries through which the kernel reaches everything that the refresh concerns."""
        if isinstance(node, ArtifactFile):
            return [(node.directory.entry.number, node.entry.name)]
        if node.entry.number == node.parent_number:
            return [(node.entry.number, name) for name in (b"runs", b"projects", b"names", b".by", b"search")]
        return [(node.parent_number, node.entry.name)]

    def drop_name(self, parent: int, name: bytes) -> None:
        """Let the kernel look a name up again: it has another version (docs/semantics.md 2.4)."""
        self._components.nursery.start_soon(self._dentries.drop, [(parent, name)])

    def show_new_times(self, run_id: int) -> None:
        """Let the kernel ask again for the attributes of a run's files (docs/semantics.md 2.3, 3.1)."""
        if self.operations is not None:
            inodes = self.operations.show_new_times(run_id)
            self._components.nursery.start_soon(self._dentries.drop_attributes, inodes)

    # --- info ----------------------------------------------------------------------------------------------

    async def _info(self, number: int) -> bytes:
        inode = self._inode(number)
        node = inode.node
        found: dict[str, object] = {"listing": self._listing(node)}
        try:
            if isinstance(node, ArtifactDir | ArtifactFile):
                pins, place = self._components.pins, mount_path(node).removeprefix("runs/")
                found["pinned"] = pins is not None and pins.covers(self._components.settings.api_url, place)
            if isinstance(node, ArtifactDir) and not node.path:
                found |= await self._run(node.run_id)
            elif isinstance(node, ArtifactDir | ArtifactFile):
                directory = node if isinstance(node, ArtifactDir) else node.directory
                found["run"] = self._cached_run(directory.run_id)
                if isinstance(node, ArtifactFile):
                    found["file"] = await self._file(node, inode)
            elif isinstance(node, ProjectDir):
                details = structs.asdict(await self._components.service.project_details(node.project_id))
                found["project"] = ProjectInfo(details.pop("project_id"), **details)
        except errors.ServiceError as error:
            found |= _failure(error)
        return exact_json(Info(SCHEMA, _kind(node), mount_path(node), app_url=self._app_url(), **found))  # type: ignore[arg-type]

    async def _run(self, run_id: int, *, cached_too: bool = False) -> dict[str, object]:
        failure: dict[str, object] = {}
        try:
            cached = await (self._details.get if cached_too else self._details.refetch)(run_id)
        except (errors.ServiceError, errors.NoSuchEntry) as error:
            failure = _failure(error)
            if (stale := self._details.get_any(run_id)) is None:
                return failure | {"run": self._cached_run(run_id)}
            cached = stale
        details = structs.asdict(cached.value)
        run_id, project = details.pop("run_id"), await self._project_name(details.pop("project_id"))
        return failure | {"run": RunInfo(run_id, project, **details, children=await self._children(cached.value))}

    async def _children(self, parent: RunDetails) -> tuple[Child, ...]:
        if not parent.has_children:
            return ()
        try:
            found = await self._components.tree.find_runs(RunFilter(parent=parent.run_id))
        except (errors.ServiceError, errors.NoSuchEntry) as error:
            log.warning("the runs that run %d began: %s", parent.run_id, error, extra=NOTICE)
            return ()
        return tuple(Child(each.run.run_id, each.run.name, each.run.status) for each in found)

    async def description(self, run_id: int) -> bytes:
        """Return what `/runs/<id>.json` holds: what `info --json` prints of a run, without the state of the mount."""
        found = await self._run(run_id, cached_too=True)
        return exact_json(Info(SCHEMA, "run", f"runs/{run_id}", app_url=self._app_url(), **found))  # type: ignore[arg-type]

    async def _fetch_details(self, run_id: int, _old: RunDetails | None) -> RunDetails:
        _, details = await self._components.service.run_details(run_id)
        return details

    def _cached_run(self, run_id: int) -> RunInfo | None:
        run = self._components.tree.known_run(run_id)
        if run is None:
            return None
        return RunInfo(run.run_id, ProjectName(run.project_id, None), run.name, run.status)

    async def _project_name(self, project_id: str) -> ProjectName:
        name = None
        if project_id.isascii() and project_id.isdecimal() and len(project_id) < 20:
            try:
                name = await self._components.tree.project_name(int(project_id))
            except errors.ArtifactfsError as error:
                log.debug("the name of project %s: %s", project_id, error)
        return ProjectName(project_id, name)

    async def _file(self, file: ArtifactFile, inode: Inode) -> FileInfo:
        entry = inode.entry
        modified, created = entry.mtime_ns, entry.created_ns
        cached = await self._components.files.cached_bytes(await self._components.tree.locate_content(file))
        return FileInfo(
            entry.size_bytes, rfc3339(modified // 10**9), None if created is None else rfc3339(created // 10**9),
            str(inode.number), cached.disk_bytes, cached.memory_bytes, cached.handles,
        )  # fmt: skip

    def _listing(self, node: Node) -> Listed | None:
        facts = self._components.tree.facts(node)
        if facts is None:
            return None
        return Listed(round(facts.age_s, 3), round(facts.left_s, 3), facts.source.value, facts.entries, facts.is_stored)

    def _app_url(self) -> str | None:
        """Return the address of Datadog's web application for the site; None with --api-url."""
        settings = self._components.settings
        if not settings.is_of_site:
            return None
        # Sites of two names are the oldest, and have `app.` in front (docs.datadoghq.com, the table of each endpoint).
        front = "app." if settings.site.count(".") == 1 else ""
        return f"https://{front}{settings.site}/"

    # --- xattrs --------------------------------------------------------------------------------------------

    def xattrs(self, node: Node) -> Attributes:
        """Return the extended attributes of a node (docs/semantics.md 2.6)."""
        found: dict[bytes, Callable[[], Awaitable[bytes | None]]] = {}
        if (facts := self._components.tree.facts(node)) is not None:
            found[b"user.artifactfs.age_s"] = _text(f"{facts.age_s:.1f}")
            found[b"user.artifactfs.origin"] = _text(facts.source.value)
        if isinstance(node, ArtifactDir) and not node.path and (run := self._components.tree.known_run(node.run_id)):
            found[b"user.modellab.name"] = _text(run.name)
            found[b"user.modellab.status"] = _text(run.status)
            found[b"user.modellab.project"] = _text(run.project_id)
            found[b"user.modellab.tags"] = lambda: self._pairs(node.run_id, lambda details: details.tags)
            found[b"user.modellab.parameters"] = lambda: self._pairs(node.run_id, lambda details: details.params)
        return found

    async def _pairs(self, run_id: int, pairs: Callable[[RunDetails], tuple[Pair, ...]]) -> bytes:
        found = by_key(pairs((await self._details.get(run_id)).value))
        return json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")

    def _inode(self, number: int) -> Inode:
        return self._operations().inodes.get(number)

    def _operations(self) -> Operations:
        if self.operations is None:
            raise errors.NoSuchEntry("the mount has only just begun")
        return self.operations


def _cache_part(node: Node, site: str) -> CachePart:
    """Return the part of the cache that a place has."""
    if isinstance(node, ArtifactDir | ArtifactFile):
        return CachePart(site, mount_path(node).removeprefix("runs/"))
    return CachePart(site, project_id=str(node.project_id) if isinstance(node, ProjectDir) else None)


def _failure(error: errors.ArtifactfsError) -> dict[str, object]:
    return {"error": str(error), "what_to_do": errors.what_to_do(error)}


def _text(value: str) -> Callable[[], Awaitable[bytes | None]]:
    async def get() -> bytes:
        return value.encode("utf-8", "replace")

    return get


def _kind(node: Node) -> str:
    if isinstance(node, StaticDir):
        return node.entry.name.decode() or "mount"
    if isinstance(node, ArtifactDir):
        return "directory" if node.path else "run"
    if isinstance(node, ControlFile):
        return "report"
    if isinstance(node, FacetDir):
        return "choice"
    return "project" if isinstance(node, ProjectDir) else "file" if isinstance(node, ArtifactFile) else "other"
