"""Installs and removes the desktop integration of one user.

Owns the files below the data directory that carry our mark, and a note that lists the directories and cache files that
the installation created, and the former values of other programs' settings (previews.py).

Hard: all or nothing. Checks come before the first write; a later failure is undone. A directory that we created may
hold other files by now, so only empty directories are removed.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from artifactfs.desktop import desktop_files, previews
from artifactfs.errors import ExitCode, UserError
from artifactfs.util.replacing import replace_file
from artifactfs.util.tools import ToolFailed, output_of

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


class _Note(msgspec.Struct):
    """`made`: absolute paths that the installation created; `settings`: former values, by previews.Setting.name."""

    made: list[Any] = []
    settings: dict[str, str | None] = {}

    def __post_init__(self) -> None:
        # Edited, it may hold anything.
        self.made = [path for path in self.made if isinstance(path, str) and os.path.isabs(path)]

    def encoded(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"


class Installation:
    """The desktop integration of one user: data_home is XDG_DATA_HOME, config_home XDG_CONFIG_HOME."""

    def __init__(self, data_home: str, config_home: str) -> None:
        self._data_home = data_home
        self._settings = previews.settings(config_home, data_home)
        self._mime = os.path.join(data_home, "mime")
        self._packages = os.path.join(self._mime, "packages")

    def install(self, choice: desktop_files.Choice) -> list[str]:
        """Install or update; returns the paths of the files. Raises UserError, with every change undone."""
        contents = desktop_files.wanted(choice)
        tool = _tool()
        for place in contents:
            if self._is_foreign(place):
                fact = f"{self._path(place)} is in the way, and not a file of artifactfs"
                raise UserError(ExitCode.DESKTOP_FAILED, fact, "move it away")
        before = {place: self._content(place) for place in (*desktop_files.PLACES, _NOTE)}
        made: list[str] = []
        note = self._read_note()
        changed: previews.Former = {}
        try:
            for place in contents:
                self._make_directory_of(place, made)
            cached = set(self._cache())
            for place in desktop_files.PLACES:
                self._put(place, contents.get(place))
            self._run(tool)
            made += sorted(set(self._cache()) - cached)
            self._make_directory_of(_NOTE, made)
            self._touch_icon_theme()
            if choice.previews:
                previews.put_back(self._settings, note.settings)
            else:
                changed = previews.turn_off(self._settings, note.settings)
            self._put(_NOTE, _Note([*dict.fromkeys([*note.made, *made])], changed).encoded())
        except (OSError, UserError) as error:
            with contextlib.suppress(OSError, UserError):
                new = {name: value for name, value in changed.items() if name not in note.settings}
                previews.put_back(self._settings, new)
            self._put_back(before, made, tool)
            if isinstance(error, UserError):
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise UserError(ExitCode.DESKTOP_FAILED, f"{_INSTALL_FAILED}: {where}{error.strerror}") from error
        return list(map(self._path, contents))

    def uninstall(self) -> list[str]:
        """Remove the files of `install`; returns their paths, empty if none is installed. Raises UserError."""
        ours = list(filter(self._is_ours, desktop_files.PLACES))
        note = self._read_note()
        if not ours and not note.made and not note.settings:
            return []
        tool = _tool()
        try:
            for place in ours:
                self._put(place, None)
            if os.path.isdir(self._packages):
                self._run(tool)
            previews.put_back(self._settings, note.settings)
            self._put(_NOTE, None)
            self._unmake(note.made)
            self._touch_icon_theme()
        except OSError as error:
            fact = f"cannot remove {error.filename}: {error.strerror}"
            raise UserError(ExitCode.DESKTOP_FAILED, fact, "run the command again to remove the rest") from error
        return list(map(self._path, ours))

    def status(self, program: tuple[str, ...], mountpoint: str) -> list[Part]:
        """Return the state of each file, compared with the files that `install` would write.

        `mountpoint`: that of a launcher to install; an installed one has its own.
        """
        choice = desktop_files.Choice(self.mountpoint() or mountpoint, program, bin=True)
        wanted = desktop_files.wanted(choice)
        globs = (self._content("mime/globs2") or b"").decode(errors="replace").splitlines()
        known = {line.partition(":")[2].partition(":")[2] for line in globs}
        parts = []
        for place, name in desktop_files.PLACES.items():
            content = self._content(place)
            state = "installed"
            if self._is_foreign(place):
                state = "not ours: it is in the way"
            elif content is None:
                state = "not installed"
            elif content != wanted[place]:
                state = "of another version or place: run `artifactfs desktop install` again"
            elif place.endswith(".xml") and not set(desktop_files.globs(content)) <= known:
                state = f"not registered by {_TOOL}: run `artifactfs desktop install` again"
            parts.append(Part(name, self._path(place), state))
        return parts

    def without_previews(self) -> list[str]:
        """Return the programs whose previews `install` turned off."""
        former = self._read_note().settings
        return list(dict.fromkeys(setting.program for setting in self._settings if setting.name in former))

    def mountpoint(self) -> str | None:
        """Return the mount point of the installed launcher; None where there is none."""
        content = self._content(desktop_files.LAUNCHER)
        return desktop_files.mountpoint_in(content) if content is not None and desktop_files.MARK in content else None

    def _path(self, place: str) -> str:
        return os.path.join(self._data_home, place)

    def _content(self, place: str) -> bytes | None:
        try:
            with open(self._path(place), "rb") as file:
                return file.read()
        except OSError:
            return None

    def _is_ours(self, place: str) -> bool:
        return desktop_files.MARK in (self._content(place) or b"")

    def _is_foreign(self, place: str) -> bool:
        """Return whether a file is not ours. An unreadable file is foreign."""
        return os.path.lexists(self._path(place)) and not self._is_ours(place)

    def _put(self, place: str, content: bytes | None) -> None:
        """Replace a file atomically, or remove it if `content` is None. Raises OSError."""
        path = self._path(place)
        if content is None:
            if place == _NOTE or self._is_ours(place):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.unlink(path)
            return
        replace_file(path, content)

    def _make_directory_of(self, place: str, made: list[str]) -> None:
        """Create the directory of a file and its missing parents, and append them to `made`, topmost first.

        Raises OSError; UserError if something else is in the way.
        """
        path = os.path.dirname(self._path(place))
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for directory in reversed(missing):
            try:
                os.mkdir(directory)
            except FileExistsError:
                fact, fix = "is in the way, and not a directory", "move it away"
                if os.path.islink(directory):
                    fact = f"is a link to {os.path.realpath(directory)}, which is not a directory"
                    fix = "create that directory, or remove the link"
                raise UserError(ExitCode.DESKTOP_FAILED, f"{_INSTALL_FAILED}: {directory} {fact}", fix) from None
            made.append(directory)

    def _run(self, tool: str) -> None:
        """Rebuild the MIME cache. Raises UserError with the tool's message."""
        try:
            output_of(tool, self._mime, limit_s=_TOOL_S)
        except ToolFailed as error:
            raise UserError(ExitCode.DESKTOP_FAILED, str(error)) from None

    def _cache(self) -> Iterator[str]:
        """Yield the files of update-mime-database, and its directories before their files."""
        for directory, names, found in os.walk(self._mime):
            if directory == self._mime:
                names[:] = [name for name in names if name != "packages"]
                yield from (os.path.join(directory, name) for name in found if name in _CACHE)
            else:
                yield directory
                yield from (os.path.join(directory, name) for name in found if name.endswith(".xml"))

    def _unmake(self, made: list[str]) -> None:
        """Remove the files and directories of the note that are no longer in use. Raises OSError.

        The note may be edited, so it is trusted as little as possible: directories are removed only when empty. Files
        are removed only in the cache of update-mime-database, and only when no package is left for the cache.
        """
        has_packages = os.path.isdir(self._packages) and bool(os.listdir(self._packages))
        cached = set() if has_packages else set(self._cache())
        for path in cached.intersection(made):
            if not os.path.isdir(path):
                os.unlink(path)
        for path in sorted(made, key=len, reverse=True):
            # Not empty, not a directory, or gone: not ours to remove.
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def _put_back(self, before: Mapping[str, bytes | None], made: list[str], tool: str) -> None:
        """Undo a failed `install`, best effort: the user sees the first failure."""
        with contextlib.suppress(OSError, UserError):
            for place, content in before.items():
                if self._content(place) != content:
                    self._put(place, content)
            if os.path.isdir(self._packages):
                self._run(tool)
        with contextlib.suppress(OSError):
            # The cache is ours below a MIME directory that this `install` created.
            self._unmake([*made, *(self._cache() if self._mime in made else ())])

    def _read_note(self) -> "_Note":
        try:
            return msgspec.json.decode(self._content(_NOTE) or b"{}", type=_Note)
        except msgspec.MsgspecError:
            return _Note()

    def _touch_icon_theme(self) -> None:
        """Notify desktops of changed icons by the mtime of the theme's directory (Icon Theme Specification)."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path("icons/hicolor"))


def _tool() -> str:
    found = shutil.which(_TOOL)
    if found is None:
        fact = f"{_TOOL}, which registers file types, is missing"
        fix, command = "as root, run `apt-get install shared-mime-info`", "sudo apt-get install shared-mime-info"
        raise UserError(ExitCode.DESKTOP_FAILED, fact, fix, command=command)
    return found
