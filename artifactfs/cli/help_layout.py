"""The layout of help, for all commands: options and commands in groups, the common ones first, and nothing cut.

Rare options are shown by `--help-all`, which a command has if it takes any. Every command takes `--quiet`.
"""

from collections.abc import Callable
from typing import Any

import click

from artifactfs.cli import output

# Characters: no first sentence of a help text is as long, so click cuts none. It wraps them.
_WHOLE = 1000
_ALL = "artifactfs.help_all"


class Option(click.Option):
    """An option with a place in the help. `group`: its heading; `rare`: shown by --help-all alone."""

    def __init__(self, *names: Any, group: str = "Options", rare: bool = False, **attrs: Any) -> None:
        super().__init__(*names, **attrs)
        self.group = group
        self.rare = rare


def shows_all(context: click.Context) -> bool:
    """Return whether the help has all options, with everything that is known of them."""
    return bool(context.meta.get(_ALL))


def _show_all(context: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.meta[_ALL] = True
        output.exact(context.get_help())
        context.exit()


def _be_quiet(_context: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        output.be_quiet()


_QUIET = click.Option(
    ["-q", "--quiet"], is_flag=True, is_eager=True, expose_value=False, callback=_be_quiet,
    help="Print no warnings, hints and progress bars.",
)  # fmt: skip
_HELP_ALL = click.Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all,
    help="Show all options, and the variables that stand for them.",
)  # fmt: skip


class Command(click.Command):
    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options and arguments, and the options of every command."""
        own = super().get_params(ctx)
        has_rare = any(isinstance(param, Option) and param.rare for param in own)
        return [*own[:-1], _QUIET, *([_HELP_ALL] if has_rare else []), *own[-1:]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options below the headings of their groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            group, rare = (param.group, param.rare) if isinstance(param, Option) else ("Options", False)
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None and (not rare or shows_all(ctx)):
                groups.setdefault(group, []).append(record)
        for group in sorted(groups, key=lambda group: group != "Options"):
            with formatter.section(group):
                formatter.write_dl(groups[group])


class CommandGroup(click.Group):
    """A group of commands, such as `config`. The group of all commands is in command_table.py."""

    command_class = Command
    group_class = type

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, each with the whole first sentence of its help."""
        found = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))}
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(_WHOLE)) for name, command in found.items()])


def command() -> Callable[[Callable[..., Any]], Command]:
    """Return the decorator of a command."""
    return click.command(cls=Command)


def group() -> Callable[[Callable[..., Any]], CommandGroup]:
    """Return the decorator of a group of commands."""
    return click.group(cls=CommandGroup)
