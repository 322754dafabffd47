"""The README's tables say what the code does. A failure shows the lines to put in."""

import re
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from artifactfs.settings import SETTINGS, Setting

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def row(setting: Setting) -> str:
    """Return a setting's line in the table of options."""
    if not setting.flag:
        option = f"`{setting.name}`"
    elif setting.metavar is None:
        option = f"`{setting.option}`"
    else:
        # A bar ends a cell, between backticks too.
        option = f"`{setting.option} {setting.metavar}`".replace("|", r"\|")
    if setting.name == "verbose":
        option = f"`-v`, {option}"
    variables = ", ".join(f"`{name}`" for name in setting.env)
    return f"| {option} | {variables} | {setting.help} |"


def table(first_line: str) -> list[str]:
    """Return the rows of the table that starts with `first_line`."""
    lines = README.splitlines()
    start = lines.index(first_line) + 2
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return lines[start:end]


def test_every_setting_has_its_row() -> None:
    assert table("| option | environment | |") == [row(setting) for setting in SETTINGS]


def test_every_exit_code_is_explained() -> None:
    found = [int(line.split("|")[1]) for line in table("| code | meaning | what to do |")]
    # 130 is the shell's convention for Ctrl-C, not one of ours.
    assert found == [*sorted(ExitCode), 130]


def test_every_room_is_in_the_picture() -> None:
    picture = README[README.index("    artifactfs/\n") : README.index("    tests/\n")]
    drawn = set(re.findall(r"^ {6}(\w+(?:\.py|/))", picture, re.MULTILINE))
    package = CHECKOUT / "artifactfs"
    there = {path.name for path in package.glob("*.py")} | {
        f"{path.parent.name}/" for path in package.glob("*/__init__.py")
    }
    assert drawn == there


@pytest.mark.parametrize(
    "room", ["cli", "desktop", "doctor", "settings", "logs", "modellab", "tree", "content", "fuse", "mount"]
)
def test_every_module_of_a_room_is_in_the_picture(room: str) -> None:
    picture = README[README.index(f"      {room}/") :]
    drawn = re.match(r".*\n((?: {8}.*\n)+)", picture)
    assert drawn is not None
    there = {path.name for path in (CHECKOUT / "artifactfs" / room).glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^ {8}(\w+\.py)", drawn[1], re.MULTILINE)) == there
