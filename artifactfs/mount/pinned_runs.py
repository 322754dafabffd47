"""Keeps what is pinned as the service has it: a pinned run that changes is listed again, and what is new is fetched.

The tree says that a run has changed, as far as the mount sees it. The work is done by one task, beside all reads: a
listing or a file is asked for only while the service has room for more. Versions that are gone are deleted at the end,
since no eviction takes them. What fails is tried again later, and logged once.
"""

import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import trio

from artifactfs import errors
from artifactfs.content.cache_places import CachePart
from artifactfs.content.open_files import OpenFileTable
from artifactfs.control.pinned_files import PinnedFiles, Place
from artifactfs.errors import NoThread
from artifactfs.logs import NOTICE
from artifactfs.pins import Pin, PinFile, UnchangedPins, UnreadablePins
from artifactfs.tree import listing
from artifactfs.tree.nodes import ArtifactFile, mount_path
from artifactfs.tree.tree import Tree
from artifactfs.util import threads
from artifactfs.util.pulse import Pulse

log = logging.getLogger(__name__)

# Files that are fetched at once. Arbitrary; the reads of programs have the other connections.
_JOBS = 4
# How often the service is asked whether it has room by now.
_ROOM_S = 0.5
# How long after a renewal, or a failure, the next one of the same run begins; and at least so many times as long as it
# took, so that a run of many directories that changes all the time costs a small share of the requests. Arbitrary.
_PAUSE_S = 60.0
_PAUSE_FACTOR = 10.0
# How often older versions of a run that goes on are deleted, for which all of the cache is looked at. Arbitrary.
_CLEAN_S = 3600.0
# How often the list of pins is looked at: other processes change it, too.
_LOOK_S = 60.0


