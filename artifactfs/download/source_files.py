"""The sources of a download: the service, through the tree and the contents of a mount, without FUSE; or a mount.

A path in a mount is read through it, so its own keys, account and cache are used. Any other path names a run, or what
is below one, in the words of a mount's tree. The service's contents go past the disk cache: they are on this disk soon.
"""

import errno
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar, TypeVarTuple

import trio

from artifactfs import errors, warm
from artifactfs.content.context import ContentContext
from artifactfs.content.open_files import OpenFileTable
from artifactfs.content.reader import OpenFile
from artifactfs.domain import ContentVersion
from artifactfs.errors import ExitCode, UserError
from artifactfs.logs.limiter import waiting
from artifactfs.mount import mount_table
from artifactfs.tree import control_dir
from artifactfs.tree.facet_tree import BY, HIDDEN, SEARCH
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Node, ProjectDir, Symlink, mount_path
from artifactfs.tree.safe_names import number_of, parse_id
from artifactfs.tree.tree import Tree
from artifactfs.util import threads

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
# The names of directories below DIR, and of a file in the last of them.
Place = tuple[str, ...]

_TOP = (b"runs", b"projects", b"names", BY, HIDDEN, SEARCH)
_ABOVE_RUNS = "this holds runs, and a download is of runs or of what is in one"
# Candidates that a message names, at most. Arbitrary.
_MAX_NAMED = 5
# Failures in a row, without a byte between them, after which a file or a listing is given up; the longest pause before
# another attempt; and how long the resets of rate limits are waited for. A minute of an outage is survived. Arbitrary.
_ATTEMPTS = 6
_LAST_PAUSE_S = 30.0
_PATIENCE_S = 900.0
# A failed read of a mount that may pass (docs/dev/model-lab-api.md, "Status to errno").
_PASSING = (errno.EIO, errno.EBUSY, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EINTR)


@dataclass(frozen=True)
class Opened:
    """One version of a file. `size_bytes`: None where only its end tells. `version` names it, None where nothing does.

    `mtime_ns()`: its time by now, since the epoch. `read(offset, count)` returns `count` bytes, less only at the end of
    the file, and raises Superseded, ServiceError.
    """

    size_bytes: int | None
    version: bytes | None
    mtime_ns: Callable[[], int]
    read: Callable[[int, int], Awaitable[bytes | memoryview]]


# A file of a source. `place`: of the copy. `shown`: what messages call it. `listed_bytes`: its size by the listing,
# None where that does not tell. `look()` returns the size and the time (ns since the epoch) of now, `open()` opens the
# version that `look` saw; they raise TreeError, Superseded, ServiceError.
Item: TypeAlias = "_ServiceFile | _MountedFile"


@dataclass
class Found:
    """The files at and below all paths, the directories, and the sentences about what could not be listed."""

    items: list[Item] = field(default_factory=list)
    directories: list[Place] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def patiently(call: Callable[[], Awaitable[T]], progress: Callable[[], int] = lambda: 0) -> T:
    """Return the result of a call, which is repeated after failures that may pass, and after the reset of a rate limit.

    `progress()` tells how many bytes came. Only more than ever before end a row of failures: what begins again and
    breaks off again gets nowhere.
    """
    most, failures, began = progress(), 0, trio.current_time()
    while True:
        try:
            return await call()
        except errors.PassingError as error:
            if (came := progress()) > most:
                most, failures, began = came, 0, trio.current_time()
            failures += not isinstance(error, errors.RateLimited)
            pause_s = error.reset_s if isinstance(error, errors.RateLimited) else min(2.0**failures, _LAST_PAUSE_S)
            # A 5xx has been retried by the client, and may mean that there is no such artifact.
            if failures == (2 if isinstance(error, errors.ServerFailed) else _ATTEMPTS) or (
                trio.current_time() + pause_s > began + _PATIENCE_S
            ):
                raise
            log.info("%s; trying again in %.0f s", error, pause_s, extra=waiting(pause_s))
            await trio.sleep(pause_s)


# --- the service ----------------------------------------------------------------------------------------------


