"""The modules that a command imports: help, the version and the Tab key are fast, and `mount` forks without threads."""

import ast
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from artifactfs import settings
from artifactfs.cli import cli

# No client, no event loop, no FUSE: what is imported after the fork of a mount.
OF_A_MOUNT = {"httpx", "httpcore", "trio", "pyfuse3", "ssl", "asyncio"}
# What only a command that runs needs, or no command at all.
LATE = OF_A_MOUNT | {
    "msgspec", "logging", "hashlib", "tomllib", "importlib.metadata", "importlib.resources",
    "urllib.request", "email", "concurrent.futures", "artifactfs.settings.sources",
}  # fmt: skip
COMMANDS = ("mounts", "status", "config", "warm_cache", "pinning", "service_units", "completion", "doctor", "desktop")


def imported(code: str, **env: str) -> set[str]:
    """Return the modules of a Python after `code`, whether that returns or exits."""
    listing = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True, env={**os.environ, **env}
    )
    found = set(done.stderr.split())
    assert "artifactfs" in found
    return found


def run(*arguments: str) -> str:
    """Return code that runs `artifactfs` with these arguments, except for its last step: that ends the process."""
    return f"from artifactfs import cli; sys.argv[1:] = {list(arguments)}; cli.begin(); assert cli._run() == 0"


def tab(words: str) -> dict[str, str]:
    """Return the environment in which a Tab after these words asks for completions."""
    return {"_ARTIFACTFS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}


@pytest.mark.parametrize(
    ("arguments", "env"), [("--version", {}), ("--help", {}), ("", tab("artifactfs "))], ids=["version", "help", "Tab"]
)
def test_a_list_of_commands_imports_none(arguments: str, env: dict[str, str]) -> None:
    """The table has what is shown of them."""
    found = imported(run(*arguments.split()), **env)
    assert found & (LATE | {f"artifactfs.cli.{module}" for module in COMMANDS}) == set()


def paths(group: click.Group, context: click.Context) -> list[list[str]]:
    """Return the words of each command and subcommand."""
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = paths(command, context) if isinstance(command, click.Group) else []
        found += [[name], *([name, *words] for words in inner)]
    return found


def test_the_help_of_a_command_imports_only_its_options() -> None:
    """All of them in one process; what a command runs, its function imports."""
    all_paths = paths(cli, click.Context(cli))
    assert ["cache", "info"] in all_paths
    runs = f"[cli.main([*words, '--help'], standalone_mode=False) for words in {all_paths}]"
    found = imported(f"from artifactfs.cli import cli; {runs}")
    assert {f"artifactfs.cli.{module}" for module in COMMANDS} <= found
    assert found & LATE == set()


@pytest.mark.parametrize("words", ["artifactfs mount --", "artifactfs umount ", "artifactfs config show --pro"])
def test_a_key_press_imports_no_service(words: str) -> None:
    """Also where live mounts or profiles are looked for."""
    assert imported(run(), **tab(words)) & (OF_A_MOUNT | {"msgspec"}) == set()


@pytest.mark.parametrize(
    "modules", ["artifactfs.cli.starting", "artifactfs.cli.render, artifactfs.mount.control_client"]
)
def test_before_the_fork_and_for_a_status_there_is_no_service(modules: str) -> None:
    """A mount forks without threads, and a status is read from a file."""
    assert imported(f"import {modules}") & OF_A_MOUNT == set()


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


def test_each_name_of_the_settings_has_a_module() -> None:
    """The table of modules, which counts when they run, has the names that type checkers see, and no others."""
    assert settings.__file__ is not None
    imports = [
        node for node in ast.walk(ast.parse(Path(settings.__file__).read_text())) if isinstance(node, ast.ImportFrom)
    ]
    seen = {name.name: str(node.module) for node in imports for name in node.names if node.module != "typing"}
    table = {name: f"artifactfs.settings.{module}" for name, module in vars(settings)["_MODULES"].items()}
    assert seen == table
    assert all(getattr(settings, name) is not None for name in table)


def test_ctrl_c_while_the_program_is_imported() -> None:
    """A slow machine takes a while for that: the process ends as Ctrl-C ends it, and nothing is printed."""
    code = """if True:
        import os, signal, sys
        class Typing:
            def find_spec(self, name, *_):
                if name == "artifactfs.cli":
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Typing())
        from artifactfs.__main__ import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_the_pace_of_the_garbage_collector() -> None:
    """A command collects rarely; what lives long does so at Python's own pace, and not what it started with."""
    code = "import gc; from artifactfs.util import garbage; garbage.collect_rarely(); print(*gc.get_threshold()); "
    code += "garbage.settle(); print(*gc.get_threshold()); print(gc.get_freeze_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rarely, own, frozen = done.stdout.splitlines()
    assert int(rarely.split()[0]) > 100 * gc.get_threshold()[0]
    assert own == " ".join(map(str, gc.get_threshold()))
    assert int(frozen) > 1000
