"""The one table of settings: each field of `Values` is a setting, and its row says everything about it.

Options, `ARTIFACTFS_*` variables, `-o` options, the keys of the config file, `config show` and the man page are made
from the rows. Not here: which source of a setting wins (sources.py).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from artifactfs.settings import parsers
from artifactfs.settings.paths import APP, cache_home
from artifactfs.settings.secret import Secret
from artifactfs.util.humanize import format_duration, format_size, parse_duration, parse_size
from artifactfs.util.urls import SITES, parse_api_url, parse_proxy, without_password


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    `parse` raises ValueError with what was expected. `metavar` None marks a switch. `default`: a value, or a function
    of the values of earlier rows; `default_source` names its source. `show` formats a value as users write it.
    `more_env`: variables besides ARTIFACTFS_NAME. `flag` False: not on the command line. `bare`: the value where only
    the name is given, as in `-o NAME`; the option is then a switch, which takes no value.
    """

    help: str
    parse: Callable[[str], object]
    metavar: str | None
    default: object = None
    show: Callable[[Any], str] = str
    default_source: str = "default"
    more_env: tuple[str, ...] = ()
    flag: bool = True
    bare: str | None = None
    name: str = ""

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> tuple[str, ...]:
        return (f"ARTIFACTFS_{self.name.upper()}", *self.more_env)

    def default_from(self, values: Mapping[str, Any]) -> object:
        """Return the default. `values`: those of earlier rows, without invalid ones."""
        return self.default(values) if callable(self.default) else self.default


# The functions below return fields of `Values`. `name` of a row is what it adds to the field's name.


def _row(
    help_: str, parse: Callable[[str], object], metavar: str, default: object = None, *, repr_: bool = True, **more: Any
) -> Any:
    return field(metadata={"rows": (Setting(help_, parse, metavar, default, **more),)}, repr=repr_)


def _switch(help_: str) -> Any:
    row = Setting(help_, parsers.flag, None, False, show=lambda value: str(value).lower(), bare="true")
    return field(metadata={"rows": (row,)})


def _seconds(help_: str, default_s: float | None, parse: Callable[[str], object] = parse_duration) -> Any:
    return _row(help_, parse, "DURATION", default_s, show=format_duration)


def _choice(help_: str, *known: str, bare: str | None = None) -> Any:
    return _row(help_, parsers.one_of(*known), "|".join(known), known[0], bare=bare)


def _mode(help_: str, metavar: str, default: int) -> Any:
    return _row(help_, parsers.octal, metavar, default, show="{:03o}".format)


def _key(article: str, what: str, *variables: str) -> Any:
    """Return a key, which may also be given by a file or a command. Nothing shows it, or the command."""

    def masked(_: object) -> str:
        return "set"

    rows = (
        Setting(f"File that holds {article} {what}.", parsers.path, "FILE", name="_file"),
        Setting(f"Command that prints {article} {what}.", parsers.command, "COMMAND", show=masked, name="_command"),
        Setting(f"{what[0].upper()}{what[1:]}.", Secret, "KEY", show=masked, more_env=variables, flag=False),
    )
    return field(metadata={"rows": rows})


