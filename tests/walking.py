"""Walking a tree without a kernel, as `find` does it, for the tests of the index and of listing ahead."""

from collections.abc import Mapping

import msgspec
import trio

from artifactfs import errors
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.tree.nodes import ArtifactDir, Entry, Node
from artifactfs.tree.tree import Tree
from artifactfs.tree.tree_tuning import TreeTuning
from tests.fakes import NOW_NS, FakeService, TurnedClock


def mounted(
    service: FakeService,
    nursery: trio.Nursery,
    prefetch: str = "auto",
    tuning: TreeTuning | None = None,
    store: WriteBehind | None = None,
) -> Tree:
    """Return a tree of a service, with default times, that chooses as the service says."""
    return Tree(
        service,
        site="test",
        nursery=nursery,
        clock=TurnedClock(),
        wall_clock_ns=lambda: NOW_NS,
        tuning=msgspec.structs.replace(tuning or TreeTuning(), choose=lambda *among: service.choose(*among)),
        prefetch=prefetch,
        store=store,
    )


async def node(tree: Tree, run_id: int, path: str = "") -> Node:
    """Return the place at a path in a run, looked up name by name."""
    found: Node = tree.runs
    for name in (str(run_id), *filter(None, path.split("/"))):
        found = (await tree.lookup(found, name.encode())).node
    return found


async def is_there(tree: Tree, run_id: int, path: str) -> bool:
    """Say whether a path in a run can be looked up."""
    try:
        await node(tree, run_id, path)
    except errors.NoSuchEntry:
        return False
    return True


async def directory(tree: Tree, run_id: int, path: str = "") -> ArtifactDir:
    """Return the directory at a path in a run."""
    found = await node(tree, run_id, path)
    assert isinstance(found, ArtifactDir)
    return found


async def look(tree: Tree, run_id: int, path: str = "") -> dict[str, Entry]:
    """Open a directory, looked up name by name, and return what is in it."""
    contents = await tree.contents(await node(tree, run_id, path))
    return {entry.name.decode(): entry for entry in contents.entries}


async def entries(tree: Tree, run_id: int, path: str = "", *, pause_s: float = 0.0) -> dict[str, Entry]:
    """Return everything below a directory by path, opened one after the other, depth first, like `find`.

    `pause_s`: between two directories.
    """
    found: dict[str, Entry] = {}
    todo = [await node(tree, run_id, path)]
    while todo:
        here = todo.pop()
        assert isinstance(here, ArtifactDir)
        contents = await tree.contents(here)
        below = []
        for entry in contents.entries:
            there = contents.node_of(entry)
            assert not hasattr(there, "parent_number") or isinstance(there, ArtifactDir)
            name = entry.name.decode()
            found[f"{here.path}/{name}" if here.path else name] = entry
            if isinstance(there, ArtifactDir):
                below.append(there)
        todo += reversed(below)
        await trio.sleep(pause_s)
    return found


async def walk(tree: Tree, run_id: int, *, pause_s: float = 0.0) -> dict[str, int | None]:
    """Return path and size of everything in a run as a walk shows it; None for a directory, or an unknown size."""
    found = await entries(tree, run_id, pause_s=pause_s)
    return {path: entry.size_bytes for path, entry in found.items()}


def truth(service: FakeService, run_id: int) -> dict[str, int | None]:
    """Return the same as the directories' own listings have it."""
    found: dict[str, int | None] = {}
    todo = [""]
    while todo:
        path = todo.pop()
        for name, child in service.listings[run_id, path].children.by_name.items():
            below = f"{path}/{name.decode()}" if path else name.decode()
            found[below] = child.size_bytes
            if child.is_dir and (run_id, below) in service.listings:
                todo.append(below)
    return found


def listed(asked: list[tuple[object, ...]], run_id: int = 1) -> list[str]:
    """Return the directories of a run that were listed on their own, in order."""
    return [str(call[2]) for call in asked if call[0] == "listing" and call[1] == run_id]


def count(asked: list[tuple[object, ...]], kind: str) -> int:
    """Return how many requests were of a kind."""
    return sum(call[0] == kind for call in asked)


def many(directories: int, files: int = 3, top: str = "g") -> Mapping[str, int]:
    """Return the files of a run with so many directories on the second level, ten to a parent."""
    return {f"{top}{i // 10}/d{i}/f{j}": 100 * i + j for i in range(directories) for j in range(files)}
