"""Writes settings into the config file: what else is in it stays, comments too, and others can never read it.

Hard: the standard library reads TOML and does not write it. So whole statements are replaced, and the result is parsed:
it is written only where it differs in these settings alone.
"""

import contextlib
import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import trusted_files
from artifactfs.util.path_walk import open_path
from artifactfs.util.replacing import replace_file

_PROFILES = "profiles"


def write_config(path: str, profile: str | None, changes: Mapping[str, str | None]) -> str:
    """Write settings at the top of the file at `path`, or into a profile; None removes one. Mode 0600, atomically.

    Returns the path that was written, which is another where `path` is a link. `configfile.read` has accepted the file.
    Raises UserError.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        text, real = _read(path)
        trusted_files.refuse_foreign(os.path.dirname(real), also_shared=True)
        new = edited(text, profile, changes)
        if new is None:
            names = ", ".join(name for name, value in changes.items() if value is not None)
            fact = "settings cannot be added to this file as it is written"
            raise UserError(ExitCode.BAD_CONFIG, fact, f"add {names} to it by hand", path)
        replace_file(real, new.encode(), 0o600)
    except trusted_files.NotOurs as error:
        raise UserError(ExitCode.NOT_WRITABLE, f"{path} {error}, so no key is written there") from None
    except OSError as error:
        raise UserError(ExitCode.NOT_WRITABLE, f"cannot write {path}: {error.strerror}") from None
    return real


def edited(text: str, profile: str | None, changes: Mapping[str, str | None]) -> str | None:
    """Return the text of a config file with other values of some settings; None where its form does not allow it."""
    table: dict[str, object] = {} if profile is None else {_PROFILES: {profile: {}}}
    here: dict[str, object] = {}
    kept: list[str] = []
    end = 0 if profile is None else None
    for statement in _statements(text):
        found = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            here = found
        elif here == table and found.keys() & changes.keys():
            continue
        kept.append(statement)
        if here == table and found:
            end = len(kept)
    if end is None:
        kept += [*["\n"][: len(kept)], f"[{_PROFILES}.{_name(str(profile))}]\n"]
        end = len(kept)
    kept[end:end] = [f"{name} = {_string(value)}\n" for name, value in changes.items() if value is not None]
    new, expected = "".join(kept), tomllib.loads(text)
    changed = expected if profile is None else expected.setdefault(_PROFILES, {}).setdefault(profile, {})
    for name, value in changes.items():
        changed.pop(name, None)
        changed |= {} if value is None else {name: value}
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return new if tomllib.loads(new) == expected else None
    return None


def _statements(text: str) -> Iterator[str]:
    """Yield the statements of a valid file, each with its lines: settings, headers, comments, empty lines."""
    statement = ""
    for line in text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else ():
        statement += f"{line}\n"
        # An array or a text may have several lines.
        with contextlib.suppress(tomllib.TOMLDecodeError):
            tomllib.loads(statement)
            yield statement
            statement = ""


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _string(text: str) -> str:
    # JSON's strings are basic strings of TOML.
    return json.dumps(text, ensure_ascii=False)


def _read(path: str) -> tuple[str, str]:
    """Return the text of a file, and its path without links; "" and `path` where there is none. Raises OSError."""
    if not os.path.lexists(path):
        return "", path
    fd, real = open_path(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="utf-8-sig") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(), real
