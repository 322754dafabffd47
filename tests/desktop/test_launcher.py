"""The launcher: mounts, and shows the mount in the file manager, as a click on it would."""

import os
from pathlib import Path

import pytest

from artifactfs.desktop import desktop_files
from artifactfs.errors import ExitCode
from tests.desktop.desk import DesktopSession
from tests.harness import FUSE_TYPE, Lab, Shell, mount_type, run, start_process
from tests.processes import command_line

# What a shell, the launcher's format or `printf` would make something else of.
ODD = 'my "model" $lab `x` 100% \\n'


def launcher(shell: Shell, desk: DesktopSession, point: str) -> str:
    """Install a launcher that mounts at `point`; returns its file."""
    shell.cli("desktop", "install", "--mountpoint", point, env=desk.env).ok()
    return shell.path(f"home/.local/share/{desktop_files.LAUNCHER}")


def service(shell: Shell, lab: Lab) -> dict[str, str]:
    """Return what the environment says of the service, keys and all."""
    return {"ARTIFACTFS_API_URL": lab.url, "DD_API_KEY": lab.api_key, "DD_APP_KEY": lab.app_key}


@pytest.mark.parametrize("name", ["model-lab", ODD], ids=["plain", "odd"])
def test_a_click_mounts_and_shows(name: str, desk: DesktopSession, lab: Lab, shell: Shell) -> None:
    """The launcher makes its directory, mounts there and opens the file manager, which gets no keys; a second click
    does not mount again; its action unmounts."""
    point = shell.path(f"home/{name}")
    mounted = shell.expected_mount(f"home/{name}")
    os.rmdir(point)
    entry = launcher(shell, desk, point)
    env = desk.env | service(shell, lab) | {"ARTIFACTFS_LOG_FILE": mounted.log_file}
    with start_process(["gio", "launch", entry], env=env):
        assert [row.name for row in desk.folder(name, 5)] == ["by", "names", "projects", "runs", "search"]
        assert mount_type(point) == FUSE_TYPE
        with start_process(["gio", "launch", entry], env=env):
            desk.wait_until(lambda: len(desk.windows("thunar")) == 2, "another window")

        def managers() -> list[int]:
            return [pid for pid in shell.processes() if command_line(pid).split("\0")[0].endswith("thunar")]

        # The second one leaves its window to the first.
        desk.wait_until(lambda: len(managers()) == 1, "one file manager")
        (manager,) = managers()
        with open(f"/proc/{manager}/environ", "rb") as file:
            environ = file.read()
    assert lab.url.encode() in environ
    assert lab.api_key.encode() not in environ
    assert lab.app_key.encode() not in environ
    assert len([line for line in mounted.log.lines() if " mounted " in line]) == 1
    unmount = action(entry)
    run("sh", "-c", unmount, env=desk.env).ok()
    assert mount_type(point) is None


def action(entry: str) -> str:
    """Return the command of the launcher's action; a shell reads a quoted word as the launcher's format has it."""
    text = Path(entry).read_text(encoding="utf-8").partition("[Desktop Action unmount]")[2]
    line = text.partition("Exec=")[2].partition("\n")[0]
    return line.replace("\\\\", "\\").replace("%%", "%")


def teller(shell: Shell) -> tuple[dict[str, str], str]:
    """Return an environment with a `zenity` that writes down what it is to show, and the file where it does."""
    said = shell.path("said")
    program = Path(shell.make_directory("tools")) / "zenity"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >'{said}'\n")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}, said


def test_errors_show_in_a_window(desk: DesktopSession, lab: Lab, shell: Shell) -> None:
    """Where the mount fails, a launcher's user sees why: in a window, in the words of `mount`. Without a key in it; and
    the directory that was made is gone."""
    tools, said = teller(shell)
    env = desk.env | service(shell, lab) | tools | {"DD_API_KEY": "wrong-key-0123456789"}
    done = shell.cli("desktop", "open", shell.path("home/lab"), env=env)
    assert done.code == ExitCode.KEYS_REJECTED
    assert done.err.startswith("artifactfs: the keys were rejected")
    assert done.err.count("\n") == 1
    shown = Path(said).read_text(encoding="utf-8")
    assert "--error" in shown
    assert done.err.removeprefix("artifactfs: ").strip() in shown
    assert "wrong-key" not in shown + done.err
    assert os.listdir(shell.path("home")) == []


def test_without_a_display_there_is_no_window(lab: Lab, shell: Shell) -> None:
    """Without a display nothing is shown in a window: only the line on standard error."""
    tools, said = teller(shell)
    nowhere = {"DISPLAY": None, "WAYLAND_DISPLAY": None}
    done = shell.cli("desktop", "open", shell.path("home/lab"), env={**tools, **nowhere, "DD_API_KEY": None})
    assert done.code in (ExitCode.KEYS_MISSING, ExitCode.DESKTOP_FAILED)
    assert done.err.count("\n") == 1
    assert not os.path.exists(said)


def test_without_anything_to_open_a_directory(shell: Shell, lab: Lab) -> None:
    """Without xdg-open and gio: one line with the package, and nothing is mounted."""
    env = {"PATH": shell.make_directory("empty"), "DISPLAY": None, "ARTIFACTFS_API_URL": lab.url}
    done = shell.cli("desktop", "open", shell.path("home/lab"), env=env)
    assert done.code == ExitCode.DESKTOP_FAILED
    assert "apt-get install xdg-utils" in done.err
    assert done.err.count("\n") == 1
    assert os.listdir(shell.path("home")) == []


def test_an_opener_that_is_content_without_a_display(shell: Shell, lab: Lab) -> None:
    """Where there is no display, that is said, whatever the opener makes of it; and nothing else is."""
    mounted = shell.mount(name="home/lab")
    opener = Path(shell.make_directory("tools")) / "xdg-open"
    opener.write_text("#!/bin/sh\necho Cannot open display: >&2\n")
    opener.chmod(0o755)
    env = {"PATH": f"{opener.parent}:{os.environ['PATH']}", "DISPLAY": None, "WAYLAND_DISPLAY": None}
    done = shell.cli("desktop", "open", mounted.point, env=env)
    assert done.code == ExitCode.DESKTOP_FAILED
    assert done.err == f"artifactfs: {mounted.point} is mounted, but there is no display to show it on\n"


def test_an_opener_that_fails(shell: Shell, lab: Lab) -> None:
    """Where all openers fail, the line says that it is mounted all the same."""
    mounted = shell.mount(name="home/lab")
    tools = Path(shell.make_directory("tools"))
    for name, code in (("xdg-open", 3), ("gio", 4)):
        (tools / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tools / name).chmod(0o755)
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "DISPLAY": None}
    done = shell.cli("desktop", "open", mounted.point, env=env)
    assert done.code == ExitCode.DESKTOP_FAILED
    assert f"{mounted.point} is mounted" in done.err
    assert "`xdg-open` (exit code 3) and `gio open` (exit code 4)" in done.err
