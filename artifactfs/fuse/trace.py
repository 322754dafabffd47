"""With -v: a line for each call of the kernel that may wait or fail, when it is answered.

The handlers are wrapped only then, so that a mount without -v does nothing for it. What is answered from what the
kernel has cached, and what never waits (getattr, statfs, forget, release), is not said.
"""

import errno
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pyfuse3 import FUSEError

from artifactfs.fuse.error_boundary import place
from artifactfs.fuse.operations import Operations

log = logging.getLogger(__name__)

_TRACED = ("lookup", "opendir", "readdir", "open", "read", "getxattr", "listxattr")


def trace(operations: Operations) -> None:
    """Let every such call be logged from now on, if the log level is DEBUG. Call before the first request."""
    if log.isEnabledFor(logging.DEBUG):
        for name in _TRACED:
            setattr(operations, name, _traced(operations, name, getattr(operations, name)))


def _traced(operations: Operations, name: str, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(handler)
    async def traced(*args: Any) -> Any:
        about, began, outcome = place(operations, name, args), time.perf_counter(), "given up"
        try:
            answer = await handler(*args)
        except FUSEError as error:
            outcome = errno.errorcode.get(error.errno, str(error.errno))
            raise
        else:
            # A lookup that fails so is answered with an inode of 0: the kernel may remember that.
            outcome = "ENOENT" if name == "lookup" and answer.st_ino == 0 else "ok"
            return answer
        finally:
            where = f" at {args[1]}, {args[2]} bytes" if name == "read" else ""
            log.debug("%s of %s%s: %s, %.1f ms", name, about, where, outcome, (time.perf_counter() - began) * 1000)

    return traced
