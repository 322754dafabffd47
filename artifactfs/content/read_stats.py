"""Counts of the bytes that were read, by their source, and of full bodies. Shared by all open files of a mount."""

import msgspec

from artifactfs.domain import ArtifactRef


class Stream(msgspec.Struct, eq=False):
    """A full body that is being read. `size` None: unknown so far.

    `came_to`: the offset that it has reached. `fits`: into the cache or memory; if not, a step back starts it again.
    """

    artifact: ArtifactRef
    size: int | None
    fits: bool
    came_to: int = 0


class ReadStats(msgspec.Struct):
    """The counts of one mount.

    `memory_*`: reads that blocks in memory answered at once; `disk_*`: blocks loaded from the cache on disk;
    `fetched_*`: blocks and bytes from the service; `files_ahead`: small files that were fetched before they were read.
    `streams`: the full bodies that are being read; `streamed`: how many
    full bodies fitted neither cache nor memory; `restarted`: how often one started again for a step back.
    """

    memory_reads: int = 0
    memory_bytes: int = 0
    disk_blocks: int = 0
    disk_bytes: int = 0
    fetched_blocks: int = 0
    fetched_bytes: int = 0
    files_ahead: int = 0
    streams: list[Stream] = []
    streamed: int = 0
    restarted: int = 0


class CacheState(msgspec.Struct, frozen=True):
    """The cache on disk. `size_bytes`, `free_bytes`: as of the last look; None before the first.

    Evictions are those of this mount.
    """

    directory: str
    size_bytes: int | None
    limit_bytes: int
    free_bytes: int | None
    evicted_files: int
    evicted_bytes: int
    waiting_bytes: int
    keeps_up: bool
