"""Mounting in the kernel through libfuse: the handlers, the mount options, and the cause of a refusal."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pyfuse3

from artifactfs.content.open_files import OpenFileTable
from artifactfs.control.commands import Control
from artifactfs.errors import ExitCode, UserError
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.control_files import ControlFiles
from artifactfs.fuse.operations import Operations
from artifactfs.fuse.sibling_readahead import SiblingReadahead, SiblingTuning
from artifactfs.fuse.trace import trace
from artifactfs.fuse.xattrs import OperationsWithXattrs
from artifactfs.modellab.places import CONCURRENCY, RESERVED
from artifactfs.mount import mount_owner
from artifactfs.settings import Settings
from artifactfs.tree.control_dir import ControlNames
from artifactfs.tree.tree import Tree

log = logging.getLogger(__name__)


def handlers(
    settings: Settings, tree: Tree, files: OpenFileTable, control: Control, on_ready: Callable[[], None]
) -> Operations:
    """Return the handlers of a mount."""
    make = partial(OperationsWithXattrs, xattrs=control.xattrs) if settings.xattrs else Operations
    generators, commands = control.report_generators(), control.commands()
    operations = make(
        tree,
        files,
        Ownership(
            settings.uid,
            settings.gid,
            settings.dir_mode & ~settings.umask,
            settings.file_mode & ~settings.umask,
            settings.allow_other,
        ),
        deadline_s=settings.deadline,
        on_ready=on_ready,
        control_files=ControlFiles(
            ControlNames(settings.api_url.encode(), time.time_ns(), generators, commands), generators, commands
        ),
    )
    if settings.prefetch != "off":
        operations.siblings = SiblingReadahead(tree, files, SiblingTuning(CONCURRENCY - RESERVED))
    trace(operations)
    return operations


def mount(settings: Settings, point: str, operations: Operations) -> None:
    """Mount at `point`. Raises UserError with the cause that libfuse or fusermount3 printed."""
    options = {*pyfuse3.default_options, "ro", "nosuid", "nodev", "subtype=artifactfs"}
    options |= settings.kernel_options | {_Option(f"fsname={settings.fsname}")}
    if settings.allow_other:
        options.add("allow_other")
    with _captured_stderr() as printed:
        try:
            pyfuse3.init(operations, point, options)
        except RuntimeError as error:
            cause, fix = printed(), ""
            if not cause:
                cause, fix = str(error), "check that it is yours, and not busy"
            if "Operation not permitted" in cause:
                fix = "in a container, start it with --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
                if os.geteuid() == 0 and mount_owner.in_user_namespace():
                    fix = f"root of a user namespace mounts in a mount namespace of its own (`unshare -Urm`); {fix}"
            raise UserError(ExitCode.MOUNT_REFUSED, f"cannot mount at {point}: {cause}", fix) from error


class _Option(str):
    """A mount option in the bytes that the user typed: pyfuse3 encodes options as ASCII, and fails for any other."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:  # noqa: ARG002 - the signature is str's
        # Not os.fsencode, which would come back here.
        return super().encode("utf-8", "surrogateescape")


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Collect the output of libfuse and fusermount3 on descriptor 2: they report the cause nowhere else."""
    kept = os.dup(2)
    catcher = os.memfd_create("stderr")
    os.dup2(catcher, 2)
    try:
        yield lambda: " ".join(os.pread(catcher, 4096, 0).decode(errors="replace").split())
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(catcher)
