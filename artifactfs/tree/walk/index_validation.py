"""Validates a project index for each run against the directories of the run that were listed directly.

Owns what is known of an index and one run: whether they agree, whether samples were taken, which directories the index
lacks. `project_index.py` owns the index itself. Hard: a run that still changes differs from every snapshot of it. So
where an unsettled run differs from an index that was right before, the index is outdated, and not wrong.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import ListedChild, Run, below_prefix, without_lead
from artifactfs.tree.listing import checkpoint_if_full, chunked
from artifactfs.tree.nodes import Entry
from artifactfs.tree.walk.packed_index import PackedIndex

log = logging.getLogger(__name__)

# Directories that are listed directly before an index is trusted for a run: at least two (docs/semantics.md 1.6). They
# are requested in parallel, so that one more costs no time.
SAMPLES = 3
# So many, of a settled run, where an index was right about so many other runs and wrong about none: what makes an index
# wrong about runs that change no more is wrong about many of them, and each has a sample of its own.
_SAMPLES_MORE = 1
_RUNS_RIGHT = 3
# No second attempt for this long after one that the service did not answer.
_REVALIDATE_S = 5.0
# A sample that differs from an index as young as this shows that the index is wrong: few runs change so fast, in a
# directory chosen at random.
_YOUNG_S = 5.0
# Runs whose validations are remembered.
_MAX_RUNS = 1_000
INSTEAD = "directories are listed one by one"

Children = Mapping[bytes, ListedChild] | Mapping[bytes, Entry]


def place_of(prefix: str, path: str) -> str:
    """Return the path of a run's directory in an index, whose paths have no leading `/` or `./`."""
    return without_lead(below_prefix(prefix, path))


async def agrees(own: Children, index: Mapping[bytes, ListedChild] | None) -> bool:
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
    # Contents that contradict a listing, and directories that are gone, leave it meanwhile.
    for names in chunked(tuple(own)):
        if not all(name in index or (there := own.get(name)) is None or there.is_dir for name in names):
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

    async def show_times(self, run: Run, prefix: str, *, own: bool) -> None:
        """Make all files of a run show their own times from the index, or the run's time."""


@contextmanager
def _failures_logged(run: Run) -> Iterator[None]:
    """Let no failure of a check leave: the index is then neither trusted nor rejected, and is checked again later."""
    try:
        yield
    except* errors.ServiceError as failures:
        log.info("the listing of project %s cannot be checked now: %s", run.project_id, failures.exceptions[0])
    except* Exception:
        log.exception("checking a project's listing failed: %s", errors.unexpected())


class Validation(msgspec.Struct):
    """How an index compares with one run. `done` is set when the cached directories were compared.

    `is_right` None: pending, or failed if `done`. `outdated`: the run has changed since. `samples`: set when some
    directories chosen at random were compared, too; None before. `lacks_directories`: directories that were listed
    directly and have some that the index does not know.
    """

    requested_at: float
    since: float
    done: trio.Event
    is_right: bool | None = None
    outdated: bool = False
    is_sampled: bool = False
    samples: trio.Event | None = None
    sampled_since: float = 0.0
    seen: set[str] = set()
    lacks_directories: set[str] = set()

    @property
    def failed(self) -> bool:
        """Whether the service did not answer what the validation needed."""
        return self.is_right is None and self.done.is_set()

    @property
    def is_trusted(self) -> bool:
        """Whether the index may answer for directories of the run."""
        return self.is_right is True and self.is_sampled and not self.outdated


