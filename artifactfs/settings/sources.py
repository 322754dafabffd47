"""Collects every source of settings as raw text, the strongest layer first.

Owns the order (flag and `-o` > environment > systemd credentials > profile > top of the config file) and the choice
among the ways to give a key. `loading.py` parses the texts.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.settings import configfile
from artifactfs.settings.configfile import ConfigFile
from artifactfs.settings.keys import Fixed, FromCommand, InConfigFile, InFile, KeySource, Origin, checked, unusable
from artifactfs.settings.paths import expanded
from artifactfs.settings.schema import BY_NAME, CONFIG, KEYS, PROFILE, SELECTORS, SETTINGS, Setting
from artifactfs.settings.suggestions import hint, nearest
from artifactfs.util.escaping import shell_word
from artifactfs.util.urls import without_password

# Options of mount(8) without effect here: the mount is read-only, and the rest is for readers of fstab.
_IGNORED_OPTIONS = frozenset(
    {"ro", "defaults", "relatime", "async", "nosuid", "nodev", "exec"} | {"auto", "noauto", "user", "nouser", "users"}
)
_WAITING_OPTIONS = frozenset({"nofail", "_netdev"})
_KERNEL_OPTIONS = frozenset({"noexec", "noatime", "nodiratime"})
# Builtins of a shell that users begin a command with, and that are no programs.
_BUILTINS = frozenset({".", "cd", "eval", "exec", "export", "for", "if", "set", "source", "unset", "while"})
# The directory of LoadCredential= and its relatives (systemd.exec(5)).
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
_PREFIX = "ARTIFACTFS_"
# Similar enough to a known name to be a typing error. A Kubernetes service called artifactfs makes variables such as
# ARTIFACTFS_PORT and ARTIFACTFS_SERVICE_HOST, which are no errors.
_TYPING_ERROR = 0.8


@dataclass(frozen=True)
class RawValue:
    """A setting's raw text and its source: `source` for `config show`, `place` as the subject of an error."""

    text: str
    source: str
    place: str
    code: ExitCode = ExitCode.USAGE

    def __repr__(self) -> str:
        return f"RawValue(source={self.source!r})"  # the text may be a key


Layer = Mapping[str, RawValue]


@dataclass(frozen=True)
class Sources:
    """All layers, the strongest first. `profile`: its name, and the source that chose it; None without a profile."""

    layers: tuple[Layer, ...]
    config: ConfigFile
    profile: str | None
    profile_source: str | None
    kernel_options: frozenset[str]
    warnings: tuple[Notice, ...]

    def find(self, name: str) -> RawValue | None:
        """Return a setting's strongest value; None where no layer has one."""
        return next((layer[name] for layer in self.layers if name in layer), None)


def collect_layers(
    flags: Mapping[str, str | bool | None],
    *,
    options: str,
    config_file: str | None,
    environ: Mapping[str, str],
) -> Sources:
    """Collect the layers. Raises UserError for an unknown option, profile or name."""
    given, kernel_options = _parse_options(options)
    for name, value in flags.items():
        if value not in (None, False):
            given[name] = _value(str(value), (BY_NAME | SELECTORS)[name].option)
    if config_file is not None:
        given[CONFIG.name] = _value(config_file, CONFIG.option)
    environment = _from_environment(environ)
    named_files = [layer.pop(CONFIG.name) for layer in (given, environment) if CONFIG.name in layer]
    config = configfile.read(named_files[0].text if named_files else None, once=True)

    chosen_here = PROFILE.name in given
    profiles = [layer.pop(PROFILE.name) for layer in (given, environment) if PROFILE.name in layer]
    profile = profiles[0] if profiles else None
    if profile is None and config.default_profile is not None:
        profile = _value(config.default_profile, config.path)
    in_profile: dict[str, RawValue] = {}
    if profile is not None:
        in_profile = _from_file(config, profile.text, config.profile(profile.text, profile.place))
    layers = [given, environment, _from_credentials(environ), in_profile, _from_file(config, None, config.top)]
    warnings = [*_typing_errors(environ), *_contradictions(layers, environ)]
    if profile is not None and chosen_here:
        warnings += _overridden(profile.text, layers, environment, in_profile)
    _prefer_site(layers)
    return Sources(
        layers=tuple(layers),
        config=config,
        profile=profile.text if profile is not None else None,
        profile_source=profile.source if profile is not None else None,
        kernel_options=frozenset(kernel_options),
        warnings=tuple(warnings),
    )


