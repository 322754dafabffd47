"""`artifactfs desktop install --no-previews`: what file managers ask for with and without it, and how it is undone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.desktop import previews
from artifactfs.errors import ExitCode
from tests.desktop.desk import DesktopSession, desktop
from tests.desktop.tour import ENV, Tour
from tests.harness import Lab, Shell, run, wait_until

PROGRAMS = ("nautilus", "dolphin")
# Dolphin 25 takes FUSE for slow: it neither counts nor shows previews, whatever is set. 22 does; between was not tried.
_DOLPHIN_SPARES = 25
# From here to 4.21.5 the list view looks into each directory, whatever is set (from its source; 4.20.2 was tried).
_THUNAR_LOOKS = (4, 20)


@pytest.fixture
def user_desk(user_shell: Shell) -> Iterator[DesktopSession]:
    """The desktop of an ordinary user, as file managers warn root."""
    with desktop(user_shell) as found:
        user_shell.more_env |= ENV
        yield found


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_no_previews_saves(program: str, user_desk: DesktopSession, user_shell: Shell, lab: Lab) -> None:
    """7: a project of 200 runs is 3 requests, and pictures are not read: a file manager lists and reads what is opened.
    Without --no-previews it lists every run, so this can fail; only Dolphin of Debian 13 spares FUSE."""
    tour = Tour(user_desk, user_shell, lab)
    tour.install("--bin")
    if program != "dolphin" or int(tour.version(program).split()[1].split(".")[0]) < _DOLPHIN_SPARES:
        with tour.opened(program, "200 runs"):
            wait_until(lambda: lab.requests().get("listing", 0) >= 100, "runs that are counted", 60.0)
    tour.install("--bin", "--no-previews")
    assert tour.cost(program, "200 runs", {"runs": 2}) == ({"project": 1, "runs": 2}, 0)
    requests, content_bytes = tour.cost(program, "50 pictures", {"listing": 2})
    # To tell image/png from image/apng, GLib reads the first bytes of each, and no setting says otherwise.
    read = 50 if program == "nautilus" and types_of_png() > 1 else 0
    assert (requests.get("content", 0), content_bytes) == (read, read * (128 << 10))


def types_of_png() -> int:
    """Return how many types the system has for `*.png`: two with shared-mime-info 2.4 of Debian 13."""
    rows = Path("/usr/share/mime/globs2").read_text(encoding="utf-8").splitlines()
    return sum(row.endswith(":*.png") for row in rows)


def test_counts_in_the_list_of_thunar(user_desk: DesktopSession, user_shell: Shell, lab: Lab) -> None:
    """7: Thunar's setting to count items comes back; meanwhile a project of 200 runs is 3 requests."""
    env = user_desk.env | ENV
    setting = ("xfconf-query", "--channel", "thunar", "--property", "/misc-folder-item-count")
    always = "THUNAR_FOLDER_ITEM_COUNT_ALWAYS"
    run(*user_shell.prefix, *setting, "--create", "--type", "string", "--set", always, env=env).ok()
    tour = Tour(user_desk, user_shell, lab)
    tour.install("--bin")
    with tour.opened("thunar", "200 runs"):
        wait_until(lambda: lab.requests().get("listing", 0) >= 100, "runs that are counted", 60.0)
    tour.install("--bin", "--no-previews")
    requests, content_bytes = tour.cost("thunar", "200 runs", {"runs": 2})
    # "thunar 4.18.4 (Xfce 4.18)"
    if tuple(map(int, tour.version("thunar").split()[1].split(".")[:2])) < _THUNAR_LOOKS:
        assert (requests, content_bytes) == ({"project": 1, "runs": 2}, 0)
    else:
        assert (requests["listing"] >= 100, content_bytes) == (True, 0)
    user_shell.cli("desktop", "uninstall", env=env).ok()
    assert run(*user_shell.prefix, *setting, env=env).ok().text.strip() == always


