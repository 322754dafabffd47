"""`artifactfs` with a fault of our own planted in it: what no server and no user can provoke from outside.

    python -m tests.launch lookup-raises mount …

`lookup-raises`: the tree's lookup raises for the name `boom`, its listing for a directory of that name.
`count-inodes`: the size of the inode table is written to the file $TEST_INODE_COUNT after each forget.
"""

import functools
import os
import sys
from collections.abc import Sequence

from artifactfs import cli
from artifactfs.fuse.operations import Operations
from artifactfs.tree.nodes import Directory, Node
from artifactfs.tree.tree import Contents, Found, Tree

BOOM = "boom"


class Planted(RuntimeError):
    """A bug, as far as the mount can tell."""


def lookup_raises() -> None:
    """Let the tree fail with an exception that nobody expects."""
    lookup, contents = Tree.lookup, Tree.contents

    @functools.wraps(lookup)
    async def failing_lookup(self: Tree, parent: Node, name: bytes) -> Found:
        if name == BOOM.encode():
            raise Planted("a planted bug in lookup")
        return await lookup(self, parent, name)

    @functools.wraps(contents)
    async def failing_contents(self: Tree, node: Node) -> Contents:
        if isinstance(node, Directory) and node.path.endswith("bang"):
            raise Planted("a planted bug in contents")
        return await contents(self, node)

    def not_at_hand(*_: object) -> None:
        """What is at hand would not come by the two above."""

    Tree.lookup = failing_lookup  # type: ignore[method-assign]
    Tree.contents = failing_contents  # type: ignore[method-assign]
    Tree.lookup_at_hand = Tree.contents_at_hand = not_at_hand  # type: ignore[method-assign, assignment]


def count_inodes() -> None:
    """Tell how many inodes are in use after each forget."""
    forget = Operations.forget
    path = os.environ["TEST_INODE_COUNT"]

    @functools.wraps(forget)
    async def telling_forget(self: Operations, inode_list: Sequence[tuple[int, int]]) -> None:
        await forget(self, inode_list)
        with open(path + ".new", "w", encoding="ascii") as file:  # noqa: ASYNC230 - a few bytes
            file.write(str(len(self.inodes)))
        os.replace(path + ".new", path)

    Operations.forget = telling_forget  # type: ignore[method-assign]


if __name__ == "__main__":
    {"lookup-raises": lookup_raises, "count-inodes": count_inodes}[sys.argv.pop(1)]()
    cli.main()
