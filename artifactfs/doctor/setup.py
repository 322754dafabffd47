"""The settings as they are: whether they can be read, where the keys come from, what of the environment is not read.

What is hard is a setting that cannot be read: the rest is still worth a look, but with a config file that is not
understood nobody knows where the keys may go, so the service is not asked then (semantics 6.1).
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from artifactfs import settings
from artifactfs.doctor.findings import Finding, fault, good, warning
from artifactfs.errors import ExitCode, UserError
from artifactfs.origins import is_loopback
from artifactfs.settings import Settings

# For all files that settings name, one of which may be a pipe into which nobody writes. Long enough to type a
# passphrase for a key.
_READING_S = 60.0


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
        with _limited(_READING_S):
            loaded = settings.load(given.flags, options=given.options, config_file=given.config_file)
            sources = settings.key_sources(given.flags, options=given.options, config_file=given.config_file)
    except UserError as error:
        return _broken(given, error)
    keys = good("keys", ", ".join(f"{name} from {source}" for name, source in sources))
    return Setup(loaded, [_understood(loaded), keys], may_ask=True)


def _broken(given: Given, error: UserError) -> Setup:
    if error.code is ExitCode.KEYS_MISSING:
        keys = fault("keys", str(error), "export DD_API_KEY=… DD_APP_KEY=…")
        loaded = _loaded(given, given.flags)
        if loaded is not None:
            return Setup(loaded, [_understood(loaded), keys], may_ask=True)
        return Setup(_without(given), [keys], may_ask=False)
    return Setup(_without(given), [fault("settings", str(error), _mend(error))], may_ask=False)


def _mend(error: UserError) -> str:
    return "artifactfs mount --help" if error.code is ExitCode.USAGE else 'man artifactfs  # "Config file"'


def _understood(loaded: Settings) -> Finding:
    return good("settings", f"asks {loaded.api_url}")


def _loaded(given: Given, flags: Mapping[str, str | bool | None]) -> Settings | None:
    """Return the settings without keys, None if they cannot be read even so."""
    try:
        with _limited(_READING_S):
            return settings.load(flags, options=given.options, config_file=given.config_file, need_keys=False)
    except UserError:
        return None


def _without(given: Given) -> Settings:
    """Return what is left of the settings without the config file, or without anything."""
    flags = {name: value for name, value in given.flags.items() if "key" not in name and "token" not in name}
    bare = Given(flags, given.options, os.devnull)
    return _loaded(bare, flags) or settings.load({}, config_file=os.devnull, environ={}, need_keys=False)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End a wait that a signal can end. Raises UserError when the time is over."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise UserError(
            ExitCode.KEYS_MISSING,
            f"reading the settings took more than {seconds:g} s: does a key file or command wait?",
        )

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
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
