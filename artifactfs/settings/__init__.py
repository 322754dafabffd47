"""The settings of a mount, and their sources. The only room that reads `os.environ`."""

from artifactfs.settings.config_edit import write_config
from artifactfs.settings.explaining import Explanation, Shown, explain
from artifactfs.settings.ignored_env import Unread, unread_ca_files, unread_exceptions, unread_proxies
from artifactfs.settings.keys import Keys, KeySource, Origin, checked_key
from artifactfs.settings.loading import Settings, drop_keys, load
from artifactfs.settings.paths import (
    data_home,
    default_log_file,
    expanded,
    has_display,
    state_dir,
    user_unit_dir,
    wants_color,
)
from artifactfs.settings.process_privacy import environment, hide
from artifactfs.settings.schema import BY_NAME, CONFIG, GROUPS, KEY_FORMS, PROFILE, SELECTORS, SETTINGS, Setting
from artifactfs.settings.secret import Secret
from artifactfs.settings.sources import find_config_file, find_profiles, settings_in
from artifactfs.settings.suggestions import hint
from artifactfs.settings.systemd_env import find_program, log_target, take_notify_socket

__all__ = [
    "BY_NAME",
    "CONFIG",
    "GROUPS",
    "KEY_FORMS",
    "PROFILE",
    "SELECTORS",
    "SETTINGS",
    "Explanation",
    "KeySource",
    "Keys",
    "Origin",
    "Secret",
    "Setting",
    "Settings",
    "Shown",
    "Unread",
    "checked_key",
    "data_home",
    "default_log_file",
    "drop_keys",
    "environment",
    "expanded",
    "explain",
    "find_config_file",
    "find_profiles",
    "find_program",
    "has_display",
    "hide",
    "hint",
    "load",
    "log_target",
    "settings_in",
    "state_dir",
    "take_notify_socket",
    "unread_ca_files",
    "unread_exceptions",
    "unread_proxies",
    "user_unit_dir",
    "wants_color",
    "write_config",
]
