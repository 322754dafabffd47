"""A program that follows a file, while listing and contents lag behind the file by times of their own (2.4, 3.5)."""

import dataclasses
import errno
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import MockClock

from artifactfs.errors import ConnectionLost, ServerFailed
from artifactfs.domain import Children, DirectoryListing, IndexedFile, ListedChild
from tests.content_harness import BLOCK, Server
from tests.fakes import NOW_NS, FakeService, run
from tests.follow.truth import LINE_BYTES, Journal, Stream, Version
from tests.unit.test_following import CONTEXT, LIVE_TTL_S, Live, live

CHANGES = 25
POLL_S = 1.0


@dataclass(frozen=True)
class Form:
    """How a server behaves: how long ago (s) its listing and its contents were so, and what it tells beside sizes."""

    listing_lag_s: float = 0.0
    content_lag_s: float = 0.0
    granted: bool = True
    told: bool = True
    validators: bool = False
    times: bool = False
    index: bool = False


@dataclass(frozen=True)
class Past:
    """The file from a moment on."""

    since_s: float
    version: int
    data: bytes


@dataclass
class LiveFile(FakeService):
    """A Model Lab with one file that changes."""

    form: Form = field(default_factory=Form)
    journal: str = ""
    rng: random.Random = field(default_factory=random.Random)
    history: list[Past] = field(default_factory=list)

    def at(self, lag_s: float) -> Past:
        now = trio.current_time()
        return next((past for past in reversed(self.history) if past.since_s <= now - lag_s), self.history[0])

    async def list_directory(self, run_id: int, path: str) -> DirectoryListing:
        await self._called("listing", run_id, path)
        past = self.at(self.form.listing_lag_s)
        created_ns = self._time_ns(past) if self.form.times else None
        return DirectoryListing(Children({b"log": ListedChild(b"log", False, len(past.data), created_ns)}), "p/a")

    async def project_files(self, project_id: str, add: Callable[[Sequence[IndexedFile]], None]) -> None:
        await self._called("index", project_id)
        past = self.at(self.form.listing_lag_s)
        add([IndexedFile("p/a/log", len(past.data), self._time_ns(past))])

    def _time_ns(self, past: Past) -> int:
        """Return the time of a file that gets another one with each change."""
        return NOW_NS + int(past.since_s * 1e9)

    def change(self) -> None:
        """Let the file grow; or be cut, or replaced."""
        size, last = self.rng.choice([40, 400, 4000]), self.history[-1]
        chance, number = self.rng.randrange(10), last.version + 1
        if chance < 6:
            version = Version(last.version)
            data = self.content(last.version, len(last.data) + self.rng.randint(1, size))
        else:
            cut = self.rng.randrange(LINE_BYTES, len(last.data) + 1)
            version = Version(number, last.version, cut) if chance < 8 else Version(number)
            self._note(version)
            data = self.content(number, cut if chance < 8 else LINE_BYTES + self.rng.randrange(size))
        self.history.append(Past(trio.current_time(), version.number, data))

    def begin(self) -> None:
        self._note(Version(1))
        self.history.append(Past(trio.current_time(), 1, self.content(1, 400)))

    def content(self, version: int, size: int) -> bytes:
        return _content(self.journal, version, size)

    def _note(self, version: Version) -> None:
        with open(self.journal, "a", encoding="ascii") as file:
            file.write(version.line())


def contents_of(service: LiveFile) -> Server:
    """Return a content endpoint of the file."""
    form = service.form
    server = Server(b"", granted=form.granted, told=form.told)

    def before_answer(_number: int) -> None:
        server.data = service.at(form.content_lag_s).data

    if form.validators:
        server.validator = lambda: hashlib.blake2b(server.data, digest_size=16).digest()
    server.before_answer = before_answer
    return server


