"""artifactfs.fuse.inodes: lookup counts, versions and collisions (docs/semantics.md 2.3, 2.4)."""

import gc
import logging
import sys

import pytest

from artifactfs.errors import Superseded
from artifactfs.fuse.inodes import Inode, InodeTable
from artifactfs.tree.inode_numbers import ROOT_NUMBER
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Entry, StaticDir

ROOT = StaticDir(Entry(b"", True, ROOT_NUMBER, 0), ROOT_NUMBER)


def place(path: str = "", *, run_id: int = 1, number: int = 50, mtime_ns: int = 0) -> ArtifactDir:
    name = path.rpartition("/")[2] or str(run_id)
    return ArtifactDir(run_id, path, Entry(name.encode(), True, number, mtime_ns), ROOT_NUMBER)


def file(
    name: str = "f",
    size: int | None = 5,
    *,
    number: int = 100,
    mtime_ns: int = 0,
    created_ns: int | None = None,
    parent: ArtifactDir | None = None,
) -> ArtifactFile:
    return ArtifactFile(parent or place(), Entry(name.encode(), False, number, mtime_ns, size, created_ns=created_ns))


@pytest.fixture
def inodes() -> InodeTable:
    return InodeTable([ROOT])


def used(inodes: InodeTable, node: ArtifactDir | ArtifactFile, times: int = 1) -> Inode:
    """Look a place up so many times."""
    for _ in range(times):
        inode = inodes.intern(node)
        inodes.add_lookup(inode)
    return inode


# --- counts -------------------------------------------------------------------------------------------------


def test_an_inode_lives_from_its_first_lookup_to_its_last_forget(inodes: InodeTable) -> None:
    """The table holds what the kernel holds: in with a counted lookup, out with the forget that takes the last one."""
    inode = inodes.intern(file())
    assert len(inodes) == 1
    with pytest.raises(Superseded):
        inodes.get(100)
    inodes.add_lookup(inode)
    assert inodes.get(100) is inode
    used(inodes, file(), 4)
    inodes.forget(100, 3)
    assert inodes.get(100).lookups == 2
    inodes.forget(100, 2)
    assert len(inodes) == 1
    with pytest.raises(Superseded):
        inodes.get(100)


def test_the_root_is_there_without_a_lookup_and_stays(inodes: InodeTable) -> None:
    """The root is never looked up, and no forget takes it away."""
    assert inodes.get(ROOT_NUMBER).node is ROOT
    inodes.add_lookup(inodes.intern(ROOT))
    inodes.forget(ROOT_NUMBER, 1)
    assert inodes.get(ROOT_NUMBER).node is ROOT
    assert inodes.intern(ROOT) is inodes.get(ROOT_NUMBER)


@pytest.mark.parametrize("number", [0, 2, 100, 2**63])
def test_an_unknown_inode_is_stale(inodes: InodeTable, number: int) -> None:
    """2.4: ESTALE, not KeyError: the kernel looks the name up again by itself."""
    with pytest.raises(Superseded):
        inodes.get(number)


def test_a_forget_too_many_is_logged_and_does_no_harm(inodes: InodeTable, caplog: pytest.LogCaptureFixture) -> None:
    """5.5: a wrong count, or a number that no caller knows, is in the log and ends nothing."""
    used(inodes, file())
    with caplog.at_level(logging.ERROR, "artifactfs"):
        inodes.forget(100, 5)
        inodes.forget(100, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "inode 100 was forgotten 4 times too often",
        "forget of inode 100, which is not in use",
    ]
    assert used(inodes, file()).lookups == 1


def test_a_forgotten_place_comes_back_under_its_number(inodes: InodeTable) -> None:
    """2.4: the number is the place's, not the table's."""
    used(inodes, file())
    inodes.forget(100, 1)
    inode = used(inodes, file())
    assert (inode.number, inode.lookups) == (100, 1)


# --- versions -----------------------------------------------------------------------------------------------


def test_a_place_has_one_inode(inodes: InodeTable) -> None:
    """The same place, from whatever listing, is the same inode."""
    first = used(inodes, file())
    assert inodes.intern(file()) is first
    assert inodes.intern(first.node) is first


def test_learning_the_size_completes_a_version(inodes: InodeTable) -> None:
    """2.4: the inode stays and knows more."""
    inode = used(inodes, file(size=None))
    assert used(inodes, file(size=5)) is inode
    assert inode.node.entry.size_bytes == 5


def test_knowing_less_takes_nothing_away(inodes: InodeTable) -> None:
    """2.4: a listing without the size, after the one with it was dropped, does not make the size unknown."""
    inode = used(inodes, file(size=5))
    assert used(inodes, file(size=None)) is inode
    assert inode.node.entry.size_bytes == 5


