"""A real file manager on a real mount: what it shows, and what that costs."""

import datetime
import itertools

import pytest

from artifactfs.emulator import sample
from tests.desktop.desk import DesktopSession, Row
from tests.harness import Lab, Mount, Shell

MANY_RUNS = f"many-runs~{sample.MANY_PROJECT}"
MANY = 100  # files of each of two names, in a directory


@pytest.fixture
def lab(own_lab: Lab) -> Lab:
    """An emulator for each test: /runs shows the runs that were updated last, which other tests would have made."""
    return own_lab


def runs_to_see(lab: Lab) -> list[int]:
    """Return the runs that /runs shows: 200 except for the deleted among them."""
    found = lab.newest_runs(200)
    lab.reset()
    return found


def test_it_enters_runs(desk: DesktopSession, lab: Lab, mounted: Mount, shell: Shell) -> None:
    """2.3, 7: the root, /runs and a run, entered by double clicks: nothing is read, and a page of runs is asked for
    once. The mount is in the list of places, by the name of its directory."""
    shell.cli("desktop", "install", env=desk.env).ok()
    # Since 4.20 Thunar lists every directory that its list view shows, the awkward ones of the sample too.
    mounted.log.announce(r"client: run \d+, directory /:", optional=True)
    expected = runs_to_see(lab)
    with desk.program("thunar", mounted.point):
        assert [row.name for row in desk.folder("model-lab", 5)] == ["by", "names", "projects", "runs", "search"]
        window = desk.window("thunar", "model-lab")
        assert window is not None
        assert "model-lab" in window.places()

        desk.enter("model-lab", "runs")
        shown = desk.folder("runs", len(expected))
        assert sorted(row.name for row in shown) == sorted(map(str, expected))
        assert {row.kind.lower() for row in shown} == {"folder"}

        run = next(row for row in shown if row.name.startswith("60"))
        desk.enter("runs", run.name)
        inside = desk.folder(run.name, len(children(lab, int(run.name))))
        assert sorted(row.name for row in inside) == children(lab, int(run.name))
        asked = lab.requests()
    assert asked["runs"] == 2
    # Thunar 4.20 looks into /names and /projects too, to count what is in them.
    assert set(asked) - {"projects"} == {"runs", "listing", "index"}


def test_what_it_costs_to_look(desk: DesktopSession, lab: Lab, mounted: Mount, shell: Shell) -> None:
    """7: in the view that Thunar comes with, whatever it probes for: the root is 0 requests, /runs 1 for each 100 runs,
    a run that is known from there 1, and its project's index."""
    shell.cli("desktop", "install", env=desk.env).ok()
    desk.prefer_view("ThunarIconView")
    runs = runs_to_see(lab)
    small = next(run_id for run_id in runs if children(lab, run_id) == ["config.json", "metrics.jsonl", "model"])
    lab.reset()
    places: tuple[tuple[str, str, dict[str, int]], ...] = (
        ("", "5 folders", {}),
        ("runs", f"{len(runs)} folders", {"runs": 2}),
        (f"runs/{small}", "1 folder | 2 files: ", {"runs": 2, "listing": 1, "index": 1}),
    )
    for place, status, cost in places:
        with desk.program("thunar", mounted.path(place)):
            desk.wait_for_status(status)
            assert lab.requests() == cost


def test_what_it_costs_to_look_by_name(desk: DesktopSession, lab: Lab, mounted: Mount, shell: Shell) -> None:
    """7, 1.1: /names and a project of 200 runs there, whose links Thunar follows one and all: 1 request for each 100
    projects and runs, and none for a link."""
    desk.prefer_view("ThunarIconView")
    # Through another mount, so that nothing is known to the one that is looked at.
    other = shell.mount(name="other")
    names, runs = (other.sh(f'ls "$M/names/{place}" | wc -l').ok().text.strip() for place in ("", MANY_RUNS))
    lab.reset()
    with desk.program("thunar", mounted.path("names")):
        desk.wait_for_status(f"{names} folders")
        assert lab.requests() == {"projects": 1}
    lab.reset()
    with desk.program("thunar", mounted.path("names", MANY_RUNS)):
        # Beside the runs, the latest and the two tables.
        desk.wait_for_status(f"{int(runs) - 2} folders | 2 files: ")
        assert lab.requests() == {"runs": 2}
    assert int(runs) == 200 + 5


def test_five_clicks_to_a_run_by_its_parameter(desk: DesktopSession, lab: Lab, mounted: Mount) -> None:
    """1.7, 7: from the projects in /by to a run by a parameter's value, by double clicks, a request a level."""
    mounted.sh('ls "$M/by/project/$1/parameter"', MANY_RUNS).ok()
    lab.reset()
    places = ("project", MANY_RUNS, "parameter", "optimizer", "sgd", "latest")
    with desk.program("thunar", mounted.path("by/project")):
        for above, name in itertools.pairwise(places):
            desk.enter(above, name)
        desk.wait_for_status("1 folder | 2 files: ")
    # The icons of what is in the run are its own cost.
    expected = {"projects": 1, "facets": 1, "runs": 1, "listing": 1, "index": 1}
    assert {kind: count for kind, count in lab.requests().items() if kind != "content"} == expected


