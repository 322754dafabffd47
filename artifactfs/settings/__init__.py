"""The settings of a mount, and their sources. The only room that reads `os.environ`.

The module of a name is imported when the name is first used: `artifactfs --version` hides its environment, and reads no
settings.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        own_config_home,
        state_dir,
        user_unit_dir,
        wants_color,
    )
    from artifactfs.settings.process_privacy import environment, hide
    from artifactfs.settings.schema import (
        BY_NAME,
        CONFIG,
        GROUPS,
        KEY_FORMS,
        PROFILE,
        SELECTORS,
        SETTINGS,
        Arguments,
        Setting,
    )
    from artifactfs.settings.secret import Secret
    from artifactfs.settings.sources import find_config_file, find_profiles, settings_in
    from artifactfs.settings.suggestions import hint
    from artifactfs.settings.systemd_env import find_program, log_target, take_notify_socket
else:
    # The module of each name above (a test compares them).
    _MODULES = {
        name: module
        for module, names in {
            "config_edit": "write_config",
            "explaining": "Explanation Shown explain",
            "ignored_env": "Unread unread_ca_files unread_exceptions unread_proxies",
            "keys": "Keys KeySource Origin checked_key",
            "loading": "Settings drop_keys load",
            "paths": (
                "data_home default_log_file expanded has_display own_config_home state_dir user_unit_dir wants_color"
            ),
            "process_privacy": "environment hide",
            "schema": "Arguments BY_NAME CONFIG GROUPS KEY_FORMS PROFILE SELECTORS SETTINGS Setting",
            "secret": "Secret",
            "sources": "find_config_file find_profiles settings_in",
            "suggestions": "hint",
            "systemd_env": "find_program log_target take_notify_socket",
        }.items()
        for name in names.split()
    }

    def __getattr__(name: str) -> object:
        """Import the module of a name (PEP 562). Raises AttributeError for another name."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
