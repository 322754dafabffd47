"""Installing what a desktop is given, for one user, and taking it away without a trace.

Owns the files below the data directory that carry our mark, a note of what was made on the way there (directories,
and the cache that update-mime-database writes), and no other file.

Hard: all or nothing. What can be known is checked before the first byte is written; what fails later is undone. A
directory that we made may have got other things since, so only what is empty goes.
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
# Far above the tenth of a second that it takes; it is waited for, so it needs an end.
_TOOL_S = 60.0
_NOTE = "artifactfs/desktop.json"
# What update-mime-database 1.x and 2.x write besides the descriptions of types (mime/<media>/<type>.xml).
_CACHE = frozenset(
    {"XMLnamespaces", "aliases", "generic-icons", "globs", "globs2", "icons", "magic", "mime.cache", "subclasses"}
    | {"treemagic", "types", "version"}
)


@dataclass(frozen=True)
class Part:
    """One of the files: what it is, where, and how it is."""

    name: str
    path: str
    state: str
    is_there: bool


def install(data_home: str, choice: desktop_files.Choice) -> list[str]:
    """Install, or bring up to date; returns the paths of the files. Raises UserError with nothing half done."""
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
        raise UserError(ExitCode.DESKTOP_FAILED, f"cannot install for the desktop: {where}{error.strerror}") from error
    return [os.path.join(data_home, place) for place in contents]


def uninstall(data_home: str) -> list[str]:
    """Remove what `install` made; returns the paths of the files. Nothing installed is fine too. Raises UserError."""
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
            ExitCode.DESKTOP_FAILED, f"cannot remove {error.filename}: {error.strerror}; call again to go on"
        ) from error
    return [os.path.join(data_home, place) for place in ours]


def status(data_home: str, choice: desktop_files.Choice) -> list[Part]:
    """Return how each file is, held against what `install` would write; `choice.bin` counts for nothing."""
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
            state = f"not taken in by {_TOOL}: run `artifactfs desktop install` again"
        elif content is not None:
            state = "installed"
        parts.append(Part(name, os.path.join(data_home, place), state, found == "ours"))
    return parts


def launcher_mountpoint(data_home: str) -> str | None:
    """Return where the installed launcher mounts; None where there is none."""
    content = (
        _content(data_home, desktop_files.LAUNCHER) if _state_of(data_home, desktop_files.LAUNCHER) == "ours" else None
    )
    return desktop_files.mountpoint_in(content) if content is not None else None


def has_bin(data_home: str) -> bool:
    """Say whether `*.bin` is installed."""
    return _state_of(data_home, desktop_files.BIN) == "ours"


def _tool() -> str:
    found = shutil.which(_TOOL)
    if found is None:
        raise UserError(
            ExitCode.DESKTOP_FAILED,
            f"{_TOOL} is missing, without which file types are not taken in: as root, run `apt-get install "
            "shared-mime-info`",
        )
    return found


def _run(tool: str, data_home: str) -> None:
    """Rebuild the MIME cache. Raises UserError with the tool's message."""
    try:
        done = subprocess.run(
            [tool, os.path.join(data_home, "mime")], capture_output=True, timeout=_TOOL_S, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        raise UserError(ExitCode.DESKTOP_FAILED, f"{_TOOL} does not end: nothing was changed") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(ExitCode.DESKTOP_FAILED, f"{_TOOL} failed: {said}")


def _refuse_foreign(data_home: str, places: Mapping[str, bytes]) -> None:
    for place in places:
        if _state_of(data_home, place) == "foreign":
            raise UserError(
                ExitCode.DESKTOP_FAILED,
                f"{os.path.join(data_home, place)} is in the way and is not of artifactfs: move it away",
            )


def _state_of(data_home: str, place: str) -> Literal["ours", "foreign", "absent"]:
    """Return whose a file is. What cannot be read is not ours."""
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
    """Write a file in one piece, or remove it where `content` is None. Raises OSError."""
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
    """Make a directory and those above it; what was made is added to `made`, uppermost first.

    Raises OSError; UserError where something else is in the way.
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
                target = os.path.realpath(directory)
                found = f"is a link to {target}, where no directory is: make that, or remove the link"
            else:
                found = "is in the way and no directory: move it away"
            raise UserError(ExitCode.DESKTOP_FAILED, f"cannot install for the desktop: {directory} {found}") from None
        made.append(directory)


def _cache(data_home: str) -> Iterator[str]:
    """Yield what update-mime-database has written: files, and directories before what is in them."""
    top = os.path.join(data_home, "mime")
    for directory, names, found in os.walk(top):
        if directory == top:
            names[:] = [name for name in names if name != "packages"]
            yield from (os.path.join(directory, name) for name in found if name in _CACHE)
        else:
            yield directory
            yield from (os.path.join(directory, name) for name in found if name.endswith(".xml"))


def _unmake(data_home: str, made: list[str]) -> None:
    """Remove the files that `install` made, as noted, unless another program uses them. Raises OSError.

    The note is a file like any other, so it is trusted no further than needed: directories go when they are empty,
    and files only where update-mime-database writes its cache, when no package is left that it would be made from.
    """
    packages = os.path.join(data_home, "mime", "packages")
    has_packages = os.path.isdir(packages) and bool(os.listdir(packages))
    cached = set() if has_packages else set(_cache(data_home))
    for path in reversed(made):
        if path in cached and not os.path.isdir(path):
            os.unlink(path)
    for path in sorted(made, key=len, reverse=True):
        # Not empty, no directory, or gone: no longer, or never, ours to remove.
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _put_back(data_home: str, before: Mapping[str, bytes | None], made: list[str], tool: str) -> None:
    """Undo a failed `install`, as far as the disk permits; the user sees the first failure."""
    with contextlib.suppress(OSError, UserError):
        for place, content in before.items():
            if _content(data_home, place) != content:
                _put(data_home, place, content)
        if os.path.isdir(os.path.join(data_home, "mime", "packages")):
            _run(tool, data_home)
    with contextlib.suppress(OSError):
        _unmake(data_home, [*made, *_cache_made(data_home, made)])


def _cache_made(data_home: str, made: list[str]) -> list[str]:
    """Return the cache below a MIME directory that this very install made."""
    return list(_cache(data_home)) if os.path.join(data_home, "mime") in made else []


def _read_note(data_home: str) -> list[str]:
    content = _content(data_home, _NOTE)
    try:
        made = json.loads(content)["made"] if content is not None else []
    except (ValueError, KeyError, TypeError):
        return []
    return [path for path in made if isinstance(path, str) and os.path.isabs(path)] if isinstance(made, list) else []


def _tell_icon_theme(data_home: str) -> None:
    """Let desktops see that icons came or went: by the time of the theme's directory (Icon Theme Specification)."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(os.path.join(data_home, "icons", "hicolor"))
