"""Loads the settings of a mount: the values of the strongest sources, with the keys read."""

import os
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field

from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.settings import trusted_files
from artifactfs.settings.configfile import section
from artifactfs.settings.keys import InFile, Keys, KeySource, checked_key, every_user_can_read
from artifactfs.settings.process_privacy import without_keys
from artifactfs.settings.schema import BY_NAME, KEY_FORMS, KEYS, SETTINGS, Values
from artifactfs.settings.secret import Secret
from artifactfs.settings.sources import Sources, collect
from artifactfs.settings.suggestions import nearest
from artifactfs.util.escaping import shell_word

# Profiles that a message names, at most. Arbitrary.
_MAX_NAMED = 5


@dataclass(frozen=True)
class Settings(Values):
    """The settings of a mount, and where they come from.

    `origin`: the API's host and port, for messages. `origin_is_default`: whether no source names a site or an API URL.
    `profile`: the chosen one. `keys`: where to read the keys again.
    """

    config_file: str = ""
    kernel_options: frozenset[str] = frozenset()
    origin: str = ""
    origin_is_default: bool = False
    profile: str | None = None
    warnings: tuple[Notice, ...] = ()
    keys: KeySource = field(default_factory=KeySource)

    @property
    def is_of_site(self) -> bool:
        """Whether the API's URL is that of the site."""
        return self.api_url == f"https://api.{self.site}"

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
    may_be_offline: bool = False,
    before_commands: Callable[[], object] = lambda: None,
) -> Settings:
    """Return the settings from flags, `-o` options, environment, config file and defaults.

    `flags`: raw text by setting name (and `profile`), None or False where it was not given. `options`: the text of
    `-o`. `need_keys` False: no key file is read and no command run. `may_be_offline`: the caller works without the
    service where the settings say so: then no key is needed and no command run, and the keys that are at hand only tell
    the account (docs/semantics.md 8.3). `before_commands` is called before the first command, which may prompt for a
    passphrase. Raises UserError (USAGE, BAD_CONFIG, KEYS_MISSING) with the source of the bad value as its subject.
    """
    sources = collect(flags, options=options, config_file=config_file, environ=environ)
    values, errors = sources.resolve(setting for setting in SETTINGS if setting.name not in KEY_FORMS)
    for error in errors.values():
        raise error
    warnings = [*sources.warnings()]
    if need_keys and may_be_offline and values["offline"] == "always":
        found, keys = _keys_at_hand(sources, warnings), KeySource()
    elif need_keys:
        keys = KeySource(**{key: sources.origin(given) for key, given in sources.chosen_keys().items()})
        _need(keys, sources)
        warnings += [*_open_files(keys), *_foreign_certificates(values["ca_file"])]
        if keys.has_commands:
            before_commands()
        found, keys = keys.read()
    else:
        found, keys = _literal_keys(sources, warnings), KeySource()
    return Settings(
        **values,
        api_key=found.api_key,
        app_key=found.app_key,
        access_token=found.access_token,
        config_file=sources.config.path,
        kernel_options=sources.kernel_options,
        origin=urllib.parse.urlsplit(values["api_url"]).netloc,
        origin_is_default=sources.find("site", "api_url") is None,
        profile=sources.profile.text if sources.profile is not None else None,
        warnings=tuple(warnings),
        keys=keys,
    )


def _literal_keys(sources: Sources, warnings: list[Notice]) -> Keys:
    """Return the keys that are given as they are. Adds a warning for one that can be none."""
    found: dict[str, Secret] = {}
    for key in KEYS:
        if (given := sources.find(key)) is not None:
            try:
                found[key] = checked_key(given.text, given.subject)
            except UserError as error:
                warnings.append(Notice(str(error)))
    return Keys(**found)


def _keys_at_hand(sources: Sources, warnings: list[Notice]) -> Keys:
    """Return the keys that no command gives. Adds a warning for one that cannot be read."""
    found: dict[str, Secret] = {}
    for key, given in sources.chosen_keys().items():
        if given.name.endswith("_command"):
            continue
        try:
            found[key], _ = sources.origin(given).first()
        except UserError as error:
            warnings.append(Notice(str(error)))
    return Keys(**found)


def _need(keys: KeySource, sources: Sources) -> None:
    """Raise UserError (KEYS_MISSING) unless there is a token or both keys."""
    if keys.access_token is not None:
        return
    known = {name for setting in SETTINGS for name in setting.env}
    profile = sources.profile.text if sources.profile is not None else None
    profiles = sorted(sources.config.profiles) if profile is None else []
    choice = f"choose a profile with --profile ({', '.join(profiles[:_MAX_NAMED])}); or " if profiles else ""
    for key, kind, origin in (("api_key", "API", keys.api_key), ("app_key", "application", keys.app_key)):
        if origin is None:
            option, variable = BY_NAME[key].option, BY_NAME[key].more_env[0]
            # As DD_APPLICATION_KEY, after the header's name.
            other = nearest(
                variable, [name for name in sources.environ if name.startswith("DD_") and name not in known]
            )
            raise UserError(
                ExitCode.KEYS_MISSING,
                f"there is no {kind} key",
                f"{choice}`artifactfs login` asks for it and keeps it; or set {variable}"
                f"{f' (there is {other})' if other else ''}, or use {option}-file FILE or {option}-command COMMAND, "
                f"or put {key} into {section(sources.config.path, profile)}",
                command="artifactfs login  # or: export DD_API_KEY=… DD_APP_KEY=…",
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
        fact = f"others can change the trusted certificates in {ca_file}"
        yield Notice(fact, "", f"chmod go-w {shell_word(ca_file)}")
    elif found.st_uid not in (0, os.geteuid()):
        yield Notice(f"another user (uid {found.st_uid}) can change the trusted certificates in {ca_file}")


def _open_files(keys: KeySource) -> Iterator[Notice]:
    """Warn of key files that all users can read. They are not refused: Docker and Kubernetes provide secrets so."""
    for _, origin in keys.origins():
        if isinstance(origin, InFile) and every_user_can_read(origin.path):
            fact = f"all users of this machine can read the key in {origin.path}"
            yield Notice(fact, "", f"chmod 600 {shell_word(origin.path)}")
