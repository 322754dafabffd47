"""`artifactfs login`: asks for the site and the keys, checks them, and writes them into the config file."""

import os
import sys
from typing import TYPE_CHECKING

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.help_layout import command
from artifactfs.cli.options import config_options, setting_option
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import BY_NAME, KEY_FORMS
from artifactfs.util.escaping import shell_word
from artifactfs.util.urls import SITES, is_of_datadog

if TYPE_CHECKING:
    from artifactfs.settings import Secret, Settings


@command()
@setting_option(BY_NAME["site"])
@setting_option(BY_NAME["api_url"])
@setting_option(BY_NAME["proxy"])
@setting_option(BY_NAME["ca_file"])
@config_options
def login(
    site: str | None,
    api_url: str | None,
    proxy: str | None,
    ca_file: str | None,
    profile: str | None,
    config_file: str | None,
) -> None:
    """Ask for the site and the keys of your account, check them with one request, and keep them in the config file.

    The keys are not shown while you type, and the file is readable by you alone. With --profile they go into that
    profile. A file or a profile that is not there yet is made. Nothing is written unless the service accepts the keys.

    To leave them in a password manager, write its commands into the file instead: api_key_command = "pass show
    datadog/api-key", and app_key_command.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        fix = "without one, set DD_API_KEY and DD_APP_KEY, or put key files into the config file"
        raise UserError(
            ExitCode.USAGE, "login asks for the keys on a terminal, and standard input is not a terminal", fix
        )
    if profile is not None and not profile.isprintable():
        raise UserError(ExitCode.USAGE, "a profile's name has printable characters only", "give another", "--profile")
    path = settings.find_config_file(config_file)
    # One that is not there yet is made at the end.
    old = config_file if os.path.lexists(path) else os.devnull
    is_known = profile in settings.find_profiles(old)
    flags: dict[str, str | bool | None] = {"site": site, "api_url": api_url, "proxy": proxy, "ca_file": ca_file}
    flags["profile"] = profile if is_known else None
    loaded = settings.load(flags, config_file=old, need_keys=False)
    target = profile or loaded.profile
    _refuse_other_ways(path, target, old)
    output.hint(f"this writes {path}; for a password manager in its place see `artifactfs login --help`")
    if site is None and api_url is None and loaded.is_of_site:
        flags["site"] = _ask_site(loaded.site)
        loaded = settings.load(flags, config_file=old, need_keys=False)
    for notice in loaded.warnings:
        output.warn(str(notice))
    if not is_of_datadog(loaded.origin.partition(":")[0]):
        # Also with --quiet: what is typed now goes there.
        how = "" if loaded.api_url.startswith("https:") else " without TLS"
        output.tell(f"the keys will be sent{how} to {loaded.origin}, which is not Datadog's; Ctrl-C ends this")
    api_key, app_key = _ask_key("API key"), _ask_key("application key")
    _check(loaded, api_key, app_key)
    changes: dict[str, str | None] = {"site": None, "api_url": loaded.api_url}
    if loaded.is_of_site:
        changes = {"site": loaded.site, "api_url": None}
    # A mount needs them, too.
    changes |= {name: getattr(loaded, name) for name in ("proxy", "ca_file") if flags[name] is not None}
    changes |= {"api_key": api_key.reveal(), "app_key": app_key.reveal()}
    written = settings.write_config(path, target, changes)
    where = written if target is None else f"profile {target} of {written}"
    output.say(f"the keys are accepted, and are in {where}, which you alone can read")
    _warn_of_stronger(target, config_file, changes)
    selected = {"--config": config_file, "--profile": target}
    options = "".join(f"{option} {shell_word(value)} " for option, value in selected.items() if value is not None)
    output.hint(f"mount: mkdir -p ~/model-lab && artifactfs mount {options}~/model-lab")


def _refuse_other_ways(path: str, profile: str | None, config_file: str | None) -> None:
    """Raise UserError where the file gives keys in another way, which would take precedence."""
    there = settings.settings_in(config_file, profile)
    other = sorted(there & KEY_FORMS - {"api_key", "app_key"})
    if other:
        fix = "remove that first, or keep these keys apart with --profile NAME"
        raise UserError(ExitCode.USAGE, f"{', '.join(other)} gives the keys already", fix, path)


def _ask_site(default: str) -> str:
    output.tell(f"Datadog's sites are {', '.join(SITES)}")
    return output.ask("Your site", default=default, parse=BY_NAME["site"].parse)


def _ask_key(label: str) -> "Secret":
    return settings.checked_key(output.ask(f"Your {label} (not shown)", is_secret=True), f"the {label}")


def _check(loaded: "Settings", api_key: "Secret", app_key: "Secret") -> None:
    """Check the keys with one request. Raises UserError."""
    import dataclasses

    from artifactfs.mount import preflight
    from artifactfs.settings import KeySource
    from artifactfs.util import foreground

    candidate = dataclasses.replace(loaded, api_key=api_key, app_key=app_key, access_token=None, keys=KeySource())
    foreground.run(preflight.check_keys, candidate)


def _warn_of_stronger(profile: str | None, config_file: str | None, written: dict[str, str | None]) -> None:
    """Warn of variables that take precedence over what was written."""
    found = settings.explain({"profile": profile}, config_file=config_file)
    names = [
        shown.source
        for shown in found.settings
        if shown.name in KEY_FORMS | {"site", "api_url"}
        and shown.source in BY_NAME[shown.name].env
        and shown.text != written.get(shown.name)
    ]
    if names:
        output.warn(f"{', '.join(names)} of the environment takes precedence over the file; unset what is outdated")