def test_it_shows_sizes_and_times(desk: DesktopSession, lab: Lab, mounted: Mount) -> None:
    """2.2, 2.3: the sizes and times that Thunar shows are those that `stat` tells, and add up to the run's."""
    place = ("runs", sample.RUN, "lora_model")
    seen = {path.decode(): found for path, found in mounted.walk(*place).items() if b"/" not in path}
    files = [found.size for found in seen.values() if not found.is_dir]
    with desk.program("thunar", mounted.path(*place)):
        shown = desk.folder("lora_model", len(seen))
        desk.wait_for_status(f"1 folder | {len(files)} files: 8.0 MiB ({sum(files)} bytes)")
    assert {row.name: row.time for row in shown} == {name: time_of(found.mtime_ns) for name, found in seen.items()}
    sizes = {row.name: row.size for row in shown}
    # Some by hand, so that nothing has to know how Thunar rounds; then their sum, which it tells to the byte.
    assert sizes["adapter_model.safetensors"] == "4.5 MiB"
    assert sizes["README.md"] == "1.4 KiB"
    assert sizes["adapter_config.json"] == "1015 bytes"


def test_a_text_file_opens_in_an_editor(desk: DesktopSession, lab: Lab, mounted: Mount) -> None:
    """4.1: a double click on README.md opens an editor that shows what the server has."""
    expected = mounted.sh('cat "$M/runs/$1/lora_model/README.md"', sample.RUN).ok().text
    with desk.program("thunar", mounted.path("runs", sample.RUN, "lora_model")):
        desk.folder("lora_model", 9)
        texts: list[str] = []

        def is_open() -> bool:
            windows = [window for window in desk.windows("mousepad") if "README.md" in window.title]
            texts[:] = [node["text"] for window in windows for node in window.nodes("text") if node["text"]]
            return bool(texts)

        desk.open("lora_model", "README.md", is_open, "README.md in an editor")
    assert texts == [expected]


def checkpoints(lab: Lab) -> int:
    """Return a new run with a directory of safetensors and bin files."""
    names = [f"model-{i:05d}.safetensors" for i in range(MANY)] + [f"pytorch_model-{i:05d}.bin" for i in range(MANY)]
    return lab.new_run({f"weights/{name}": 200_000 for name in names})


def entered(desk: DesktopSession, lab: Lab, mounted: Mount, run_id: int) -> list[Row]:
    """Enter the directory of checkpoints as a user does, and return what is shown; only that is counted."""
    desk.folder(str(run_id), 1)
    lab.reset()
    desk.enter(str(run_id), "weights")
    return desk.folder("weights", 2 * MANY)


def test_named_types_cost_no_content(desk: DesktopSession, lab: Lab, mounted: Mount, shell: Shell) -> None:
    """7: with the MIME package and --bin, a directory of 200 checkpoints is one listing and no content, though Thunar
    tells the type of each: by its name."""
    shell.cli("desktop", "install", "--bin", env=desk.env).ok()
    run_id = checkpoints(lab)
    with desk.program("thunar", mounted.path("runs", run_id)):
        shown = entered(desk, lab, mounted, run_id)
        kinds = [row.kind for row in shown]
        assert kinds == ["Safetensors weights"] * MANY + ["Binary data"] * MANY
        assert {row.size for row in shown} == {"195.3 KiB"}
        asked = lab.requests()
    assert asked.pop("listing", 0) <= 1
    assert asked == {}


@pytest.mark.parametrize("installed", [False, True], ids=["nothing", "without --bin"])
def test_unnamed_types_are_read(installed: bool, desk: DesktopSession, lab: Lab, mounted: Mount, shell: Shell) -> None:
    """What the MIME package is for: without it Thunar reads every file, without --bin every *.bin. So the test above
    can fail, and would if Thunar had shown nothing."""
    if installed:
        shell.cli("desktop", "install", env=desk.env).ok()
    run_id = checkpoints(lab)
    with desk.program("thunar", mounted.path("runs", run_id)):
        shown = entered(desk, lab, mounted, run_id)
        kinds = [row.kind for row in shown]
        # What it reads there it takes for a MATLAB file, say: the weights are random.
        assert kinds.count("Safetensors weights") == (MANY if installed else 0)
        assert "Binary data" not in kinds
        asked = lab.requests()
    assert asked.get("listing", 0) <= 1
    assert asked["content"] >= (MANY if installed else 2 * MANY)


def children(lab: Lab, run_id: int) -> list[str]:
    """Return the names in a run's root, sorted."""
    return sorted({path.decode().partition("/")[0] for path in lab.truth(run_id)})


def time_of(mtime_ns: int) -> str:
    """Return a time as the desktop is set up to show it."""
    return datetime.datetime.fromtimestamp(mtime_ns // 10**9, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
