"""A project's flat listing (the index): one answer in place of one for each directory.

`ProjectIndex` owns when an index is fetched and how far it is trusted (semantics 1.6): for a run only while all its
directories that were listed on their own agree with it, the root, those walked, and some chosen at random. It knows
files and not directories, and may be old, partial, or of something else; so it never says that a name is not there. It
is best effort: a caller waits at most a second for it.
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

# How long a traversal waits for an index, from the request on, the checks included.
_WAIT_S = 1.0
# And a caller with a stale listing: it waits a second for the refresh in all (swr_cache.py), and the directory
# itself is to answer within it.
_HURRY_S = 0.25
# An index that failed, or that was wrong about a run, is not tried again for this long. Arbitrary.
_RETRY_S = 300.0
# One that could not be checked, since the service failed at that moment, is for this long not checked again.
_CHECK_AGAIN_S = 5.0
# Indexes on their way at once: each takes up a connection and memory for a while, where many projects are walked.
_MAX_FLIGHTS = 2
# For all of it: a listing that takes longer than this is of no use to a walk.
_DEADLINE_S = 60.0
# Directories chosen at random that are listed directly before a run's part of an index is trusted: two at least
# (semantics 1.6); all at once, so that one more costs a request and no time.
_SAMPLES = 3
# Runs whose index is remembered to be right or wrong.
_MAX_RUNS = 1_000
_INSTEAD = "directories are listed one by one"


async def agrees(
    own: Mapping[bytes, ListedChild] | Mapping[bytes, Entry], index: Mapping[bytes, ListedChild] | None
) -> bool:
    """Whether a directory's own listing agrees with the index (None: the index has no such directory).

    An empty directory is not in an index, and a size may be missing in the listing.
    """
    index = index or {}
    for part in chunked(index.items()):
        for name, child in part:
            there = own.get(name)
            if there is None or there.is_dir != child.is_dir:
                return False
            # A file of no bytes may have no size; any other that the listing has one of would show as empty.
            if there.size_bytes is not None and there.size_bytes != (child.size_bytes or 0):
                return False
        await checkpoint_if_full(part)
    for names in chunked(own):
        if not all(name in index or own[name].is_dir for name in names):
            return False
        await checkpoint_if_full(names)
    return True


class Asks(Protocol):
    """What an index needs of the tree."""

    def own_listings(self, run: Run) -> Iterator[tuple[str, Mapping[bytes, Entry]]]:
        """Yield path and children of every directory of a run whose direct listing is cached and fresh."""

    async def list_own(self, run: Run, path: str) -> tuple[Mapping[bytes, ListedChild], Callable[[], Awaitable[None]]]:
        """List a directory on its own; returns its children, and how to keep them."""

    def forget_indexed(self, run_id: int) -> None:
        """Forget what came from the index about a run."""


class _Belief(msgspec.Struct):
    """What is thought of an index about one run; `since` when. `state` None: being checked, or that failed (`done`)."""

    asked_at: float
    done: trio.Event
    since: float
    state: bool | None = None


class _Project(msgspec.Struct):
    """The index of a project: on its way (`files` None), or there."""

    asked_at: float
    done: trio.Event
    files: PackedIndex | None = None
    retry_at: float = float("-inf")


class IndexState(msgspec.Struct, frozen=True):
    """How the index of one project is: `state` pending, trusted, rejected, unverified or failed.

    `files` that it names; runs of which it was found to be right, and wrong. `age_s` since it was asked for.
    """

    project_id: str
    state: str
    files: int
    age_s: float
    runs_right: int
    runs_wrong: int


class ProjectIndex:
    """The indexes of one mount. `ttl_s(run, age_s)`: the time to live of a listing of a run at that age."""

    def __init__(
        self,
        fetch: Callable[[str, Callable[[Sequence[IndexedFile]], None]], Awaitable[None]],
        asks: Asks,
        *,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        ttl_s: Callable[[Run, float], float],
        tuning: TreeTuning,
    ) -> None:
        self._fetch = fetch
        self._asks = asks
        self._nursery = nursery
        self._clock = clock
        self._ttl_s = ttl_s
        self._tuning = tuning
        self._projects: cachetools.LRUCache[str, _Project] = cachetools.LRUCache(
            tuning.max_index_bytes, getsizeof=lambda project: project.files.size_bytes if project.files else 0
        )
        self._beliefs: cachetools.LRUCache[int, _Belief] = cachetools.LRUCache(_MAX_RUNS)
        self._flights = 0

    async def directory(
        self, run: Run, prefix: str, path: str, *, walking: bool, hurry: bool = False
    ) -> tuple[Mapping[bytes, ListedChild], float] | None:
        """Return a directory's children as the index has them, and when that was asked for; None without one.

        `prefix`: the run's `path_in_project`. Asks for the index, and waits for it and its check, only for a caller
        who is `walking`: until a second after each began, and for a second at most. `hurry`: less, since an old listing
        is cached, which is served if the fetch takes longer.
        """
        if walking and (project := self._project(run)) is not None:
            until = self._clock() + (_HURRY_S if hurry else _WAIT_S)
            await self._wait(project.done, min(until, project.asked_at + _WAIT_S))
            belief = self._belief(run, prefix, project)
            if belief is not None:
                await self._wait(belief.done, min(until, belief.since + _WAIT_S))
        if not self.is_trusted(run):
            return None
        is_trusted = self._projects[run.project_id]
        children = await is_trusted.files.directory(_join(prefix, path)) if is_trusted.files is not None else None
        return None if children is None else (children, is_trusted.asked_at)

    def is_trusted(self, run: Run) -> bool:
        """Whether a cached index is trusted for a run."""
        project, belief = self._projects.get(run.project_id), self._beliefs.get(run.run_id)
        return (
            project is not None
            and belief is not None
            and belief.state is True
            and belief.asked_at == project.asked_at
            and self._is_fresh(project, run)
        )

    def is_pending(self, run: Run) -> bool:
        """Whether an awaited index is being fetched or validated."""
        project, belief = self._projects.get(run.project_id), self._beliefs.get(run.run_id)
        if project is None:
            return False
        if not project.done.is_set():
            return self._clock() - project.asked_at < _WAIT_S
        if belief is None or belief.asked_at != project.asked_at or belief.done.is_set():
            return False
        return self._clock() - belief.since < _WAIT_S

    async def listed(
        self, run: Run, prefix: str, path: str, own: Mapping[bytes, ListedChild] | Mapping[bytes, Entry]
    ) -> Mapping[bytes, ListedChild]:
        """Compare a direct listing with the index; an index that disagrees is rejected for this run.

        Returns what an index that agrees has of it: the files' own times are nowhere else.
        """
        project, belief = self._projects.get(run.project_id), self._beliefs.get(run.run_id)
        if project is None or project.files is None or not self._is_fresh(project, run):
            return {}
        if belief is not None and (belief.asked_at != project.asked_at or belief.state is False):
            return {}
        indexed = await project.files.directory(_join(prefix, path))
        if await agrees(own, indexed):
            return indexed or {}
        if belief is not None:
            self._distrust(run, belief, path)
        return {}

    def refresh(self, project_id: str) -> None:
        """Evict a project's index (semantics 3.3): the next traversal fetches it."""
        self._projects.pop(project_id, None)

    def states(self) -> list[IndexState]:
        """Return how each index is that is remembered."""
        beliefs: dict[float, list[bool | None]] = {}
        for belief in self._beliefs.values():
            beliefs.setdefault(belief.asked_at, []).append(belief.state)
        found = []
        for project_id, project in self._projects.items():
            of_runs = beliefs.get(project.asked_at, [])
            right, wrong = of_runs.count(True), of_runs.count(False)
            if not project.done.is_set():
                state = "pending"
            elif project.files is None:
                state = "failed"
            else:
                state = "trusted" if right else "rejected" if wrong else "unverified"
            files = project.files.count if project.files is not None else 0
            age_s = self._clock() - project.asked_at
            found.append(IndexState(project_id, state, files, age_s, right, wrong))
        return found

    def expire(self) -> None:
        """Forget every index (semantics 3.3); what failed may be tried again."""
        self._projects.clear()
        self._beliefs.clear()

    def _is_fresh(self, project: _Project, run: Run) -> bool:
        age_s = self._clock() - project.asked_at
        return age_s < self._ttl_s(run, age_s)

    def _project(self, run: Run) -> _Project | None:
        """Return a project's index, there or on its way; one that is asked for now where that is due."""
        now = self._clock()
        project = self._projects.get(run.project_id)
        belief = self._beliefs.get(run.run_id)
        wrong = belief if belief is not None and belief.state is False else None
        if wrong is not None and now - wrong.since < _RETRY_S:
            return None
        if project is not None and not project.done.is_set():
            return project
        if project is not None and project.files is not None and self._is_fresh(project, run):
            if wrong is None or wrong.asked_at != project.asked_at:
                return project
        elif project is not None and now < project.retry_at:
            return None
        # What is no name is no project's id either: it would ask for something else.
        if self._flights >= _MAX_FLIGHTS or encode_name(run.project_id) is None:
            return None
        project = self._projects[run.project_id] = _Project(now, trio.Event())
        self._flights += 1
        self._nursery.start_soon(self._bring, run.project_id, project)
        return project

    async def _bring(self, project_id: str, project: _Project) -> None:
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
                self._projects[project_id] = project  # its weight is known now
            self._flights -= 1
            project.done.set()

    async def _wait(self, event: trio.Event, until: float) -> None:
        """Wait for an event, until a moment of the clock at most."""
        if not event.is_set():
            with trio.move_on_after(max(0.0, until - self._clock())):
                await event.wait()

    def _belief(self, run: Run, prefix: str, project: _Project) -> _Belief | None:
        """Return what is thought of an index about a run; where that is not known, it is found out from now on."""
        belief, now = self._beliefs.get(run.run_id), self._clock()
        if project.files is None or self._projects.get(run.project_id) is not project:
            return None  # not there yet, of no use, or forgotten meanwhile
        if belief is not None:
            failed = belief.state is None and belief.done.is_set()
            if belief.asked_at == project.asked_at and not (failed and now - belief.since >= _CHECK_AGAIN_S):
                return belief
            if belief.state is False and now - belief.since < _RETRY_S:
                return None
        belief = self._beliefs[run.run_id] = _Belief(project.asked_at, trio.Event(), now)
        self._nursery.start_soon(self._find_out, run, prefix, project.files, belief)
        return belief

    async def _find_out(self, run: Run, prefix: str, files: PackedIndex, belief: _Belief) -> None:
        try:
            root = _join(prefix, "")
            if root not in files:
                self._distrust(run, belief, "")
            seen: set[str] = set()
            await self._compare_known(run, prefix, belief, seen)
            start = len(root) + 1 if root else 0
            others = [path for found in await files.below(root) if (path := found[start:]) not in seen]
            keep: list[Callable[[], Awaitable[None]]] = []
            if belief.state is None:
                samples = self._tuning.choose(others, min(_SAMPLES, len(others)))
                async with trio.open_nursery() as nursery:
                    # The root may be evicted by now, during work far below it.
                    for path in samples if "" in seen else ["", *samples]:
                        nursery.start_soon(self._sample, run, prefix, path, belief, keep)
            # And what came to hand meanwhile: it was not known yet what to compare it with.
            await self._compare_known(run, prefix, belief, seen)
            if belief.state is None:
                belief.state = True
            # Only now, so that they get their files' times where they are right.
            for kept in keep:
                await kept()
        except* errors.ServiceError as failures:
            # Neither verified nor rejected: the next traversal validates it.
            log.info("the listing of project %s cannot be checked now: %s", run.project_id, failures.exceptions[0])
        except* Exception:
            log.exception("checking a project's listing failed: %s", errors.unexpected())
        finally:
            if belief.state is None:
                belief.since = self._clock()
            belief.done.set()

    async def _compare_known(self, run: Run, prefix: str, belief: _Belief, seen: set[str]) -> None:
        """Compare the index with the cached directories that are not yet `seen`."""
        while belief.state is None:
            known = [(path, own) for path, own in self._asks.own_listings(run) if path not in seen]
            if not known:
                return
            for path, own in known:
                seen.add(path)
                await self.listed(run, prefix, path, own)

    async def _sample(
        self, run: Run, prefix: str, path: str, belief: _Belief, keep: list[Callable[[], Awaitable[None]]]
    ) -> None:
        try:
            own, kept = await self._asks.list_own(run, path)
        except (errors.NotFound, errors.BadRequest):
            self._distrust(run, belief, path)
            return
        await self.listed(run, prefix, path, own)
        keep.append(kept)

    def _distrust(self, run: Run, belief: _Belief, path: str) -> None:
        if belief.state is False:
            return
        belief.state, belief.since = False, self._clock()
        log.info(
            "the listing of project %s is wrong about run %d, directory %s: %s",
            run.project_id, run.run_id, path or "/", _INSTEAD,
        )  # fmt: skip
        self._asks.forget_indexed(run.run_id)


def _join(prefix: str, path: str) -> str:
    """Return where an index has a run's directory: its own paths are without `/` and `./` in front, too."""
    return without_lead(below_prefix(prefix, path))