@dataclass(frozen=True)
class Values:
    """The value of each setting: times in seconds, sizes in bytes, None for a setting without a value."""

    site: str = _row("Datadog site, like datadoghq.eu.", parsers.site, "SITE", SITES[0], more_env=("DD_SITE",))
    api_url: str = _row(
        "API base URL, in place of a site.",
        parse_api_url,
        "URL",
        lambda values: f"https://api.{values['site']}" if "site" in values else None,
        default_source="the site",
    )
    api_key: Secret | None = _key("the", "API key", "DD_API_KEY", "DATADOG_API_KEY")
    app_key: Secret | None = _key("the", "application key", "DD_APP_KEY", "DATADOG_APP_KEY")
    # The first variable is that of the API's document (docs/dev/model-lab-api.md), the second that of Datadog's CLI.
    access_token: Secret | None = _key("an", "access token, in place of keys", "DD_BEARER_TOKEN", "DD_ACCESS_TOKEN")
    account: str | None = _row("Account that cached contents belong to, whatever the keys.", parsers.account, "NAME")
    # Its URL may hold a password.
    proxy: str | None = _row(
        "HTTP proxy for the API (HTTP_PROXY and its like are not read).",
        parse_proxy,
        "URL",
        show=without_password,
        repr_=False,
    )
    ca_file: str | None = _row("CA certificates (PEM) to trust in place of the bundled ones.", parsers.path, "FILE")
    version_header: bool = _switch("Send the version of the file contents in a header, for a fleet's proxy.")
    cache_dir: str = _row(
        "Directory of the disk cache.", parsers.path, "DIR", lambda _: os.path.join(cache_home(), APP)
    )
    cache_size: int = _row("Maximum size of the disk cache [10GiB].", parse_size, "SIZE", 10 << 30, show=format_size)
    cache_min_free: int = _row(
        "Space that the cache leaves free on its disk [1GiB].", parse_size, "SIZE", 1 << 30, show=format_size
    )
    metadata_size: int = _row(
        "Maximum size of the metadata store [256MiB].", parse_size, "SIZE", 256 << 20, show=format_size
    )
    listing_ttl: float = _seconds("How long a listing stays fresh [60s].", 60.0)
    live_ttl: float = _seconds("The same while a program follows a file of a running run [5s].", 5.0)
    finished_ttl: float = _seconds("The same for a run that finished ten minutes ago or earlier [1h].", 3600.0)
    negative_ttl: float = _seconds("How long a negative entry stays fresh [10s].", 10.0)
    stale_max: float = _seconds("How long a stale listing is served while the API is down [1h].", 3600.0)
    deadline: float = _seconds("Longest wait of any operation without progress [30s].", 30.0, parsers.positive_duration)
    prefetch: str = _choice(
        "What a traversal prefetches beside small files: the project index, or directories [auto].",
        "auto",
        "tree",
        "off",
    )
    wait: bool = _switch("Retry the mount until the service answers.")
    wait_max: float | None = _seconds("How long --wait retries [for ever].", None, parsers.positive_duration)
    offline: str = _choice(
        "Ask the service for nothing, and show what was stored (-o offline=auto: where it cannot be reached).",
        *("never", "auto", "always"),
        bare="always",
    )
    runs_listed: int = _row("How many runs /runs shows [200].", parsers.count, "N", 200)
    xattrs: bool = _switch("Serve extended attributes (ls -l then makes two more calls per file).")
    dir_mode: int = _mode("Permissions (octal) of directories [755].", "MODE", 0o755)
    file_mode: int = _mode("Permissions (octal) of files [644].", "MODE", 0o644)
    umask: int = _mode("Permission bits (octal) to clear from both.", "MASK", 0)
    uid: int = _row(
        "Owner of all files [the user].", parsers.user_id, "USER", lambda _: os.geteuid(), default_source="the user"
    )
    gid: int = _row(
        "Group of all files [the user's].", parsers.group_id, "GROUP", lambda _: os.getegid(), default_source="the user"
    )
    allow_other: bool = _switch("Give other users access.")
    fsname: str = _row("Source in the mount table [artifactfs].", parsers.source_name, "NAME", "artifactfs")
    log_to: str = _choice(
        "Where the log goes [auto: a file; in the foreground standard error, or systemd's journal].",
        *("auto", "file", "journal", "syslog", "stderr"),
    )
    log_file: str | None = _row(
        "Log file of a background mount.", parsers.path, "FILE", default_source="the mount point"
    )
    log_format: str = _choice("Format of the log [text].", "text", "json")
    verbose: bool = _switch("Log each request to the service and each operation.")


SETTINGS: tuple[Setting, ...] = tuple(
    replace(row, name=each.name + row.name) for each in fields(Values) for row in each.metadata["rows"]
)
BY_NAME = {setting.name: setting for setting in SETTINGS}

# Each key is a setting, and so are KEY_file and KEY_command.
KEYS = ("api_key", "app_key", "access_token")
KEY_FORMS = frozenset(name + form for name in KEYS for form in ("", "_file", "_command"))

# These select the source of settings. They have options, variables and `-o` options, and are no keys of the config
# file. `profile` at its top is the exception.
CONFIG = Setting("Config file.", parsers.path, "FILE", name="config")
PROFILE = Setting("Profile of the config file: its table [profiles.NAME].", str, "NAME", name="profile")
SELECTORS = {CONFIG.name: CONFIG, PROFILE.name: PROFILE}


class Arguments(TypedDict):
    """What a command line says of the settings: the arguments of `load` and `explain`."""

    flags: Mapping[str, str | bool | None]
    options: str
    config_file: str | None


@dataclass(frozen=True)
class Group:
    """A heading of the help, and its options: the settings that --help shows, and those that --help-all adds."""

    title: str
    common: tuple[str, ...]
    rare: tuple[str, ...]


# Each setting that is an option, and each selector, in one group (tests/unit/test_help_layout.py).
GROUPS = (
    Group(
        "Service and keys",
        ("site", "profile", "api_key_file", "app_key_file"),
        (
            *("config", "api_url", "api_key_command", "app_key_command", "access_token_file", "access_token_command"),
            *("account", "version_header"),
        ),
    ),
    Group("Network", ("proxy", "ca_file", "wait", "offline"), ("wait_max", "deadline")),
    Group("Cache of contents", ("cache_dir", "cache_size"), ("cache_min_free", "metadata_size")),
    Group(
        "Listings",
        ("listing_ttl", "runs_listed"),
        ("live_ttl", "finished_ttl", "negative_ttl", "stale_max", "prefetch"),
    ),
    Group("Files and access", ("allow_other",), ("dir_mode", "file_mode", "umask", "uid", "gid", "xattrs", "fsname")),
    Group("Log", ("verbose", "log_file"), ("log_to", "log_format")),
)
