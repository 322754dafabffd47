"""Who says what: every source of settings, the strongest first, as raw text.

Owns the order (flag and `-o` > environment > systemd credentials > profile > top of the config file) and the choice
among ways to give a key. What the texts mean is `loading.py`'s.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import configfile
from artifactfs.settings.configfile import ConfigFile
from artifactfs.settings.keys import Fixed, FromCommand, InConfigFile, InFile, KeySource, Origin, checked
from artifactfs.settings.nearest import hint, nearest
from artifactfs.settings.paths import expanded
from artifactfs.settings.schema import BY_NAME, CONFIG, KEYS, PROFILE, SELECTORS, SETTINGS, Setting
from artifactfs.util.escaping import shell_word
from artifactfs.util.urls import without_passwords

# Options of mount(8) that say nothing new here: the mount is read-only, and the rest is for fstab's readers.
_IGNORED_OPTIONS = frozenset(
    {"ro", "defaults", "relatime", "async", "nosuid", "nodev", "exec"} | {"auto", "noauto", "user", "nouser", "users"}
)
_WAITING_OPTIONS = frozenset({"nofail", "_netdev"})
_KERNEL_OPTIONS = frozenset({"noexec", "noatime", "nodiratime"})
# Words of a shell that people begin a command with, and that are no programs.
_SHELLS_OWN = frozenset({".", "cd", "eval", "exec", "export", "for", "if", "set", "source", "unset", "while"})
# Where systemd puts what LoadCredential= and friends name (systemd.exec(5)), and by which names we look for a key.
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
_PREFIX = "ARTIFACTFS_"
# So near to a known name that it can only be a typing error: a Kubernetes service of our name makes ARTIFACTFS_PORT
# and ARTIFACTFS_SERVICE_HOST of its own, and those are nobody's mistake.
_TYPING_ERROR = 0.8


@dataclass(frozen=True)
class Given:
    """A setting's raw text, and who gave it.

    `source` is what `config show` says of it; `place` is how a message about the text begins.
    """

    text: str
    source: str
    place: str
    code: ExitCode = ExitCode.USAGE

    def __repr__(self) -> str:
        return f"Given(source={self.source!r})"  # the text may be a key


Level = Mapping[str, Given]


@dataclass(frozen=True)
class Sources:
    """Everything that was said, the strongest level first.

    `profile`: its name, and who named it; None without one. `warnings`: what the user should know, in sentences.
    """

    levels: tuple[Level, ...]
    config: ConfigFile
    profile: str | None
    profile_source: str | None
    kernel_options: frozenset[str]
    warnings: tuple[str, ...]

    def find(self, name: str) -> Given | None:
        """Return what counts of a setting; None where nobody says anything."""
        return next((level[name] for level in self.levels if name in level), None)


def gather(
    flags: Mapping[str, str | bool | None],
    *,
    options: str,
    config_file: str | None,
    environ: Mapping[str, str],
) -> Sources:
    """Gather what everybody says. Raises UserError for an option, a profile or a name that there is not."""
    given, kernel_options = _parse_options(options)
    for name, value in flags.items():
        if value not in (None, False):
            option = (BY_NAME | SELECTORS)[name].option
            given[name] = Given(str(value), option, option)
    if config_file is not None:
        given[CONFIG.name] = Given(config_file, CONFIG.option, CONFIG.option)
    environment = _from_environment(environ)
    named_files = [level.pop(CONFIG.name) for level in (given, environment) if CONFIG.name in level]
    config = configfile.read(named_files[0].text if named_files else None, once=True)

    chosen_here = PROFILE.name in given
    profiles = [level.pop(PROFILE.name) for level in (given, environment) if PROFILE.name in level]
    profile = profiles[0] if profiles else None
    if profile is None and config.default_profile is not None:
        profile = Given(config.default_profile, config.path, config.path)
    in_profile: dict[str, Given] = {}
    if profile is not None:
        in_profile = _from_file(config, profile.text, config.profile(profile.text, profile.place))
    levels = [given, environment, _from_credentials(environ), in_profile, _from_file(config, None, config.top)]
    warnings = [*_typing_errors(environ), *_contradictions(levels, environ)]
    if profile is not None and chosen_here:
        warnings += _overridden(profile.text, levels, environment, in_profile)
    _prefer_site(levels)
    return Sources(
        levels=tuple(levels),
        config=config,
        profile=profile.text if profile is not None else None,
        profile_source=profile.source if profile is not None else None,
        kernel_options=frozenset(kernel_options),
        warnings=tuple(warnings),
    )


def find_config_file(named: str | None, *, options: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """Return where the config file is that counts, whether it is there or not. Raises UserError for bad options."""
    named = _config_named(named, options, environ)
    return os.path.abspath(expanded(named)) if named else configfile.default_path()


def find_profiles(named: str | None, *, options: str = "", environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the names of the profiles in the config file that counts. Raises UserError as `gather` does."""
    config = configfile.read(_config_named(named, options, environ))
    return tuple(sorted(config.profiles))


