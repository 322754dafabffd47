"""The clocks of runs: which times the files of each run show, and how all of them change at once.

Within a run all files show their own times, or all show the run's (docs/semantics.md 2.3): a `RunClock` says which.
Hard: a listing that is being made when its run's clock changes must not come with the times of the old clock.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

import cachetools
import trio

from artifactfs.domain import ListedChild, Run
from artifactfs.tree import file_times, listing
from artifactfs.tree.file_times import RunClock
from artifactfs.tree.listing import AnyListing
from artifactfs.util.no_checkpoint import no_checkpoint


class RunClocks(cachetools.LRUCache[int, RunClock]):
    """The clocks of one mount's runs, by run id: of those of which a file was shown (`clock_of`).

    `cached(run_id)`: the cached directories of a run, by path. `indexed(run, prefix, path)`: what the index has of a
    directory's children, also where it is stale.
    """

    def __init__(
        self,
        max_runs: int,
        *,
        cached: Callable[[int], Iterable[tuple[str, AnyListing]]],
        indexed: Callable[[Run, str, str], Awaitable[Mapping[bytes, ListedChild]]],
        wall_clock_ns: Callable[[], int],
    ) -> None:
        super().__init__(max_runs)
        self._cached = cached
        self._indexed = indexed
        self._wall_clock_ns = wall_clock_ns
        self._retiming = trio.Lock()
        # Called with a run's id when the times of its files have changed all at once.
        self.on_new_times: Callable[[int], None] = lambda _run_id: None

    @no_checkpoint
    def adopt(self, run_id: int, told: RunClock) -> RunClock | None:
        """Return a run's clock if it is as told, or was not known; None where its files show other times."""
        if (clock := self.get(run_id)) is None:
            clock = self[run_id] = told
        return clock if (clock.own, clock.run_ns) == (told.own, told.run_ns) else None

    def seen_ns(self, run: Run) -> int:
        """Return the time of a file that the index lacks: of a run that still changes, it is a new one."""
        now_ns = self._wall_clock_ns()
        return listing.file_time_ns(run) if listing.settled(run, now_ns) else now_ns

    async def retime(self, made: AnyListing, run: Run, prefix: str, path: str, began: RunClock) -> RunClock:
        """Give a listing that was made by the clock `began` the times of the run's clock, which this returns."""
        while True:
            clock = clock_of(self, run)
            index = await self._indexed(run, prefix, path) if clock.own else {}
            file_times.apply(await file_times.changes(made, clock, began, index, self.seen_ns(run)))
            if self.get(run.run_id) is clock:
                return clock
            began = clock

    async def show_times(self, run: Run, prefix: str, *, own: bool) -> None:
        """Make all files of a run show their own times, or the run's, at once."""
        async with self._retiming:
            before = clock_of(self, run)
            clock = RunClock(own, run_time_ns(run, before))
            made: file_times.Changes = []
            seen: dict[str, AnyListing] = {}
            while todo := [(path, held) for path, held in self._cached(run.run_id) if seen.get(path) is not held]:
                for path, known in todo:
                    seen[path] = known
                    index = await self._indexed(run, prefix, path) if own else {}
                    made += await file_times.changes(known, clock, before, index, self.seen_ns(run))
            self._set(run.run_id, clock, made)
        if made:
            self.on_new_times(run.run_id)

    @no_checkpoint
    def _set(self, run_id: int, clock: RunClock, made: file_times.Changes) -> None:
        self[run_id] = clock
        file_times.apply(made)


def clock_of(clocks: RunClocks, run: Run) -> RunClock:
    """Return a run's clock, by which its files show the run's time at first."""
    clock: RunClock | None = clocks.get(run.run_id)
    if clock is None:
        clock = clocks[run.run_id] = RunClock(False, listing.file_time_ns(run))
    return clock


def run_time_ns(run: Run, clock: RunClock) -> int:
    """Return the time that a run's files show by its clock. An update of the run alone does not move it."""
    moves = run.completed_ns is None and run.created_ns is None
    return clock.run_ns if moves else listing.file_time_ns(run)
