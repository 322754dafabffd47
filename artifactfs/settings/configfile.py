"""The config file: TOML, with settings at its top and in the tables of profiles.

Owns what may be in it and who may touch it (semantics 6.2), not what the values mean. The top of the file is the
default of all profiles; a profile is a table `[profiles.NAME]` with the same keys.
"""

import os
import shlex
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import bounded_read, trusted_files
from artifactfs.settings.nearest import hint, nearest
from artifactfs.settings.parsers import path as parse_path
from artifactfs.settings.paths import APP, config_home
from artifactfs.settings.schema import BY_NAME, KEYS
from artifactfs.util.escaping import shell_word

_PROFILES = "profiles"
_COMMANDS = frozenset(name for name in BY_NAME if name.endswith("_command"))
# What a file may hold besides settings.
_AT_THE_TOP = ("profile", _PROFILES)
# A file of a hundred profiles has some 20 KiB. Arbitrary.
_MAX_BYTES = 1 << 20
# For one that comes through a pipe (`--config <(...)`). Arbitrary: what makes it may have to fetch it.
_LIMIT_S = 30.0


@dataclass(frozen=True, repr=False)
class ConfigFile:
    """A config file that was read: raw texts by name. Not shown: it may hold keys.

    `exists`: whether there is one. `default_profile`: the one that the file itself names. `lasting`: whether it can be
    read again; what came through a pipe cannot.
    """

    path: str
    exists: bool
    top: Mapping[str, str]
    profiles: Mapping[str, Mapping[str, str]]
    default_profile: str | None
    lasting: bool = True

    def profile(self, name: str, source: str) -> Mapping[str, str]:
        """Return a profile's values. Raises UserError for one that is not there; `source`: who named it."""
        if name in self.profiles:
            return self.profiles[name]
        code = ExitCode.BAD_CONFIG if source == self.path else ExitCode.USAGE
        if not self.exists:
            raise UserError(code, f"{source}: there is no profile {name!r}: there is no config file {self.path}")
        known = ", ".join(sorted(self.profiles))
        meant = nearest(name, self.profiles)
        guess = f"did you mean {meant}? " if meant is not None else ""
        there = f"{guess}{self.path} has {known}" if known else f"{self.path} has none; add a table [profiles.{name}]"
        raise UserError(code, f"{source}: there is no profile {name!r}: {there}")


def default_path() -> str:
    """Return where the config file of this user is, whether there is one or not."""
    return os.path.join(config_home(), APP, "config.toml")


def read(named: str | None, *, once: bool = False) -> ConfigFile:
    """Read the config file that was named, which must be there, or this user's own, which need not.

    `once`: nobody will read it again, nor has, so it may come through a pipe.
    Raises UserError (BAD_CONFIG) with one line that names the file and shows nothing of what is in it.
    """
    try:
        path = default_path() if named is None else parse_path(named)
    except ValueError as error:
        raise UserError(ExitCode.BAD_CONFIG, f"the config file: {error}") from None
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
        raise UserError(ExitCode.BAD_CONFIG, f"cannot read the config file {path}: {error.strerror}") from None
    try:
        top, profiles, default = _parsed(path, text)
    except UserError:
        # Nobody need mend what does not count.
        _refuse_touched(path, status, holds_keys=False)
        raise
    holds_keys = any(name in KEYS for table in (top, *profiles.values()) for name in table)
    _refuse_touched(path, status, holds_keys=holds_keys)
    return ConfigFile(path, True, top, profiles, default, lasting=stat.S_ISREG(status.st_mode))


def _parsed(path: str, text: bytes) -> tuple[dict[str, str], dict[str, dict[str, str]], str | None]:
    """Return what is in a file: its top, its profiles, and which of them it names itself. Raises UserError."""
    try:
        raw = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        # Not TOML, not UTF-8, a number of thousands of digits, brackets without end.
        # A parser's message names a line and column, never the line's text, which may hold a key.
        said = " ".join(str(error).split())
        raise UserError(ExitCode.BAD_CONFIG, f"the config file {path} is not valid TOML: {said}") from None
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
    """Return what messages call the file's top, or one of its profiles."""
    return path if profile is None else f"[profiles.{profile}] in {path}"


def _values(table: Mapping[str, object], *, where: str, more: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield names and raw texts of one table. `more`: names that belong there besides those of settings."""
    for name, value in table.items():
        if name not in BY_NAME:
            if isinstance(value, dict) and nearest(name, (_PROFILES,)) is None:
                raise UserError(ExitCode.BAD_CONFIG, f"{where}: a profile's table is called [profiles.{name}]")
            if name == "profile":
                raise UserError(ExitCode.BAD_CONFIG, f"{where}: profile belongs at the top of the file")
            guess = hint(name, [*BY_NAME, *more])
            raise UserError(ExitCode.BAD_CONFIG, f"{where}: there is no setting {name!r}; {guess}")
        if name in _COMMANDS and isinstance(value, list) and all(isinstance(word, str) for word in value):
            yield name, shlex.join(value)
            continue
        # TOML's numbers have 64 bits; tomllib takes more.
        if not isinstance(value, str | int | float) or (isinstance(value, int) and abs(value) >= 2**63):
            raise UserError(ExitCode.BAD_CONFIG, f"{where}: {name} must be a string, a number, true or false")
        if name == "umask" and not isinstance(value, str):
            # 27 and 0o27 are other numbers to TOML than to who writes a mask.
            raise UserError(ExitCode.BAD_CONFIG, f'{where}: umask must be text, like "027"')
        yield name, str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_touched(path: str, status: os.stat_result, *, holds_keys: bool) -> None:
    """Refuse a file that others may read though it holds keys, or write, whatever is in it."""
    quoted = shell_word(path)
    if holds_keys and status.st_mode & 0o077:
        raise UserError(ExitCode.BAD_CONFIG, f"{path} holds keys and others can read it: run `chmod 600 {quoted}`")
    if trusted_files.others_write(status):
        said = f"others can write to {path}, so it does not count"
        raise UserError(ExitCode.BAD_CONFIG, f"{said}: run `chmod go-w {quoted}`")


def _not_ours(path: str, error: trusted_files.NotOurs, *, named: bool) -> UserError:
    """Return what to say of a file of another user, and what to type: it does not count, whatever is in it."""
    if named:
        todo = f"give a copy of your own: run `install -m 600 {shell_word(path)} COPY`, look at it, and name COPY"
    elif os.geteuid() == 0:
        todo = "HOME or XDG_CONFIG_HOME leads there: run `sudo -H artifactfs …`, or name another with --config FILE"
    else:
        todo = "HOME or XDG_CONFIG_HOME leads there: set it to a place of your own, or name another with --config FILE"
    return UserError(ExitCode.BAD_CONFIG, f"{path} {error}, so it does not count; {todo}")


def _bad(path: str, what: str) -> UserError:
    return UserError(ExitCode.BAD_CONFIG, f"{path}: {what}")