def find_config_file(named: str | None, *, options: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of the config file that a mount would use, which need not exist. Raises UserError."""
    named = _config_named(named, options, environ)
    return os.path.abspath(expanded(named)) if named else configfile.default_path()


def find_profiles(named: str | None, *, options: str = "", environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the names of the profiles in that config file. Raises UserError as `collect_layers` does."""
    config = configfile.read(_config_named(named, options, environ))
    return tuple(sorted(config.profiles))


def _config_named(named: str | None, options: str, environ: Mapping[str, str]) -> str | None:
    """Return the config file named by the strongest layer; None for the default file."""
    given = _parse_options(options)[0].get(CONFIG.name) or _from_environment(environ).get(CONFIG.name)
    return named or (given.text if given is not None else None)


# --- the layers -------------------------------------------------------------------------------------------


def _value(text: str, source: str) -> RawValue:
    return RawValue(text, source, source)


def _parse_options(text: str) -> tuple[dict[str, RawValue], set[str]]:
    r"""Split the text of `-o` into settings and options for the kernel. `\,` is a comma in a value, as for libfuse."""
    found: dict[str, RawValue] = {}
    kernel: set[str] = set()
    settings = {name: row for name, row in (BY_NAME | SELECTORS).items() if row.flag}
    for option in (re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:\\.|[^,\\]|\\$)+", text)):
        name, equals, value = option.partition("=")
        source = f"-o {name}"
        setting = settings.get(name.replace("-", "_"))
        if setting is not None and (equals or setting.metavar is None):
            found[setting.name] = _value(value if equals else "true", source)
        elif setting is not None:
            raise UserError(ExitCode.USAGE, "it needs a value", f"give -o {name}={setting.metavar}", source)
        elif name in _WAITING_OPTIONS and not equals:
            # fstab's boot must not fail, and the mount should come as soon as it can (docs/semantics.md 5.8).
            found.setdefault("wait", _value("true", source))
        elif name == "rw":
            raise UserError(ExitCode.USAGE, "artifactfs is read-only", "leave it out", source)
        elif name.replace("-", "_") in KEYS:
            # Without the value: `ps` may have shown it, the log must not keep it.
            raise UserError(
                ExitCode.USAGE,
                "a key does not belong on a command line, where every user can read it",
                f"use -o {name.replace('-', '_')}_file=FILE",
                source,
            )
        elif name in _KERNEL_OPTIONS and not equals:
            kernel.add(name)
        elif name not in _IGNORED_OPTIONS and not name.startswith("x-"):
            known = [*settings, *_IGNORED_OPTIONS, *_WAITING_OPTIONS, *_KERNEL_OPTIONS]
            guess = hint(name.replace("-", "_"), known if nearest(name, known) else settings)
            # Without the value: it may be a key.
            raise UserError(ExitCode.USAGE, "there is no such option", guess, source)
    return found, kernel


def _from_environment(environ: Mapping[str, str]) -> dict[str, RawValue]:
    found: dict[str, RawValue] = {}
    for setting in (*SETTINGS, *SELECTORS.values()):
        for variable in setting.env:
            if value := environ.get(variable, "").strip():
                found[setting.name] = _value(value, variable)
                break
    return found


def _from_credentials(environ: Mapping[str, str]) -> dict[str, RawValue]:
    """Return the keys among systemd's credentials: files in a directory of the service (systemd.exec(5))."""
    directory = environ.get(_CREDENTIALS, "")
    found: dict[str, RawValue] = {}
    if not os.path.isabs(directory):
        return found
    for key in KEYS:
        for name in (key, *(form for variable in BY_NAME[key].more_env for form in (variable.lower(), variable))):
            path = os.path.join(directory, name)
            if os.path.lexists(path):
                found[f"{key}_file"] = _value(path, f"systemd credential {name}")
                break
    return found


def _from_file(config: ConfigFile, profile: str | None, table: Mapping[str, str]) -> dict[str, RawValue]:
    where = configfile.section(config.path, profile)
    return {name: RawValue(text, where, f"{name} in {where}", ExitCode.BAD_CONFIG) for name, text in table.items()}


def _prefer_site(layers: Sequence[dict[str, RawValue]]) -> None:
    """Drop every API URL that is weaker than a site; in one layer the API URL wins."""
    rank = next((rank for rank, layer in enumerate(layers) if "site" in layer), len(layers))
    for layer in layers[rank + 1 :]:
        layer.pop("api_url", None)


# --- warnings ---------------------------------------------------------------------------------------------


def _typing_errors(environ: Mapping[str, str]) -> list[Notice]:
    known = {name.removeprefix(_PREFIX) for row in (*SETTINGS, *SELECTORS.values()) for name in row.env}
    found = []
    for variable in sorted(environ):
        name = variable.removeprefix(_PREFIX)
        if name != variable and name not in known and (meant := nearest(name, known, _TYPING_ERROR)) is not None:
            found.append(Notice(f"{variable} is no variable of artifactfs", f"did you mean {_PREFIX}{meant}?"))
    return found


def _contradictions(layers: Sequence[Layer], environ: Mapping[str, str]) -> Iterator[Notice]:
    """Yield a notice for each used key that two of Datadog's variables give differently: one may be outdated."""
    api, app, token = _chosen(layers)
    for way in (token,) if token is not None else (api, app):
        if way is None or way.given.source not in BY_NAME[way.name].more_env:
            continue
        for other in BY_NAME[way.name].more_env:
            if environ.get(other, "").strip() not in ("", way.given.text):
                fact = f"{way.given.source} is used, and not {other}, which has another value"
                yield Notice(fact, "unset one of them", f"unset {other}")


def _overridden(profile: str, layers: Sequence[Layer], environment: Layer, in_profile: Layer) -> list[Notice]:
    """Warn where the environment overrides a profile that the command line chose."""
    stronger = []
    where = {"site", "api_url"}
    if where & in_profile.keys() and not where & layers[0].keys():
        stronger += [
            environment[name].source
            for name in sorted(where & environment.keys(), reverse=True)
            if name not in in_profile or in_profile[name].text != environment[name].text
        ]
    api, app, token = _chosen(layers)
    said = {key for key in KEYS if any(key + form in in_profile for form in ("", "_file", "_command"))}
    for way, rivals in (
        # In place of the same key, or of the other kind of authentication.
        (api if token is None else None, {"api_key", "access_token"}),
        (app if token is None else None, {"app_key", "access_token"}),
        (token, set(KEYS)),
    ):
        if way is not None and layers[way.rank] is environment and said & rivals:
            stronger.append(way.given.source)
    if not stronger:
        return []
    command = f"artifactfs config show --profile {shell_word(profile)}"
    fact = f"{', '.join(stronger)} of the environment overrides the profile {profile}"
    return [Notice(fact, f"`{command}` shows all settings", command)]


# --- keys -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """One way in which a key was given. `rank`: of its layer, 0 for the command line."""

    rank: int
    name: str
    given: RawValue


def key_source(sources: Sources, environ: Mapping[str, str], *, given_only: bool = False) -> KeySource:
    """Return where the keys come from: the strongest layer that has any of them decides. Raises UserError.

    `given_only`: leave out keys of files and commands.

    An access token stands in place of both keys. Of the token and the keys the stronger layer counts, and in one layer
    the token. A lone key does not override a token, unless it was given on the command line.
    """
    ways = _chosen(sources.layers, given_only=given_only)
    return KeySource(*(_origin(way, sources, environ) if way is not None else None for way in ways))


def _chosen(layers: Sequence[Layer], *, given_only: bool = False) -> tuple[_Way | None, _Way | None, _Way | None]:
    """Return the chosen ways to API key, application key and token: see `key_source`."""
    ways = [_way(layers, key) for key in KEYS]
    api, app, token = (way if way is None or way.name in KEYS or not given_only else None for way in ways)
    pair = [way for way in (api, app) if way is not None]
    rank = min((way.rank for way in pair), default=len(layers))
    if token is not None and rank < token.rank and (len(pair) == 2 or rank == 0):
        token = None
    elif token is not None:
        # No request carries the keys, but those given literally must stay out of the log.
        api, app = (way if way is not None and way.name in KEYS else None for way in (api, app))
    return api, app, token


def _way(layers: Sequence[Layer], key: str) -> _Way | None:
    """Return how the strongest layer gives a key. In one layer a file precedes a command, and both the key itself."""
    for rank, layer in enumerate(layers):
        for name in (f"{key}_file", f"{key}_command", key):
            if name in layer:
                return _Way(rank, name, layer[name])
    return None


def _origin(way: _Way, sources: Sources, environ: Mapping[str, str]) -> Origin:
    given = way.given
    if way.name in KEYS:
        key = checked(given.text, given.place)
        if given.code is not ExitCode.BAD_CONFIG or not sources.config.lasting:
            return Fixed(key, given.place)
        profile = sources.profile if given.source != sources.config.path else None
        return InConfigFile(way.name, sources.config.path, profile, given.place)
    value = parse_value(BY_NAME[way.name], given)
    if not isinstance(value, tuple):
        return InFile(str(value), given.place)
    program = shutil.which(value[0], path=environ.get("PATH", os.defpath))
    if program is None:
        # The name is shown only if it is a builtin: it may be a key in the place of a command.
        named = f" ({value[0]})" if value[0] in _BUILTINS else ""
        raise unusable(
            given.place,
            f"its program was not found{named}",
            "give the full path, or check PATH; no shell runs it: for `cd` or a pipe write sh -c '…'",
        )
    return FromCommand((os.path.abspath(program), *value[1:]), without_keys(environ), given.place)


def parse_value(setting: Setting, given: RawValue) -> object:
    """Return a setting's value. Raises UserError with its place as the subject."""
    try:
        return setting.parse(given.text)
    except ValueError as error:
        # The text may be a URL, whatever the setting.
        raise UserError(given.code, without_password(str(error)), subject=given.place) from None


def without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without any key in it: for what a mount starts (docs/semantics.md 6.1)."""
    keys = {variable for key in KEYS for variable in BY_NAME[key].env}
    return {name: value for name, value in environ.items() if name not in keys}
