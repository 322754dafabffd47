"""The fixtures for real mounts."""

from tests.fixtures import (
    _shared_lab,
    _standing_mount,
    lab,
    mounted,
    mounting,
    mounting_patiently,
    own_lab,
    shell,
    standing,
    user,
    user_shell,
)

__all__ = [
    "_shared_lab",
    "_standing_mount",
    "lab",
    "mounted",
    "mounting",
    "mounting_patiently",
    "own_lab",
    "shell",
    "standing",
    "user",
    "user_shell",
]
