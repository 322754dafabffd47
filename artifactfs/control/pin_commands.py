"""The commands about pins: `pin`, `unpin`, `pins`, `kept` and `keep` in /.artifactfs.

The mount itself writes its pins, since it alone knows the account: that stands for the keys, so it is in no report.
Each answer has what all pins of the cache need, for a command that has to refuse what would not fit.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import trio

from artifactfs.control.pin_schema import Kept, PinAnswer, report
from artifactfs.control.pinned_files import PinnedFiles, Place
from artifactfs.control.snapshot import MountComponents
from artifactfs.control.status_schema import SCHEMA, exact_json
from artifactfs.pins import Pin, PinFile, UnchangedPins, UnreadablePins, needs_bytes
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Node, mount_path
from artifactfs.util import threads

# Less than a client waits for an answer (mount/control_client.py). What is listed or fetched by then counts, and the
# client asks again.
_LIMIT_S = 20.0
# For what was listed to be stored, on a disk that is slow. Arbitrary.
_STORED_S = 5.0


class PinCommands:
    """The commands of one mount. `node_of(number)`: the node of an inode. `changed`: called when the pins change."""

    def __init__(self, components: MountComponents, node_of: Callable[[int], Node]) -> None:
        self._components = components
        self._pins = components.pins
        self._limit_bytes = components.content.disk_cache.max_bytes
        self._limit_s = min(_LIMIT_S, components.settings.deadline / 2)
        self._pinned = PinnedFiles(components.tree, components.files)
        self._files = components.files
        self._node_of = node_of
        self.changed: Callable[[], None] = lambda: None
        self._run = partial(threads.run, limiter=trio.CapacityLimiter(1))

    def commands(self) -> dict[str, Callable[[int], Awaitable[bytes]]]:
        """Return the commands by their names."""
        return {
            "pin": lambda number: self._answer(number, self._pin),
            "unpin": lambda number: self._answer(number, self._unpin),
            "pins": lambda number: self._answer(number, None),
            "kept": lambda number: self._answer(number, partial(self._look, fetch=False)),
            "keep": lambda number: self._answer(number, partial(self._look, fetch=True)),
        }

    async def _answer(self, number: int, act: Callable[[PinFile, Place], Awaitable[PinAnswer]] | None) -> bytes:
        """Act on the place of an inode, if it is in a run; returns the answer, with what all pins need."""
        node = self._node_of(number)
        place = node if isinstance(node, ArtifactDir | ArtifactFile) else None
        if self._pins is None:
            fix = "mount with a cache: see cache_size and cache_dir in `artifactfs config show`"
            answer = PinAnswer(SCHEMA, error="this mount has no cache on disk", what_to_do=fix)
        else:
            try:
                answer = PinAnswer(SCHEMA) if act is None or place is None else await act(self._pins, place)
                found = await self._run(self._pins.read)
                answer = msgspec.structs.replace(
                    answer,
                    pins=tuple(report(pin, is_own=pin.owner == self._files.owner) for pin in found),
                    needs_bytes=needs_bytes(found),
                    disk_room_bytes=await self._components.content.disk_cache.disk_room_bytes(),
                    cache_dir=self._pins.directory,
                )
            except (UnreadablePins, UnchangedPins) as error:
                answer = PinAnswer(SCHEMA, error=error.fact, what_to_do=error.fix)
        path = mount_path(place) if place is not None else None
        state = {"limit_bytes": self._limit_bytes, "is_offline": self._components.breaker.offline is not None}
        answer = msgspec.structs.replace(answer, path=path, **state)
        return exact_json(answer)

    async def _pin(self, pins: PinFile, place: Place) -> PinAnswer:
        new = self._new_pin(place)
        known = next((each for each in await self._run(pins.read) if each.is_of(new.owner, new.place)), None)
        if known is None:
            await self._run(pins.add, new)
            self.changed()
        if self._components.metadata is not None:
            self._components.metadata.forget_loss(new.run_id)
        await self._components.tree.save_again(new.run_id)
        return PinAnswer(SCHEMA, is_new=known is None)

    async def _unpin(self, pins: PinFile, place: Place) -> PinAnswer:
        meant = self._new_pin(place)
        removed = await self._run(pins.remove, lambda each: each.is_of(meant.owner, meant.place))
        self.changed()
        return PinAnswer(SCHEMA, removed=len(removed))

    async def _look(self, pins: PinFile, place: Place, *, fetch: bool) -> PinAnswer:
        kept = await self._pinned.look(place, self._limit_s, fetch=fetch)
        if kept.is_listed and not kept.unsized:
            await self._record(pins, place, kept)
        return PinAnswer(SCHEMA, kept=kept, is_stored=await self._is_stored(place) if fetch else None)

    async def _is_stored(self, place: Place) -> bool | None:
        """Whether what was listed of a run is there for the next mount; None where nothing is stored at all."""
        if (metadata := self._components.metadata) is None:
            return None
        with trio.move_on_after(_STORED_S) as waited:
            await metadata.flush()
        directory = place if isinstance(place, ArtifactDir) else place.directory
        return not waited.cancelled_caught and not metadata.has_lost(directory.run_id)

    async def _record(self, pins: PinFile, place: Place, kept: Kept) -> None:
        """Record the size of a pin, which tells whether others fit beside it."""
        meant = self._new_pin(place)
        sizes = {"size_bytes": kept.size_bytes, "files": kept.files}
        await self._run(partial(pins.update, meant.owner, meant.place, **sizes))

    def _new_pin(self, place: Place) -> Pin:
        directory = place if isinstance(place, ArtifactDir) else place.directory
        site, _, account = self._files.owner.partition("\0")
        is_settled = self._pinned.is_settled(directory.run_id)
        return Pin(site, account, directory.run_id, place.path, time.time(), is_settled=is_settled)
