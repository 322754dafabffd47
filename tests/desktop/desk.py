"""A desktop of a test's own: a display without a screen, a session bus, and programs on them that are looked at.

Owns the display and the bus, and through the mark in their environment all that is started on them. Looks through the
accessibility tree (seen.py), acts through the mouse. What a window shows is waited for; nothing sleeps for a guess.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.harness import Shell, run, start_process, wait_until

# A program's first window on two cores that have other things to do.
WINDOW_S = 60.0
# After which a click that nothing came of is done again.
_AGAIN_S = 10.0
_SEEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "seen.py")
# The system's, which has `gi`; the tests' own need not.
_PYTHON = "/usr/bin/python3"
_SCREEN = "1280x900x24"
# In the window's menu bar, right of the menus: where a key goes to the window, and the pointer changes nothing.
_MENU_BAR = ("900", "13")
# The last pixel of the screen, where no window is: they begin at the first, and are smaller.
_CORNER = ("1279", "899")

_GTK = """[Settings]
gtk-theme-name=Adwaita
gtk-icon-theme-name=Adwaita
gtk-font-name=Cantarell 11
gtk-enable-animations=0
gtk-cursor-blink=0
gtk-double-click-time=2000
"""
_DEFAULTS = """[Default Applications]
inode/directory=thunar.desktop
text/plain=org.xfce.mousepad.desktop
"""
_THUNAR_FILE = "xfce4/xfconf/xfce-perchannel-xml/thunar.xml"
_THUNAR = """<?xml version="1.0" encoding="UTF-8"?>
<channel name="thunar" version="1.0">
  <property name="default-view" type="string" value="ThunarDetailsView"/>
  <property name="last-window-width" type="int" value="1000"/>
  <property name="last-window-height" type="int" value="640"/>
  <property name="misc-single-click" type="bool" value="false"/>
  <property name="misc-date-style" type="string" value="THUNAR_DATE_STYLE_CUSTOM"/>
  <property name="misc-date-custom-style" type="string" value="%Y-%m-%d %H:%M:%S"/>
</channel>
"""


@dataclass(frozen=True)
class Row:
    """A line of a file manager's list. `place`: where its name is on the screen: x, y, width, height in pixels."""

    name: str
    size: str
    kind: str
    time: str
    place: tuple[int, int, int, int]


@dataclass(frozen=True)
class Window:
    """What a window shows: a node of the accessibility tree, and all below it."""

    title: str
    tree: Mapping[str, Any]

    def nodes(self, *roles: str) -> list[Mapping[str, Any]]:
        """Return all nodes of one of the roles, in order."""
        return [node for node in _below(self.tree) if node["role"] in roles]

    def rows(self) -> list[Row] | None:
        """Return the rows of a file manager's list; None while there is no list."""
        # "tree table" with the GTK of Debian 13.
        for table in self.nodes("table", "tree table"):
            heads = [node["name"] for node in table["children"] if node["role"] == "table column header"]
            if heads == ["Name", "Size", "Type", "Date Modified"]:
                cells = [node for node in table["children"] if node["role"] == "table cell"]
                lines = [cells[start : start + 4] for start in range(0, len(cells), 4)]
                return [_row(line) for line in lines if len(line) == 4]
        return None

    def status(self) -> str:
        """Return the status bar's text, with single spaces."""
        return " ".join(" ".join(node["name"] for node in self.nodes("status bar")).split())

    def places(self) -> list[str]:
        """Return what the side pane of a file manager lists."""
        for table in self.nodes("table", "tree table"):
            if [node["name"] for node in table["children"] if node["role"] == "table column header"] == [""]:
                return [cell["name"] for node in table["children"] for cell in node["children"] if cell["name"]]
        return []


def _row(line: list[Mapping[str, Any]]) -> Row:
    # The name's cell holds an icon and the text.
    name = next(cell for cell in line[0]["children"] if cell["name"])
    size, kind, time = (cell["name"].replace("\u00a0", " ") for cell in line[1:])
    x, y, width, height = name["place"]
    return Row(name["name"], size, kind, time, (x, y, width, height))


