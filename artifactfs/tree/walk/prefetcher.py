"""The prefetcher: lists directories ahead of a traversal, nearest first, where the service has no project index.

Nearest are the directories that `find` reads next: those below the directory read last, depth first, then its siblings,
then its parents' siblings. The prefetcher works only while the traversal is active, stays within a small multiple of
the directories read, and sends only requests that delay no other: the client says whether it has room.
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
from artifactfs.util.no_checkpoint import no_checkpoint

log = logging.getLogger(__name__)

# Directories prefetched and not read yet: a base, and more for each directory read; at most as many as the traversal
# reads in 30 s at its pace, since later ones would be stale when it reads them.
_AHEAD = 16
_AHEAD_PER_VISITED = 2.0
_AHEAD_S = 30.0
# The pause after a failed prefetch; it doubles with each further failure. Arbitrary.
_PAUSE_S = 1.0
_MAX_DOUBLINGS = 5
# How often to try again while other requests use the room, or an index is pending.
_RETRY_S = 0.02

Entries = Mapping[bytes, Entry]


class ListingAccess(Protocol):
    """The listings, as the prefetcher needs them. A place is a directory's path in its run."""

    def fresh_entries(self, run_id: int, place: str) -> Entries | None:
        """Return a directory's entries if they are cached and fresh."""

    def all_fresh_entries(self, run_id: int) -> Iterable[tuple[str, Entries]]:
        """Return every directory of a run that is cached and fresh, and below which not all is known."""

    async def fetch(self, run_id: int, place: str) -> Entries:
        """Fetch a directory's entries; equal requests join the fetch."""

    def may_prefetch(self, run_id: int) -> bool:
        """Whether a prefetch may start now."""


class _Frontier(msgspec.Struct):
    """The directories to prefetch for one traversal.

    `queue`: by rank, position and order, a directory's path and its entries that were not taken yet. The rank is that
    of the directory that was read, the latest first. The position is relative to it: (2, 0) is the first directory
    below its third. `queued`: places that were taken. `unvisited`: places that were prefetched and not read yet.
    """

    walk: Traversal
    queue: list[tuple[int, tuple[int, ...], int, str, Iterator[Entry]]] = []
    queued: set[str] = set()
    unvisited: set[str] = set()
    ended: bool = False
    # After a failure: when the next prefetch may start (trio's clock), and how many failed in a row.
    resume_at: float = 0.0
    failures: int = 0
    wakeup: trio.Event = msgspec.field(default_factory=trio.Event)


