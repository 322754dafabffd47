"""Inode numbers <-> places, and how often the kernel has looked each up.

The table holds what the kernel holds: an inode comes in with its first counted lookup and goes with the forget
that takes the last one. No await anywhere in here: `forget` may come beside a new lookup (pitfalls.md).
A walk leaves an inode for every file that it passes, so an inode is small: a place (nodes.py) is made of it only when
somebody asks for one.
"""

import logging
from collections.abc import Iterable
from typing import cast

import msgspec

from artifactfs.errors import Superseded
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Entry, Node, StaticDir, child, same_version

log = logging.getLogger(__name__)


class Inode(msgspec.Struct, gc=False, eq=False):
    """A version of a place, under the number that the kernel knows it by.

    `number`: the entry's, but for a collision. `directory`: what holds the entry; `made`: the place, where it is at
    hand, which a file's never is. One of the two is always there. `superseded`: the server has another version by now,
    and whoever opens this one is sent to look again.
    """

    number: int
    entry: Entry
    directory: ArtifactDir | None
    made: Node | None = None
    lookups: int = 0
    superseded: bool = False

    @property
    def node(self) -> Node:
        """The place."""
        if self.made is not None:
            return self.made
        node = child(cast(ArtifactDir, self.directory), self.entry)
        if not isinstance(node, ArtifactFile):
            self.made = node
        return node

    def is_version_of(self, other: "Inode") -> bool:
        """Whether both stand for one version of one place, of which one may know more (semantics 2.4)."""
        return same_version(self.entry, other.entry) and self._place() == other._place()

    def learn(self, other: "Inode") -> None:
        """Take over what another one of the same version knows: more completes it, less takes nothing away."""
        mine, its = self.entry, other.entry
        if mine is its:
            return
        if mine.is_dir or other.made is not None:
            self.entry, self.directory, self.made = its, other.directory, other.made
            return
        known = msgspec.structs.replace(
            its,
            size_bytes=its.size_bytes if mine.size_bytes is None else mine.size_bytes,
            created_ns=its.created_ns if mine.created_ns is None else mine.created_ns,
            mtime_ns=mine.mtime_ns,  # a time once shown stays (semantics 2.3)
        )
        # The listing's own entry where it says the same: by it the next look knows the inode.
        self.entry = its if known == its else known

    def _place(self) -> tuple[object, ...]:
        """What tells one place from any other."""
        if self.made is None and not self.entry.is_dir:  # a file, of which no place is made for this
            directory = cast(ArtifactDir, self.directory)
            return directory.run_id, directory.path, self.entry.name
        node = self.node
        if isinstance(node, ArtifactDir):
            return node.run_id, node.path
        if isinstance(node, ArtifactFile):
            return node.directory.run_id, node.directory.path, node.entry.name
        return node.parent_number, node.entry.name


class InodeTable:
    """All inodes in use. `pinned` ones (the root) are there without a lookup, and stay.

    `find(number)` is the inode of a number, or None for one that is not in use.
    """

    def __init__(self, pinned: Iterable[StaticDir]) -> None:
        self._pinned = {node.entry.number: Inode(node.entry.number, node.entry, None, node) for node in pinned}
        self._table: dict[int, Inode] = dict(self._pinned)
        # The table's own, and no method around it: it is called for every entry of every directory that is read.
        self.find = self._table.get

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
        if isinstance(node, ArtifactFile):
            return self.intern_entry(node.directory, node.entry)
        return self._intern(Inode(node.entry.number, node.entry, None, node))

    def intern_entry(self, directory: ArtifactDir, entry: Entry) -> Inode:
        """Do the same for an entry of a directory of artifacts."""
        return self._intern(Inode(entry.number, entry, directory))

    def _intern(self, new: Inode) -> Inode:
        while (inode := self._table.get(new.number)) is not None:
            # A superseded one is not it: the name stands for another version, whatever the listing knows of that.
            if not inode.superseded and inode.is_version_of(new):
                inode.learn(new)
                return inode
            # Two places with one digest: the later one gets the next number. Once in about 2^60 / n^2.
            new.number += 1
        return new

    def files(self) -> set[int]:
        """Return the numbers of all files in use."""
        return {
            number for number, inode in self._table.items() if inode.directory is not None and not inode.entry.is_dir
        }

    def count(self, inode: Inode) -> None:
        """The kernel was given this inode once more."""
        if not inode.lookups:
            self._table[inode.number] = inode
        inode.lookups += 1

    def forget(self, number: int, lookups: int) -> None:
        """The kernel gives back that many lookups of an inode."""
        inode = self._table.get(number)
        if inode is None:
            log.error("forget of inode %d, which is not in use", number)
            return
        inode.lookups -= lookups
        if inode.lookups > 0:
            return
        if inode.lookups < 0:
            log.error("inode %d was forgotten %d times too often", number, -inode.lookups)
            inode.lookups = 0
        if number not in self._pinned:
            del self._table[number]
