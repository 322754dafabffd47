"""Settings: flag > environment > config file > default.

The only module that looks at `os.environ`. Secrets are wrapped: neither `repr` nor `str` nor an exception shows one.
"""

import hashlib
import os
import re
import stat
import tomllib
import urllib.parse
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import platformdirs

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings.parsers import path as parse_path
from artifactfs.settings.places import APP
from artifactfs.settings.secret import Secret
from artifactfs.settings.table import BY_NAME, SETTINGS, Setting

# Options of mount(8) that say nothing new here: the mount is read-only, and the rest is for fstab's readers.
_IGNORED_OPTIONS = frozenset(
    {"ro", "defaults", "relatime", "async", "nosuid", "nodev", "exec"}
    | {"auto", "noauto", "user", "nouser", "users", "nofail", "_netdev"}
)
_KERNEL_OPTIONS = frozenset({"noexec", "noatime", "nodiratime"})


@dataclass(frozen=True)
class Settings:
    """What a mount was asked to be. Times in seconds, sizes in bytes; `None` keys mean there are none."""

    api_url: str
    site: str
    api_key: Secret | None
    app_key: Secret | None
    access_token: Secret | None
    proxy: str | None = field(repr=False)  # may hold a password
    ca_file: str | None
    cache_dir: str
    cache_size: int
    cache_min_free: int
    listing_ttl: float
    finished_ttl: float
    negative_ttl: float
    stale_max: float
    deadline: float
    prefetch: str
    wait: bool
    runs_listed: int
    umask: int
    uid: int
    gid: int
    allow_other: bool
    log_file: str | None
    verbose: bool
    config_file: str
    kernel_options: frozenset[str] = frozenset()
    # What the user named as the origin: for messages.
    origin: str = ""

    def account(self) -> str:
        """Return what names the owner of cached content: a digest of the application key or token (semantics 6.3)."""
        key = self.access_token or self.app_key
        return hashlib.blake2b(key.reveal().encode(), digest_size=16).hexdigest() if key is not None else ""

    def secrets(self) -> list[str]:
        """Return every secret in the clear: for the log's redaction, and nothing else."""
        found = [s.reveal() for s in (self.api_key, self.app_key, self.access_token) if s is not None]
        if self.proxy and (password := urllib.parse.urlsplit(self.proxy).password):
            found.append(password)
        return found


