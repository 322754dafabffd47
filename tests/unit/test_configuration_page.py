"""docs/configuration.md: its tables are those of the code, and its examples are what the code takes."""

import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.settings import CONFIG, PROFILE, SETTINGS, Setting
from artifactfs.settings.schema import KEYS
from artifactfs.util.urls import SITES

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
HEAD = "| setting | option | environment | |\n|---|---|---|---|\n"


def row(setting: Setting) -> str:
    """Return a setting's line in the page's table."""
    option = "" if not setting.flag else setting.option + (f" {setting.metavar}" if setting.bare is None else "")
    # A bar ends a cell, between backticks too.
    shown = f"`{option}`".replace("|", r"\|") if option else ""
    return f"| `{setting.name}` | {shown} | {', '.join(f'`{name}`' for name in setting.env)} | {setting.help} |\n"


def table(rows: tuple[Setting, ...]) -> str:
    return HEAD + "".join(map(row, rows)) + "\n"


def test_every_setting_is_in_the_table() -> None:
    """The tables are made of the code's: type what this prints into the page where they differ."""
    assert table(SETTINGS) in PAGE
    assert table((CONFIG, PROFILE)) in PAGE


def test_every_site_is_named() -> None:
    """The page has the sites that `--site` knows, in their order."""
    listed = re.search(r"(?m)^Sites: ((?:.*\n)+?)\n", PAGE)
    assert listed is not None
    assert tuple(re.findall(r"`([a-z0-9.-]+\.[a-z]+)`", listed[1])) == SITES


def test_there_are_examples() -> None:
    """The tests below look at something."""
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_are_valid(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a config file that is taken, with each of its profiles; the programs need not be here."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "config.toml"
    file.write_text(example)
    file.chmod(0o600)
    raw = tomllib.loads(example)
    for profile in (None, *raw.get("profiles", {})):
        found = settings.load({"profile": profile}, config_file=str(file), environ={}, need_keys=False)
        assert found.profile == (profile or raw.get("profile"))
        shown = settings.explain({"profile": profile}, config_file=str(file), environ={})
        wrong = {one.name: one.problem for one in shown.settings if one.problem is not None}
        assert all("not found" in said or "No such file" in said for said in wrong.values()), wrong


def test_the_examples_of_commands_are_split_right() -> None:
    """No word of them is one that only a shell would make something of."""
    profiles = [profile for example in EXAMPLES for profile in tomllib.loads(example).get("profiles", {}).values()]
    commands = [value for profile in profiles for name, value in profile.items() if name.endswith("_command")]
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command) if isinstance(command, str) else command
        assert not any(re.search(r"[$|*<>`;&]", word) for word in words), command


def test_the_shell_example() -> None:
    """`config show`'s lines in the page look like those that it prints."""
    environ = {"ARTIFACTFS_LISTING_TTL": "5m", "PATH": os.environ["PATH"]}
    shown = {one.name: one for one in settings.explain({"site": "datadoghq.eu"}, environ=environ).settings}
    line = next(line for line in PAGE.splitlines() if line.startswith("    listing_ttl  "))
    assert line.split() == ["listing_ttl", shown["listing_ttl"].text, shown["listing_ttl"].source]
    line = next(line for line in PAGE.splitlines() if line.startswith("    api_url  "))
    assert line.split(maxsplit=2) == ["api_url", shown["api_url"].text, shown["api_url"].source]


@pytest.mark.parametrize("key", KEYS)
def test_every_way_to_a_key_is_named(key: str) -> None:
    """What the page says of one key is true of all three."""
    forms = {row.name: row for row in SETTINGS if row.name.startswith(key)}
    assert set(forms) == {key, f"{key}_file", f"{key}_command"}
    assert not forms[key].flag
    assert forms[f"{key}_file"].flag
    assert forms[f"{key}_command"].flag