def counts(desk: DesktopSession, shell: Shell) -> str:
    """Return when GNOME Files counts items."""
    schema = "org.gnome.nautilus.preferences"
    command = ("gsettings", "get", schema, "show-directory-item-counts")
    return run(*shell.prefix, *command, env=desk.env | ENV).ok().text.strip()


def test_uninstall_puts_back(user_desk: DesktopSession, user_shell: Shell) -> None:
    """Former values are back after `uninstall`, and after `install` without --no-previews, however often it was run;
    what a user set since stays."""
    env = user_desk.env | ENV
    dolphin = Path(user_shell.path("config/dolphinrc"))
    before = "[General]\nVersion=202\n\n[ContentDisplay]\nDirectorySizeMode=ContentSize\nRecursive=3\n"
    dolphin.write_text(before)
    dolphin.chmod(0o640)
    os.chown(dolphin, user_shell.owner or -1, -1)
    for undo in (("uninstall",), ("install",)):
        for _ in range(2):
            user_shell.cli("desktop", "install", "--no-previews", env=env).ok()
        assert counts(user_desk, user_shell) == "'never'"
        assert dolphin.read_text() == before.replace("=ContentSize", "=None")
        told = user_shell.cli("desktop", "status", env=env).ok().text.rpartition("no previews in ")[2]
        assert {"nautilus", "thunar", "dolphin"} <= set(told.strip().split(", "))
        user_shell.cli("desktop", *undo, env=env).ok()
        assert counts(user_desk, user_shell) == "'local-only'"
        assert (dolphin.read_text(), dolphin.stat().st_mode & 0o777) == (before, 0o640)
    user_shell.cli("desktop", "install", "--no-previews", env=env).ok()
    dolphin.write_text(before.replace("=ContentSize", "=ContentCount"))
    user_shell.cli("desktop", "uninstall", env=env).ok()
    assert dolphin.read_text() == before.replace("=ContentSize", "=ContentCount")


def test_all_or_nothing(user_desk: DesktopSession, user_shell: Shell) -> None:
    """Where a setting cannot be changed, one line says so, and nothing is installed or changed."""
    env = user_desk.env | ENV
    blocked = Path(user_shell.path("config/dolphinrc"))
    blocked.mkdir()
    done = user_shell.cli("desktop", "install", "--no-previews", env=env)
    assert (done.code, done.err.count("\n")) == (ExitCode.DESKTOP_FAILED, 1), done
    assert str(blocked) in done.err
    assert counts(user_desk, user_shell) == "'local-only'"
    assert "installed  " not in user_shell.cli("desktop", "status", env=env).ok().text
    # Without a session there is nothing that keeps a setting.
    blocked.rmdir()
    done = user_shell.cli("desktop", "install", "--no-previews", env=env | {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/"})
    assert (done.code, done.err.count("\n")) == (ExitCode.DESKTOP_FAILED, 1), done
    assert "in a terminal of your desktop" in done.err
    assert counts(user_desk, user_shell) == "'local-only'"
    share = Path(user_shell.path("home/.local/share"))
    assert not any((share / name).exists() for name in ("applications", "artifactfs", "icons", "mime"))


@pytest.mark.parametrize(
    "text",
    ["", "[ui]\n", "[ui]\nother=1\n", "[ui]\nother=1", "[other]\nshow_thumbnail=1\n", "# a note\n\n[ui]\n[z]\nk=v\n"],
)
def test_an_entry_of_a_key_file(text: str, tmp_path: Path) -> None:
    """An entry is added to its group, replaced, and removed; all other lines stay."""
    setting = next(each for each in previews.settings(str(tmp_path), str(tmp_path)) if each.program == "pcmanfm")
    path = tmp_path / "libfm/libfm.conf"
    path.parent.mkdir()
    path.write_text(text)
    assert setting.read() is None
    for value in ("0", "1", "0"):
        setting.write(value)
        assert setting.read() == value
    kept = path.read_text().splitlines()
    assert kept.count("show_thumbnail=0") == 1
    kept.remove("show_thumbnail=0")
    assert [line for line in kept if line != "[ui]"] == [line for line in text.splitlines() if line != "[ui]"]
    setting.write(None)
    assert setting.read() is None
