"""Reads the config file: TOML, with settings at its top and in the tables of profiles.

Owns its syntax and its permissions (docs/semantics.md 6.2), not the values. The top of the file is the default for all
profiles; a profile is a table `[profiles.NAME]` with the same keys.
"""

import os
import shlex
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import bounded_read, parsers, trusted_files
from artifactfs.settings.paths import APP, config_home
from artifactfs.settings.schema import BY_NAME, KEYS
from artifactfs.settings.suggestions import hint, nearest
from artifactfs.util.escaping import shell_word

_PROFILES = "profiles"
_COMMANDS = frozenset(name for name in BY_NAME if name.endswith("_command"))
# Keys of the file besides settings.
_AT_THE_TOP = ("profile", _PROFILES)
# A file of a hundred profiles has some 20 KiB. Arbitrary.
_MAX_BYTES = 1 << 20
# For a file that comes through a pipe (`--config <(...)`). Arbitrary: its writer may have to fetch it.
_LIMIT_S = 30.0


@dataclass(frozen=True, repr=False)
class ConfigFile:
    """A config file that was read: raw texts by name. It has no repr, as it may hold keys.

    `exists`: whether there is such a file. `default_profile`: named by the file itself. `lasting`: whether the file can
    be read again, which is false for a pipe.
    """

    path: str
    exists: bool
    top: Mapping[str, str]
    profiles: Mapping[str, Mapping[str, str]]
    default_profile: str | None
    lasting: bool = True

    def profile(self, name: str, source: str) -> Mapping[str, str]:
        """Return a profile's values. Raises UserError for an unknown profile; `source`: the setting that names it."""
        if name in self.profiles:
            return self.profiles[name]
        code = ExitCode.BAD_CONFIG if source == self.path else ExitCode.USAGE
        fact = f"there is no profile {name!r}"
        if not self.exists:
            raise UserError(code, f"{fact}: there is no config file {self.path}", subject=source)
        if not self.profiles:
            raise UserError(code, f"{fact}: {self.path} has none", f"add a table [profiles.{name}]", source)
        meant = nearest(name, self.profiles)
        guess = f"did you mean {meant}? " if meant is not None else ""
        raise UserError(code, fact, f"{guess}{self.path} has {', '.join(sorted(self.profiles))}", source)


def default_path() -> str:
    """Return the path of this user's config file, which need not exist."""
    return os.path.join(config_home(), APP, "config.toml")


def read(named: str | None, *, once: bool = False) -> ConfigFile:
    """Read the file `named`, which must exist, or this user's own, which need not.

    `once`: it is read only this time, so it may be a pipe.
    Raises UserError (BAD_CONFIG) with one line that names the file and shows none of its contents.
    """
    try:
        path = default_path() if named is None else parsers.path(named)
    except ValueError as error:
        raise UserError(ExitCode.BAD_CONFIG, str(error), subject="the config file") from None
    try:
        limit_s = _LIMIT_S if once else 0
        text, status = bounded_read.read(path, most_bytes=_MAX_BYTES, limit_s=limit_s, opener=trusted_files.open_ours)
    except trusted_files.NotOurs as error:
        raise _not_ours(path, error, named=named is not None) from None
    except (FileNotFoundError, NotADirectoryError):
        if named is not None:
            raise UserError(ExitCode.BAD_CONFIG, f"there is no config file {path}") from None
        return ConfigFile(path, False, {}, {}, None)
    except OSError as error:
        raise UserError(ExitCode.BAD_CONFIG, f"cannot read the config file: {error.strerror}", subject=path) from None
    try:
        top, profiles, default = _parsed(path, text)
    except UserError:
        # A file that is refused need not be correct.
        _refuse_touched(path, status, holds_keys=False)
        raise
    holds_keys = any(name in KEYS for table in (top, *profiles.values()) for name in table)
    _refuse_touched(path, status, holds_keys=holds_keys)
    return ConfigFile(path, True, top, profiles, default, lasting=stat.S_ISREG(status.st_mode))


