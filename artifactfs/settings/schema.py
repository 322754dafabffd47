"""The one table of settings: names, parsers, defaults, help.

Flags, `ARTIFACTFS_*` variables, `-o` options and the keys of the config file come from it, and stay consistent.
"""

from collections.abc import Callable
from dataclasses import dataclass

from artifactfs.settings.parsers import (
    account,
    command,
    count,
    flag,
    group_id,
    octal,
    one_of,
    path,
    positive_duration,
    source_name,
    user_id,
)
from artifactfs.settings.secret import Secret
from artifactfs.util.humanize import parse_duration, parse_size
from artifactfs.util.urls import parse_api_url, parse_proxy, parse_site

DEFAULT_SITE = "datadoghq.com"


@dataclass(frozen=True)
class Setting:
    """One row of the table. `metavar` None marks a switch; `flag` False: not on the command line."""

    name: str
    parse: Callable[[str], object]
    default: object
    metavar: str | None
    help: str
    more_env: tuple[str, ...] = ()
    flag: bool = True

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> tuple[str, ...]:
        return (f"ARTIFACTFS_{self.name.upper()}", *self.more_env)


SETTINGS: tuple[Setting, ...] = (
    Setting("site", parse_site, DEFAULT_SITE, "SITE", "Datadog site, like datadoghq.eu.", ("DD_SITE",)),
    Setting("api_url", parse_api_url, None, "URL", "API base URL, in place of a site."),
    Setting("api_key_file", path, None, "FILE", "File that holds the API key."),
    Setting("app_key_file", path, None, "FILE", "File that holds the application key."),
    Setting("access_token_file", path, None, "FILE", "File that holds an access token, in place of keys."),
    Setting("api_key_command", command, None, "COMMAND", "Command that prints the API key: a password manager's."),
    Setting("app_key_command", command, None, "COMMAND", "Command that prints the application key."),
    Setting("access_token_command", command, None, "COMMAND", "Command that prints an access token, in place of keys."),
    Setting("api_key", Secret, None, "KEY", "API key.", ("DD_API_KEY", "DATADOG_API_KEY"), flag=False),
    Setting("app_key", Secret, None, "KEY", "Application key.", ("DD_APP_KEY", "DATADOG_APP_KEY"), flag=False),
    Setting(
        "access_token",
        Secret,
        None,
        "TOKEN",
        "Access token, in place of keys.",
        # The first is that of the API's document (model-lab-api.md), the second that of Datadog's CLI.
        ("DD_BEARER_TOKEN", "DD_ACCESS_TOKEN"),
        flag=False,
    ),
    Setting("account", account, None, "NAME", "Account that cached contents belong to, whatever the keys."),
    Setting("proxy", parse_proxy, None, "URL", "HTTP proxy for the API (HTTP_PROXY and its like are not read)."),
    Setting("ca_file", path, None, "FILE", "CA certificates (PEM) to trust in place of the bundled ones."),
    Setting(
        "version_header", flag, False, None, "Send the version of the file contents in a header, for a fleet's proxy."
    ),
    Setting("cache_dir", path, None, "DIR", "Directory of the disk cache."),
    Setting("cache_size", parse_size, 10 << 30, "SIZE", "Maximum size of the disk cache [10GiB]."),
    Setting("cache_min_free", parse_size, 1 << 30, "SIZE", "Space that the cache leaves free on its disk [1GiB]."),
    Setting("listing_ttl", parse_duration, 60.0, "S", "How long a listing stays fresh [60s]."),
    Setting("live_ttl", parse_duration, 5.0, "S", "The same while a program follows a file of a running run [5s]."),
    Setting(
        "finished_ttl", parse_duration, 3600.0, "S", "The same for a run that finished ten minutes ago or earlier [1h]."
    ),
    Setting("negative_ttl", parse_duration, 10.0, "S", "How long a negative entry stays fresh [10s]."),
    Setting("stale_max", parse_duration, 3600.0, "S", "How long a stale listing is served while the API is down [1h]."),
    Setting("deadline", positive_duration, 30.0, "S", "Longest wait of any operation without progress [30s]."),
    Setting(
        "prefetch",
        one_of("auto", "tree", "off"),
        "auto",
        "auto|tree|off",
        "What a traversal prefetches: the project index, or directories [auto].",
    ),
    Setting("wait", flag, False, None, "Retry the mount until the service answers."),
    Setting("wait_max", positive_duration, None, "S", "How long --wait retries [for ever]."),
    Setting("runs_listed", count, 200, "N", "How many runs /runs shows [200]."),
    Setting("xattrs", flag, False, None, "Serve extended attributes (ls -l then makes two more calls per file)."),
    Setting("umask", octal, 0, "MASK", "Permission bits (octal) to clear."),
    Setting("uid", user_id, None, "USER", "Owner of all files [the user]."),
    Setting("gid", group_id, None, "GROUP", "Group of all files [the user's]."),
    Setting("allow_other", flag, False, None, "Give other users access."),
    Setting("fsname", source_name, "artifactfs", "NAME", "Source in the mount table [artifactfs]."),
    Setting(
        "log_to",
        one_of("auto", "file", "journal", "syslog", "stderr"),
        "auto",
        "auto|file|journal|syslog|stderr",
        "Where the log goes [auto: a file; in the foreground standard error, or systemd's journal].",
    ),
    Setting("log_file", path, None, "FILE", "Log file of a background mount."),
    Setting("log_format", one_of("text", "json"), "text", "text|json", "Format of the log [text]."),
    Setting("verbose", flag, False, None, "Log each request to the service and each operation."),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}

# These select the source of settings. They have options, variables and `-o` options, and are no keys of the config
# file. `profile` at its top is the exception.
CONFIG = Setting("config", path, None, "FILE", "Config file.")
PROFILE = Setting("profile", str, None, "NAME", "Profile of the config file: its table [profiles.NAME].")
SELECTORS = {setting.name: setting for setting in (CONFIG, PROFILE)}

# Each key is a setting, and so are KEY_file and KEY_command.
KEYS = ("api_key", "app_key", "access_token")
KEY_FORMS = frozenset(name + form for name in KEYS for form in ("", "_file", "_command"))
