"""The metadata store as the event loop sees it: reads in a thread, and changes that are written behind the readers.

Owns the order of changes. They are written soon, in one transaction what gathers in 50 ms or while the one before is
written: a process that is killed loses no more. Nothing is gathered while a task waits for it, nor before a deletion
or a mark. The loop never waits for a disk. What is hard: a value that is read must not be older than a change that is
not written yet.
"""

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Sequence

import msgspec
import trio

from artifactfs.errors import NoThread
from artifactfs.metadata.metadata_format import scope_of
from artifactfs.metadata.metadata_store import Change, Marking, MetadataStore, Record, Removal, StoreUsage
from artifactfs.util import threads
from artifactfs.util.no_checkpoint import no_checkpoint
from artifactfs.util.pulse import Pulse

log = logging.getLogger(__name__)

# Changes in one transaction: some milliseconds of a thread, most of them without the interpreter's lock.
_BATCH = 500
# How long changes gather. Without it, `find` over 1,000 directories made 150 transactions, for which the loop lost the
# interpreter's lock 6,000 times: 1.4 s in place of 1.1 (measured 2026-11-30).
_GATHER_S = 0.05
# Changes that wait to be written. Beyond that the disk is too slow, and values are not stored. Arbitrary.
_MAX_PENDING = 100_000
# How long a read waits for the writing of what it would miss; then it finds nothing.
_WAIT_S = 1.0
# The pause before a write for which the system had no thread is tried again.
_PAUSE_S = 1.0
# Between looks at what the store holds, while it is written; at least so many times as long as one takes. Arbitrary.
_LOOK_S, _LOOK_FACTOR = 1.0, 20
# Runs that were not in the store, and what was stored of them since: of others it is read. Arbitrary; 10 MB.
_MAX_NEW_RUNS, _MAX_NEW_RECORDS = 10_000, 100_000
# Records that are read with another, beside the first.
_FOLLOWING_BYTES = 256 << 10

# Kind, run id (0: none) and key of a record.
Name = tuple[str, int, bytes]
Encode = Callable[[], bytes | None]


class MetadataState(msgspec.Struct, frozen=True):
    """The store, for status. Its contents are as of the last look; None before the first.

    `oldest_at`: when the oldest record was requested, seconds since the epoch. `waiting`: changes that are not written.
    """

    path: str
    limit_bytes: int
    waiting: int
    size_bytes: int | None = None
    runs: int | None = None
    oldest_at: float | None = None


class _Put(msgspec.Struct, frozen=True):
    """A record to be written: `freeze` is called in the loop, and its result in a thread; None: it is left out.

    `is_stale`: a refresh was requested since it was.
    """

    name: Name
    requested_at: float
    freeze: Callable[[], Encode]
    is_stale: bool


