"""Section 7 of the contract: what each thing that a user does costs in requests.

Traversals without the project's index; those with it are in test_semantics_1_index_cost.py.
"""

import concurrent.futures

import pytest

from artifactfs.emulator import sample
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, Shell

DESKTOP_PROBES = (
    ".hidden", ".Trash", ".Trash-0", ".Trash-1000", "autorun.inf", "AUTORUN.INF", ".autorun", "autorun.sh",
    ".directory", ".xdg-volume-info", "BDMV", "AACS", "BDSVM", "VIDEO_TS", "desktop.ini", ".DS_Store", ".nomedia",
    ".trackerignore", ".sh_thumbnails", ".localized", ".metadata_never_index", ".git", ".hg",
)  # fmt: skip


def test_the_root_costs_nothing(lab: Lab, standing: Mount) -> None:
    """7: `ls MOUNT`, cold and warm: 0."""
    for _ in range(2):
        standing.sh('ls -la "$M"; stat "$M" "$M/runs"; df "$M"').ok()
    assert lab.total() == 0


def test_desktop_probes_cost_nothing(lab: Lab, standing: Mount) -> None:
    """7: what desktops probe in the root, /runs, a run and a directory that are listed: 0, and it is not there."""
    standing.sh('ls "$M/runs/$1" "$M/runs/$1/lora_model"', sample.RUN).ok()
    lab.reset()
    everywhere = 'cd "$M"; for d in . runs "runs/$1" "runs/$1/lora_model"; do for n in $2; do stat "$d/$n" && exit 1; '
    everywhere += "done; done; true"
    done = standing.sh(everywhere, sample.RUN, " ".join(DESKTOP_PROBES))
    assert done.code == 0, done.text
    assert done.err.count("No such file") == 4 * len(DESKTOP_PROBES)
    assert lab.total() == 0


@pytest.mark.parametrize(("shown", "pages"), [(100, 1), (101, 2), (250, 3)])
def test_listing_runs(shown: int, pages: int, lab: Lab, mounting: Mounting) -> None:
    """7: `ls /runs`: 1 for each 100 runs shown, 0 when warm."""
    mounted = mounting("--runs-listed", str(shown))
    mounted.sh('ls "$M/runs"').ok()
    assert lab.requests() == {"runs": pages}
    mounted.sh('ls -l "$M/runs"').ok()
    assert lab.requests() == {"runs": pages}


def test_stat_of_a_known_run(lab: Lab, mounted: Mount) -> None:
    """7: `stat` of a run that is known from a page of runs: 0."""
    mounted.sh('ls "$M/runs"').ok()
    newest = lab.newest_runs(200)
    lab.reset()
    mounted.sh('cd "$M/runs" && stat "$@"', *newest[::20]).ok()
    assert lab.total() == 0


def test_stat_of_an_unknown_run(lab: Lab, standing: Mount) -> None:
    """7: `stat` of a run that is not known: 1, and 0 from then on."""
    run_id = lab.new_run()
    lab.reset()
    for _ in range(3):
        standing.sh('stat "$M/runs/$1"', run_id).ok()
    assert lab.requests() == {"run": 1}


def test_stat_of_a_run_that_is_not_there(lab: Lab, standing: Mount) -> None:
    """7: `stat` of a run that does not exist: 1, and 0 while its absence is trusted."""
    for _ in range(3):
        standing.sh('! stat "$M/runs/12345"').ok()
    assert lab.requests() == {"run": 1}


def test_entering_a_run(lab: Lab, standing: Mount) -> None:
    """7: enter a run and `ls` it: 2, and its project's index, which another run of the project has for nothing."""
    project = lab.new_project()
    first, second = lab.new_run(project=project), lab.new_run(project=project)
    lab.reset()
    for _ in range(2):
        standing.sh('cd "$M/runs/$1" && ls', first).ok()
        assert lab.requests() == {"run": 1, "listing": 1, "index": 1}
    standing.sh('cd "$M/runs/$1" && ls', second).ok()
    assert lab.requests() == {"run": 2, "listing": 2, "index": 1}


def test_listing_a_directory(lab: Lab, standing: Mount) -> None:
    """7: `ls` and `ls -l` of a directory of a known run: 1, and 0 when warm."""
    run_id = lab.new_run()
    lab.reset()
    standing.sh('ls "$M/runs/$1"', run_id).ok()
    lab.reset()
    standing.sh('ls "$M/runs/$1/sub"', run_id).ok()
    assert lab.requests() == {"listing": 1}
    standing.sh('ls -l "$M/runs/$1/sub"; ls --color=always "$M/runs/$1/sub"', run_id).ok()
    assert lab.requests() == {"listing": 1}


@pytest.mark.parametrize("prefetch", ["tree", "off"])
def test_a_walk_costs_a_listing_for_each_directory(prefetch: str, lab: Lab, mounting: Mounting) -> None:
    """7: `find`, `du`, `ls -R` over D directories: at most D + 4, listed ahead or not, and 0 the second time."""
    mounted = mounting("--prefetch", prefetch)
    for command in ("find", "du -a", "ls -lR", "tree"):
        run_id = lab.new_run({f"d{i}/e{j}/f{k}": k for i in range(6) for j in range(4) for k in range(5)})
        directories = 1 + sum(size is None for size in lab.truth(run_id).values())
        lab.reset()
        mounted.sh(f'{command} "$M/runs/$1"', run_id).ok()
        cold = lab.total()
        assert cold <= directories + 4, command
        for _ in range(2):
            mounted.sh(f'{command} "$M/runs/$1"', run_id).ok()
        assert lab.total() == cold, command


def test_a_thousand_directories(lab: Lab, mounting: Mounting) -> None:
    """7: walking 1,000 directories of 20 files twice costs no more than once, and once no more than D + 4."""
    run_id = lab.new_run({}, project=lab.new_project())
    lab.files(run_id, grid={"dirs": 1000, "files": 20})
    directories = 1 + sum(size is None for size in lab.truth(run_id).values())
    mounted = mounting("--prefetch", "tree")
    mounted.sh('find "$M/runs/$1" -ls | wc -l', run_id).ok()
    assert lab.total() <= directories + 4
    once = lab.total()
    mounted.sh('find "$M/runs/$1" -ls | wc -l', run_id).ok()
    assert lab.total() == once


@pytest.mark.parametrize("prefetch", ["tree", "off"])
def test_many_walkers_cost_no_more_than_one(prefetch: str, lab: Lab, mounting: Mounting) -> None:
    """7: eight walkers at once cost no more requests than one would."""
    run_id = lab.new_run({f"d{i}/e{j}/f{k}": k for i in range(10) for j in range(10) for k in range(3)})
    truth = lab.truth(run_id)
    directories = 1 + sum(size is None for size in truth.values())
    # Every answer takes a while, so that the walkers do meet.
    lab.switch(latency_s=0.01)
    mounted = mounting("--prefetch", prefetch)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: mounted.tree(run_id), range(8)))
    assert all(tree == truth for tree in found)
    assert lab.requests() == {"run": 1, "listing": directories}


def test_a_mount_costs_one_request(lab: Lab, shell: Shell) -> None:
    """7, 5.8: the check of the keys is one call, and an idle mount sends no other."""
    mounted = shell.expected_mount()
    shell.cli("mount", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point).ok()
    mounted.umount()
    assert lab.requests() == {"runs": 1}
