"""Section 1 of the contract: runs by project and by name, through a real mount; what they cost (7)."""

import errno
import os

import pytest

from artifactfs.emulator import sample
from tests.contract.test_semantics_7_cost import DESKTOP_PROBES
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, Shell, wait_until

BESIDE = ("latest", "latest-completed", "latest-failed", "runs.csv", "runs.jsonl")
# What looks every name of a directory up, links' targets too.
CURIOUS = (
    'ls --color=always "$1"',
    'ls -lL "$1"',
    'bash -c \'compgen -f "$0/"\' "$1"',
    "python3 -c 'import os, sys; print([e.is_dir() for e in os.scandir(sys.argv[1])])' \"$1\"",
)


def project_of(lab: Lab, *names: str, name: str = "vision", **more: object) -> tuple[int, list[int]]:
    """Return a new project and its runs, of these names; each has a file of as many bytes as its place."""
    project = lab.new_project()
    lab.change_project(project, set={"name": name})
    runs = [
        lab.new_run({"params.json": place}, project=project, name=each, **more) for place, each in enumerate(names, 1)
    ]
    lab.reset()
    return project, runs


def names_in(mounted: Mount, *parts: object) -> list[str]:
    return os.fsdecode(mounted.sh('ls -U --quoting-style=literal "$1"', mounted.path(*parts)).ok().out).splitlines()


def links_in(mounted: Mount, *parts: object) -> list[str]:
    """Return the links to runs in a project; behind them is what 1.9 has beside them."""
    names = names_in(mounted, *parts)
    beside = [name for name in names if name in BESIDE]
    assert names[len(names) - len(beside) :] == beside
    return names[: len(names) - len(beside)]


def test_projects_lead_to_their_runs(lab: Lab, mounted: Mount) -> None:
    """1.1: /projects/<id> shows the project's runs as relative symlinks into /runs, which lead to their artifacts."""
    project, runs = project_of(lab, "a", "b")
    assert str(project) in names_in(mounted, "projects")
    assert sorted(links_in(mounted, "projects", project)) == sorted(map(str, runs))
    for place, run_id in enumerate(runs, 1):
        link = mounted.path("projects", project, run_id)
        assert mounted.sh('readlink "$1"', link).ok().text == f"../../runs/{run_id}\n"
        assert mounted.sh('stat -L -c %s "$1/params.json"', link).ok().text == f"{place}\n"
    shown = mounted.sh('stat -c "%F %A %s %h" "$1"', mounted.path("projects", project, runs[0])).ok().text
    assert shown == f"symbolic link lrwxrwxrwx {len(f'../../runs/{runs[0]}')} 1\n"


def test_names_lead_to_their_runs(lab: Lab, mounted: Mount) -> None:
    """1.1: /names/<project>~<id>/<run>~<id> shows the same by name; equal and empty names work, and `diff -r` does."""
    project, (first, second, third) = project_of(lab, "base/line", "base/line", "")
    above = f"vision~{project}"
    assert above in names_in(mounted, "names")
    assert set(links_in(mounted, "names", above)) == {f"base_line~{first}", f"base_line~{second}", f"~{third}"}
    done = mounted.sh(
        'cd "$M/names/$1" && diff -r "$2" "$3"', above, f"base_line~{first}", f"base_line~{second}", limit_s=30
    )
    assert done.code == 1
    assert b"/params.json" in done.out.splitlines()[0]
    assert mounted.sh('cd "$M/names/$1" && diff -r "$2" "$2"', above, f"~{third}").ok().out == b""
    assert mounted.sh('readlink "$M/names/$1/$2"', above, f"~{third}").ok().text == f"../../runs/{third}\n"


def test_names_are_made_safe(lab: Lab, mounted: Mount) -> None:
    """1.1, 1.3: in /names `/`, NUL and control characters are replaced, and a long name is cut to fit 255 bytes."""
    safe = {
        "a/../b": "a_.._b",
        "..": "..",
        "a\nb\0\x1b[2J": "a_b__[2J",
        "\u202egnp.exe": "_gnp.exe",
        "né~8": "né~8",
        " ": " ",
    }
    long = ["x" * 400, "한" * 200]
    made = {name: project_of(lab, name, name=name) for name in (*safe, *long)}
    shelves: dict[str, list[str]] = mounted.python(
        "import json, os, sys\n"
        "top = os.path.join(sys.argv[1], 'names')\n"
        "print(json.dumps({shelf: [path for run in os.listdir(os.path.join(top, shelf)) if '~' in run\n"
        "  for path in (run, *os.listdir(os.path.join(top, shelf, run)))]\n"
        "  for shelf in os.listdir(top) if int(shelf.rpartition('~')[2]) in map(int, sys.argv[2:])}))",
        *(project for project, _ in made.values()),
    )
    for name, shown in safe.items():
        project, (run_id,) = made[name]
        assert shelves.pop(f"{shown}~{project}") == [f"{shown}~{run_id}", "params.json"]
    assert len(shelves) == len(long)
    for whole, (run, inside) in shelves.items():
        assert inside == "params.json"
        for each in (whole, run):
            assert 250 < len(each.encode()) <= 255
            assert any(name.startswith(each.rpartition("~")[0]) for name in long)


