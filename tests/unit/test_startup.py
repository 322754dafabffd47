"""The modules that a command imports: help, the version and the Tab key are fast, and `mount` forks without threads."""

import os
import subprocess
import sys

import click
import pytest

from artifactfs.cli import cli

LATE = {"httpx", "trio", "pyfuse3", "ssl", "asyncio"}


def imported(*arguments: str, **env: str) -> set[str]:
    """Return the modules that `artifactfs` imports with these arguments."""
    command = [sys.executable, "-X", "importtime", "-m", "artifactfs", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **env})
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def tab(words: str) -> dict[str, str]:
    """Return the environment in which a Tab after these words asks for completions."""
    return {"_ARTIFACTFS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}


@pytest.mark.parametrize("env", [{}, tab("artifactfs ")], ids=["--help", "Tab"])
def test_a_list_of_commands_imports_none(env: dict[str, str]) -> None:
    """The table has what is shown of them."""
    found = imported(*([] if env else ["--help"]), **env)
    assert "artifactfs.cli.command_table" in found
    assert found & {"artifactfs.cli.mounts", "artifactfs.cli.status", "artifactfs.cli.config"} == set()


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("mount", "--help"), ("completion", "bash")], ids=str
)
def test_what_prints_only_imports_no_service(arguments: tuple[str, ...]) -> None:
    """No client, no event loop, no FUSE."""
    found = imported(*arguments)
    assert "artifactfs.cli" in found
    assert found & LATE == set()


def test_a_key_press_imports_no_service() -> None:
    """Tab after `umount`, which looks for live mounts."""
    found = imported(**tab("artifactfs umount "))
    assert "artifactfs.mount.mount_table" in found
    assert found & LATE == set()


def test_the_table_has_the_first_sentence_of_each_command() -> None:
    """What `artifactfs --help` says of a command is what the command says of itself."""
    context = click.Context(cli)
    rows = cli.shell_complete(context, "")
    assert [row.value for row in rows] == cli.list_commands(context)
    for row in rows:
        command = cli.get_command(context, row.value)
        assert command is not None
        assert command.name == row.value
        assert row.help
        assert " ".join((command.help or "").split()).startswith(row.help)
