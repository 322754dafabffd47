"""Fetches small files ahead of programs that go through a tree file by file (docs/semantics.md 4.5).

`cp -r`, `grep -r`, `tar`, `zip` wait for one small file after the other, a round trip each. A program that reads the
files of a directory in order, each from its start, is given the next ones before it asks, and those of the next
directories once it has gone from one to the next; so is one that reads the same name in directory after directory
(`cat */metrics.json`). reading_order.py recognises the order.

Owns what is fetched ahead of which program, and the bounds of that; content/ fetches and caches. No reader depends on
it: what fails here, the reader asks for itself.
"""

import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.content.open_files import OpenFileTable
from artifactfs.content.reader import OpenFile
from artifactfs.domain import ContentVersion
from artifactfs.fuse.reading_order import Entries, Order, ReadingOrder, in_order, kind_of
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Entry, join
from artifactfs.tree.tree import Tree
from artifactfs.util.no_checkpoint import no_checkpoint

log = logging.getLogger(__name__)

# A walk ends when nothing was read in order for so long; and so much is fetched ahead as it reads in that time, since
# what is older may have changed.
_IDLE_S = 5.0
# Requests end when the reader has turned away for so long: to it, 100 ms between two files is slow.
_PACE_S = 1.0
# A file that was fetched ahead counts as in vain after this time.
_UNREAD_S = 10.0
# A request that no program waits for is given up after this time, so that its reader asks itself.
_FETCH_S = 10.0
# The pause after a failure; it doubles with each further one. Arbitrary.
_PAUSE_S = 1.0
_MAX_DOUBLINGS = 5
# Runs, directories and levels of directories in which reading is followed. Arbitrary.
_MAX_WALKS = 16
_MAX_VISITS = 32
_MAX_LEVELS = 64
# Files that the pace of a reader is taken from, and that are looked at whether they were read whole. Arbitrary.
_PACE_FILES = 16
_MAX_LARGE = 8
# Directories that are listed ahead, and entries that are looked at for one small file. Arbitrary.
_MAX_UPCOMING = 8
_MAX_LOOKED_AT = 256


class SiblingTuning(msgspec.Struct, frozen=True):
    """The bounds. `max_fetches`: requests in flight; `max_ahead`: files that were fetched, or are, and were not read.

    `small_bytes`: the largest file that is fetched ahead, which is what a glance at it may cost; `whole_bytes`: the
    same for a program that reads such files to their ends, at most a block (content_tuning.py).
    """

    max_fetches: int = 14
    max_ahead: int = 32
    small_bytes: int = 128 << 10
    whole_bytes: int = 512 << 10


class _Ahead(msgspec.Struct, eq=False):
    """A file that was fetched, or is, and was not read. `version`: of a run that goes on, once it was fetched."""

    size_bytes: int
    began: float
    version: ContentVersion | None = None
    given_up: bool = False


class _Visit(msgspec.Struct, eq=False):
    """A directory whose files are read, or will be."""

    directory: ArtifactDir
    order: ReadingOrder


_Place = tuple[str, bytes]
# The directories below a place that come next.
_Branch = tuple[str, Iterator[Entry]]


class _Walk(msgspec.Struct, eq=False):
    """Reading in one run by one account. Paths are from the run's root.

    `read`, `read_bytes`: the files that were read in order, but for the first; `vain`: those that were fetched for no
    reader.
    `times`: when the last of them were read; `kinds`: their kinds (reading_order.py); `large`: those that are not
    small, and may come to be read whole; `largest`: the bytes of the largest that was.
    `visits`: the directories, the latest at the end; `levels`: the order of the directories in each. `upcoming`: the
    directories that come next, which `branches` lead to. `same_name`: what is read in each of them, if that is all.
    """

    run_id: int
    owner: str
    last: float
    times: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=_PACE_FILES))
    kinds: set[bytes] = set()
    large: deque[tuple[OpenFile, int]] = msgspec.field(default_factory=lambda: deque(maxlen=_MAX_LARGE))
    largest: int = 0
    read: int = 0
    read_bytes: int = 0
    vain: int = 0
    vain_bytes: int = 0
    ahead: dict[_Place, _Ahead] = {}
    order: Order | None = None
    visits: dict[str, _Visit] = {}
    levels: dict[str, ReadingOrder] = {}
    entered: str | None = None
    here: str = ""
    upcoming: deque[_Visit] = msgspec.field(default_factory=deque)
    branches: list[_Branch] | None = None
    same_name: bytes | None = None
    is_scouting: bool = False


