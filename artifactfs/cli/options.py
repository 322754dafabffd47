"""Options that several commands have, one for each row of the table of settings; the words that run artifactfs."""

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from artifactfs import settings
from artifactfs.cli import help_layout, output
from artifactfs.cli.completion import DIRECTORY, FILE, PROFILE_NAME, one_of
from artifactfs.settings import BY_NAME, CONFIG, GROUPS, KEY_FORMS, PROFILE, SELECTORS, Arguments, Setting
from artifactfs.util.humanize import parse_duration
from artifactfs.util.urls import SITES

if TYPE_CHECKING:
    from artifactfs.settings import Settings

Command = Callable[..., None]

# By the setting's name, or else its metavar.
_TYPES = {PROFILE.name: PROFILE_NAME, "SITE": one_of(*SITES), "DIR": DIRECTORY, "FILE": FILE}


class _SettingOption(help_layout.Option):
    """The option of a setting. Its help names the variables; only the settings read them (settings/sources.py)."""

    def resolve_envvar_value(self, ctx: click.Context) -> None:  # noqa: ARG002 - click's
        return None

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the row of the help; where the option has a group, --help-all alone names the variables."""
        self.show_envvar = self.group == "Options" or help_layout.shows_all(ctx)
        return super().get_help_record(ctx)


class Duration(click.types.StringParamType):
    """A time in seconds, from `least_s` to `most_s`, as users write it: 90, 5m."""

    name = "DURATION"

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not self._least_s <= seconds <= self._most_s:
            self.fail(f"{value!r} is not between {self._least_s:g} s and {self._most_s:g} s", param, ctx)
        return seconds


def setting_options(command: Command, without: frozenset[str] = frozenset()) -> Command:
    """Add an option for each row of the table of settings that is not in `without`, in the groups of the help.

    The command gets all of them as one argument, `given`.
    """
    places = {name: group for group in reversed(GROUPS) for name in reversed(group.common + group.rare)}
    shown = [name for name in places if name not in without]

    @functools.wraps(command)
    def run(options: tuple[str, ...], config_file: str | None, **arguments: Any) -> None:
        flags = {name: arguments.pop(name) for name in shown if name != CONFIG.name}
        command(given=Arguments(flags=flags, options=",".join(options), config_file=config_file), **arguments)

    decorated: Command = run
    for name in shown:
        setting, group = (BY_NAME | SELECTORS)[name], places[name]
        parameter = "config_file" if setting is CONFIG else None
        decorated = setting_option(setting, parameter, group=group.title, rare=name in group.rare)(decorated)
    return click.option(
        "-o", "options", cls=help_layout.Option, rare=True, metavar="OPT,…", multiple=True,
        help="The same settings, as name=value.",
    )(decorated)  # fmt: skip


def service_options(command: Command) -> Command:
    """Add the options of the service, for a command without a mount. All other settings come from other sources."""
    its_own = KEY_FORMS | {"site", "api_url", "proxy", "ca_file", "deadline"}
    return setting_options(command, without=frozenset(BY_NAME) - its_own)


def load_for_service(given: Arguments) -> "Settings":
    """Return the settings of a command without a mount, whose keys leave the environment. Prints their warnings."""
    loaded = settings.load(**given)
    settings.drop_keys()
    for notice in loaded.warnings:
        output.warn(str(notice))
    return loaded


def config_options(command: Command) -> Command:
    """Add the options that name the config file and its profile."""
    return config_file_option(setting_option(PROFILE)(command))


def config_file_option(command: Command) -> Command:
    """Add the option that names the config file."""
    return setting_option(CONFIG, "config_file")(command)


def setting_option(setting: Setting, parameter: str | None = None, **attrs: Any) -> Callable[[Command], Command]:
    """Return a decorator that adds the option of a setting. Its value stays text: the settings parse it."""
    names = [setting.option, *(["-v"] if setting.name == "verbose" else []), parameter or setting.name]
    if setting.bare is not None:
        attrs |= {"is_flag": True, "flag_value": setting.bare}
    elif setting.metavar is not None:
        attrs["metavar"] = setting.metavar
        words = setting.metavar.split("|")
        attrs["type"] = one_of(*words) if len(words) > 1 else _TYPES.get(setting.name) or _TYPES.get(setting.metavar)
    attrs |= {"help": setting.help, "envvar": list(setting.env)}
    return click.option(*names, cls=_SettingOption, **attrs)


def program() -> tuple[str, ...]:
    """Return the words that run artifactfs: the script beside this Python, which need not be on PATH."""
    script = os.path.join(os.path.dirname(sys.executable), "artifactfs")
    return (script,) if os.access(script, os.X_OK) else (sys.executable, "-m", "artifactfs")
