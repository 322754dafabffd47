"""8.1 and 8.2: what a mount listed is there for the next one, as far as it is still true."""

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.test_semantics_4_cache import MIB, remount, running_run, settled_run
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, Shell, wait_until
from tests.status import status

TREE = {f"g{i // 10}/d{i}/f{j}": 100 * i + j for i in range(60) for j in range(3)}
DATABASE = "cache/artifactfs/metadata-1.sqlite"


def shown(mounted: Mount, run_id: int) -> list[str]:
    """Return what `find` sees of a run, with kinds, sizes, times and inode numbers."""
    script = 'cd "$M/runs/$1" && find . -printf "%p %y %s %T@ %i %m\\n" | sort'
    return mounted.sh(script, run_id).ok().text.splitlines()


def shown_with_index(mounted: Mount, run_id: int) -> list[str]:
    mounted.wait_for_index(run_id)
    return shown(mounted, run_id)


def kill(mounted: Mount) -> None:
    """End the process of a mount at once, once all is written (8.1), and remove what it leaves in the mount table."""
    wait_until(lambda: not status(mounted)["metadata"]["waiting"], "the writing")
    os.kill(mounted.pid, signal.SIGKILL)
    mounted.shell.cli("umount", mounted.point).ok()


def end_by_umount(mounted: Mount) -> None:
    mounted.umount()


def project_of_runs(lab: Lab, count: int) -> int:
    project = lab.new_project()
    for number in range(count):
        lab.new_run({"a.txt": 1}, project=project, name=f"run {number}")
    return project


@pytest.mark.parametrize("end", [end_by_umount, kill])
@pytest.mark.parametrize("index", ["full", "404", "partial"])
def test_a_finished_run_costs_one_request(
    end: Callable[[Mount], None], index: str, lab: Lab, mounting: Mounting
) -> None:
    """8.2: `find` over a settled run asks for its row, and shows names, sizes, times and inode numbers as before."""
    lab.switch(index=index)
    run_id = lab.new_run(
        TREE,
        project=lab.new_project(),
        status="completed",
        completed_at="2026-01-02T03:04:05Z",
        updated_at="2026-01-02T03:04:06Z",
    )
    mounted = mounting()
    shown(mounted, run_id)
    before = (shown_with_index if index == "full" else shown)(mounted, run_id)
    end(mounted)
    mounted = mounting()
    assert shown(mounted, run_id) == before
    assert lab.requests() == {"run": 1}


def test_a_projects_page_confirms_its_runs(lab: Lab, mounting: Mounting) -> None:
    """8.2: after a remount `ls -l` of a project asks for its pages, and a walk over its finished runs for nothing."""
    project = lab.new_project()
    files = {"a/b.txt": 1, "c.txt": 2}
    told = {"status": "completed", "completed_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:06Z"}
    for number in range(120):
        lab.new_run(files if number < 3 else {}, project=project, name=f"run {number}", **told)
    mounted = mounting()
    script = 'ls -l "$M"/names/*~"$1"/ | wc -l; find -L "$M/projects/$1" -maxdepth 3 -name "*.txt" | wc -l'
    before = mounted.sh(script, project).ok().text
    mounted = remount(mounted, mounting)
    name = mounted.sh('ls -d "$M"/names/*~"$1"', project).ok().text.strip()
    mounted = remount(mounted, mounting)
    assert mounted.sh('ls -l "$1" | wc -l', name).ok().text.split() == before.split()[:1]
    assert lab.requests() == {"runs": 2}
    lab.reset()
    assert mounted.sh(script.partition(";")[2], project).ok().text.split() == before.split()[1:]
    assert set(lab.requests()) <= {"runs", "project"}


def test_runs_that_changed_between_two_mounts(lab: Lab, mounting_patiently: Mounting) -> None:
    """8.2: a run that is gone, one whose row is another, and one that goes on, are shown as the service has them."""
    gone, changed, running = settled_run(lab, {"a": 1}), settled_run(lab, {"a": 1}), running_run(lab, {"a": 1})
    mounted = mounting_patiently()
    for run_id in (gone, changed, running):
        assert len(shown(mounted, run_id)) == 2
    mounted.umount()
    lab.change_run(gone, delete=True)
    for run_id in (changed, running):
        lab.files(run_id, add={"b": 2})
    lab.change_run(changed, set={"updated_at": "2026-01-02T03:04:07Z"})
    mounted = mounting_patiently()
    assert mounted.sh('ls "$M/runs/$1"', gone).code != 0
    assert [len(shown(mounted, run_id)) for run_id in (changed, running)] == [3, 3]


def test_a_run_that_goes_on_is_shown_as_it_was_while_its_listing_fails(lab: Lab, mounting: Mounting) -> None:
    """8.2, 3.2: a stored listing of a run that goes on is a stale one."""
    run_id = running_run(lab, {"a": 1, "sub/b": 2})
    mounted = mounting()
    before = shown_with_index(mounted, run_id)
    mounted.umount()
    mounted = mounting()
    # Where the request is still being repeated when the test ends, nothing was logged.
    mounted.log.announce("the stale one is served", optional=True)
    lab.fault("listing", {"status": 503})
    assert shown(mounted, run_id) == before


def test_a_refresh_counts_in_the_next_mount(lab: Lab, shell: Shell, mounting_patiently: Mounting) -> None:
    """8.2, 3.3: what was refreshed, and not listed since, is asked for."""
    run_id = settled_run(lab, {"a": 1, "sub/b": 2})
    mounted = mounting_patiently()
    shown(mounted, run_id)
    shell.cli("refresh", mounted.path("runs", run_id)).ok()
    mounted.umount()
    lab.files(run_id, add={"sub/c": 3})
    mounted = mounting_patiently()
    assert len(shown(mounted, run_id)) == 5


