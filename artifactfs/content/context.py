"""What all open files of a mount share: the service, the caches, the limits, and the facts learned about the server."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import cachetools
import msgspec
import trio

from artifactfs.content.block_buffers import NewBuffer
from artifactfs.content.content_tuning import DEFAULTS, ContentTuning
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.memory_cache import BlockPool, ReadaheadBudget
from artifactfs.content.read_stats import ReadStats
from artifactfs.domain import ArtifactRef, ContentBody

# Versions whose validator is remembered, at about 300 bytes each. The kernel may keep pages of a file for longer than
# the caches keep its blocks.
_VALIDATORS = 20_000


class ContentService(Protocol):
    """The part of Model Lab that serves file contents: `content_endpoint.ContentEndpoint`, or a fake in tests."""

    ranges: bool | None

    @property
    def is_saturated(self) -> bool:
        """Whether requests wait for others to end."""

    @property
    def is_offline(self) -> bool:
        """Whether every request fails at once, since the mount works offline."""

    def can_prefetch(self) -> bool:
        """Whether a request that no program waits for may be sent."""

    def get(
        self, artifact: ArtifactRef, start: int, end: int | None, *, size: int | None
    ) -> AbstractAsyncContextManager[ContentBody]:
        """Ask for bytes [start, end) of an artifact."""


def _remembered() -> cachetools.LRUCache[bytes, bytes]:
    return cachetools.LRUCache(_VALIDATORS)


class ContentContext(msgspec.Struct):
    """See the module. `deadline_s`: the longest wait without progress."""

    service: ContentService
    disk_cache: DiskCache
    pool: BlockPool
    budget: ReadaheadBudget
    nursery: trio.Nursery
    wall_clock: Callable[[], float]
    deadline_s: float
    listing_ttl_s: float
    # The pause before a request is sent again, given how often it failed (the first time: 1).
    backoff_s: Callable[[int], float]
    tuning: ContentTuning = DEFAULTS
    # Makes the memory of a block.
    new_buffer: NewBuffer = bytearray
    # This server's validators differ from answer to answer, so they mean nothing (docs/semantics.md 4.1).
    validators_unreliable: bool = False
    # The validator of each version that was read, by the version's key in the caches.
    validators: cachetools.LRUCache[bytes, bytes] = msgspec.field(default_factory=_remembered)
    # Sizes that no listing gives and that were found earlier (trio's clock) are asked again (docs/semantics.md 3.3).
    sizes_stale_at: float = float("-inf")
    # Held by the request that finds out whether this server grants ranges.
    probe: trio.Lock = msgspec.field(default_factory=trio.Lock)
    # Files with a fetch under way, and full bodies that are being read.
    active_downloads: int = 0
    active_streams: int = 0
    stats: ReadStats = msgspec.field(default_factory=ReadStats)

    def readahead_capacity(self) -> int:
        """Return the read-ahead of one reader, in bytes: memory must have room for the read-ahead of all readers."""
        return self.pool.max_bytes * 2 // 3 // max(1, self.active_downloads, self.pool.readers_ahead_of)

    def fits(self, size: int) -> bool:
        """Whether a body of `size` bytes can be cached, on disk or in memory, so that it is fetched once."""
        return size <= self.room_bytes

    @property
    def room_bytes(self) -> int:
        """The longest body that a cache has room for, on disk or in memory."""
        return max(self.disk_cache.room_bytes, self.pool.max_bytes)

    def has_room_for(self, size: int, left: int) -> bool:
        """Whether a body of `size` bytes, of which `left` are to come, can be cached before it is read."""
        share = self.disk_cache.room_bytes // 2 // max(1, self.active_streams)
        return left <= self.pool.readahead_capacity or size <= share
