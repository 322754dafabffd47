"""The package as a house: how large its files are, and what they are called (docs/dev/architecture.md, "Style")."""

from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "artifactfs"
LONGEST = 400


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_no_file_is_long() -> None:
    """A file over 400 lines wants splitting."""
    found = {str(path.relative_to(PACKAGE)): lines(path) for path in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in found.items() if count > LONGEST} == {}


def test_no_module_name_stands_twice() -> None:
    """A stranger who searches for a module by its name finds one."""
    names = Counter(path.name for path in PACKAGE.rglob("*.py") if not path.name.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []
