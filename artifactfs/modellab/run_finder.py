"""The runs that a filter chooses: asks the service, and shows no run that it cannot vouch for.

A service may refuse a filter, fail at it, or ignore it and answer with all runs. So each row is tested
(run_filters.py). Rows that do not tell (a run's parent is in none) count if the service knows the filter. One request
for what no run has proves that, once: an answer with runs shows that the filter is ignored.
"""

import logging
from collections.abc import Awaitable, Callable

import cachetools
import trio

from artifactfs import errors
from artifactfs.domain import RunFilter, RunRecord
from artifactfs.logs import NOTICE
from artifactfs.modellab import run_filters

log = logging.getLogger(__name__)

# Rows that are looked through where the service does not choose, at least: as many as a directory shows by default.
_LOOKED_THROUGH = 200
# Filters of which it is remembered that the service failed at them. Arbitrary.
_MAX_FAILED = 1_000
# Rows that are tested before the event loop has its turn: some 10 ms.
_ROWS_PER_TURN = 500

# Returns the first so many rows of a query, newest first.
AskForRuns = Callable[[int, dict[str, str]], Awaitable[list[RunRecord]]]


class RunFinder:
    """Finds runs. `ask` raises ServiceError, and so does `find`."""

    def __init__(self, ask: AskForRuns) -> None:
        self._ask = ask
        # By filter: whether the service knows it.
        self._known: dict[str, bool] = {}
        # The filters that the service failed at when they were last asked for.
        self._failed: cachetools.LRUCache[RunFilter, bool] = cachetools.LRUCache(_MAX_FAILED)

    async def find(self, count: int, wanted: RunFilter, *, has_older: bool = False) -> list[RunRecord]:
        """Return the `count` runs last updated of those that are wanted, newest first.

        Fewer where the service does not know a filter, refuses it, fails at it, or a filter cannot be written: then the
        runs that were last updated, of the project if one is wanted, are looked through. `has_older`: the caller has an
        older answer. Where that was the service's choice, a failure is raised: it may pass (docs/semantics.md 3.2).
        """
        query, unsent = run_filters.query_of(wanted), run_filters.unwritten(wanted)
        shown = run_filters.shown(query, unsent)
        try:
            rows = await self._ask(max(count, _LOOKED_THROUGH) if unsent else count, query)
            self._failed.pop(wanted, None)
        except (errors.BadRequest, errors.NotFound, errors.ServerFailed) as error:
            looser = run_filters.looser(wanted)
            may_pass = isinstance(error, errors.PassingError) and has_older and wanted not in self._failed
            if looser == wanted or may_pass:
                raise
            self._failed[wanted] = True
            log.warning("the service does not choose runs by %s: %s", shown, error, extra=NOTICE)
            fewer = run_filters.query_of(looser)
            unsent |= query.keys() - fewer.keys()
            rows = await self._ask(max(count, _LOOKED_THROUGH), fewer)
        found, unproven_of = list[RunRecord](), dict[int, set[str]]()
        for place, record in enumerate(rows):
            if place % _ROWS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            if run_filters.holds(wanted, record):
                found.append(record)
                unproven_of[record.run.run_id] = run_filters.unproven(wanted, record)
        unknown = {name for name in set().union(*unproven_of.values()) if name in unsent or not await self._knows(name)}
        found = [record for record in found if not unproven_of[record.run.run_id] & unknown]
        if len(found) < len(rows) or (unsent and len(rows) >= count):
            log.warning(
                "the service does not choose runs by all of %s: of the %d runs last updated, those are shown that "
                "match for certain; enter others by their id",
                shown,
                len(rows),
                extra=NOTICE,
            )
        return found[:count]

    async def _knows(self, name: str) -> bool:
        if name not in self._known:
            try:
                self._known[name] = not await self._ask(1, {name: run_filters.OF_NO_RUN[name]})
            except (errors.BadRequest, errors.NotFound):
                # It was looked at. A failure proves nothing, and may pass.
                self._known[name] = True
        return self._known[name]
