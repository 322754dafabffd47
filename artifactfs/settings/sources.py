"""Decides which source of a setting wins: collects the raw texts of all sources, the strongest first.

The order is that of `Layer`. Of `site` and `api_url` the stronger one counts, and among the ways to give keys the
strongest decides (`Sources.chosen_keys`). Not here: the values of the texts (schema.py), and reading keys (keys.py).
"""

import enum
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.settings import configfile
from artifactfs.settings.configfile import ConfigFile
from artifactfs.settings.keys import Fixed, FromCommand, InConfigFile, InFile, Origin, checked_key, unusable
from artifactfs.settings.paths import expanded
from artifactfs.settings.process_privacy import without_keys
from artifactfs.settings.schema import BY_NAME, CONFIG, KEYS, PROFILE, SELECTORS, Setting
from artifactfs.settings.suggestions import hint, nearest
from artifactfs.util.escaping import shell_word
from artifactfs.util.urls import SITES, without_password

# Options of mount(8) without effect here: the mount is read-only, and the rest is for readers of fstab.
_IGNORED_OPTIONS = frozenset(
    {"ro", "defaults", "relatime", "async", "nosuid", "nodev", "exec"} | {"auto", "noauto", "user", "nouser", "users"}
)
_WAITING_OPTIONS = frozenset({"nofail", "_netdev"})
_KERNEL_OPTIONS = frozenset({"noexec", "noatime", "nodiratime"})
# Characters of the longest name of a program that an error shows. Datadog's keys have 32 and more.
_MAX_NAME = 24
# The directory of LoadCredential= and its relatives (systemd.exec(5)).
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
_PREFIX = "ARTIFACTFS_"
_TOKEN = KEYS[2]
# Similar enough to a known name to be a typing error. A Kubernetes service called artifactfs makes variables such as
# ARTIFACTFS_PORT and ARTIFACTFS_SERVICE_HOST, which are no errors.
_TYPING_ERROR = 0.8


class Layer(enum.IntEnum):
    """The kinds of sources. The lower layer wins; within the command line an option wins over `-o`."""

    COMMAND_LINE = 0
    ENVIRONMENT = 1
    CREDENTIALS = 2
    PROFILE = 3
    CONFIG_FILE = 4


@dataclass(frozen=True)
class RawValue:
    """A setting's raw text, which may be a key, and its source, as `config show` names it."""

    name: str
    text: str = field(repr=False)
    layer: Layer
    source: str

    @property
    def subject(self) -> str:
        """The subject of an error about the value."""
        return self.source if self.layer < Layer.PROFILE else f"{self.name} in {self.source}"

    def parsed(self) -> object:
        """Return the setting's value. Raises UserError."""
        try:
            return BY_NAME[self.name].parse(self.text)
        except ValueError as error:
            code = ExitCode.USAGE if self.layer < Layer.PROFILE else ExitCode.BAD_CONFIG
            # The text may be a URL, whatever the setting.
            raise UserError(code, without_password(str(error)), subject=self.subject) from None


def _strongest(values: Iterable[RawValue], *names: str) -> RawValue | None:
    """Return the first value of these settings; in one layer, that of the setting named first."""
    found = (value for value in values if value.name in names)
    return min(found, key=lambda value: (value.layer, names.index(value.name)), default=None)