def test_completion_by_name(lab: Lab, standing: Mount) -> None:
    """1.1: in /names the name comes first, so tab completion finds a run by it."""
    project, (run_id, _) = project_of(lab, "resnet-50", "vit")
    done = standing.sh('bash -c \'cd "$0" && compgen -d resn\' "$M/names/vision~$1"', project).ok()
    assert done.text == f"resnet-50~{run_id}\n"


def test_runs_that_are_not_listed_can_be_entered(lab: Lab, mounting: Mounting) -> None:
    """1.2: in /projects and /names, too, a run need not be among those listed."""
    project, runs = project_of(lab, "one", "two", "three")
    mounted = mounting("--runs-listed", "1")
    (listed,) = links_in(mounted, "projects", project)
    other = next(run_id for run_id in runs if str(run_id) != listed)
    assert names_in(mounted, "projects", project, f"{other}/") == ["params.json"]
    name = ("one", "two", "three")[runs.index(other)]
    assert names_in(mounted, "names", f"vision~{project}", f"{name}~{other}/") == ["params.json"]


def test_what_is_not_there(lab: Lab, standing: Mount) -> None:
    """1.2: another project's run, another name, what was deleted is ENOENT; what cannot be an id costs nothing."""
    project, (run_id,) = project_of(lab, "mine")
    other, (foreign,) = project_of(lab, "yours")
    gone, _ = project_of(lab, "x")
    lab.change_project(gone, delete=True)
    lab.reset()
    for name in ("0", "-1", f"0{project}", "abc", *DESKTOP_PROBES):
        assert standing.error_of("projects", name) == errno.ENOENT
        assert standing.error_of("names", name) == errno.ENOENT
    assert lab.total() == 0
    assert standing.error_of("projects", project, foreign) == errno.ENOENT
    assert standing.error_of("names", f"visio~{project}") == errno.ENOENT
    assert standing.error_of("names", f"vision~{project}", f"your~{run_id}") == errno.ENOENT
    assert standing.error_of("projects", gone) == errno.ENOENT
    assert standing.error_of("projects", 123456789) == errno.ENOENT
    lab.change_run(foreign, delete=True)
    assert standing.error_of("projects", other, foreign) in (0, errno.ENOENT)  # it was seen a moment ago
    assert links_in(standing, "projects", other) == []


@pytest.mark.parametrize("command", CURIOUS)
def test_looking_every_target_up_costs_nothing(command: str, lab: Lab, mounted: Mount) -> None:
    """1.1, 7: a lookup of every target in /projects or /names asks for no run: the page had them all."""
    project, _ = project_of(lab, *(f"run {number}" for number in range(30)))
    for place in (f"projects/{project}", f"names/vision~{project}"):
        mounted.sh(command, mounted.path(place)).ok()
    asked = lab.requests()
    assert asked.pop("project", 0) <= 1
    assert asked == {"runs": 1}


@pytest.mark.parametrize("command", CURIOUS)
def test_looking_at_all_projects(command: str, lab: Lab, mounted: Mount) -> None:
    """7: `ls` of /projects and /names costs the pages of projects once, whatever looks at each."""
    mounted.sh(command, mounted.path("projects")).ok()
    asked = lab.requests()
    assert set(asked) == {"projects"}
    # Other tests may have made more than a page of them.
    assert asked["projects"] <= 1 + len(mounted.sh('ls -f "$M/projects"').ok().out.split()) // 100
    for _ in range(2):
        for place in ("projects", "names"):
            mounted.sh(command, mounted.path(place)).ok()
    assert lab.requests() == asked


