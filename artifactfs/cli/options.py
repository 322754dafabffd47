"""Options that several commands have, one for each row of the table of settings; the words that run artifactfs."""

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from artifactfs.cli.completion import DIRECTORY, FILE, PROFILE_NAME, one_of
from artifactfs.settings import BY_NAME, CONFIG, PROFILE, SETTINGS, Setting
from artifactfs.util.urls import SITES

Command = Callable[..., None]

_TYPES = {"SITE": one_of(*SITES), "DIR": DIRECTORY, "FILE": FILE}


class _SettingOption(click.Option):
    """The option of a setting. Its help names the variables; only the settings read them (settings/sources.py)."""

    def resolve_envvar_value(self, ctx: click.Context) -> None:  # noqa: ARG002 - click's
        return None


def setting_options(command: Command, without: frozenset[str] = frozenset()) -> Command:
    """Add an option for each row of the table of settings that is not in `without`."""
    for setting in reversed([row for row in SETTINGS if row.flag and row.name not in without]):
        command = setting_option(setting)(command)
    command = config_options(command)
    return click.option("-o", "options", metavar="OPT,…", multiple=True, help="The same settings, as name=value.")(
        command
    )


def config_options(command: Command) -> Command:
    """Add the options that name the config file and its profile."""
    return config_file_option(setting_option(PROFILE, type=PROFILE_NAME)(command))


def config_file_option(command: Command) -> Command:
    """Add the option that names the config file."""
    return setting_option(CONFIG, "config_file")(command)


def cache_dir_option(command: Command) -> Command:
    """Add the options that a command on the cache needs."""
    return config_options(setting_option(BY_NAME["cache_dir"])(command))


def setting_option(setting: Setting, parameter: str | None = None, **attrs: Any) -> Callable[[Command], Command]:
    """Return a decorator that adds the option of a setting. Its value stays text: the settings parse it."""
    names = [setting.option, *(["-v"] if setting.name == "verbose" else []), parameter or setting.name]
    if setting.metavar is None:
        attrs["is_flag"] = True
    else:
        attrs["metavar"] = setting.metavar
        known = one_of(*setting.metavar.split("|")) if "|" in setting.metavar else _TYPES.get(setting.metavar)
        attrs.setdefault("type", known)
    attrs |= {"help": setting.help, "envvar": list(setting.env), "show_envvar": True}
    return click.option(*names, cls=_SettingOption, **attrs)


def program() -> tuple[str, ...]:
    """Return the words that run artifactfs: the script beside this Python, which need not be on PATH."""
    script = os.path.join(os.path.dirname(sys.executable), "artifactfs")
    return (script,) if os.access(script, os.X_OK) else (sys.executable, "-m", "artifactfs")
