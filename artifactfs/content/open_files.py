"""Open files: opens, shares one `SharedFile` among all who read the same version, and closes.

Owns what a version of a file is called in the cache: site, account, project, path and size (semantics 6.3, 2.4).
"""

import hashlib

import msgspec

from artifactfs.content.context import ContentContext
from artifactfs.content.reader import OpenFile
from artifactfs.content.shared_file import SharedFile
from artifactfs.domain import ArtifactRef, ContentVersion


class CachedBytes(msgspec.Struct, frozen=True):
    """How much of a version is kept, and by how many handles it is open.

    `disk_bytes` are of this size and place; whether they still hold is found out when they are read (semantics 4.3).
    """

    memory_bytes: int
    disk_bytes: int
    handles: int


class OpenFileTable:
    """The files of one mount. `owner` names site and account: another account's cache is never served (6.3)."""

    def __init__(self, shop: ContentContext, *, owner: str) -> None:
        self._shop = shop
        # Whose contents these are: see `switch_account`.
        self.owner = owner
        self._sources: dict[ContentVersion, SharedFile] = {}

    async def open(self, version: ContentVersion) -> OpenFile:
        """Open a version; finds its size where the listing does not give it (semantics 2.2).

        One that may have changed since is looked at: what is superseded when it is opened is looked up again, by the
        kernel and unseen (2.4); what is superseded when it is read fails the reader. It is what most read first.
        The size stays None where no answer tells the length. Raises Superseded, ServiceError.
        """
        key = _key(version)
        source = self._sources.get(key)
        if source is None or source.dead:
            source = self._sources[key] = SharedFile(
                self._shop, version.artifact, version.size_bytes, self._namer(version), version.content_stamp
            )
        source.users += 1
        try:
            await source.learn_size(self._shop.tuning.head_bytes)
            if not version.settled:
                await source.look(self._shop.tuning.head_bytes)
        except BaseException:
            self._give_back(key, source)
            raise
        return OpenFile(source, self._shop.tuning, lambda: self._give_back(key, source))

    def switch_account(self, owner: str) -> None:
        """From now on contents are another account's: nothing that was cached for the one before is served (6.3).

        Open files stay open: what is read of them from now on is asked for with the new keys.
        """
        self.owner = owner
        for key, source in self._sources.items():
            source.switch_account(self._namer(key))

    async def kept(self, version: ContentVersion) -> CachedBytes:
        """Return how much of a version is at hand; nothing is known of one whose size is not."""
        source = self._sources.get(_key(version))
        handles = source.users if source is not None else 0
        size = version.size_bytes if version.size_bytes is not None else source.size if source is not None else None
        if size is None:
            return CachedBytes(0, 0, handles)
        key = self._namer(version)(size)
        return CachedBytes(self._shop.pool.held_bytes(key), await self._shop.keeper.held_bytes(key), handles)

    def _give_back(self, key: ContentVersion, source: SharedFile) -> None:
        source.users -= 1
        if source.users == 0:
            source.close()
            if self._sources.get(key) is source:
                del self._sources[key]

    def _namer(self, version: ContentVersion) -> "_CacheKeys":
        return _CacheKeys(self.owner, version.artifact, version.variant)


def _key(version: ContentVersion) -> ContentVersion:
    """Return the version without what may change while it is open: that its run is over."""
    return msgspec.structs.replace(version, settled=True)


class _CacheKeys:
    """The name of a version, given its size: 16 bytes."""

    def __init__(self, owner: str, artifact: ArtifactRef, variant: int) -> None:
        parts = [owner, artifact.project_id, artifact.path, *([str(variant)] if variant else [])]
        self._start = hashlib.blake2b("\0".join(parts).encode(), digest_size=16)

    def __call__(self, size: int) -> bytes:
        digest = self._start.copy()
        digest.update(b"\0%d" % size)
        return digest.digest()