@pytest.mark.parametrize(
    "form", [{}, {"page_base": 1}, {"page_meta": "required"}, {"page_meta": "none"}, {"extra_fields": True}]
)
def test_in_every_form_of_pages(form: dict[str, object], lab: Lab, mounting: Mounting) -> None:
    """1.1: however pages are numbered and reported, a project's runs are shown, each once."""
    project, runs = project_of(lab, *("x" for _ in range(130)))
    lab.switch(**form)
    mounted = mounting()
    shown = links_in(mounted, "projects", project)
    assert len(set(shown)) == len(shown) == 130
    assert set(shown) <= set(map(str, runs))
    assert names_in(mounted, "projects", project, f"{runs[0]}/") == ["params.json"]


def test_a_real_organisation(own_lab: Lab, mounting: Mounting, shell: Shell) -> None:
    """1.1, 7: of 65,614 runs `ls /runs` costs 2 requests; of 403 projects `ls /names` costs 5, one's runs 2."""
    own_lab.crowd(1_000_000, runs=65_614, projects=400)  # the sample has a few of its own
    shell.lab = own_lab
    mounted = mounting()
    assert len(names_in(mounted, "runs")) == 200
    assert own_lab.requests() == {"runs": 2}
    own_lab.reset()
    assert 403 <= len(names_in(mounted, "names")) <= 500
    assert own_lab.requests() == {"projects": 5}
    mounted.sh('ls --color=always -l "$M/names" "$M/projects"').ok()
    assert own_lab.requests() == {"projects": 5}
    own_lab.reset()
    assert len(links_in(mounted, "names", "project-1000000~1000000")) == 165
    mounted.sh('ls -lL --color=always "$M/names/project-1000000~1000000"').ok()
    assert own_lab.requests() == {"runs": 2}


def test_a_renamed_run_shows_by_its_new_name(lab: Lab, mounting_patiently: Mounting) -> None:
    """3.1, 3.4: a run that gets another name is found by it once its page is old, and no longer by the old one."""
    project, (run_id,) = project_of(lab, "before")
    mounted = mounting_patiently("--listing-ttl", "0", "--finished-ttl", "0", "--negative-ttl", "0")
    above = f"vision~{project}"
    assert links_in(mounted, "names", above) == [f"before~{run_id}"]
    lab.change_run(run_id, set={"name": "after"})
    assert links_in(mounted, "names", above) == [f"after~{run_id}"]
    assert mounted.error_of("names", above, f"before~{run_id}") == errno.ENOENT
    assert mounted.error_of("names", above, f"after~{run_id}", "params.json") == 0


def test_it_is_served_while_the_service_is_down(own_lab: Lab, mounting: Mounting, shell: Shell) -> None:
    """3.2: what was seen of projects and names is shown while the service is down; a project never seen says why."""
    project, (run_id,) = project_of(own_lab, "x")
    shell.lab = own_lab
    mounted = mounting("--listing-ttl", "0")
    mounted.log.announce("refuses connections")
    assert links_in(mounted, "names", f"vision~{project}") == [f"x~{run_id}"]
    own_lab.stop()
    assert links_in(mounted, "names", f"vision~{project}") == [f"x~{run_id}"]
    assert mounted.error_of("projects", sample.PROJECT) == errno.ECONNREFUSED
    assert mounted.error_of("names", "anything") == errno.ENOENT


def test_the_top_never_asks(own_lab: Lab, mounting: Mounting, shell: Shell) -> None:
    """5.1, 7: `/`, and `stat` of /runs, /projects and /names, never wait for the network."""
    shell.lab = own_lab
    mounted = mounting()
    own_lab.stop()
    done = mounted.sh('ls "$M" && stat -c %F "$M/runs" "$M/projects" "$M/names" && df "$M"').ok()
    assert done.text.splitlines()[:5] == ["by", "names", "projects", "runs", "search"]


def test_inodes_of_links(lab: Lab, mounting: Mounting) -> None:
    """2.4: a link has the same inode number after a remount, and no other place has it."""
    project, runs = project_of(lab, "a", "b")
    script = 'cd "$M" && find projects/$1 names/vision~$1 -printf "%i %p\\n"'
    mounted = mounting()
    before = mounted.sh(script, project).ok().text
    mounted.umount()
    wait_until(lambda: not mounted.shell.processes(), "the end of the mount")
    assert mounting().sh(script, project).ok().text == before
    # With two links to the latest and two tables in each.
    assert len({line.split()[0] for line in before.splitlines()}) == 2 + 2 * (len(runs) + 4)
