"""Where the bytes that were read came from, and what is streamed. Only counts; shared by all open files of a mount."""

import msgspec

from artifactfs.domain import ArtifactRef


class Stream(msgspec.Struct, eq=False):
    """A body that is being read whole, since the service ignores ranges. `size` None: unknown so far.

    `came_to`: byte of the file. `fits`: into the cache or memory; if it does not, a step back starts it again.
    """

    artifact: ArtifactRef
    size: int | None
    fits: bool
    came_to: int = 0


class ReadStats(msgspec.Struct):
    """The counts of one mount.

    `memory_*`: reads that blocks in memory answered at once; `disk_*`: blocks loaded from the cache on disk;
    `fetched_*`: blocks, and bytes, that came from the service. `streams`: bodies that are read whole just now;
    `streamed`: how many of those there were that fit neither cache nor memory, and `restarted` how often one began anew
    for a step back.
    """

    memory_reads: int = 0
    memory_bytes: int = 0
    disk_blocks: int = 0
    disk_bytes: int = 0
    fetched_blocks: int = 0
    fetched_bytes: int = 0
    streams: list[Stream] = []
    streamed: int = 0
    restarted: int = 0


class CacheState(msgspec.Struct, frozen=True):
    """The cache on disk. `size_bytes`, `free_bytes`: when somebody last looked, None as long as nobody has.

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
