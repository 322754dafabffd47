"""What is pinned, file by file: how much of it the cache has, and the fetch of the rest, without FUSE.

The tree says which files there are, and their versions; the contents are read like by any program, so that the disk
cache keeps them. Hard: bytes that memory has are served from there, although the disk may have evicted them. And a file
that grew is under the key that it had before, which no other mount knows.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

import msgspec
import trio

from artifactfs import errors
from artifactfs.content.open_files import OpenFileTable
from artifactfs.control.pin_schema import Kept
from artifactfs.domain import is_finished
from artifactfs.tree import listing
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Node, mount_path
from artifactfs.tree.tree import Tree

# What one read asks for; the reader fetches ahead by itself.
_READ_BYTES = 1 << 20
# How much of a file is fetched until the service is looked at again. Arbitrary.
_PACED_BYTES = 8 << 20
# Versions that follow each other while one file is fetched. Arbitrary.
_VERSIONS = 3

Place = ArtifactDir | ArtifactFile
Pace = Callable[[], Awaitable[None]]


async def _at_once() -> None:
    """Nothing is waited for."""


class PinnedFiles:
    """The files of one mount, as pins look at them. Every method raises TreeError, ServiceError."""

    def __init__(self, tree: Tree, files: OpenFileTable, wall_clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._tree = tree
        self._files = files
        self._wall_clock_ns = wall_clock_ns

    async def find(self, run_id: int, path: str) -> Place:
        """Return what is at a path of a run; "" is the run. Raises NoSuchEntry."""
        at: Node = (await self._tree.lookup(self._tree.runs, b"%d" % run_id)).node
        for name in filter(None, path.split("/")):
            at = (await self._tree.lookup(at, name.encode())).node
        return cast("Place", at)

    def is_settled(self, run_id: int) -> bool:
        """Whether a run has been over for long (docs/semantics.md 3.1), by what is cached of it."""
        run = self._tree.known_run(run_id)
        return run is not None and listing.settled(run, self._wall_clock_ns())

    def is_about_to_settle(self, run_id: int) -> bool:
        """Whether a run is over, but not for long."""
        run = self._tree.known_run(run_id)
        return run is not None and is_finished(run) and not self.is_settled(run_id)

    async def walk(self, place: Place, pace: Pace = _at_once) -> AsyncGenerator[ArtifactFile, None]:
        """Yield the files at and below a place. `pace` is awaited before each listing."""
        pending: list[Node] = [place]
        while pending:
            at = pending.pop()
            if isinstance(at, ArtifactFile):
                yield at
            elif isinstance(at, ArtifactDir):
                await pace()
                contents = await self._tree.contents(at)
                pending += [contents.node_of(entry) for entry in reversed(contents.entries)]

    async def look(self, place: Place, limit_s: float, *, fetch: bool = False) -> Kept:
        """Return how much of a place is on disk, as far as that is found out within a time.

        `fetch`: what the disk lacks is fetched first, and written.
        """
        found, at = Kept(is_listed=False), mount_path(place)
        with trio.move_on_after(limit_s):
            try:
                async with aclosing(self.walk(place)) as files:
                    async for file in files:
                        at = mount_path(file)
                        if fetch:
                            await self.complete(file, changed=False)
                            # What waits to be written is not kept yet: the disk may be full.
                            await self._files.flush(await self._tree.locate_content(file))
                        found = await self._with(found, file)
                found = msgspec.structs.replace(found, is_listed=True)
            except (errors.TreeError, errors.ServiceError) as error:
                failed = {"failure": f"/{at}: {error}", "what_to_do": errors.what_to_do(error)}
                found = msgspec.structs.replace(found, **failed)
        return found

    async def _with(self, found: Kept, file: ArtifactFile) -> Kept:
        size, kept = file.entry.size_bytes, await self._kept_bytes(file)
        return msgspec.structs.replace(
            found,
            size_bytes=found.size_bytes + (size or 0),
            files=found.files + 1,
            kept_bytes=found.kept_bytes + (kept if size is None else min(kept, size)),
            kept_files=found.kept_files + (size is not None and kept >= size),
            unsized=found.unsized + (size is None),
        )

    async def _kept_bytes(self, file: ArtifactFile) -> int:
        return await self._files.kept_bytes(await self._tree.locate_content(file)) if file.entry.size_bytes != 0 else 0

    async def complete(self, file: ArtifactFile, *, changed: bool, pace: Pace = _at_once) -> set[bytes]:
        """Fetch what the disk lacks of a file; returns the keys that it may have in the caches.

        `changed`: its run has another row, so what is on disk is compared with it, too. `pace` is awaited now and then.
        Raises Superseded where it changes all the time.
        """
        attempts = 1
        while True:
            try:
                return await self._complete(file, changed, pace)
            except (errors.Superseded, errors.ShortBody) as error:
                # A new listing shows the other version, or the length of the contents counts (docs/semantics.md 4.1).
                self._tree.record_size_conflict(file, error.size_bytes)
                if attempts == _VERSIONS:
                    raise
            attempts += 1
            node = (await self._tree.lookup(file.directory, file.entry.name)).node
            if not isinstance(node, ArtifactFile):
                raise errors.IsADirectory("it is a directory by now")
            file = node

    async def _complete(self, file: ArtifactFile, changed: bool, pace: Pace) -> set[bytes]:
        version, size = await self._tree.locate_content(file), file.entry.size_bytes
        is_kept = size is not None and await self._kept_bytes(file) >= size
        # While a run goes on, another version of a file has another key.
        if is_kept and not (changed and version.settled):
            return self._files.keys(version)
        if version.settled and not is_kept:
            await self._files.forget_growth(version)
        handle = await self._files.open(version)
        try:
            if not is_kept:
                await handle.save_cached()
            offset = 0
            while handle.size is not None and offset < handle.size:
                if offset % _PACED_BYTES == 0:
                    await pace()
                if not (piece := await handle.read(offset, _READ_BYTES)):
                    break
                offset += len(piece)
            if size is None and handle.size is not None:
                self._tree.record_size(file, handle.size)
            return self._files.keys(version)
        finally:
            handle.close()