@dataclass(frozen=True)
class Sources:
    """The values of all sources, the strongest first. `profile`: the chosen one, whose text is its name."""

    values: tuple[RawValue, ...]
    environ: Mapping[str, str] = field(repr=False)
    config: ConfigFile
    profile: RawValue | None
    kernel_options: frozenset[str]

    def find(self, *names: str) -> RawValue | None:
        """Return the strongest value of these settings; in one layer, that of the setting named first."""
        return _strongest(self.values, *names)

    def resolve(self, settings: Iterable[Setting]) -> tuple[dict[str, Any], dict[str, UserError]]:
        """Return the valid values, defaults included, and the errors of the invalid ones, both by the setting's name.

        A setting precedes those whose default depends on it.
        """
        values: dict[str, Any] = {}
        errors: dict[str, UserError] = {}
        for setting in settings:
            given = self.find(setting.name)
            try:
                values[setting.name] = given.parsed() if given is not None else setting.default_from(values)
            except UserError as error:
                errors[setting.name] = error
        limit = self.find("wait_max")
        if limit is not None and limit.layer is Layer.COMMAND_LINE and not values.get("wait", True):
            fact = "it has no effect without --wait"
            errors["wait_max"] = UserError(ExitCode.USAGE, fact, "add --wait", limit.subject)
        return values, errors

    def chosen_keys(self) -> dict[str, RawValue]:
        """Return the values that give the keys, by the key's name.

        For one key the strongest layer decides; within it a file precedes a command, and both the key itself. Of an
        access token and the keys the stronger layer counts, and in one layer the token. A lone key does not override a
        token, unless it was given on the command line. Keys that are given literally beside a token are returned, too:
        no request carries them, but the log must not show them.
        """
        ways = {key: self.find(f"{key}_file", f"{key}_command", key) for key in KEYS}
        found = {key: way for key, way in ways.items() if way is not None}
        token = found.pop(_TOKEN, None)
        if token is None:
            return found
        layer = min((way.layer for way in found.values()), default=token.layer)
        if layer < token.layer and (len(found) == 2 or layer is Layer.COMMAND_LINE):
            return found
        return {key: way for key, way in found.items() if way.name in KEYS} | {_TOKEN: token}

    def used_keys(self) -> dict[str, RawValue]:
        """Return those of the chosen keys that requests carry: both keys, or the token."""
        chosen = self.chosen_keys()
        return {_TOKEN: chosen[_TOKEN]} if _TOKEN in chosen else chosen

    def origin(self, given: RawValue) -> Origin:
        """Return where to read a chosen key. Raises UserError."""
        if given.name in KEYS:
            key = checked_key(given.text, given.subject)
            if given.layer < Layer.PROFILE or not self.config.lasting:
                return Fixed(key, given.subject)
            profile = self.profile.text if self.profile is not None and given.layer is Layer.PROFILE else None
            return InConfigFile(given.name, self.config.path, profile, key, given.subject)
        value = given.parsed()
        if not isinstance(value, tuple):
            return InFile(str(value), given.subject)
        program = shutil.which(value[0], path=self.environ.get("PATH", os.defpath))
        if program is None:
            named = f"its program {value[0]!r}" if _is_program(value[0]) else "its program (not shown: it may be a key)"
            fix = "give the full path, or check PATH; no shell runs it: for `cd` or a pipe write sh -c '…'"
            raise unusable(given.subject, f"{named} was not found", fix)
        return FromCommand((os.path.abspath(program), *value[1:]), without_keys(self.environ), given.subject)

    def warnings(self) -> Iterator[Notice]:
        """Yield a notice for each source that may not be what the user means."""
        yield from _typing_errors(self.environ)
        yield from self._unknown_site()
        used = self.used_keys()
        yield from _contradictions(used.values(), self.environ)
        if self.profile is not None and self.profile.layer is Layer.COMMAND_LINE:
            yield from self._overridden(self.profile.text, used)

    def _unknown_site(self) -> Iterator[Notice]:
        """Yield a notice for a site that is none of Datadog's: its host gets the keys."""
        given = self.find("api_url", "site")
        if given is None or given.name != "site":
            return
        try:
            host = str(given.parsed())
        except UserError:
            return  # an error of its own
        if host not in SITES:
            yield Notice(f"{host} is not among Datadog's sites, and its API gets the keys", hint(host, SITES))

    def _overridden(self, profile: str, used: Mapping[str, RawValue]) -> Iterator[Notice]:
        """Yield a notice where the environment overrides a profile that the command line chose."""
        said = self.config.profiles[profile]
        stronger = []
        where = self.find("api_url", "site")
        if where is not None and where.layer is Layer.ENVIRONMENT and said.keys() & {"site", "api_url"}:
            stronger = [
                value.source
                for value in (self.find("site"), self.find("api_url"))
                if value is not None and value.layer is Layer.ENVIRONMENT and said.get(value.name) != value.text
            ]
        of_profile = {key for key in KEYS if said.keys() & {key, f"{key}_file", f"{key}_command"}}
        for key, way in used.items():
            # In place of the same key, or of the other kind of authentication.
            rivals = set(KEYS) if key == _TOKEN else {key, _TOKEN}
            if way.layer is Layer.ENVIRONMENT and of_profile & rivals:
                stronger.append(way.source)
        if stronger:
            command = f"artifactfs config show --profile {shell_word(profile)}"
            fact = f"{', '.join(stronger)} of the environment overrides the profile {profile}"
            yield Notice(fact, f"`{command}` shows all settings", command)