class Prefetcher:
    """Prefetches for the traversals of one mount."""

    def __init__(
        self,
        listings: ListingAccess,
        *,
        nursery: trio.Nursery,
        walk: Callable[[int], Traversal | None],
        tuning: TreeTuning,
    ) -> None:
        self._listings = listings
        self._tuning = tuning
        self._nursery = nursery
        self._walk = walk
        self._ahead: dict[int, _Frontier] = {}
        self._inflight = 0
        self._order = itertools.count()
        # For status: directories that were prefetched.
        self.listed = 0

    @no_checkpoint
    def on_read(self, run_id: int, place: str, entries: Entries) -> None:
        """Queue the directories below one that a traversal has read."""
        walk = self._walk(run_id)
        if walk is None:
            return
        ahead = self._ahead.get(run_id)
        if ahead is None or ahead.walk is not walk:
            ahead = self._ahead[run_id] = _Frontier(walk)
            # The directories read before the traversal was recognised: the deepest is nearest, of those the latest.
            known = list(self._listings.all_fresh_entries(run_id))[::-1]
            for rank, (its_place, its_entries) in enumerate(sorted(known, key=lambda found: -level(found[0]))):
                self._enqueue(ahead, rank, (0,), its_place, its_entries)
            self._nursery.start_soon(self._list_ahead, ahead)
        if ahead.ended:
            return
        ahead.unvisited.discard(place)
        self._enqueue(ahead, -walk.on_read, (0,), place, entries)
        _wake(ahead)

    def _enqueue(self, ahead: _Frontier, rank: int, position: tuple[int, ...], place: str, entries: Entries) -> None:
        # One record for all: there may be 100,000 entries. A copy, since contents that contradict a listing change it.
        heapq.heappush(ahead.queue, (rank, position, next(self._order), place, iter(tuple(entries.values()))))

    @staticmethod
    def _next(ahead: _Frontier) -> tuple[int, tuple[int, ...], str] | None:
        """Take the nearest place from the queue, with rank and position; None if it is empty."""
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
                with trio.move_on_after(1.0 if self._begin(ahead) else _RETRY_S):
                    await ahead.wakeup.wait()
        except Exception:
            log.exception("listing ahead failed: %s", errors.unexpected())
        finally:
            # The traversal itself may go on, without prefetches.
            ahead.ended = True
            for held in (ahead.queue, ahead.queued, ahead.unvisited):
                held.clear()
        while self._walk(run_id) is ahead.walk:  # noqa: ASYNC110
            await trio.sleep(1.0)
        if self._ahead.get(run_id) is ahead:
            del self._ahead[run_id]

    def _begin(self, ahead: _Frontier) -> bool:
        """Start as many prefetches as may start now. Returns whether to wait for a wake-up, and not to retry soon."""
        run_id = ahead.walk.run_id
        for _ in range(self._tuning.prefetch_steps):
            if self._inflight >= self._tuning.max_prefetches:
                return True
            if len(ahead.unvisited) >= _bound(ahead.walk):
                return True
            if trio.current_time() < ahead.resume_at or not self._listings.may_prefetch(run_id):
                return False
            if (found := self._next(ahead)) is None:
                return True
            rank, position, place = found
            known = place in ahead.queued
            ahead.queued.add(place)
            if (entries := self._listings.fresh_entries(run_id, place)) is not None:
                if not known:
                    self._enqueue(ahead, rank, (*position, 0), place, entries)
            # A second time only if the traversal has read it, and it is stale by now.
            elif not known or (len(position) == 1 and place not in ahead.unvisited):
                ahead.unvisited.add(place)
                self._inflight += 1
                self._nursery.start_soon(self._fetch, ahead, rank, position, place)
        return False

    async def _fetch(self, ahead: _Frontier, rank: int, position: tuple[int, ...], place: str) -> None:
        try:
            # A reader's own request for it may have been answered since this task was started.
            if (entries := self._listings.fresh_entries(ahead.walk.run_id, place)) is None:
                entries = await self._listings.fetch(ahead.walk.run_id, place)
                self.listed += 1
            ahead.failures = 0
            if not ahead.ended:
                self._enqueue(ahead, rank, (*position, 0), place, entries)
        except errors.NoSuchEntry as error:
            log.debug("prefetch in run %d: %s", ahead.walk.run_id, error)
        except errors.ArtifactfsError as error:
            # A read of this directory asks again. The same fault may concern all directories, so all prefetches pause.
            if trio.current_time() >= ahead.resume_at:
                pause_s = _PAUSE_S * 2 ** min(ahead.failures, _MAX_DOUBLINGS)
                ahead.failures += 1
                ahead.resume_at = trio.current_time() + pause_s
                log.info("listing ahead in run %d pauses for %g s: %s", ahead.walk.run_id, pause_s, error)
        except Exception:
            log.exception("listing ahead failed: %s", errors.unexpected())
            ahead.ended = True
        finally:
            self._inflight -= 1
            _wake(ahead)


def _wake(ahead: _Frontier) -> None:
    wakeup, ahead.wakeup = ahead.wakeup, trio.Event()
    wakeup.set()


def _bound(walk: Traversal) -> float:
    took_s = max(walk.last - walk.began, 1.0)
    return _AHEAD + walk.on_read * min(_AHEAD_PER_VISITED, _AHEAD_S / took_s)
