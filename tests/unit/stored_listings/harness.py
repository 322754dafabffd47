"""What the tests of stored listings share: a mount that begins, and one that has seen a run."""

from collections.abc import Callable

from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.tree.nodes import Entry
from artifactfs.tree.tree import Tree
from tests.fakes import FakeService
from tests.walking import entries

Mount = Callable[..., tuple[Tree, WriteBehind]]


async def seen(mount: Mount, service: FakeService, run_id: int = 1, prefetch: str = "auto") -> dict[str, Entry]:
    """Walk over a run in a mount of its own, and return what it showed, once that is stored."""
    tree, metadata = mount(prefetch)
    found = await entries(tree, run_id)
    await tree.wait_for_indexes()
    found = await entries(tree, run_id)
    await metadata.flush()
    service.asked()
    return found
