"""The wrapper of each handler: only FUSEError leaves it, and failures are logged with their path.

Any other exception that leaves a handler ends the mount (pitfalls.md). An error of artifactfs becomes its errno, a lack
of memory or descriptors the system's, any other EIO. Only the mount's owner and root can read the log and
/.artifactfs/errors, so paths may stand there.
"""

import contextlib
import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, TypeVarTuple

from pyfuse3 import FUSEError

from artifactfs import errors
from artifactfs.tree.nodes import Node, mount_path
from artifactfs.util import headroom

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# These are given a handle, the others an inode.
_OF_HANDLES = frozenset({"readdir", "releasedir", "read", "release"})
# These begin work. The others answer from memory, or end work, which must not fail.
_BEGIN = frozenset({"lookup", "opendir", "readdir", "open", "read", "readlink", "getxattr", "listxattr"})
# Characters of a path in a message, from its end, which differs most; the error has to fit behind it.
_MAX_SHOWN = 200


class Handlers(Protocol):
    """The owner of the handlers."""

    def node_of(self, number: int, *, is_open: bool) -> Node | None:
        """Return the place of an inode, or of a handle (`is_open`); None where there is none."""


Self = TypeVar("Self", bound=Handlers)


def fuse_handler(
    handler: Callable[[Self, *Ts], Coroutine[Any, Any, T]],
) -> Callable[[Self, *Ts], Coroutine[Any, Any, T]]:
    """Wrap a handler: nothing but FUSEError (and a cancellation) gets out of it."""
    name = handler.__name__
    begins = name in _BEGIN

    @functools.wraps(handler)
    async def guard(self: Self, *args: *Ts) -> T:
        if begins and headroom.is_short():
            # Calls in flight need the memory that is left.
            raise FUSEError(errno.ENOMEM)
        try:
            return await handler(self, *args)
        except FUSEError:
            raise
        except errors.ServiceError as error:
            where, fix = place(self, name, args), errors.what_to_do(error)
            log.warning("%s of %s: %s; %s", name, where, error, fix, extra={"operation": name})
            raise FUSEError(errors.errno_of(error)) from error
        except errors.ArtifactfsError as error:
            raise FUSEError(errors.errno_of(error)) from error
        except Exception as error:
            # Logging may fail for lack of memory too; the caller still gets its answer.
            with contextlib.suppress(MemoryError):
                log.exception("%s failed: %s", name, errors.unexpected())
            raise FUSEError(errors.errno_of(error)) from error

    return guard


def place(handlers: Handlers, name: str, args: tuple[Any, ...]) -> str:
    """Return what a call of the handler `name` is about, from the mount point. Never raises."""
    try:
        node = handlers.node_of(args[0], is_open=name in _OF_HANDLES)
        if node is None:
            return "what is no longer known"
        # A name is the caller's, and any bytes.
        below = [args[1].decode("utf-8", "backslashreplace")] if name == "lookup" else []
        return shown("/".join(filter(None, [mount_path(node), *below])))
    except Exception:  # it would end the mount in place of what it is to tell
        return "what is no longer known"


def shown(path: str) -> str:
    """Return a path from the mount point as messages show it: from a slash on, and of a long one the end."""
    return f"/{path}" if len(path) <= _MAX_SHOWN else f"…{path[-_MAX_SHOWN:]}"
