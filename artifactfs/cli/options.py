"""Options that several commands have: one for each row of the table of settings."""

from collections.abc import Callable
from typing import Any

import click

from artifactfs.settings import CONFIG, PROFILE, SETTINGS, Setting

Command = Callable[..., None]


def setting_options(command: Command, without: frozenset[str] = frozenset()) -> Command:
    """Add an option for each row of the table of settings that is not in `without`.

    A path is plain text here: click's own type looks at it, and a look at a wedged mount never ends.
    """
    for setting in reversed([row for row in SETTINGS if row.flag and row.name not in without]):
        names = [setting.option, *(["-v"] if setting.name == "verbose" else [])]
        keywords: dict[str, Any] = {"help": _help(setting)}
        if setting.metavar is None:
            keywords["is_flag"] = True
        else:
            keywords["metavar"] = setting.metavar
        command = click.option(*names, setting.name, **keywords)(command)
    command = config_options(command)
    return click.option("-o", "options", metavar="OPT,…", multiple=True, help="The same settings, as name=value.")(
        command
    )


def config_options(command: Command) -> Command:
    """Add the options that name the config file and its profile."""
    command = click.option(PROFILE.option, PROFILE.name, metavar=PROFILE.metavar, help=_help(PROFILE))(command)
    return config_file_option(command)


def config_file_option(command: Command) -> Command:
    """Add the option that names the config file."""
    return click.option(CONFIG.option, "config_file", metavar=CONFIG.metavar, help=_help(CONFIG))(command)


def _help(setting: Setting) -> str:
    return f"{setting.help}  [{setting.env[-1]}]"
