"""Explains every setting for `artifactfs config show`: its value and its source.

A secret is shown as "set" only. No command is run.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.settings.keys import InFile
from artifactfs.settings.loading import fill_in
from artifactfs.settings.schema import KEY_FORMS, KEYS, SETTINGS, Setting
from artifactfs.settings.sources import Sources, collect_layers, key_source, parse_value
from artifactfs.util.humanize import format_duration, format_size
from artifactfs.util.urls import without_password

_SET = "set"
# The sources of defaults that are no constants.
_DEFAULTS = {"api_url": "the site", "uid": "the user", "gid": "the user", "log_file": "the mount point"}


@dataclass(frozen=True)
class Shown:
    """One setting. `value`: safe to show; `text`: the value as users write it. `source`: where the value comes from.

    `problem`: why the value is invalid, None for a valid one. `used`: False for a key that no request carries.
    """

    name: str
    value: str | int | float | bool | None
    text: str
    source: str
    problem: str | None = None
    used: bool = True


@dataclass(frozen=True)
class Explanation:
    """All settings and their sources. `problem`: the first error, with which `mount` would exit."""

    config_file: str
    config_exists: bool
    profile: str | None
    profile_source: str | None
    profiles: tuple[str, ...]
    settings: tuple[Shown, ...]
    warnings: tuple[Notice, ...]
    problem: UserError | None

    @property
    def code(self) -> ExitCode:
        return self.problem.code if self.problem is not None else ExitCode.OK


def explain(
    flags: Mapping[str, str | bool | None],
    *,
    options: str = "",
    config_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Explanation:
    """Return the settings that `load` would use with the same arguments, invalid values included.

    Raises UserError where the sources themselves cannot be read: the config file, an unknown name or profile.
    """
    sources = collect_layers(flags, options=options, config_file=config_file, environ=environ)
    values: dict[str, object] = {}
    broken: dict[str, UserError] = {}
    for setting in SETTINGS:
        given = sources.find(setting.name)
        try:
            values[setting.name] = parse_value(setting, given) if given is not None else setting.default
        except UserError as error:
            broken[setting.name] = error
    fill_in(values)
    used, unreadable = _keys(sources, environ)
    shown = []
    for setting in SETTINGS:
        given, value = sources.find(setting.name), values.get(setting.name)
        problem = broken.get(setting.name) or (unreadable.get(given.place) if given is not None else None)
        if problem is not None:
            broken[setting.name] = problem
        shown.append(
            Shown(
                setting.name,
                _plain(setting, value),
                "?" if problem is not None else _text(setting, value),
                given.source if given is not None else _DEFAULTS.get(setting.name, "default"),
                problem.without_subject if problem is not None else None,
                used=setting.name not in KEY_FORMS or given is None or used is None or given.place in used,
            )
        )
    first = next((broken[setting.name] for setting in SETTINGS if setting.name in broken), None)
    return Explanation(
        config_file=sources.config.path,
        config_exists=sources.config.exists,
        profile=sources.profile,
        profile_source=sources.profile_source,
        profiles=tuple(sorted(sources.config.profiles)),
        settings=tuple(shown),
        warnings=sources.warnings,
        problem=first,
    )


def _keys(sources: Sources, environ: Mapping[str, str]) -> tuple[frozenset[str] | None, dict[str, UserError]]:
    """Return the places of the keys that a mount would use (None: unknown), and the error of each unusable key."""
    wrong: dict[str, UserError] = {}
    try:
        keys = key_source(sources, environ)
    except UserError as error:
        return None, {error.subject: error}
    origins = (keys.access_token,) if keys.access_token is not None else (keys.api_key, keys.app_key)
    for origin in origins:
        # A pipe is left to the mount, as it can be read only once.
        if isinstance(origin, InFile) and (os.path.isfile(origin.path) or not os.path.exists(origin.path)):
            try:
                origin.open()
            except UserError as error:
                wrong[error.subject] = error
    return frozenset(origin.source for origin in origins if origin is not None), wrong


def _plain(setting: Setting, value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value if setting.name != "umask" else _text(setting, value)
    return _text(setting, value)


def _text(setting: Setting, value: object) -> str:
    if value is None:
        return "-"
    if setting.name in KEYS or setting.name.endswith("_command"):
        return _SET  # a command may hold a secret, too
    if setting.name == "proxy":
        return without_password(str(value))
    if isinstance(value, bool):
        return str(value).lower()
    if setting.metavar == "SIZE" and isinstance(value, int):
        return format_size(value)
    if setting.metavar == "S" and isinstance(value, float):
        return format_duration(value)
    if setting.name == "umask" and isinstance(value, int):
        return f"{value:03o}"
    return str(value)
