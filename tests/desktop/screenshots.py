"""`make screenshots`: the README's pictures, of the same desktop that the tests look at.

    python -m tests.desktop.screenshots docs/images

What is in them is the built-in sample, as `make demo` mounts it. A picture that shows what is not meant is worse than
none, so each waits for what it is to show, and nothing is written where that does not come.
"""

import os
import sys
import tempfile

from artifactfs.emulator import sample
from tests.desktop.desk import DesktopSession, desktop
from tests.fixtures import AS_USER, USER_ID
from tests.harness import ARTIFACTFS, CHECKOUT, Lab, Mount, Shell, run

# Of the README's width on its page; a picture is a few dozen KiB.
_COLORS = 128
_MOST_BYTES = 100_000
_THUNAR = """<?xml version="1.0" encoding="UTF-8"?>
<channel name="thunar" version="1.0">
  <property name="default-view" type="string" value="ThunarDetailsView"/>
  <property name="last-location-bar" type="string" value="ThunarLocationButtons"/>
  <property name="last-sort-column" type="string" value="THUNAR_COLUMN_DATE_MODIFIED"/>
  <property name="last-sort-order" type="string" value="GTK_SORT_DESCENDING"/>
  <property name="last-window-width" type="int" value="1000"/>
  <property name="last-window-height" type="int" value="600"/>
  <property name="misc-single-click" type="bool" value="false"/>
  <property name="misc-date-style" type="string" value="THUNAR_DATE_STYLE_CUSTOM"/>
  <property name="misc-date-custom-style" type="string" value="%Y-%m-%d %H:%M"/>
</channel>
"""


def main(directory: str) -> None:
    """Write all pictures into a directory."""
    os.makedirs(directory, exist_ok=True)
    lab = Lab()
    try:
        with tempfile.TemporaryDirectory(prefix="artifactfs-screenshots-") as place:
            shell = Shell(place, lab)
            # Programs warn root, in a bar on top: they are an ordinary user's, who is let into the mount.
            user = Shell(place, None, prefix=AS_USER, owner=USER_ID) if os.geteuid() == 0 else shell
            others = ("--allow-other",) if user is not shell else ()
            os.chmod(place, 0o755)
            mounted = shell.mount(*others, name="home/model-lab")
            try:
                with desktop(user) as desk:
                    _take(desk, lab, mounted, directory)
            finally:
                user.close()
                shell.close()
    finally:
        lab.close()


def _take(desk: DesktopSession, lab: Lab, mounted: Mount, directory: str) -> None:
    top, runs = mounted.point, mounted.path("runs")
    names = mounted.sh('ls "$M/names"').ok().text.splitlines()
    with open(desk.shell.path("config/xfce4/xfconf/xfce-perchannel-xml/thunar.xml"), "w", encoding="utf-8") as file:
        file.write(_THUNAR)
    # By who runs this: the user may not be able to read the checkout. What is installed can be read by all.
    data_home = {"XDG_DATA_HOME": desk.shell.path("home/.local/share")}
    run(ARTIFACTFS, "desktop", "install", "--bin", env=os.environ | data_home).ok()
    count = len(lab.newest_runs(200))
    with desk.program("thunar", runs):
        desk.folder("runs", count)
        _picture(desk, "runs - Thunar", os.path.join(directory, "thunar-runs.png"))
    for name, value in (("column", "THUNAR_COLUMN_NAME"), ("order", "GTK_SORT_ASCENDING")):
        query = ("xfconf-query", "--channel", "thunar", "--property", f"/last-sort-{name}", "--set", value)
        run(*desk.shell.prefix, *query, env=desk.env).ok()
    with desk.program("thunar", os.path.join(top, "names")):
        desk.folder("names", len(names))
        _picture(desk, "names - Thunar", os.path.join(directory, "thunar-names.png"))
    with desk.program("thunar", os.path.join(runs, str(sample.RUN), "lora_model")):
        rows = desk.folder("lora_model", 9)
        assert "Safetensors weights" in {row.kind for row in rows}
        _picture(desk, "lora_model - Thunar", os.path.join(directory, "thunar-run.png"))
        editor = "README.md in an editor"
        desk.open("lora_model", "README.md", lambda: any("README" in w.title for w in desk.windows("mousepad")), editor)
        _picture(desk, "README.md", os.path.join(directory, "editor.png"))


def _picture(desk: DesktopSession, title: str, path: str) -> None:
    # Out of the way, lest something lights up below the pointer.
    run("xdotool", "mousemove", "1279", "899", env=desk.env).ok()
    found = run("xdotool", "search", "--sync", "--onlyvisible", "--name", title, env=desk.env).ok()
    desk.picture(found.text.split()[-1], path)
    # A line around it, as a page may be as white as the window; and small.
    line, small = ("-bordercolor", "#c8c8c8", "-border", "1"), ("-strip", "+dither", "-colors", str(_COLORS))
    run("convert", path, *line, *small, "-define", "png:compression-level=9", path).ok()
    size = os.path.getsize(path)
    assert size < _MOST_BYTES, f"{path} has {size} bytes"
    sys.stdout.write(f"{os.path.relpath(path, CHECKOUT)}  {size} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1])
