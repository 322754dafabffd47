"""artifactfs.fuse.operations: what directories answer, and what that costs (docs/semantics.md 2, 3, 5, 7).

The kernel's side is taken by `Kernel`: it keeps what `readdir_reply` was given, as long as it takes more.
"""

import errno
import stat
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NoReturn

import pyfuse3
import pytest
import trio
from pyfuse3 import EntryAttributes, FUSEError
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ContentVersion, IndexedFile
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.operations import Operations
from artifactfs.tree.tree import Tree
from tests.fakes import NOW_NS, FakeService, TurnedClock, directory, finished_run, run
from tests.walking import mounted

DEADLINE_S = 30.0
CONTEXT: Any = SimpleNamespace(pid=0)  # a caller that /proc does not show
TOKEN: Any = None
# The files of a run: their sizes in bytes, None where the listing has none.
FILES = {"a": 1, "b": 513, "c": None, "d": 0, "e": 5 << 30}


@dataclass
class Kernel:
    """Takes `room` entries a call, and keeps (name, next cookie, attributes) of them all."""

    room: int = 1000
    entries: list[tuple[bytes, int, EntryAttributes]] = field(default_factory=list)
    taken: int = 0

    def reply(self, _token: object, name: bytes, attributes: EntryAttributes, next_id: int) -> bool:
        if self.taken == self.room:
            return False
        kept = EntryAttributes()
        kept.__setstate__(attributes.__getstate__())  # the caller writes over what it gave
        self.entries.append((name, next_id, kept))
        self.taken += 1
        return True

    async def read(self, operations: Operations, handle: int, start_id: int = 0) -> list[bytes]:
        """Read a directory from a cookie to its end; returns the names."""
        self.entries = []
        while True:
            self.taken = 0
            await operations.readdir(handle, start_id, TOKEN)
            if not self.taken:
                return [name for name, *_ in self.entries]
            start_id = self.entries[-1][1]

    def __getitem__(self, name: bytes) -> EntryAttributes:
        return next(attributes for its_name, _, attributes in self.entries if its_name == name)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(pyfuse3, "readdir_reply", kernel.reply)
    return kernel


class NoContents:
    """A table of open files of a service that has no contents."""

    async def open(self, _version: ContentVersion, *, stream: bool) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise errors.ServerFailed(f"no contents (stream={stream})", 503)


@pytest.fixture
def service() -> FakeService:
    """Run 1 goes on, run 2 is finished; both hold the same: directories, files, and one whose size is not reported."""
    return FakeService(
        runs={1: run(1), 2: finished_run(2)},
        listings={
            (1, ""): directory(FILES, ["x", "y"]),
            (1, "x"): directory({"f": 1}),
            (1, "y"): directory(),
            (2, ""): directory(FILES, ["x"]),
            (2, "x"): directory({f"f{i}": i for i in range(100)}),
        },
    )


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)


@pytest.fixture
async def operations(tree: Tree) -> Operations:
    files: Any = NoContents()
    return Operations(tree, files, Ownership(1000, 100), deadline_s=DEADLINE_S, on_ready=lambda: None)


async def enter(operations: Operations, path: str) -> int:
    """Look a place up name by name, as the kernel does; returns its inode's number."""
    number: int = pyfuse3.ROOT_INODE
    for name in path.split("/"):
        number = (await operations.lookup(number, name.encode(), CONTEXT)).st_ino
    return number


async def opened(operations: Operations, path: str) -> int:
    return await operations.opendir(await enter(operations, path), CONTEXT)


def told(attributes: EntryAttributes) -> dict[str, int]:
    return dict(attributes.__getstate__())  # for pickle: all of its fields


def at_once(handler: Coroutine[Any, Any, Any]) -> Any:
    """Run a handler that never yields to the loop; fails for one that waits."""
    try:
        handler.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


