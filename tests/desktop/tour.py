"""What file managers ask of a mount: one tour with each, its requests and bytes counted by the emulator.

    python -m tests.desktop.tour [nautilus dolphin nemo pcmanfm thunar]

Prints the table of docs/desktop.md: each place opened cold in a new window, first with `artifactfs desktop install
--bin`, then with --no-previews, too; and what a user does in the window of a run.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from artifactfs.emulator import sample
from tests.desktop.desk import DesktopSession, desktop
from tests.fixtures import ordinary_user, shell_of
from tests.harness import Lab, Mount, Shell, mount_type, run

PROGRAMS = ("nautilus", "dolphin", "nemo", "pcmanfm", "thunar")
# Each, and the requests without which nothing of it can be shown.
PLACES = {
    "names": {"projects": 1},
    "200 runs": {"runs": 2},
    "200 runs, from names": {"runs": 2},
    "a run": {"listing": 1},
    "50 pictures": {"listing": 1},
    "weights": {"listing": 1},
}
# A user who clicks comes from the parent, which is listed by then.
_LISTED_PARENT = {"200 runs, from names": "names"}
ACTIONS = ("search by name", "properties of 50 pictures", "copy a file", "eject")
# Which are searched by typing, and answer for `org.freedesktop.FileManager1`.
_SERVING = ("nautilus", "dolphin", "nemo", "thunar")
# Without a window manager the window with a title is the program's, and has no focus.
_SEARCH = (
    "xdotool search --onlyvisible --name '[0-9a-zA-Z]' windowfocus sleep 0.5 {start} "
    "type --delay 60 sample-04 && xdotool key Return"
)
# As on a desktop; without a GPU. Settings in a file, as there is no dconf.
ENV = {
    "GDK_BACKEND": "x11",
    "GSETTINGS_BACKEND": "keyfile",
    "GSK_RENDERER": "cairo",
    "QT_QPA_PLATFORM": "xcb",
    "XDG_CURRENT_DESKTOP": "GNOME",
}
# What the user's artifactfs needs, and no program of the system's.
_UNSET = ("-u", "PYTHONPATH", "-u", "LD_LIBRARY_PATH")
# A window has shown what it shows when it has asked for nothing so long, and so long after its start.
_QUIET_S = 5.0
_AT_LEAST_S = 10.0
_AT_MOST_S = 90.0


class Tour:
    """A user's desktop, and a run with weights, pictures, and files whose names tell nothing."""

    def __init__(self, desk: DesktopSession, shell: Shell, lab: Lab) -> None:
        self._desk = desk
        self._shell = shell
        self._lab = lab
        weights = {f"weights/model-{number}.safetensors": 2_000_000 for number in range(4)}
        pictures = {f"pictures/sample-{number:03d}.png": 300_000 for number in range(50)}
        run_id = lab.new_run(weights | pictures | {"config.json": 500, "notes": 200, "train.py": 2_000})
        project = ("names", f"many-runs~{sample.MANY_PROJECT}")
        paths: tuple[tuple[object, ...], ...] = (
            ("names",),
            project,
            project,
            ("runs", run_id),
            ("runs", run_id, "pictures"),
            ("runs", run_id, "weights"),
        )
        self._paths = dict(zip(PLACES, paths, strict=True))

    def install(self, *options: str) -> None:
        """Run `artifactfs desktop install`."""
        self._shell.cli("desktop", "install", *options, env=self._desk.env | ENV).ok()

    def version(self, program: str) -> str:
        """Return what a program says of itself; PCManFM has no word for it."""
        done = run(*self._shell.prefix, *self._command(program, "--version"), env=self._desk.env)
        return done.text.splitlines()[0] if done.code == 0 and done.text else program

    @contextmanager
    def opened(self, program: str, place: str) -> Iterator[Mount]:
        """Show a place in a new window of a program, on a mount to which nothing is known, or one listed directory."""
        mounted = self._shell.mount("--metadata-size", "0", name="home/model-lab")
        # The sample has awkward directories, which those programs enter that count.
        mounted.log.announce(r"client: .*", optional=True)
        if (parent := _LISTED_PARENT.get(place)) is not None:
            run(*self._shell.prefix, "ls", mounted.path(parent)).ok()
            self._lab.reset()
        try:
            with self._desk.program(*self._command(program, mounted.path(*self._paths[place]))):
                yield mounted
        finally:
            # A service that the program started may be reading still.
            if mount_type(mounted.point) is not None:
                run(*self._shell.prefix, "fusermount3", "-uz", mounted.point).ok()

    def cost(self, program: str, place: str, least: Mapping[str, int]) -> tuple[dict[str, int], int]:
        """Return the requests of opening a place, by kind, and the bytes of contents.

        `least`: without these requests nothing can be shown.
        """
        with self.opened(program, place):
            return self._settled(least)

    def actions(self, program: str) -> Iterator[str]:
        """Do in the window of a run, one after the other, what ACTIONS names; yield the cost of each."""
        with self.opened(program, "a run") as mounted:
            self._settled(PLACES["a run"])
            pictures = mounted.path(*self._paths["50 pictures"])
            show = ("org.freedesktop.FileManager1.ShowItemProperties", f"['file://{pictures}']", "")
            service = ("--dest", "org.freedesktop.FileManager1", "--object-path", "/org/freedesktop/FileManager1")
            weights = mounted.path(*self._paths["weights"], "model-0.safetensors")
            own: tuple[tuple[str, ...] | None, ...] = (
                ("sh", "-c", _SEARCH.format(start="" if program == "nautilus" else "key ctrl+f sleep 1")),
                ("gdbus", "call", "--session", *service, "--method", *show),
            )
            for command in (
                *(own if program in _SERVING else (None, None)),
                ("gio", "copy", weights, self._shell.path("home")),
                ("gio", "mount", "--unmount", mounted.point),
            ):
                if command is None:
                    yield "not tried"
                    continue
                self._lab.reset()
                run(*self._shell.prefix, *command, env=self._desk.env)
                cost = _cell(*self._settled({}))
                is_kept = command[:2] == ("gio", "mount") and mount_type(mounted.point) is not None
                yield "busy" if is_kept else cost

    def _settled(self, least: Mapping[str, int]) -> tuple[dict[str, int], int]:
        begin = changed = time.monotonic()
        last = ""
        while True:
            stats = self._lab.stats()
            if (now := json.dumps(stats, sort_keys=True)) != last:
                last, changed = now, time.monotonic()
            waited_s, quiet_s = time.monotonic() - begin, time.monotonic() - changed
            requests = self._lab.requests()
            is_shown = all(requests.get(kind, 0) >= count for kind, count in least.items())
            if waited_s > _AT_MOST_S or (is_shown and waited_s > _AT_LEAST_S and quiet_s > _QUIET_S):
                return requests, stats["content_bytes"]
            time.sleep(0.5)

    @staticmethod
    def _command(*command: str) -> tuple[str, ...]:
        variables = (f"{name}={value}" for name, value in ENV.items())
        return ("env", *_UNSET, *variables, *command)