def _parsed(path: str, text: bytes) -> tuple[dict[str, str], dict[str, dict[str, str]], str | None]:
    """Return a file's top, its profiles, and the default profile that it names. Raises UserError."""
    try:
        raw = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        # Not TOML, not UTF-8, a number of thousands of digits, nesting without end.
        # The parser's message names a line and column, never the line's text, which may hold a key.
        said = " ".join(str(error).split())
        fix = 'correct that line; texts, sizes and times are in quotes, as in listing_ttl = "5m"'
        raise _bad(path, f"the config file is not valid TOML: {said}", fix) from None
    profile = raw.pop("profile", None)
    if isinstance(profile, dict):
        raise _bad(path, "a profile's table is called [profiles.NAME], with an s")
    if profile is not None and not isinstance(profile, str):
        raise _bad(path, "profile must be the name of a profile")
    tables = raw.pop(_PROFILES, {})
    if not isinstance(tables, dict):
        raise _bad(path, "profiles must be tables: [profiles.NAME]")
    top = dict(_values(raw, where=path, more=_AT_THE_TOP))
    profiles = {}
    for name, table in tables.items():
        where = section(path, name)
        if not isinstance(table, dict):
            raise _bad(path, f"{name} in profiles is no profile: its settings go below a line [profiles.{name}]")
        profiles[name] = dict(_values(table, where=where, more=()))
    return top, profiles, profile


def section(path: str, profile: str | None) -> str:
    """Return the name, in messages, of the file's top or of one of its profiles."""
    return path if profile is None else f"[profiles.{profile}] in {path}"


def _values(table: Mapping[str, object], *, where: str, more: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield names and raw texts of one table. `more`: names that belong there besides those of settings."""
    for name, value in table.items():
        if name not in BY_NAME:
            if isinstance(value, dict) and nearest(name, (_PROFILES,)) is None:
                raise _bad(where, f"a profile's table is called [profiles.{name}]")
            if name == "profile":
                raise _bad(where, "profile belongs at the top of the file")
            raise _bad(where, f"there is no setting {name!r}", hint(name, [*BY_NAME, *more]))
        if name in _COMMANDS and isinstance(value, list) and all(isinstance(word, str) for word in value):
            yield name, shlex.join(value)
            continue
        # TOML's numbers have 64 bits; tomllib takes more.
        if not isinstance(value, str | int | float) or (isinstance(value, int) and abs(value) >= 2**63):
            raise _bad(where, f"{name} must be a string, a number, true or false")
        if BY_NAME[name].parse is parsers.octal and not isinstance(value, str):
            # TOML reads 27 as a decimal number, a user means an octal one.
            raise _bad(where, f'{name} must be text, like "{BY_NAME[name].show(0o750)}"')
        yield name, str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_touched(path: str, status: os.stat_result, *, holds_keys: bool) -> None:
    """Refuse a file with keys that others can read, and any file that others can write."""
    quoted = shell_word(path)
    if holds_keys and status.st_mode & 0o077:
        fact = f"{path} holds keys and others can read it"
        raise UserError(ExitCode.BAD_CONFIG, fact, command=f"chmod 600 {quoted}")
    if trusted_files.others_write(status):
        fact = f"others can write to {path}, so it is not used"
        raise UserError(ExitCode.BAD_CONFIG, fact, command=f"chmod go-w {quoted}")


def _not_ours(path: str, error: trusted_files.NotOurs, *, named: bool) -> UserError:
    """Return the error for a file of another user, which is never used."""
    command = ""
    if named:
        command = f"install -m 600 {shell_word(path)} COPY"
        fix = f"give a copy of your own: run `{command}`, check its contents, and name COPY"
    elif os.geteuid() == 0:
        command = "sudo -H artifactfs …"
        fix = f"HOME or XDG_CONFIG_HOME leads there: run `{command}`, or name another with --config FILE"
    else:
        fix = "HOME or XDG_CONFIG_HOME leads there: set it to a directory of your own, or use --config FILE"
    return UserError(ExitCode.BAD_CONFIG, f"{path} {error}, so it is not used", fix, command=command)


def _bad(subject: str, fact: str, fix: str = "") -> UserError:
    return UserError(ExitCode.BAD_CONFIG, fact, fix, subject)
