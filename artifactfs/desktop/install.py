"""Installs and removes the desktop integration of one user.

Owns the files below the data directory that carry our mark, and a note that lists the directories and cache files that
the installation created.

Hard: all or nothing. Checks come before the first write; a later failure is undone. A directory that we created may
hold other files by now, so only empty directories are removed.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from artifactfs.desktop import desktop_files
from artifactfs.errors import ExitCode, UserError

_TOOL = "update-mime-database"
# It takes a tenth of a second; the wait needs a limit.
_TOOL_S = 60.0
_NOTE = "artifactfs/desktop.json"
_INSTALL_FAILED = "cannot install for the desktop"
# Files of update-mime-database 1.x and 2.x besides the descriptions of types (mime/<media>/<type>.xml).
_CACHE = frozenset(
    {"XMLnamespaces", "aliases", "generic-icons", "globs", "globs2", "icons", "magic", "mime.cache", "subclasses"}
    | {"treemagic", "types", "version"}
)


@dataclass(frozen=True)
class Part:
    """One of the files: its name for the user, path and state."""

    name: str
    path: str
    state: str
    is_there: bool


def install(data_home: str, choice: desktop_files.Choice) -> list[str]:
    """Install or update; returns the paths of the files. Raises UserError, with every change undone."""
    contents = desktop_files.wanted(choice)
    tool = _tool()
    _refuse_foreign(data_home, contents)
    before = {place: _content(data_home, place) for place in (*desktop_files.PLACES, _NOTE)}
    made: list[str] = []
    note = _read_note(data_home)
    try:
        for place in contents:
            _make_directories(os.path.dirname(os.path.join(data_home, place)), made)
        cached = set(_cache(data_home))
        for place in desktop_files.PLACES:
            _put(data_home, place, contents.get(place))
        _run(tool, data_home)
        made += sorted(set(_cache(data_home)) - cached)
        _make_directories(os.path.dirname(os.path.join(data_home, _NOTE)), made)
        _put(data_home, _NOTE, json.dumps({"made": list(dict.fromkeys([*note, *made]))}).encode() + b"\n")
        _tell_icon_theme(data_home)
    except (OSError, UserError) as error:
        _put_back(data_home, before, made, tool)
        if isinstance(error, UserError):
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(ExitCode.DESKTOP_FAILED, f"{_INSTALL_FAILED}: {where}{error.strerror}") from error
    return [os.path.join(data_home, place) for place in contents]


def uninstall(data_home: str) -> list[str]:
    """Remove the files of `install`; returns their paths, empty if none is installed. Raises UserError."""
    ours = [place for place in desktop_files.PLACES if _state_of(data_home, place) == "ours"]
    note = _read_note(data_home)
    if not ours and not note:
        return []
    tool = _tool()
    try:
        for place in ours:
            _put(data_home, place, None)
        if os.path.isdir(os.path.join(data_home, "mime", "packages")):
            _run(tool, data_home)
        _put(data_home, _NOTE, None)
        _unmake(data_home, note)
        _tell_icon_theme(data_home)
    except OSError as error:
        raise UserError(
            ExitCode.DESKTOP_FAILED,
            f"cannot remove {error.filename}: {error.strerror}",
            "run the command again to remove the rest",
        ) from error
    return [os.path.join(data_home, place) for place in ours]


def status(data_home: str, choice: desktop_files.Choice) -> list[Part]:
    """Return the state of each file, compared with the files of `install`; `choice.bin` is ignored."""
    installed = desktop_files.wanted(choice)
    globs = _content(data_home, "mime/globs2") or b""
    known = {line.partition(":")[2].partition(":")[2] for line in globs.decode(errors="replace").splitlines()}
    parts = []
    for place, name in desktop_files.PLACES.items():
        found, content = _state_of(data_home, place), _content(data_home, place)
        state = "not installed"
        if found == "foreign":
            state = "not ours: it is in the way"
        elif content is not None and content != installed.get(place, content):
            state = "of another version or place: run `artifactfs desktop install` again"
        elif content is not None and place.endswith(".xml") and not set(desktop_files.globs(content)) <= known:
            state = f"not registered by {_TOOL}: run `artifactfs desktop install` again"
        elif content is not None:
            state = "installed"
        parts.append(Part(name, os.path.join(data_home, place), state, found == "ours"))
    return parts


def launcher_mountpoint(data_home: str) -> str | None:
    """Return the mount point of the installed launcher; None where there is none."""
    content = (
        _content(data_home, desktop_files.LAUNCHER) if _state_of(data_home, desktop_files.LAUNCHER) == "ours" else None
    )
    return desktop_files.mountpoint_in(content) if content is not None else None


def has_bin(data_home: str) -> bool:
    """Whether `*.bin` is installed."""
    return _state_of(data_home, desktop_files.BIN) == "ours"


def _tool() -> str:
    found = shutil.which(_TOOL)
    if found is None:
        raise UserError(
            ExitCode.DESKTOP_FAILED,
            f"{_TOOL}, which registers file types, is missing",
            "as root, run `apt-get install shared-mime-info`",
            command="sudo apt-get install shared-mime-info",
        )
    return found


def _run(tool: str, data_home: str) -> None:
    """Rebuild the MIME cache. Raises UserError with the tool's message."""
    try:
        done = subprocess.run(
            [tool, os.path.join(data_home, "mime")], capture_output=True, timeout=_TOOL_S, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        raise UserError(ExitCode.DESKTOP_FAILED, f"{_TOOL} did not end within {_TOOL_S:g} s") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(ExitCode.DESKTOP_FAILED, f"{_TOOL} failed: {said}")


def _refuse_foreign(data_home: str, places: Mapping[str, bytes]) -> None:
    for place in places:
        if _state_of(data_home, place) == "foreign":
            raise UserError(
                ExitCode.DESKTOP_FAILED,
                f"{os.path.join(data_home, place)} is in the way, and not a file of artifactfs",
                "move it away",
            )


def _state_of(data_home: str, place: str) -> Literal["ours", "foreign", "absent"]:
    """Return the owner of a file by its mark. An unreadable file is foreign."""
    path = os.path.join(data_home, place)
    try:
        return "ours" if desktop_files.is_ours(path) else "foreign"
    except (FileNotFoundError, NotADirectoryError):
        return "foreign" if os.path.lexists(path) else "absent"
    except OSError:
        return "foreign"


def _content(data_home: str, place: str) -> bytes | None:
    try:
        with open(os.path.join(data_home, place), "rb") as file:
            return file.read()
    except OSError:
        return None


def _put(data_home: str, place: str, content: bytes | None) -> None:
    """Replace a file atomically, or remove it if `content` is None. Raises OSError."""
    path = os.path.join(data_home, place)
    if content is None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if place == _NOTE or desktop_files.is_ours(path):
                os.unlink(path)
        return
    new = f"{path}.{os.getpid()}.new"
    try:
        with open(new, "wb") as file:
            file.write(content)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def _make_directories(path: str, made: list[str]) -> None:
    """Create a directory and its missing parents, and append them to `made`, topmost first.

    Raises OSError; UserError if something else is in the way.
    """
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        try:
            os.mkdir(directory)
        except FileExistsError:
            if os.path.islink(directory):
                fact = f"is a link to {os.path.realpath(directory)}, which is not a directory"
                fix = "create that directory, or remove the link"
            else:
                fact, fix = "is in the way, and not a directory", "move it away"
            raise UserError(ExitCode.DESKTOP_FAILED, f"{_INSTALL_FAILED}: {directory} {fact}", fix) from None
        made.append(directory)


def _cache(data_home: str) -> Iterator[str]:
    """Yield the files of update-mime-database, and its directories before their files."""
    top = os.path.join(data_home, "mime")
    for directory, names, found in os.walk(top):
        if directory == top:
            names[:] = [name for name in names if name != "packages"]
            yield from (os.path.join(directory, name) for name in found if name in _CACHE)
        else:
            yield directory
            yield from (os.path.join(directory, name) for name in found if name.endswith(".xml"))


def _unmake(data_home: str, made: list[str]) -> None:
    """Remove the files and directories of the note that are no longer in use. Raises OSError.

    The note may be edited, so it is trusted as little as possible: directories are removed only when empty. Files are
    removed only in the cache of update-mime-database, and only when no package is left that the cache is built from.
    """
    packages = os.path.join(data_home, "mime", "packages")
    has_packages = os.path.isdir(packages) and bool(os.listdir(packages))
    cached = set() if has_packages else set(_cache(data_home))
    for path in reversed(made):
        if path in cached and not os.path.isdir(path):
            os.unlink(path)
    for path in sorted(made, key=len, reverse=True):
        # Not empty, not a directory, or gone: not ours to remove.
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _put_back(data_home: str, before: Mapping[str, bytes | None], made: list[str], tool: str) -> None:
    """Undo a failed `install`, best effort: the user sees the first failure."""
    with contextlib.suppress(OSError, UserError):
        for place, content in before.items():
            if _content(data_home, place) != content:
                _put(data_home, place, content)
        if os.path.isdir(os.path.join(data_home, "mime", "packages")):
            _run(tool, data_home)
    with contextlib.suppress(OSError):
        _unmake(data_home, [*made, *_cache_made(data_home, made)])


def _cache_made(data_home: str, made: list[str]) -> list[str]:
    """Return the cache below a MIME directory that this `install` created."""
    return list(_cache(data_home)) if os.path.join(data_home, "mime") in made else []


def _read_note(data_home: str) -> list[str]:
    content = _content(data_home, _NOTE)
    try:
        made = json.loads(content)["made"] if content is not None else []
    except (ValueError, KeyError, TypeError):
        return []
    return [path for path in made if isinstance(path, str) and os.path.isabs(path)] if isinstance(made, list) else []


def _tell_icon_theme(data_home: str) -> None:
    """Notify desktops of changed icons by the mtime of the theme's directory (Icon Theme Specification)."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(os.path.join(data_home, "icons", "hicolor"))
