"""Write the table of counters in docs/status.md, from the registry (artifactfs/control/counters.py)."""

import re
from pathlib import Path

from artifactfs.control.counters import COUNTERS, Counter

PAGE = Path(__file__).parents[1] / "docs" / "status.md"
_TABLE = re.compile(r"(?s)(?<=<!-- made by `make layout` -->\n\n).*?(?=\n\n<!-- end -->)")


def page() -> str:
    """Return the page as it should be."""
    rows = ["| status.json | `metrics` | |", "|---|---|---|"]
    rows += [f"| {_code(row.path)} | {_metric(row)} | {row.help} |" for row in COUNTERS]
    return _TABLE.sub(lambda _: "\n".join(rows), PAGE.read_text(encoding="utf-8"))


def _metric(row: Counter) -> str:
    name, _, value = row.labels.partition("=")
    labels = f'{name}="{value}"' if value else name.replace(",", ", ")
    return _code(row.family + (f"{{{labels}}}" if labels else "")) if row.kind else ""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
