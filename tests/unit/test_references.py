"""Every page that code, tests and pages cite is in the repository: a reader finds what a comment leans on."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# What `make bench` writes, and files of the sample: no pages of the repository.
FOREIGN = frozenset({"readme.md", "result.md", "notes.md"})


def cited() -> dict[str, str]:
    """Return the names of Markdown pages that files of the repository cite, each with a file that does."""
    found: dict[str, str] = {}
    for folder in ("artifactfs", "docs", ".ci"):
        for path in sorted((CHECKOUT / folder).rglob("*")):
            if path.suffix in (".py", ".md", ".sh", ".toml", ".yaml", ".conf") and path.is_file():
                for name in re.findall(r"\b([\w-]+\.md)\b", path.read_text(encoding="utf-8", errors="replace")):
                    found.setdefault(name, str(path.relative_to(CHECKOUT)))
    return found


def test_every_page_that_is_cited_is_there() -> None:
    """A page that is not in the repository cannot be read by its users."""
    there = {path.name for path in CHECKOUT.glob("*.md")} | {path.name for path in (CHECKOUT / "docs").rglob("*.md")}
    names = cited()
    assert {"pitfalls.md", "model-lab-api.md"} <= set(names)
    assert {name: where for name, where in names.items() if name not in there | FOREIGN} == {}
