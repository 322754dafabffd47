"""The table of commands. The module of a command is imported when that command runs: help and a Tab stay fast.

A new command is a function of its name in a module of this directory, and a row here.
"""

import importlib

import click
from click.shell_completion import CompletionItem

# The name of each command, its module, and the first sentence of its help (a test compares them).
_ROWS = {
    "cache": ("warm_cache", "Show, check or empty the cache of file contents."),
    "completion": ("completion", "Print the completion script for SHELL: bash, zsh or fish."),
    "config": ("config", "Show the settings and their sources."),
    "demo": ("mounts", "Mount a built-in sample at MOUNTPOINT (./demo-mount): no account, no keys, no network."),
    "desktop": ("desktop", "Integrate Model Lab into this user's desktop: file types, a launcher, an icon."),
    "doctor": ("doctor", "Check whether a mount would work here (at MOUNTPOINT), and print the fix of each problem."),
    "info": ("status", "Show the details of a run, project, directory or file in a mount."),
    "mount": ("mounts", "Mount at MOUNTPOINT; returns when the mount is ready."),
    "refresh": (
        "status",
        "Mark the listings of PATH, and of everything below it, stale: the next access asks the service.",
    ),
    "serve": ("mounts", "Serve DIR/<run id>/… as a Model Lab on loopback, with the keys that it prints."),
    "service": ("service_units", "Let systemd mount at log-in: write a user unit, or delete it."),
    "status": ("status", "Show the status of the mount at MOUNTPOINT, or of each of your mounts."),
    "umount": (
        "mounts",
        "End the mount at MOUNTPOINT, lazily where files are open, and wait for the end of its process.",
    ),
    "warm": ("warm_cache", "Fetch trees or files of a mount into the cache ahead of time."),
}


class CommandTable(click.Group):
    """The group of all commands. Its help, and completion of a command's name, import no command."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(_ROWS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in _ROWS:
            return None
        module, _ = _ROWS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"artifactfs.cli.{module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in _ROWS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        names = [CompletionItem(name, help=text) for name, (_, text) in _ROWS.items() if name.startswith(incomplete)]
        # The options; click.Group's own imports every command.
        return names + click.Command.shell_complete(self, ctx, incomplete)
