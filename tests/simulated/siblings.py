"""A mount in small for the tests of fetching ahead: the handlers, a tree and contents, without a network."""

import itertools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyfuse3
import trio

from artifactfs import errors
from artifactfs.domain import ArtifactRef, ContentBody, Run
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.operations import Operations
from artifactfs.fuse.sibling_readahead import SiblingReadahead, SiblingTuning
from artifactfs.tree.tree import Tree
from tests.content_harness import BLOCK, GLANCE, TUNING, Bench, Server, bench, noise
from tests.fakes import FakeService, finished_run
from tests.walking import mounted

CONTEXT: Any = SimpleNamespace(pid=0)
PREFIX = "prefix/artifacts/"
LATENCY_S = 0.02
# Within the time that a program takes between two files.
SOON_S = 0.001
MAX_FETCHES = 6


@dataclass
class Shelf(Server):
    """Contents by path in the run. `refusals`: what a request for a path raises, once each; `asked_for`: the paths."""

    data: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, list[Exception]] = field(default_factory=dict)
    latency_s: float = LATENCY_S
    asked_for: list[str] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0

    @asynccontextmanager
    async def get(
        self, artifact: ArtifactRef, start: int, end: int | None, *, size: int | None
    ) -> AsyncIterator[ContentBody]:
        path = artifact.path.removeprefix(PREFIX)
        self.asked_for.append(path)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await trio.sleep(self.latency_s)
            if self.refusals.get(path):
                raise self.refusals[path].pop(0)
            if (data := self.files.get(path)) is None:
                raise errors.NotFound("not there", 404)
            total = len(data)
            self.ranges = self.granted
            if self.granted:
                end = min(total, end or total)
                yield ContentBody(start, end, total, False, None, _chunks(data[start:end]))
            else:
                yield ContentBody(0, total, total, True, None, _chunks(data))
        finally:
            self.in_flight -= 1


async def _chunks(data: bytes) -> AsyncGenerator[bytes, None]:
    await trio.lowlevel.checkpoint()
    yield data


@dataclass
class World:
    """The mount, and what it was asked."""

    operations: Operations
    tree: Tree
    service: FakeService
    shelf: Shelf
    contents: Bench
    read_paths: list[str] = field(default_factory=list)

    async def look(self, path: str, run_id: int = 1) -> pyfuse3.EntryAttributes:
        """Look a path up, name by name, as the kernel does."""
        found = await self.operations.getattr(pyfuse3.ROOT_INODE, CONTEXT)
        for name in ("runs", str(run_id), *path.split("/")):
            found = await self.operations.lookup(found.st_ino, name.encode(), CONTEXT)
        return found

    async def read(self, path: str, run_id: int = 1, size: int = 4 * BLOCK) -> bytes:
        """Open a file, read so many bytes from its start, and close it, as `head -c` does."""
        handle = (await self.operations.open((await self.look(path, run_id)).st_ino, 0, CONTEXT)).fh
        try:
            found = bytes(await self.operations.read(handle, 0, size))
        finally:
            await self.operations.release(handle)
        self.read_paths.append(path)
        return found

    async def read_all(self, paths: Iterable[str], pause_s: float = SOON_S) -> None:
        """Read files one after the other, and see that each is right."""
        for path in paths:
            assert await self.read(path) == self.shelf.files[path]
            await trio.sleep(pause_s)

    async def rest(self) -> None:
        """Wait until all requests have ended, and nothing more is expected to be read."""
        await trio.sleep(30.0)

    @property
    def fetched_ahead(self) -> int:
        """The number of files that came before they were read."""
        return self.contents.shop.stats.files_ahead

    @property
    def in_vain(self) -> set[str]:
        """The files that were fetched and not read."""
        return set(self.shelf.asked_for) - set(self.read_paths)

    @property
    def asked_twice(self) -> list[str]:
        """The files that were asked for more than once."""
        return [path for path, count in Counter(self.shelf.asked_for).items() if count > 1]


def sized(paths: Iterable[str], size: int = 100) -> dict[str, int | None]:
    """Return files of that size, and a few bytes more each."""
    return {path: size + place % 50 for place, path in enumerate(paths)}


@asynccontextmanager
async def world(
    files: dict[str, int | None], *, run: Run | None = None, prefetch: str = "tree", room: bool = True, **shelf: Any
) -> AsyncIterator[World]:
    """Yield a mount of run 1 with these files, in that order (sizes in bytes); at its end nothing may be left."""
    service = FakeService(runs={1: run or finished_run(1)}, room=room)
    service.add_tree(1, files)
    numbers = itertools.count(1)
    data = {path: noise(size or 0, seed=next(numbers)) for path, size in files.items()}
    made = Shelf(files=data, room=room, **shelf)
    async with trio.open_nursery() as nursery, bench(made, pool=256 * BLOCK, tuning=TUNING) as contents:
        tree = mounted(service, nursery, prefetch)
        operations = Operations(tree, contents.files, Ownership(0, 0), deadline_s=30.0, on_ready=lambda: None)
        operations.siblings = SiblingReadahead(
            tree, contents.files, SiblingTuning(MAX_FETCHES, small_bytes=GLANCE, whole_bytes=BLOCK)
        )
        yield World(operations, tree, service, made, contents)
        await trio.sleep(30.0)
        nursery.cancel_scope.cancel()
