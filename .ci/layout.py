"""Write docs/dev/layout.md: every module of the package, with the first sentence of its docstring."""

import ast
import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
PAGE = CHECKOUT / "docs" / "dev" / "layout.md"
_HEAD = """# Layout

Every module with the first sentence of its docstring. `make layout` writes this page, and a test compares it with the
folders. [architecture.md](architecture.md) shows how the modules work together.
"""


def page() -> str:
    """Return the page as it should be."""
    lines = [_HEAD]
    package = CHECKOUT / "artifactfs"
    folders = sorted({path.parent for path in package.rglob("*.py")})
    for folder in folders:
        name = folder.relative_to(CHECKOUT)
        lines += [f"## {name}/", "", first_sentence(folder / "__init__.py"), ""]
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"- `{path.name}`: {first_sentence(path)}" for path in modules]
        lines.append("")
    return "\n".join(lines)


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.:]) (?=[A-Z`])", paragraph)[0].rstrip(":")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
