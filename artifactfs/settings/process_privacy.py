"""Hides the secrets of the environment from other processes of the user (docs/semantics.md 6.1).

/proc/PID/environ shows the first environment of a process in place, whatever `os.environ` and unsetenv(3) change. So
the values are overwritten there, once Python has its own copy of them. And the process is not dumpable: other processes
of the same user, except root's, can read neither its memory nor its files in /proc.
"""

import ctypes
import os
from collections.abc import Mapping

from artifactfs.settings.ignored_env import PROXIES
from artifactfs.settings.schema import BY_NAME, KEYS

# prctl(2)
_PR_SET_DUMPABLE = 4


def hide() -> None:
    """Close this process, and the keys of its environment, to other processes of the user. Call it once, at the start.

    `os.environ` keeps the keys for `load` and `environment`. An execve(2) undoes it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _blot_out({os.fsencode(name) for name in secret_variables(os.environ)})


def secret_variables(environ: Mapping[str, str]) -> set[str]:
    """Return the variables that may hold a key (also a command line), or a proxy's password."""
    keys = {variable for key in KEYS for name in (key, f"{key}_command") for variable in BY_NAME[name].env}
    proxies = {*BY_NAME["proxy"].env, *PROXIES}
    return {name for name in environ if name in keys or (name in proxies and "@" in environ[name])}


def environment(*, keys: bool, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the whole environment for a child process, with or without keys.

    A child without an explicit environment gets the overwritten one.
    """
    return dict(environ) if keys else without_keys(environ)


def without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without any key in it: for what a mount starts (docs/semantics.md 6.1)."""
    keys = {variable for key in KEYS for variable in BY_NAME[key].env}
    return {name: value for name, value in environ.items() if name not in keys}


def _blot_out(names: set[bytes]) -> None:
    """Overwrite the values of variables in the process's own memory; of a duplicate variable both."""
    variables = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    if not variables:
        return
    place = 0
    while (address := variables[place]) is not None:
        name, _, value = ctypes.string_at(address).partition(b"=")
        if name in names:
            ctypes.memset(address + len(name) + 1, 0, len(value))
        place += 1
