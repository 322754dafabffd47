"""Turns off what file managers read unasked: previews, and the number of items in each directory that they show.

Owns a few settings of other programs, each for all directories of the user: no program has them for one mount alone.
Their former values are for the caller to keep. Measured by `python -m tests.desktop.tour` (docs/desktop.md).
"""

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from artifactfs.errors import ExitCode, UserError
from artifactfs.util.replacing import replace_file
from artifactfs.util.tools import ToolFailed, output_of

# Tools of the desktop answer at once; the wait needs a limit.
_TOOL_S = 20.0
_FIX = "run the command in a terminal of your desktop, or leave out --no-previews"

Former = dict[str, str | None]


class _GSetting(NamedTuple):
    program: str
    schema: str
    key: str
    off: str = "'never'"

    @property
    def name(self) -> str:
        return f"{self.schema} {self.key}"

    def read(self) -> str | None:
        return _run("gsettings", "get", self.schema, self.key)

    def write(self, value: str | None) -> None:
        given = () if value is None else (value,)
        _run("gsettings", "set" if given else "reset", self.schema, self.key, *given)
        if value is not None and self.read() != value:
            fact = f"gsettings does not keep {self.key} of {self.schema}"
            raise UserError(ExitCode.DESKTOP_FAILED, fact, _FIX)


class _Xfconf(NamedTuple):
    program: str
    path: str
    off: str

    @property
    def name(self) -> str:
        return f"{self.program} {self.path}"

    def read(self) -> str | None:
        try:
            return _run("xfconf-query", "--channel", self.program, "--property", self.path)
        except UserError:
            # It fails for what is not set, too.
            return None

    def write(self, value: str | None) -> None:
        change = ("--reset",) if value is None else ("--create", "--type", "string", "--set", value)
        _run("xfconf-query", "--channel", self.program, "--property", self.path, *change)


class _KeyFile(NamedTuple):
    """An entry of a file of the Desktop Entry Specification's form, of a program without a tool for it."""

    program: str
    path: str
    group: str
    key: str
    off: str

    @property
    def name(self) -> str:
        return f"{self.program} {self.group}/{self.key}"

    def read(self) -> str | None:
        found = self._pattern().search(self._text())
        return found["value"] if found is not None else None

    def write(self, value: str | None) -> None:
        # Where a program's configuration is a link into a collection of dotfiles, the link stays.
        text, path = self._text(), os.path.realpath(self.path)
        line = "" if value is None else f"{self.key}={value}\n"
        changed, count = self._pattern().subn(lambda found: found["before"] + line, text, count=1)
        if not count and line:
            head = f"[{self.group}]\n"
            before, found, after = f"\n{text}".partition(f"\n{head}")
            changed = f"{before}{found}{line}{after}"[1:] if found else f"{text}{head}{line}"
        if changed == text:
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, changed.encode("utf-8", "surrogateescape"))

    def _text(self) -> str:
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return re.sub(r"(?<=[^\n])\Z", "\n", file.read())
        except FileNotFoundError:
            return ""

    def _pattern(self) -> re.Pattern[str]:
        group, key = re.escape(self.group), re.escape(self.key)
        return re.compile(
            rf"(?P<before>(?:^|\n)\[{group}\][^\n]*\n(?:(?!\[)[^\n]*\n)*?){key}[ \t]*=[ \t]*(?P<value>[^\n]*)\n"
        )


# A setting of a program. `name` is unique; `off`: the value that turns it off. `read` returns the value, None where
# none is set; `write` sets it, None removes it. Both raise UserError and OSError.
Setting: TypeAlias = _GSetting | _Xfconf | _KeyFile


def settings(config_home: str, data_home: str) -> tuple[Setting, ...]:
    """Return the settings of all file managers that are known; not each is installed."""
    # Dolphin has a file for the directories that have none of their own.
    dolphin = os.path.join(data_home, "dolphin/view_properties/global/.directory")
    return (
        _GSetting("nautilus", "org.gnome.nautilus.preferences", "show-directory-item-counts"),
        _GSetting("nautilus", "org.gnome.nautilus.preferences", "show-image-thumbnails"),
        _GSetting("nemo", "org.nemo.preferences", "show-directory-item-counts"),
        _GSetting("nemo", "org.nemo.preferences", "show-image-thumbnails"),
        _Xfconf("thunar", "/misc-thumbnail-mode", "THUNAR_THUMBNAIL_MODE_NEVER"),
        # Its own default, so this is for who changed it. The list view of 4.20 lists each directory all the same.
        _Xfconf("thunar", "/misc-folder-item-count", "THUNAR_FOLDER_ITEM_COUNT_NEVER"),
        _KeyFile("pcmanfm", os.path.join(config_home, "libfm/libfm.conf"), "ui", "show_thumbnail", "0"),
        _KeyFile("dolphin", dolphin, "Dolphin", "PreviewsShown", "false"),
        _KeyFile("dolphin", os.path.join(config_home, "dolphinrc"), "ContentDisplay", "DirectorySizeMode", "None"),
    )


def turn_off(known: tuple[Setting, ...], former: Mapping[str, str | None]) -> Former:
    """Turn previews off in each file manager that is installed, and return the values before, by name.

    `former`: what an earlier call returned; its values stay. Raises UserError and OSError, with each change undone.
    """
    before: Former = {}
    try:
        for setting in known:
            if shutil.which(setting.program) is None:
                continue
            value = setting.read()
            if value != setting.off:
                setting.write(setting.off)
                before[setting.name] = value
    except BaseException:
        with contextlib.suppress(UserError, OSError):
            put_back(known, before)
        raise
    return before | dict(former)


def put_back(known: tuple[Setting, ...], former: Mapping[str, str | None]) -> None:
    """Give each setting that is still off its former value. Raises UserError and OSError."""
    for setting in known:
        if setting.name in former and shutil.which(setting.program) is not None and setting.read() == setting.off:
            setting.write(former[setting.name])


def _run(*command: str) -> str:
    """Return what a tool of the desktop prints. Raises UserError where it is missing or fails."""
    try:
        return output_of(*command, limit_s=_TOOL_S).strip()
    except ToolFailed as error:
        fix = "leave out --no-previews" if error.is_missing else _FIX
        raise UserError(ExitCode.DESKTOP_FAILED, str(error), fix) from None
