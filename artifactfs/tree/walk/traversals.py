"""Traversals: runs whose directories are read one after the other, as `find`, `du` and `ls -R` do.

Only a traversal is worth an index or prefetches (project_index.py, prefetcher.py). Its cost is logged when it ends.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator

import cachetools
import msgspec
import trio

from artifactfs.domain import RequestUsage
from artifactfs.logs import EACH
from artifactfs.tree.walk.run_walks import RunWalks

log = logging.getLogger(__name__)

# A traversal is recognised by two directories from the third level of a run on, or four of any level, within this time.
# One deep file is no traversal: an index and its validation cost three round trips, its one listing costs one. A `find`
# is recognised after four requests.
_DEEP_LEVEL = 3
_DEEP_DIRECTORIES = 2
_DIRECTORIES = 4
_WITHIN_S = 2.0
# A traversal ends when it has read nothing for 2 s; prefetches stop after half a second.
_IDLE_S = 2.0
_PACE_S = 0.5
# Runs whose last requests are remembered; arbitrary.
_MAX_RUNS = 1_000


class Traversal(msgspec.Struct):
    """The traversal of one run. `cost`: the mount's requests until it began.

    `seen`: directories that were read, `on_read`: how often one was read for the first time. `wanted`: directories that
    were not cached, `waiting`: how many of them are being fetched.
    """

    run_id: int
    began: float
    last: float
    cost: RequestUsage
    on_read: int = 0
    waiting: int = 0
    seen: set[str] = set()
    wanted: set[str] = set()


class TraversalCost(msgspec.Struct, frozen=True):
    """What a traversal has read, and all requests of the mount meanwhile."""

    run_id: int
    directories: int
    seconds: float
    cost: RequestUsage


class Traversals:
    """The traversals of one mount. `cost` returns the requests of the mount so far."""

    def __init__(self, *, nursery: trio.Nursery, clock: Callable[[], float], cost: Callable[[], RequestUsage]) -> None:
        self._nursery = nursery
        self._clock = clock
        self._cost = cost
        # By run, the directories requested last, and when they were answered; the latest at the end.
        self._recent: cachetools.LRUCache[int, dict[str, float]] = cachetools.LRUCache(_MAX_RUNS)
        self._walks: dict[int, Traversal] = {}
        # Where there are indexes: walks over many runs, of which each traversal is a part.
        self.over_runs: RunWalks | None = None
        # For status: how many have ended, and the last of them.
        self.ended = 0
        self.last: TraversalCost | None = None

    def asked(self, run_id: int, path: str) -> None:
        """Record that a directory is needed and not cached."""
        now = self._clock()
        recent = self._recent.setdefault(run_id, {})
        recent.pop(path, None)
        recent[path] = now
        if len(recent) > _DIRECTORIES:
            del recent[next(iter(recent))]
        if (walk := self._walks.get(run_id)) is not None:
            walk.wanted.add(path)
            # The next read counts as the first: directories below it may be stale, too.
            walk.seen.discard(path)
            walk.last = now
            return
        wanted = {path for path, when in recent.items() if now - when <= _WITHIN_S}
        deep = sum(level(path) >= _DEEP_LEVEL for path in wanted)
        over_runs = self.over_runs
        is_expected = path and over_runs is not None and over_runs.has_walks and over_runs.expects(run_id)
        if deep >= _DEEP_DIRECTORIES or len(wanted) >= _DIRECTORIES or is_expected:
            self._walks[run_id] = Traversal(run_id, now, now, self._cost(), wanted=wanted)
            self._nursery.start_soon(self._until_it_ends, self._walks[run_id])
            if self.over_runs is not None:
                self.over_runs.on_began(run_id)

    @contextlib.contextmanager
    def asking(self, run_id: int, path: str) -> Iterator[None]:
        """Record that a directory is needed and not cached; a traversal does not end while it is fetched."""
        self.asked(run_id, path)
        walk = self._walks.get(run_id)
        if walk is not None:
            walk.waiting += 1
        try:
            yield
        finally:
            now = self._clock()
            # The service's time says nothing about the pace of the traversal.
            if path in (recent := self._recent.get(run_id, {})):
                recent[path] = now
            if walk is not None:
                walk.waiting -= 1
                walk.last = now

    def on_read(self, run_id: int, path: str) -> bool:
        """Record that a directory was read; returns whether it is the traversal's first read of it."""
        if not path and self.over_runs is not None:
            self.over_runs.on_entered(run_id)
        walk = self._walks.get(run_id)
        if walk is None or path in walk.seen:
            return False
        walk.seen.add(path)
        walk.on_read += 1
        walk.last = self._clock()
        return True

    def is_active(self, run_id: int) -> bool:
        """Whether a directory of a run was read within the last half second, or is being fetched."""
        walk = self._walks.get(run_id)
        return walk is not None and (walk.waiting > 0 or self._clock() - walk.last < _PACE_S)

    def __len__(self) -> int:
        return len(self._walks)

    def walk(self, run_id: int) -> Traversal | None:
        """Return the traversal of a run, if there is one."""
        return self._walks.get(run_id)

    async def _until_it_ends(self, walk: Traversal) -> None:
        try:
            # One wake-up in two seconds, not one a visit.
            while (left_s := walk.last + _IDLE_S - self._clock()) > 0 or walk.waiting:  # noqa: ASYNC110
                await trio.sleep(left_s if left_s > 0 else _IDLE_S)
        finally:  # also where the mount ends first
            del self._walks[walk.run_id]
            self._tell(walk)

    def _tell(self, walk: Traversal) -> None:
        # The requests of the whole mount: those of other programs cannot be separated, so the line says so.
        cost = self._cost() - walk.cost
        directories = len(walk.seen | walk.wanted)
        self.ended += 1
        self.last = TraversalCost(walk.run_id, directories, walk.last - walk.began, cost)
        requests = ", ".join(f"{count} {kind}" for kind, count in sorted(cost.requests.items())) or "none"
        log.info(
            "walked %d directories of run %d in %.1f s; requests of this mount meanwhile: %s; %.1f s of pauses, "
            "all waits together; %d KiB received",
            directories, walk.run_id, walk.last - walk.began, requests, cost.paused_s,
            cost.received_bytes >> 10,
            extra=EACH,
        )  # fmt: skip


def level(path: str) -> int:
    """Return how far down in its run a directory is: 1 for the root."""
    return path.count("/") + 2 if path else 1