def main(programs: list[str]) -> None:
    """Print the table."""
    lab = Lab()
    out = sys.stdout.write
    try:
        out(f"| | installed with | {' | '.join((*PLACES, *ACTIONS))} |\n")
        out("|---" * (2 + len(PLACES) + len(ACTIONS)) + "|\n")
        with ordinary_user() as user:
            for program in programs or [name for name in PROGRAMS if shutil.which(name)]:
                for options in (("--bin",), ("--bin", "--no-previews")):
                    # A home that knows nothing: file managers keep their previews there.
                    with shell_of(user, lab) as shell, desktop(shell) as desk:
                        # The one that Thunar itself begins with.
                        desk.prefer_view("ThunarIconView")
                        tour = Tour(desk, shell, lab)
                        tour.install(*options)
                        cells = [_cell(*tour.cost(program, place, least)) for place, least in PLACES.items()]
                        cells += tour.actions(program)
                        out(f"| {tour.version(program)} | `{' '.join(options)}` | {' | '.join(cells)} |\n")
                        sys.stdout.flush()
    finally:
        lab.close()


def _cell(requests: dict[str, int], content_bytes: int) -> str:
    read = requests.pop("content", 0)
    return f"{sum(requests.values())}" + (f" + {read} reads, {content_bytes:,} bytes" if read else "")


if __name__ == "__main__":
    main(sys.argv[1:])
