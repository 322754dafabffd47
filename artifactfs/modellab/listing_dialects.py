"""The forms a listing can come in, brought to one: the children of one directory.

A path may begin with any mixture of `/` and `./`: these are no part of a name, and are stripped. Within a path an empty
component or `.` is a name that no filesystem can hold (semantics 1.3): in object storage `a//b` and `a/b` are two
objects, and showing one as the other could give the bytes of the wrong one.

Owns "What the documentation leaves open" 1-5 and 7-9 of model-lab-api.md. Pure: rows in, children and
evidence out; `client.py` asks, remembers what the evidence says about this server, and asks again.

What is hard: a row named like the queried directory, or beginning like it, can be the directory itself (an
echo of an S3 prefix, a marker), a namesake (`dirx` for `dir`), or a child in an answer whose paths are
relative to the queried directory. `ListingNormalizer` weighs the whole answer before it decides.
"""

import enum
from collections.abc import Iterable, Sequence

from artifactfs.domain import Children, ListedChild, encode_name, without_lead
from artifactfs.modellab.models import FileRow, ProjectFile

_MAX_SIZE = 2**63 - 1
# A longer one is not worth sending back; arbitrary.
_MAX_LEAD = 8


class PathBase(enum.Enum):
    """What the paths of this server's answers are relative to."""

    ROOT = "the run's root"
    DIRECTORY = "the queried directory"


class ListingKind(enum.Enum):
    """What an answer says about the directory that was asked for."""

    CHILDREN = "it has these children"
    EMPTY = "there was nothing at all in the answer"
    ECHO = "the answer only repeats the prefix that was asked for"


class ListingNormalizer:
    """Sorts the rows of one answer into the children of `directory` ("" for a run's root).

    Call `weigh` with every row first, then `add` with every row (both in pieces of any size, so that a long
    answer does not hold up the event loop), then `result`. `known` is the base that this server is known to
    use, `sent_slash` whether the query ended in a slash.
    """

    def __init__(self, directory: str, *, sent_slash: bool, known: PathBase | None) -> None:
        self._directory = directory
        self._prefix = directory + "/"
        self._sent_slash = sent_slash
        self._known = known
        self._under = self._outside = self._namesake = self._must_be_child = self._self = False
        # What stood in front of the path of a directory, "" where nothing did: the first that came.
        self.lead = ""
        # Whether the first directory's path ended in a slash; None where there was no directory.
        self.slash: bool | None = None
        self._children = Children({}, shadowed=[])
        self._base: PathBase | None = None

    def weigh(self, rows: Iterable[FileRow]) -> None:
        """Look for evidence of the base of the paths."""
        directory, prefix = self._directory, self._prefix
        if not directory:
            return
        for row in rows:
            path = without_lead(row.path)
            if path.startswith(prefix):
                if path.rstrip("/") == directory:
                    self._self = True
                else:
                    self._under = True
            elif path == directory:
                self._self = True
                # A directory cannot be a file that holds bytes: this row is a child of the same name.
                if not row.is_dir and size_of(row):
                    self._must_be_child = True
            elif path.startswith(directory):
                self._namesake = True
            elif not self._outside and (bare := path.rstrip("/")):
                # Names that nothing can hold, like `../x`, are no evidence of anything.
                self._outside = all(encode_name(part) is not None for part in bare.split("/"))

    @property
    def echoed(self) -> bool:
        """Whether the answer names the directory that was asked for: an echo of a prefix, or a marker."""
        return self._self

    @property
    def base(self) -> PathBase | None:
        """What the paths of this answer are relative to; None where it does not say."""
        if not self._directory:
            return None
        single = "/" not in self._directory
        if self._under and not (single and self._known is PathBase.DIRECTORY):
            return PathBase.ROOT
        # On a server that is known to answer from the root, it is the file that the directory has become.
        if self._outside or (self._must_be_child and self._known is not PathBase.ROOT):
            return PathBase.DIRECTORY
        # Below `dir/` no prefix search finds `dirx`: with the slash sent it can only be a child.
        if self._namesake and self._sent_slash:
            return PathBase.DIRECTORY
        return None

    def add(self, rows: Iterable[FileRow]) -> None:
        """Sort rows into children; after every row was weighed."""
        base = self.base or self._known or PathBase.ROOT
        if not self._directory:
            for row in rows:
                self._put(row, without_lead(row.path))
        elif base is PathBase.ROOT:
            start = len(self._prefix)
            for row in rows:
                path = without_lead(row.path)
                # All others are the directory itself, or namesakes of it.
                if path.startswith(self._prefix):
                    self._put(row, path[start:])
        else:
            basename = self._directory.rpartition("/")[2]
            for row in rows:
                path = without_lead(row.path)
                bare = path.rstrip("/")
                if bare == self._directory and bare != basename:
                    continue  # the directory itself by its full path; a child would be `a/b/a/b`
                # A zero-byte entry that ends in a slash and names the directory itself is its marker.
                if bare == basename and bare != path and not row.is_dir and not size_of(row):
                    continue
                self._put(row, path)

    def result(self) -> tuple[ListingKind, Children]:
        """Return the verdict, and the children (none unless the verdict is CHILDREN)."""
        if self._children.by_name or self._children.bad_names:
            return ListingKind.CHILDREN, self._children
        return (ListingKind.ECHO if self._self or self._namesake else ListingKind.EMPTY), self._children

    def _put(self, row: FileRow, path: str) -> None:
        bare = path.rstrip("/")
        if not bare:
            return  # the queried directory itself
        name, deeper, rest = bare.partition("/")
        encoded = encode_name(name)
        if encoded is None or (deeper and any(encode_name(part) is None for part in rest.split("/"))):
            self._children.bad_names += 1
            return
        slash = path.endswith("/") and not deeper
        # A row further down makes the directory in between, slash and all.
        is_dir = bool(deeper) or slash or bool(row.is_dir)
        if is_dir and not self.lead and row.path.startswith(("/", "./")):
            lead = row.path[: len(row.path) - len(without_lead(row.path))]
            self.lead = lead if len(lead) <= _MAX_LEAD else ""
        if is_dir and self.slash is None:
            self.slash = slash or bool(deeper)
        child = ListedChild(encoded, is_dir, None if is_dir else size_of(row))
        known = self._children.by_name.setdefault(encoded, child)
        if known is child or known.is_dir == is_dir:
            return  # new, or a duplicate: the first counts
        self._children.shadowed.append(encoded)
        if is_dir:
            self._children.by_name[encoded] = child


def size_of(row: FileRow | ProjectFile) -> int | None:
    """Return a row's size in bytes; None for absent, null or nonsense. Numeric text counts.

    A size that cannot be understood does not cost its row: the name is good, and `open` finds the size (semantics 2.2).
    """
    size = row.file_size
    if isinstance(size, str):
        text = size.strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            return None
        size = int(text)
    if isinstance(size, float):
        size = int(size) if size.is_integer() else None
    return size if size is not None and 0 <= size <= _MAX_SIZE else None


def sort_rows(
    rows: Sequence[FileRow], directory: str, *, sent_slash: bool = True, known: PathBase | None = None
) -> tuple[ListingKind, Children, PathBase | None]:
    """Sort a whole answer at once: `ListingNormalizer` for callers without an event loop to keep alive."""
    sorter = ListingNormalizer(directory, sent_slash=sent_slash, known=known)
    sorter.weigh(rows)
    sorter.add(rows)
    return *sorter.result(), sorter.base