class SiblingReadahead:
    """See the module."""

    def __init__(self, tree: Tree, files: OpenFileTable, tuning: SiblingTuning = SiblingTuning()) -> None:  # noqa: B008  # a constant
        self._tree = tree
        self._files = files
        self._tuning = tuning
        self._walks: cachetools.LRUCache[int, _Walk] = cachetools.LRUCache(_MAX_WALKS)
        self._inflight = 0
        # After a failure: when the next request may be sent (trio's clock), and how many failed in a row.
        self._resume_at = 0.0
        self._failures = 0

    @no_checkpoint
    def on_read(self, file: ArtifactFile, opened: OpenFile) -> None:
        """Take note that a program has read a file from its start, and fetch what it will read next. Never raises."""
        try:
            self._note(file, opened)
        except Exception:
            self._walks.pop(file.directory.run_id, None)
            log.exception("fetching ahead failed: %s", errors.unexpected())

    # --- what is read ----------------------------------------------------------------------------------------

    def _note(self, file: ArtifactFile, opened: OpenFile) -> None:
        directory, entry, now = file.directory, file.entry, trio.current_time()
        walk = self._walks.get(directory.run_id)
        if walk is None or now - walk.last > _IDLE_S or walk.owner != self._files.owner:
            walk = self._walks[directory.run_id] = _Walk(directory.run_id, self._files.owner, now)
            self._soon(partial(self._until_idle, walk))
        path = walk.here = directory.path
        was_expected = walk.ahead.pop((path, entry.name), None) is not None
        visit = walk.visits.pop(path, None) or self._enter(walk, directory, entry.name)
        walk.visits[path] = visit
        if len(walk.visits) > _MAX_VISITS:
            del walk.visits[next(iter(walk.visits))]
        if visit.order.has(entry.name):
            return
        left_behind = visit.order.note(entry.name)
        is_first = visit.order.noted == 1
        if not is_first:
            walk.same_name = None
        if is_first or visit.order.steps or was_expected:
            walk.last = now
            walk.times.append(now)
        if visit.order.steps or was_expected or walk.same_name is not None:
            walk.read += 1
            # Of a large file only its head is sure to have been read.
            walk.read_bytes += min(entry.size_bytes or 0, self._tuning.small_bytes)
            self._give_up(walk, [(path, left.name) for left in left_behind])
            if visit.order.steps > 1:
                walk.order = visit.order.order
        self._note_whole(walk)
        if (entry.size_bytes or 0) > self._tuning.small_bytes:
            walk.large.append((opened, entry.size_bytes or 0))
        self._fill(walk)

    def _note_whole(self, walk: _Walk) -> None:
        """See which larger files were read to their ends: then others of such sizes are worth to be fetched whole."""
        for found in [(opened, size) for opened, size in walk.large if opened.was_read_whole]:
            walk.large.remove(found)
            walk.read_bytes += found[1] - self._tuning.small_bytes
            if found[1] > walk.largest:
                walk.largest = found[1]
                # Some were passed over.
                for visit in (walk.visits[walk.here], *walk.upcoming):
                    visit.order.retake()

    def _is_wanted(self, walk: _Walk, size_bytes: int | None) -> bool:
        """Whether a file of this size is fetched ahead."""
        tuning = self._tuning
        return 0 < (size_bytes or 0) <= max(tuning.small_bytes, min(tuning.whole_bytes, 2 * walk.largest))

    def _enter(self, walk: _Walk, directory: ArtifactDir, name: bytes) -> _Visit:
        """Take note that the first file of a directory is read."""
        before = walk.visits.get(walk.entered) if walk.entered is not None else None
        path = walk.entered = directory.path
        known = walk.levels
        if len(known) > _MAX_LEVELS:
            walk.levels = {}
        for level, own_name in _above(path):
            if level not in walk.levels:
                order = known.get(level) or ReadingOrder(partial(self._listed, walk.run_id, level), dirs=True)
                walk.levels[level] = order
            walk.levels[level].note(own_name)
        is_next = bool(path) and walk.levels[path.rpartition("/")[0]].steps > 0
        is_same = is_next and before is not None and before.order.noted == 1 and before.order.first == name
        walk.same_name = name if is_same else None
        while walk.upcoming:
            visit = walk.upcoming.popleft()
            if visit.directory.path == path:
                return visit
            # The reader has passed it by.
            self._give_up(walk, [place for place in walk.ahead if place[0] == visit.directory.path])
        walk.branches = None
        return self._visit(walk, directory, partial(self._listed, walk.run_id, path))

    @staticmethod
    def _visit(walk: _Walk, directory: ArtifactDir, listed: Callable[[], Entries]) -> _Visit:
        return _Visit(directory, ReadingOrder(listed, kinds=walk.kinds, expected=walk.order))

    def _listed(self, run_id: int, path: str) -> Entries:
        return self._tree.fresh_entries(run_id, path) or {}

    def _give_up(self, walk: _Walk, places: list[_Place]) -> None:
        """Expect no reader of these files any more. Of a run that goes on they are dropped: they will be old."""
        for place in places:
            if (ahead := walk.ahead.pop(place, None)) is not None:
                walk.vain += 1
                walk.vain_bytes += ahead.size_bytes
                ahead.given_up = True
                if ahead.version is not None:
                    self._soon(partial(self._files.forget, ahead.version))

    async def _until_idle(self, walk: _Walk) -> None:
        # One wake-up in so many seconds, not one a file.
        while (left_s := walk.last + _IDLE_S - trio.current_time()) > 0:  # noqa: ASYNC110
            await trio.sleep(left_s)
        self._give_up(walk, list(walk.ahead))
        if self._walks.get(walk.run_id) is walk:
            del self._walks[walk.run_id]

    # --- what comes next -------------------------------------------------------------------------------------

    def _fill(self, walk: _Walk) -> None:
        """Start as many requests as may start now."""
        now = trio.current_time()
        is_current = self._walks.get(walk.run_id) is walk and walk.owner == self._files.owner
        if not is_current:
            return
        self._give_up(walk, [place for place, ahead in walk.ahead.items() if now - ahead.began > _UNREAD_S])
        if now - walk.last > _PACE_S:
            return
        for _ in range(_MAX_LOOKED_AT):
            if not self._may_start(walk, now):
                return
            if (found := self._take(walk)) is None:
                break
            directory, name, size_bytes = found
            is_wanted = self._is_wanted(walk, size_bytes) and kind_of(name) in walk.kinds
            if is_wanted and (directory.path, name) not in walk.ahead:
                self._start(walk, directory, name, size_bytes)
        if walk.same_name is None and not walk.is_scouting:
            self._scout_soon(walk)

    def _take(self, walk: _Walk) -> tuple[ArtifactDir, bytes, int] | None:
        """Return the file that the reader will read next, of those that were not taken before, and its bytes."""
        if walk.same_name is not None:
            level = walk.here.rpartition("/")[0]
            entry = walk.levels[level].take()
            # Its size is known when its directory is listed.
            return (_directory(walk.run_id, level, entry), walk.same_name, 1) if entry is not None else None
        visit = walk.visits[walk.here]
        if visit.order.steps:
            for each in (visit, *walk.upcoming):
                if (entry := each.order.take()) is not None:
                    return each.directory, entry.name, entry.size_bytes or 0
        return None

    def _may_start(self, walk: _Walk, now: float) -> bool:
        tuning = self._tuning
        # As much as was read, and as much as is read until it would be old.
        pace = len(walk.times) / max(now - walk.times[0], 1.0)
        window = min(tuning.max_ahead, walk.read + 1 - walk.vain, pace * _IDLE_S)
        ahead_bytes = sum(ahead.size_bytes for ahead in walk.ahead.values())
        return (
            self._inflight < tuning.max_fetches
            and len(walk.ahead) < window
            and ahead_bytes + walk.vain_bytes <= walk.read_bytes
            and now >= self._resume_at
            and self._files.can_fetch_ahead()
        )

    def _scout_soon(self, walk: _Walk) -> None:
        """List the next directories, if the reader has gone from one directory to the next before."""
        order = walk.visits[walk.here].order
        if walk.here != walk.entered or not order.steps or len(walk.upcoming) >= _MAX_UPCOMING:
            return
        if walk.branches is None:
            walk.branches = []
            for level, _ in _above(walk.here):
                if not walk.levels[level].steps:
                    break
                walk.branches.insert(0, (level, walk.levels[level].following()))
            if walk.branches:
                walk.branches.append(_branch(walk.here, self._listed(walk.run_id, walk.here), order.order))
        if walk.branches:
            walk.is_scouting = True
            self._soon(partial(self._scout, walk, walk.branches))

    async def _scout(self, walk: _Walk, branches: list[_Branch]) -> None:
        """List the next directory, depth first, and fetch of it what may be fetched."""
        path = ""
        try:
            while branches and (entry := next(branches[-1][1], None)) is None:
                branches.pop()
            if branches and entry is not None:
                level, rest = branches[-1]
                directory = _directory(walk.run_id, level, entry)
                path = directory.path
                entries = await self._tree.list_ahead(walk.run_id, path)
                if entries is None:
                    branches[-1] = (level, itertools.chain([entry], rest))
                elif walk.branches is branches:
                    walk.upcoming.append(self._visit(walk, directory, lambda: entries))
                    branches.append(_branch(path, entries, walk.order or Order.LISTED))
        except errors.ArtifactfsError as error:
            self._failed(f"run {walk.run_id}, directory {path}", error)
        finally:
            walk.is_scouting = False
        self._fill(walk)

    # --- fetching --------------------------------------------------------------------------------------------

    def _start(self, walk: _Walk, directory: ArtifactDir, name: bytes, size_bytes: int) -> None:
        ahead = walk.ahead[directory.path, name] = _Ahead(size_bytes, trio.current_time())
        self._inflight += 1
        self._soon(partial(self._fetch, walk, directory, name, ahead))

    async def _fetch(self, walk: _Walk, directory: ArtifactDir, name: bytes, ahead: _Ahead) -> None:
        try:
            with trio.move_on_after(_FETCH_S):
                # The entry as it is listed now.
                entries = await self._tree.list_ahead(walk.run_id, directory.path)
                entry = entries.get(name) if entries is not None else None
                if entry is None or entry.is_dir or not self._is_wanted(walk, entry.size_bytes):
                    return
                ahead.size_bytes = entry.size_bytes or 0
                version = await self._tree.locate_content(ArtifactFile(directory, entry))
                came = await self._files.fetch_ahead(version)
                self._failures = 0
                if came and not version.settled:
                    ahead.version = version
                    if ahead.given_up:
                        await self._files.forget(version)
        except errors.ArtifactfsError as error:
            self._failed(f"run {walk.run_id}, {join(directory.path, name)}", error)
        finally:
            self._inflight -= 1
        self._fill(walk)

    def _soon(self, task: Callable[[], Awaitable[object]]) -> None:
        async def guarded() -> None:
            try:
                await task()
            except Exception:
                log.exception("fetching ahead failed: %s", errors.unexpected())

        self._files.start_soon(guarded)

    def _failed(self, what: str, error: errors.ArtifactfsError) -> None:
        """Log a failure. One that may concern all requests stops them for a while."""
        if not isinstance(error, errors.PassingError):
            # It is gone, or another version: its reader sees that.
            log.debug("fetching ahead: %s: %s", what, error)
        elif (now := trio.current_time()) >= self._resume_at:
            pause_s = _PAUSE_S * 2 ** min(self._failures, _MAX_DOUBLINGS)
            self._failures += 1
            self._resume_at = now + pause_s
            log.info("fetching ahead pauses for %g s: %s: %s", pause_s, what, error)


def _above(path: str) -> Iterator[tuple[str, bytes]]:
    """Yield each level above a directory, the nearest first, and the name that leads to it there."""
    while path:
        path, _, name = path.rpartition("/")
        yield path, name.encode()


def _branch(path: str, entries: Entries, order: Order) -> _Branch:
    return path, iter(in_order([entry for entry in entries.values() if entry.is_dir], order))


def _directory(run_id: int, level: str, entry: Entry) -> ArtifactDir:
    # The number of its parent is of no use here.
    return ArtifactDir(run_id, join(level, entry.name), entry, 0)