async def test_a_failure_names_its_place(
    operations: Operations,
    service: FakeService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    """5.3: what failed is said with the place that was asked for."""

    async def refuse(_run_id: int) -> NoReturn:
        raise errors.BadRequest("refused", 400)

    monkeypatch.setattr(service, "get_run", refuse)
    parent = await enter(operations, "runs")
    with pytest.raises(FUSEError):
        await operations.lookup(parent, b"7", CONTEXT)
    assert caplog.messages[-1].startswith("lookup of /runs/7: refused; ")


# --- what readdir gives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["runs/1", "runs/2"])
async def test_readdir_gives_each_entry_what_lookup_gives(
    operations: Operations, kernel: Kernel, path: str, autojump_clock: MockClock
) -> None:
    """2.1 to 2.4: whatever stood before it: kinds, sizes and times are each entry's own, twice in a row the same."""
    parent = await enter(operations, path)
    for _ in range(2):
        handle = await operations.opendir(parent, CONTEXT)
        names = await kernel.read(operations, handle)
        assert names[:2] == [b".", b".."]
        assert len(names) > 3
        for name in names[2:]:
            looked_up = told(await operations.lookup(parent, name, CONTEXT))
            if name == b"c":  # its size stays unknown: the next lookup tries again
                looked_up["entry_timeout"] = 0
            assert told(kernel[name]) == looked_up


async def test_what_readdir_gives(operations: Operations, kernel: Kernel, autojump_clock: MockClock) -> None:
    """2.1, 2.2: modes, owners, one link, blocks; an unknown size is 0 and not kept by the kernel."""
    await kernel.read(operations, await opened(operations, "runs/2"))
    file = kernel[b"b"]
    assert (file.st_mode, file.st_size, file.st_blocks) == (stat.S_IFREG | 0o644, 513, 2)
    assert (file.st_uid, file.st_gid, file.st_nlink) == (1000, 100, 1)
    assert (kernel[b"e"].st_size, kernel[b"e"].st_blocks) == (5 << 30, 5 << 21)
    assert file.st_mtime_ns == file.st_atime_ns == file.st_ctime_ns == finished_run(2).completed_ns
    assert (kernel[b"c"].st_size, kernel[b"c"].st_blocks, kernel[b"c"].attr_timeout) == (0, 0, 0.0)
    assert kernel[b"c"].st_mode == stat.S_IFREG | 0o640
    assert kernel[b"d"].attr_timeout > 60
    assert kernel[b"x"].st_mode == stat.S_IFDIR | 0o755
    assert len({attributes.st_ino for _, _, attributes in kernel.entries}) == len(kernel.entries)


def give_times(service: FakeService) -> dict[bytes, int]:
    """Put the files of run 2 into the project's index, in pairs of one time each; returns the times of those in x."""
    times = {b"f%d" % i: i // 2 for i in range(100)}
    rows = [IndexedFile(f"prefix/artifacts/{name}", size, 5) for name, size in FILES.items()]
    rows += [IndexedFile(f"prefix/artifacts/x/f{i}", i, i // 2) for i in range(100)]
    service.projects["10"] = rows
    return times


def indexed_operations(service: FakeService, nursery: trio.Nursery) -> tuple[Tree, Operations]:
    """Return a tree that requests the project index, and its operations."""
    tree = mounted(service, nursery)
    files: Any = NoContents()
    return tree, Operations(tree, files, Ownership(1000, 100), deadline_s=DEADLINE_S, on_ready=lambda: None)


async def test_times_are_each_entrys_own(
    service: FakeService, nursery: trio.Nursery, kernel: Kernel, autojump_clock: MockClock
) -> None:
    """2.3: where the files of a directory have times of their own, none shows its neighbour's."""
    times = give_times(service)
    _, operations = indexed_operations(service, nursery)
    await kernel.read(operations, await opened(operations, "runs/2/x"))
    assert {name: shown.st_mtime_ns for name, _, shown in kernel.entries[2:]} == times


async def test_times_that_come_late(
    service: FakeService, nursery: trio.Nursery, kernel: Kernel, autojump_clock: MockClock
) -> None:
    """2.3: once the index is there, `stat` of a known inode and a directory that is open show the own times."""
    times, service.index_s = give_times(service), 10.0
    tree, operations = indexed_operations(service, nursery)
    dropped: list[set[int]] = []
    tree.watch_times(lambda run_id: dropped.append(operations.show_new_times(run_id)))
    handle = await opened(operations, "runs/2/x")
    await kernel.read(operations, handle)
    ended_ns = service.runs[2].completed_ns
    assert {shown.st_mtime_ns for _, _, shown in kernel.entries[2:]} == {ended_ns}
    numbers = {name: shown.st_ino for name, _, shown in kernel.entries[2:]}
    await trio.sleep(10)
    assert dropped == [set(numbers.values())]
    shown = {name: (await operations.getattr(number, CONTEXT)).st_mtime_ns for name, number in numbers.items()}
    assert shown == times
    await kernel.read(operations, handle, start_id=2)
    assert {name: shown.st_mtime_ns for name, _, shown in kernel.entries} == times
    assert {name: shown.st_ino for name, _, shown in kernel.entries} == numbers


async def test_names_are_valid_for_the_time_that_is_left(
    operations: Operations, kernel: Kernel, autojump_clock: MockClock
) -> None:
    """3.1: of a listing that is a quarter of a minute old, three quarters of its time remain, for each kind."""
    handle = await opened(operations, "runs/1")
    await trio.sleep(15)
    await kernel.read(operations, handle)
    # A name without a known size is looked up again, which learns it (2.2).
    assert {name for name, _, shown in kernel.entries[2:] if shown.entry_timeout != 45.0} == {b"c"}
    assert kernel[b"c"].entry_timeout == 0.0
    assert kernel[b"x"].attr_timeout == 45.0


@pytest.mark.parametrize("room", [1, 2, 3, 5])
async def test_readdir_goes_on_where_the_kernel_stopped(
    operations: Operations, kernel: Kernel, room: int, autojump_clock: MockClock
) -> None:
    """3.4: nothing twice and nothing left out, however little the kernel takes; what it did not take is not counted."""
    kernel.room = room
    names = await kernel.read(operations, await opened(operations, "runs/2"))
    assert names == [b".", b"..", b"x", b"a", b"b", b"c", b"d", b"e"]
    assert [cookie for _, cookie, _ in kernel.entries] == list(range(1, 9))
    assert [operations.inodes.get(kernel[name].st_ino).lookups for name in names[2:]] == [1] * 6


async def test_dots_know_their_directories(operations: Operations, kernel: Kernel, autojump_clock: MockClock) -> None:
    """2.4: "." and ".." have the numbers of the directory and of the one above, and count no lookup."""
    runs, run_1, x = [await enter(operations, path) for path in ("runs", "runs/1", "runs/1/x")]
    for parent, directory_number in ((pyfuse3.ROOT_INODE, runs), (runs, run_1), (run_1, x)):
        before = operations.inodes.get(directory_number).lookups
        await kernel.read(operations, await operations.opendir(directory_number, CONTEXT))
        assert (kernel[b"."].st_ino, kernel[b".."].st_ino) == (directory_number, parent)
        assert stat.S_ISDIR(kernel[b"."].st_mode)
        assert operations.inodes.get(directory_number).lookups == before


async def test_a_superseded_file_is_listed_under_another_number(
    operations: Operations, kernel: Kernel, autojump_clock: MockClock
) -> None:
    """2.4: though the listing, and with it the entry, is still the old one."""
    handle = await opened(operations, "runs/2")
    await kernel.read(operations, handle)
    number = kernel[b"a"].st_ino
    operations.inodes.get(number).superseded = True
    await kernel.read(operations, handle)
    assert kernel[b"a"].st_ino == number + 1


async def test_a_file_is_not_a_directory(operations: Operations, kernel: Kernel, autojump_clock: MockClock) -> None:
    """5.3: opendir of a file is ENOTDIR."""
    with pytest.raises(FUSEError) as refused:
        await opened(operations, "runs/1/a")
    assert refused.value.errno == errno.ENOTDIR


# --- when it is asked again ---------------------------------------------------------------------------------


async def test_an_open_directory_is_frozen_until_it_is_rewound(
    operations: Operations, service: FakeService, kernel: Kernel, autojump_clock: MockClock
) -> None:
    """3.4: cookies stay true while the directory changes; from its start again it is as it is now."""
    handle = await opened(operations, "runs/1/y")
    service.listings[1, "y"] = directory({"new": 1})
    await trio.sleep(100)
    assert await kernel.read(operations, handle) == [b".", b".."]
    assert await kernel.read(operations, handle, 2) == []
    assert await kernel.read(operations, handle) == [b".", b"..", b"new"]


async def test_what_is_old_is_asked_for_again(
    operations: Operations, service: FakeService, kernel: Kernel, autojump_clock: MockClock
) -> None:
    """3.1: what is cached stays fresh for a minute, by lookup as by opendir."""
    parent = await enter(operations, "runs/1")
    await kernel.read(operations, await operations.opendir(parent, CONTEXT))
    service.asked()
    await trio.sleep(59)
    assert at_once(operations.lookup(parent, b"a", CONTEXT)).entry_timeout == 1.0
    at_once(operations.opendir(parent, CONTEXT))
    assert service.asked() == []
    await trio.sleep(2)
    await operations.lookup(parent, b"a", CONTEXT)
    assert ("listing", 1, "") in service.asked()


# --- what it costs ------------------------------------------------------------------------------------------


async def test_a_walk_over_what_is_known_waits_for_nothing(
    operations: Operations, kernel: Kernel, autojump_clock: MockClock
) -> None:
    """7: opendir, readdir, releasedir, lookup and getattr of what is cached are answered in one go: no task switch."""
    parent = await enter(operations, "runs/2/x")
    await kernel.read(operations, await operations.opendir(parent, CONTEXT))
    handle = at_once(operations.opendir(parent, CONTEXT))
    kernel.taken = 0
    at_once(operations.readdir(handle, 0, TOKEN))
    at_once(operations.readdir(handle, 102, TOKEN))
    at_once(operations.releasedir(handle))
    number = at_once(operations.lookup(parent, b"f7", CONTEXT)).st_ino
    assert at_once(operations.getattr(number, CONTEXT)).st_size == 7


async def test_a_walk_makes_no_place_of_a_file(
    operations: Operations, kernel: Kernel, autojump_clock: MockClock
) -> None:
    """7: a file that was only seen is one inode and its listing's entry; a walk again adds nothing to it."""
    handle = await opened(operations, "runs/2/x")
    await kernel.read(operations, handle)
    inodes = [operations.inodes.get(shown.st_ino) for _, _, shown in kernel.entries[2:]]
    assert len(inodes) == 100
    assert {inode.cached_node for inode in inodes} == {None}
    entries = [inode.entry for inode in inodes]
    known = len(operations.inodes)
    await kernel.read(operations, await opened(operations, "runs/2/x"))
    assert len(operations.inodes) == known
    assert all(inode.entry is entry for inode, entry in zip(inodes, entries, strict=True))
    assert {inode.lookups for inode in inodes} == {2}


# --- when no answer comes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["lookup", "opendir"])
async def test_metadata_has_a_limit(
    operations: Operations, service: FakeService, call: str, autojump_clock: MockClock
) -> None:
    """5.1: a service that does not answer costs the deadline and ends in ETIMEDOUT."""
    parent = await enter(operations, "runs/1")
    service.gate = trio.Event()
    began = trio.current_time()
    waiting = operations.lookup(parent, b"a", CONTEXT) if call == "lookup" else operations.opendir(parent, CONTEXT)
    with pytest.raises(FUSEError) as late:
        await waiting
    assert late.value.errno == errno.ETIMEDOUT
    assert trio.current_time() - began == pytest.approx(DEADLINE_S)
    service.gate.set()


async def test_a_bug_is_eio_and_is_logged(
    operations: Operations, tree: Tree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """5.5: also one on a path without awaits."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tree, "try_list", broken)
    monkeypatch.setattr(tree, "try_lookup", broken)
    root = pyfuse3.ROOT_INODE
    for handler in (
        operations.opendir(root, CONTEXT), operations.lookup(root, b"runs", CONTEXT), operations.readdir(17, 0, TOKEN),
    ):  # fmt: skip
        with pytest.raises(FUSEError) as failed:
            await handler
        assert failed.value.errno == errno.EIO
    assert caplog.text.count("this is a bug in artifactfs") == 3


async def test_an_inode_that_is_not_in_use_is_stale(operations: Operations) -> None:
    """2.4: ESTALE: the kernel looks the name up again by itself."""
    calls = (operations.getattr(17, CONTEXT), operations.opendir(17, CONTEXT), operations.lookup(17, b"a", CONTEXT))
    for handler in calls:
        with pytest.raises(FUSEError) as stale:
            await handler
        assert stale.value.errno == errors.errno_of(errors.Superseded("")) == errno.ESTALE