def test_the_database_is_private_and_has_no_secret(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.1, 6.1: only its user may read it; no key, no token and no address of the service is in it."""
    run_id = lab.new_run({"a": 1}, external_url="https://example.test/secret-link")
    project = project_of_runs(lab, 2)
    mounted = mounting()
    mounted.sh('ls -l "$M/runs" "$M/names" "$M/projects/$1"/; cat "$M/projects/$1/runs.csv"', project).ok()
    shown(mounted, run_id)
    mounted.umount()
    files = [path for path in Path(shell.path("cache")).rglob("metadata-1*") if path.is_file()]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        for secret in (lab.api_key, lab.app_key, lab.url, "://"):
            assert secret.encode() not in content, (path, secret)


@pytest.mark.parametrize("damage", ["garbage", "cut", "flipped", "a directory", "gone"])
def test_damage_costs_requests(damage: str, lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.1: whatever happens to the database, the next mount shows the truth, and the one after is warm again."""
    run_id = settled_run(lab, TREE)
    mounted = mounting()
    before = shown_with_index(mounted, run_id)
    mounted.umount()
    path = Path(shell.path(DATABASE))
    content = path.read_bytes()
    path.unlink()
    if damage == "garbage":
        path.write_bytes(os.urandom(len(content)))
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 3])
    elif damage == "flipped":
        path.write_bytes(bytes(byte ^ (place % 97 == 0) for place, byte in enumerate(content)))
    elif damage == "a directory":
        path.mkdir()
    mounted = shell.expected_mount()
    mounted.log.announce("metadata", optional=damage == "gone")
    mounting()
    assert shown_with_index(mounted, run_id) == before
    mounted.umount()
    if damage == "a directory":
        path.rmdir()
        mounting()
        assert shown_with_index(mounted, run_id) == before
        mounted.umount()
    lab.reset()
    mounting()
    assert shown(mounted, run_id) == before
    assert lab.requests() == {"run": 1}


def test_two_mounts_and_another_account(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.1, 6.3: mounts of one user share what was seen, at once; what one account saw is no other's."""
    run_id = settled_run(lab, TREE)
    first, second = mounting(), mounting(name="second")
    other = mounting("--account", "other", name="third")
    before = shown_with_index(first, run_id)
    wait_until(lambda: "waiting 0" in shell.cli("status", first.point).ok().text, "the changes to be written")
    lab.reset()
    assert shown(second, run_id) == before
    assert lab.requests() == {"run": 1}
    lab.reset()
    assert shown_with_index(other, run_id) == before
    assert lab.requests()["listing"] > 2


def test_the_least_recently_used_run_goes(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.1: beyond `metadata_size` whole runs go, the least recently used first, and pinned ones stay."""
    files = {f"{'n' * 200}-{number}": 1 for number in range(400)}
    runs = [settled_run(lab, files) for _ in range(12)]
    limit = ("--metadata-size", "1MiB")
    mounted = mounting(*limit)
    shell.cli("pin", mounted.path("runs", runs[0])).ok()
    for run_id in runs:
        shown(mounted, run_id)
    mounted = remount(mounted, mounting, *limit)
    assert os.path.getsize(shell.path(DATABASE)) <= 2 * MIB
    for run_id, listings in ((runs[0], 0), (runs[-1], 0), (runs[1], 1)):
        lab.reset()
        shown(mounted, run_id)
        assert lab.requests().get("listing", 0) == listings, runs.index(run_id)


def test_a_store_that_is_off(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.1: with `metadata_size` 0 nothing is stored."""
    run_id = settled_run(lab, {"a": 1})
    mounted = mounting("--metadata-size", "0")
    shown(mounted, run_id)
    mounted = remount(mounted, mounting, "--metadata-size", "0")
    shown(mounted, run_id)
    assert lab.requests()["listing"] >= 1
    assert not os.path.exists(shell.path(DATABASE))


def test_clearing_the_cache_keeps_what_is_pinned(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.9: `cache clear` leaves what is pinned, contents and listings; with --pins it deletes that and the pins."""
    pinned, beside = settled_run(lab, {"a": 100}), settled_run(lab, {"b": 100})
    mounted = mounting()
    shell.cli("pin", mounted.path("runs", pinned)).ok()
    mounted.sh('cat "$M/runs/$1/b"', beside).ok()
    mounted.umount()
    shell.cli("cache", "clear").ok()
    mounted = mounting()
    mounted.sh('cat "$M/runs/$1/a"', pinned).ok()
    assert lab.requests() == {"run": 1}
    mounted.sh('cat "$M/runs/$1/b"', beside).ok()
    assert lab.requests()["content"] == 1
    mounted.umount()
    assert "unpinned 1 place\n" in shell.cli("cache", "clear", "--pins").ok().text
    assert shell.cli("pins", "--json").ok().text.strip() == "[]"
    mounted = mounting()
    mounted.sh('cat "$M/runs/$1/a"', pinned).ok()
    assert lab.requests()["content"] == 1


def test_info_says_what_is_stored(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.9: `info` and `status` say what comes from the store, `cache info` how much is there."""
    run_id = settled_run(lab, {"a": 1})
    mounted = mounting()
    shown(mounted, run_id)
    mounted = remount(mounted, mounting)
    shown(mounted, run_id)
    text = shell.cli("info", mounted.path("runs", run_id)).ok().text
    assert "ago and stored" in text
    assert "pinned" not in text
    shell.cli("pin", mounted.path("runs", run_id)).ok()
    assert "pinned" in shell.cli("info", mounted.path("runs", run_id, "a")).ok().text
    assert ", runs 1, oldest age " in shell.cli("status", mounted.point).ok().text
    assert " of 256 MiB: " in shell.cli("cache", "info").ok().text
