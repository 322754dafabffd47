"""`artifactfs config show`: every setting, what it comes to, and who said so.

Owns the showing of values. A secret is shown as "set" and nothing else; no command is run to find out.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings.keys import InFile
from artifactfs.settings.loading import fill_in
from artifactfs.settings.schema import KEY_FORMS, KEYS, SETTINGS, Setting
from artifactfs.settings.sources import Sources, gather, key_source, parsed
from artifactfs.util.humanize import format_duration, format_size
from artifactfs.util.urls import without_password

_SET = "set"
# Where defaults come from that are no constants.
_DEFAULTS = {"api_url": "the site", "uid": "who mounts", "gid": "who mounts", "log_file": "the mount point"}


@dataclass(frozen=True)
class Shown:
    """One setting. `value`: a string, number, truth value or None, safe to show; `text` is it as people write it.

    `source`: who said so. `problem`: why that is no value, a sentence; None where it is one. `used`: False for a key
    that is set and not asked with.
    """

    name: str
    value: str | int | float | bool | None
    text: str
    source: str
    problem: str | None = None
    used: bool = True


@dataclass(frozen=True)
class Explanation:
    """All settings, and where they came from. `code`: OK, or what `mount` would exit with for the first problem."""

    config_file: str
    config_exists: bool
    profile: str | None
    profile_source: str | None
    profiles: tuple[str, ...]
    settings: tuple[Shown, ...]
    warnings: tuple[str, ...]
    code: ExitCode
    problem: str | None


def explain(
    flags: Mapping[str, str | bool | None],
    *,
    options: str = "",
    config_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Explanation:
    """Return what `load` with the same arguments would use. A value that makes no sense is one of the answers.

    Raises UserError where it cannot be told what is meant: a config file that is none, an unknown name or profile.
    """
    sources = gather(flags, options=options, config_file=config_file, environ=environ)
    values: dict[str, object] = {}
    broken: dict[str, UserError] = {}
    for setting in SETTINGS:
        given = sources.find(setting.name)
        try:
            values[setting.name] = parsed(setting, given) if given is not None else setting.default
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
                str(problem).removeprefix(f"{given.place}: ") if problem is not None and given is not None else None,
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
        code=first.code if first is not None else ExitCode.OK,
        problem=str(first) if first is not None else None,
    )


def _keys(sources: Sources, environ: Mapping[str, str]) -> tuple[frozenset[str] | None, dict[str, UserError]]:
    """Return the places of the keys that a mount would ask with (None: unknown), and what is wrong with which."""
    wrong: dict[str, UserError] = {}

    def note(error: UserError) -> None:
        wrong[str(error).partition(": ")[0]] = error

    try:
        keys = key_source(sources, environ)
    except UserError as error:
        note(error)
        return None, wrong
    origins = (keys.access_token,) if keys.access_token is not None else (keys.api_key, keys.app_key)
    for origin in origins:
        # Not a pipe, which can be read only once, and by the mount.
        if isinstance(origin, InFile) and (os.path.isfile(origin.path) or not os.path.exists(origin.path)):
            try:
                origin.open()
            except UserError as error:
                note(error)
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
