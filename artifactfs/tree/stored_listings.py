"""The listings of directories in the metadata store, and what they are worth after a remount (docs/semantics.md 8.2).

A stored listing of a settled run counts as fresh once the run's own row has been requested in this mount and says what
it said then. If it says something else, the listing is not shown. The listing of a run that still changes is stale.
While the mount is offline, each counts.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import cachetools
import msgspec

from artifactfs.domain import Run
from artifactfs.errors import NoThread
from artifactfs.metadata.metadata_store import Record
from artifactfs.metadata.write_behind import Encode, Name, WriteBehind
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.directory_state import DirectoryKey, DirectoryState
from artifactfs.tree.file_times import RunClock
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.listing import Listing, ListingSource, PackedListing, chunked, settled
from artifactfs.tree.nodes import Entry, PackedEntries, packed
from artifactfs.tree.run_clocks import RunClocks
from artifactfs.tree.stored_values import RecalledValue
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from artifactfs.util import threads
from artifactfs.util.clock import WallTimes

_KIND = "listing"
# Kind of the record that says when an index was last wrong about a run.
_REJECTION = "rejection"
_NEVER = float("-inf")
_MAX_RUNS = 100_000
# Listings that are read together. A walk goes through them one after the other.
_NEIGHBOURS = 64
# Larger values are decoded in a thread: a millisecond of work.
_AT_ONCE_BYTES = 64 << 10
# A listing of more bytes is not stored. Arbitrary: half a million files.
_MAX_BYTES = 32 << 20


class _Form(msgspec.Struct, frozen=True, array_like=True):
    """The value of a record: see DirectoryState and PackedEntries; `parts` are encoded entries, SLICE in each."""

    run: Run
    prefix: str
    source: str
    own: bool
    run_ns: int
    packed: tuple[list[bytes], bytes, bytes, int] | None
    parts: list[bytes]


_encoder = msgspec.msgpack.Encoder()
_form_decoder = msgspec.msgpack.Decoder(_Form)
_part_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bool, int, int, int | None, int | None, bool]])


class StoredListings:
    """See the module. `runs`: the rows of runs. `clocks`: the times that their files show in this mount.

    `is_barred(key)`: whether the directory must be listed by the service. `has_times(run)`: whether this mount has an
    index with the own times of a run's files. `clock_shown(key, state)`: the clock whose times the files of a cached
    state show now.
    """

    def __init__(
        self,
        store: WriteBehind,
        runs: StaleWhileRevalidateCache[int, Run],
        *,
        clocks: RunClocks,
        is_barred: Callable[[DirectoryKey], bool],
        has_times: Callable[[Run], bool],
        clock_shown: Callable[[DirectoryKey, DirectoryState], RunClock],
        health: BackendHealth,
        clock: Callable[[], float],
        times: WallTimes,
    ) -> None:
        self._store = store
        self._runs = runs
        self._clocks = clocks
        self._is_barred = is_barred
        self._has_times = has_times
        self._clock_shown = clock_shown
        self._health = health
        self._clock = clock
        self._times = times
        # When an index was last wrong about a run, in seconds since the epoch, of runs whose listings were read.
        self._rejected_at: cachetools.LRUCache[int, float] = cachetools.LRUCache(_MAX_RUNS)
        self._clears = 0

    async def recall(self, key: DirectoryKey) -> RecalledValue[DirectoryState] | None:
        """Return a stored listing, for which the run's row is requested unless that is fresh. Raises as that does.

        Listings that follow it are its neighbours, where they are fresh: most of those below it.
        """
        run_id, clears = key[0], self._clears
        if self._is_barred(key) or not (records := await self._store.load(_name(key), _NEIGHBOURS)):
            return None
        is_known = run_id in self._rejected_at
        rejections = [] if is_known else await self._store.load((_REJECTION, run_id, b""))
        row = await self._runs.get(run_id)
        try:
            decode = partial(_decoded, records[0])
            state = decode() if len(records[0].value) <= _AT_ONCE_BYTES else await threads.run(decode)
        except NoThread:
            return None  # as if nothing were stored
        if self._clears != clears:
            return None  # of the account before
        self._rejected_at.setdefault(run_id, rejections[0].requested_at if rejections else _NEVER)
        found = self._judged(key, state, records[0], row)
        if found is None:
            return None
        told = found.value.clock
        if not told.own and not self._health.is_offline and self._are_own_times_known(records[1:], row.value):
            return None
        clock = self._clocks.adopt(run_id, told)
        if clock is None:
            clock = await self._clocks.retime(found.value.listing, row.value, found.value.prefix, key[1], told)
        return _with_clock(found, clock, tuple(self._fresh(records[1:], row, clock)))

    def _are_own_times_known(self, others: Sequence[Record], run: Run) -> bool:
        """Whether files of a run show their own times, or are stored with them, which this mount has not for all.

        A mount that was killed while all files of a run changed to their own times leaves some listings as they were.
        """
        if self._has_times(run):
            return False
        if (clock := self._clocks.get(run.run_id)) is not None:
            return clock.own
        decoded = (_decoded(record) for record in others if len(record.value) <= _AT_ONCE_BYTES)
        return any(state is not None and state.clock.own for state in decoded)

    def _fresh(
        self, records: Sequence[Record], row: CacheEntry[Run], clock: RunClock
    ) -> Iterator[tuple[DirectoryKey, RecalledValue[DirectoryState]]]:
        """Yield the fresh ones of some listings of a run that show the times of its clock."""
        for record in records:
            key = (row.value.run_id, record.key.decode().replace("\0", "/"))
            if self._is_barred(key) or len(record.value) > _AT_ONCE_BYTES:
                continue
            found = self._judged(key, _decoded(record), record, row)
            if found is not None and (found.fresh_until > self._clock() or self._health.is_offline):
                told = found.value.clock
                if (told.own, told.run_ns) == (clock.own, clock.run_ns):
                    yield key, _with_clock(found, clock)

    def save(
        self,
        key: DirectoryKey,
        value: DirectoryState,
        _before: DirectoryState | None,
        requested_at: float,
        is_stale: bool,
    ) -> None:
        """Store a listing as it is when it is written, soon."""
        requested_s = self._times.of(requested_at - value.age_s)
        self._store.put(_name(key), requested_s, partial(self._frozen, key, value), is_stale=is_stale)

    def remove(self, key: DirectoryKey) -> None:
        """Remove a listing."""
        self._store.remove(key[0], _KIND, _name(key)[2])

    def mark_stale(self, key: DirectoryKey) -> None:
        """Let a listing be stale when it is read."""
        self._store.mark_stale(key[0], _KIND, _name(key)[2])

    def mark_run_stale(self, run_id: int) -> None:
        """Let all listings of a run be stale when they are read."""
        self._store.mark_stale(run_id, _KIND)

    def reject_index(self, run_id: int) -> None:
        """Use no listing of a run that came from an index until now: an index was wrong about the run."""
        self._rejected_at[run_id] = now_s = self._times.of(self._clock())
        self._store.put((_REJECTION, run_id, b""), now_s, lambda: bytes)

    def clear(self) -> None:
        """Forget what is known of runs: they are another account's from now on."""
        self._rejected_at.clear()
        self._clears += 1

    def _frozen(self, key: DirectoryKey, state: DirectoryState) -> Encode:
        """Return a function that encodes a state as it is now."""
        return partial(_encoded, state, self._clock_shown(key, state), state.listing.shown)

    def _judged(
        self, key: DirectoryKey, state: DirectoryState | None, record: Record, row: CacheEntry[Run]
    ) -> RecalledValue[DirectoryState] | None:
        if state is None:
            return None
        if state.source is ListingSource.INDEX and record.requested_at <= self._rejected_at.get(key[0], _NEVER):
            return None
        now, fresh_until = self._clock(), _NEVER
        is_same = _is_same(row.value, state.run)
        if not self._health.is_offline and settled(state.run, int(record.requested_at * 1e9)):
            is_confirmed = self._runs.ttl_left_s(row) > 0
            if not is_same:
                if is_confirmed:
                    self.remove(key)
                    return None
            elif is_confirmed and not record.is_stale:
                fresh_until = row.fresh_until
        age_s = self._times.age_s(record.requested_at, now)
        requested_at = row.requested_at if fresh_until > now else now - age_s
        # One of another row stays that, whatever is stored again: this row may be confirmed by a later mount.
        run = row.value if is_same else state.run
        state = msgspec.structs.replace(state, run=run, age_s=age_s - (now - requested_at))
        return RecalledValue(state, requested_at, fresh_until, record.is_stale)