class Service:
    """The service itself. `site`: the API's URL. Every method raises TreeError, ServiceError, UserError."""

    def __init__(self, tree: Tree, files: OpenFileTable, content: ContentContext, site: str) -> None:
        self.tree = tree
        self.files = files
        self.content = content
        self.site = site

    async def find(self, path: str) -> ArtifactDir | ArtifactFile:
        """Return what a path names: [runs/]RUN/…, projects/ID/RUN/…, or [names/]PROJECT/RUN/…, with or without ~ID.

        In place of RUN, `latest` and the like, and by/…/RUN; for all projects by/…/RUN and search/WORDS/RUN.
        """
        names = [name for name in os.fsencode(path).split(b"/") if name]
        at: Node = self.tree.root
        if names and names[0] not in _TOP:
            at = self.tree.runs if parse_id(names[0]) else (await self.tree.lookup(at, b"names")).node
        for name in names:
            try:
                at = await patiently(partial(self._step, at, name, path))
            except (errors.NoSuchEntry, errors.NotADirectory, errors.NotFound):
                fact = f"there is no {os.fsdecode(name)} in /{mount_path(at)}"
                # Perhaps meant for a mount that has ended.
                is_local = name == names[0] and os.path.lexists(name)  # noqa: ASYNC240 - at the end of the command
                fix = "; what is here by that name is in no mount of artifactfs" if is_local else ""
                raise UserError(ExitCode.INCOMPLETE, fact, f"check its number or name{fix}", path) from None
        if not isinstance(at, ArtifactDir | ArtifactFile):
            raise UserError(ExitCode.USAGE, _ABOVE_RUNS, "name a run in it", path)
        return at

    async def walk(self, node: ArtifactDir | ArtifactFile, name: str, found: Found) -> None:
        """Add the files at and below a node to `found`. `name`: of the copy."""
        pending: list[tuple[Node, Place]] = [(node, (name,))]
        while pending:
            at, place = pending.pop()
            if isinstance(at, ArtifactFile):
                found.items.append(_ServiceFile(self, at, place))
            elif isinstance(at, ArtifactDir):
                found.directories.append(place)
                try:
                    contents = await patiently(partial(self.tree.contents, at))
                except (errors.TreeError, errors.ServiceError) as error:
                    found.failures.append(f"/{mount_path(at)}: {error}; {errors.what_to_do(error)}")
                    continue
                # In the server's order, as a stack hands them out.
                below = [(contents.node_of(each), (*place, os.fsdecode(each.name))) for each in contents.entries]
                pending += reversed(below)

    async def _step(self, at: Node, name: bytes, path: str) -> Node:
        is_named = at.by_name and name not in (BY, HIDDEN) if isinstance(at, ProjectDir) else at.entry.name == b"names"
        if is_named and number_of(name) is None and not isinstance(at, ArtifactDir | ArtifactFile):
            node = await self._called(at, name, path)
        else:
            node = (await self.tree.lookup(at, name)).node
        if isinstance(node, Symlink):
            # All steps up lead to the root.
            target = node.target
            node = self.tree.root if target.startswith(b"../") else at
            for part in target.split(b"/"):
                node = node if part == b".." else (await self.tree.lookup(node, part)).node
        return node

    async def _called(self, at: Node, name: bytes, path: str) -> Node:
        """Return the project or run of a name, among those that are listed; several may have it."""
        contents = await self.tree.contents(at)
        # `latest` is the link of that name, and not a run that is called so.
        exact = [entry for entry in contents.entries if entry.name == name]
        same = exact or [entry for entry in contents.entries if entry.name.rpartition(b"~")[0] == name]
        if not same:
            raise errors.NoSuchEntry("no such name")
        if len(same) > 1:
            named = ", ".join(os.fsdecode(entry.name) for entry in same[:_MAX_NAMED])
            fact = f"{len(same)} of /{mount_path(at)} are called {os.fsdecode(name)}"
            fix = f"give its number, too: {named}{', …' if same[_MAX_NAMED:] else ''}"
            raise UserError(ExitCode.USAGE, fact, fix, path)
        return contents.node_of(same[0])


class _ServiceFile:
    def __init__(self, service: Service, file: ArtifactFile, place: Place) -> None:
        self._service = service
        self._file = file
        self.place = place
        self.listed_bytes = file.entry.size_bytes
        self.shown = f"/{mount_path(file)}"

    async def look(self) -> tuple[int | None, int]:
        found = (await self._service.tree.lookup(self._file.directory, self._file.entry.name)).node
        if not isinstance(found, ArtifactFile):
            raise errors.IsADirectory("it is a directory by now")
        self._file = found
        return found.entry.size_bytes, found.entry.mtime_ns

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Opened]:
        service, file = self._service, self._file
        handle: OpenFile | None = None
        try:
            version = await service.tree.locate_content(file)
            handle = await service.files.open(version, stream=True)
            # An answer tells the validator, and that the server still has this version.
            await handle.read_head(revalidate=True)

            def mtime_ns() -> int:
                # The own times of a run's files may have come meanwhile (docs/semantics.md 2.3).
                return service.tree.current(file.directory, file.entry).mtime_ns

            yield Opened(handle.size, _version_name(service, version, handle), mtime_ns, handle.read)
        except (errors.Superseded, errors.ShortBody) as error:
            # A new listing shows the other version; or the length of the contents counts (docs/semantics.md 4.1).
            service.tree.record_size_conflict(file, error.size_bytes)
            raise
        finally:
            if handle is not None:
                handle.close()