def _config_named(named: str | None, options: str, environ: Mapping[str, str]) -> str | None:
    """Return the config file that somebody names, the strongest first; None where nobody does."""
    given = _parse_options(options)[0].get(CONFIG.name) or _from_environment(environ).get(CONFIG.name)
    return named or (given.text if given is not None else None)


# --- the levels -------------------------------------------------------------------------------------------


def _parse_options(text: str) -> tuple[dict[str, Given], set[str]]:
    r"""Split the text of `-o` into settings and options for the kernel. `\,` is a comma in a value, as for libfuse."""
    found: dict[str, Given] = {}
    kernel: set[str] = set()
    settings = {name: row for name, row in (BY_NAME | SELECTORS).items() if row.flag}
    for option in (re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:\\.|[^,\\]|\\$)+", text)):
        name, equals, value = option.partition("=")
        setting = settings.get(name.replace("-", "_"))
        if setting is not None and (equals or setting.metavar is None):
            found[setting.name] = Given(value if equals else "true", f"-o {name}", f"-o {name}")
        elif setting is not None:
            raise UserError(ExitCode.USAGE, f"-o {name}: it needs a value: -o {name}={setting.metavar}")
        elif name in _WAITING_OPTIONS and not equals:
            # Who writes fstab wants the machine up, and this mounted as soon as it can be (semantics 5.8).
            found.setdefault("wait", Given("true", f"-o {name}", f"-o {name}"))
        elif name == "rw":
            raise UserError(ExitCode.USAGE, "-o rw: artifactfs is read-only; leave it out")
        elif name.replace("-", "_") in KEYS:
            # Without the value: everybody on the machine has had his chance to see it, the log need not.
            raise UserError(
                ExitCode.USAGE,
                f"-o {name}: a key does not belong on a command line, where everybody can read it; "
                f"use -o {name.replace('-', '_')}_file=FILE",
            )
        elif name in _KERNEL_OPTIONS and not equals:
            kernel.add(name)
        elif name not in _IGNORED_OPTIONS and not name.startswith("x-"):
            known = [*settings, *_IGNORED_OPTIONS, *_WAITING_OPTIONS, *_KERNEL_OPTIONS]
            guess = hint(name.replace("-", "_"), known if nearest(name, known) else settings)
            # Without the value: it may be a key.
            raise UserError(ExitCode.USAGE, f"-o {name}: there is no such option; {guess}")
    return found, kernel


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for setting in (*SETTINGS, *SELECTORS.values()):
        for variable in setting.env:
            if value := environ.get(variable, "").strip():
                found[setting.name] = Given(value, variable, variable)
                break
    return found


def _from_credentials(environ: Mapping[str, str]) -> dict[str, Given]:
    """Return the keys that systemd gives this service: files in a directory of its own (systemd.exec(5))."""
    directory = environ.get(_CREDENTIALS, "")
    found: dict[str, Given] = {}
    if not os.path.isabs(directory):
        return found
    for key in KEYS:
        for name in (key, *(form for variable in BY_NAME[key].more_env for form in (variable.lower(), variable))):
            path = os.path.join(directory, name)
            if os.path.lexists(path):
                source = f"systemd credential {name}"
                found[f"{key}_file"] = Given(path, source, source)
                break
    return found


def _from_file(config: ConfigFile, profile: str | None, table: Mapping[str, str]) -> dict[str, Given]:
    where = configfile.section(config.path, profile)
    return {name: Given(text, where, f"{name} in {where}", ExitCode.BAD_CONFIG) for name, text in table.items()}


def _prefer_site(levels: Sequence[dict[str, Given]]) -> None:
    """Leave out an API URL where a stronger level names a site: it stands in place of weaker ones, and of its own."""
    rank = next((rank for rank, level in enumerate(levels) if "site" in level), len(levels))
    for level in levels[rank + 1 :]:
        level.pop("api_url", None)


# --- what the user should know ----------------------------------------------------------------------------


def _typing_errors(environ: Mapping[str, str]) -> list[str]:
    known = {name.removeprefix(_PREFIX) for row in (*SETTINGS, *SELECTORS.values()) for name in row.env}
    found = []
    for variable in sorted(environ):
        name = variable.removeprefix(_PREFIX)
        if name != variable and name not in known and (meant := nearest(name, known, _TYPING_ERROR)) is not None:
            found.append(f"{variable} is no variable of artifactfs; did you mean {_PREFIX}{meant}?")
    return found


