"""How this server writes listings, and their normal form: the children of one directory.

A path may begin with any mixture of `/` and `./`: these are no part of a name, and are stripped. Within a path, an
empty component or `.` is a name that no filesystem can hold (docs/semantics.md 1.3): in object storage `a//b` and
`a/b` are two objects, and showing one as the other could give the bytes of the wrong one.

Owns "What the documentation leaves open" 1-5 and 7-9 of docs/dev/model-lab-api.md. No I/O: rows in, children and
evidence out. `client.py` sends the requests.

What is hard: a row named like the queried directory, or beginning like it, can be the directory itself (an echo of an
S3 prefix, a marker), a namesake (`dirx` for `dir`), or a child in a listing whose paths are relative to the queried
directory. `normalize` weighs the whole listing before it decides.
"""

import enum
import logging
from collections.abc import Generator, Iterator, Sequence

import msgspec

from artifactfs.domain import Children, ListedChild, encode_name, without_lead
from artifactfs.modellab.models import FileRow, ProjectFile

log = logging.getLogger(__name__)

_MAX_SIZE = 2**63 - 1
# A longer prefix is not sent back, and of a run no more than so many. Arbitrary.
_MAX_LEAD = 8
_MAX_LEADS = 4
# PATH_MAX: a longer path is not looked at name by name, which takes a second for each 5 MB. What it begins with shows.
_MAX_PATH = 4096
# Rows between two turns of the event loop: about 5 ms of work.
_STEP_ROWS = 2_000


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


class Evidence(msgspec.Struct, frozen=True):
    """What one listing shows of the server's dialect.

    `base`: what its paths are relative to. `echoed`: it names the queried directory. `leads`: the prefixes of its
    directories' paths. `slash`: whether the first of those paths ended in a slash. None: the listing does not show it.
    """

    base: PathBase | None
    echoed: bool
    leads: tuple[str, ...]
    slash: bool | None


class NormalListing(msgspec.Struct, frozen=True):
    """A listing in its normal form. It has children only if its kind is CHILDREN."""

    kind: ListingKind
    children: Children
    evidence: Evidence


def nothing() -> NormalListing:
    """Return the listing of a directory that is empty, or gone, on a server that answers with the whole run."""
    return NormalListing(ListingKind.EMPTY, Children({}, shadowed=[]), Evidence(None, False, (), None))


class Dialect(msgspec.Struct, frozen=True):
    """The forms that this server accepts and writes, as far as its listings have shown; None while unknown.

    `written_slash`: how the server writes a directory's path; this form is sent first. `shown_by`: the directory
    whose listing showed the base last. `is_proven`: two directories have shown that paths are relative to the run's
    root; listings to the contrary change nothing from then on. `has_own_answers`: the answer to a directory was seen to
    be another than that to the run's root.
    """

    slash: bool | None = None
    base: PathBase | None = None
    written_slash: bool = True
    shown_by: str = ""
    is_proven: bool = False
    has_own_answers: bool = False


class Leads(msgspec.Struct, frozen=True):
    """The prefixes of the paths of one run: each is a part of an object's key, so runs differ, and objects may.

    `written`: those of the directories that were listed. `accepted`: the prefix that brought children last; None
    while unknown.
    """

    written: tuple[str, ...] = ()
    accepted: str | None = None


def forms(dialect: Dialect, leads: Leads) -> list[PathForm]:
    """Return the forms in which a directory may have to be requested, the likeliest first.

    The server's own ending comes first. The first lead is empty: `path` is documented as relative, and servers
    refuse absolute paths (MLflow: 400). Object storage whose keys begin with `/` or `./` needs them.
    """
    slashes = [dialect.written_slash, not dialect.written_slash] if dialect.slash is None else [dialect.slash]
    fronts = [leads.accepted or ""]
    if leads.accepted is None or len(leads.written) > 1:
        fronts = list(dict.fromkeys([*fronts, *leads.written]))
    return [PathForm(front, each) for front in fronts for each in slashes]


