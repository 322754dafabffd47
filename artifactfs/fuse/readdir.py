"""Answers readdir: gives the kernel the entries of an open directory with their attributes, and counts their lookups.

In a walk over what is known this is most of the work, so nothing is done for an entry that was done for the one before,
no place is made of it, and where the entries are packed, neither an entry nor an inode.
"""

import itertools
import stat
from collections.abc import Callable

import pyfuse3

from artifactfs.fuse.attributes import Ownership, of_kind
from artifactfs.fuse.handles import DirectoryHandle
from artifactfs.fuse.inodes import Inode, InodeTable, PackedInodes
from artifactfs.tree.nodes import ArtifactDir, Entry, PackedEntries, Symlink
from artifactfs.util.no_checkpoint import no_checkpoint

# "." and ".." come before the entries.
DOTS = 2


class ReaddirReplies:
    """The replies of one mount. `attributes_of(inode, valid_s, attributes_s)`: what `stat` shows of an inode."""

    def __init__(
        self, inodes: InodeTable, ownership: Ownership, attributes_of: Callable[..., pyfuse3.EntryAttributes]
    ) -> None:
        self._inodes = inodes
        self._attributes_of = attributes_of
        # Written over for each name of a directory: the kernel is given it before anything else runs.
        self._dots = of_kind(ownership, stat.S_IFDIR, 0.0)
        self._files = of_kind(ownership, stat.S_IFREG | ownership.file_mode, 0.0)
        self._directories = of_kind(ownership, stat.S_IFDIR | ownership.dir_mode, 0.0)

    @no_checkpoint
    def reply(self, handle: DirectoryHandle, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Give the kernel a directory's entries from a position on, as many as it takes, and count those."""
        contents, directory, reply = handle.contents, handle.directory, pyfuse3.readdir_reply
        if start_id < DOTS:
            # Of these two the kernel takes number and kind, and nothing else; it counts no lookup, so neither do we.
            dots = self._dots
            dots.st_ino = handle.inode.number
            if start_id == 0 and not reply(token, b".", dots, 1):
                return
            dots.st_ino = directory.parent_number
            if not reply(token, b"..", dots, DOTS):
                return
            start_id = DOTS
        self._files.entry_timeout = self._directories.entry_timeout = self._directories.attr_timeout = contents.left_s()
        self._files.attr_timeout = contents.attributes_s()
        if isinstance(contents.shown, PackedEntries) and isinstance(directory, ArtifactDir):
            self._reply_packed(handle, directory, contents.shown, start_id - DOTS, token)
            return
        entries = contents.shown if isinstance(contents.shown, tuple) else contents.entries
        held, add_lookup, mtime_ns = self._inodes.held, self._inodes.add_lookup, None
        for position in range(start_id - DOTS, len(entries)):
            entry = entries[position]
            inode = held(entry.number)
            # An entry belongs to one listing, so the same entry is the same place: no walk but the first looks further.
            if not isinstance(inode, Inode) or inode.entry is not entry or inode.superseded:
                if isinstance(directory, ArtifactDir):
                    inode = self._inodes.intern_entry(directory, entry)
                else:
                    inode = self._inodes.intern(contents.node_of(entry))
            shown = inode.entry
            size = shown.size_bytes
            if size is None:
                attributes = self._without_size(inode)
            else:
                attributes = self._files
                attributes.st_ino = inode.number
                attributes.st_size = size
                attributes.st_blocks = (size + 511) >> 9
                if shown.mtime_ns != mtime_ns:
                    mtime_ns = shown.mtime_ns
                    attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = mtime_ns
            if not reply(token, entry.name, attributes, position + DOTS + 1):
                return
            add_lookup(inode)

    def _without_size(self, inode: Inode) -> pyfuse3.EntryAttributes:
        # `stat` of a file looks the name up again, which may wait for the size; the listing may not.
        is_file = not inode.entry.is_dir and not isinstance(inode.cached_node, Symlink)
        return self._attributes_of(inode, 0.0 if is_file else self._files.entry_timeout)

    def _reply_packed(
        self,
        handle: DirectoryHandle,
        directory: ArtifactDir,
        packed: PackedEntries,
        start: int,
        token: pyfuse3.ReaddirToken,
    ) -> None:
        """Do so from a place of packed entries on."""
        if handle.inodes is None or handle.inodes.packed is not packed:
            handle.fields = packed.fields()
            handle.inodes = self._inodes.packed(directory, packed)
        reply, held, fields, count = pyfuse3.readdir_reply, self._inodes.held, handle.fields, len(packed.directories)
        shared, shown_ns, attributes = handle.inodes, b"", self._directories
        lookups = shared.lookups
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = packed.run_ns
        first = 3 * max(0, start - count)
        names = itertools.chain(packed.directories[start:], fields[first::3])
        sizes = itertools.chain(itertools.repeat(b"", count - start), fields[first + 1 :: 3])
        times = itertools.chain(itertools.repeat(b"", count - start), fields[first + 2 :: 3])
        place = start
        for number, name, size, time in zip(packed.numbers[start:], names, sizes, times, strict=False):
            known = held(number)
            if known is not shared and known is not None:
                if not isinstance(known, PackedInodes) or known.packed is not packed:
                    if not self._reply_known(directory, packed.entry(place), place, token):
                        return
                    place += 1
                    continue
                shared, lookups = known, known.lookups
            if size:
                attributes, size_bytes = self._files, int(size)
                attributes.st_size = size_bytes
                attributes.st_blocks = (size_bytes + 511) >> 9
                if time != shown_ns:
                    shown_ns = time
                    attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = int(time)
            attributes.st_ino = number
            if not reply(token, name, attributes, place + DOTS + 1):
                return
            if known is None:
                self._inodes.add_packed(number, shared)
            lookups[place] += 1
            place += 1

    def _reply_known(self, directory: ArtifactDir, entry: Entry, place: int, token: pyfuse3.ReaddirToken) -> bool:
        """Give the kernel an entry under whose number something else is in use, or the same by itself."""
        inode = self._inodes.intern_entry(directory, entry)
        if inode.entry.size_bytes is None:
            attributes = self._without_size(inode)
        else:
            attributes = self._attributes_of(inode, self._files.entry_timeout, self._files.attr_timeout)
        taken = pyfuse3.readdir_reply(token, entry.name, attributes, place + DOTS + 1)
        if taken:
            self._inodes.add_lookup(inode)
        return taken
