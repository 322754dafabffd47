"""The attributes that `stat` shows of an inode (docs/semantics.md 2.1 to 2.3)."""

import stat

import msgspec
from pyfuse3 import EntryAttributes

from artifactfs.fuse.inodes import Inode
from artifactfs.tree.nodes import ATTRIBUTES_S, Symlink

# The preferred size of a read, as on a local disk. C's and Python's buffered files read as much at each place that they
# seek to. If it is 128 KiB, the kernel reads ahead besides: `torch.load` seeks to each tensor of a checkpoint.
_BLOCK_SIZE = 4 << 10
# The last number that a group can have. No system assigns it, as it does 65534.
_EMPTY_GROUP = 0xFFFFFFFE


class Ownership(msgspec.Struct, frozen=True):
    """The owner and the permission bits of everything (docs/semantics.md 2.1). `shared`: others are let in.

    The bits of writing are there so that a copy is its owner's to change and to delete; the mount itself is `ro`.
    """

    uid: int
    gid: int
    dir_mode: int = 0o755
    file_mode: int = 0o644
    shared: bool = False

    def mode_for_unknown_size(self) -> tuple[int, int]:
        """Return the permission bits and the group of a file whose size is unknown.

        GNU tar does not open a file of 0 bytes that all users may read, and stores it empty without a message (1.34,
        measured 2026-11-23). Without `shared` the bit of others has no meaning, so it is left out. With `shared` the
        bit of the group is left out, and the group is one without members, so that the file stays readable for all.
        """
        bits = self.file_mode
        if not self.shared:
            return bits & ~stat.S_IROTH, self.gid
        return (bits & ~stat.S_IRGRP, _EMPTY_GROUP) if bits & 0o444 == 0o444 else (bits, self.gid)


def of_inode(owner: Ownership, inode: Inode, valid_s: float, attributes_s: float = ATTRIBUTES_S) -> EntryAttributes:
    """Return the attributes of an inode (docs/semantics.md 2.1 to 2.3), other than one below /.artifactfs.

    `valid_s`: the entry timeout, and the attribute timeout of a directory; `attributes_s`: that of a file.
    """
    entry = inode.entry
    size = entry.size_bytes
    if isinstance(inode.cached_node, Symlink):
        # A link's own bits mean nothing (symlink(7)). Its time moves with the run that it leads to.
        attributes = of_kind(owner, stat.S_IFLNK | 0o777, valid_s)
        attributes.st_size = len(inode.cached_node.target)
    elif entry.is_dir:
        # A run's directory has a time that moves with the run.
        attributes = of_kind(owner, stat.S_IFDIR | owner.dir_mode, valid_s)
    elif size is None:
        bits, gid = owner.mode_for_unknown_size()
        attributes = of_kind(owner, stat.S_IFREG | bits, 0.0)
        attributes.st_gid = gid
    else:
        attributes = of_kind(owner, stat.S_IFREG | owner.file_mode, attributes_s)
        attributes.st_size = size
        attributes.st_blocks = (size + 511) >> 9
    attributes.st_ino = inode.number
    attributes.entry_timeout = valid_s
    attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = entry.mtime_ns
    return attributes


def of_kind(owner: Ownership, mode: int, valid_s: float) -> EntryAttributes:
    """Return attributes that are the same for all of a kind, valid for `valid_s`."""
    attributes = EntryAttributes()
    attributes.st_mode = mode
    attributes.st_uid = owner.uid
    attributes.st_gid = owner.gid
    # 1 link: find does not count on directories' links.
    attributes.st_nlink = 1
    attributes.st_blksize = _BLOCK_SIZE
    attributes.attr_timeout = valid_s
    return attributes
