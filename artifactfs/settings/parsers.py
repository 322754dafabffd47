"""Parses the values of settings. Pure except for users' names; the ValueError says what was expected."""

import contextlib
import os
import pwd
import re
import shlex
import stat
from collections.abc import Callable

from artifactfs.settings.paths import expanded
from artifactfs.util.humanize import parse_duration
from artifactfs.util.urls import SITES, is_of_datadog, parse_site

# os.makedirs recurses once for each directory, at most a thousand times. Arbitrary below that.
MOST_LEVELS = 500
# Similar enough to one of Datadog's sites to be a typing error: `datadoghq.co` has 0.96, `datadoghq.invalid` 0.67.
_MISTYPED = 0.8


def site(value: str) -> str:
    """Return the bare site. One that only looks like Datadog's is refused: another host would get the keys."""
    # difflib, for a typing error alone.
    from artifactfs.settings.suggestions import nearest

    host = parse_site(value)
    if host in SITES or is_of_datadog(host):
        return host
    # `datadoghq.com.example` is a name of example's.
    meant = next((known for known in SITES if f".{known}." in f".{host}."), None) or nearest(host, SITES, _MISTYPED)
    insist = f"If not, use --api-url https://api.{host}"
    if meant is not None:
        raise ValueError(f"{host!r} is not a Datadog site: did you mean {meant}? {insist}")
    # It may look like any of them: so a link arrives in which a letter is a Cyrillic one.
    if any(label.startswith("xn--") for label in host.split(".")):
        raise ValueError(f"{host!r} is not a Datadog site: its name has letters that only look like others. {insist}")
    return host


def path(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError(f"{value!r} is not a path")
    if value.count("/") > MOST_LEVELS:
        raise ValueError(f"a path is at most {MOST_LEVELS} directories deep: {value[:20]!r}… is more")
    # Absolute now: a background mount leaves the working directory.
    named = os.path.abspath(expanded(value))
    if is_descriptor(named):
        # It closes the caller's descriptors, too. The open file may have a path of its own.
        real = os.path.realpath(named)
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.stat(real).st_mode) and os.path.samefile(real, named):
                return real
    return named


def is_descriptor(named: str) -> bool:
    """Return whether a path names an open descriptor of a process, the only path of a pipe or a deleted file."""
    return re.fullmatch(r"/dev/(fd/\d+|std(in|out|err))|/proc/(self|thread-self|\d+)/fd/\d+", named) is not None


def command(value: str) -> tuple[str, ...]:
    """Split a command into words as a shell would, though none runs it. Words that begin with ~/ are below the home."""
    try:
        words = shlex.split(value)
    except ValueError as error:
        # Without the value: it may be a key in the place of a command.
        raise ValueError(f"not a command: {str(error).lower()}") from None
    if not words or "\0" in value:
        raise ValueError("not a command: it is empty")
    return tuple(expanded(word) if word.startswith("~/") else word for word in words)


def account(value: str) -> str:
    name = value.strip()
    if not name or not name.isprintable() or len(name) > 200:
        raise ValueError(f"{value!r} is not a name of up to 200 letters")
    return name


def flag(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.strip().lower() not in known:
        raise ValueError(f"{value!r} is neither true nor false")
    return known[value.strip().lower()]


def count(value: str) -> int:
    if not re.fullmatch(r"\d+", value.strip()):
        raise ValueError(f"{value!r} is not a whole number")
    if len(value.strip()) > 9:
        raise ValueError(f"{value[:20]!r} is too large: a number has at most 9 digits")
    return int(value)


def one_of(*known: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.strip().lower() not in known:
            raise ValueError(f"{value!r} is none of {', '.join(known)}")
        return value.strip().lower()

    return parse


def octal(value: str) -> int:
    if not re.fullmatch(r"0?[0-7]{1,3}", value.strip()):
        raise ValueError(f"{value!r} is not an octal number like 022 or 755")
    return int(value, 8)


def user_id(value: str) -> int:
    return _id(value, lambda name: pwd.getpwnam(name).pw_uid)


def group_id(value: str) -> int:
    import grp

    return _id(value, lambda name: grp.getgrnam(name).gr_gid)


def _id(value: str, find: Callable[[str], int]) -> int:
    if not value.strip().isdecimal():
        try:
            return find(value)
        except KeyError:
            raise ValueError(f"there is no user or group {value!r}") from None
    # The kernel's ids have 32 bits, and the last one means "none" (chown(2)).
    if len(value.strip()) > 10 or int(value) >= 2**32 - 1:
        raise ValueError(f"{value!r} is more than a user's or group's number can be")
    return int(value)


# All options of a mount go to the kernel in one page of 4096 bytes (mount(2)); arbitrary below that.
_MAX_SOURCE_BYTES = 255


def source_name(value: str) -> str:
    # A comma would be another option to the kernel, a backslash an escape to libfuse.
    if not value or "," in value or "\\" in value or not value.isprintable():
        raise ValueError(f"{value!r} cannot be a mount's source: no commas, backslashes or control characters")
    if len(os.fsencode(value)) > _MAX_SOURCE_BYTES:
        raise ValueError(f"a mount's source can have {_MAX_SOURCE_BYTES} bytes at most: {value[:20]!r}… has more")
    return value


def positive_duration(value: str) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError(f"{value!r} must be more than zero")
    return seconds
