"""artifactfs.fuse.error_boundary: how a failed call names its place (5.3)."""

from artifactfs.fuse.error_boundary import place, shown
from artifactfs.tree.nodes import Entry, Node, StaticDir

FIXED = StaticDir(Entry(b"runs", True, 2, 0), 1)


def test_places_as_they_are_shown() -> None:
    """5.3: of a long path the end is logged, of a name that is no text what it is made of, and nothing raises."""

    class Here:
        def node_of(self, number: int, *, is_open: bool) -> Node | None:
            if number == 0:
                raise RuntimeError("a bug")
            return FIXED if number == 1 else None

    assert place(Here(), "lookup", (1, b"a\xffb")) == "/runs/a\\xffb"
    assert place(Here(), "opendir", (1, None)) == "/runs"
    assert place(Here(), "opendir", (2, None)) == place(Here(), "read", (0, 0, 0)) == "what is no longer known"
    assert shown("x" * 300) == "…" + "x" * 200
