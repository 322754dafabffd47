"""What to list before it is asked for: the directories below one that is being walked, nearest first.

For a service without an index. Nearest is what a walk comes to next if it goes on as `find` does: what is below the
directory that was looked at last, each with what is below it; then what is beside it, and beside those above it. Only
while a traversal is active, never more than a few times the directories that were read, and only by requests that
delay no other: the client says whether there is room (its free connections, its rate limit).
"""

import heapq
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import msgspec
import trio

from artifactfs import errors
from artifactfs.tree.nodes import Entry, join
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.traversals import Traversal, level

log = logging.getLogger(__name__)

# Directories listed ahead and not looked at yet: so many, and so many more for each that was looked at; but not more
# than he gets to in so many seconds at his pace, or they are old when he comes.
_AHEAD = 16
_AHEAD_PER_VISITED = 2.0
_AHEAD_S = 30.0
# After a request ahead that failed none goes for this long, twice as long after each that follows. Arbitrary.
_PAUSE_S = 1.0
_MAX_DOUBLINGS = 5
# Where others take up the room, or an index may come, how often to look again.
_LOOK_AGAIN_S = 0.02

Entries = Mapping[bytes, Entry]


class Asks(Protocol):
    """What listing ahead needs of the tree. A place is a directory's path in its run."""

    def at_hand(self, run_id: int, place: str) -> Entries | None:
        """Return a directory's entries if they are cached and fresh."""

    def all_at_hand(self, run_id: int) -> Iterable[tuple[str, Entries]]:
        """Return every directory of a run that is cached and fresh."""

    async def bring(self, run_id: int, place: str) -> Entries:
        """Return a directory's entries; concurrent callers share one fetch."""

    def may_go(self, run_id: int) -> bool:
        """Whether a request ahead may go now."""


class _Frontier(msgspec.Struct):
    """What is listed ahead of one walk.

    `queue`: by rank, position and order a directory's path, and what it holds that was not taken from there yet. The
    rank is that of the directory that was looked at, the latest first; the position is counted from there on: (2, 0)
    is the first of what is below its third. `queued`: places that were taken; `unvisited`: those that were listed, and
    no lookup has read.
    """

    walk: Traversal
    queue: list[tuple[int, tuple[int, ...], int, str, Iterator[Entry]]] = []
    queued: set[str] = set()
    unvisited: set[str] = set()
    ended: bool = False
    # After a request that failed: when the next may go (of trio's clock), and how many failed in a row.
    resume_at: float = 0.0
    failures: int = 0
    news: trio.Event = msgspec.field(default_factory=trio.Event)