class PinnedRuns:
    """See the module. `can_fetch`: whether a request that no program waits for may be sent."""

    def __init__(
        self,
        pins: PinFile,
        tree: Tree,
        files: OpenFileTable,
        can_fetch: Callable[[], bool],
        run_in_thread: threads.RunInThread = threads.run,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._file = pins
        self._files = files
        self._pinned = PinnedFiles(tree, files, wall_clock_ns)
        self._can_fetch = can_fetch
        self._run_in_thread = run_in_thread
        self._pins: dict[int, list[Pin]] = {}
        # The runs that have changed, and when they may be renewed (trio's clock).
        self._due: dict[int, float] = {}
        self._not_before: dict[int, float] = {}
        # Those whose row is another: what is cached of a settled run may not be valid any more (docs/semantics.md 4.3).
        self._other_rows: set[int] = set()
        # When older versions were deleted last, by place.
        self._cleaned_at: dict[str, float] = {}
        self._wake = Pulse()
        self._is_old = True
        # What was logged and has not succeeded since.
        self._failed: set[str] = set()
        # The places of runs that were not over, and may have changed while nothing was mounted.
        self._seen: set[str] = set()
        tree.watch_runs(self._pins.__contains__, self._changed)

    def look_again(self) -> None:
        """Read the list of pins now: it has changed."""
        self._is_old = True
        self._wake.notify()

    def _changed(self, run_id: int, is_row: bool) -> None:
        if is_row:
            self._other_rows.add(run_id)
        self._due[run_id] = min(self._not_before.get(run_id, 0.0), self._due.get(run_id, float("inf")))
        self._wake.notify()

    async def run(self) -> None:
        """Renew what changes, until it is cancelled."""
        looked_at = float("-inf")
        while True:
            if self._is_old or trio.current_time() >= looked_at + _LOOK_S:
                await self._look()
                looked_at = trio.current_time()
            now = trio.current_time()
            ready = next((run_id for run_id, due in self._due.items() if due <= now), None)
            if ready is not None:
                del self._due[ready]
                await self._renew_run(ready)
            else:
                with trio.move_on_at(min(looked_at + _LOOK_S, *self._due.values(), float("inf"))):
                    await self._wake.wait()

    async def _look(self) -> None:
        self._is_old = False
        try:
            pins = await self._run_in_thread(self._file.load)
        except NoThread:
            return  # the next look finds one
        mine = [pin for pin in pins if pin.owner == self._files.owner]
        self._pins.clear()
        for pin in mine:
            if not any(other is not pin and other.covers(pin) for other in mine):
                self._pins.setdefault(pin.run_id, []).append(pin)
            if not pin.is_settled and pin.place not in self._seen:
                self._seen.add(pin.place)
                # Not now: whoever pinned it is fetching it.
                self._due.setdefault(pin.run_id, trio.current_time() + _PAUSE_S)

    async def _renew_run(self, run_id: int) -> None:
        began, is_done = trio.current_time(), True
        is_other_row = run_id in self._other_rows
        self._other_rows.discard(run_id)
        for pin in list(self._pins.get(run_id, ())):
            if pin.owner == self._files.owner:
                try:
                    is_done = await self._renew(pin, is_other_row or not pin.is_settled) and is_done
                except Exception:  # a bug must not end the mount
                    log.exception("fetching what is pinned failed: %s", errors.unexpected())
        now = trio.current_time()
        self._not_before[run_id] = now + max(_PAUSE_S, _PAUSE_FACTOR * (now - began))
        if run_id in self._due or not is_done:
            # What has changed meanwhile comes with the pass that is due then.
            self._due[run_id] = self._not_before[run_id]
            if is_other_row and not is_done:
                self._other_rows.add(run_id)
        elif self._pinned.is_about_to_settle(run_id):
            # From then on what is cached is known by other times (docs/semantics.md 4.3).
            self._due[run_id] = now + listing.SETTLED_S

    async def _renew(self, pin: Pin, is_other_row: bool) -> bool:
        """List what is pinned again, fetch what the disk lacks of it, and delete what is no longer part of it.

        Returns whether all of it could be had, as far as it is there.
        """
        where = f"/runs/{pin.place}"
        keys: set[bytes] = set()
        failures: list[str] = []
        await self._room()
        try:
            place = await self._pinned.find(pin.run_id, pin.path)
        except errors.NoSuchEntry:
            self._say(where, f"{where} is pinned, and gone from the service; the cache keeps what it has of it")
            return True
        except (errors.TreeError, errors.ServiceError) as error:
            failures.append(_failure(where, error))
        else:
            await self._fetch_all(place, is_other_row, keys, failures)
        if failures:
            self._say(where, f"{where} is pinned and has changed, and not all of it could be fetched: {failures[0]}")
            return False
        self._failed.discard(where)
        is_settled = self._pinned.is_settled(pin.run_id)
        try:
            await self._clean(pin, keys, at_once=is_settled)
            if pin.is_settled != is_settled:
                update = partial(self._file.update, pin.owner, pin.place, is_settled=is_settled)
                await self._run_in_thread(update)
        except (NoThread, UnreadablePins, UnchangedPins, OSError) as error:
            log.info("%s is pinned: %s", where, error)
        log.info("%s is pinned and has changed: the cache has it as it is now", where)
        return True

    async def _clean(self, pin: Pin, keys: set[bytes], *, at_once: bool) -> None:
        """Delete what the disk has of a place, except the versions with these keys. Raises NoThread, UnreadablePins."""
        part, now = CachePart(pin.site, pin.place), trio.current_time()
        is_due = at_once or now >= self._cleaned_at.get(pin.place, 0.0) + _CLEAN_S
        # A block does not say of which account it is; and another one may have pinned something since the last look.
        pins = await self._run_in_thread(self._file.load) if is_due else ()
        owners = {other.owner for other in pins if (other.site, other.run_id) == (pin.site, pin.run_id)}
        if is_due and owners <= {pin.owner}:
            await self._files.delete_others(lambda place: bool(place) and part.covers(place), keys)
            self._cleaned_at[pin.place] = now

    async def _fetch_all(self, place: Place, is_other_row: bool, keys: set[bytes], failures: list[str]) -> None:
        limiter = trio.CapacityLimiter(_JOBS)

        async def fetch(file: ArtifactFile) -> None:
            async with limiter:
                try:
                    keys.update(await self._pinned.complete(file, changed=is_other_row, pace=self._room))
                except (errors.TreeError, errors.ServiceError, NoThread) as error:
                    failures.append(_failure(f"/{mount_path(file)}", error))

        async with trio.open_nursery() as nursery, aclosing(self._pinned.walk(place, self._room)) as files:
            try:
                async for file in files:
                    # One more task than may run, and not one for each of 200,000 files.
                    async with limiter:
                        nursery.start_soon(fetch, file)
            except (errors.TreeError, errors.ServiceError) as error:
                failures.append(_failure(f"/{mount_path(place)}", error))

    async def _room(self) -> None:
        """Wait until a request delays no program."""
        while not self._can_fetch():  # noqa: ASYNC110 - nothing says when it has
            await trio.sleep(_ROOM_S)

    def _say(self, where: str, sentence: str) -> None:
        if where not in self._failed:
            self._failed.add(where)
            log.warning("%s", sentence, extra=NOTICE)


def _failure(where: str, error: errors.ArtifactfsError) -> str:
    return f"{where}: {error}; {errors.what_to_do(error)}"
