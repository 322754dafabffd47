"""What all open files of a mount share: the service, the cache, the bounds, and what was learned of the server."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import cachetools
import msgspec
import trio

from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.memory_cache import BlockPool, ReadaheadBudget
from artifactfs.content.read_stats import ReadStats
from artifactfs.content.tuning import DEFAULTS, ContentTuning
from artifactfs.domain import ArtifactRef, ContentBody

# Versions whose validator is remembered: some 200 bytes each. The kernel's pages of a file may outlive our blocks.
_VALIDATORS = 20_000


class ContentService(Protocol):
    """The part of Model Lab that serves file contents: `content_endpoint.ContentEndpoint`, or a fake in tests."""

    ranges: bool | None

    @property
    def crowded(self) -> bool:
        """Whether requests wait for others to end."""

    def get(
        self, artifact: ArtifactRef, start: int, end: int | None, *, size: int | None
    ) -> AbstractAsyncContextManager[ContentBody]:
        """Ask for bytes [start, end) of an artifact."""


def _remembered() -> cachetools.LRUCache[bytes, bytes]:
    return cachetools.LRUCache(_VALIDATORS)


class ContentContext(msgspec.Struct):
    """What all sources of a mount share. `deadline_s`: the longest wait without progress."""

    service: ContentService
    keeper: DiskCache
    pool: BlockPool
    budget: ReadaheadBudget
    nursery: trio.Nursery
    wall_clock: Callable[[], float]
    deadline_s: float
    listing_ttl_s: float
    # The pause before a request is sent again, given how often it failed (the first time: 1).
    backoff_s: Callable[[int], float]
    tuning: ContentTuning = DEFAULTS
    # This server's validators change from answer to answer, and mean nothing (semantics 4.1).
    validators_unreliable: bool = False
    # Of each version that was read, by its name in the cache: what is held under that name, here and by the kernel.
    validators: cachetools.LRUCache[bytes, bytes] = msgspec.field(default_factory=_remembered)
    # Who asks while it is not known whether this server grants ranges.
    probe: trio.Lock = msgspec.field(default_factory=trio.Lock)
    # Files that something is fetched of, and whole bodies that are being read.
    fetched: int = 0
    spools: int = 0
    tally: ReadStats = msgspec.field(default_factory=ReadStats)

    def readahead_capacity(self) -> int:
        """Return how far ahead of one reader to fetch: what is fetched ahead of all must find room in memory."""
        return self.pool.max_bytes * 2 // 3 // max(1, self.fetched, self.pool.readers_ahead_of)

    def fits(self, size: int) -> bool:
        """Whether a body of `size` bytes can be kept, on disk or in memory, so that it is fetched once."""
        return size <= max(self.keeper.room_bytes, self.pool.max_bytes)

    def has_room_for(self, size: int, left: int) -> bool:
        """Whether a body of `size` bytes, of which `left` are to come, can be held until somebody reads it."""
        return left <= self.pool.readahead_capacity or size <= self.keeper.room_bytes // 2 // max(1, self.spools)
