"""A program that follows a file, while listing and contents lag behind the file by times of their own (2.4, 3.5)."""

import errno
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import MockClock

from artifactfs.domain import Children, DirectoryListing, IndexedFile, ListedChild
from artifactfs.errors import ConnectionLost, ServerFailed
from tests.content_harness import Server
from tests.fakes import NOW_NS, FakeService, run
from tests.follow.truth import LINE_BYTES, Journal, Stream, Version
from tests.unit.test_following import LIVE_TTL_S, Live, live_on
from tests.unit.test_operations import CONTEXT

CHANGES = 25
SEEDS = 3
POLL_S = 1.0


@dataclass(frozen=True)
class Form:
    """How a server behaves: how long ago (s) its listing and its contents were so, and what it tells beside sizes.

    `granted`: it grants ranges. `times`: of files, in the listing; `index`: in the project's listing alone.
    """

    listing_lag_s: float = 0.0
    content_lag_s: float = 0.0
    granted: bool = True
    validators: bool = False
    times: bool = False
    index: bool = False
    faults: bool = False
    slow_s: float = 0.0


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
        past = self.at(self.form.listing_lag_s)
        self.latency_s = self.rng.uniform(0, self.form.slow_s)
        await self._called("listing", run_id, path)
        created_ns = self._time_ns(past) if self.form.times else None
        return DirectoryListing(Children({b"log": ListedChild(b"log", False, len(past.data), created_ns)}), "p/a")

    async def project_files(self, project_id: str, add: Callable[[Sequence[IndexedFile]], None]) -> None:
        past = self.at(self.form.listing_lag_s)
        self.latency_s = self.rng.uniform(0, self.form.slow_s)
        await self._called("index", project_id)
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
        known = Journal(self.journal)
        known.versions()
        return known.content(version, 0, size)

    def _note(self, version: Version) -> None:
        with open(self.journal, "a", encoding="ascii") as file:
            file.write(version.line())


def contents_of(service: LiveFile) -> Server:
    """Return a content-endpoint of the file."""
    form = service.form
    server = Server(b"", granted=form.granted)

    def before_answer(_number: int) -> None:
        server.data = service.at(form.content_lag_s).data
        server.pause_s = service.rng.uniform(0, form.slow_s)

    if form.validators:
        server.validator = lambda: hashlib.blake2b(server.data, digest_size=16).digest()
    server.before_answer = before_answer
    return server


@dataclass
class Reader:
    """A program that reads one open file on, and opens it again where its name leads to another inode, or ESTALE.

    It sees what the kernel keeps: names and attributes for as long as they are valid. `closes`: it closes the file
    after each look, and then reads on where it was.
    """

    made: Live
    stream: Stream
    closes: bool
    inode: int = 0
    name_until: float = 0.0
    handle: int | None = None
    opened: int = 0
    size: int = 0
    size_until: float = 0.0
    at: int = 0
    log: list[str] = field(default_factory=list)

    async def follow(self) -> None:
        while True:
            try:
                await self._look()
            except FUSEError as error:
                self.log.append(f"{trio.current_time():.1f}: {errno.errorcode[error.errno]}")
                if error.errno == errno.ESTALE:
                    await self.close()
            await trio.sleep(POLL_S)

    async def _look(self) -> None:
        operations = self.made.operations
        handle = self.handle if self.handle is not None else await self._open()
        while True:
            if trio.current_time() >= self.size_until:
                shown = await operations.getattr(self.opened, CONTEXT)
                self.size, self.size_until = shown.st_size, trio.current_time() + shown.attr_timeout
            assert self.size >= self.at, f"cut from {self.at} to {self.size}"
            if self.size == self.at:
                break
            piece = bytes(await operations.read(handle, self.at, self.size - self.at))
            self.stream.feed(piece)
            self.at += len(piece)
            if not piece:
                break
        await self._look_up()
        if self.closes or self.inode != self.opened:
            await self.close()

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

    async def _open(self) -> int:
        await self._look_up()
        try:
            self.handle = handle = (await self.made.operations.open(self.inode, 0, CONTEXT)).fh
        except FUSEError as error:
            if error.errno != errno.ESTALE:
                raise
            self.name_until = 0.0
            await self._look_up()
            self.handle = handle = (await self.made.operations.open(self.inode, 0, CONTEXT)).fh
        if self.opened != self.inode:
            self.log.append(f"{trio.current_time():.1f}: opened {self.inode}")
            self.opened, self.at = self.inode, 0
        self.size_until = 0.0
        return handle

    async def close(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            await self.made.operations.release(handle)


async def followed(form: Form, seed: int, journal: str, *, closes: bool) -> None:
    """Let a program follow a file that changes, and see that it is given each byte once and comes to the end."""
    rng = random.Random(seed)
    service = LiveFile(runs={1: run(1)}, form=form, journal=journal, rng=rng)
    service.begin()
    contents = contents_of(service)
    async with live_on(service, contents, "auto" if form.index else "off") as made, trio.open_nursery() as nursery:
        reader = Reader(made, Stream(Journal(journal)), closes)
        nursery.start_soon(reader.follow)
        try:
            for _ in range(CHANGES):
                await trio.sleep(0.2 * 100 ** rng.random())
                service.change()
                if form.faults and rng.random() < 0.3:
                    service.failures = [ServerFailed("no", 503)] * rng.randrange(2)
                    contents.failures = rng.choices([ServerFailed("no", 503), ConnectionLost("no"), None], k=4)
            service.failures, contents.failures = [], []
            last = service.history[-1]
            await trio.sleep(LIVE_TTL_S + 2.0 + max(form.listing_lag_s, form.content_lag_s) + 2 * POLL_S)
            assert reader.stream.is_at(last.version, len(last.data))
        except BaseException as error:
            past = [f"{past.since_s:.1f}: version {past.version}, {len(past.data)} bytes" for past in service.history]
            error.add_note("\n".join(["the file:", *past, "the program:", *reader.log]))
            raise
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await reader.close()


FORMS = {
    "prompt": Form(),
    "the listing lags": Form(listing_lag_s=1.5),
    "the listing lags far behind": Form(listing_lag_s=12.0, times=True),
    "the contents lag": Form(content_lag_s=1.5, validators=True, times=True),
    "the contents lag far behind": Form(content_lag_s=12.0),
    "both lag": Form(listing_lag_s=3.0, content_lag_s=7.0, index=True, validators=True),
    "without ranges, the listing lags": Form(listing_lag_s=1.5, granted=False, index=True),
    "without ranges, the contents lag": Form(content_lag_s=12.0, granted=False, validators=True, times=True),
    "with faults, the listing lags": Form(listing_lag_s=12.0, index=True, faults=True),
    "with faults, the contents lag": Form(content_lag_s=12.0, index=True, validators=True, faults=True),
}


@pytest.mark.parametrize("closes", [False, True], ids=["keeps-it-open", "opens-it-for-each-look"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_program_that_follows_a_file(form: Form, closes: bool, tmp_path: Path) -> None:
    """3.5, 2.4: each version once and in order, no bytes of two, and never later than `live_ttl`, 2 s and the lag."""
    for seed in range(SEEDS):
        journal = str(tmp_path / f"journal-{seed}")
        trio.run(partial(followed, form, seed, journal, closes=closes), clock=MockClock(autojump_threshold=0))
