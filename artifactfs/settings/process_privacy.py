"""Keeping what the environment gave in confidence from other processes of the user (semantics 6.1).

A process's first environment stays where the kernel has put it, for /proc/PID/environ to show, whatever `os.environ`
and unsetenv(3) say later. So the values are blotted out in place, once Python has its own copy of them. And the process
is not dumpable: others of the same user, root apart, can read neither its memory nor its files in /proc.
"""

import ctypes
import os
from collections.abc import Mapping

from artifactfs.settings.ignored_env import PROXIES
from artifactfs.settings.schema import BY_NAME, KEYS
from artifactfs.settings.sources import without_keys

# prctl(2)
_PR_SET_DUMPABLE = 4


def hide() -> None:
    """Have no other process of the user read this one, nor the keys that its environment gave. Once, at the start.

    `os.environ` still has them: for `load`, and for what is started with `environment`. An execve(2) undoes it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _blot_out({os.fsencode(name) for name in secret_variables(os.environ)})


def secret_variables(environ: Mapping[str, str]) -> set[str]:
    """Return the variables that hold a key, may hold one (a command's line), or a proxy's password."""
    keys = {variable for key in KEYS for name in (key, f"{key}_command") for variable in BY_NAME[name].env}
    proxies = {*BY_NAME["proxy"].env, *PROXIES}
    return {name for name in environ if name in keys or (name in proxies and "@" in environ[name])}


def environment(*, keys: bool, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for a child process that is to have it whole, though it is blotted out: with keys or not.

    A child that is started without one gets what is left.
    """
    return dict(environ) if keys else without_keys(environ)


def _blot_out(names: set[bytes]) -> None:
    """Overwrite the values of variables in the process's own memory: of a variable that is there twice, both."""
    variables = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    if not variables:
        return
    place = 0
    while (address := variables[place]) is not None:
        name, _, value = ctypes.string_at(address).partition(b"=")
        if name in names:
            ctypes.memset(address + len(name) + 1, 0, len(value))
        place += 1