class WriteBehind:
    """See the module. `owner`: site and account, separated by a NUL; whose records are meant. Nothing raises.

    `is_offline`: the service has not accepted the owner's keys in this mount. `run_in_thread`: for tests.
    """

    def __init__(
        self,
        store: MetadataStore,
        owner: str,
        nursery: trio.Nursery,
        run_in_thread: threads.RunInThread = threads.run,
        *,
        is_offline: bool = False,
    ) -> None:
        self._store = store
        self._is_offline = is_offline
        self._owner = owner
        self._nursery = nursery
        self._run_in_thread = run_in_thread
        self._scopes: dict[str, int] = {}
        # Grows each time that what was stored may be there no more, or not as it was: with a deletion, a mark, a failed
        # write, another owner, and a database that another process has cleared of everything.
        self.epoch = 0
        self._reads, self._writes = trio.CapacityLimiter(2), trio.CapacityLimiter(1)
        # A limiter of its own: a look must not hold up readers.
        self._looks = trio.CapacityLimiter(1)
        self._is_looking = False
        self._next_look = -math.inf
        self._usage: StoreUsage | None = None
        # What is to be written, in order. A record takes the place of an earlier one of its name.
        self._pending: dict[object, _Put | Removal | Marking] = {}
        self._is_writing = False
        self._batch: frozenset[object] = frozenset()
        # Removals and markings that wait, and that are being written: any record may be meant.
        self._ranges = self._batch_ranges = 0
        self._idle = trio.Event()
        self._idle.set()
        # The number of tasks that wait until it is, and: one of them came, or a deletion or a mark.
        self._waiting = 0
        self._hurried = Pulse()
        # Reads that are under way, and what has changed since the first of them began.
        self._loading = 0
        self._touched: set[Name] = set()
        self._all_touched = False
        # Runs of which the store had nothing of a kind, the latest at the end, with hashes of the keys that are stored
        # since: it is read for those only. A thread for each directory of a run that is new made a cold walk a third
        # slower (measured 2026-12-01).
        self._new_runs: dict[tuple[str, int], set[int]] = {}
        self._new_records = 0

    def state(self) -> MetadataState:
        """Return the state of the store as of the last look (`look_soon`)."""
        store, usage = self._store, self._usage
        waiting = len(self._pending) + len(self._batch)
        if usage is None:
            return MetadataState(store.path, store.limit_bytes, waiting)
        return MetadataState(store.path, store.limit_bytes, waiting, usage.size_bytes, usage.runs, usage.oldest_at)

    def look_soon(self) -> None:
        """Look in a thread what the store holds, now or as soon as the last look is old enough. Never waits."""
        if not self._is_looking:
            self._is_looking = True
            self._nursery.start_soon(self._look)

    async def _look(self) -> None:
        try:
            await trio.sleep_until(self._next_look)
            began = trio.current_time()
            self._usage = await self._run_in_thread(self._store.usage, limiter=self._looks, abandon_on_cancel=True)
            took_s = trio.current_time() - began
            self._next_look = began + max(_LOOK_S, _LOOK_FACTOR * took_s)
        except NoThread as error:
            log.debug("the metadata store: %s", error)
        finally:
            self._is_looking = False

    # --- reading -------------------------------------------------------------------------------------------

    async def load(self, name: Name, most: int = 1) -> list[Record]:
        """Return a record, and those that follow it in the order of keys, `most` in all; none without the first."""
        kind, run_id, key = name
        if (stored := self._new_runs.get((kind, run_id))) is not None and hash(key) not in stored:
            return []
        if self._ranges or self._batch_ranges or name in self._pending or name in self._batch:
            with trio.move_on_after(_WAIT_S) as waited:
                await self.flush()
            if waited.cancelled_caught:
                return []
        self._loading += 1
        waiting = [*self._pending, *self._batch]  # the thread may miss them
        try:
            found = await self._run_in_thread(self._load, self._owner, name, most, limiter=self._reads)
        except NoThread as error:
            log.debug("the metadata store: %s", error)
            return []
        finally:
            self._loading -= 1
            touched, all_touched = self._touched, self._all_touched
            if not self._loading:
                self._touched, self._all_touched = set(), False
        if all_touched or name in touched:
            return []
        if found is None:
            names = (each for each in (*touched, *waiting) if isinstance(each, tuple))
            self._new_runs[kind, run_id] = {hash(each[2]) for each in names if each[:2] == (kind, run_id)}
            if len(self._new_runs) > _MAX_NEW_RUNS:
                del self._new_runs[next(iter(self._new_runs))]
            return []
        return [record for record in found if (kind, run_id, record.key) not in touched]

    def _load(self, owner: str, name: Name, most: int) -> list[Record] | None:
        """Return what `MetadataStore.load` does; None where the run has no record of that kind. Called in a thread."""
        kind, run_id, key = name
        scope = self._scope(owner)
        found = self._store.load(scope, kind, run_id, key, most=most, most_bytes=_FOLLOWING_BYTES)
        if not found and run_id and not self._store.has(scope, kind, run_id):
            return None
        return found

    # --- changing ------------------------------------------------------------------------------------------

    @no_checkpoint
    def put(self, name: Name, requested_at: float, freeze: Callable[[], Encode], *, is_stale: bool = False) -> None:
        """Store a value that was requested at `requested_at` (seconds since the epoch).

        `freeze` is called soon, and returns a function that makes the value's bytes, which is called in a thread.
        """
        if len(self._pending) >= _MAX_PENDING:
            return
        if (stored := self._new_runs.get(name[:2])) is not None:
            stored.add(hash(name[2]))
            self._new_records += 1
            if self._new_records > _MAX_NEW_RECORDS:
                self._read_all()
        self._touch(name)
        self._append(name, _Put(name, requested_at, freeze, is_stale))

    @no_checkpoint
    def remove(self, run_id: int, kind: str | None = None, key: bytes | None = None) -> None:
        """Remove a record, all of a kind, or all of a run."""
        self._append_range(Removal(run_id, kind, key))

    @no_checkpoint
    def mark_stale(self, run_id: int | None = None, kind: str | None = None, key: bytes | None = None) -> None:
        """Mark records as stale: one, all of a run, or all."""
        self._append_range(Marking(run_id, kind, key))

    @no_checkpoint
    def switch_owner(self, owner: str) -> None:
        """Read and write the records of another owner from now on (docs/semantics.md 6.3)."""
        self.epoch += 1
        # What is pending belongs to the account before: the writer has taken it with that name, or it is dropped.
        self._pending.clear()
        self._ranges = 0
        self._owner = owner
        self._all_touched = self._loading > 0
        self._read_all()

    def go_online(self) -> None:
        """Let the owner be the one that its site is used with last: the service has accepted the keys."""
        self._is_offline = False

    async def flush(self) -> None:
        """Wait until every change is written."""
        self._waiting += 1
        self._hurried.notify()
        try:
            await self._idle.wait()
        finally:
            self._waiting -= 1

    def forget_loss(self, run_id: int) -> None:
        """Begin again: what is known of a run is put again from now on."""
        self._store.forget_loss(scope_of(*self._owner.split("\0", 1)), run_id)

    def has_lost(self, run_id: int) -> bool:
        """Whether something of a run could not be stored, for lack of room, say."""
        return self._store.has_lost(scope_of(*self._owner.split("\0", 1)), run_id)

    async def close(self) -> None:
        """Write every change, and close the store."""
        await self.flush()
        with contextlib.suppress(NoThread):
            await self._run_in_thread(self._store.close, limiter=self._writes, abandon_on_cancel=True)

    def _append_range(self, change: Removal | Marking) -> None:
        kind, key = change.kind, change.key
        if change.run_id is not None and kind is not None and key is not None:
            self._touch((kind, change.run_id, key))
        else:
            self._all_touched = self._loading > 0
        self._ranges += 1
        self.epoch += 1
        self._append(object(), change)
        self._hurried.notify()

    def _read_all(self) -> None:
        """Read the store for every run."""
        self._new_runs.clear()
        self._new_records = 0

    def _touch(self, name: Name) -> None:
        if self._loading:
            self._touched.add(name)

    def _append(self, name: object, change: _Put | Removal | Marking) -> None:
        self._pending.pop(name, None)
        self._pending[name] = change
        if not self._is_writing:
            self._is_writing = True
            self._idle = trio.Event()
            self._nursery.start_soon(self._write)

    async def _write(self) -> None:
        try:
            while self._pending:
                if not self._waiting and not self._ranges and len(self._pending) < _BATCH:
                    with trio.move_on_after(_GATHER_S):
                        await self._hurried.wait()
                if not self._pending:
                    break  # another owner's from now on
                names = list(itertools.islice(self._pending, _BATCH))
                changes = [self._pending.pop(name) for name in names]
                self._batch = frozenset(names)
                self._batch_ranges = sum(not isinstance(change, _Put) for change in changes)
                self._ranges -= self._batch_ranges
                frozen = [(each, each.freeze()) if isinstance(each, _Put) else each for each in changes]
                if not await self._in_thread(self._store_all, self._owner, frozen):
                    self.epoch += 1
                self._batch, self._batch_ranges = frozenset(), 0
        except Exception:
            log.exception("writing to the metadata store failed; what was seen just now is not stored")
            self._pending.clear()
        finally:
            self._batch, self._ranges, self._batch_ranges = frozenset(), 0, 0
            self._is_writing = False
            self._idle.set()

    async def _in_thread(self, call: Callable[..., bool], *args: object) -> bool:
        while True:
            try:
                return await self._run_in_thread(call, *args, limiter=self._writes)
            except NoThread as error:
                log.debug("the metadata store: %s", error)
                await trio.sleep(_PAUSE_S)

    def _store_all(self, owner: str, changes: Sequence[tuple[_Put, Encode] | Removal | Marking]) -> bool:
        """Write changes in their order; returns whether they, and those before, are there. Called in a thread."""
        found: list[Change] = []
        for change in changes:
            if not isinstance(change, tuple):
                found.append(change)
                continue
            put, encode = change
            if (value := encode()) is not None:
                found.append(Record(*put.name, value, put.requested_at, put.is_stale))
        # A database that another process has cleared lacks the site, too: `mount --offline` looks for it there.
        was_cleared = owner in self._scopes and self._store.restore_site(*owner.split("\0", 1))
        return self._store.write(self._scope(owner), found) and not was_cleared

    def _scope(self, owner: str) -> int:
        """Return the number of an owner in the store. Called in a thread."""
        if (scope := self._scopes.get(owner)) is None:
            site, _, account = owner.partition("\0")
            if self._is_offline:
                # A mistyped name, or keys that were replaced, must not become what mounts without keys show.
                return scope_of(site, account)
            scope = self._scopes[owner] = self._store.scope(site, account)
        return scope
