"""`artifactfs download`, simulated: the tree, the contents and the emulator in one process, on a virtual clock."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from artifactfs.content.context import ContentContext
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.memory_cache import BlockPool, ReadaheadBudget
from artifactfs.content.open_files import OpenFileTable
from artifactfs.download.sources import Service
from artifactfs.download.target import Target
from artifactfs.download.transfers import Outcome, Transfers, find
from artifactfs.emulator.app import create_app
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.faults import Script
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Lab
from artifactfs.emulator.switches import Switches
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.transport import Transport
from artifactfs.tree.tree import Tree
from artifactfs.util.backoff import backoff_s
from tests.content_harness import inline
from tests.simulated.test_client_forms import KEYS

pytestmark = pytest.mark.usefixtures("autojump_clock")

RUN = 7
PROJECT = 10
DEADLINE_S = 30.0
MIB = 1 << 20
BIG = 9 * MIB
SIZES = {"a.txt": 10, "empty": 0, "d/big.bin": 3 * MIB, "d/e/ü\n.json": 700, "d/e/" + "n" * 255: 1, "d/e/.b": 5}


class World:
    """A service with a run, and a directory to download to. Each `download` is another process: it knows nothing."""

    def __init__(self, directory: Path, sizes: dict[str, int], status: str = "completed", **switches: Any) -> None:
        self.directory = directory
        self.files = MemoryTree("test")
        for path, size in sizes.items():
            self.files.add(path, size)
        self.lab = Lab()
        self.lab.create(RUN, PROJECT, self.files, name="r", status=status)
        app = create_app(self.lab, Switches().changed(switches))
        self.emulator: Emulator = app.state.emulator
        self._wire = httpx.ASGITransport(app=app)
        self.counted = 0
        self.on_advance: Callable[[], None] = lambda: None

    def fault(self, *rules: dict[str, object]) -> None:
        self.emulator.script = Script.parse(list(rules))

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Service]:
        senders = [Transport("http://127.0.0.1", KEYS, clock=trio.current_time, transport=self._wire) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            tree = Tree(
                ModelLab(senders[0], deadline_s=DEADLINE_S),
                site="test",
                nursery=nursery,
                clock=trio.current_time,
                prefetch="auto",
            )
            content = ContentContext(
                service=ContentEndpoint(senders[1], deadline_s=DEADLINE_S),
                disk_cache=DiskCache(None, nursery),
                pool=BlockPool(48 * MIB),
                budget=ReadaheadBudget(40 * MIB),
                nursery=nursery,
                wall_clock=trio.current_time,
                deadline_s=DEADLINE_S,
                listing_ttl_s=60.0,
                backoff_s=backoff_s,
            )
            yield Service(tree, OpenFileTable(content, owner="test"), content, "test")
            nursery.cancel_scope.cancel()

    async def download(self, *paths: str, jobs: int = 4) -> Outcome:
        self.counted = 0

        def advance(count: int) -> None:
            self.counted += count
            self.on_advance()

        self.emulator.stats.reset()
        async with self.service() as service:
            found = await find(paths or (str(RUN),), service)
            return await Transfers(Target(str(self.directory)), advance, inline).run(found, jobs)

    async def interrupted(self, after_bytes: int) -> None:
        """Begin a download, and end it as soon as so many bytes are there."""
        with trio.CancelScope() as scope:
            self.on_advance = lambda: scope.cancel() if self.counted >= after_bytes else None
            await self.download()
        self.on_advance = lambda: None
        assert scope.cancelled_caught

    def truth(self, path: str) -> bytes:
        file = self.files.find(path)
        assert file is not None
        return b"".join(self.files.read(path, file, 0, file.size))

    def check(self, top: str = str(RUN)) -> None:
        """See that the copy is the run: its files and directories, and nothing else, byte for byte."""
        copy = self.directory / top
        found = {str(place.relative_to(copy)): place for place in copy.rglob("*")}
        walked = dict(self.files.walk(""))
        assert set(found) == set(walked)
        for path, file in walked.items():
            assert found[path].is_dir() if file is None else found[path].read_bytes() == self.truth(path), path

    @property
    def requests(self) -> int:
        told: Any = self.emulator.stats.told()
        return int(told["requests"].get("content", 0))

    @property
    def content_bytes(self) -> int:
        told: Any = self.emulator.stats.told()
        return int(told["content_bytes"])

    def times(self) -> set[int]:
        """Return the times of all files of the copy, in seconds."""
        return {int(place.stat().st_mtime) for place in self.directory.rglob("*") if place.is_file()}

    def unfinished(self) -> list[Path]:
        return sorted(self.directory.rglob("*.part"))


@pytest.mark.parametrize("prefetch", ["full", "404"])
async def test_a_run_comes_whole_and_once(prefetch: str, tmp_path: Path) -> None:
    """Files of any size and name, empty directories, times; a second call asks for no content, and counts all."""
    world = World(tmp_path, SIZES, index=prefetch)
    world.files.mkdir("nothing/here")
    done = await world.download()
    assert (done.files, done.received_bytes, done.present, done.failures) == (len(SIZES), sum(SIZES.values()), 0, [])
    world.check()
    assert world.counted == sum(SIZES.values())
    # By the index their own time, else the run's: 2026-05-16T09:00:00Z and 09:10:00Z of what the emulator makes.
    own = 1778922000 if prefetch == "full" else 1778922600
    assert world.times() == {own}
    again = await world.download()
    assert (again.files, again.present, again.failures, world.requests) == (0, len(SIZES), [], 0)
    assert world.counted == sum(SIZES.values())


async def test_an_interrupted_file_is_resumed(tmp_path: Path) -> None:
    """What came before an interruption is not fetched again, except for its two ends, which show the version."""
    world = World(tmp_path, {"big.bin": BIG})
    await world.interrupted(6 * MIB)
    (part,) = world.unfinished()
    begun = part.stat().st_size
    assert 6 * MIB <= begun < BIG
    assert not (tmp_path / str(RUN) / "big.bin").exists()
    done = await world.download()
    assert (done.files, done.received_bytes, world.counted) == (1, BIG - begun, BIG)
    # The head, and the block that has the end of what was there.
    assert world.content_bytes == BIG - begun + (128 << 10) + (512 << 10)
    world.check()


@pytest.mark.parametrize(
    ("switches", "status"),
    [({"etag": "strong"}, "running"), ({"etag": "strong"}, "completed"), ({"created_at": "moves"}, "running"),
     ({}, "running"), ({"last_modified": True}, "completed"), ({"etag": "changing"}, "running")],
    ids=str,
)  # fmt: skip
async def test_versions_never_mix(switches: dict[str, str], status: str, tmp_path: Path) -> None:
    """A file that was replaced by one of the same size, between two calls or in the middle of one, is the new one."""
    world = World(tmp_path, {"big.bin": BIG}, status, **switches)
    await world.interrupted(3 * MIB)
    world.files.change("big.bin")
    new = world.truth("big.bin")
    done = await world.download()
    assert (done.files, done.failures) == (1, [])
    assert (tmp_path / str(RUN) / "big.bin").read_bytes() == new
    world.check()


async def test_a_file_that_changes_all_the_time(tmp_path: Path) -> None:
    """It is given up with a line, and the other files come."""
    world = World(tmp_path, {"big.bin": BIG, "a.txt": 10}, "running", etag="strong")

    versions = itertools.count(BIG + 1)
    world.on_advance = lambda: world.files.change("big.bin", next(versions))
    done = await world.download(jobs=1)
    assert done.files == 1
    assert len(done.failures) == 1
    assert done.failures[0].startswith("/runs/7/big.bin: ")
    world.on_advance = lambda: None
    assert (await world.download()).failures == []
    world.check()