def drop_keys(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take every key out of the environment, so that what this process starts does not get them (semantics 6.1)."""
    for setting in SETTINGS:
        if not setting.flag:
            for variable in setting.env:
                environ.pop(variable, None)


def load(
    flags: Mapping[str, str | bool | None],
    *,
    options: str = "",
    config_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
    need_keys: bool = True,
) -> Settings:
    """Put together the settings from flags, `-o` options, environment, config file and defaults.

    `flags`: raw text by setting name, None or False where it was not given. `options`: the text of `-o`.
    Raises UserError (USAGE, BAD_CONFIG, KEYS_MISSING) with one line that names the source of the bad value.
    """
    given, kernel_options = _parse_options(options)
    given |= {name: (str(value), BY_NAME[name].option) for name, value in flags.items() if value not in (None, False)}
    path, config = _read_config(config_file or environ.get("ARTIFACTFS_CONFIG") or None)
    levels = (given, _from_environment(environ), {n: (v, f"{n} in {path}") for n, v in config.items()})

    values: dict[str, Any] = {}
    for setting in SETTINGS:
        code = ExitCode.USAGE
        values[setting.name] = setting.default
        for level, found in enumerate(levels):
            if setting.name in found:
                text, source = found[setting.name]
                code = ExitCode.BAD_CONFIG if level == 2 else ExitCode.USAGE
                values[setting.name] = _parsed(setting, text, source, code)
                break
    for key in ("api_key", "app_key", "access_token"):
        values[key] = _key(key, levels)
    if need_keys and values["access_token"] is None:
        for key, env in (("api_key", "DD_API_KEY"), ("app_key", "DD_APP_KEY")):
            if values[key] is None:
                kind = "API" if key == "api_key" else "application"
                raise UserError(
                    ExitCode.KEYS_MISSING,
                    f"there is no {kind} key: set {env}, or use {BY_NAME[key].option}-file FILE, "
                    f"or put {key} into {path}",
                )
    del values["api_key_file"], values["app_key_file"]
    if values["api_url"] is None:
        values["api_url"] = f"https://api.{values['site']}"
    if values["cache_dir"] is None:
        values["cache_dir"] = platformdirs.user_cache_dir(APP, appauthor=False)
    values["uid"] = os.geteuid() if values["uid"] is None else values["uid"]
    values["gid"] = os.getegid() if values["gid"] is None else values["gid"]
    origin = urllib.parse.urlsplit(values["api_url"]).netloc
    return Settings(**values, config_file=path, kernel_options=frozenset(kernel_options), origin=origin)


def _parsed(setting: Setting, text: str, source: str, code: ExitCode) -> object:
    try:
        return setting.parse(text)
    except ValueError as error:
        raise UserError(code, f"{source}: {error}") from None


def _parse_options(text: str) -> tuple[dict[str, tuple[str, str]], set[str]]:
    """Split the text of `-o` into settings (raw text and source) and options for the kernel."""
    found: dict[str, tuple[str, str]] = {}
    kernel: set[str] = set()
    for option in filter(None, text.split(",")):
        name, equals, value = option.partition("=")
        setting = BY_NAME.get(name.replace("-", "_"))
        if setting is not None and setting.flag and (equals or setting.metavar is None):
            found[setting.name] = (value if equals else "true", f"-o {name}")
        elif setting is not None and setting.flag:
            raise UserError(ExitCode.USAGE, f"-o {name}: it needs a value: -o {name}={setting.metavar}")
        elif name == "rw":
            raise UserError(ExitCode.USAGE, "-o rw: artifactfs is read-only; leave it out")
        elif name in _KERNEL_OPTIONS and not equals:
            kernel.add(name)
        elif name not in _IGNORED_OPTIONS and not name.startswith("x-"):
            known = ", ".join(sorted(s.name for s in SETTINGS if s.flag))
            # Without the value: it may be a key.
            raise UserError(ExitCode.USAGE, f"-o {name}: there is no such option; there are {known}")
    return found, kernel


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for setting in SETTINGS:
        for variable in setting.env:
            if value := environ.get(variable, "").strip():
                found[setting.name] = (value, variable)
                break
    return found


def _read_config(path: str | None) -> tuple[str, dict[str, str]]:
    """Return the config file's path, and its values as raw text. A default file may be missing."""
    explicit = path is not None
    path = (
        parse_path(path)
        if path is not None
        else os.path.join(platformdirs.user_config_dir(APP, appauthor=False), "config.toml")
    )
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = tomllib.load(file)
    except FileNotFoundError:
        if explicit:
            raise UserError(ExitCode.BAD_CONFIG, f"there is no config file {path}") from None
        return path, {}
    except OSError as error:
        raise UserError(ExitCode.BAD_CONFIG, f"cannot read the config file {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        # Not TOML, not UTF-8, a number of thousands of digits, brackets without end.
        # A parser's message names a line and column, never the line's text, which may hold a key.
        raise UserError(ExitCode.BAD_CONFIG, f"the config file {path} is not valid TOML: {_one_line(error)}") from None
    values: dict[str, str] = {}
    for name, value in raw.items():
        if name not in BY_NAME:
            raise UserError(ExitCode.BAD_CONFIG, f"{path}: there is no setting {name!r}")
        # TOML's numbers have 64 bits; tomllib takes more.
        if not isinstance(value, str | int | float) or (isinstance(value, int) and abs(value) >= 2**63):
            raise UserError(ExitCode.BAD_CONFIG, f"{path}: {name} must be a string, a number, true or false")
        if name == "umask" and not isinstance(value, str):
            # 27 and 0o27 are other numbers to TOML than to who writes a mask.
            raise UserError(ExitCode.BAD_CONFIG, f'{path}: umask must be text, like "027"')
        values[name] = str(value).lower() if isinstance(value, bool) else str(value)
    if {"api_key", "app_key", "access_token"} & values.keys() and stat.S_IMODE(mode) & 0o077:
        raise UserError(ExitCode.BAD_CONFIG, f"{path} holds keys and others can read it: run `chmod 600 {path}`")
    return path, values


def _key(name: str, levels: tuple[dict[str, tuple[str, str]], ...]) -> Secret | None:
    """Return a key from the first level that has it, as a file or as text."""
    for found in levels:
        if (file := found.get(f"{name}_file")) is not None:
            return _key_from_file(file[0], file[1])
        if (text := found.get(name)) is not None:
            return _checked_key(text[0], text[1])
    return None


def _key_from_file(path: str, source: str) -> Secret:
    try:
        with open(parse_path(path), encoding="utf-8") as file:
            # A key has 32 to some hundred characters; a whole log given by mistake is none.
            text = file.read(4096)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(ExitCode.KEYS_MISSING, f"{source}: cannot read the key from {path}: {reason}") from None
    if not text.strip():
        raise UserError(ExitCode.KEYS_MISSING, f"{source}: {path} is empty")
    return _checked_key(text, source)


def _checked_key(text: str, source: str) -> Secret:
    key = text.strip()
    # Never judged by its shape, but a header cannot carry these.
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UserError(
            ExitCode.KEYS_MISSING, f"{source}: the key holds spaces or characters that no HTTP header can carry"
        )
    return Secret(key)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