def test_the_listing_decides_the_time(inodes: InodeTable) -> None:
    """2.3: the same version from a listing that has another time, because its run has ended meanwhile."""
    inode = used(inodes, file(mtime_ns=7))
    assert used(inodes, file(mtime_ns=9)) is inode
    assert inode.node.entry.mtime_ns == 9


def test_a_directorys_time_moves(inodes: InodeTable) -> None:
    """2.3: a run's directory has its run's `updated_at`, which is no version."""
    inode = used(inodes, place(mtime_ns=7))
    assert used(inodes, place(mtime_ns=9)) is inode
    assert inode.node.entry.mtime_ns == 9


def test_learning_the_files_own_time_completes_a_version(inodes: InodeTable) -> None:
    """2.3, 2.4: by the index, say: the inode stays, and another own time is another version."""
    inode = used(inodes, file(size=None, mtime_ns=7))
    assert used(inodes, file(size=None, mtime_ns=9, created_ns=9)) is inode
    assert used(inodes, file(size=5, mtime_ns=11)) is inode
    entry = inode.node.entry
    assert (entry.size_bytes, entry.created_ns, entry.mtime_ns) == (5, 9, 11)
    assert used(inodes, file(size=5, mtime_ns=12, created_ns=12)) is not inode


def test_a_listing_that_says_the_same_takes_the_old_ones_place(inodes: InodeTable) -> None:
    """7: a listing fetched again is known by its own entries, and nothing of the old one is kept in memory."""
    inode = used(inodes, file())
    again = file()
    assert again.entry is not inode.entry
    assert inodes.intern_entry(again.directory, again.entry) is inode
    assert inode.entry is again.entry


def test_an_inode_made_from_an_entry_is_the_places(inodes: InodeTable) -> None:
    """2.4: however one comes by it: an entry of a directory, or the place itself; of a directory it is made once."""
    parent = place("d", number=60)
    for entry in (file().entry, place("d/e", number=61).entry):
        inode = inodes.intern_entry(parent, entry)
        inodes.add_lookup(inode)
        assert inodes.find(entry.number) is inode
        assert inodes.intern(inode.node) is inode
    assert used(inodes, file(parent=parent)).node == file(parent=parent)
    directory = inodes.get(61).node
    assert directory == ArtifactDir(1, "d/e", directory.entry, 60)
    assert inodes.get(61).node is directory
    assert inodes.find(62) is None


def test_an_inode_is_small(inodes: InodeTable) -> None:
    """7: there are as many as files that were seen: no dict, and nothing for the collector to look at."""
    inode = used(inodes, file())
    assert sys.getsizeof(inode) <= 64
    assert not hasattr(inode, "__dict__")
    assert not gc.is_tracked(inode)
    assert not gc.is_tracked(inode.entry)


def test_two_versions_are_two_inodes(inodes: InodeTable) -> None:
    """2.4: never shared, even where the numbers collide. A smaller file of the same number is one seen before."""
    first = used(inodes, file(size=6))
    assert used(inodes, file(size=5)) is first
    assert first.node.entry.size_bytes == 6
    first.superseded = True
    second = used(inodes, file(size=5))
    assert (first.number, second.number, second.node.entry.size_bytes) == (100, 101, 5)


def test_a_file_that_grew_is_one_inode(inodes: InodeTable) -> None:
    """3.5: a file that grew keeps its inode, and an older listing that is still read does not make it shrink."""
    first, second = used(inodes, file(size=5)), used(inodes, file(size=6))
    assert first is second
    older = file(size=5)
    assert inodes.intern_entry(older.directory, older.entry) is first
    assert inodes.get(100).entry.size_bytes == 6


# --- collisions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        file("g"),
        file(parent=place(run_id=2)),
        file(parent=place("d")),
        place("f", number=100),
        place(run_id=100, number=100),
    ],
    ids=["name", "run", "directory", "kind", "run's root"],
)
def test_two_places_with_one_digest(inodes: InodeTable, other: ArtifactDir | ArtifactFile) -> None:
    """2.4: the later one gets the next number, and both are found again."""
    first = used(inodes, file())
    second = used(inodes, other)
    assert (first.number, second.number) == (100, 101)
    assert inodes.intern(other) is second
    assert inodes.intern(file()) is first
    third = used(inodes, file("h"))
    assert third.number == 102


def test_a_place_never_takes_the_roots_number(inodes: InodeTable) -> None:
    """2.4: a digest that equals a pinned number is another place's all the same."""
    inode = used(inodes, place("d", number=ROOT_NUMBER))
    assert inode.number == 2
    assert inodes.get(ROOT_NUMBER).node is ROOT


def test_each_of_two_that_collided_is_forgotten_alone(inodes: InodeTable) -> None:
    """Counts are the inode's: forgetting one leaves the other."""
    used(inodes, file(), 2)
    used(inodes, file("g"), 1)
    inodes.forget(101, 1)
    assert inodes.get(100).lookups == 2
    with pytest.raises(Superseded):
        inodes.get(101)
