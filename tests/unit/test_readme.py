"""The README, and the pages that it leads to, say what is there. A failure shows the lines to put in."""

import importlib.util
import re
from pathlib import Path

import click
import pytest

from artifactfs import cli
from artifactfs.errors import ExitCode

CHECKOUT = Path(__file__).parents[2]
TROUBLE = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def table(page: str, first_line: str) -> list[str]:
    """Return the rows of the table of a page that starts with `first_line`."""
    lines = page.splitlines()
    start = lines.index(first_line) + 2
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return lines[start:end]


def test_every_exit_code_is_explained() -> None:
    found = [int(line.split("|")[1]) for line in table(TROUBLE, "| code | meaning | what to do |")]
    # 130 and 141 are the shell's conventions for Ctrl-C and for a pipe that is closed, not ours.
    assert found == [*sorted(ExitCode), 130, 141]


@pytest.mark.parametrize(("script", "page"), [("layout", "docs/dev/layout.md"), ("status_page", "docs/status.md")])
def test_the_pages_are_as_the_modules_say(script: str, page: str) -> None:
    """`make layout` writes the pages: run it where this fails."""
    spec = importlib.util.spec_from_file_location(script, CHECKOUT / ".ci" / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (CHECKOUT / page).read_text(encoding="utf-8") == module.page()


PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link within the checkout leads to a file that is there, and to a heading that is in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


def test_our_options_beside_those_of_others_are_there() -> None:
    """Each option in our column of docs/coming-from.md is one of `mount` or of `download`."""
    text = (CHECKOUT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    ours = [row.split("|")[2] for row in text.splitlines() if row.startswith("| ")][1:]
    shown = set(re.findall(r"(?<!\S)`?(--?[a-z-]+)", " ".join(ours)))
    commands = [cli.cli.get_command(click.Context(cli.cli), name) for name in ("mount", "download", "refresh")]
    known = {name for command in commands if command for param in command.params for name in param.opts}
    assert shown <= known, shown - known
    assert len(shown) > 15


def test_every_command_of_the_readme_is_there() -> None:
    """Each `artifactfs COMMAND` that the README and the pages show is a command of the program."""
    known = set(cli.cli.list_commands(click.Context(cli.cli)))
    shown = {
        word
        for page in PAGES
        for word in re.findall(
            r"(?:^ {4}(?:\$ )?(?:sudo )?|`)artifactfs ([a-z]+)\b", page.read_text("utf-8"), re.MULTILINE
        )
    }
    assert shown <= known, shown - known
    assert len(shown) > 10
