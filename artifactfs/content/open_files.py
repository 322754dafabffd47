"""The open files of a mount: handles of the same version share one `SharedFile`.

Owns the keys of versions in the caches: site, account, project, path and size (docs/semantics.md 6.3, 2.4).
"""

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.content import cache_places
from artifactfs.content.cache_places import place_in
from artifactfs.content.context import ContentContext
from artifactfs.content.known_bytes import KnownBytes
from artifactfs.content.reader import OpenFile, SharedVersion
from artifactfs.content.shared_file import SharedFile
from artifactfs.domain import ContentVersion
from artifactfs.util.no_checkpoint import no_checkpoint

# Versions that were closed and may grow, about 600 bytes each. Arbitrary.
_MAX_CLOSED = 20_000
# Parts of the cache that were dropped, and whose files are checked at open since. Arbitrary.
_MAX_DROPPED = 100


class CachedBytes(msgspec.Struct, frozen=True):
    """How much of a version is cached, and the number of its open handles.

    `disk_bytes` have this place and size; whether they are still valid shows when they are read (docs/semantics.md
    4.3).
    """

    memory_bytes: int
    disk_bytes: int
    handles: int


class _Lineage(msgspec.Struct, frozen=True):
    """A version that is not open and may grow: its key and its validators in the caches, and how far it came.

    `version`: as it was opened or grew last.
    """

    version: ContentVersion
    key: bytes
    size_bytes: int
    earlier_validators: tuple[bytes, ...]
    sized_at: float
    content_stamp: bytes | None
    known: KnownBytes


