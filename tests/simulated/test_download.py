"""`artifactfs download`, simulated: the tree, the contents and the emulator in one process, on a virtual clock."""

import errno
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.context import ContentContext
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.memory_cache import BlockPool, ReadaheadBudget
from artifactfs.content.open_files import OpenFileTable
from artifactfs.download import source_files
from artifactfs.download.source_files import Service
from artifactfs.download.target import Target
from artifactfs.download.transfers import Outcome, Transfers, find
from artifactfs.emulator.app import create_app
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.faults import Script
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Lab, Project, project_attributes
from artifactfs.emulator.switches import Switches
from artifactfs.errors import ExitCode, UserError
from artifactfs.logs.limiter import waiting_s
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.transport import Transport
from artifactfs.tree.tree import Tree
from artifactfs.util.backoff import backoff_s
from tests.content_harness import inline
from tests.simulated.test_client_forms import KEYS
from tests.transports import AppWire

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
        self._wire = AppWire(app=app)
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

    def copied(self) -> list[str]:
        """Return the files that are there."""
        return [str(place.relative_to(self.directory)) for place in self.directory.rglob("*") if place.is_file()]

    def times(self) -> set[int]:
        """Return their times, in seconds."""
        return {int((self.directory / name).stat().st_mtime) for name in self.copied()}

    def unfinished(self) -> list[Path]:
        return sorted(self.directory.rglob("*.part"))


@pytest.mark.parametrize("prefetch", ["full", "404"])
async def test_a_run_comes_whole_and_once(prefetch: str, tmp_path: Path, autojump_clock: MockClock) -> None:
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


