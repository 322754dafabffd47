"""The settings as they are: whether they can be read, where the keys come from, what of the environment is not read.

What is hard is a setting that cannot be read: the rest is still worth a look, but with a config file that is not
understood nobody knows where the keys may go, so the service is not asked then (semantics 6.1).
"""

import dataclasses
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from artifactfs import settings
from artifactfs.doctor.findings import Finding, fault, good, warning
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import Settings
from artifactfs.util.escaping import shell_word
from artifactfs.util.urls import is_loopback

# For all files that settings name, one of which may be a pipe into which nobody writes. Commands that print keys have
# limits of their own: somebody may have to type a passphrase.
_READING_S = 10.0
# A sentence may have the command in it that mends what it says.
_COMMAND = re.compile(r"run `([^`]+)`")


@dataclass(frozen=True)
class Given:
    """What the command was given, as `settings.load` takes it."""

    flags: Mapping[str, str | bool | None]
    options: str
    config_file: str | None


@dataclass(frozen=True)
class Setup:
    """The settings, or what they are without what cannot be read; `may_ask`: whether it is known where keys may go."""

    settings: Settings
    findings: list[Finding]
    may_ask: bool


def read(given: Given) -> Setup:
    """Read the settings as `mount` does. Never raises for what is wrong with them."""
    try:
        with _limited(_READING_S) as lift:
            loaded = settings.load(
                given.flags, options=given.options, config_file=given.config_file, before_commands=lift
            )
    except UserError as error:
        return _broken(given, error)
    origins = (
        ("access token", loaded.keys.access_token),
        ("API key", loaded.keys.api_key),
        ("application key", loaded.keys.app_key),
    )
    places = [f"{name} from {_place(origin)}" for name, origin in origins if origin is not None]
    # With a token the keys are not used.
    told = places[0] if loaded.keys.access_token is not None else ", ".join(places)
    return Setup(loaded, [*_understood(loaded), good("keys", told)], may_ask=True)


def _place(origin: settings.Origin) -> str:
    """Return where a key comes from, and never the key."""
    path = getattr(origin, "path", None)
    return f"{origin.source} ({path})" if path is not None and path not in origin.source else origin.source


def _broken(given: Given, error: UserError) -> Setup:
    loaded = _loaded(given) if error.code is ExitCode.KEYS_MISSING else None
    if loaded is None:
        mend = _mend(error, _config_file(given))
        return Setup(_without(given), [fault("settings", str(error), mend)], may_ask=False)
    # Where the keys may go is known; a part of them is as good as none.
    keyless = dataclasses.replace(loaded, api_key=None, app_key=None, access_token=None)
    keys = fault("keys", str(error), "export DD_API_KEY=… DD_APP_KEY=…")
    return Setup(keyless, [*_understood(loaded), keys], may_ask=True)


def _mend(error: UserError, file: str) -> str:
    """Return the command that mends settings which cannot be read; `file`: the config file that was looked for."""
    said = str(error)
    if (command := _COMMAND.search(said)) is not None:
        return command[1]
    if error.code is ExitCode.USAGE:
        variable = re.match(r"([A-Z_]+): ", said)
        return f"unset {variable[1]}  # or set it to what is meant" if variable else "artifactfs mount --help"
    quoted = shell_word(file)
    if not os.path.lexists(file):
        return "artifactfs doctor --config FILE  # one that is there"
    if not os.path.isfile(file) or not os.access(file, os.R_OK):
        return f"ls -ld {quoted}  # a file that you can read is needed"
    return f"${{EDITOR:-vi}} {quoted}"


def _understood(loaded: Settings) -> list[Finding]:
    profile = f", with profile {loaded.profile}" if loaded.profile is not None else ""
    # A warning has the command in it.
    mends = [(sentence, _COMMAND.search(sentence)) for sentence in loaded.warnings]
    return [
        good("settings", f"asks {loaded.api_url}{profile}"),
        *(warning("settings", sentence, found[1] if found else None) for sentence, found in mends),
    ]


def _loaded(given: Given) -> Settings | None:
    """Return the settings without keys, None if they cannot be read even so."""
    try:
        with _limited(_READING_S):
            return settings.load(given.flags, options=given.options, config_file=given.config_file, need_keys=False)
    except UserError:
        return None


def _without(given: Given) -> Settings:
    """Return what is left of the settings without the config file, or without anything."""
    flags = {name: value for name, value in given.flags.items() if name not in {*settings.KEY_FORMS, "profile"}}
    bare = _loaded(Given(flags, given.options, os.devnull))
    bare = bare or settings.load({}, config_file=os.devnull, environ={}, need_keys=False)
    # Nothing was read of the user's own file, but it is the one to be looked at.
    return dataclasses.replace(bare, config_file=_config_file(given))


def _config_file(given: Given) -> str:
    try:
        return settings.find_config_file(given.config_file, options=given.options)
    except UserError:
        # The options are what cannot be read.
        return settings.find_config_file(given.config_file)


@contextmanager
def _limited(seconds: float) -> Iterator[Callable[[], None]]:
    """End a wait that a signal can end; yields what lifts the limit. Raises UserError when the time is over."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise UserError(
            ExitCode.KEYS_MISSING, f"reading the settings took more than {seconds:g} s: is a key file a pipe?"
        )

    def lift() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield lift
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def proxy(loaded: Settings, unread: list[settings.Unread], exceptions: list[settings.Unread]) -> Finding:
    """Say which proxy is used, and which one of the environment is not; `exceptions`: what would be asked without."""
    if loaded.proxy is not None:
        shown = settings.without_password(loaded.proxy)
        if is_loopback(loaded.origin.rsplit(":", 1)[0]):
            return good("proxy", f"{shown} is set; what is on this machine is asked without it")
        ignored = "".join(f"; {each.name} of the environment is not read" for each in exceptions[:1])
        return good("proxy", f"{shown}; it sees the service's name, not what is asked{ignored}")
    if not unread:
        return good("proxy", "none")
    names = ", ".join(dict.fromkeys(each.name for each in unread))
    usable = next((each for each in unread if each.option is not None), None)
    if usable is None:
        return warning("proxy", f"none; {names} of the environment is not read, and is no HTTP proxy")
    mend = f'artifactfs mount {usable.option} "${usable.name}" …'
    return warning("proxy", f"none; {names} of the environment is not read", mend)


def certificates(loaded: Settings, unread: list[settings.Unread]) -> Finding:
    """Say whose certificates are trusted, and whether they can be read."""
    # Brings in httpx: not before the fork of whoever mounts.
    from artifactfs.modellab.connections import tls_context

    try:
        trusted = len(tls_context(loaded.ca_file).get_ca_certs())
    except UserError as error:
        return fault("certificates", str(error), "openssl x509 -in FILE -text  # PEM is what it has to be")
    if loaded.ca_file is not None:
        return good("certificates", f"{trusted} trusted, from {loaded.ca_file}")
    text = f"{trusted} trusted, from the bundled certifi"
    if not unread or not loaded.api_url.startswith("https:"):
        return good("certificates", text)
    names = ", ".join(each.name for each in unread)
    usable = next((each for each in unread if each.option is not None), None)
    mend = f'artifactfs mount {usable.option} "${usable.name}" …' if usable is not None else None
    return warning("certificates", f"{text}; {names} of the environment is not read", mend)
