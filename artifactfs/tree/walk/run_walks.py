"""Walks over the runs of a project, as `find /runs` and a loop over `/names/PROJECT/*` do them.

Owns which runs come next, and prepares them: each needs its root's listing, since only that tells the run's place in
the index, and a sample. Hard: the order of a walk. Runs are expected in the order of the page that they were listed in,
or against it; where a walk goes another way, a few runs are prepared early, and the rest when they are entered.
"""

import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import Run

log = logging.getLogger(__name__)

# A walk over runs is recognised by traversals of so many runs of a project that began within so many seconds of each
# other. Arbitrary: before that, each run costs what a single one does.
_RUNS = 3
_WITHIN_S = 10.0
# Runs that are prepared at once, with one request in flight each, and runs that are prepared and not read yet.
_MAX_INFLIGHT = 6
_MAX_AHEAD = 12
# Nothing is prepared for a walk that has entered no run for this long.
_IDLE_S = 2.0
# How often to try again while other requests use the room.
_RETRY_S = 0.05
_MAX_PROJECTS = 100


class _RunWalk(msgspec.Struct):
    """The walk over one project's runs.

    `began`: runs whose traversal began, and when, the latest last. `entered`: the run entered last. `step`: 1 for the
    order of the page, -1 against it. `taken`: runs that were entered or prepared. `ahead`: those not entered yet.
    """

    began: dict[int, float] = {}
    entered: int | None = None
    entered_at: float = float("-inf")
    step: int = 1
    taken: set[int] = set()
    ahead: set[int] = set()
    inflight: int = 0
    is_served: bool = False
    wakeup: trio.Event = msgspec.field(default_factory=trio.Event)


class RunWalks:
    """The walks over runs of one mount.

    `find(run_id)` returns a run that is known, `listed(project_id)` the runs of a project in the order of a page that
    is cached. `prepare(run)` lists a run's root and verifies the index for the run. `may_prefetch`: whether a request
    delays no other.
    """

    def __init__(
        self,
        *,
        find: Callable[[int], Run | None],
        listed: Callable[[str], Sequence[Run]],
        prepare: Callable[[Run], Awaitable[None]],
        may_prefetch: Callable[[], bool],
        nursery: trio.Nursery,
        clock: Callable[[], float],
    ) -> None:
        self._find = find
        self._listed = listed
        self._prepare = prepare
        self._may_prefetch = may_prefetch
        self._nursery = nursery
        self._clock = clock
        self._walks: cachetools.LRUCache[str, _RunWalk] = cachetools.LRUCache(_MAX_PROJECTS)
        # Without one, no run is expected.
        self.has_walks = False

    def expects(self, run_id: int) -> bool:
        """Whether a walk over the runs of a run's project is under way, so that this run is walked, too."""
        run = self._find(run_id)
        walk = self._walks.get(run.project_id) if run is not None else None
        return walk is not None and self._is_walk(walk)

    def on_began(self, run_id: int) -> None:
        """Record that the traversal of a run began."""
        if (run := self._find(run_id)) is None:
            return
        self.has_walks = True
        walk = self._walks.setdefault(run.project_id, _RunWalk())
        walk.began.pop(run_id, None)
        walk.began[run_id] = self._clock()
        if len(walk.began) > _RUNS:
            del walk.began[next(iter(walk.began))]
        self._enter(run, walk)
        if self._is_walk(walk) and not walk.is_served:
            walk.is_served = True
            self._nursery.start_soon(self._serve, run.project_id, walk)

    def on_entered(self, run_id: int) -> None:
        """Record that the root of a run was read."""
        run = self._find(run_id)
        walk = self._walks.get(run.project_id) if run is not None else None
        if run is not None and walk is not None:
            self._enter(run, walk)

    def _is_walk(self, walk: _RunWalk) -> bool:
        """Whether enough runs were walked one soon after the other, the last of them a short while ago."""
        if len(walk.began) < _RUNS:
            return False
        times = [*walk.began.values(), self._clock()]
        return all(later - earlier <= _WITHIN_S for earlier, later in itertools.pairwise(times))

    def _enter(self, run: Run, walk: _RunWalk) -> None:
        walk.entered_at = self._clock()
        walk.ahead.discard(run.run_id)
        walk.taken.add(run.run_id)
        if walk.entered not in (None, run.run_id) and walk.is_served:
            order = [each.run_id for each in self._listed(run.project_id)]
            if run.run_id in order and walk.entered in order:
                walk.step = 1 if order.index(run.run_id) > order.index(walk.entered) else -1
        walk.entered = run.run_id
        wakeup, walk.wakeup = walk.wakeup, trio.Event()
        wakeup.set()

    def _next(self, project_id: str, walk: _RunWalk) -> Run | None:
        """Return the next run to prepare: of those behind the one that was entered last."""
        runs = list(self._listed(project_id))[:: walk.step]
        place = next((place for place, run in enumerate(runs) if run.run_id == walk.entered), None)
        if place is None:
            return None
        return next((run for run in runs[place + 1 :][:_MAX_AHEAD] if run.run_id not in walk.taken), None)

    async def _serve(self, project_id: str, walk: _RunWalk) -> None:
        try:
            while self._clock() - walk.entered_at < _IDLE_S:
                with trio.move_on_after(_IDLE_S if self._begin(project_id, walk) else _RETRY_S):
                    await walk.wakeup.wait()
        except Exception:
            log.exception("preparing the runs of project %s failed: %s", project_id, errors.unexpected())
        finally:
            walk.is_served = False
            walk.taken.clear()
            walk.ahead.clear()

    def _begin(self, project_id: str, walk: _RunWalk) -> bool:
        """Start to prepare as many runs as may be. Returns whether to wait for a wake-up, and not to retry soon."""
        while walk.inflight < _MAX_INFLIGHT and len(walk.ahead) < _MAX_AHEAD:
            if not self._may_prefetch():
                return False
            if (run := self._next(project_id, walk)) is None:
                return True
            walk.taken.add(run.run_id)
            walk.ahead.add(run.run_id)
            walk.inflight += 1
            self._nursery.start_soon(self._prepare_one, run, walk)
        return True

    async def _prepare_one(self, run: Run, walk: _RunWalk) -> None:
        try:
            await self._prepare(run)
        except errors.ArtifactfsError as error:
            # A read of this run asks again.
            log.debug("preparing run %d: %s", run.run_id, error)
        except Exception:
            log.exception("preparing run %d failed: %s", run.run_id, errors.unexpected())
        finally:
            walk.inflight -= 1
            wakeup, walk.wakeup = walk.wakeup, trio.Event()
            wakeup.set()
