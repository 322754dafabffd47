"""The table of commands. The module of a command is imported when that command runs: help and a Tab stay fast.

A new command is a function of its name in a module of this directory, and a row here.
"""

import importlib

import click
from click.shell_completion import CompletionItem

from artifactfs.errors import ExitCode, UserError

# By heading: the name of each command, its module, and the first sentence of its help (a test compares them).
_SECTIONS = {
    "Mounts": {
        "mount": ("mounts", "Mount at MOUNTPOINT; returns when the mount is ready."),
        "umount": (
            "mounts",
            "End the mount that PATH is in, also while files are open, and wait for the end of its process.",
        ),
        "status": ("status", "Show the status of the mount at MOUNTPOINT, or of each of your mounts."),
        "refresh": (
            "status",
            "Mark the listings of PATH, and of everything below it, stale: the next access asks the service.",
        ),
        "info": ("status", "Show the details of a run, project, directory or file in a mount."),
    },
    "Contents": {
        "search": ("search", "Show the runs that WORDS choose, without a mount."),
        "download": ("download", "Download runs, directories and files to DIR, without a mount, and without FUSE."),
        "warm": ("warm_cache", "Fetch trees or files of a mount into the cache ahead of time."),
        "pin": (
            "pinning",
            "Keep runs, directories or files of a mount on this disk: fetch and never evict them.",
        ),
        "unpin": ("pinning", "Let the cache evict what was pinned at PATH."),
        "pins": ("pinning", "List what is pinned, and how much of it is here."),
        "cache": ("warm_cache", "Show, check or empty the cache on disk."),
    },
    "Without an account": {
        "demo": ("mounts", "Mount a built-in sample at MOUNTPOINT (./demo-mount): no account, no keys, no network."),
        "serve": ("mounts", "Serve DIR/<run id>/…, or the sample, as a Model Lab on loopback."),
    },
    "Set-up": {
        "login": (
            "login",
            "Ask for the site and the keys of your account, check them with one request, and keep them in the config "
            "file.",
        ),
        "config": ("config", "Show the settings and their sources."),
        "doctor": (
            "doctor",
            "Check whether a mount would work here (at MOUNTPOINT), and print the fix of each problem.",
        ),
        "service": ("service_units", "Let systemd mount at log-in: write a user unit, or delete it."),
        "desktop": ("desktop", "Integrate Model Lab into this user's desktop: file types, a launcher, an icon."),
        "completion": ("completion", "Print the completion script for SHELL: bash, zsh or fish."),
    },
}
_ROWS = {name: row for rows in _SECTIONS.values() for name, row in rows.items()}
# Other names of commands, not listed.
_ALIASES = {"unmount": "umount"}


class CommandTable(click.Group):
    """The group of all commands. Its help, and completion of a command's name, import no command."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(_ROWS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        name = _ALIASES.get(cmd_name, cmd_name)
        if name not in _ROWS:
            return None
        module, _ = _ROWS[name]
        command: click.Command = getattr(importlib.import_module(f"artifactfs.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _ROWS | _ALIASES and not ctx.resilient_parsing:
            from artifactfs.settings.suggestions import nearest

            if (meant := nearest(args[0], _ROWS | _ALIASES)) is not None:
                raise UserError(ExitCode.USAGE, f"No such command {args[0]!r}", f"did you mean {meant}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        for heading, rows in _SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, sentence) for name, (_, sentence) in rows.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        names = [CompletionItem(name, help=text) for name, (_, text) in _ROWS.items() if name.startswith(incomplete)]
        # The options; click.Group's own imports every command.
        return names + click.Command.shell_complete(self, ctx, incomplete)
