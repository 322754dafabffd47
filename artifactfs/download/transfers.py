"""The transfers of a download: several files at once, each until it is whole, or cannot be had."""

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from artifactfs import errors
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.open_files import OpenFileTable
from artifactfs.download import source_files
from artifactfs.download.source_files import Found, Item, Opened, Place, Service, patiently
from artifactfs.download.target import Obstacle, Target, Unfinished
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab import liveness
from artifactfs.mount import components, preflight
from artifactfs.settings import Settings
from artifactfs.util import foreground, threads
from artifactfs.util.clock import boottime

# One read of a source, and one write. Arbitrary.
_PIECE_BYTES = 1 << 20
# What is compared at each end of what was written. The first bytes have come already, with the head (reader.py).
_PROOF_BYTES = 64 << 10
# A file that changes more often than that while it is downloaded is given up. Arbitrary.
_VERSIONS = 3
# How long the first transfer waits for the index, without which files show other times (docs/semantics.md 2.3).
_INDEX_WAIT_S = 10.0

# Shows the progress of so many files, with so many bytes in all; yields the function that adds bytes.
Progress = Callable[[int, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class Outcome:
    """What a download came to: files and bytes that came, files that were there, and sentences about failures."""

    files: int = 0
    received_bytes: int = 0
    present: int = 0
    failures: list[str] = field(default_factory=list)


def run(paths: Sequence[str], directory: str, settings: Settings | None, jobs: int, progress: Progress) -> Outcome:
    """Download to a directory, `jobs` files at once. Raises UserError.

    `settings`: None where all paths are in mounts.
    """
    return foreground.run(_run, paths, directory, settings, jobs, progress)


async def _run(
    paths: Sequence[str], directory: str, settings: Settings | None, jobs: int, progress: Progress
) -> Outcome:
    async with AsyncExitStack() as stack:
        target = Target(directory)
        stack.callback(target.forget)
        service = await stack.enter_async_context(_service(settings)) if settings is not None else None
        found = await find(paths, service)
        total_bytes = sum(item.listed_bytes or 0 for item in found.items)
        with progress(len(found.items), total_bytes) as advance:
            return await Transfers(target, advance).run(found, jobs)


@asynccontextmanager
async def _service(settings: Settings) -> AsyncIterator[Service]:
    """Yield the tree and the contents of a mount of these settings, without the disk cache. Raises UserError."""
    async with preflight.reached(settings) as (lab, transports), trio.open_nursery() as root:
        liveness.start(transports.breaker, transports.probes, root, clock=boottime, limit_s=settings.deadline)
        tree = components.tree(settings, lab, None, root)
        buffers = components.block_buffers()
        content = components.content_context(settings, transports.contents, DiskCache(None, root), root, buffers.take)
        yield Service(tree, OpenFileTable(content, owner=settings.api_url), content, settings.api_url)
        root.cancel_scope.cancel()


async def find(paths: Sequence[str], service: Service | None) -> Found:
    """List the files of all paths. `service`: for those that are in no mount. Raises UserError."""
    found, names = Found(), dict[str, str]()
    for path in dict.fromkeys(path.rstrip("/") for path in paths):
        is_mounted = service is None or source_files.is_in_a_mount(path)
        top = os.path.abspath(path) if is_mounted else path  # noqa: ASYNC240 - of its text alone
        name = os.path.basename(top)
        if (other := names.setdefault(name, path)) != path:
            fact = f"{other} and {path} would both be {name}"
            raise UserError(ExitCode.USAGE, fact, "download them into directories of their own")
        try:
            if service is None or is_mounted:
                await source_files.walk_mount(top, found)
            else:
                await service.walk(await service.find(path), name, found)
        except UserError as error:
            if error.code is not ExitCode.INCOMPLETE:
                raise
            found.failures.append(str(error))
        except (errors.TreeError, errors.ServiceError) as error:
            found.failures.append(f"{path}: {error}; {errors.what_to_do(error)}")
    if service is not None:
        with trio.move_on_after(_INDEX_WAIT_S):
            await service.tree.wait_for_indexes()
    return found


class Transfers:
    """The transfers to one directory. `advance` is called with numbers of bytes: negative where some came in vain."""

    def __init__(
        self, target: Target, advance: Callable[[int], None], run_in_thread: threads.RunInThread = threads.run
    ) -> None:
        self._run_in_thread = run_in_thread
        self._target = target
        self._advance = advance
        self._outcome = Outcome()
        # What ended all transfers.
        self._end: UserError | None = None

    async def run(self, found: Found, jobs: int) -> Outcome:
        """Make the directories, and transfer the files, `jobs` at once. Raises UserError where the disk is full."""
        self._outcome.failures += found.failures
        for place in found.directories:
            try:
                with self._target.directory(place):
                    await trio.lowlevel.checkpoint()
            except Obstacle as error:
                self._outcome.failures.append(str(error))
        queue = iter(found.items)
        async with trio.open_nursery() as nursery:
            for _ in range(jobs):
                nursery.start_soon(self._work, queue, nursery.cancel_scope)
        if self._end is not None:
            raise self._end
        return self._outcome

    async def _work(self, queue: Iterator[Item], all_transfers: trio.CancelScope) -> None:
        for item in queue:
            try:
                await self._transfer(item)
            except UserError as error:
                self._end = error
                all_transfers.cancel()
            except Obstacle as error:
                self._outcome.failures.append(str(error))
            except (errors.TreeError, errors.ServiceError, errors.NoThread) as error:
                self._outcome.failures.append(f"{item.shown}: {error}; {errors.what_to_do(error)}")

    async def _transfer(self, item: Item) -> None:
        counted = _Counted(self._advance)
        for versions in itertools.count(1):
            try:
                await patiently(partial(self._attempt, item, counted), lambda: counted.size_bytes)
            except errors.Superseded:
                if versions == _VERSIONS:
                    raise
            else:
                break

    async def _attempt(self, item: Item, counted: "_Counted") -> None:
        size_bytes, mtime_ns = await item.look()
        with self._target.directory(item.place[:-1]) as directory:
            has = partial(self._target.has, directory, item.place)
            if not has(size_bytes, mtime_ns):
                async with item.open() as opened:
                    size_bytes = opened.size_bytes
                    if not has(size_bytes, opened.mtime_ns()):
                        await self._receive(directory, item.place, opened, counted)
                        return
            counted.become(size_bytes or 0)
            self._outcome.present += 1

    async def _receive(self, directory: int, place: Place, opened: Opened, counted: "_Counted") -> None:
        size_bytes = opened.size_bytes
        with self._target.unfinished(directory, place, opened.version) as part:
            if not await _continues(opened, part):
                part.cut()
            counted.become(part.size_bytes)
            while size_bytes is None or part.size_bytes < size_bytes:
                left = _PIECE_BYTES if size_bytes is None else size_bytes - part.size_bytes
                piece = await opened.read(part.size_bytes, min(left, _PIECE_BYTES))
                if not piece:
                    break
                await self._run_in_thread(part.write, piece)
                counted.become(part.size_bytes)
                self._outcome.received_bytes += len(piece)
            if size_bytes not in (None, part.size_bytes):
                raise errors.ShortBody(f"it ended after {part.size_bytes} of {size_bytes} bytes", part.size_bytes)
            part.finish(opened.mtime_ns())
        self._outcome.files += 1


async def _continues(opened: Opened, part: Unfinished) -> bool:
    """Whether a file begins with what was written of it, by the first bytes of that and the last ones.

    Not every service lets each change be seen (docs/semantics.md 4.1), and a crash may lose what was written last.
    """
    for start in {0, max(0, part.size_bytes - _PROOF_BYTES)}:
        count = min(_PROOF_BYTES, part.size_bytes - start)
        if await opened.read(start, count) != part.read(start, count):
            return False
    return True


class _Counted:
    """The bytes of one file that the progress shows."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self.size_bytes = 0

    def become(self, size_bytes: int) -> None:
        self._advance(size_bytes - self.size_bytes)
        self.size_bytes = size_bytes