def learn(dialect: Dialect, directory: str, evidence: Evidence, accepted: PathForm | None) -> Dialect:
    """Learn from a listing of `directory`. `accepted`: the form that brought children; None where that proves nothing.

    One listing may mislead: a directory may hold one of its own name. No two directories do so in a row.
    """
    slash, base, shown_by, is_proven = dialect.slash, dialect.base, dialect.shown_by, dialect.is_proven
    if evidence.base is not None and not is_proven:
        is_proven = evidence.base is base is PathBase.ROOT and shown_by != directory
        base, shown_by = evidence.base, directory
    if base is not None and base is not dialect.base:
        log.info("the paths of this server's listings are relative to %s", base.value)
    if accepted is not None and slash is None:
        slash = accepted.slash
        log.info("this server lists a directory by its path %s a slash at the end", "with" if slash else "without")
    written_slash = dialect.written_slash if evidence.slash is None else evidence.slash
    return Dialect(slash, base, written_slash, shown_by, is_proven, dialect.has_own_answers)


def learn_whole_run(dialect: Dialect, *, is_whole: bool) -> Dialect:
    """Learn whether this server answers with the whole run, whatever `path` is."""
    if not is_whole:
        return msgspec.structs.replace(dialect, has_own_answers=True)
    return msgspec.structs.replace(dialect, base=PathBase.ROOT, is_proven=True)


def learn_leads(leads: Leads, evidence: Evidence, accepted: PathForm | None) -> Leads:
    """Learn from a listing of the run, as `learn` does."""
    written = tuple(dict.fromkeys([*leads.written, *evidence.leads]))[:_MAX_LEADS]
    return Leads(written, leads.accepted if accepted is None else accepted.lead)


def normalize(
    rows: Sequence[FileRow],
    directory: str,
    *,
    sent_slash: bool = True,
    known: PathBase | None = None,
    is_proven: bool = False,
) -> Generator[None, None, NormalListing]:
    """Sort the rows of a listing of `directory` ("" for a run's root) into children; yields every few milliseconds.

    `sent_slash`: whether the query ended in a slash. `known`: the base that this server is known to use; `is_proven`
    as in Dialect.
    """
    base, echoed, has_namesakes = yield from _weigh(rows, directory, sent_slash, known, is_proven)
    children = Children({}, shadowed=[])
    by_name = children.by_name
    leads, slash = dict[str, None](), None
    for count, (row, path) in enumerate(_below(rows, directory, base or known), 1):
        if count % _STEP_ROWS == 0:
            yield
        bare = path.rstrip("/")
        if not bare:
            continue
        name, deeper, rest = bare.partition("/")
        encoded = encode_name(name)
        if encoded is None or (deeper and len(rest) <= _MAX_PATH and not _can_be(rest)):
            children.bad_names += 1
            continue
        # A row further down makes the directory in between, slash and all.
        has_slash = bool(deeper) or path.endswith("/")
        is_dir = has_slash or bool(row.is_dir)
        if is_dir and slash is None:
            slash = has_slash
        if is_dir and len(leads) < _MAX_LEADS:
            lead = row.path[: len(row.path) - len(without_lead(row.path))]
            leads[lead if len(lead) <= _MAX_LEAD else ""] = None
        child = ListedChild(encoded, is_dir, None if is_dir else size_of(row))
        first = by_name.setdefault(encoded, child)
        # Of duplicates the first counts; of a file and a directory, the directory.
        if first.is_dir != is_dir:
            children.shadowed.append(encoded)
            if is_dir:
                by_name[encoded] = child
    kind = ListingKind.ECHO if echoed or has_namesakes else ListingKind.EMPTY
    if by_name or children.bad_names:
        kind = ListingKind.CHILDREN
    return NormalListing(kind, children, Evidence(base, echoed, tuple(leads), slash))