def _below(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield tree
    for child in tree["children"]:
        yield from _below(child)


class DesktopSession:
    """The desktop, and the programs on it. `shell`: who sits at it, with the home that `artifactfs` is typed in."""

    def __init__(self, shell: Shell, display: str, bus: str) -> None:
        self.shell = shell
        self.display = display
        self._session = {"DISPLAY": display, "DBUS_SESSION_BUS_ADDRESS": bus}

    @property
    def env(self) -> dict[str, str]:
        """Return the environment of what runs on the desktop: it has no keys."""
        return _session_env(self.shell) | self._session

    @contextmanager
    def program(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a program on the desktop; it is killed at the end of the context.

        The pointer is out of the way: the status bar tells of what it rests on, and not of the directory.
        """
        self._xdotool("mousemove", *_CORNER)
        with start_process([*self.shell.prefix, *command], env=self.env) as process:
            yield process

    def windows(self, application: str) -> list[Window]:
        """Return the windows of an application as they are now."""
        done = run(*self.shell.prefix, _PYTHON, "-I", _SEEN, application, env=self.env, limit_s=WINDOW_S).ok()
        return [Window(tree["name"], tree) for tree in json.loads(done.out) or []]

    def window(self, application: str, title: str) -> Window | None:
        """Return the first window whose title begins with `title`, as it is now."""
        return next((found for found in self.windows(application) if found.title.startswith(title)), None)

    def wait_for_status(self, text: str) -> None:
        """Wait until Thunar's status bar begins with a text: what it says of a directory that it shows.

        Where it tells of a selected file instead, none is selected any more. Thunar loads a directory twice at once,
        for the list and for its count, and where the two meet at a file it takes that out of the list, puts it back,
        and selects the next one: once in ten times with what is slower than a local disk.
        """

        def says() -> bool:
            told = [window.status() for window in self.windows("thunar")]
            if any(status.startswith('"') for status in told):
                self._xdotool("mousemove", *_MENU_BAR, "key", "Escape", "mousemove", *_CORNER)
            return any(status.startswith(text) for status in told)

        self.wait_until(says, f"Thunar's “{text}”")

    def prefer_view(self, view: str) -> None:
        """Have Thunar show directories in another view from its next start on: ThunarIconView is its own default."""
        path = self.shell.path(f"config/{_THUNAR_FILE}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(_THUNAR.replace("ThunarDetailsView", view))

    def folder(self, title: str, count: int) -> list[Row]:
        """Wait until Thunar shows a directory with `count` entries, with size, type and time of each."""
        found: list[Row] = []

        def is_shown() -> bool:
            window = self.window("thunar", f"{title} - Thunar")
            found[:] = (window.rows() or []) if window is not None else []
            return len(found) == count and all(row.name and row.kind and row.time for row in found)

        self.wait_until(is_shown, f"Thunar with the {count} entries of {title}")
        return found

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for what is to be seen; a failure says where the picture is of what was."""
        try:
            wait_until(condition, what, WINDOW_S)
        except AssertionError as error:
            picture = self.shell.path("desktop.png")
            self.picture("root", picture)
            seen = [(window.title, window.status()) for window in self.windows("thunar")]
            raise AssertionError(f"{error}; the windows of Thunar: {seen}; the desktop: {picture}") from None

    def picture(self, window: str, path: str) -> None:
        """Write a picture of a window, by its X id, or of the "root"."""
        run("import", "-window", window, path, env=self.env).ok()

    def open(self, title: str, name: str, is_open: Callable[[], object], what: str) -> None:
        """Click twice on a row of Thunar's window `title`, as a user does, until `is_open()`.

        Where nothing comes of it the window was not ready, or the two clicks came too far apart: so again.
        """
        end = time.monotonic() + WINDOW_S
        while time.monotonic() < end:
            window = self.window("thunar", f"{title} - Thunar")
            for row in (window.rows() or []) if window is not None else []:
                if row.name == name:
                    self._double_click(row)
            with contextlib.suppress(AssertionError):
                return wait_until(is_open, what, _AGAIN_S)
        return self.wait_until(is_open, what)

    def enter(self, title: str, name: str) -> None:
        """Enter a directory from Thunar's window `title`."""
        self.open(title, name, lambda: self.window("thunar", f"{name} - Thunar"), f"{name} entered")

    def _double_click(self, row: Row) -> None:
        x, y, _, height = row.place
        assert y > 0, f"{row.name} is not in sight"
        self._xdotool("mousemove", str(x + 10), str(y + height // 2), "click", "--repeat", "2", "--delay", "80", "1")

    def _xdotool(self, *command: str) -> None:
        run(*self.shell.prefix, "xdotool", *command, env=self.env).ok()


def _session_env(shell: Shell) -> dict[str, str]:
    """Return what everything on the desktop, and the bus that starts some of it, has in its environment."""
    # A desktop around the tests is none of theirs; nor are its accessibility bus and its toolkit's modules.
    foreign = ("DBUS_", "XDG_", "GTK_", "GDK_", "GIO_", "AT_SPI", "WAYLAND", "XAUTH", "DISPLAY", "DESKTOP_", "QT_")
    keys = ("DD_API_KEY", "DD_APP_KEY")
    kept = {name: value for name, value in shell.env.items() if not name.startswith(foreign) and name not in keys}
    own = {
        "HOME": shell.path("home"),
        "XDG_RUNTIME_DIR": shell.path("runtime"),
        "XDG_STATE_HOME": shell.path("state"),
        "XDG_CACHE_HOME": shell.path("cache"),
        "XDG_CONFIG_HOME": shell.path("config"),
        # Where gvfs is installed it would mount something of its own.
        "GIO_USE_VFS": "local",
        "GIO_USE_VOLUME_MONITOR": "unix",
        "GVFS_DISABLE_FUSE": "1",
        "GSETTINGS_BACKEND": "memory",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    return kept | own


@contextmanager
def desktop(shell: Shell) -> Iterator[DesktopSession]:
    """Start a display and a session bus; both, and all that was started on them, are gone at the end."""
    _furnish(shell)
    env = _session_env(shell)
    display_reader, display_writer = os.pipe()
    server = ("Xvfb", "-displayfd", str(display_writer), "-screen", "0", _SCREEN, "-nolisten", "tcp", "-noreset")
    with _serving([*shell.prefix, *server], env, (display_writer,)) as xvfb:
        os.close(display_writer)
        with os.fdopen(display_reader, encoding="ascii") as told:
            # The end of the file without a number: it could not start.
            number = told.readline().strip()
        assert number, f"Xvfb did not start: {_said(xvfb)}"
        display = f":{number}"
        daemon = ("dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address=1")
        with _serving([*shell.prefix, *daemon], env | {"DISPLAY": display}) as bus:
            assert bus.stdout is not None
            address = bus.stdout.readline().decode().strip()
            assert address, f"dbus-daemon did not start: {_said(bus)}"
            yield DesktopSession(shell, display, address)


def _furnish(shell: Shell) -> None:
    """Write the settings of the desktop's programs."""
    os.chmod(shell.make_directory("runtime"), 0o700)
    settings = {
        "gtk-3.0/settings.ini": _GTK,
        "mimeapps.list": _DEFAULTS,
        _THUNAR_FILE: _THUNAR,
    }
    for name, text in settings.items():
        path = shell.path(f"config/{name}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


@contextmanager
def _serving(
    command: list[str], env: Mapping[str, str], pass_fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; at the end it gets a signal, so that it takes away its sockets and those who hang on it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
        pass_fds=pass_fds,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Not to their ends: what a bus has started (kded) may outlive it, and holds them.
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _said(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    return process.communicate()[1].decode(errors="replace")
