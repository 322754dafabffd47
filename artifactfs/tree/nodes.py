"""The kinds of node in the tree, and their attributes.

    StaticDir    the root, /runs, /projects, /names
    ProjectDir   a project's runs, in /projects or in /names
    FacetDir     a choice of runs, or what they can be chosen by (facet_tree.py)
    Symlink      a link to a run in one of these, or to the choices beside it
    GeneratedFile a table of runs, or the description of one
    ArtifactDir  a run's root, or a directory of artifacts below it
    ArtifactFile an artifact
    ControlDir   a directory that only the mount's owner and root may enter: /.artifactfs
    ControlFile  a file in a ControlDir; its contents are generated when it is opened

`same_version` alone decides which entries are versions of one file (docs/semantics.md 2.4).
"""

import bisect
import enum
from array import array
from collections.abc import Callable, Iterator, Sequence

import msgspec

from artifactfs.domain import RunFilter
from artifactfs.tree.inode_numbers import ROOT_NUMBER

# A number is found among so many by looking at each: a microsecond of work.
_SEARCHED = 64
_NUMBER_BYTES = 8


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A name in a directory, with its attributes.

    `number`: the inode number. `size_bytes` None: unknown (always for directories). Times are since the epoch.
    `created_ns`: a file's own time where the service gives it. It is part of the version, and mostly equals `mtime_ns`.
    `is_size_listed`: the last listing gave a size; otherwise only the contents tell it.
    """

    name: bytes
    is_dir: bool
    number: int
    mtime_ns: int
    size_bytes: int | None = None
    created_ns: int | None = None
    is_size_listed: bool = True


class PackedEntries(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The entries of a directory in about 50 bytes each, made when they are needed: directories first, then files.

    `directories`: their names, all with the time `run_ns`. `files`: of each file name, size in bytes and own time in
    decimal, each ended by a NUL; none of them lacks one. Names differ from each other. `packed_numbers`: the inode
    numbers, of 8 bytes each. An array would be work for the garbage collector, whose pauses grow with it.
    """

    directories: list[bytes]
    files: bytes
    packed_numbers: bytes
    run_ns: int
    # The places by number, where there are many of them.
    order: "array[int] | None"

    def __len__(self) -> int:
        return len(self.packed_numbers) // _NUMBER_BYTES

    @property
    def numbers(self) -> Sequence[int]:
        """The inode numbers, in the order of the entries."""
        return memoryview(self.packed_numbers).cast("Q")

    def fields(self) -> list[bytes]:
        """Return name, size and time of each file, one after the other, and an empty field."""
        return self.files.split(b"\0")

    def entries(self) -> Iterator[Entry]:
        """Make all entries."""
        numbers = iter(self.numbers)
        for name, number in zip(self.directories, numbers, strict=False):
            yield Entry(name, True, number, self.run_ns, None, None, False)
        fields = iter(self.fields())
        for name, size, created in zip(fields, fields, fields, strict=False):
            created_ns = int(created)
            yield Entry(name, False, next(numbers), created_ns, int(size), created_ns)

    def entry(self, place: int) -> Entry:
        """Make the entry at a place."""
        number, file = self.numbers[place], 3 * (place - len(self.directories))
        if file < 0:
            return Entry(self.directories[place], True, number, self.run_ns, None, None, False)
        name, size, created = self.fields()[file : file + 3]
        return Entry(name, False, number, int(created), int(size), int(created))

    def place(self, number: int) -> int:
        """Return the place of the entry with an inode number that is in it."""
        if self.order is not None:
            return self.order[bisect.bisect_left(self.order, number, key=self.numbers.__getitem__)]
        return list(self.numbers).index(number)


def packed(directories: list[bytes], files: bytes, numbers: list[int], run_ns: int) -> PackedEntries:
    """Return packed entries: see there."""
    order = None
    if len(numbers) > _SEARCHED:
        order = array("I", sorted(range(len(numbers)), key=numbers.__getitem__))
    return PackedEntries(directories, files, array("Q", numbers).tobytes(), run_ns, order)


class StaticDir(msgspec.Struct, frozen=True):
    """A directory that the mount itself makes."""

    entry: Entry
    parent_number: int


class ProjectDir(msgspec.Struct, frozen=True, gc=False):
    """The links to a project's runs: by their ids, or by their names."""

    project_id: int
    by_name: bool
    entry: Entry
    parent_number: int


class FacetLevel(enum.Enum):
    """What a FacetDir lists: kinds of facets, keys of a kind, values of a key, runs; or nothing (searches)."""

    KINDS = "kinds"
    KEYS = "keys"
    VALUES = "values"
    RUNS = "runs"
    SEARCH = "search"


class FacetDir(msgspec.Struct, frozen=True):
    """A directory of choices. `chosen`: what was chosen above it, or here. `kind`, `key`: what it lists the values of.

    `path`: from the mount's root. `key_path`: the same with a project's id for its name.
    """

    path: bytes
    key_path: bytes
    level: FacetLevel
    chosen: RunFilter
    kind: str
    key: str
    entry: Entry
    parent_number: int


class GeneratedFile(msgspec.Struct, frozen=True, gc=False):
    """A file that artifactfs makes of what the service says of runs. `path`: from the mount's root."""

    path: bytes
    entry: Entry
    parent_number: int