def _contradictions(levels: Sequence[Level], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each key in use that two of Datadog's variables give differently: one may be outdated."""
    api, app, token = _chosen(levels)
    for way in (token,) if token is not None else (api, app):
        if way is None or way.given.source not in BY_NAME[way.name].more_env:
            continue
        for other in BY_NAME[way.name].more_env:
            if environ.get(other, "").strip() not in ("", way.given.text):
                yield f"{way.given.source} counts, and not {other}, which holds another: unset one of them"


def _overridden(profile: str, levels: Sequence[Level], environment: Level, in_profile: Level) -> list[str]:
    """Say where the environment is stronger than a profile that was named on the command line: a trap."""
    stronger = []
    where = {"site", "api_url"}
    if where & in_profile.keys() and not where & levels[0].keys():
        stronger += [
            environment[name].source
            for name in sorted(where & environment.keys(), reverse=True)
            if name not in in_profile or in_profile[name].text != environment[name].text
        ]
    api, app, token = _chosen(levels)
    said = {key for key in KEYS if any(key + form in in_profile for form in ("", "_file", "_command"))}
    for way, rivals in (
        # In place of the same key, or of the other way to ask.
        (api if token is None else None, {"api_key", "access_token"}),
        (app if token is None else None, {"app_key", "access_token"}),
        (token, set(KEYS)),
    ):
        if way is not None and levels[way.rank] is environment and said & rivals:
            stronger.append(way.given.source)
    if not stronger:
        return []
    return [
        f"{', '.join(stronger)} of the environment counts in place of what the profile {profile} says; "
        f"`artifactfs config show --profile {shell_word(profile)}` shows all"
    ]


# --- keys -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """One way in which a key was given. `rank`: of its level, 0 for the command line."""

    rank: int
    name: str
    given: Given


def key_source(sources: Sources, environ: Mapping[str, str], *, given_only: bool = False) -> KeySource:
    """Return where the keys come from: the strongest level that has any of them decides. Raises UserError.

    `given_only`: leave out what would have to be read from a file, or from a command.

    An access token stands in place of both keys. The stronger level of the two ways counts, and in one level the token;
    but half a pair does not count against a token, unless it was given on the command line.
    """
    ways = _chosen(sources.levels, given_only=given_only)
    return KeySource(*(_origin(way, sources, environ) if way is not None else None for way in ways))


def _chosen(levels: Sequence[Level], *, given_only: bool = False) -> tuple[_Way | None, _Way | None, _Way | None]:
    """Return the ways to API key, application key and token that count: see `key_source`."""
    ways = [_way(levels, key) for key in KEYS]
    api, app, token = (way if way is None or way.name in KEYS or not given_only else None for way in ways)
    pair = [way for way in (api, app) if way is not None]
    rank = min((way.rank for way in pair), default=len(levels))
    if token is not None and rank < token.rank and (len(pair) == 2 or rank == 0):
        token = None
    elif token is not None:
        # Not asked with; but what was given itself is still to be kept out of the log.
        api, app = (way if way is not None and way.name in KEYS else None for way in (api, app))
    return api, app, token


def _way(levels: Sequence[Level], key: str) -> _Way | None:
    """Return how a key was given in the strongest level that has it.

    In one level a file goes before a command, and both before the key itself.
    """
    for rank, level in enumerate(levels):
        for name in (f"{key}_file", f"{key}_command", key):
            if name in level:
                return _Way(rank, name, level[name])
    return None


def _origin(way: _Way, sources: Sources, environ: Mapping[str, str]) -> Origin:
    given = way.given
    setting = BY_NAME[way.name]
    if way.name in KEYS:
        if given.code is ExitCode.BAD_CONFIG:
            key = checked(given.text, given.place)
            if not sources.config.lasting:
                return Fixed(key, given.place)
            profile = sources.profile if given.source != sources.config.path else None
            return InConfigFile(way.name, sources.config.path, profile, given.place)
        return Fixed(checked(given.text, given.place), given.place)
    value = parsed(setting, given)
    if not isinstance(value, tuple):
        return InFile(str(value), given.place)
    program = shutil.which(value[0], path=environ.get("PATH", os.defpath))
    if program is None:
        # Not its name, unless that is surely none: a key that was put where a command belongs would be shown.
        named = f" ({value[0]})" if value[0] in _SHELLS_OWN else ""
        raise UserError(
            ExitCode.KEYS_MISSING,
            f"{given.place}: its program was not found{named}: give the full path, or see to PATH; "
            f"no shell runs it: for `cd` or a pipe write sh -c '…'",
        )
    return FromCommand((os.path.abspath(program), *value[1:]), without_keys(environ), given.place)


def parsed(setting: Setting, given: Given) -> object:
    """Return a setting's value. Raises UserError with one line that names who gave it."""
    try:
        return setting.parse(given.text)
    except ValueError as error:
        # A URL may stand where none belongs.
        raise UserError(given.code, f"{given.place}: {without_passwords(str(error))}") from None


def without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without any key in it: for what a mount starts (semantics 6.1)."""
    keys = {variable for key in KEYS for variable in BY_NAME[key].env}
    return {name: value for name, value in environ.items() if name not in keys}