@dataclass
class Reader:
    """A program that reads one open file on, and opens it again where its name leads to another inode, or ESTALE.

    It sees what the kernel keeps: names and attributes for as long as they are valid.
    """

    made: Live
    stream: Stream
    inode: int = 0
    name_until: float = 0.0
    handle: int | None = None
    opened: int = 0
    size: int = 0
    size_until: float = 0.0
    at: int = 0
    closes: bool = False
    log: list[str] = field(default_factory=list)

    async def follow(self) -> None:
        while True:
            try:
                await self._look()
            except FUSEError as error:
                self.log.append(f"{trio.current_time():.1f}: {errno.errorcode[error.errno]}")
                if error.errno == errno.ESTALE:
                    await self._close()
            await trio.sleep(POLL_S)

    async def _look(self) -> None:
        operations = self.made.operations
        if self.handle is None:
            await self._open()
        while True:
            if trio.current_time() >= self.size_until:
                shown = await operations.getattr(self.opened, CONTEXT)
                self.size, self.size_until = shown.st_size, trio.current_time() + shown.attr_timeout
            assert self.size >= self.at, f"cut from {self.at} to {self.size}"
            if self.size == self.at:
                break
            piece = bytes(await operations.read(self.handle, self.at, self.size - self.at))
            self.stream.feed(piece)
            self.at += len(piece)
            if not piece:
                break
        await self._look_up()
        if self.closes or self.inode != self.opened:
            await self._close()

    async def _look_up(self) -> None:
        made = self.made
        if made.dropped:
            made.dropped.clear()
            self.name_until = 0.0
        if trio.current_time() >= self.name_until:
            found = await made.operations.lookup(made.parent, b"log", CONTEXT)
            self.inode, self.name_until = found.st_ino, trio.current_time() + found.entry_timeout
            if found.st_ino == self.opened:
                self.size, self.size_until = found.st_size, trio.current_time() + found.attr_timeout

    async def _open(self) -> None:
        await self._look_up()
        try:
            self.handle = (await self.made.operations.open(self.inode, 0, CONTEXT)).fh
        except FUSEError as error:
            if error.errno != errno.ESTALE:
                raise
            self.name_until = 0.0
            await self._look_up()
            self.handle = (await self.made.operations.open(self.inode, 0, CONTEXT)).fh
        if self.opened != self.inode:
            self.log.append(f"{trio.current_time():.1f}: opened {self.inode}")
            self.opened, self.at = self.inode, 0
        self.size_until = 0.0

    async def _close(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            await self.made.operations.release(handle)


async def followed(form: Form, seed: int, journal: Path, closes: bool = False, faults: bool = False) -> None:
    rng = random.Random(seed)
    service = LiveFile(runs={1: run(1)}, form=form, journal=str(journal), rng=rng)
    service.begin()
    contents = contents_of(service)
    async with live(service, contents, "auto" if form.index else "off") as made, trio.open_nursery() as nursery:
        reader = Reader(made, Stream(Journal(str(journal))), closes=closes)
        nursery.start_soon(reader.follow)
        try:
            for _ in range(CHANGES):
                await trio.sleep(0.2 * 100 ** rng.random())
                service.change()
                if faults and rng.random() < 0.3:
                    service.failures = [ServerFailed("no", 503)] * rng.randrange(2)
                    contents.failures = [rng.choice([ServerFailed("no", 503), ConnectionLost("no"), None]) for _ in range(rng.randrange(5))]
            service.failures, contents.failures = [], []
            behind_s = LIVE_TTL_S + 2.0 + max(form.listing_lag_s, form.content_lag_s) + 2 * POLL_S
            last = service.history[-1]
            with trio.move_on_after(behind_s):
                while not reader.stream.is_at(last.version, len(last.data)):
                    await trio.sleep(POLL_S)
                    assert True
            assert reader.stream.is_at(last.version, len(last.data)), (reader.at, reader.stream._at, last.version, len(last.data))
        except BaseException:
            for past in service.history:
                print(f"{past.since_s:.1f}: version {past.version}, {len(past.data)} bytes")
            print(f"{trio.current_time():.1f}", *reader.log, sep="\n")
            raise
        nursery.cancel_scope.cancel()
        await reader._close()


def _content(journal: str, version: int, size: int) -> bytes:
    known = Journal(journal)
    known.versions()
    return known.content(version, 0, size)
