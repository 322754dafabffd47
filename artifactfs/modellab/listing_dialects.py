"""How this server writes listings, and their normal form: the children of one directory.

A path may begin with any mixture of `/` and `./`: these are no part of a name, and are stripped. Within a path, an
empty component or `.` is a name that no filesystem can hold (docs/semantics.md 1.3): in object storage `a//b` and
`a/b` are two objects, and showing one as the other could give the bytes of the wrong one.

Owns "What the documentation leaves open" 1-5 and 7-9 of docs/dev/model-lab-api.md. No I/O: rows in, children and
evidence out. `client.py` sends the requests.

What is hard: a row named like the queried directory, or beginning like it, can be the directory itself (an echo of an
S3 prefix, a marker), a namesake (`dirx` for `dir`), or a child in a listing whose paths are relative to the queried
directory. `ListingNormalizer` weighs the whole listing before it decides.
"""

import enum
import logging
from collections.abc import Iterable, Sequence

import msgspec

from artifactfs.domain import Children, ListedChild, encode_name, without_lead
from artifactfs.modellab.models import FileRow, ProjectFile

log = logging.getLogger(__name__)

_MAX_SIZE = 2**63 - 1
# A longer prefix is not sent back. Arbitrary.
_MAX_LEAD = 8


class PathBase(enum.Enum):
    """What the paths of this server's answers are relative to."""

    ROOT = "the run's root"
    DIRECTORY = "the queried directory"


class ListingKind(enum.Enum):
    """What a listing says about the queried directory."""

    CHILDREN = "it has these children"
    EMPTY = "the listing is empty"
    ECHO = "the listing only repeats the queried prefix"


class PathForm(msgspec.Struct, frozen=True):
    """How a directory's path is sent: the prefix in front of it, and whether a slash ends it."""

    lead: str
    slash: bool

    def __call__(self, path: str) -> str:
        return f"{self.lead}{path}/" if self.slash else self.lead + path


class Evidence(msgspec.Struct, frozen=True):
    """What one listing shows of the server's dialect.

    `base`: what its paths are relative to. `echoed`: it names the queried directory. `lead`: the prefix of the first
    directory's path. `slash`: whether that path ended in a slash. None: the listing does not show it.
    """

    base: PathBase | None
    echoed: bool
    lead: str
    slash: bool | None


class ServerDialect:
    """The forms that this server accepts and writes, learned from its listings; None while unknown."""

    def __init__(self) -> None:
        self.slash: bool | None = None
        self.base: PathBase | None = None
        self._lead: str | None = None
        # How the server writes a directory's path: this form is sent first.
        self._written_slash = True
        self._written_lead = ""

    def forms(self) -> list[PathForm]:
        """Return the forms in which a directory may have to be requested, the likeliest first.

        The server's own ending comes first. The first lead is empty: `path` is documented as relative, and servers
        refuse absolute paths (MLflow: 400). Object storage whose keys begin with `/` or `./` needs them.
        """
        slashes = [self._written_slash, not self._written_slash] if self.slash is None else [self.slash]
        leads = list(dict.fromkeys(["", self._written_lead])) if self._lead is None else [self._lead]
        return [PathForm(lead, each) for lead in leads for each in slashes]

    def learn(self, evidence: Evidence, accepted: PathForm | None) -> None:
        """Learn from a listing. `accepted`: the form that brought children; None where that proves nothing."""
        if evidence.base is not None and evidence.base is not self.base:
            self.base = evidence.base
            log.info("the paths of this server's listings are relative to %s", evidence.base.value)
        if accepted is not None:
            if self.slash is None:
                self.slash = accepted.slash
                form = "with" if accepted.slash else "without"
                log.info("this server lists a directory by its path %s a slash at the end", form)
            if self._lead is None and self._written_lead:
                self._lead = accepted.lead
                log.info("this server lists a directory by its path with %r in front", accepted.lead)
        self._written_lead = self._written_lead or evidence.lead
        if evidence.slash is not None:
            self._written_slash = evidence.slash


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
        # The prefix of the first directory's path; "" where it has none.
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
        """Whether the listing names the queried directory: an echo of a prefix, or a marker."""
        return self._self

    @property
    def base(self) -> PathBase | None:
        """The base of the listing's paths; None where it shows none."""
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

    def evidence(self) -> Evidence:
        """Return what the listing shows of the server's dialect; after every row was added."""
        return Evidence(base=self.base, echoed=self.echoed, lead=self.lead, slash=self.slash)

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
        """Return the kind, and the children (none unless the kind is CHILDREN)."""
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

    A row with an unreadable size is kept: its name is valid, and `open` finds the size (docs/semantics.md 2.2).
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
