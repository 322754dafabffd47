"""Who is walking: a run whose directories are looked at one after the other, and how long that goes on.

A walk is what makes it worth to ask ahead (index.py, prefetch.py). When one ends, the log says what it cost.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator

import cachetools
import msgspec
import trio

from artifactfs.domain import RequestUsage
from artifactfs.logs import EACH

log = logging.getLogger(__name__)

# Two directories from the third level of a run on, or four of any, within this time: a traversal. One deep
# file is no walk: who wants that waits longer for an index and its checks, three round trips, than for the one listing
# that he needs. A `find` is a walk after four requests.
_DEEP_LEVEL = 3
_DEEP_DIRECTORIES = 2
_DIRECTORIES = 4
_WITHIN_S = 2.0
# A walk that looked at nothing for this long is over; for less, nothing more is asked ahead of it.
_IDLE_S = 2.0
_PACE_S = 0.5
# Runs of which it is known when they were looked at; arbitrary.
_MAX_RUNS = 1_000


class Traversal(msgspec.Struct):
    """One run's walk. `cost`: of the mount, when it began.

    `seen`: directories whose contents were looked at, `on_read` how often one was for the first time; `wanted`: those
    that were not cached; `waiting`: how many are being fetched.
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
    """What a walk that is over has looked at, and what the mount asked meanwhile, for whomever."""

    run_id: int
    directories: int
    seconds: float
    cost: RequestUsage


class Traversals:
    """The walks of one mount. `cost` says what was asked of the service so far."""

    def __init__(self, *, nursery: trio.Nursery, clock: Callable[[], float], cost: Callable[[], RequestUsage]) -> None:
        self._nursery = nursery
        self._clock = clock
        self._cost = cost
        # By run, the directories that were asked for last, and when that was answered; the latest at the end.
        self._recent: cachetools.LRUCache[int, dict[str, float]] = cachetools.LRUCache(_MAX_RUNS)
        self._walks: dict[int, Traversal] = {}
        # For status: how many have ended, and the last of them.
        self.ended = 0
        self.last: TraversalCost | None = None

    def asked(self, run_id: int, path: str) -> None:
        """Note a lookup in a directory that is not cached."""
        now = self._clock()
        recent = self._recent.setdefault(run_id, {})
        recent.pop(path, None)
        recent[path] = now
        if len(recent) > _DIRECTORIES:
            del recent[next(iter(recent))]
        if (walk := self._walks.get(run_id)) is not None:
            walk.wanted.add(path)
            # The next look at it is a first one again: what is below it may be old, too.
            walk.seen.discard(path)
            walk.last = now
            return
        wanted = {path for path, when in recent.items() if now - when <= _WITHIN_S}
        deep = sum(level(path) >= _DEEP_LEVEL for path in wanted)
        if deep >= _DEEP_DIRECTORIES or len(wanted) >= _DIRECTORIES:
            self._walks[run_id] = Traversal(run_id, now, now, self._cost(), wanted=wanted)
            self._nursery.start_soon(self._until_it_ends, self._walks[run_id])

    @contextlib.contextmanager
    def asking(self, run_id: int, path: str) -> Iterator[None]:
        """Note a lookup that waits for a directory: the traversal does not end meanwhile."""
        self.asked(run_id, path)
        walk = self._walks.get(run_id)
        if walk is not None:
            walk.waiting += 1
        try:
            yield
        finally:
            now = self._clock()
            # How long the service took says nothing of how long he took.
            if path in (recent := self._recent.get(run_id, {})):
                recent[path] = now
            if walk is not None:
                walk.waiting -= 1
                walk.last = now

    def on_read(self, run_id: int, path: str) -> bool:
        """Note that a directory was read; returns whether the traversal reads it for the first time."""
        walk = self._walks.get(run_id)
        if walk is None or path in walk.seen:
            return False
        walk.seen.add(path)
        walk.on_read += 1
        walk.last = self._clock()
        return True

    def is_active(self, run_id: int) -> bool:
        """Whether a directory of a run was read a moment ago, or is being fetched."""
        walk = self._walks.get(run_id)
        return walk is not None and (walk.waiting > 0 or self._clock() - walk.last < _PACE_S)

    def __len__(self) -> int:
        return len(self._walks)

    def walk(self, run_id: int) -> Traversal | None:
        """Return the walk that goes on in a run."""
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
        # Of the whole mount: requests of other callers are included, and the line says so.
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
