"""Extended attributes (docs/semantics.md 2.6), for mounts that ask for them.

Two calls a file where they are answered (`ls -l`), so by default they are not: `Operations` has no such handlers, the
kernel hears ENOSYS once and never asks again. Names are listed without a request; a run's values cost one at most.
"""

import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pyfuse3
from pyfuse3 import FUSEError, RequestContext

from artifactfs.fuse.error_boundary import fuse_handler
from artifactfs.fuse.operations import Operations
from artifactfs.tree.nodes import Node

# What the kernel takes (XATTR_SIZE_MAX, linux/limits.h).
_MAX_VALUE_BYTES = 64 << 10

# The attributes of a place: by name, how to get the value; None where there is none just now.
Attributes = Mapping[bytes, Callable[[], Awaitable[bytes | None]]]


class OperationsWithXattrs(Operations):
    """The handlers, and those of xattrs. `xattrs`: the attributes of a place."""

    def __init__(self, *args: Any, xattrs: Callable[[Node], Attributes], **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._xattrs = xattrs

    @fuse_handler
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        get = self._xattrs(self.inodes.node(inode)).get(name)
        if get is None:
            raise FUSEError(pyfuse3.ENOATTR)
        value = await self._await_for_caller(ctx.pid, get())
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        if len(value) > _MAX_VALUE_BYTES:
            # Never cut: half a text is another one (getxattr(2) has this error for just this).
            raise FUSEError(errno.E2BIG)
        return value

    @fuse_handler
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:  # noqa: ARG002 - pyfuse3's
        return list(self._xattrs(self.inodes.node(inode)))
