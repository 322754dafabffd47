"""The files of the desktop integration: their places and their contents. Writes nothing.

Hard: `Exec` of a launcher is quoted twice, as an argument and then as a string of the file (Desktop Entry
Specification, "The Exec key").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from artifactfs.errors import ExitCode, UserError

# The mark in each of our files: only marked files are replaced or removed.
MARK = b"`artifactfs desktop install`"

TYPES = "mime/packages/artifactfs.xml"
BIN = "mime/packages/artifactfs-bin.xml"
LAUNCHER = "applications/artifactfs.desktop"
ICON = "icons/hicolor/scalable/apps/artifactfs.svg"
# Every place of our files below the data directory, and its name for the user.
PLACES = {LAUNCHER: "launcher", ICON: "icon", TYPES: "file types", BIN: "*.bin"}


@dataclass(frozen=True)
class Choice:
    """The options of an installation.

    `mountpoint`: an absolute path. `program`: the words that run artifactfs, the first an absolute path. `previews`:
    whether file managers may go on making them.
    """

    mountpoint: str
    program: tuple[str, ...]
    bin: bool
    previews: bool = True


def wanted(choice: Choice) -> dict[str, bytes]:
    """Return the files to install: content by place. Raises UserError for a path that no launcher can hold."""
    launcher = (
        _share("artifactfs.desktop")
        .replace(b"@TRY_EXEC@", _string(choice.program[0]).encode())
        .replace(b"@OPEN@", _exec((*choice.program, "desktop", "open", choice.mountpoint)).encode())
        .replace(b"@UNMOUNT@", _exec((*choice.program, "umount", choice.mountpoint)).encode())
    )
    found = {TYPES: _share("artifactfs.xml"), LAUNCHER: launcher, ICON: _share("artifactfs.svg")}
    if choice.bin:
        found[BIN] = _share("artifactfs-bin.xml")
    return found


def globs(package: bytes) -> list[str]:
    """Return the patterns of one of our MIME packages."""
    return re.findall(r'<glob pattern="([^"]+)"', package.decode())


def mountpoint_in(launcher: bytes) -> str | None:
    """Return the mount point of a launcher of ours; None if it was edited and cannot be parsed."""
    found = re.search(rb'^Exec=.* "desktop" "open" "(.*)"$', launcher, re.MULTILINE)
    if found is None:
        return None
    quoted = found[1].decode("utf-8", "replace").replace("\\\\", "\\")
    return re.sub(r"\\(.)", r"\1", quoted).replace("%%", "%")


def _share(name: str) -> bytes:
    from importlib import resources

    return resources.files(__package__).joinpath("share", name).read_bytes()


def _exec(words: Sequence[str]) -> str:
    # The specification allows quotes around every word.
    quoted = ('"' + re.sub(r'(["`$\\])', r"\\\1", word.replace("%", "%%")) + '"' for word in words)
    return " ".join(_string(word) for word in quoted)


def _string(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        fact = f"a launcher cannot hold a path that is not UTF-8: {text}"
        raise UserError(ExitCode.USAGE, fact, "choose another path") from None
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise UserError(ExitCode.USAGE, f"a launcher cannot hold a path with control characters: {text!r}")
    return text.replace("\\", "\\\\")
