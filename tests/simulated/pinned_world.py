"""A service, a disk, and mounts without a kernel, for the tests of what is pinned; on a virtual clock."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from artifactfs.content import cache_dir
from artifactfs.content.block_store import BlockStore
from artifactfs.content.context import ContentContext
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.memory_cache import BlockPool, ReadaheadBudget
from artifactfs.content.open_files import OpenFileTable
from artifactfs.control.pinned_files import PinnedFiles
from artifactfs.emulator.app import create_app
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.faults import Script
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Lab
from artifactfs.emulator.switches import Switches
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.transport import Transport
from artifactfs.mount.pinned_runs import PinnedRuns
from artifactfs.pins import Pin, PinFile
from artifactfs.tree.nodes import ArtifactFile
from artifactfs.tree.tree import Tree
from artifactfs.util.backoff import backoff_s
from tests.content_harness import inline
from tests.simulated.test_client_forms import KEYS

RUN = 7
OTHER = 8
PROJECT = 10
MIB = 1 << 20
SITE = "https://api.example.org"
OWNER = f"{SITE}\0=me"
DEADLINE_S = 30.0
# 2026-06-01, some days after the run of the emulator's ended.
NOW_S = 1_780_272_000.0
SIZES = {"a.txt": 10, "empty": 0, "d/big.bin": 3 * MIB, "d/e/c.bin": MIB + 1}
# Longer than a listing is fresh, and than the pause between two passes.
LATER_S = 4000.0


class Mount:
    """A mount without a kernel."""

    def __init__(self, tree: Tree, files: OpenFileTable, pinned: PinnedFiles, runs: PinnedRuns) -> None:
        self.tree = tree
        self.files = files
        self.pinned = pinned
        self.runs = runs

    async def look(self, run_id: int = RUN) -> None:
        """List a run's root, after a refresh of the run."""
        place = await self.pinned.find(run_id, "")
        self.tree.refresh(place)
        await self.tree.contents(await self.pinned.find(run_id, ""))

    async def read_all(self, run_id: int = RUN) -> dict[str, bytes]:
        """Return the contents of all files, by any reader's way."""
        found: dict[str, bytes] = {}
        async for file in self.pinned.walk(await self.pinned.find(run_id, "")):
            found[file.path] = await self._read(file)
        return found

    async def _read(self, file: ArtifactFile) -> bytes:
        handle = await self.files.open(await self.tree.locate_content(file))
        try:
            data = b""
            while piece := await handle.read(len(data), 1 << 20):
                data += bytes(piece)
            return data
        finally:
            handle.close()


class World:
    """A service with two runs, and the disk of a user. `has_room`: whether the service has, for more requests."""

    def __init__(self, directory: Path, status: str = "completed", **switches: Any) -> None:
        self.directory = directory
        self.lab = Lab(clock=self.now_s)
        self.trees = {run_id: MemoryTree(f"test {run_id}", clock=self.now_s) for run_id in (RUN, OTHER)}
        for run_id, tree in self.trees.items():
            for path, size in SIZES.items():
                tree.add(path, size)
            self.lab.create(run_id, PROJECT, tree, status=status)
        app = create_app(self.lab, Switches().changed(switches))
        self.emulator: Emulator = app.state.emulator
        self._wire = httpx.ASGITransport(app=app)
        self.has_room: Callable[[], bool] = lambda: True
        cache_dir.claim(str(directory))
        self.pins = PinFile(str(directory))

    @property
    def files(self) -> MemoryTree:
        return self.trees[RUN]

    def now_s(self) -> float:
        return NOW_S + trio.current_time()

    def pin(self, path: str = "", *, owner: str = OWNER, is_settled: bool = True) -> None:
        site, account = owner.split("\0")
        self.pins.add(Pin(site, account, RUN, path, NOW_S, is_settled=is_settled))

    def change_run(self, **attributes: object) -> None:
        run = self.lab.run(RUN)
        assert run is not None
        run.attributes.update(attributes)

    def fault(self, *rules: dict[str, object]) -> None:
        self.emulator.script = Script.parse(list(rules))

    @asynccontextmanager
    async def mount(self) -> AsyncIterator[Mount]:
        senders = [Transport("http://127.0.0.1", KEYS, clock=trio.current_time, transport=self._wire) for _ in range(2)]
        store = BlockStore(str(self.directory), max_bytes=1 << 30, min_free_bytes=0, pins=PinFile)
        assert store.claim()

        def wall_clock_ns() -> int:
            return int(self.now_s() * 1e9)

        async with trio.open_nursery() as nursery:
            tree = Tree(
                ModelLab(senders[0], deadline_s=DEADLINE_S),
                site=SITE,
                nursery=nursery,
                clock=trio.current_time,
                wall_clock_ns=wall_clock_ns,
                prefetch="auto",
            )
            disk = DiskCache(store, nursery, run_in_thread=inline)
            content = ContentContext(
                service=ContentEndpoint(senders[1], deadline_s=DEADLINE_S),
                disk_cache=disk,
                pool=BlockPool(48 * MIB),
                budget=ReadaheadBudget(40 * MIB),
                nursery=nursery,
                wall_clock=self.now_s,
                deadline_s=DEADLINE_S,
                listing_ttl_s=60.0,
                backoff_s=backoff_s,
            )
            files = OpenFileTable(content, owner=OWNER)
            runs = PinnedRuns(PinFile(str(self.directory)), tree, files, lambda: self.has_room(), inline, wall_clock_ns)
            nursery.start_soon(runs.run)
            yield Mount(tree, files, PinnedFiles(tree, files, wall_clock_ns), runs)
            await disk.flush()
            nursery.cancel_scope.cancel()
        self.emulator.stats.reset()

    async def keep(self) -> None:
        """Fetch all of the run, as `artifactfs pin` does at its end."""
        async with self.mount() as mounted:
            kept = await mounted.pinned.look(await mounted.pinned.find(RUN, ""), 20.0, fetch=True)
            assert (kept.kept_files, kept.kept_bytes, kept.is_listed) == (4, sum(map(len, self.truth().values())), True)

    def truth(self, run_id: int = RUN) -> dict[str, bytes]:
        tree = self.trees[run_id]
        return {path: b"".join(map(bytes, tree.read(path, file, 0, file.size))) for path, file in tree.walk("") if file}

    def requests(self, kind: str) -> int:
        told: Any = self.emulator.stats.told()
        return int(told["requests"].get(kind, 0))

    @property
    def content_bytes(self) -> int:
        told: Any = self.emulator.stats.told()
        return int(told["content_bytes"])

    async def check_is_here(self) -> None:
        """See that a new mount reads all of the run without a content request."""
        async with self.mount() as mounted:
            self.has_room = lambda: False
            assert await mounted.read_all() == self.truth()
            assert self.requests("content") == 0
            self.has_room = lambda: True
