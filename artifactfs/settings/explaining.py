"""Explains every setting for `artifactfs config show`: its value and its source.

A secret is shown as "set" only. No command is run.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from artifactfs.errors import Notice, UserError
from artifactfs.settings import parsers
from artifactfs.settings.keys import InFile
from artifactfs.settings.schema import KEY_FORMS, SETTINGS, Setting
from artifactfs.settings.sources import Sources, collect


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
    sources = collect(flags, options=options, config_file=config_file, environ=environ)
    values, errors = sources.resolve(SETTINGS)
    errors = _key_errors(sources) | errors
    used = {given.name for given in sources.used_keys().values()}
    shown = []
    for setting in SETTINGS:
        given, value, error = sources.find(setting.name), values.get(setting.name), errors.get(setting.name)
        text = "-" if value is None else setting.show(value)
        shown.append(
            Shown(
                setting.name,
                value if value is None or _is_plain(setting, value) else text,
                text if error is None else "?",
                given.source if given is not None else setting.default_source,
                error.without_subject if error is not None else None,
                used=given is None or setting.name not in KEY_FORMS or setting.name in used,
            )
        )
    return Explanation(
        config_file=sources.config.path,
        config_exists=sources.config.exists,
        profile=sources.profile.text if sources.profile is not None else None,
        profile_source=sources.profile.source if sources.profile is not None else None,
        profiles=tuple(sorted(sources.config.profiles)),
        settings=tuple(shown),
        warnings=tuple(sources.warnings()),
        problem=next((errors[setting.name] for setting in SETTINGS if setting.name in errors), None),
    )


def _key_errors(sources: Sources) -> dict[str, UserError]:
    """Return the error of each unusable key that `load` would read, by the name of its setting."""
    errors = {}
    for given in sources.chosen_keys().values():
        try:
            origin = sources.origin(given)
            # A pipe is left to the mount, as it can be read only once.
            if isinstance(origin, InFile) and (os.path.isfile(origin.path) or not os.path.exists(origin.path)):
                origin.first()
        except UserError as error:
            errors[given.name] = error
    return errors


def _is_plain(setting: Setting, value: object) -> bool:
    """Whether JSON has the value itself; an octal number is text."""
    return isinstance(value, bool | int | float) and setting.parse is not parsers.octal
