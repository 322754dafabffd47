"""The man pages: up to date, complete, and as man(1) likes them. `make man` builds them."""

import importlib.util
import os
import re
import subprocess
import types
from pathlib import Path

import click
import pytest

from artifactfs.cli import cli
from artifactfs.errors import ExitCode
from artifactfs.settings import SETTINGS

CHECKOUT = Path(__file__).parents[2]
PAGES = ["artifactfs.1", "mount.artifactfs.8"]


def generator() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("man", CHECKOUT / ".ci" / "man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAN = generator()


def shown(page: Path | str) -> str:
    """Return a page as a terminal of 80 columns shows it, without bold and underlining; man must not complain."""
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "GROFF_NO_SGR": "1"}
    command = ["man", "--warnings", "-E", "UTF-8", "-l", str(page)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return re.sub(r".\x08", "", done.stdout)


def warnings(text: str, device: str = "utf8") -> str:
    """Return what groff has to say against a page, for a terminal that shows UTF-8, or `ascii` alone."""
    command = ["groff", "-ww", "-man", "-T", device, "-z"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stderr


def leaves(group: click.Group, above: str) -> list[str]:
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += leaves(command, f"{above} {name}")
        elif not command.hidden:
            found.append(f"{above} {name}")
    return found


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_up_to_date(name: str) -> None:
    """Who changes a command, a setting or an exit code runs `make man`."""
    assert (CHECKOUT / "docs" / name).read_text(encoding="ascii") == MAN.pages()[name], "run `make man`"


@pytest.mark.parametrize("name", PAGES)
def test_groff_and_man_are_content(name: str) -> None:
    """Neither warns; and they would."""
    text = (CHECKOUT / "docs" / name).read_text(encoding="ascii")
    assert warnings(text) == ""
    assert warnings(text, "ascii") == ""
    assert "macro" in warnings(text + ".NOSUCH x\n")
    # A line of fstab must not be broken.
    lines = [line for line in shown(CHECKOUT / "docs" / name).splitlines() if "_netdev," not in line]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("page", [*(f"docs/{name}" for name in PAGES), "README.md"])
def test_a_line_of_fstab_lets_in_one_user(page: str) -> None:
    """What is copied as it stands shows nothing that only the keys may see."""
    text = shown(CHECKOUT / page) if page.endswith(("1", "8")) else (CHECKOUT / page).read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if "_netdev,nofail,allow_other" in line]
    assert found
    assert all(re.search(r",uid=[^,]+,gid=[^,]+,umask=077[, ]", line) for line in found)


def test_nothing_is_left_out() -> None:
    """Every command has a heading, every setting, exit code and example is shown as it is typed."""
    page = shown(CHECKOUT / "docs" / "artifactfs.1")
    for command in leaves(cli, "artifactfs"):
        assert re.search(rf"(?m)^   {re.escape(command)} ", page), command
    for setting in SETTINGS:
        assert re.search(rf"(?m)^       (-v, )?{setting.option if setting.flag else setting.name}\b", page), (
            setting.name
        )
        assert all(re.search(rf"\b{name}\b", page) for name in setting.env)
    for code in ExitCode:
        assert re.search(rf"(?m)^       {code:d}  +\S", page), code
    assert "mkdir -p ~/model-lab\n" in page
    assert "~/.config/artifactfs/config.toml\n" in page
    assert all(name in page for name in ("XDG_STATE_HOME", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "JOURNAL_STREAM"))
    assert page.count("-h, --help") == page.count("-V, --version") == 1
    assert "-o OPT," in page


def test_no_mark_up_is_left() -> None:
    """What is bold or in italics in the texts is so on the page, and no sign of that is."""
    page = shown(CHECKOUT / "docs" / "artifactfs.1")
    assert not re.search(r"`|\\f|\*\*|(?<!\w)_[a-zA-Z]+_(?!\w)", page)


def test_nested_groups_and_awkward_texts() -> None:
    """A command in a group in a group, and texts that mean something to roff, are shown as they are."""

    @click.group()
    def top() -> None:
        """Not shown: groups have no page."""

    @top.group()
    def inner() -> None:
        """Neither."""

    @inner.command()
    @click.argument("what", required=False)
    @click.option("--how", "-h", type=click.Choice(["a-b", "c"]), help=".starts with a period, has \\n, 'x' and --y")
    @click.option("--many", type=int, multiple=True)
    @click.option("--secret", hidden=True)
    def leaf(what: str, how: str, many: int, secret: str) -> None:
        """Do `it`.

        \b
        .keeps
          its lines
        """

    contexts = list(MAN._commands(top, click.Context(top, info_name="top")))
    assert [context.command_path for context in contexts] == ["top inner leaf"]
    text = MAN._heading(1) + "\n.SH X\n" + "\n".join(MAN._command(contexts[0])) + "\n"
    assert warnings(text) == ""
    assert warnings(text, "ascii") == ""
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou"], input=text, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert "top inner leaf [options] [what]\n" in done.stdout
    assert "--how, -h [a-b|c]\n" in done.stdout
    assert ".starts with a period, has \\n, 'x' and --y\n" in done.stdout
    assert re.search(r"\n +\.keeps\n +its lines\n", done.stdout)
    assert "secret" not in done.stdout
