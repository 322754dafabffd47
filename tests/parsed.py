"""The modules of the package, parsed once for all tests that read them; none changes what it gets."""

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "artifactfs"


@dataclass(frozen=True)
class Module:
    """A module: its path in the package, its dotted name, and its nodes, those of the top first (`ast.walk`)."""

    path: str
    name: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]


@functools.cache
def modules() -> tuple[Module, ...]:
    """Return every module of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        parts = [PACKAGE.name, *relative.with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        tree = ast.parse(path.read_bytes())
        found.append(Module(str(relative), ".".join(parts), tree, tuple(ast.walk(tree))))
    return tuple(found)
