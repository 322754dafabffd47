"""The open files of a mount: handles of the same version share one `SharedFile`.

Owns the keys of versions in the caches: site, account, project, path and size (docs/semantics.md 6.3, 2.4).
"""

import hashlib
from collections.abc import Callable

import msgspec

from artifactfs.content.context import ContentContext
from artifactfs.content.reader import OpenFile, SharedVersion
from artifactfs.content.shared_file import SharedFile
from artifactfs.domain import ContentVersion


class CachedBytes(msgspec.Struct, frozen=True):
    """How much of a version is cached, and the number of its open handles.

    `disk_bytes` have this place and size; whether they are still valid shows when they are read (docs/semantics.md
    4.3).
    """

    memory_bytes: int
    disk_bytes: int
    handles: int


class OpenFileTable:
    """See the module. `owner`: site and account; another account's cache is never served (6.3)."""

    def __init__(self, context: ContentContext, *, owner: str) -> None:
        self._context = context
        self.owner = owner
        self._open: dict[ContentVersion, SharedVersion] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, version: ContentVersion) -> OpenFile:
        """Open a version; finds its size where the listing does not give it (docs/semantics.md 2.2).

        For mutable runs, `open` fetches the head, so that a replaced file fails at open, where the kernel looks the
        name up again (2.4), and not in mid-read. The size stays None if no answer tells the length.
        Raises Superseded, ServiceError.
        """
        key = _without_settled(version)
        shared = self._open.get(key)
        if shared is None or shared.current.dead:
            shared = self._open[key] = SharedVersion(SharedFile(self._context, key, self._key_of(key)))
        opened = shared
        opened.current.refcount += 1
        handle = OpenFile(opened, self._context.tuning, lambda: self._release(key, opened))
        try:
            await handle.read_head(revalidate=not version.settled)
        except BaseException:
            handle.close()
            raise
        return handle

    def switch_account(self, owner: str) -> None:
        """Begin a new scope: nothing that was cached for the account before is served any more (6.3). No await.

        Open files stay open, and what is read of them from now on is requested with the new keys.
        """
        self.owner = owner
        for version, shared in self._open.items():
            if not (old := shared.current).dead:
                shared.current = old.successor(version, self._key_of(version))
                old.end_scope()
        self._context.pool.clear()

    async def cached_bytes(self, version: ContentVersion) -> CachedBytes:
        """Return how much of a version is cached; 0 if its size is unknown, which the key needs."""
        shared = self._open.get(_without_settled(version))
        handles = shared.current.refcount if shared is not None else 0
        size = version.size_bytes
        if size is None and shared is not None:
            size = shared.current.size
        if size is None:
            return CachedBytes(0, 0, handles)
        key = self._key_of(version)(size)
        on_disk = await self._context.disk_cache.held_bytes(key)
        return CachedBytes(self._context.pool.held_bytes(key), on_disk, handles)

    def _release(self, version: ContentVersion, shared: SharedVersion) -> None:
        shared.current.refcount -= 1
        if shared.current.refcount == 0:
            shared.current.close()
            if self._open.get(version) is shared:
                del self._open[version]

    def _key_of(self, version: ContentVersion) -> Callable[[int], bytes]:
        """Return a function that makes a version's key from its size: 16 bytes."""
        parts = [self.owner, version.artifact.project_id, version.artifact.path]
        if version.variant:
            parts.append(str(version.variant))
        start = hashlib.blake2b("\0".join(parts).encode(), digest_size=16)

        def key_of(size: int) -> bytes:
            digest = start.copy()
            digest.update(b"\0%d" % size)
            return digest.digest()

        return key_of


def _without_settled(version: ContentVersion) -> ContentVersion:
    """Return the version without what may change while it is open: that its run is over."""
    return msgspec.structs.replace(version, settled=True)
