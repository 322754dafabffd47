"""A random tree, reported in every combination of the open forms, sorts back to the same children.

The renderer here is the obvious one and shares nothing with forms.py: a tree is nested dicts, a form is a handful of
switches, and the rows are what such a server would send. Whether the server is one that answers from the root or from
the directory is taken as known, as it is after the first answer that tells; what one answer alone reveals is
tested too.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs.modellab.listing_dialects import ListingKind, PathBase, sort_rows
from artifactfs.modellab.models import FileRow

# Few letters, so that namesakes, prefixes and repetitions of names are frequent.
_NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
Tree = dict[str, "int | Tree"]
_TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(_NAMES, st.integers(0, 3), max_size=4),
    lambda below: st.dictionaries(_NAMES, st.integers(0, 3) | below, max_size=4),
    max_leaves=12,
)


@dataclass(frozen=True)
class Form:
    """How a server tells a directory. `sent_slash`: how it was asked."""

    base: PathBase
    recursive: bool
    dir_rows: bool  # whether a recursive answer has rows for directories
    dir_slash: bool
    dir_flag: bool
    marker: str  # "", "slash", "bare": a zero-byte row that names the directory itself
    sent_slash: bool

    @property
    def possible(self) -> bool:
        """Something must mark a directory; without recursion there are rows for directories."""
        return (self.dir_slash or self.dir_flag) and (self.recursive or self.dir_rows)


FORMS = [
    form
    for values in itertools.product(
        PathBase, (False, True), (False, True), (False, True), (False, True), ("", "slash", "bare"), (False, True)
    )
    if (form := Form(*values)).possible
]


def directories(tree: Tree, path: str = "") -> Iterator[tuple[str, Tree]]:
    """Yield (path, contents) of every directory, the root first."""
    yield path, tree
    for name, below in tree.items():
        if isinstance(below, dict):
            yield from directories(below, f"{path}/{name}" if path else name)


def told(tree: Tree, form: Form, above: str) -> Iterator[FileRow]:
    """Yield the rows for what is in a directory whose path is reported as `above` ("" or with a slash at its end)."""
    for name, below in tree.items():
        path = above + name
        if not isinstance(below, dict):
            yield FileRow(path, False, below)
            continue
        if form.dir_rows or not form.recursive:
            yield FileRow(path + "/" if form.dir_slash else path, form.dir_flag)
        if form.recursive:
            yield from told(below, form, path + "/")


def answer(path: str, tree: Tree, form: Form) -> list[FileRow]:
    """Return the rows that such a server sends for a directory."""
    rows = list(told(tree, form, path + "/" if path and form.base is PathBase.ROOT else ""))
    if path and form.marker:
        itself = path if form.base is PathBase.ROOT else path.rpartition("/")[2]
        rows.insert(0, FileRow(itself + "/" if form.marker == "slash" else itself, False, 0))
    return rows


def expected(tree: Tree, form: Form) -> dict[bytes, tuple[bool, int | None]]:
    """Return what must come out: names, kinds and sizes. Files alone cannot tell of an empty directory."""
    return {
        name.encode(): (isinstance(below, dict), None if isinstance(below, dict) else below)
        for name, below in tree.items()
        if not isinstance(below, dict) or form.dir_rows or not form.recursive or holds_files(below)
    }


def holds_files(tree: Tree) -> bool:
    return any(not isinstance(below, dict) or holds_files(below) for below in tree.values())


def ambiguous(path: str, tree: Tree, form: Form) -> bool:
    """Whether the answer could be another directory's, or another kind's, to any reader.

    Only where paths are relative to the directory: there a name in `a/b` may look like the directory itself.
    """
    if form.base is PathBase.ROOT or not path:
        return False
    basename = path.rpartition("/")[2]
    if form.marker == "bare":
        return True  # a zero-byte file called like the directory
    if basename in tree and (form.marker or not form.dir_flag or not form.recursive or not form.dir_rows):
        return True  # `b/` in `a/b`: a marker, or a directory of the same name
    # `a/b/c` in `a/b`, reported from the directory: from the root it would be `c`.
    return "/" in path and form.recursive and find(tree, path) is not None


def find(tree: Tree, path: str) -> "int | Tree | None":
    """Return what is at a path below a directory."""
    found: int | Tree | None = tree
    for name in path.split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def shown(path: str, rows: list[FileRow], form: Form, known: PathBase | None) -> dict[bytes, tuple[bool, int | None]]:
    verdict, children, base = sort_rows(rows, path, sent_slash=form.sent_slash, known=known)
    assert children.bad_names == 0
    assert (verdict is ListingKind.CHILDREN) is bool(children.by_name)
    assert base in (None, form.base)
    return {child.name: (child.is_dir, child.size_bytes) for child in children.by_name.values()}


@settings(max_examples=60, deadline=None)
@given(_TREES)
def test_every_form_sorts_back_to_the_same_children(tree: Tree) -> None:
    """Forms 1 to 5, all combinations at every directory: the children that there are, no more and no less."""
    for path, below in directories(tree):
        for form in FORMS:
            if not ambiguous(path, below, form):
                assert shown(path, answer(path, below, form), form, form.base) == expected(below, form), (path, form)


@settings(max_examples=60, deadline=None)
@given(_TREES)
def test_from_the_root_nothing_need_be_known(tree: Tree) -> None:
    """Form 2: an answer whose paths are the documented ones is right before anything was learned of the server."""
    for path, below in directories(tree):
        for form in FORMS:
            if form.base is PathBase.ROOT:
                assert shown(path, answer(path, below, form), form, None) == expected(below, form), (path, form)


@settings(max_examples=60, deadline=None)
@given(_TREES)
def test_one_telling_answer_is_enough(tree: Tree) -> None:
    """Form 2: a path that does not begin like the directory's tells that paths are relative, whatever was known."""
    for path, below in directories(tree):
        for form in FORMS:
            if form.base is PathBase.ROOT or ambiguous(path, below, form) or path.partition("/")[0] in below:
                continue
            rows = answer(path, below, form)
            if any(not row.path.startswith(path) for row in rows):
                for known in (None, PathBase.ROOT):
                    assert shown(path, rows, form, known) == expected(below, form), (path, form)


@settings(max_examples=60, deadline=None)
@given(_TREES, st.booleans())
def test_namesakes_never_become_children(tree: Tree, recursive: bool) -> None:
    """Form 1: what a raw prefix search gives besides (`dirx/`, `dir.txt`) is never among the children."""
    form = Form(PathBase.ROOT, recursive, True, True, True, "", False)
    for path, below in directories(tree):
        if not path:
            continue
        namesakes = [FileRow(path + "x/", True), FileRow(path + ".txt", False, 1), FileRow(path + "x/y", False, 1)]
        rows = [FileRow(path + "/", True), *namesakes, *answer(path, below, form)]
        assert shown(path, rows, form, None) == expected(below, form)
        assert sort_rows(namesakes, path, sent_slash=False)[0] is ListingKind.ECHO
