"""What a mount is asked to be, and where that comes from. The only room that reads `os.environ`."""

from artifactfs.settings.loading import Settings, drop_keys, load
from artifactfs.settings.places import default_log_file, state_dir
from artifactfs.settings.secret import Secret
from artifactfs.settings.table import DEFAULT_SITE, SETTINGS, Setting

__all__ = [
    "DEFAULT_SITE",
    "SETTINGS",
    "Secret",
    "Setting",
    "Settings",
    "default_log_file",
    "drop_keys",
    "load",
    "state_dir",
]
