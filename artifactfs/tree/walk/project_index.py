"""The project index: a project's flat listing, one answer in place of one for each directory (docs/semantics.md 1.6).

Owns the requests of indexes and their age. A run that is entered has its project's index requested, which alone has the
files' own times (2.3); a traversal takes whole directories from it, once it is trusted (index_validation.py). It names
files, not directories, and may be stale, partial, or of another project. So it never says that a name does not exist.
It is best effort: a caller waits at most 1 s for it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import IndexedFile, ListedChild, Run, encode_name
from artifactfs.tree.listing import Rows
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.index_validation import INSTEAD, Children, DirectLister, Validation, Validations, place_of
from artifactfs.tree.walk.packed_index import PackedIndex
from artifactfs.util.no_checkpoint import no_checkpoint

log = logging.getLogger(__name__)

# How long the lookups of a traversal wait for an index, all together; the same again for each step of its validation.
_WAIT_S = 1.0
# The same where a stale listing is cached. Its refresh may take 1 s in all (swr_cache.py), and if no index comes, the
# direct listing must fit in the rest.
_STALE_WAIT_S = 0.25
# How long the first listing of a run waits for the index that was requested beside it, so that files show their own
# times from the start. An index of 20,000 files comes in about that time.
_MOMENT_S = 0.5
# No retry for this long after an index failed, or was rejected for a run that is settled. Arbitrary.
_RETRY_S = 300.0
# An index that took long rests for this many times as long before it is requested for times again.
_REST = 20.0
# Indexes in flight at once: each holds a connection and memory.
_MAX_INFLIGHT = 2
# The deadline of an index: a later one is of no use to a traversal.
_DEADLINE_S = 60.0
# A directory of this name, and all below it, are listed on their own: git needs directories that it leaves empty (refs,
# and those of submodules); without them a copy is no repository.
_DIRECT_NAME = ".git"
# What a project takes beside its files, about: indexes that failed are bounded, too.
_RECORD_BYTES = 1000
# Projects whose indexes took longer than a moment.
_MAX_SLOW = 10_000


class _Project(msgspec.Struct):
    """The index of a project: in flight (`files` None), complete, or failed.

    `awaited_at`: when a traversal needed it first. `previous`: the index before it, which gives files' times until this
    one is complete. `retry_at`: no request for times before. `waiting`: runs that are validated when it is complete,
    each with its `path_in_project` and the direct listings that are not cached yet.
    """

    requested_at: float
    done: trio.Event
    awaited_at: float = float("inf")
    files: PackedIndex | None = None
    previous: PackedIndex | None = None
    retry_at: float = float("-inf")
    expired: bool = False
    waiting: dict[int, tuple[Run, str, dict[str, Children]]] = {}

    @property
    def size_bytes(self) -> int:
        """Its memory."""
        return _RECORD_BYTES + sum(files.size_bytes for files in (self.files, self.previous) if files is not None)


class IndexState(msgspec.Struct, frozen=True):
    """The index of one project: `state` is pending, trusted, rejected, unverified or failed.

    `files`: how many it names. `runs_right`, `runs_wrong`: for how many runs it was trusted and rejected. `age_s` since
    its request.
    """

    project_id: str
    state: str
    files: int
    age_s: float
    runs_right: int
    runs_wrong: int


class ProjectIndex:
    """The indexes of one mount. `ttl_s(run, age_s)`: the time to live of a listing of a run that is so old.

    `settled(run)`: whether a run's artifacts change no more.
    """

    def __init__(
        self,
        fetch: Callable[[str, Callable[[Sequence[IndexedFile]], None]], Awaitable[None]],
        lister: DirectLister,
        *,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        ttl_s: Callable[[Run, float], float],
        settled: Callable[[Run], bool],
        tuning: TreeTuning,
    ) -> None:
        self._fetch = fetch
        self._nursery = nursery
        self._clock = clock
        self._ttl_s = ttl_s
        self._settled = settled
        self._max_bytes = tuning.max_index_bytes - _RECORD_BYTES
        self._projects: cachetools.LRUCache[str, _Project] = cachetools.LRUCache(
            tuning.max_index_bytes, getsizeof=lambda project: project.size_bytes
        )
        self._validations = Validations(lister, nursery=nursery, clock=clock, settled=settled, choose=tuning.choose)
        self._slow: cachetools.LRUCache[str, bool] = cachetools.LRUCache(_MAX_SLOW)
        self._inflight = 0

    @no_checkpoint
    def request(self, run: Run) -> None:
        """Request the index of a run's project for its files' times, where that is due."""
        self._project(run, traversal=False)

    async def directory(
        self, run: Run, prefix: str, path: str, *, traversal: bool, has_stale: bool = False
    ) -> tuple[Mapping[bytes, ListedChild], float] | None:
        """Return a directory's children from the index, and when the index was requested; None without a trusted one.

        `prefix`: the run's `path_in_project`. Only a `traversal` waits for the index and its validation: at most 1 s in
        all, and no later than 1 s after the first lookup did. `has_stale`: a shorter wait, since a stale listing can be
        served.
        """
        if traversal:
            await self.verify(run, prefix, _STALE_WAIT_S if has_stale else _WAIT_S)
        if (trusted := self._answers(run, path)) is None:
            return None
        files, requested_at = trusted
        children = await files.directory(place_of(prefix, path))
        return None if children is None else (children, requested_at)

    async def verify(self, run: Run, prefix: str, wait_s: float = _WAIT_S) -> None:
        """Request the index of a run's project, and validate it for the run, where that is due; waits `wait_s` at most.

        The index may answer from then on, unless it is wrong, or late.
        """
        if (project := self._project(run, traversal=True)) is None:
            return
        now = self._clock()
        until = now + wait_s
        project.awaited_at = min(project.awaited_at, now)
        await self._wait(project.done, min(until, project.awaited_at + _WAIT_S))
        validation = self._validation(run, prefix, project, {})
        if validation is not None and project.files is not None:
            await self._wait(validation.done, min(until, validation.since + _WAIT_S))
            samples = self._validations.sample(run, prefix, project.files, validation)
            if samples is not None:
                await self._wait(samples, min(until, validation.sampled_since + _WAIT_S))

    @no_checkpoint
    def try_directory(self, run: Run, prefix: str, path: str) -> tuple[Rows, float] | None:
        """Return the rows of a directory, and when the index was requested, if that is trusted; never waits.

        None also for a large directory, which takes more than a turn of the event loop.
        """
        if (trusted := self._answers(run, path)) is None or (rows := trusted[0].rows(place_of(prefix, path))) is None:
            return None
        return rows, trusted[1]

    def _answers(self, run: Run, path: str) -> tuple[PackedIndex, float] | None:
        """Return the index that may answer for a directory, and when it was requested; None where none may."""
        project, validation = self._projects.get(run.project_id), self._validations.get(run.run_id)
        if project is None or project.files is None or validation is None:
            return None
        if not validation.is_trusted or validation.requested_at != project.requested_at:
            return None
        # Beside a directory that the index does not know there may be more of them: empty ones (docs/semantics.md 1.6).
        if path.rpartition("/")[0] in validation.lacks_directories or _DIRECT_NAME in path.split("/"):
            return None
        return (project.files, project.requested_at) if self._is_fresh(project, run) else None

    def is_trusted(self, run: Run) -> bool:
        """Whether there is a fresh index that may answer for directories of a run."""
        project, validation = self._projects.get(run.project_id), self._validations.get(run.run_id)
        return (
            project is not None
            and validation is not None
            and validation.is_trusted
            and validation.requested_at == project.requested_at
            and self._is_fresh(project, run)
        )

    def is_pending(self, run: Run) -> bool:
        """Whether a traversal has waited less than 1 s for an index, or for a step of its validation, that goes on."""
        project, validation = self._projects.get(run.project_id), self._validations.get(run.run_id)
        if project is None:
            return False
        if not project.done.is_set():
            return self._clock() - min(project.awaited_at, self._clock()) < _WAIT_S
        if validation is None or validation.requested_at != project.requested_at:
            return False
        if not validation.done.is_set():
            return self._clock() - validation.since < _WAIT_S
        samples = validation.samples
        return samples is not None and not samples.is_set() and self._clock() - validation.sampled_since < _WAIT_S

    async def listed(self, run: Run, prefix: str, path: str, own: Children) -> Mapping[bytes, ListedChild]:
        """Compare a directory's direct listing with the index, and return the index's children.

        Waits a moment for an index that was just requested, unless it took long before, or there is no file whose time
        it would tell. Returns nothing from an index that is wrong about the run.
        """
        project = self._projects.get(run.project_id)
        if project is None:
            return {}
        if not project.done.is_set():
            _, _, known = project.waiting.setdefault(run.run_id, (run, prefix, {}))
            if run.project_id not in self._slow and not all(child.is_dir for child in own.values()):
                known[path] = own
                await self._wait(project.done, project.requested_at + _MOMENT_S)
                known.pop(path, None)
        validation = self._validation(run, prefix, project, {path: own})
        if validation is None or project.files is None or validation.is_right is False:
            return {}
        await self._wait(validation.done, validation.since + _MOMENT_S)
        return await self._validations.compare(run, prefix, project.files, validation, path, own) or {}

    async def wait_for_all(self) -> None:
        """Wait until each index that was requested is complete, or has failed."""
        for project in list(self._projects.values()):
            await project.done.wait()

    def has_times(self, run: Run) -> bool:
        """Whether an index of the run's project is cached, however old."""
        project = self._projects.get(run.project_id)
        return project is not None and (project.files or project.previous) is not None

    async def stale_times(self, run: Run, prefix: str, path: str) -> Mapping[bytes, ListedChild]:
        """Return a directory's children from whatever index is cached, however old."""
        project = self._projects.get(run.project_id)
        files = (project.files or project.previous) if project is not None else None
        return (await files.directory(place_of(prefix, path)) or {}) if files is not None else {}

    def refresh(self, project_id: str) -> None:
        """Let a project's index be requested again (docs/semantics.md 3.3); until then it gives times only."""
        if (project := self._projects.get(project_id)) is not None:
            project.expired = True

    def states(self) -> list[IndexState]:
        """Return the state of each index."""
        outcomes: dict[float, list[bool | None]] = {}
        for validation in self._validations.values():
            outcome = validation.is_trusted or (False if validation.is_right is False else None)
            outcomes.setdefault(validation.requested_at, []).append(outcome)
        found = []
        for project_id, project in self._projects.items():
            of_runs = outcomes.get(project.requested_at, [])
            right, wrong = of_runs.count(True), of_runs.count(False)
            if not project.done.is_set():
                state = "pending"
            elif project.files is None:
                state = "failed"
            else:
                state = "trusted" if right else "rejected" if wrong else "unverified"
            files = project.files.count if project.files is not None else 0
            age_s = self._clock() - project.requested_at
            found.append(IndexState(project_id, state, files, age_s, right, wrong))
        return found

    def mark_all_stale(self) -> None:
        """Do the same for every index, and permit retries."""
        for project in self._projects.values():
            project.expired = True
        self._validations.clear()

    def clear(self) -> None:
        """Evict every index: they belong to another account (docs/semantics.md 6.3)."""
        self._projects.clear()
        self._validations.clear()

    def _is_fresh(self, project: _Project, run: Run) -> bool:
        age_s = self._clock() - project.requested_at
        return not project.expired and age_s < self._ttl_s(run, age_s)

    def _project(self, run: Run, *, traversal: bool) -> _Project | None:
        """Return a project's index, complete or in flight; requests it where that is due."""
        now = self._clock()
        project = self._projects.get(run.project_id)
        if project is not None and not project.expired:
            validation = self._validations.get(run.run_id)
            wrong = validation if validation is not None and validation.is_right is False else None
            if wrong is not None and self._settled(run) and now - wrong.since < _RETRY_S:
                return None
            if not project.done.is_set():
                return project
            if project.files is not None and self._is_fresh(project, run):
                if wrong is None or wrong.requested_at != project.requested_at:
                    return project
                if not self._settled(run):
                    return None
            elif now < project.retry_at and not (traversal and project.files is not None):
                return None
        # An id that is not a file name would change the URL.
        if self._inflight >= _MAX_INFLIGHT or encode_name(run.project_id) is None:
            return None
        previous = (project.files or project.previous) if project is not None else None
        project = self._projects[run.project_id] = _Project(now, trio.Event(), previous=previous)
        self._inflight += 1
        self._nursery.start_soon(self._load, run.project_id, project)
        return project

    async def _load(self, project_id: str, project: _Project) -> None:
        files = PackedIndex(self._max_bytes)
        try:
            with trio.move_on_after(_DEADLINE_S):
                await self._fetch(project_id, files.add)
                project.files = files if files.count else None
            if project.files is None:
                log.info(
                    "the listing of project %s names no file that can be shown, or is too slow: %s",
                    project_id,
                    INSTEAD,
                )
            else:
                log.info("the listing of project %s names %d files", project_id, files.count)
        except errors.ArtifactfsError as error:
            log.info("the listing of project %s is of no use (%s): %s", project_id, error, INSTEAD)
        except Exception:
            log.exception("reading a project's listing failed: %s", errors.unexpected())
        finally:
            self._loaded(project_id, project)

    @no_checkpoint
    def _loaded(self, project_id: str, project: _Project) -> None:
        """Take note that an index is complete, or failed."""
        now = self._clock()
        took_s = now - project.requested_at
        if project.files is None or took_s > _MOMENT_S:
            self._slow[project_id] = True
        else:
            self._slow.pop(project_id, None)
        if project.files is None:
            project.retry_at = now + _RETRY_S
        else:
            project.retry_at = now + _REST * took_s
            project.previous = None
            if self._projects.get(project_id) is project:
                self._projects[project_id] = project  # stored again: its weight is known now
        self._inflight -= 1
        project.done.set()
        for run, prefix, known in project.waiting.values():
            self._validation(run, prefix, project, known.copy())
        project.waiting.clear()

    async def _wait(self, event: trio.Event, until: float) -> None:
        """Wait for an event, at most until `until` of the clock."""
        if not event.is_set():
            with trio.move_on_after(max(0.0, until - self._clock())):
                await event.wait()

    def _validation(self, run: Run, prefix: str, project: _Project, known: Mapping[str, Children]) -> Validation | None:
        """Return the validation of an index for a run; starts it where that is due. None without a usable index."""
        if project.files is None or self._projects.get(run.project_id) is not project:
            return None  # in flight, failed, or evicted meanwhile
        if not self._is_fresh(project, run):
            return None
        validation = self._validations.get(run.run_id)
        if (
            validation is not None
            and validation.is_right is False
            and validation.requested_at != project.requested_at
            and self._settled(run)
            and self._clock() - validation.since < _RETRY_S
        ):
            return None
        return self._validations.start(run, prefix, project.files, project.requested_at, known)
