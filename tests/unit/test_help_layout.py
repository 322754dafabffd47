"""artifactfs.cli.help_layout: what --help and --help-all show, in which order; -q; and that nothing is cut."""

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from artifactfs.cli import cli, output
from artifactfs.settings import CONFIG, GROUPS, PROFILE, SETTINGS


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """--quiet holds for a process: these tests are one."""
    before = output._quiet
    yield
    output._quiet = before


def run(*arguments: str, columns: int = 200) -> Result:
    result = CliRunner().invoke(
        cli, [*arguments], prog_name="artifactfs", max_content_width=columns, terminal_width=columns
    )
    assert result.exit_code == 0, result.output
    return result


def shown(*arguments: str) -> str:
    return run(*arguments).output


def options_of(text: str) -> list[str]:
    return re.findall(r"(?m)^  (?:-\w, )?(--?[a-z-]+)", text)


def commands(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each command with its words, groups and what is in them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


COMMANDS = dict(commands(cli))


def test_every_setting_has_one_place() -> None:
    """A new setting needs a group in the help."""
    placed = [name for group in GROUPS for name in group.common + group.rare]
    assert sorted(placed) == sorted([row.name for row in SETTINGS if row.flag] + [CONFIG.name, PROFILE.name])


@pytest.mark.parametrize("command", [("mount",), ("demo",), ("doctor",), ("config", "show")])
def test_common_options_first_and_rare_ones_on_demand(command: tuple[str, ...]) -> None:
    """--help fits on a screen; --help-all has every option, below the same headings, and the variables."""
    short, whole = shown(*command, "--help"), shown(*command, "--help-all")
    assert len(short.splitlines()) <= 50
    assert set(options_of(short)) < set(options_of(whole))
    headings = re.findall(r"(?m)^(\S.*):$", whole)
    assert headings[0] == "Options"
    assert headings[1:] == [group.title for group in GROUPS if group.title in headings]
    assert "--listing-ttl DURATION" in short
    assert "--live-ttl" not in short
    assert "env var" not in short
    assert "ARTIFACTFS_LIVE_TTL" in whole
    assert "--help-all" in short
    rare = {f"--{name.replace('_', '-')}" for group in GROUPS for name in group.rare}
    assert not rare & set(options_of(short))
    # `demo` has no service to name, and so no keys.
    assert rare <= set(options_of(whole)) or command == ("demo",)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_command_is_cut(columns: int) -> None:
    """The first sentence of each command's help is whole, however narrow the terminal."""
    found = [words for words, command in COMMANDS.items() if isinstance(command, click.Group)]
    assert found
    for above in ((), *found):
        listed = "".join(run(*above, "--help", columns=columns).output.split())
        for words, command in COMMANDS.items():
            first = " ".join((command.help or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
            assert words[:-1] != above or "".join(f"{words[-1]}{first}".split()) in listed, words


def test_the_first_page() -> None:
    """Commands by their purpose, examples, and where to read on."""
    text = shown("--help")
    headings = re.findall(r"(?m)^(\S.*):$", text)
    assert headings == ["Options", "Mounts", "Contents", "Without an account", "Set-up"]
    assert "artifactfs mount ~/model-lab" in text
    assert "man artifactfs" in text
    assert "https://docs.datadoghq.com/" in text
    assert "unmount" not in text


def test_every_command_is_quiet_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    """-q is in each help; it silences warnings and hints, and no error."""
    for path, command in COMMANDS.items():
        if not isinstance(command, click.Group):
            assert "--quiet" in options_of(shown(*path, "--help")), path
    output.warn("w")
    output.hint("h")
    assert capsys.readouterr().err == "artifactfs: warning: w\nh\n"
    shown("config", "path", "-q")
    output.warn("w")
    output.hint("h")
    output.complain("e")
    assert capsys.readouterr().err == "artifactfs: e\n"


def test_the_alias_of_umount() -> None:
    """`unmount` is `umount`."""
    assert shown("unmount", "--help") == shown("umount", "--help").replace("artifactfs umount", "artifactfs unmount")
