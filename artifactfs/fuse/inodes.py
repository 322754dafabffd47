"""The inodes that the kernel holds, by number, with their lookup counts.

An inode is added with its first lookup and removed by the forget that takes the last one. All of it is synchronous:
`forget` may come beside a new lookup (pitfalls.md). A traversal leaves an inode for every file that it passes, so an
inode is small: its node (nodes.py) is made on demand, and most inodes stay packed, with their directory's others.
"""

import logging
from collections.abc import Callable, Iterable
from typing import cast

import msgspec

from artifactfs.errors import Superseded
from artifactfs.tree.nodes import (
    ArtifactDir,
    ArtifactFile,
    Entry,
    Node,
    PackedEntries,
    StaticDir,
    child,
    may_have_grown,
    same_version,
)

log = logging.getLogger(__name__)


class Inode(msgspec.Struct, gc=False, eq=False):
    """A version of a node, under the number by which the kernel knows it.

    `number`: the entry's, except after a collision. `directory`: the parent of the entry. `cached_node`: the node;
    never set for a file. One of the two is always set. `superseded`: the server has another version, so `open` fails
    with ESTALE.
    """

    number: int
    entry: Entry
    directory: ArtifactDir | None
    cached_node: Node | None = None
    lookups: int = 0
    superseded: bool = False

    @property
    def node(self) -> Node:
        """The node."""
        if self.cached_node is not None:
            return self.cached_node
        node = child(cast(ArtifactDir, self.directory), self.entry)
        if not isinstance(node, ArtifactFile):
            self.cached_node = node
        return node

    def is_version_of(self, other: "Inode") -> bool:
        """Whether both are one version of one node; one of them may know more of it (docs/semantics.md 2.4)."""
        return same_version(self.entry, other.entry) and self._place() == other._place()

    def is_shrunk_by(self, other: "Inode") -> bool:
        """Whether both have one number, and the other a smaller file."""
        mine, its = self.entry.size_bytes, other.entry.size_bytes
        if mine is None or its is None or self.entry.number != other.entry.number:
            return False
        return its < mine and self._place() == other._place()

    def merge(self, other: "Inode") -> None:
        """Take the facts of a later inode of the same version; facts that it lacks stay."""
        mine, its = self.entry, other.entry
        if mine is its:
            return
        if mine.is_dir or other.cached_node is not None:
            self.entry, self.directory, self.cached_node = its, other.directory, other.cached_node
            return
        grew = may_have_grown(mine, its)
        known = msgspec.structs.replace(
            its,
            size_bytes=mine.size_bytes if its.size_bytes is None else its.size_bytes,
            created_ns=mine.created_ns if its.created_ns is None and not grew else its.created_ns,
        )
        # The listing's own entry where it is equal: readdir compares by identity.
        self.entry = its if known == its else known

    def _place(self) -> tuple[object, ...]:
        """Return the identity of the node."""
        if self.cached_node is None and not self.entry.is_dir:  # a file: needs no node
            directory = cast(ArtifactDir, self.directory)
            return directory.run_id, directory.path, self.entry.name
        node = self.node
        if isinstance(node, ArtifactDir):
            return node.run_id, node.path
        if isinstance(node, ArtifactFile):
            return node.directory.run_id, node.directory.path, node.entry.name
        return node.parent_number, node.entry.name


class PackedInodes(msgspec.Struct, gc=False, eq=False):
    """The inodes of a directory whose entries are packed, for as long as the kernel asks nothing of them.

    `counts`: their lookup counts, of 4 bytes each, in the order of the entries. An inode that is found by its number
    leaves it.
    """

    directory: ArtifactDir
    packed: PackedEntries
    counts: bytearray

    @property
    def lookups(self) -> "memoryview[int]":
        """The lookup counts."""
        return memoryview(self.counts).cast("I")


