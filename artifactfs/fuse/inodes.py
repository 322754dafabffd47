"""Inode numbers <-> places, and how often the kernel has looked each up.

The table holds what the kernel holds: an inode comes in with its first counted lookup and goes with the forget
that takes the last one. No await anywhere in here: `forget` may come beside a new lookup (pitfalls.md).
"""

import logging
from collections.abc import Iterable

import msgspec

from artifactfs.errors import Superseded
from artifactfs.tree.nodes import Directory, File, Fixed, Node, completes

log = logging.getLogger(__name__)


class Inode:
    """A version of a place, under the number that the kernel knows it by."""

    __slots__ = ("lookups", "node", "number", "superseded")

    def __init__(self, number: int, node: Node) -> None:
        self.number = number
        self.node = node
        self.lookups = 0
        # The server has another version by now: whoever opens this one is sent to look again.
        self.superseded = False


class Inodes:
    """All inodes in use. `pinned` ones (the root) are there without a lookup, and stay."""

    def __init__(self, pinned: Iterable[Node]) -> None:
        self._pinned = {node.entry.number: Inode(node.entry.number, node) for node in pinned}
        self._table: dict[int, Inode] = dict(self._pinned)

    def __len__(self) -> int:
        return len(self._table)

    def get(self, number: int) -> Inode:
        """Return the inode of a number. Raises Superseded (ESTALE) for one that is not in use."""
        try:
            return self._table[number]
        except KeyError:
            raise Superseded(f"inode {number} is not in use") from None

    def intern(self, node: Node) -> Inode:
        """Return the inode for a place: the one in use, or a new one that `count` will put into use."""
        number = node.entry.number
        while (inode := self._table.get(number)) is not None:
            if inode.superseded:
                number += 1  # the name stands for a version that is a new inode, whatever the listing knows of it
                continue
            if inode.node is node or inode.node.entry is node.entry:
                return inode
            if _same_version(inode.node, node):
                inode.node = _completed(inode.node, node)
                return inode
            # Two places with one digest: the later one gets the next number. Once in about 2^63 / n^2.
            number += 1
        return Inode(number, node)

    def count(self, inode: Inode) -> None:
        """The kernel was given this inode once more."""
        inode.lookups += 1
        self._table[inode.number] = inode

    def forget(self, number: int, lookups: int) -> None:
        """The kernel gives back that many lookups of an inode."""
        inode = self._table.get(number)
        if inode is None:
            log.error("forget of inode %d, which is not in use", number)
            return
        inode.lookups -= lookups
        if inode.lookups < 0:
            log.error("inode %d was forgotten %d times too often", number, -inode.lookups)
            inode.lookups = 0
        if inode.lookups == 0 and number not in self._pinned:
            del self._table[number]


def _completed(old: Node, new: Node) -> Node:
    """Return what is known of a version by both: learning more completes it, knowing less takes nothing away."""
    if not isinstance(old, File) or not isinstance(new, File):
        return new
    if old.entry.size_bytes is not None or new.entry.size_bytes is None:
        return old
    # A time once shown stays (semantics 2.3).
    return File(new.directory, msgspec.structs.replace(new.entry, mtime_ns=old.entry.mtime_ns))


def _same_version(old: Node, new: Node) -> bool:
    if isinstance(old, Fixed) or isinstance(new, Fixed):
        return old is new
    if _place(old) != _place(new):
        return False
    return completes(old.entry, new.entry)


def _place(node: Directory | File) -> tuple[int, str, bool]:
    run_id = node.run_id if isinstance(node, Directory) else node.directory.run_id
    return run_id, node.path, isinstance(node, Directory)
