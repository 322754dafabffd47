"""Checks the settings: whether they can be read, where the keys come from, which variables are ignored.

If one setting cannot be read, the others are still checked. But an unreadable config file may name another site for the
keys, so the service gets no request then (docs/semantics.md 6.1).
"""

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from artifactfs import settings
from artifactfs.doctor.findings import Finding, good, refused, skipped, warning
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import Arguments, Settings
from artifactfs.util.escaping import shell_word
from artifactfs.util.urls import is_loopback, without_password

# For all files that settings name, one of which may be a pipe without a writer. Commands that print keys have limits of
# their own: the user may have to type a passphrase.
_READING_S = 10.0


@dataclass(frozen=True)
class Setup:
    """The settings, as far as they can be read. `may_ask`: whether it is known where the keys may go."""

    settings: Settings
    findings: list[Finding]
    may_ask: bool


def read(given: Arguments) -> Setup:
    """Read the settings as `mount` does. Errors become findings."""
    try:
        with _limited(_READING_S) as lift:
            loaded = settings.load(**given, before_commands=lift)
    except UserError as error:
        return _broken(given, error)
    keys = loaded.keys
    # With a token the keys are not used.
    used: dict[str, settings.Origin | None] = {"access token": keys.access_token}
    if keys.access_token is None:
        used = {"API key": keys.api_key, "application key": keys.app_key}
    sources = ", ".join(f"{name} from {_place(origin)}" for name, origin in used.items() if origin is not None)
    return Setup(loaded, [*_understood(loaded), good("keys", sources)], may_ask=True)


def _place(origin: settings.Origin) -> str:
    """Return where a key comes from, never the key."""
    path = getattr(origin, "path", None)
    return f"{origin.source} ({path})" if path is not None and path not in origin.source else origin.source


def _broken(given: Arguments, error: UserError) -> Setup:
    loaded = _loaded(given) if error.code is ExitCode.KEYS_MISSING else None
    if loaded is None:
        return Setup(_without(given), [refused("settings", error, _fix(error, _config_file(given)))], may_ask=False)
    # The origin is known; one key of a pair is as good as none.
    keyless = dataclasses.replace(loaded, api_key=None, app_key=None, access_token=None)
    if loaded.offline == "always":
        keys = skipped("keys", "there are none, and a mount with offline = always needs none")
    else:
        keys = refused("keys", error, error.command or "artifactfs login")
    return Setup(keyless, [*_understood(loaded), keys], may_ask=True)


def _fix(error: UserError, file: str) -> str:
    """Return the command that fixes unreadable settings. `file`: the config file."""
    if error.command:
        return error.command
    if error.code is ExitCode.USAGE:
        is_variable = any(error.subject in row.env for row in (*settings.SETTINGS, settings.CONFIG, settings.PROFILE))
        return f"unset {error.subject}  # or set it to a valid value" if is_variable else "artifactfs mount --help"
    quoted = shell_word(file)
    if not os.path.lexists(file):
        return "artifactfs doctor --config FILE  # one that is there"
    if not os.path.isfile(file) or not os.access(file, os.R_OK):
        return f"ls -ld {quoted}  # a file that you can read is needed"
    return f"${{EDITOR:-vi}} {quoted}"


def _understood(loaded: Settings) -> list[Finding]:
    profile = f", with profile {loaded.profile}" if loaded.profile is not None else ""
    return [
        good("settings", f"asks {loaded.api_url}{profile}"),
        *(warning("settings", notice.fact, notice.command or notice.fix or None) for notice in loaded.warnings),
    ]


def _loaded(given: Arguments) -> Settings | None:
    """Return the settings without keys, None if they cannot be read either."""
    try:
        with _limited(_READING_S):
            return settings.load(**given, need_keys=False)
    except UserError:
        return None


def _without(given: Arguments) -> Settings:
    """Return the settings without the config file, or else the defaults."""
    flags = {name: value for name, value in given["flags"].items() if name not in {*settings.KEY_FORMS, "profile"}}
    bare = _loaded(Arguments(flags=flags, options=given["options"], config_file=os.devnull))
    bare = bare or settings.load({}, config_file=os.devnull, environ={}, need_keys=False)
    # The user's own file is the one to check.
    return dataclasses.replace(bare, config_file=_config_file(given))


def _config_file(given: Arguments) -> str:
    try:
        return settings.find_config_file(given["config_file"], options=given["options"])
    except UserError:
        # The options cannot be read.
        return settings.find_config_file(given["config_file"])


@contextmanager
def _limited(seconds: float) -> Iterator[Callable[[], None]]:
    """Limit a wait that a signal can end; yields a function that lifts the limit. Raises UserError at its end."""

    def over(_number: int, _frame: FrameType | None) -> None:
        fact = f"reading the settings took more than {seconds:g} s"
        raise UserError(ExitCode.KEYS_MISSING, fact, "check whether a key file is a pipe")

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
    """Report the proxy in use, and the ignored variables; `exceptions`: those for hosts without a proxy."""
    if loaded.proxy is not None:
        shown = without_password(loaded.proxy)
        if is_loopback(loaded.origin.rsplit(":", 1)[0]):
            return good("proxy", f"{shown} is set; requests to this machine go without it")
        ignored = "".join(f"; {each.name} of the environment is not read" for each in exceptions[:1])
        return good("proxy", f"{shown}; it sees the service's name, not the requests{ignored}")
    if not unread:
        return good("proxy", "none")
    names, fix = _ignored(unread)
    no_proxy = "" if fix else ", and is no HTTP proxy"
    return warning("proxy", f"none; {names} of the environment is not read{no_proxy}", fix)


def _ignored(unread: list[settings.Unread]) -> tuple[str, str | None]:
    """Return the names of ignored variables, and the command that uses the first that an option takes."""
    usable = next((each for each in unread if each.option is not None), None)
    fix = None if usable is None else f'artifactfs mount {usable.option} "${usable.name}" …'
    return ", ".join(dict.fromkeys(each.name for each in unread)), fix


def certificates(loaded: Settings, unread: list[settings.Unread]) -> Finding:
    """Report the trusted CA certificates."""
    # Imports httpx: not before the forks.
    from artifactfs.modellab.connections import tls_context

    try:
        trusted = len(tls_context(loaded.ca_file).get_ca_certs())
    except UserError as error:
        return refused("certificates", error, "openssl x509 -in FILE -text  # it must be PEM")
    if loaded.ca_file is not None:
        return good("certificates", f"{trusted} trusted, from {loaded.ca_file}")
    text = f"{trusted} trusted, from the bundled certifi"
    if not unread or not loaded.api_url.startswith("https:"):
        return good("certificates", text)
    names, fix = _ignored(unread)
    return warning("certificates", f"{text}; {names} of the environment is not read", fix)