async def test_a_slow_index(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Files have their own times where the index takes seconds, so that the next call finds them unchanged (2.3)."""
    world = World(tmp_path, SIZES)
    world.fault({"match": {"kind": "index"}, "then": {"delay_s": 3.0}})
    await world.download()
    assert world.times() == {1778922000}
    world.fault()
    again = await world.download()
    assert (again.files, again.present) == (0, len(SIZES))


async def test_an_interrupted_file_is_resumed(tmp_path: Path, autojump_clock: MockClock) -> None:
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
    assert world.content_bytes == BIG - begun + (128 << 10) + (128 << 10)
    world.check()


@pytest.mark.parametrize(
    ("switches", "status"),
    [({"etag": "strong"}, "running"), ({"etag": "strong"}, "completed"), ({"created_at": "moves"}, "running"),
     ({}, "running"), ({"last_modified": True}, "completed"), ({"etag": "changing"}, "running")],
    ids=str,
)  # fmt: skip
async def test_versions_never_mix(
    switches: dict[str, str], status: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A file that was replaced by one of the same size between two calls is the new one, whatever tells of it."""
    world = World(tmp_path, {"big.bin": BIG}, status, **switches)
    await world.interrupted(3 * MIB)
    world.files.change("big.bin")
    new = world.truth("big.bin")
    done = await world.download()
    assert (done.files, done.failures) == (1, [])
    assert (tmp_path / str(RUN) / "big.bin").read_bytes() == new
    world.check()


async def test_a_file_that_changes_all_the_time(tmp_path: Path, autojump_clock: MockClock) -> None:
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


async def test_a_file_that_is_replaced_meanwhile(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is the new version, whole; nothing is left of the old one."""
    world = World(tmp_path, {"big.bin": BIG}, "running", etag="strong")
    changed = False

    def change() -> None:
        nonlocal changed
        if not changed and world.counted >= 2 * MIB:
            changed = True
            world.files.change("big.bin", size=BIG - MIB)

    world.on_advance = change
    done = await world.download()
    assert changed
    assert (done.files, done.failures, world.counted) == (1, [], BIG - MIB)
    world.check()


@pytest.mark.parametrize(
    "switches",
    [{"ranges": "ignored"}, {"size_form": "absent", "index": "404"},
     {"size_form": "absent", "index": "404", "ranges": "ignored", "length": "chunked"}, {"etag": "changing"}],
    ids=str,
)  # fmt: skip
async def test_services_that_tell_less(switches: dict[str, str], tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without ranges, sizes, lengths or names of versions a file comes whole, is resumed, and is not fetched again."""
    world = World(tmp_path, {"big.bin": BIG, "a.txt": 10}, **switches)
    await world.interrupted(4 * MIB)
    done = await world.download()
    assert done.failures == []
    world.check()
    # What has neither a size nor a length is known to be whole only after it was read.
    again = await world.download()
    assert (again.present, again.failures) == (1 if "length" in switches else 2, [])


async def test_a_listing_that_runs_ahead(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where the contents are shorter than listed, their length counts (4.1), and the file is whole."""
    world = World(tmp_path, {"log.txt": 3 * MIB}, "running", content_lag_s=50)
    world.files.append("log.txt", MIB)
    old = world.truth("log.txt")[: 3 * MIB]
    assert (await world.download()).failures == []
    assert (tmp_path / str(RUN) / "log.txt").read_bytes() == old


@pytest.mark.parametrize(
    "then", [{"status": 500}, {"stall": True}, {"rate_limit": {"reset_s": 50, "period": 60}}], ids=str
)
async def test_failures_that_pass(then: dict[str, object], tmp_path: Path, autojump_clock: MockClock) -> None:
    """They are waited for: of listings, of contents, and a rate limit's reset that lies beyond the deadline."""
    world = World(tmp_path, SIZES, index="404")
    world.fault(*({"match": {"kind": kind}, "then": then, "times": 4} for kind in ("run", "listing", "content")))
    done = await world.download()
    assert (done.files, done.failures) == (len(SIZES), [])
    world.check()


async def test_failures_that_do_not_pass(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each is a line that says what to do; all that can be had is there, and the next call fetches only the rest."""
    world = World(tmp_path, SIZES)
    world.fault(
        {"match": {"kind": "content", "query_contains": "big.bin"}, "then": {"status": 503}},
        {"match": {"kind": "content", "query_contains": "a.txt"}, "then": {"status": 403}},
    )
    done = await world.download()
    assert done.files == len(SIZES) - 2
    assert [line.partition(": ")[0] for line in sorted(done.failures)] == ["/runs/7/a.txt", "/runs/7/d/big.bin"]
    assert "check that the keys are right" in min(done.failures)
    world.fault()
    assert (await world.download()).files == 2
    world.check()


async def test_a_file_that_is_deleted_meanwhile(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is a line, and the others come."""
    world = World(tmp_path, {"a.txt": 10, "b.txt": 10}, "running")
    async with world.service() as service:
        found = await find([str(RUN)], service)
        world.files.remove("b.txt")
        done = await Transfers(Target(str(tmp_path)), lambda _count: None, inline).run(found, 1)
    assert (done.files, len(done.failures)) == (1, 1)
    assert done.failures[0].startswith("/runs/7/b.txt: ")


@pytest.mark.parametrize(
    ("path", "place"),
    [("7", "7/d/x"), ("7/d/", "d/x"), ("7/d/x", "x"), ("runs/7/d", "d/x"), ("projects/10/7/d", "d/x"), ("p/r/d", "d/x"),
     ("names/p~10/r~7", "r~7/d/x"), ("p/r~7", "r~7/d/x"), ("p~10/r", "r/d/x"), ("7//d", "d/x")],
)  # fmt: skip
async def test_what_a_path_names(path: str, place: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run by number or by name, and what is below; the copy has the last name that was typed."""
    world = World(tmp_path, {"d/x": 3})
    world.lab.add_project(Project(PROJECT, project_attributes(PROJECT, name="p")))
    assert (await world.download(path)).failures == []
    assert world.copied() == [place]


@pytest.mark.parametrize(
    "path",
    [
        f"projects/{PROJECT}/latest", f"projects/{PROJECT}/by/status/completed/r~{RUN}",
        f"names/p~{PROJECT}/latest-completed",
        f"p/by/status/completed/by/parent/none/r~{RUN}", f"by/status/completed/r~{RUN}",
        f"search/r status:completed/r~{RUN}",
    ],
)  # fmt: skip
async def test_paths_through_facets(path: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    """1.7 to 1.9: a run is downloaded by any path that a mount has for it."""
    world = World(tmp_path, {"a.txt": 10})
    world.lab.add_project(Project(PROJECT, project_attributes(PROJECT, name="p")))
    assert (await world.download(path)).failures == []
    world.check(path.rpartition("/")[2])


@pytest.mark.parametrize(
    ("paths", "fact"),
    [(("runs",), "this holds runs"), (("p",), "this holds runs"), (("",), "this holds runs"),
     (("p/twice",), "2 of /names/p~10 are called twice; give its number, too: twice~9, twice~8"),
     (("7/d", "8/d"), "7/d and 8/d would both be d")],
    ids=str,
)  # fmt: skip
async def test_paths_that_are_refused(
    paths: tuple[str, ...], fact: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One line, before anything is transferred."""
    world = World(tmp_path, {"d/x": 3})
    world.lab.add_project(Project(PROJECT, project_attributes(PROJECT, name="p")))
    for run_id in (8, 9):
        world.lab.create(run_id, PROJECT, world.files, name="twice", updated_at=f"2026-05-16T09:1{run_id}:00Z")
    async with world.service() as service:
        with pytest.raises(UserError) as caught:
            await find(paths, service)
    assert caught.value.code is ExitCode.USAGE
    assert fact in str(caught.value)


async def test_paths_that_are_not_there(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each is a line, and the others come."""
    world = World(tmp_path, {"d/x": 3})
    done = await world.download("7/d", "7/e", "7/../8", "7/d/x/y", "99", "nothing/r", "projects/10/98")
    assert (done.files, len(done.failures)) == (1, 6)
    assert done.failures[0] == "7/e: there is no e in /runs/7; check its number or name"
    assert all("; " in line for line in done.failures)


async def test_waits_are_told(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """5.4: each wait before another attempt is a line that says for how long, and of a busy mount why."""
    caplog.set_level(logging.INFO, "artifactfs")

    def busy() -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    failures: list[errors.PassingError] = [errors.RateLimited("h limits these keys", 40.0)]

    async def attempt() -> int:
        if failures:
            raise failures.pop()
        if len(caplog.records) == 1:
            await source_files.ask_mount(busy)
        return 7

    assert await source_files.patiently(attempt) == 7
    assert [(waiting_s(record), record.getMessage()) for record in caplog.records] == [
        (40.0, "h limits these keys; trying again in 40 s"),
        (2.0, "Device or resource busy (the rate limit is used up); trying again in 2 s"),
    ]