def collect(
    flags: Mapping[str, str | bool | None], *, options: str, config_file: str | None, environ: Mapping[str, str]
) -> Sources:
    """Collect all sources: see `load`. Raises UserError for an unknown option, profile or name."""
    values, kernel_options = _outside_the_file(flags, options, config_file, environ)
    named = _strongest(values, CONFIG.name)
    config = configfile.read(named.text if named is not None else None, once=True)
    values += _from_credentials(environ)
    profile = _strongest(values, PROFILE.name)
    if profile is None and config.default_profile is not None:
        profile = RawValue(PROFILE.name, config.default_profile, Layer.CONFIG_FILE, config.path)
    if profile is not None:
        table = config.profile(profile.text, profile.source)
        where = configfile.section(config.path, profile.text)
        values += [RawValue(name, text, Layer.PROFILE, where) for name, text in table.items()]
    values += [RawValue(name, text, Layer.CONFIG_FILE, config.path) for name, text in config.top.items()]
    site = _strongest(values, "site")
    if site is not None:
        # `--site` is never without effect: a weaker API URL is dropped.
        values = [value for value in values if value.name != "api_url" or value.layer <= site.layer]
    return Sources(tuple(values), environ, config, profile, kernel_options)


def find_config_file(named: str | None, *, options: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of the config file that a mount would use, which need not exist. Raises UserError."""
    given = _config_given(named, options, environ)
    return os.path.abspath(expanded(given)) if given is not None else configfile.default_path()


def find_profiles(named: str | None, *, options: str = "", environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the names of the profiles in that config file. Raises UserError as `collect` does."""
    return tuple(sorted(configfile.read(_config_given(named, options, environ)).profiles))


def settings_in(named: str | None, profile: str | None) -> frozenset[str]:
    """Return the names of the settings at the top of that config file, or in a profile. Raises UserError."""
    file = configfile.read(_config_given(named, "", os.environ))
    return frozenset(file.top if profile is None else file.profiles.get(profile, {}))


def _config_given(named: str | None, options: str, environ: Mapping[str, str]) -> str | None:
    given = _strongest(_outside_the_file({}, options, named, environ)[0], CONFIG.name)
    return given.text if given is not None else None


# --- the layers -------------------------------------------------------------------------------------------


def _outside_the_file(
    flags: Mapping[str, str | bool | None], options: str, config_file: str | None, environ: Mapping[str, str]
) -> tuple[list[RawValue], frozenset[str]]:
    """Return the values of the command line and the environment, and the options for the kernel."""
    named = {**flags, CONFIG.name: config_file}
    values = [
        RawValue(name, str(value), Layer.COMMAND_LINE, (BY_NAME | SELECTORS)[name].option)
        for name, value in named.items()
        if value not in (None, False)
    ]
    found, kernel_options = _parse_options(options)
    return [*values, *found, *_from_environment(environ)], kernel_options


def _parse_options(text: str) -> tuple[list[RawValue], frozenset[str]]:
    r"""Split the text of `-o` into settings and options for the kernel. `\,` is a comma in a value, as for libfuse.

    The last of equal options counts. No message repeats a value, which may be a key.
    """
    found: list[RawValue] = []
    kernel: set[str] = set()
    settings = {name: row for name, row in (BY_NAME | SELECTORS).items() if row.flag}
    for option in (re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:\\.|[^,\\]|\\$)+", text)):
        name, equals, value = option.partition("=")
        source = f"-o {name}"
        setting = settings.get(name.replace("-", "_"))
        given = value if equals or setting is None else setting.bare
        if setting is not None and given is not None:
            found.insert(0, RawValue(setting.name, given, Layer.COMMAND_LINE, source))
        elif setting is not None:
            raise UserError(ExitCode.USAGE, "it needs a value", f"give -o {name}={setting.metavar}", source)
        elif name in _WAITING_OPTIONS and not equals:
            # A boot with fstab must not fail, and the mount should come as soon as it can (docs/semantics.md 5.8).
            found.append(RawValue("wait", "true", Layer.COMMAND_LINE, source))
        elif name == "rw":
            raise UserError(ExitCode.USAGE, "artifactfs is read-only", "leave it out", source)
        elif name.replace("-", "_") in KEYS:
            fact = "a key does not belong on a command line, where every user can read it"
            raise UserError(ExitCode.USAGE, fact, f"use -o {name.replace('-', '_')}_file=FILE", source)
        elif name in _KERNEL_OPTIONS and not equals:
            kernel.add(name)
        elif name not in _IGNORED_OPTIONS and not name.startswith("x-"):
            known = [*settings, *_IGNORED_OPTIONS, *_WAITING_OPTIONS, *_KERNEL_OPTIONS]
            guess = hint(name.replace("-", "_"), known if nearest(name, known) else settings)
            raise UserError(ExitCode.USAGE, "there is no such option", guess, source)
    return found, frozenset(kernel)


def _from_environment(environ: Mapping[str, str]) -> Iterator[RawValue]:
    for name, setting in (BY_NAME | SELECTORS).items():
        for variable in setting.env:
            if value := environ.get(variable, "").strip():
                yield RawValue(name, value, Layer.ENVIRONMENT, variable)
                break


def _from_credentials(environ: Mapping[str, str]) -> Iterator[RawValue]:
    """Yield the keys among systemd's credentials: files in a directory of the service (systemd.exec(5))."""
    directory = environ.get(_CREDENTIALS, "")
    for key in KEYS if os.path.isabs(directory) else ():
        for name in (key, *(form for variable in BY_NAME[key].more_env for form in (variable.lower(), variable))):
            path = os.path.join(directory, name)
            if os.path.lexists(path):
                yield RawValue(f"{key}_file", path, Layer.CREDENTIALS, f"systemd credential {name}")
                break


def _is_program(word: str) -> bool:
    """Whether the first word of a command is shown in an error. Otherwise it may be a key in the place of a command."""
    parts = word.split("/")
    # A path begins so; the letters of a token have slashes elsewhere.
    return all(len(part) <= _MAX_NAME for part in parts) and (len(parts) == 1 or word[0] in "/.")


# --- warnings ---------------------------------------------------------------------------------------------


def _typing_errors(environ: Mapping[str, str]) -> Iterator[Notice]:
    known = {name.removeprefix(_PREFIX) for row in (BY_NAME | SELECTORS).values() for name in row.env}
    for variable in sorted(environ):
        name = variable.removeprefix(_PREFIX)
        if name != variable and name not in known and (meant := nearest(name, known, _TYPING_ERROR)) is not None:
            yield Notice(f"{variable} is no variable of artifactfs", f"did you mean {_PREFIX}{meant}?")


def _contradictions(used: Iterable[RawValue], environ: Mapping[str, str]) -> Iterator[Notice]:
    """Yield a notice for each used key that two of Datadog's variables give differently: one may be outdated."""
    for way in used:
        variables = BY_NAME[way.name].more_env
        for other in variables if way.source in variables else ():
            if environ.get(other, "").strip() not in ("", way.text):
                fact = f"{way.source} is used, and not {other}, which has another value"
                yield Notice(fact, "unset one of them", f"unset {other}")