class Symlink(msgspec.Struct, frozen=True, gc=False):
    """A symbolic link in a ProjectDir, a FacetDir or the root. `target`: a path relative to that."""

    target: bytes
    entry: Entry
    parent_number: int


class ArtifactDir(msgspec.Struct, frozen=True, gc=False):
    """A directory of artifacts. `path`: from the run's root, without slashes at its ends; "" is the root."""

    run_id: int
    path: str
    entry: Entry
    parent_number: int


class ArtifactFile(msgspec.Struct, frozen=True, gc=False):
    """An artifact in its directory."""

    directory: ArtifactDir
    entry: Entry

    @property
    def path(self) -> str:
        """The path from the run's root."""
        return join(self.directory.path, self.entry.name)


class ControlDir(msgspec.Struct, frozen=True, gc=False):
    """A directory that is never listed, and that only the mount's owner and root may enter."""

    entry: Entry
    parent_number: int


class ControlFile(msgspec.Struct, frozen=True, gc=False):
    """A file in a ControlDir: `what` says which. `about`: the inode number that it is about, 0 for none."""

    what: str
    about: int
    entry: Entry
    parent_number: int


Node = (
    StaticDir | ProjectDir | FacetDir | GeneratedFile | Symlink | ArtifactDir | ArtifactFile | ControlDir | ControlFile
)
# The nodes that can be listed.
AnyDirectory = StaticDir | ProjectDir | FacetDir | ArtifactDir | ControlDir


# The attribute timeout of a file that does not grow, in seconds. Arbitrary.
ATTRIBUTES_S = 3600.0


class LookupResult(msgspec.Struct, frozen=True, gc=False):
    """A node, its entry timeout, and the attribute timeout of a file, both in seconds."""

    node: Node
    valid_s: float
    attributes_s: float = ATTRIBUTES_S


def _no_growth() -> float:
    return ATTRIBUTES_S


class DirSnapshot(msgspec.Struct, frozen=True):
    """A directory's entries in order, frozen, and how to make a node of each.

    `left_s()` is the entry timeout of the names, now; `attributes_s()` the attribute timeout of the files.
    """

    shown: tuple[Entry, ...] | PackedEntries
    node_of: Callable[[Entry], Node]
    left_s: Callable[[], float]
    attributes_s: Callable[[], float] = _no_growth

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries; made again where they are packed."""
        return tuple(self.shown.entries()) if isinstance(self.shown, PackedEntries) else self.shown


def join(directory: str, name: bytes) -> str:
    """Return the path of a name in a directory; both from the run's root."""
    return f"{directory}/{name.decode()}" if directory else name.decode()


def is_at_or_below(run_id: int, path: str) -> Callable[[tuple[int, str]], bool]:
    """Return a test of whether a directory, by run id and path, is that one or is below it."""
    below = f"{path}/" if path else ""
    return lambda key: key[0] == run_id and (key[1] == path or key[1].startswith(below))


def child(directory: ArtifactDir, entry: Entry) -> ArtifactDir | ArtifactFile:
    """Return the node of an entry."""
    if entry.is_dir:
        return ArtifactDir(directory.run_id, join(directory.path, entry.name), entry, directory.entry.number)
    return ArtifactFile(directory, entry)


def mount_path(node: Node) -> str:
    """Return a node's path from the mount point; of a link, its name."""
    if isinstance(node, ArtifactDir):
        return f"runs/{node.run_id}" + (f"/{node.path}" if node.path else "")
    if isinstance(node, ArtifactFile):
        return f"runs/{node.directory.run_id}/{node.path}"
    if isinstance(node, ProjectDir):
        return ("names/" if node.by_name else "projects/") + node.entry.name.decode("utf-8", "replace")
    if isinstance(node, ControlFile | ControlDir):
        # A file about an inode is in the directory of its command.
        command = f"{node.what}/" if isinstance(node, ControlFile) and node.about else ""
        above = "" if node.parent_number == ROOT_NUMBER else ".artifactfs/"
        return above + command + node.entry.name.decode()
    if isinstance(node, FacetDir | GeneratedFile):
        return node.path.decode("utf-8", "replace")
    if isinstance(node, Symlink):
        return node.entry.name.decode("utf-8", "replace")
    return node.entry.name.decode()


def may_have_grown(old: Entry, new: Entry) -> bool:
    """Whether `new` is a larger file, which may continue `old`. The contents decide that (content/growth.py)."""
    if old.is_dir or new.is_dir or old.size_bytes is None or new.size_bytes is None:
        return False
    return new.size_bytes > old.size_bytes


def lost_size(old: Entry, new: Entry) -> bool:
    """Whether `new` is `old` at another time, with a size that no listing tells: it may have grown."""
    known = old.size_bytes is not None and old.created_ns is not None
    moved = new.created_ns not in (None, old.created_ns)
    return not new.is_dir and known and moved and new.size_bytes is None and old.number == new.number


def same_version(old: Entry, new: Entry) -> bool:
    """Whether `new`, which was seen later, is the version of `old`, or may have grown from it (2.4).

    A size or time that one of them lacks decides nothing.
    """
    if old.is_dir or new.is_dir:
        return old.is_dir == new.is_dir
    if may_have_grown(old, new) or lost_size(old, new):
        return True
    same_size = old.size_bytes == new.size_bytes or old.size_bytes is None or new.size_bytes is None
    return same_size and (old.created_ns == new.created_ns or old.created_ns is None or new.created_ns is None)
