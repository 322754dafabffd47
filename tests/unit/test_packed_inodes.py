"""artifactfs.fuse.readdir and inodes: packed entries are as the same entries made one by one (docs/semantics.md 2)."""

import random
from functools import partial
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from pyfuse3 import EntryAttributes, FUSEError
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.operations import Operations
from artifactfs.tree import listing, nodes
from artifactfs.tree.nodes import ArtifactDir
from tests.fakes import FakeService, finished_run
from tests.unit.test_operations import DEADLINE_S, Kernel, NoContents, told
from tests.walking import many, mounted

CONTEXT: Any = SimpleNamespace(pid=0)
FILES = {**many(30, 5), **{f"wide/f{i}": i for i in range(150)}, "deep/a/b/c/d/f": 1}
PLACES = ["g0", "g0/d0", "g1/d17", "g2/d29", "wide", "deep/a/b/c/d"]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(pyfuse3, "readdir_reply", kernel.reply)
    return kernel


def is_at(path: str, directory: ArtifactDir) -> bool:
    return directory.path == path


class Mounted:
    """The handlers of a mount, and what the kernel holds of them: the lookups of each inode that it was given."""

    def __init__(self, operations: Operations, kernel: Kernel) -> None:
        self.operations = operations
        self.kernel = kernel
        self.lookups: dict[int, int] = {}

    def took(self, attributes: EntryAttributes) -> int:
        number = int(attributes.st_ino)
        if number:
            self.lookups[number] = self.lookups.get(number, 0) + 1
        return number

    async def enter(self, path: str) -> int:
        number: int = pyfuse3.ROOT_INODE
        for name in ("runs", "1", *path.split("/")):
            number = self.took(await self.operations.lookup(number, name.encode(), CONTEXT))
        return number

    async def listed(self, path: str, room: int) -> list[tuple[bytes, dict[str, int]]]:
        """Return the names and attributes that a walk through a directory gives, so many at a time."""
        handle = await self.operations.opendir(await self.enter(path), CONTEXT)
        self.kernel.room = room
        await self.kernel.read(self.operations, handle)
        await self.operations.releasedir(handle)
        for name, _, attributes in self.kernel.entries:
            if name not in (b".", b".."):
                self.took(attributes)
        return [(name, told(attributes)) for name, _, attributes in self.kernel.entries if name != b".."]

    async def attributes(self, number: int) -> dict[str, int] | int:
        try:
            return told(await self.operations.getattr(number, CONTEXT))
        except FUSEError as error:
            return int(error.errno)

    async def forget(self, number: int, lookups: int) -> None:
        self.lookups[number] -= lookups
        if not self.lookups[number]:
            del self.lookups[number]
        await self.operations.forget([(number, lookups)])


async def new(service: FakeService, nursery: trio.Nursery, kernel: Kernel) -> Mounted:
    """Mount, and walk until the index is trusted."""
    files: Any = NoContents()
    tree = mounted(service, nursery)
    operations = Operations(tree, files, Ownership(1000, 100), deadline_s=DEADLINE_S, on_ready=lambda: None)
    found = Mounted(operations, kernel)
    for place in ("g0/d1", "g0/d2", "g1/d11", "g2/d22"):
        await found.listed(place, 1000)
    return found


@pytest.fixture
def service() -> FakeService:
    service = FakeService(runs={1: finished_run(1)}, choose=lambda among, how_many: sorted(among)[:how_many])
    service.add_tree(1, FILES)
    return service


@pytest.mark.parametrize("seed", range(30))
async def test_packed_or_not(
    seed: int,
    service: FakeService,
    kernel: Kernel,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """2.1 to 2.5: whatever the kernel asks, in whatever order, the answers and the counts are the same."""
    plain = await new(service, nursery, kernel)
    packed = await new(service, nursery, kernel)
    at_once = listing.build_at_once
    rng = random.Random(seed)
    numbers: list[int] = []
    for _ in range(60):
        step, place, room = rng.randrange(5), rng.choice(PLACES), rng.choice([1, 3, 24, 1000])
        number = rng.choice(numbers) if numbers else 1
        answers: list[object] = []
        for mount in (plain, packed):
            monkeypatch.setattr(listing, "build_at_once", at_once if mount is packed else lambda *_: None)
            if step == 0:
                answers.append(await mount.listed(place, room))
            elif step == 1:
                answers.append(await mount.enter(place))
            elif step == 2:
                answers.append(await mount.attributes(number))
            elif step == 3 and number in mount.lookups:
                count = random.Random(f"{seed} {number} {len(numbers)}").randint(1, mount.lookups[number])
                await mount.forget(number, count)
            elif step == 4:
                answers.append(mount.operations.inodes.files(partial(is_at, place)))
        assert answers[:1] == answers[1:]
        numbers = [*packed.lookups]
    assert plain.lookups == packed.lookups
    assert len(plain.operations.inodes) == len(packed.operations.inodes) == len(packed.lookups) + 1
    for mount in (plain, packed):
        for number, count in list(mount.lookups.items()):
            await mount.forget(number, count)
        assert len(mount.operations.inodes) == 1


async def test_an_inode_leaves_the_packed_ones_when_it_is_needed(
    service: FakeService, kernel: Kernel, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """2.5: a walk makes neither entries nor inodes; `getattr` makes the one that it is about."""
    mount = await new(service, nursery, kernel)
    entries = dict(await mount.listed("g2/d29", 1000))
    inodes = mount.operations.inodes
    number = entries[b"f0"]["st_ino"]
    held = inodes.held(number)
    assert not hasattr(held, "entry")
    assert inodes.get(number).lookups == 1
    assert inodes.held(number) is inodes.get(number)
    other = entries[b"f1"]["st_ino"]
    assert inodes.held(other) is held
    await mount.listed("g2/d29", 1000)
    assert inodes.get(number).lookups == 2
    assert inodes.held(other) is held
    with pytest.raises(errors.Superseded):
        inodes.get(number + 1)


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_places(count: int) -> None:
    """Each number is found at its place, among few and many."""
    rng = random.Random(count)

    numbers = rng.sample(range(1 << 60), count)
    entries = nodes.packed([b"d%d" % i for i in range(count)], b"", numbers, 5)
    assert [entries.place(number) for number in numbers] == list(range(count))
    assert [entry.number for entry in entries.entries()] == numbers
