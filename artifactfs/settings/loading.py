"""Settings: flag > environment > systemd credentials > profile > config file > default.

Owns the values. Secrets are wrapped: neither `repr` nor `str` nor an exception shows them.
"""

import os
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.settings import trusted_files
from artifactfs.settings.configfile import section
from artifactfs.settings.keys import InFile, KeySource, everybody_can_read
from artifactfs.settings.paths import APP, cache_home
from artifactfs.settings.schema import BY_NAME, KEY_FORMS, SETTINGS
from artifactfs.settings.secret import Secret
from artifactfs.settings.sources import Sources, collect_layers, key_source, parse_value, without_keys
from artifactfs.settings.suggestions import nearest
from artifactfs.util.escaping import shell_word


@dataclass(frozen=True)
class Settings:
    """The settings of a mount. Times in seconds, sizes in bytes; a key is None where there is none."""

    api_url: str
    site: str
    api_key: Secret | None
    app_key: Secret | None
    access_token: Secret | None
    account: str | None
    proxy: str | None = field(repr=False)  # may hold a password
    ca_file: str | None
    version_header: bool
    cache_dir: str
    cache_size: int
    cache_min_free: int
    listing_ttl: float
    live_ttl: float
    finished_ttl: float
    negative_ttl: float
    stale_max: float
    deadline: float
    prefetch: str
    wait: bool
    wait_max: float | None
    runs_listed: int
    xattrs: bool
    umask: int
    uid: int
    gid: int
    allow_other: bool
    fsname: str
    log_to: str
    log_file: str | None
    log_format: str
    verbose: bool
    config_file: str
    kernel_options: frozenset[str] = frozenset()
    # The API's host and port, for messages.
    origin: str = ""
    # Whether no source names a site or an API URL.
    origin_is_default: bool = False
    # The chosen profile of the config file.
    profile: str | None = None
    warnings: tuple[Notice, ...] = ()
    # Where to read the keys again.
    keys: KeySource = field(default_factory=KeySource)

    def secrets(self) -> list[str]:
        """Return every secret in the clear: for the redaction of the log only."""
        found = [s.reveal() for s in (self.api_key, self.app_key, self.access_token) if s is not None]
        if self.proxy and (password := urllib.parse.urlsplit(self.proxy).password):
            found.append(password)
        return found


def drop_keys(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove every key from the environment, so that child processes do not get them (docs/semantics.md 6.1)."""
    for name in environ.keys() - without_keys(environ).keys():
        del environ[name]


def load(
    flags: Mapping[str, str | bool | None],
    *,
    options: str = "",
    config_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
    need_keys: bool = True,
    before_commands: Callable[[], object] = lambda: None,
) -> Settings:
    """Return the settings from flags, `-o` options, environment, config file and defaults.

    `flags`: raw text by setting name (and `profile`), None or False where it was not given. `options`: the text of
    `-o`. `need_keys` False: no key file is read and no command run. `before_commands` is called before the first
    command, which may prompt for a passphrase. Raises UserError (USAGE, BAD_CONFIG, KEYS_MISSING) with the source of
    the bad value as its subject.
    """
    sources = collect_layers(flags, options=options, config_file=config_file, environ=environ)
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.name not in KEY_FORMS:
            given = sources.find(setting.name)
            values[setting.name] = parse_value(setting, given) if given is not None else setting.default
    keys = key_source(sources, environ, given_only=not need_keys)
    warnings = [*sources.warnings]
    if need_keys:
        _need(keys, sources, environ)
        warnings += [*_open_files(keys), *_foreign_certificates(values["ca_file"])]
        if keys.has_commands:
            before_commands()
        found, keys = keys.read()
    else:
        found = keys.without_reading()
    fill_in(values)
    return Settings(
        **values,
        api_key=found.api_key,
        app_key=found.app_key,
        access_token=found.access_token,
        config_file=sources.config.path,
        kernel_options=sources.kernel_options,
        origin=urllib.parse.urlsplit(values["api_url"]).netloc,
        origin_is_default=sources.find("site") is None and sources.find("api_url") is None,
        profile=sources.profile,
        warnings=tuple(warnings),
        keys=keys,
    )


def fill_in(values: dict[str, Any]) -> None:
    """Fill in the defaults that depend on other values, or on the user."""
    if values.get("api_url") is None and "site" in values:
        values["api_url"] = f"https://api.{values['site']}"
    if values.get("cache_dir") is None:
        values["cache_dir"] = os.path.join(cache_home(), APP)
    for name, own in (("uid", os.geteuid()), ("gid", os.getegid())):
        if values.get(name) is None:
            values[name] = own


def _need(keys: KeySource, sources: Sources, environ: Mapping[str, str]) -> None:
    """Raise UserError (KEYS_MISSING) unless there is a token or both keys."""
    if keys.access_token is not None:
        return
    known = {name for setting in SETTINGS for name in setting.env}
    for key, kind, origin in (("api_key", "API", keys.api_key), ("app_key", "application", keys.app_key)):
        if origin is None:
            option, variable = BY_NAME[key].option, BY_NAME[key].more_env[0]
            # As DD_APPLICATION_KEY, after the header's name.
            other = nearest(variable, [name for name in environ if name.startswith("DD_") and name not in known])
            raise UserError(
                ExitCode.KEYS_MISSING,
                f"there is no {kind} key",
                f"set {variable}{f' (there is {other})' if other else ''}, or use "
                f"{option}-file FILE or {option}-command COMMAND, or put {key} into "
                f"{section(sources.config.path, sources.profile)}",
                command="export DD_API_KEY=… DD_APP_KEY=…",
            )


def _foreign_certificates(ca_file: str | None) -> Iterator[Notice]:
    """Warn of CA certificates that other users can change: they could redirect the keys to their own server.

    Such a file is not refused, since containers get it with any owner.
    """
    if ca_file is None:
        return
    try:
        found = os.stat(ca_file)
    except OSError:
        # The mount reports it.
        return
    if trusted_files.others_write(found):
        yield Notice(
            f"others can change the trusted certificates in {ca_file}", "", f"chmod go-w {shell_word(ca_file)}"
        )
    elif found.st_uid not in (0, os.geteuid()):
        yield Notice(f"another user (uid {found.st_uid}) can change the trusted certificates in {ca_file}")


def _open_files(keys: KeySource) -> list[Notice]:
    """Warn of key files that all users can read. They are not refused: Docker and Kubernetes provide secrets so."""
    origins = (keys.api_key, keys.app_key, keys.access_token)
    return [
        Notice(
            f"all users of this machine can read the key in {origin.path}", "", f"chmod 600 {shell_word(origin.path)}"
        )
        for origin in origins
        if isinstance(origin, InFile) and everybody_can_read(origin.path)
    ]
