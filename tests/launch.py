"""`artifactfs` with a fault of our own planted in it: what no server and no user can provoke from outside.

    python -m tests.launch lookup-raises mount …    # several: clock+patient

`lookup-raises`: the tree's lookup raises for the name `boom`, its listing for a directory of that name.
`count-inodes`: the size of the inode table is written to the file $TEST_INODE_COUNT after each forget.
`clock`: the mount's clock is ahead by the seconds in the file $TEST_CLOCK: the machine slept so long.
`old-kernel`: the kernel knows no epochs, as before Linux 6.16.
`hasty-threads`: a thread ends as soon as it has nothing to do, so that each call needs a new one; none can be had as
long as the file $TEST_THREADS, if it is named, says `none`.
`stuck-disk`: what is written to the cache gets stuck before its first byte as long as the file $TEST_DISK says `empty`,
and when all of it but its name is written as long as that says `full`.
`names`: the host name $TEST_NAME is this machine's as long as the file $TEST_RESOLVER says `up`; with `down` it does
not resolve, with `stalls` never.
`patient`: a mount waits ten times as long for an index, and before it shows what is stale: on a busy machine its server
may take longer than the second that a refresh has.
`quick-probes`: a mount that is offline asks for the service several times a second.
`small-answers`: answers may be 1/16 as large.
"""

import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from trio._core import _thread_cache

from artifactfs import cli
from artifactfs.content import block_format
from artifactfs.fuse import kernel_dentries as kernel_names
from artifactfs.fuse.operations import Operations
from artifactfs.modellab import size_limits
from artifactfs.mount import components, offline, session
from artifactfs.tree import swr_cache
from artifactfs.tree.nodes import ArtifactDir, DirSnapshot, LookupResult, Node
from artifactfs.tree.tree import Tree
from artifactfs.tree.walk import project_index
from artifactfs.util.clock import boottime

BOOM = "boom"
# By how much what `small-answers` bounds is smaller than in a mount.
SCALE = 16


class Planted(RuntimeError):
    """A bug, as far as the mount can tell."""


def lookup_raises() -> None:
    """Let the tree fail with an exception that no code expects."""
    lookup, contents = Tree.lookup, Tree.contents

    @functools.wraps(lookup)
    async def failing_lookup(self: Tree, parent: Node, name: bytes) -> LookupResult:
        if name == BOOM.encode():
            raise Planted("a planted bug in lookup")
        return await lookup(self, parent, name)

    @functools.wraps(contents)
    async def failing_contents(self: Tree, node: Node) -> DirSnapshot:
        if isinstance(node, ArtifactDir) and node.path.endswith("bang"):
            raise Planted("a planted bug in contents")
        return await contents(self, node)

    def not_at_hand(*_: object) -> None:
        """What is cached would not come by the two above."""

    Tree.lookup = failing_lookup  # type: ignore[method-assign]
    Tree.contents = failing_contents  # type: ignore[method-assign]
    Tree.try_lookup = Tree.try_list = not_at_hand  # type: ignore[method-assign, assignment]


def count_inodes() -> None:
    """Tell how many inodes are in use after each forget."""
    forget = Operations.forget
    path = os.environ["TEST_INODE_COUNT"]

    @functools.wraps(forget)
    async def telling_forget(self: Operations, inode_list: Sequence[tuple[int, int]]) -> None:
        await forget(self, inode_list)
        tell(path, str(len(self.inodes)))

    Operations.forget = telling_forget  # type: ignore[method-assign]


def tell(path: str, said: str) -> None:
    """Say something to a plant, in one piece: it may be reading at this moment."""
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(said)
    os.replace(path + ".new", path)


def clock() -> None:
    """Let time be what the test says, from one moment to the next: that is how a suspend looks from inside."""
    path = os.environ["TEST_CLOCK"]

    def moved() -> float:
        with open(path, encoding="ascii") as file:
            return boottime() + float(file.read())

    for module in (session, components):
        vars(module)["boottime"] = moved


def old_kernel() -> None:
    """Let the notification that makes all names old be unknown."""
    vars(kernel_names)["_new_epoch"] = lambda: False


def hasty_threads() -> None:
    """Let no thread wait for more to do, and let none be had while the test says so."""
    start, path = threading.Thread.start, os.environ.get("TEST_THREADS")

    @functools.wraps(start)
    def planted(self: threading.Thread) -> None:
        if path is not None:
            with open(path, encoding="ascii") as file:
                if file.read() == "none":
                    raise RuntimeError("can't start new thread")
        start(self)

    vars(_thread_cache)["IDLE_TIMEOUT"] = 0
    threading.Thread.start = planted  # type: ignore[method-assign]


def stuck_disk() -> None:
    """Let the cache's disk be stuck as long as the test says so."""
    write, rename, path = block_format.write, os.rename, os.environ["TEST_DISK"]

    def wait_while(state: str) -> None:
        while True:
            with open(path, encoding="ascii") as file:
                if file.read() != state:
                    return
            time.sleep(0.02)

    def stuck_write(*arguments: Any) -> None:
        wait_while("empty")
        write(*arguments)

    def stuck_rename(*names: str, **where: Any) -> None:
        wait_while("full")
        rename(*names, **where)

    vars(block_format)["write"] = stuck_write
    vars(os)["rename"] = stuck_rename


def names() -> None:
    """Let one host name resolve, or not, as the test says."""
    resolve, name, path = socket.getaddrinfo, os.environ["TEST_NAME"], os.environ["TEST_RESOLVER"]

    @functools.wraps(resolve)
    def planted(host: str | bytes, port: int, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> object:
        if host not in (name, name.encode()) or flags & socket.AI_NUMERICHOST:
            return resolve(host, port, family, kind, proto, flags)
        with open(path, encoding="ascii") as file:
            state = file.read()
        if state == "stalls":
            time.sleep(3600)
        if state != "up":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve("127.0.0.1", port, family, kind, proto, flags)

    socket.getaddrinfo = planted  # type: ignore[assignment]


def quick_probes() -> None:
    """Let a mount that is offline not wait for long before it asks for the service."""
    vars(offline)["PROBE_INTERVAL_S"] = 0.2


def patient() -> None:
    """Let every wait for an index, and for a refresh, be ten times as long."""
    for wait in ("_WAIT_S", "_STALE_WAIT_S", "_MOMENT_S"):
        vars(project_index)[wait] *= 10
    vars(swr_cache)["REFRESH_WAIT_S"] *= 10


def small_answers() -> None:
    """Let every bound of an answer be smaller. The defaults themselves change: they are bound where they are used."""
    limits = size_limits.DEFAULTS
    for name in limits.__struct_fields__:
        msgspec.structs.force_setattr(limits, name, getattr(limits, name) // SCALE)


if __name__ == "__main__":
    plants = {
        "lookup-raises": lookup_raises, "count-inodes": count_inodes, "clock": clock, "names": names,
        "old-kernel": old_kernel, "hasty-threads": hasty_threads,
        "stuck-disk": stuck_disk, "quick-probes": quick_probes, "patient": patient,
        "small-answers": small_answers,
    }  # fmt: skip
    for each in sys.argv.pop(1).split("+"):
        plants[each]()
    cli.main()
