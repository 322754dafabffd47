"""The words that the project does not use, counted in code, documentation and tests (docs/dev/glossary.md)."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PER_THOUSAND = 0.5
# By the word that the field has for it, where it has one.
PUT_AWAY = re.compile(
    r"\b(?:nobody|somebody|anybody|everybody|whoever|who (?:walks|waits|asks|reads)|told|believed?|at hand|anew|of late"
    r"|mend(?:s|ed)?|but for|a content(?!-)|looked after)\b",
    re.IGNORECASE,
)

# A comment or a string of a module. Searched from the start, each begins where none is open, as for `tokenize`, which
# takes ten times as long.
COMMENT_OR_STRING = re.compile(
    r"""
    \#.*
    | "{3} (?: [^"\\] | \\[\s\S] | "(?!"") )* "{3}
    | '{3} (?: [^'\\] | \\[\s\S] | '(?!'') )* '{3}
    | " (?: [^"\\\n] | \\[\s\S] )* "
    | ' (?: [^'\\\n] | \\[\s\S] )* '
    """,
    re.VERBOSE,
)


def prose(path: Path) -> str:
    """Return the comments and strings of a module, or a whole page without its code blocks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.sub(r"```.*?```|`[^`\n]*`", " ", text, flags=re.DOTALL)
    return "\n".join(match[0] for match in COMMENT_OR_STRING.finditer(text))


@pytest.mark.parametrize(
    "places", [("artifactfs/**/*.py", "docs/**/*.md", "*.md"), ("tests/**/*.py",)], ids=["package", "tests"]
)
def test_put_away_words_stay_away(places: tuple[str, ...]) -> None:
    """Below 0.5 in 1,000 words, over code, messages and documentation, and over the tests."""
    found: list[str] = []
    words = 0
    for path in [path for place in places for path in CHECKOUT.glob(place) if path != Path(__file__)]:
        text = prose(path)
        words += len(re.findall(r"\b[a-zA-Z']+\b", text))
        found += [f"{path.relative_to(CHECKOUT)}: {match[0]}" for match in PUT_AWAY.finditer(text)]
    assert 1000 * len(found) / words < PER_THOUSAND, (len(found), words, found[:40])