def _version_name(service: Service, version: ContentVersion, handle: OpenFile) -> bytes | None:
    """Return what names contents over remounts, too (docs/semantics.md 4.3)."""
    validator = None if service.content.validators_unreliable else handle.validator
    if (known_by := validator or version.content_stamp) is None:
        return None
    place = f"{service.site}\0{version.artifact.project_id}\0{version.artifact.path}\0{handle.size}\0"
    return hashlib.blake2b(place.encode() + known_by).digest()


# --- a mount --------------------------------------------------------------------------------------------------


def is_in_a_mount(path: str) -> bool:
    """Whether a path is in a mount of artifactfs, by its text. Raises UserError for one that can only be in another."""
    try:
        inner = mount_table.innermost(path)
    except OSError:
        inner = None  # the working directory is gone: a relative path can only be a run's
    if inner is None or not inner.is_ours:
        if path.startswith(("/", "./", "../")):
            fix = "give a path in one, or a run's number, or PROJECT/RUN"
            raise UserError(ExitCode.NOT_MOUNTED, f"{path} is in no mount of artifactfs", fix)
        return False
    below = os.path.join(inner.root, os.path.relpath(path, inner.point))
    parts = [part for part in os.path.normpath(below).split("/") if part not in ("", ".")]
    if parts[:1] == [control_dir.NAME.decode()]:
        raise UserError(ExitCode.USAGE, "this is the mount's own, and a download is of runs", "name a run", path)
    if len(parts) < (2 if parts[:1] == ["runs"] else 3):
        raise UserError(ExitCode.USAGE, _ABOVE_RUNS, "name a run in it", path)
    return True


async def walk_mount(top: str, found: Found) -> None:
    """Add the files at and below an absolute path in a mount to `found`. Raises UserError."""
    plan = await threads.run(warm.plan, [top], abandon_on_cancel=True)
    if top in plan.errors:
        raise plan.errors[top]
    if plan.links:
        # Nothing in a run is a link, so it is a choice of runs: by/status/failed, for example.
        raise UserError(ExitCode.USAGE, _ABOVE_RUNS, "name a run in it", top)
    inner = mount_table.innermost(top)
    # The time of the root is the time of the mount, which tells its inode numbers from those of others.
    is_whole = inner is not None and inner.root == "/"
    mounted_ns = (await ask_mount(os.stat, inner.point)).st_mtime_ns if inner is not None and is_whole else None

    def place(below: str) -> Place:
        return os.path.basename(top), *filter(None, below.removeprefix(top).split("/"))

    found.items += [_MountedFile(file, place(file), size or None, mounted_ns) for file, size in plan.files]
    found.directories += map(place, plan.directories)
    found.failures += plan.failures


class _MountedFile:
    def __init__(self, shown: str, place: Place, listed_bytes: int | None, mounted_ns: int | None) -> None:
        self.shown = shown
        self.place = place
        self.listed_bytes = listed_bytes
        self._mounted_ns = mounted_ns

    async def look(self) -> tuple[int | None, int]:
        status = await ask_mount(os.lstat, self.shown)
        # 0 may be a size that is not known.
        return status.st_size or None, status.st_mtime_ns

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Opened]:
        fd = await ask_mount(os.open, self.shown, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = await ask_mount(os.fstat, fd)
            # A version has an inode number of its own (docs/semantics.md 2.4), as long as the mount lives.
            known_by = f"{self._mounted_ns} {status.st_ino} {status.st_size}"
            version = hashlib.blake2b(known_by.encode()).digest() if self._mounted_ns is not None else None

            async def read(offset: int, count: int) -> bytes:
                return await ask_mount(os.pread, fd, count, offset)

            yield Opened(status.st_size, version, lambda: status.st_mtime_ns, read)
        finally:
            os.close(fd)


async def ask_mount(call: Callable[[*Ts], T], *args: *Ts) -> T:
    """Make a system call on a mount, in a thread: it may wait for the service. Raises Superseded, ServiceError."""
    try:
        return await threads.run(call, *args, abandon_on_cancel=True)
    except OSError as error:
        fact = error.strerror or str(error)
        if error.errno == errno.EBUSY:
            fact += " (the rate limit is used up)"
        if error.errno == errno.ESTALE:
            raise errors.Superseded(fact) from None
        raise (errors.PassingError if error.errno in _PASSING else errors.ServiceError)(fact) from None
