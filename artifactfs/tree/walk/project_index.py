"""The project index: a project's flat listing, one answer in place of one for each directory (docs/semantics.md 1.6).

An index is trusted for a run only while all directories of the run that were listed directly agree with it: the root,
those of the traversal, and some chosen at random. It names files, not directories, and may be stale, partial, or of
another project. So it never says that a name does not exist. It is best effort: a caller waits at most 1 s for it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import IndexedFile, ListedChild, Run, below_prefix, encode_name, without_lead
from artifactfs.tree.listing import checkpoint_if_full, chunked
from artifactfs.tree.nodes import Entry
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.tree.walk.packed_index import PackedIndex

log = logging.getLogger(__name__)

# How long a lookup of a traversal waits for an index, from its request on; the same again for its validation.
_WAIT_S = 1.0
# The same where a stale listing is cached. Its refresh may take 1 s in all (swr_cache.py), and if no index comes, the
# direct listing must fit in the rest.
_STALE_WAIT_S = 0.25
# No retry for this long after an index failed, or was rejected for a run. Arbitrary.
_RETRY_S = 300.0
# No second validation for this long after one that the service did not answer.
_REVALIDATE_S = 5.0
# Indexes in flight at once: each holds a connection and memory.
_MAX_INFLIGHT = 2
# The deadline of an index: a later one is of no use to a traversal.
_DEADLINE_S = 60.0
# Directories chosen at random that are listed directly before an index is trusted for a run: at least two (semantics
# 1.6). They are requested in parallel, so that one more costs no time.
_SAMPLES = 3
# Runs whose validations are remembered.
_MAX_RUNS = 1_000
_INSTEAD = "directories are listed one by one"


async def agrees(
    own: Mapping[bytes, ListedChild] | Mapping[bytes, Entry], index: Mapping[bytes, ListedChild] | None
) -> bool:
    """Whether a directory's direct listing agrees with the index (None: the index lacks the directory).

    An index has no empty directories, and a listing may lack sizes.
    """
    index = index or {}
    for part in chunked(index.items()):
        for name, child in part:
            there = own.get(name)
            if there is None or there.is_dir != child.is_dir:
                return False
            # An index may give no size for an empty file; for any other file that is a disagreement.
            if there.size_bytes is not None and there.size_bytes != (child.size_bytes or 0):
                return False
        await checkpoint_if_full(part)
    for names in chunked(own):
        if not all(name in index or own[name].is_dir for name in names):
            return False
        await checkpoint_if_full(names)
    return True


class DirectLister(Protocol):
    """The direct listings of directories, as validation needs them."""

    def direct_listings(self, run: Run) -> Iterator[tuple[str, Mapping[bytes, Entry]]]:
        """Yield path and entries of every directory of a run whose direct listing is cached and fresh."""

    async def list_direct(
        self, run: Run, path: str
    ) -> tuple[Mapping[bytes, ListedChild], Callable[[], Awaitable[None]]]:
        """List a directory directly; returns its children, and a function that caches them."""

    def evict_indexed(self, run_id: int) -> None:
        """Evict the listings of a run that came from the index."""


class _Validation(msgspec.Struct):
    """Whether an index is right about one run, and `since` when. `is_right` None: pending, or failed if `done`."""

    requested_at: float
    done: trio.Event
    since: float
    is_right: bool | None = None


class _Project(msgspec.Struct):
    """The index of a project: in flight (`files` None), or complete."""

    requested_at: float
    done: trio.Event
    files: PackedIndex | None = None
    retry_at: float = float("-inf")


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
    """The indexes of one mount. `ttl_s(run, age_s)`: the time to live of a listing of a run that is so old."""

    def __init__(
        self,
        fetch: Callable[[str, Callable[[Sequence[IndexedFile]], None]], Awaitable[None]],
        lister: DirectLister,
        *,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        ttl_s: Callable[[Run, float], float],
        tuning: TreeTuning,
    ) -> None:
        self._fetch = fetch
        self._lister = lister
        self._nursery = nursery
        self._clock = clock
        self._ttl_s = ttl_s
        self._tuning = tuning
        self._projects: cachetools.LRUCache[str, _Project] = cachetools.LRUCache(
            tuning.max_index_bytes, getsizeof=lambda project: project.files.size_bytes if project.files else 0
        )
        self._validations: cachetools.LRUCache[int, _Validation] = cachetools.LRUCache(_MAX_RUNS)
        self._inflight = 0

    async def directory(
        self, run: Run, prefix: str, path: str, *, traversal: bool, has_stale: bool = False
    ) -> tuple[Mapping[bytes, ListedChild], float] | None:
        """Return a directory's children from the index, and when the index was requested; None without a trusted one.

        `prefix`: the run's `path_in_project`. Only during a `traversal` is the index requested, and waited for: at most
        1 s in all, and no more than 1 s from the start of the request or the validation. `has_stale`: a shorter wait,
        since a stale listing can be served.
        """
        if traversal and (project := self._project(run)) is not None:
            until = self._clock() + (_STALE_WAIT_S if has_stale else _WAIT_S)
            await self._wait(project.done, min(until, project.requested_at + _WAIT_S))
            validation = self._validation(run, prefix, project)
            if validation is not None:
                await self._wait(validation.done, min(until, validation.since + _WAIT_S))
        if not self.is_trusted(run):
            return None
        trusted = self._projects[run.project_id]
        children = await trusted.files.directory(_join(prefix, path)) if trusted.files is not None else None
        return None if children is None else (children, trusted.requested_at)

    def is_trusted(self, run: Run) -> bool:
        """Whether there is a fresh index that is trusted for a run."""
        project, validation = self._projects.get(run.project_id), self._validations.get(run.run_id)
        return (
            project is not None
            and validation is not None
            and validation.is_right is True
            and validation.requested_at == project.requested_at
            and self._is_fresh(project, run)
        )

    def is_pending(self, run: Run) -> bool:
        """Whether a request for an index, or its validation, began less than 1 s ago and goes on."""
        project, validation = self._projects.get(run.project_id), self._validations.get(run.run_id)
        if project is None:
            return False
        if not project.done.is_set():
            return self._clock() - project.requested_at < _WAIT_S
        if validation is None or validation.requested_at != project.requested_at or validation.done.is_set():
            return False
        return self._clock() - validation.since < _WAIT_S

    async def listed(
        self, run: Run, prefix: str, path: str, own: Mapping[bytes, ListedChild] | Mapping[bytes, Entry]
    ) -> Mapping[bytes, ListedChild]:
        """Compare a directory's direct listing with the index; reject the index for this run if they disagree.

        Returns the index's children if they agree: only the index has the files' own times.
        """
        project, validation = self._projects.get(run.project_id), self._validations.get(run.run_id)
        if project is None or project.files is None or not self._is_fresh(project, run):
            return {}
        if validation is not None and (validation.requested_at != project.requested_at or validation.is_right is False):
            return {}
        indexed = await project.files.directory(_join(prefix, path))
        if await agrees(own, indexed):
            return indexed or {}
        if validation is not None:
            self._reject(run, validation, path)
        return {}

    def refresh(self, project_id: str) -> None:
        """Evict a project's index (docs/semantics.md 3.3): the next traversal requests it."""
        self._projects.pop(project_id, None)

    def states(self) -> list[IndexState]:
        """Return the state of each index."""
        outcomes: dict[float, list[bool | None]] = {}
        for validation in self._validations.values():
            outcomes.setdefault(validation.requested_at, []).append(validation.is_right)
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

    def expire(self) -> None:
        """Evict every index (docs/semantics.md 3.3), and permit retries."""
        self._projects.clear()
        self._validations.clear()

    def _is_fresh(self, project: _Project, run: Run) -> bool:
        age_s = self._clock() - project.requested_at
        return age_s < self._ttl_s(run, age_s)

    def _project(self, run: Run) -> _Project | None:
        """Return a project's index, complete or in flight; requests it where that is due."""
        now = self._clock()
        project = self._projects.get(run.project_id)
        validation = self._validations.get(run.run_id)
        wrong = validation if validation is not None and validation.is_right is False else None
        if wrong is not None and now - wrong.since < _RETRY_S:
            return None
        if project is not None and not project.done.is_set():
            return project
        if project is not None and project.files is not None and self._is_fresh(project, run):
            if wrong is None or wrong.requested_at != project.requested_at:
                return project
        elif project is not None and now < project.retry_at:
            return None
        # An id that is not a file name would change the URL.
        if self._inflight >= _MAX_INFLIGHT or encode_name(run.project_id) is None:
            return None
        project = self._projects[run.project_id] = _Project(now, trio.Event())
        self._inflight += 1
        self._nursery.start_soon(self._load, run.project_id, project)
        return project

    async def _load(self, project_id: str, project: _Project) -> None:
        files = PackedIndex(self._tuning.max_index_bytes)
        try:
            with trio.move_on_after(_DEADLINE_S):
                await self._fetch(project_id, files.add)
                project.files = files if files.count else None
            if project.files is None:
                log.info(
                    "the listing of project %s names no file that can be shown, or is too slow: %s",
                    project_id,
                    _INSTEAD,
                )
            else:
                log.info("the listing of project %s names %d files", project_id, files.count)
        except errors.ArtifactfsError as error:
            log.info("the listing of project %s is of no use (%s): %s", project_id, error, _INSTEAD)
        except Exception:
            log.exception("reading a project's listing failed: %s", errors.unexpected())
        finally:
            if project.files is None:
                project.retry_at = self._clock() + _RETRY_S
            elif self._projects.get(project_id) is project:
                self._projects[project_id] = project  # stored again: its weight is known now
            self._inflight -= 1
            project.done.set()

    async def _wait(self, event: trio.Event, until: float) -> None:
        """Wait for an event, at most until `until` of the clock."""
        if not event.is_set():
            with trio.move_on_after(max(0.0, until - self._clock())):
                await event.wait()

    def _validation(self, run: Run, prefix: str, project: _Project) -> _Validation | None:
        """Return the validation of an index for a run; starts it where that is due."""
        validation, now = self._validations.get(run.run_id), self._clock()
        if project.files is None or self._projects.get(run.project_id) is not project:
            return None  # in flight, failed, or evicted meanwhile
        if validation is not None:
            failed = validation.is_right is None and validation.done.is_set()
            if validation.requested_at == project.requested_at and not (
                failed and now - validation.since >= _REVALIDATE_S
            ):
                return validation
            if validation.is_right is False and now - validation.since < _RETRY_S:
                return None
        validation = self._validations[run.run_id] = _Validation(project.requested_at, trio.Event(), now)
        self._nursery.start_soon(self._validate, run, prefix, project.files, validation)
        return validation

    async def _validate(self, run: Run, prefix: str, files: PackedIndex, validation: _Validation) -> None:
        try:
            root = _join(prefix, "")
            if root not in files:
                self._reject(run, validation, "")
            seen: set[str] = set()
            await self._compare_cached(run, prefix, validation, seen)
            start = len(root) + 1 if root else 0
            others = [path for found in await files.below(root) if (path := found[start:]) not in seen]
            keep: list[Callable[[], Awaitable[None]]] = []
            if validation.is_right is None:
                samples = self._tuning.choose(others, min(_SAMPLES, len(others)))
                async with trio.open_nursery() as nursery:
                    # The root's listing may be evicted or stale by now.
                    for path in samples if "" in seen else ["", *samples]:
                        nursery.start_soon(self._sample, run, prefix, path, validation, keep)
            # Directories that were cached meanwhile had no index to be compared with.
            await self._compare_cached(run, prefix, validation, seen)
            if validation.is_right is None:
                validation.is_right = True
            # Only now, so that they get their files' times from a trusted index.
            for kept in keep:
                await kept()
        except* errors.ServiceError as failures:
            # Neither trusted nor rejected: the next traversal validates it.
            log.info("the listing of project %s cannot be checked now: %s", run.project_id, failures.exceptions[0])
        except* Exception:
            log.exception("checking a project's listing failed: %s", errors.unexpected())
        finally:
            if validation.is_right is None:
                validation.since = self._clock()
            validation.done.set()

    async def _compare_cached(self, run: Run, prefix: str, validation: _Validation, seen: set[str]) -> None:
        """Compare the index with the directories that are cached and not yet `seen`."""
        while validation.is_right is None:
            known = [(path, own) for path, own in self._lister.direct_listings(run) if path not in seen]
            if not known:
                return
            for path, own in known:
                seen.add(path)
                await self.listed(run, prefix, path, own)

    async def _sample(
        self, run: Run, prefix: str, path: str, validation: _Validation, keep: list[Callable[[], Awaitable[None]]]
    ) -> None:
        try:
            own, kept = await self._lister.list_direct(run, path)
        except (errors.NotFound, errors.BadRequest):
            self._reject(run, validation, path)
            return
        await self.listed(run, prefix, path, own)
        keep.append(kept)

    def _reject(self, run: Run, validation: _Validation, path: str) -> None:
        if validation.is_right is False:
            return
        validation.is_right, validation.since = False, self._clock()
        log.info(
            "the listing of project %s is wrong about run %d, directory %s: %s",
            run.project_id, run.run_id, path or "/", _INSTEAD,
        )  # fmt: skip
        self._lister.evict_indexed(run.run_id)


def _join(prefix: str, path: str) -> str:
    """Return the path of a run's directory in an index, whose paths have no leading `/` or `./`."""
    return without_lead(below_prefix(prefix, path))
