"""artifactfs.tree.nodes: inode numbers (docs/semantics.md 2.4). What goes into one is in test_tree.py."""

from artifactfs.tree.inode_numbers import ROOT_NUMBER, children


def test_numbers_fit_in_60_bits() -> None:
    """2.4, 7: no two names share one, none is the root's or "no inode", and all of the 60 bits are used."""
    number = children(b"site", 1, "d")
    numbers = {number(b"%d" % i, False, i) for i in range(10_000)}
    assert len(numbers) == 10_000
    assert all(ROOT_NUMBER < n < 1 << 60 for n in numbers)
    assert max(numbers) > 1 << 59


def test_a_number_tells_versions_apart() -> None:
    """2.4: by kind, by size, by "unknown", and by a time of its own where that is given."""
    number = children(b"site", 1, "d")
    versions = [
        (True, None, None),
        (False, None, None),
        (False, 0, None),
        (False, 1, None),
        (False, 1, 0),
        (False, 1, 1),
    ]
    assert len({number(b"n", *version) for version in versions}) == len(versions)
    assert number(b"n", False, 1, 1) == children(b"site", 1, "d")(b"n", False, 1, 1)