def _weigh(
    rows: Sequence[FileRow], directory: str, sent_slash: bool, known: PathBase | None, is_proven: bool
) -> Generator[None, None, tuple[PathBase | None, bool, bool]]:
    """Return the base that the rows show, whether they name the directory, and whether they name namesakes of it."""
    if not directory:
        return None, False, False
    prefix = directory + "/"
    has_under = has_outside = has_namesakes = must_be_child = echoed = has_own_row = False
    for count, row in enumerate(rows, 1):
        if count % _STEP_ROWS == 0:
            yield
        path = without_lead(row.path)
        if path.startswith(prefix):
            if path.rstrip("/") == directory:
                echoed = True
                has_own_row = has_own_row or bool(row.is_dir)
            else:
                has_under = True
        elif path == directory:
            echoed = True
            has_own_row = has_own_row or bool(row.is_dir)
            # A directory cannot be a file that holds bytes: this row is a child of the same name.
            if not row.is_dir and size_of(row):
                must_be_child = True
        elif path.startswith(directory):
            has_namesakes = True
        elif not has_outside and (bare := path.rstrip("/")):
            # Names that no filesystem can hold, like `../x`, are no evidence of anything.
            has_outside = _can_be(bare)
    base = None
    if has_under and not ("/" not in directory and known is PathBase.DIRECTORY):
        base = PathBase.ROOT
    # Such a server may answer with the whole run, whatever `path` is: a row outside is no child of this directory.
    elif known is PathBase.ROOT and (is_proven or has_own_row):
        base = None
    # On a server that is known to answer from the root, a child of the same name is the file that the directory has
    # become. Below `dir/` no prefix search finds `dirx`: with the slash sent it can only be a child.
    elif has_outside or (must_be_child and known is not PathBase.ROOT) or (has_namesakes and sent_slash):
        base = PathBase.DIRECTORY
    return base, echoed, has_namesakes


def _can_be(path: str) -> bool:
    """Whether a filesystem can hold every name of a path, and the path itself."""
    return len(path) <= _MAX_PATH and all(encode_name(part) is not None for part in path.split("/"))


def _below(rows: Sequence[FileRow], directory: str, base: PathBase | None) -> Iterator[tuple[FileRow, str]]:
    """Yield each row with its path below the directory; "" for the directory itself, and namesakes of it."""
    prefix, basename = directory + "/", directory.rpartition("/")[2]
    start = len(prefix)
    for row in rows:
        path = without_lead(row.path)
        if not directory:
            yield row, path
        elif base is not PathBase.DIRECTORY:
            yield row, path[start:] if path.startswith(prefix) else ""
        else:
            bare = path.rstrip("/")
            # The directory itself by its full path (a child would be `a/b/a/b`), or its marker: a zero-byte entry that
            # ends in a slash.
            is_itself = bare == directory and bare != basename
            is_marker = bare == basename and bare != path and not row.is_dir and not size_of(row)
            yield row, "" if is_itself or is_marker else path


def fingerprint(rows: Sequence[FileRow]) -> Generator[None, None, int]:
    """Return a number that is the same for the same paths in whatever order; yields every few milliseconds."""
    seen = len(rows)
    for count, row in enumerate(rows, 1):
        if count % _STEP_ROWS == 0:
            yield
        seen = (seen + hash(row.path)) & _MAX_SIZE
    return seen


def size_of(row: FileRow | ProjectFile) -> int | None:
    """Return a row's size in bytes; None for absent, null or nonsense. Numeric text counts.

    A row with an unreadable size is kept: its name is valid, and `open` finds the size (docs/semantics.md 2.2).
    """
    size = row.file_size
    if type(size) is int:  # as nearly all are: a project has many
        return size if 0 <= size <= _MAX_SIZE else None
    if isinstance(size, str):
        text = size.strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            return None
        size = int(text)
    if isinstance(size, float):
        size = int(size) if size.is_integer() else None
    return size if size is not None and 0 <= size <= _MAX_SIZE else None
