"""How long the way of a lookup and of a read is: classes, rooms and calls (docs/dev/architecture.md).

A cold lookup goes through the real client and transport, over httpx's network in memory. Counted are calls of functions
of the package, each once however often it is resumed. A room is a folder of the package; util/ and the modules at the
top lie below all rooms, and a call of them is no change of room.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import httpx
import pyfuse3
import pytest
import trio
from trio.testing import MockClock

import artifactfs
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.operations import Operations
from artifactfs.tree.tree import Tree
from tests import content_harness
from tests.unit.test_client import connect, listing, row

PACKAGE = str(Path(artifactfs.__file__).parent) + "/"
CONTEXT: Any = SimpleNamespace(pid=0)
DATA = content_harness.noise(5000)


class Way:
    """The calls of the package's functions: in order, by class, and from room to room."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.classes: set[str] = set()
        self.rooms: list[str] = []
        # Kept, so that no other frame gets the same identity.
        self._frames: dict[int, FrameType] = {}

    def profile(self, frame: FrameType, event: str, _arg: object) -> None:
        """Take note of a call (sys.setprofile); a coroutine that is resumed is called again, and counts once."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE) or code.co_name.startswith("<"):
            return
        if id(frame) in self._frames:
            return
        self._frames[id(frame)] = frame
        self.calls.append(code.co_qualname)
        owner = code.co_qualname.rpartition(".")[0]
        if owner and not owner.endswith("<locals>"):
            self.classes.add(owner)
        room = _room(code)
        if room is not None and self.rooms[-1:] != [room]:
            self.rooms.append(room)

    @property
    def room_changes(self) -> int:
        return len(self.rooms) - 1


def _room(code: CodeType) -> str | None:
    folder, slash, _ = code.co_filename.removeprefix(PACKAGE).partition("/")
    return folder if slash and folder != "util" else None


@contextmanager
def watched() -> Iterator[Way]:
    way = Way()
    sys.setprofile(way.profile)
    try:
        yield way
    finally:
        sys.setprofile(None)


def answer(request: httpx.Request) -> httpx.Response:
    path = request.url.params.get("path", "").strip("/")
    if request.url.path.endswith("/runs/1001"):
        return httpx.Response(200, json={"data": row(1001, project_id="7")})
    base = f"{path}/" if path else ""
    files = {"path": f"{base}f.bin", "is_dir": False, "file_size": len(DATA)}
    return listing({"path": f"{base}sub/", "is_dir": True}, files)


@asynccontextmanager
async def mounted(prefetch: str = "auto") -> AsyncIterator[tuple[Operations, pyfuse3.InodeT]]:
    """Yield the handlers of a mount, and the inode of a directory that has been looked up and never listed."""
    service, _ = connect(answer)
    async with trio.open_nursery() as nursery, content_harness.bench(content_harness.Server(DATA)) as bench:
        tree = Tree(service, site="site", nursery=nursery, clock=trio.current_time, prefetch=prefetch)
        handlers = Operations(tree, bench.files, Ownership(1000, 1000), deadline_s=30.0, on_ready=lambda: None)
        inode = pyfuse3.ROOT_INODE
        for name in (b"runs", b"1001", b"sub"):
            inode = (await handlers.lookup(inode, name, CONTEXT)).st_ino
        yield handlers, inode
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("prefetch", "classes"), [("off", 13), ("auto", 14)])
async def test_a_cold_lookup(prefetch: str, classes: int, autojump_clock: MockClock) -> None:
    """A lookup in a directory that is not cached: without the project's index, and with it."""
    async with mounted(prefetch) as (handlers, directory):
        with watched() as way:
            await handlers.lookup(directory, b"sub", CONTEXT)
    assert way.room_changes <= 8, way.rooms
    assert len(way.classes) <= classes, sorted(way.classes)


async def test_a_warm_lookup(autojump_clock: MockClock) -> None:
    """A lookup in a directory that is cached."""
    async with mounted() as (handlers, directory):
        await handlers.lookup(directory, b"sub", CONTEXT)
        with watched() as way:
            await handlers.lookup(directory, b"f.bin", CONTEXT)
    assert len(way.calls) <= 26, way.calls


async def test_a_warm_read(autojump_clock: MockClock) -> None:
    """A read of bytes that are in memory."""
    async with mounted() as (handlers, directory):
        inode = (await handlers.lookup(directory, b"f.bin", CONTEXT)).st_ino
        handle = (await handlers.open(inode, 0, CONTEXT)).fh
        assert bytes(await handlers.read(handle, 0, 100)) == DATA[:100]
        with watched() as way:
            assert bytes(await handlers.read(handle, 100, 100)) == DATA[100:200]
        await handlers.release(handle)
    assert len(way.calls) <= 17, way.calls
