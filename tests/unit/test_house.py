"""The sizes of files and the names of modules (docs/dev/architecture.md, "Style")."""

from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "artifactfs"
LONGEST = 400


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_no_file_is_long() -> None:
    """No module of the package or the tests has more than 400 lines."""
    paths = [*PACKAGE.rglob("*.py"), *(CHECKOUT / "tests").rglob("*.py")]
    found = {str(path.relative_to(CHECKOUT)): lines(path) for path in paths}
    assert {name: count for name, count in found.items() if count > LONGEST} == {}


def test_no_module_name_stands_twice() -> None:
    """A search for a module by its name finds one."""
    names = Counter(path.name for path in PACKAGE.rglob("*.py") if not path.name.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []
