"""The launcher: mounts, and shows the mount in the file manager.

It runs `artifactfs mount` in a process of its own, as a user would. Hard: the standard error of a launcher is
invisible, so errors appear in a window. A file manager passes its environment on to every program that it starts, so
the keys are removed from it.
"""

import html
import shutil
import subprocess
from collections.abc import Sequence

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import checks, mount_table, registry
from artifactfs.util.escaping import one_line

# Commands that open a directory in the desktop's file manager, in order of preference.
_OPENERS = (("xdg-open",), ("gio", "open"))
_TITLE = "Model Lab"


def show(mountpoint: str, program: Sequence[str]) -> None:
    """Mount at `mountpoint` unless it is mounted, and open it in the file manager.

    A missing directory is created. `program`: the words that run artifactfs. Raises UserError with the error of
    `mount`, or DESKTOP_FAILED if no program can open a directory.
    """
    openers = [words for words in _OPENERS if shutil.which(words[0]) is not None]
    if not openers:
        fact = "no program to open a directory is installed"
        fix, command = "as root, run `apt-get install xdg-utils`", "sudo apt-get install xdg-utils"
        raise UserError(ExitCode.DESKTOP_FAILED, fact, fix, command=command)
    point = mount_table.resolve(mountpoint)
    if not _is_served(point):
        _mount(point, program)
    settings.drop_keys()
    failed = []
    for opener in openers:
        # Its output would mix with ours. Some openers exit with 0 without a display.
        done = subprocess.run(
            [*opener, point],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=settings.environment(keys=False),
        )
        if done.returncode == 0:
            break
        # xdg-open fails for some names that gio opens, as that of a directory that ends in a line feed.
        failed.append(f"`{' '.join(opener)}` (exit code {done.returncode})")
    else:
        fact = f"{point} is mounted, but {' and '.join(failed)} could not show it"
        raise UserError(ExitCode.DESKTOP_FAILED, fact, "check that a file manager is installed")
    if not settings.has_display():
        raise UserError(ExitCode.DESKTOP_FAILED, f"{point} is mounted, but there is no display to show it on")


def tell(message: str) -> None:
    """Show an error in a window, with the first program that can; without one, standard error must do."""
    if not settings.has_display():
        return
    text = one_line(message)
    # All but the last interpret backslash escapes (g_strcompress; KDialog's parseString).
    literal = text.replace("\\", "\\\\")
    ways = (
        ("zenity", "--error", "--no-markup", f"--title={_TITLE}", f"--text={literal}"),
        ("kdialog", "--title", _TITLE, "--error", html.escape(literal)),
        ("notify-send", "--icon=artifactfs", "--", _TITLE, html.escape(literal)),
        ("xmessage", "-center", "-title", _TITLE, text),
    )
    for words in ways:
        if shutil.which(words[0]) is not None:
            # No time-out: the window stays until the user closes it.
            done = subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if done.returncode == 0:
                return


def _is_served(point: str) -> bool:
    mounted = mount_table.mounted_at(point)
    return mounted is not None and mounted.is_ours and registry.is_served(point)


def _mount(point: str, program: Sequence[str]) -> None:
    with checks.made_directory(point):
        done = subprocess.run(
            [*program, "mount", point],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            env=settings.environment(keys=True),
        )
        if done.returncode != 0:
            said = " ".join(done.stderr.split()).removeprefix("artifactfs: ")
            # A signal's number is no exit code.
            code = ExitCode(done.returncode) if done.returncode in set(ExitCode) else ExitCode.MOUNT_REFUSED
            raise UserError(code, said or f"`mount` ended with exit code {done.returncode}")
