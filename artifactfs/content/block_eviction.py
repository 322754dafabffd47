"""Chooses what goes when the cache is full: the least recently used files, except what the user keeps (pins.py).

Whether a block is kept says the place behind it, for which its file has to be opened. So only files whose turn it is to
go are looked into. What is kept counts as just used from then on: its turn comes again after that of all others.
Everything here blocks, and is called under the lock of the tree's count.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from artifactfs.content import block_format, block_tree, cache_places
from artifactfs.content.block_tree import File


class Pins(Protocol):
    """What the user keeps: `artifactfs.pins.PinFile`."""

    def load(self) -> Sequence[object]:
        """Return what there is, as it is now."""

    def covers(self, site: str, place: str) -> bool:
        """Whether "<run id>/<path>" at a site was kept at the last `load`."""


class Evicted(NamedTuple):
    """What was deleted, and the bytes that are left in the cache."""

    files: int
    size_bytes: int
    left_bytes: int


def evict(tree: int, goal: Callable[[int], int], pins: Pins | None) -> Evicted:
    """Delete the least recently used files that are not kept, until `goal(bytes in all)` bytes are left.

    More are left where the rest is kept.
    """
    files = sorted(block_tree.files(tree, asides=True))
    all_bytes = left = sum(file.size_bytes for file in files)
    most = goal(left)
    count = 0
    is_kept = _Kept(tree, pins) if pins is not None and pins.load() else lambda _file: False
    for file in files:
        if left <= most:
            break
        if not file.is_aside and not is_kept(file) and block_tree.unlink(tree, file):
            left -= file.size_bytes
            count += 1
    return Evicted(count, all_bytes - left, left)


class _Kept:
    """A test of whether a file is kept; then its time of use is now."""

    def __init__(self, tree: int, pins: Pins) -> None:
        self._tree = tree
        self._pins = pins
        # By version, all of whose files have one place.
        self._verdicts: dict[bytes, bool] = {}

    def __call__(self, file: File) -> bool:
        if self._verdicts.get(file.key) is False:
            return False
        try:
            with block_tree.version(self._tree, file.key) as directory:
                if file.key not in self._verdicts:
                    with block_format.opened(file.name, directory) as fd:
                        place = block_format.read_place(fd)
                    if place:  # or else it is damaged, or was written by an earlier version
                        self._verdicts[file.key] = self._pins.covers(*cache_places.site_and_path(place))
                if not self._verdicts.get(file.key, False):
                    return False
                with contextlib.suppress(OSError):
                    os.utime(file.name, dir_fd=directory, follow_symlinks=False)
        except (OSError, ValueError):
            return False  # deleted in this moment, or damaged
        return True