class Prefetcher:
    """Lists ahead of the walks of one mount."""

    def __init__(
        self, asks: Asks, *, nursery: trio.Nursery, walk: Callable[[int], Traversal | None], tuning: TreeTuning
    ) -> None:
        self._asks = asks
        self._tuning = tuning
        self._nursery = nursery
        self._walk = walk
        self._ahead: dict[int, _Frontier] = {}
        self._flights = 0
        self._order = itertools.count()
        # For status: prefetched directories.
        self.listed = 0

    def on_read(self, run_id: int, place: str, entries: Entries) -> None:
        """Note that a directory was read; in a traversal, the directories below it are next. No await."""
        walk = self._walk(run_id)
        if walk is None:
            return
        ahead = self._ahead.get(run_id)
        if ahead is None or ahead.walk is not walk:
            ahead = self._ahead[run_id] = _Frontier(walk)
            # What was looked at before it was seen to be a walk: the deepest is the nearest, of those the latest.
            known = list(self._asks.all_at_hand(run_id))[::-1]
            for rank, (its_place, its_entries) in enumerate(sorted(known, key=lambda found: -level(found[0]))):
                self._enqueue(ahead, rank, (0,), its_place, its_entries)
            self._nursery.start_soon(self._list_ahead, ahead)
        if ahead.ended:
            return
        ahead.unvisited.discard(place)
        self._enqueue(ahead, -walk.on_read, (0,), place, entries)
        _wake(ahead)

    def _enqueue(self, ahead: _Frontier, rank: int, position: tuple[int, ...], place: str, entries: Entries) -> None:
        # Not each by itself: there may be 100,000.
        heapq.heappush(ahead.queue, (rank, position, next(self._order), place, iter(entries.values())))

    @staticmethod
    def _next(ahead: _Frontier) -> tuple[int, tuple[int, ...], str] | None:
        """Take the nearest place out of the queue, with rank and position; None if there is none."""
        while ahead.queue:
            rank, position, order, path, rest = heapq.heappop(ahead.queue)
            for entry in rest:
                if entry.is_dir:
                    heapq.heappush(ahead.queue, (rank, (*position[:-1], position[-1] + 1), order, path, rest))
                    return rank, position, join(path, entry.name)
        return None

    async def _list_ahead(self, ahead: _Frontier) -> None:
        run_id = ahead.walk.run_id
        try:
            while self._walk(run_id) is ahead.walk and not ahead.ended:
                with trio.move_on_after(1.0 if self._begin(ahead) else _LOOK_AGAIN_S):
                    await ahead.news.wait()
        except Exception:
            log.exception("listing ahead failed: %s", errors.unexpected())
        finally:
            # The walk itself may go on: then nothing more is listed ahead of it.
            ahead.ended = True
            for held in (ahead.queue, ahead.queued, ahead.unvisited):
                held.clear()
        while self._walk(run_id) is ahead.walk:  # noqa: ASYNC110
            await trio.sleep(1.0)
        if self._ahead.get(run_id) is ahead:
            del self._ahead[run_id]

    def _begin(self, ahead: _Frontier) -> bool:
        """Ask for as much as may be asked for now. Returns whether nothing more is to be asked until there is news."""
        run_id = ahead.walk.run_id
        for _ in range(self._tuning.prefetch_steps):
            if self._flights >= self._tuning.max_prefetches:
                return True
            if len(ahead.unvisited) >= _bound(ahead.walk):
                return True
            if trio.current_time() < ahead.resume_at or not self._asks.may_go(run_id):
                return False
            if (found := self._next(ahead)) is None:
                return True
            rank, position, place = found
            known = place in ahead.queued
            ahead.queued.add(place)
            if (entries := self._asks.at_hand(run_id, place)) is not None:
                if not known:
                    self._enqueue(ahead, rank, (*position, 0), place, entries)
            # Again only if it was read, and is stale by now.
            elif not known or (len(position) == 1 and place not in ahead.unvisited):
                ahead.unvisited.add(place)
                self._flights += 1
                self._nursery.start_soon(self._bring, ahead, rank, position, place)
        return False

    async def _bring(self, ahead: _Frontier, rank: int, position: tuple[int, ...], place: str) -> None:
        try:
            entries = await self._asks.bring(ahead.walk.run_id, place)
            ahead.failures = 0
            self.listed += 1
            if not ahead.ended:
                self._enqueue(ahead, rank, (*position, 0), place, entries)
        except errors.NoSuchEntry as error:
            log.debug("listing ahead in run %d: %s", ahead.walk.run_id, error)
        except errors.ArtifactfsError as error:
            # Who comes there asks himself. What is wrong with one may be wrong with all: the others wait a while.
            if trio.current_time() >= ahead.resume_at:
                pause_s = _PAUSE_S * 2 ** min(ahead.failures, _MAX_DOUBLINGS)
                ahead.failures += 1
                ahead.resume_at = trio.current_time() + pause_s
                log.info("listing ahead in run %d pauses for %g s: %s", ahead.walk.run_id, pause_s, error)
        except Exception:
            log.exception("listing ahead failed: %s", errors.unexpected())
            ahead.ended = True
        finally:
            self._flights -= 1
            _wake(ahead)


def _wake(ahead: _Frontier) -> None:
    news, ahead.news = ahead.news, trio.Event()
    news.set()


def _bound(walk: Traversal) -> float:
    took_s = max(walk.last - walk.began, 1.0)
    return _AHEAD + walk.on_read * min(_AHEAD_PER_VISITED, _AHEAD_S / took_s)
