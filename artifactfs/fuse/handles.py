"""What the kernel holds open: directories, and the counts of everything it holds."""

from collections.abc import Callable

import msgspec

from artifactfs.fuse.inodes import Inode, PackedInodes
from artifactfs.tree.nodes import AnyDirectory, DirSnapshot, Entry


class DirectoryHandle(msgspec.Struct):
    """An open directory: its contents frozen when it was opened, so that cookies stay true. `tid`: who opened it.

    `is_outdated`: they are another account's, and only a new beginning brings those of now. Of packed contents,
    `fields` are those of the files, and `inodes` those that this handle has put into use.
    """

    inode: Inode
    directory: AnyDirectory
    contents: DirSnapshot
    tid: int
    started: bool = False
    is_outdated: bool = False
    fields: list[bytes] = []
    inodes: PackedInodes | None = None

    def show(self, current: Callable[[Entry], Entry]) -> None:
        """Replace each entry by the `current` one of the same version. Cookies stay true."""
        entries = tuple(map(current, self.contents.entries))
        self.contents = msgspec.structs.replace(self.contents, shown=entries)


class KernelState(msgspec.Struct, frozen=True):
    """What the kernel holds of us: inodes in use, open files and directories, and files that have no known size."""

    inodes: int
    open_files: int
    open_directories: int
    open_without_size: int