class InodeTable:
    """All inodes in use. `pinned` ones (the root) need no lookup, and stay.

    `held(number)` returns what is in use under a number, packed or not.
    """

    def __init__(self, pinned: Iterable[StaticDir]) -> None:
        self._pinned = {node.entry.number: Inode(node.entry.number, node.entry, None, node) for node in pinned}
        self._table: dict[int, Inode | PackedInodes] = dict(self._pinned)
        # Not wrapped in a method: readdir calls it for every entry.
        self.held = self._table.get
        # Whether to hold back the entry of a file that seems to have grown: what is open must prove that first (2.4).
        self.holds_back: Callable[[Inode, Entry], bool] = lambda _inode, _entry: False

    def __len__(self) -> int:
        return len(self._table)

    def get(self, number: int) -> Inode:
        """Return the inode of a number. Raises Superseded (ESTALE) for one that is not in use."""
        held = self._table.get(number)
        if held is None:
            raise Superseded(f"inode {number} is not in use")
        return held if isinstance(held, Inode) else self._unpacked(number, held)

    def node(self, number: int) -> Node:
        """Return the node of an inode: mostly that of a directory, which is there already. Raises Superseded."""
        held = self._table.get(number)
        if isinstance(held, Inode) and held.cached_node is not None:
            return held.cached_node
        return self.get(number).node

    def find(self, number: int) -> Inode | None:
        """Return the inode of a number, or None for one that is not in use."""
        held = self._table.get(number)
        return self._unpacked(number, held) if isinstance(held, PackedInodes) else held

    def _unpacked(self, number: int, packed: PackedInodes) -> Inode:
        place = packed.packed.place(number)
        lookups = packed.lookups
        inode = Inode(number, packed.packed.entry(place), packed.directory, None, lookups[place])
        lookups[place] = 0
        self._table[number] = inode
        return inode

    def intern(self, node: Node) -> Inode:
        """Return the inode of a node: the one in use, or a new one that `add_lookup` puts into use."""
        if isinstance(node, ArtifactFile):
            return self._intern(Inode(node.entry.number, node.entry, node.directory))
        return self._intern(Inode(node.entry.number, node.entry, None, node))

    def intern_entry(self, directory: ArtifactDir, entry: Entry) -> Inode:
        """Do the same for an entry of a directory of artifacts that was opened a while ago: a file may have grown."""
        return self._intern(Inode(entry.number, entry, directory))

    def _intern(self, new: Inode) -> Inode:
        while (held := self._table.get(new.number)) is not None:
            inode = held if isinstance(held, Inode) else self._unpacked(new.number, held)
            # Contents told more of it than a listing that is from before, or was being made then.
            if not inode.superseded and inode.is_shrunk_by(new):
                return inode
            # A superseded inode does not match: the name has another version, even if the listing does not show it.
            if not inode.superseded and inode.is_version_of(new):
                self._merge(inode, new)
                return inode
            # Two nodes with one digest: the later one gets the next number. Happens once in about 2^60 / n^2.
            new.number += 1
        return new

    def update(self, inode: Inode, entry: Entry) -> None:
        """Let an inode have the entry of the listing, which is of the same version."""
        if entry is not inode.entry and not inode.superseded:
            self._merge(inode, Inode(entry.number, entry, inode.directory))

    def _merge(self, inode: Inode, new: Inode) -> None:
        if new.entry is inode.entry:
            return
        if not (may_have_grown(inode.entry, new.entry) and self.holds_back(inode, new.entry)):
            inode.merge(new)

    def numbers(self) -> list[int]:
        """Return the numbers of all inodes in use."""
        return list(self._table)

    def files(self, is_meant: Callable[[ArtifactDir], bool] = lambda _directory: True) -> set[int]:
        """Return the numbers of all files in use, or of those in directories that are meant."""
        return {number for number, held in self._table.items() if _is_file(number, held, is_meant)}

    def add_lookup(self, inode: Inode) -> None:
        """Count that the kernel was given this inode once more."""
        if not inode.lookups:
            self._table[inode.number] = inode
        inode.lookups += 1

    def packed(self, directory: ArtifactDir, packed: PackedEntries) -> PackedInodes:
        """Return the inodes of a packed directory: those in use, or new ones that `add_packed` puts into use."""
        known = self._table.get(packed.numbers[0]) if len(packed) else None
        if isinstance(known, PackedInodes) and known.packed is packed:
            return known
        return PackedInodes(directory, packed, bytearray(4 * len(packed)))

    def add_packed(self, number: int, packed: PackedInodes) -> None:
        """Put an inode of a packed directory into use. Its lookups are counted there."""
        self._table[number] = packed

    def forget(self, number: int, lookups: int) -> None:
        """The kernel gives back that many lookups of an inode."""
        inode = self._table.get(number)
        if isinstance(inode, PackedInodes):
            place, counts = inode.packed.place(number), inode.lookups
            if counts[place] >= lookups:
                counts[place] -= lookups
                if not counts[place]:
                    del self._table[number]
                return
            inode = self._unpacked(number, inode)
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


def _is_file(number: int, held: Inode | PackedInodes, is_meant: Callable[[ArtifactDir], bool]) -> bool:
    """Whether an inode is a file in a directory that is meant."""
    if held.directory is None or not is_meant(held.directory):
        return False
    if isinstance(held, PackedInodes):
        return held.packed.place(number) >= len(held.packed.directories)
    return not held.entry.is_dir
