"""The systemd units of `artifactfs service`, made from the files in `systemd/`, which are also documentation.

Owns the texts and their places. Starts nothing: the user does, with systemctl. Hard: quoting. A mount point or a
profile may hold blanks, quotes, percent signs and dollars, which are special to systemd.
"""

import contextlib
import glob
import os
import re
from dataclasses import dataclass

from artifactfs.errors import ExitCode, UserError
from artifactfs.util.replacing import replace_file

# The first line of our files: only they are overwritten or deleted.
_MARK = "# Written by `artifactfs service install`, which writes over it: "
_PLAIN = "artifactfs.service"
_TEMPLATE = "artifactfs@.service"
_WANTED_BY = "default.target"


@dataclass(frozen=True)
class Unit:
    """A unit file: its name, its text and its place."""

    name: str
    text: str
    directory: str

    @property
    def path(self) -> str:
        return os.path.join(self.directory, self.name)


def make(directory: str, program: tuple[str, ...], point: str, profile: str | None, config_file: str | None) -> Unit:
    """Return the unit that mounts at `point`. `program`: the words that run artifactfs."""
    from importlib import resources

    text = resources.files("artifactfs").joinpath("systemd", _TEMPLATE if profile else _PLAIN).read_text()
    words = [*program, "mount", "-f", "--wait"]
    words += ["--config", config_file] if config_file else []
    words += ["--profile", profile] if profile else []
    start = " ".join(map(quoted, [*words, point]))
    described = f"Artifacts of Datadog Model Lab at {_escaped(point)}" + (", profile %I" if profile else "")
    own = {"Description": described, "ExecStartPre": f"-mkdir -p {quoted(point)}", "ExecStart": start}
    # Without the heading of the shipped file.
    _, _, body = text.partition("\n\n")
    keys = [line.partition("=")[0] for line in body.splitlines()]
    lines = [f"{key}={own[key]}" if key in own else line for key, line in zip(keys, body.splitlines(), strict=True)]
    return Unit(name_of(profile), "\n".join([f"{_MARK}see docs/operations.md", "", *lines, ""]), directory)


def name_of(profile: str | None) -> str:
    """Return the unit's name; a profile's is an instance of the template (systemd.unit(5), "escaping")."""
    if profile is None:
        return _PLAIN
    escaped = "".join(
        "-" if c == "/" else c if re.match(r"[A-Za-z0-9:_.]", c) and (i or c != ".") else _bytes_of(c)
        for i, c in enumerate(profile)
    )
    return f"artifactfs@{escaped}.service"


def _bytes_of(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def quoted(word: str) -> str:
    """Return a word of a command as systemd takes it literally (systemd.service(5), "command lines")."""
    return f'"{_escaped(word, more={chr(34): chr(92) + chr(34), "$": "$$"})}"'


def _escaped(text: str, more: dict[str, str] | None = None) -> str:
    known = {"\\": "\\\\", "%": "%%", **(more or {})}
    return "".join(known.get(c, c) if c.isprintable() else _bytes_of(c) for c in text)


def _unescaped(text: str) -> str:
    """Return the word of a text of `quoted`."""
    raw = re.sub(
        rb"\\x([0-9a-f]{2})|\\(.)|([%$])\3",
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else found[2] or found[3],
        os.fsencode(text),
    )
    return os.fsdecode(raw)


def install(unit: Unit) -> str | None:
    """Write a unit; returns the mount point of the unit that it replaces, None without one or if it is the same.

    Raises UserError if another program's file has its name, or it cannot be written.
    """
    try:
        before = _point_of(_refuse_foreign(unit.path))
        os.makedirs(unit.directory, exist_ok=True)
        replace_file(unit.path, unit.text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise _cannot("write", unit.path, error) from None
    return before if before != _point_of(unit.text) else None


def uninstall(directory: str, profile: str | None) -> str:
    """Delete a unit of ours, enabled or not; returns its path. Raises UserError where there is none."""
    path = os.path.join(directory, name_of(profile))
    if not os.path.lexists(path):
        here = sorted(glob.glob("artifactfs*", root_dir=directory))
        known = f"there are {', '.join(here)}" if here else "there are none of artifactfs"
        raise UserError(ExitCode.USAGE, f"there is no unit {path}", known)
    try:
        _refuse_foreign(path)
        os.unlink(path)
        # The link of `systemctl enable` would be broken.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, f"{_WANTED_BY}.wants", name_of(profile)))
    except OSError as error:
        raise _cannot("delete", path, error) from None
    return path


def _refuse_foreign(path: str) -> str:
    """Return the text of a unit of ours; empty where there is none. Raises UserError for another file."""
    if not os.path.lexists(path):
        return ""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        first = file.readline()
        if not first.startswith(_MARK):
            fact = f"{path} was not written by `artifactfs service install`"
            raise UserError(ExitCode.NOT_WRITABLE, fact, "move it away first")
        return first + file.read()


def _point_of(text: str) -> str | None:
    """Return the mount point of a unit of ours, None if it has none."""
    found = re.search(r'(?m)^ExecStartPre=-mkdir -p "(.*)"$', text)
    return _unescaped(found[1]) if found else None


def _cannot(what: str, path: str, error: OSError) -> UserError:
    return UserError(ExitCode.NOT_WRITABLE, f"cannot {what} {path}: {error.strerror}")
