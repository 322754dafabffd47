"""The fixtures for real mounts."""

from tests.attacked import _standing_attack, attack, own_attack
from tests.fixtures import (
    _shared_lab,
    _standing_mount,
    lab,
    mounted,
    mounting,
    mounting_patiently,
    open_shell,
    own_lab,
    shell,
    standing,
    user,
    user_shell,
)

__all__ = [
    "_shared_lab",
    "_standing_attack",
    "_standing_mount",
    "attack",
    "lab",
    "mounted",
    "mounting",
    "mounting_patiently",
    "open_shell",
    "own_attack",
    "own_lab",
    "shell",
    "standing",
    "user",
    "user_shell",
]