class Validations:
    """The validations of one mount, one for each run. `settled(run)`: whether the run's artifacts change no more."""

    def __init__(
        self,
        lister: DirectLister,
        *,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        settled: Callable[[Run], bool],
        choose: Callable[[list[str], int], list[str]],
    ) -> None:
        self._lister = lister
        self._nursery = nursery
        self._clock = clock
        self._settled = settled
        self._choose = choose
        self._runs: cachetools.LRUCache[int, Validation] = cachetools.LRUCache(_MAX_RUNS)
        self.get = self._runs.get
        self.clear = self._runs.clear

    def values(self) -> list[Validation]:
        """Return all of them."""
        return list(self._runs.values())

    def start(
        self, run: Run, prefix: str, files: PackedIndex, requested_at: float, known: Mapping[str, Children]
    ) -> Validation:
        """Return the validation of the index that was requested then; starts it where that is due.

        `known`: direct listings that are not cached yet.
        """
        validation, now = self._runs.get(run.run_id), self._clock()
        if (
            validation is not None
            and validation.requested_at == requested_at
            and not (validation.failed and now - validation.since >= _REVALIDATE_S)
        ):
            return validation
        validation = self._runs[run.run_id] = Validation(requested_at, now, trio.Event())
        self._nursery.start_soon(self._validate, run, prefix, files, validation, known)
        return validation

    def sample(self, run: Run, prefix: str, files: PackedIndex, validation: Validation) -> trio.Event | None:
        """Return the event of the samples; takes them where that is due."""
        if validation.is_right is not True or validation.outdated:
            return None
        if validation.samples is not None and not (
            validation.samples.is_set()
            and not validation.is_sampled
            and self._clock() - validation.sampled_since >= _REVALIDATE_S
        ):
            return validation.samples
        validation.samples, validation.sampled_since = trio.Event(), self._clock()
        self._nursery.start_soon(self._take_samples, run, prefix, files, validation, validation.samples)
        return validation.samples

    async def compare(
        self,
        run: Run,
        prefix: str,
        files: PackedIndex,
        validation: Validation,
        path: str,
        own: Children,
        *,
        is_young: bool = False,
    ) -> Mapping[bytes, ListedChild] | None:
        """Compare a new direct listing with the index; returns the index's children, None from one that is wrong."""
        indexed = await files.directory(place_of(prefix, path))
        if not await agrees(own, indexed):
            await self._differs(run, prefix, validation, path, is_young=is_young)
        self._note_unknown(validation, path, own, indexed)
        return None if validation.is_right is False else indexed or {}

    @staticmethod
    def _note_unknown(
        validation: Validation, path: str, own: Children, indexed: Mapping[bytes, ListedChild] | None
    ) -> None:
        if any(child.is_dir and name not in (indexed or {}) for name, child in own.items()):
            validation.lacks_directories.add(path)
        else:
            validation.lacks_directories.discard(path)

    async def _validate(
        self, run: Run, prefix: str, files: PackedIndex, validation: Validation, known: Mapping[str, Children]
    ) -> None:
        try:
            with _failures_logged(run):
                if place_of(prefix, "") not in files:
                    await self._reject(run, prefix, validation, "")
                older = await self._compare_known(run, prefix, files, validation, known)
                # A listing that is older than the index may differ in a run that changes: listed again, it must agree.
                again = older[:SAMPLES] if validation.seen else [""]
                keep = await self._samples(run, prefix, files, validation, again if validation.is_right is None else ())
                if validation.is_right is None:
                    validation.is_right = True
                    if not await files.lacks_times(place_of(prefix, "")):
                        await self._lister.show_times(run, prefix, own=True)
                validation.done.set()
                for kept in keep:
                    await kept()
        finally:
            if validation.is_right is None:
                validation.since = self._clock()
            validation.done.set()

    async def _compare_known(
        self, run: Run, prefix: str, files: PackedIndex, validation: Validation, known: Mapping[str, Children]
    ) -> list[str]:
        """Compare the directories that are cached or `known`; returns older ones that differ in an unsettled run."""
        older: list[str] = []
        while validation.is_right is None:
            cached = [(path, own) for path, own in self._lister.direct_listings(run) if path not in known]
            todo = [(path, own) for path, own in (*known.items(), *cached) if path not in validation.seen]
            if not todo:
                break
            for path, own in todo:
                validation.seen.add(path)
                indexed = await files.directory(place_of(prefix, path))
                if await agrees(own, indexed):
                    self._note_unknown(validation, path, own, indexed)
                elif path in known or self._settled(run):
                    await self._reject(run, prefix, validation, path)
                else:
                    older.append(path)
        return older

    async def _take_samples(
        self, run: Run, prefix: str, files: PackedIndex, validation: Validation, samples: trio.Event
    ) -> None:
        try:
            with _failures_logged(run):
                root = place_of(prefix, "")
                start = len(root) + 1 if root else 0
                others = [path for found in await files.below(root) if (path := found[start:]) not in validation.seen]
                chosen = self._choose(others, min(self._samples_due(run, validation), len(others)))
                # The root's listing may be evicted or stale by now.
                paths = chosen if "" in validation.seen else ["", *chosen]
                keep = await self._samples(run, prefix, files, validation, paths)
                validation.is_sampled = True
                for kept in keep:
                    await kept()
        finally:
            if not validation.is_sampled:
                validation.sampled_since = self._clock()
            samples.set()

    def _samples_due(self, run: Run, validation: Validation) -> int:
        """Return how many directories of a run are to be listed directly."""
        if not self._settled(run):
            return SAMPLES
        others = [each for each in self._runs.values() if each.requested_at == validation.requested_at]
        is_right = sum(each.is_trusted for each in others) >= _RUNS_RIGHT and all(
            each.is_right is not False for each in others
        )
        return _SAMPLES_MORE if is_right else SAMPLES

    async def _samples(
        self, run: Run, prefix: str, files: PackedIndex, validation: Validation, paths: Iterable[str]
    ) -> list[Callable[[], Awaitable[None]]]:
        """List directories directly, all at once, and compare them; returns functions that cache their listings."""
        keep: list[Callable[[], Awaitable[None]]] = []
        async with trio.open_nursery() as nursery:
            for path in paths:
                nursery.start_soon(self._sample, run, prefix, files, validation, path, keep)
        return keep

    async def _sample(
        self,
        run: Run,
        prefix: str,
        files: PackedIndex,
        validation: Validation,
        path: str,
        keep: list[Callable[[], Awaitable[None]]],
    ) -> None:
        is_young = self._clock() - validation.requested_at < _YOUNG_S
        try:
            own, kept = await self._lister.list_direct(run, path)
        except (errors.NotFound, errors.BadRequest):
            await self._differs(run, prefix, validation, path, is_young=is_young)
            return
        validation.seen.add(path)
        await self.compare(run, prefix, files, validation, path, own, is_young=is_young)
        keep.append(kept)

    async def _differs(self, run: Run, prefix: str, validation: Validation, path: str, *, is_young: bool) -> None:
        """Draw the conclusion from a direct listing that differs and is newer than the index."""
        if validation.is_right is not True or is_young or self._settled(run):
            await self._reject(run, prefix, validation, path)
        elif not validation.outdated:
            validation.outdated = True
            log.info(
                "run %d, directory %s, has changed since project %s was listed: %s",
                run.run_id, path or "/", run.project_id, INSTEAD,
            )  # fmt: skip
            self._lister.evict_indexed(run.run_id)

    async def _reject(self, run: Run, prefix: str, validation: Validation, path: str) -> None:
        if validation.is_right is False:
            return
        validation.is_right, validation.since = False, self._clock()
        log.info(
            "the listing of project %s is wrong about run %d, directory %s: %s",
            run.project_id, run.run_id, path or "/", INSTEAD,
        )  # fmt: skip
        self._lister.evict_indexed(run.run_id)
        await self._lister.show_times(run, prefix, own=False)