class OpenFileTable:
    """See the module. `owner`: site and account; another account's cache is never served (6.3)."""

    def __init__(self, context: ContentContext, *, owner: str) -> None:
        self._context = context
        self.owner = owner
        self._open: dict[ContentVersion, SharedVersion] = {}
        # What was dropped, as tests of a place.
        self._dropped: deque[Callable[[bytes], bool]] = deque(maxlen=_MAX_DROPPED)
        self._closed: cachetools.LRUCache[ContentVersion, _Lineage] = cachetools.LRUCache(_MAX_CLOSED)

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, version: ContentVersion, *, stream: bool = False) -> OpenFile:
        """Open a version; finds its size where the listing does not give it (docs/semantics.md 2.2).

        Where no answer tells the length, the body is read to its end, or is BodyTooLarge if no cache has room for it.
        With `stream` it is not, and is read without a size.

        One that the listing shows larger than it was is compared with what is known of it first (2.4). For mutable
        runs, and files whose contents were dropped (3.6), `open` fetches the head, so that a replaced file fails at
        open, where the kernel looks the name up again, and not in mid-read. Offline, nothing can be compared: what is
        kept is read (8.3). Raises Superseded, ServiceError.
        """
        opened = self._shared(version)
        handle = self._handle(version, opened)
        is_offline = self._context.service.is_offline
        try:
            if not is_offline:
                await handle.grow(version)
            was_dropped = any(is_meant(place_in(opened.current.blocks.key)) for is_meant in self._dropped)
            await handle.read_head(revalidate=not is_offline and (was_dropped or not version.settled))
            if handle.size is None and not stream:
                await handle.read_to_end()
        except BaseException:
            handle.close()
            raise
        return handle

    def can_fetch_ahead(self) -> bool:
        """Whether a file may be fetched now that no program waits for: that delays no reader."""
        return self._context.service.can_prefetch() and self._context.pool.readahead_capacity > 0

    async def fetch_ahead(self, version: ContentVersion) -> bool:
        """Fetch a version of one block for a reader that is expected; returns whether memory lacked it, and has it now.

        A reader that comes meanwhile waits for the same request. Raises Superseded, ServiceError.
        """
        shared = self._shared(version)
        handle = self._handle(version, shared)
        try:
            size, file = version.size_bytes, shared.current
            # What has grown is compared by the reader's `open`.
            if not size or handle.size != size or file.try_view(0, size) is not None:
                return False
            await file.fetch_ahead()
            came = shared.current is file and file.try_view(0, size) is not None
            self._context.stats.files_ahead += came
            return came
        finally:
            handle.close()

    async def forget(self, version: ContentVersion) -> None:
        """Drop what is cached of a version, unless it is open: it was fetched ahead, and no reader came."""
        identity = _identity(version)
        if identity in self._open:
            return
        closed = self._closed.pop(identity, None)
        key = closed.key if closed is not None else self._first_key(version)
        self._context.pool.discard(key)
        await self._context.disk_cache.discard(key)

    def expire_sizes(self) -> None:
        """Let the next opening of each file whose size no listing gives ask for it."""
        self._context.sizes_stale_at = trio.current_time()

    def start_soon(self, task: Callable[[], Awaitable[object]]) -> None:
        """Run a task that no caller waits for. It must not raise."""
        self._context.nursery.start_soon(task)

    @no_checkpoint
    def switch_account(self, owner: str) -> None:
        """Begin a new scope: nothing that was cached for the account before is served any more (6.3).

        Open files stay open, and what is read of them from now on is requested with the new keys.
        """
        self.owner = owner
        for identity, closed in list(self._closed.items()):
            # What programs were given of it must be there in a larger file, with any account's keys (2.4).
            key = self._key_of(closed.version)(closed.size_bytes)
            if (validator := self._context.validators.get(closed.key)) is not None:
                self._context.validators[key] = validator
            self._closed[identity] = msgspec.structs.replace(closed, key=key, earlier_validators=())
        for shared in self._open.values():
            if not (old := shared.current).dead:
                shared.current = old.successor(self._key_of(old.version))
                old.end_scope()
        self._context.pool.clear()

    @no_checkpoint
    def drop(self, is_meant: Callable[[bytes], bool]) -> None:
        """Drop what memory has of the places that are meant (docs/semantics.md 3.6); the disk cache refuses them.

        An open file goes on if its validator will show whether the contents are the same, and otherwise is superseded:
        nothing else would keep its readers from bytes of two versions.
        """
        context = self._context

        def has_place(key: bytes) -> bool:
            return is_meant(place_in(key))

        self._dropped.append(is_meant)
        context.disk_cache.refuse(is_meant)
        context.pool.discard_where(has_place)
        for identity, closed in list(self._closed.items()):
            if has_place(closed.key):
                del self._closed[identity]
        for shared in self._open.values():
            if (old := shared.current).dead or not has_place(old.blocks.key):
                continue
            if old.has_proof:
                shared.current = old.successor(self._key_of(old.version))
                shared.current.blocks.must_match = True
                old.end_scope()
            else:
                old.end_scope(_dropped)
        # After the successors are made: those alone need them.
        for key in filter(has_place, list(context.validators)):
            del context.validators[key]

    async def cached_bytes(self, version: ContentVersion) -> CachedBytes:
        """Return how much of a version is cached; 0 if its size is unknown, which the key needs."""
        identity, size = _identity(version), version.size_bytes
        shared, closed = self._open.get(identity), self._closed.get(identity)
        handles = shared.current.refcount if shared is not None else 0
        if shared is not None and shared.current.size is not None:
            key = shared.current.blocks.key
        elif closed is not None:
            key = closed.key
        elif size is not None:
            key = self._first_key(version)
        else:
            return CachedBytes(0, 0, handles)
        on_disk = await self._context.disk_cache.held_bytes(key)
        return CachedBytes(self._context.pool.held_bytes(key), on_disk, handles)

    async def kept_bytes(self, version: ContentVersion) -> int:
        """Return how much of a version is on disk; of a settled one with a listed size, where the next mount finds it.

        What has grown since it was opened here is under the key that it had before, which the next mount does not know.
        """
        lasting = await self._context.disk_cache.held_bytes(self._lasting_key(version))
        if version.settled and version.is_listed and version.size_bytes is not None:
            return lasting
        return max(lasting, (await self.cached_bytes(version)).disk_bytes)

    async def flush(self, version: ContentVersion) -> None:
        """Wait until what was fetched of a version is on disk, or could not be written."""
        for key in self.keys(version):
            await self._context.disk_cache.flush_version(key)

    async def forget_growth(self, version: ContentVersion) -> None:
        """Drop what is cached of a version under the key that it had before it grew, unless it is open."""
        identity = _identity(version)
        closed = self._closed.get(identity)
        if (
            closed is None
            or identity in self._open
            or not version.is_listed
            or closed.key == self._lasting_key(version)
        ):
            return
        del self._closed[identity]
        self._context.pool.discard(closed.key)
        await self._context.disk_cache.discard(closed.key)

    def keys(self, version: ContentVersion) -> set[bytes]:
        """Return the keys that a version may have in the caches."""
        identity, found = _identity(version), {self._lasting_key(version), self._key_of(version)(version.size_bytes)}
        if (closed := self._closed.get(identity)) is not None:
            found.add(closed.key)
        if (shared := self._open.get(identity)) is not None:
            found.add(shared.current.blocks.key)
        return found

    def _lasting_key(self, version: ContentVersion) -> bytes:
        """Return the key by which the next mount looks for a version."""
        if version.is_listed and version.size_bytes is not None:
            return self._key_of(version)(version.size_bytes)
        # Only the contents tell the size, so the first version that a mount sees has neither that nor another number.
        return self._key_of(msgspec.structs.replace(version, variant=0))(None)

    async def delete_others(self, is_meant: Callable[[bytes], bool], keys: Collection[bytes]) -> None:
        """Delete what the disk has of places that are meant, except the versions with these keys. Raises NoThread."""
        await self._context.disk_cache.delete_others(is_meant, keys)

    def _shared(self, version: ContentVersion) -> SharedVersion:
        """Return a version that is open, or is from now on. Raises Superseded."""
        identity = _identity(version)
        shared = self._open.get(identity)
        if shared is None:
            shared = self._open[identity] = SharedVersion(self._new_file(identity, version))
        # What follows a version that is gone has another lineage: none of its bytes may come under this one.
        shared.current.blocks.check_alive()
        return shared

    def _handle(self, version: ContentVersion, shared: SharedVersion) -> OpenFile:
        identity = _identity(version)
        shared.current.refcount += 1
        return OpenFile(shared, self._context.tuning, lambda: self._release(identity, shared))

    def _new_file(self, identity: ContentVersion, version: ContentVersion) -> SharedFile:
        closed = self._closed.pop(identity, None)
        if closed is None:
            is_told = version.size_bytes is not None and not version.is_listed and version.settled
            key = self._first_key(version) if is_told else None
            return SharedFile(self._context, version, self._key_of(version), key)
        known = msgspec.structs.replace(
            version, size_bytes=closed.size_bytes, content_stamp=closed.content_stamp or version.content_stamp
        )
        file = SharedFile(
            self._context, known, self._key_of(version), closed.key, closed.earlier_validators, closed.sized_at
        )
        file.blocks.known = closed.known
        return file

    def _release(self, identity: ContentVersion, shared: SharedVersion) -> None:
        file = shared.current
        file.refcount -= 1
        if file.refcount:
            return
        file.close()
        if self._open.get(identity) is not shared:
            return
        del self._open[identity]
        # Also of a settled run: a larger file in it is most likely another version, which only the comparison shows.
        blocks = file.blocks
        if file.size is not None and not file.dead and identity.lineage is not None and not blocks.is_untouched:
            self._closed[identity] = _Lineage(
                file.version,
                blocks.key,
                file.size,
                tuple(blocks.earlier_validators),
                file.sized_at,
                blocks.content_stamp,
                blocks.known,
            )

    def _first_key(self, version: ContentVersion) -> bytes:
        """Return the key that a version began with: without its size where only contents have told that.

        While a run goes on, what contents told may be the size of the next version: that has a key of its own.
        """
        return self._key_of(version)(version.size_bytes if version.is_listed or not version.settled else None)

    def _key_of(self, version: ContentVersion) -> Callable[[int | None], bytes]:
        """Return a function that makes a version's key (cache_places.py) from its size (None: no listing gives one)."""
        parts = [self.owner, version.artifact.project_id, version.artifact.path]
        if version.variant:
            parts.append(str(version.variant))
        start = hashlib.blake2b("\0".join(parts).encode(), digest_size=cache_places.DIGEST_BYTES)
        site, place = self.owner.partition("\0")[0], version.place
        behind = cache_places.encode(site, place, version.artifact.project_id)

        def key_of(size: int | None) -> bytes:
            digest = start.copy()
            digest.update(b"\0?" if size is None else b"\0%d" % size)
            return digest.digest() + behind

        return key_of


def _dropped() -> errors.Superseded:
    return errors.Superseded("what was cached of this file was dropped while it was open")


def _identity(version: ContentVersion) -> ContentVersion:
    """Return the version without what may change while it is open: that its run is over, and, if it may grow, its size.

    The times of its run change with that, too.
    """
    if version.lineage is None:
        return msgspec.structs.replace(version, settled=True)
    return ContentVersion(version.artifact, None, lineage=version.lineage)
