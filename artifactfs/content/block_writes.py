"""A new file of the cache: written under a temporary name, which other processes see, then renamed.

Everything here blocks, and raises OSError for failures of the disk.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from artifactfs.content import block_format, block_tree
from artifactfs.content.block_buffers import Buffer
from artifactfs.content.block_format import Provenance


class NewFile(NamedTuple):
    """One block, or a group of them from index `first` on, of a version, all of one provenance."""

    key: bytes
    first: int
    blocks: Sequence[bytes | Buffer]
    stamp: Provenance

    @property
    def name(self) -> str:
        """Its name in the directory of its version."""
        return block_format.file_name(self.first, len(self.blocks))

    @property
    def single_names(self) -> list[str]:
        """The names that its blocks have where each is a file of its own."""
        return [block_format.file_name(self.first + number, 1) for number in range(len(self.blocks))]

    @property
    def size_bytes(self) -> int:
        """Its size on disk."""
        contents = sum(len(block) for block in self.blocks)
        return block_tree.on_disk(block_format.extra_bytes(self.key, self.stamp) + contents)


@contextlib.contextmanager
def begun(directory: int, file: NewFile, aside: str) -> Iterator[Callable[[], None]]:
    """Make the temporary file in the directory of its version; give what writes it, and gives it its name.

    Deletes what did not get its name. Call under the lock of the tree's count (block_tree.py).
    """
    fd = block_tree.set_aside(directory, aside)
    is_named = False

    def finish() -> None:
        nonlocal is_named
        block_format.write(fd, file.key, file.first, file.blocks, file.stamp)
        os.close(os.dup(fd))  # a disk in the network says only now what it could not write
        os.rename(aside, file.name, src_dir_fd=directory, dst_dir_fd=directory)
        is_named = True

    try:
        yield finish
    finally:
        if not is_named:
            with contextlib.suppress(OSError):
                os.unlink(aside, dir_fd=directory)
        # Not closed before, and so locked, until it has its name.
        os.close(fd)