def _with_clock(
    found: RecalledValue[DirectoryState],
    clock: RunClock,
    neighbours: tuple[tuple[DirectoryKey, RecalledValue[DirectoryState]], ...] = (),
) -> RecalledValue[DirectoryState]:
    state = msgspec.structs.replace(found.value, clock=clock)
    return msgspec.structs.replace(found, value=state, neighbours=neighbours)


def _is_same(run: Run, then: Run) -> bool:
    """Whether a row of a settled run says what it said when a listing was stored."""
    told = (then.project_id, then.status, then.completed_ns, then.updated_ns)
    return (run.project_id, run.status, run.completed_ns, run.updated_ns) == told


def _name(key: DirectoryKey) -> Name:
    # What is below a directory follows it: no name holds a NUL, and none of what is allowed in one is less.
    return _KIND, key[0], key[1].replace("/", "\0").encode()


def _encoded(state: DirectoryState, clock: RunClock, shown: tuple[Entry, ...] | PackedEntries) -> bytes | None:
    try:
        as_packed, parts = None, []
        if isinstance(shown, PackedEntries):
            as_packed = (shown.directories, shown.files, shown.packed_numbers, shown.run_ns)
        else:
            # In slices: the interpreter's lock is held for each.
            parts = [_encoder.encode([_row(entry) for entry in part]) for part in chunked(shown)]
        form = _Form(state.run, state.prefix, state.source.value, clock.own, clock.run_ns, as_packed, parts)
        value = _encoder.encode(form)
    except (OverflowError, ValueError, msgspec.MsgspecError):
        return None  # a time, a size, or a lone surrogate in the run's texts, that has no form there
    return value if len(value) <= _MAX_BYTES else None


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        entry.name,
        entry.is_dir,
        entry.number,
        entry.mtime_ns,
        entry.size_bytes,
        entry.created_ns,
        entry.is_size_listed,
    )


def _decoded(record: Record) -> DirectoryState | None:
    try:
        form = _form_decoder.decode(record.value)
        listing: Listing | PackedListing
        if form.packed is not None:
            directories, files, numbers, run_ns = form.packed
            listing = PackedListing(packed(directories, files, list(memoryview(numbers).cast("Q")), run_ns))
        else:
            rows = (row for part in form.parts for row in _part_decoder.decode(part))
            listing = Listing({row[0]: Entry(*row) for row in rows})
        source, clock = ListingSource(form.source), RunClock(form.own, form.run_ns, is_stored=True)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return None  # of another version of artifactfs
    return DirectoryState(form.run, form.prefix, listing, source, clock, is_stored=True)
