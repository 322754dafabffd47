"""8.6 to 8.8: what is pinned is fetched whole, stays, and follows the service."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from tests.contract.test_semantics_4_cache import MIB, remount, running_run, settled_run
from tests.fixtures import Mounting
from tests.harness import END_S, LIMIT_S, Lab, Mount, Shell, needs_root, run, wait_until

SMALL_CACHE = ("--cache-size", "20MiB")
FILES = {"model/a.bin": 5 * MIB + 123, "model/b.bin": MIB, "config.json": 700, "empty": 0}
ALL = sum(FILES.values())


def sums(mounted: Mount, run_id: int) -> dict[str, str]:
    """Return the digest of each file of a run."""
    rows = mounted.sh('cd "$M/runs/$1" && find . -type f -exec sha256sum {} +', run_id).ok().text.splitlines()
    return {path[2:]: digest for digest, path in (row.split("  ", 1) for row in rows)}


def truth(lab: Lab, run_id: int, *paths: str) -> dict[str, str]:
    return {path: lab.sha256(run_id, path) for path in paths or FILES}


def read_much(lab: Lab, mounted: Mount, mib: int) -> int:
    """Read another run through the cache; returns its id."""
    run_id = settled_run(lab, {f"{number}.bin": 10 * MIB for number in range(mib // 10)})
    mounted.sh('cat "$M/runs/$1"/* | wc -c', run_id, limit_s=120).ok()
    return run_id


def listed(shell: Shell) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(shell.cli("pins", "--json").ok().out)
    return found


def test_a_pin_survives_ten_times_the_cache(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6: what is pinned stays whatever is read, by other mounts too, and over remounts; what is unpinned goes."""
    run_id, beside = settled_run(lab, FILES), settled_run(lab, {"c.bin": MIB})
    mounted = mounting(*SMALL_CACHE)
    assert shell.cli("pin", mounted.path("runs", run_id)).ok().text == "pinned 4 files, 6.0 MiB\n"
    mounted.sh('cat "$M/runs/$1/c.bin" | wc -c', beside).ok()
    other = mounting(*SMALL_CACHE, name="other")
    read_much(lab, other, 200)
    other.umount()
    mounted = remount(mounted, mounting, *SMALL_CACHE)
    assert sums(mounted, run_id) == truth(lab, run_id)
    assert "content" not in lab.requests()
    mounted.sh('cat "$M/runs/$1/c.bin" | wc -c', beside).ok()
    assert lab.requests()["content"] == 1
    assert "unpinned" in shell.cli("unpin", mounted.path("runs", run_id)).ok().text
    read_much(lab, mounted, 100)
    mounted = remount(mounted, mounting, *SMALL_CACHE)
    assert sums(mounted, run_id) == truth(lab, run_id)
    assert lab.requests()["content"] >= 3


def test_directories_files_and_links(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6: a pin is of a run, a directory or a file, by whatever path; what lies beside it is not pinned."""
    project = lab.new_project()
    run_id = lab.new_run(
        FILES,
        project=project,
        status="completed",
        completed_at="2026-01-02T03:04:05Z",
        updated_at="2026-01-02T03:04:06Z",
    )
    mounted = mounting(*SMALL_CACHE)
    shell.cli("pin", mounted.path("projects", project, run_id, "model"), mounted.path("runs", run_id, "empty")).ok()
    found = mounted.sh('echo "$M/search/project:$1/"*~"$2"', project, run_id).ok().text.strip()
    shell.cli("pin", f"{found}/config.json").ok()
    assert [row["path"] for row in listed(shell)] == [
        f"runs/{run_id}/model", f"runs/{run_id}/empty", f"runs/{run_id}/config.json"
    ]  # fmt: skip
    assert [row["current"] for row in listed(shell)] == [True] * 3
    shell.cli("pin", mounted.path("projects", project, run_id)).ok()
    assert listed(shell)[-1]["path"] == f"runs/{run_id}"
    for place in (mounted.point, mounted.path("runs"), mounted.path("projects", project)):
        done = shell.cli("pin", place)
        assert (done.code, done.err.count("\n")) == (ExitCode.USAGE, 1), done.err
    assert len(listed(shell)) == 4


def test_what_would_not_fit_is_refused(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6: with the figures, before anything is fetched; the pins that there are stay, and the new one does not."""
    first, second = settled_run(lab, {"a": 12 * MIB}), settled_run(lab, {"b": 12 * MIB})
    mounted = mounting(*SMALL_CACHE)
    shell.cli("pin", mounted.path("runs", first)).ok()
    lab.reset()
    done = shell.cli("pin", mounted.path("runs", second))
    assert done.code == ExitCode.INCOMPLETE
    assert done.err.count("\n") == 1
    assert "with 12 MiB in it all pins need 24.0 MiB, and the cache has 19.7 MiB" in done.err
    assert "content" not in lab.requests()
    assert [row["path"] for row in listed(shell)] == [f"runs/{first}"]


def test_a_listing_that_fails_pins_nothing(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6: nor does a path that is not there."""
    run_id = settled_run(lab, FILES)
    mounted = mounting("--prefetch", "off", *SMALL_CACHE)
    mounted.log.announce("opendir of /runs/")
    lab.faults({"match": {"kind": "listing", "query_contains": "model"}, "then": {"status": 403}})
    done = shell.cli("pin", mounted.path("runs", run_id))
    assert done.code == ExitCode.INCOMPLETE, done.err
    assert "nothing is pinned" in done.err
    lab.faults()
    assert shell.cli("pin", mounted.path("runs", run_id, "none")).code == ExitCode.INCOMPLETE
    assert listed(shell) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pin_goes_on(number: signal.Signals, lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6: the pin stays, which `pins` shows, and the next call fetches only the rest."""
    run_id = settled_run(lab, {"big.bin": 64 * MIB})
    mounted = mounting("--cache-size", "100MiB")
    lab.switch(bytes_per_s=4e6)
    with shell.background("pin", mounted.path("runs", run_id)) as process:
        wait_until(lambda: lab.stats()["content_bytes"] > 8 * MIB, "some content")
        process.send_signal(number)
        _, err = process.communicate(timeout=END_S)
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert (b"`artifactfs pin` again goes on where it stopped" in err) == (number == signal.SIGINT)
        assert b"Traceback" not in err
    (row,) = listed(shell)
    here = row["here_bytes"]
    assert isinstance(here, int)
    assert (row["current"], row["size_bytes"]) == (False, 64 * MIB)
    lab.switch(bytes_per_s=0)
    shell.cli("pin", mounted.path("runs", run_id)).ok()
    assert lab.stats()["content_bytes"] < 64 * MIB * 1.6
    (row,) = listed(shell)
    assert (row["current"], row["here_bytes"]) == (True, 64 * MIB)


def test_a_pin_of_what_only_memory_has(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6: what memory and the kernel have of a file counts only once it is on the disk."""
    run_id = settled_run(lab, FILES)
    mounted = mounting(*SMALL_CACHE)
    assert sums(mounted, run_id) == truth(lab, run_id)
    shell.cli("cache", "clear").ok()
    shell.cli("pin", mounted.path("runs", run_id)).ok()
    mounted = remount(mounted, mounting, *SMALL_CACHE)
    assert sums(mounted, run_id) == truth(lab, run_id)
    assert "content" not in lab.requests()


def test_pins_without_a_mount(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.7: they are listed and removed by the list alone; what the service has is unknown then."""
    run_id = settled_run(lab, FILES)
    mounted = mounting(*SMALL_CACHE)
    shell.cli("pin", mounted.path("runs", run_id), mounted.path("runs", run_id, "model")).ok()
    text = shell.cli("pins").ok().text.splitlines()
    assert text[0].split() == ["pin", "size", "here", "current", "since"]
    assert text[1].split()[:6] == [str(run_id), "6.0", "MiB", "6.0", "MiB", "yes"]
    mounted.umount()
    whole, part = listed(shell)
    assert (whole["current"], whole["size_bytes"], whole["mountpoint"]) == (None, ALL, None)
    assert whole["here_bytes"] == ALL
    assert part["path"] == f"runs/{run_id}/model"
    env = {"ARTIFACTFS_API_URL": lab.url}
    done = shell.cli("unpin", f"{run_id}/config.json", env=env)
    assert (done.code, f"it is pinned as a part of {run_id}; " in done.err) == (ExitCode.INCOMPLETE, True)
    done = shell.cli("unpin", str(run_id), env={"ARTIFACTFS_API_URL": "https://api.datadoghq.eu"})
    assert (done.code, f"`ARTIFACTFS_API_URL={lab.url} artifactfs unpin {run_id}`" in done.err) == (
        ExitCode.INCOMPLETE,
        True,
    )
    shell.cli("unpin", f"{run_id}/model", env=env).ok()
    assert [row["path"] for row in listed(shell)] == [f"runs/{run_id}"]
    assert shell.cli("unpin", "--all").ok().text == "unpinned 1 place\n"
    assert listed(shell) == []


def test_pins_of_two_caches(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.7: they are listed together, each with its cache, as the same run may be in both."""
    run_id = settled_run(lab, {"config.json": 700})
    own = shell.path("own")
    for mounted in (mounting(), mounting("--cache-dir", own, name="other")):
        shell.cli("pin", mounted.path("runs", run_id)).ok()
    places = [row.split("  ")[0] for row in shell.cli("pins").ok().text.splitlines()[1:]]
    assert places == [f"{run_id} in {row['cache_dir']}" for row in listed(shell)]
    assert f"{run_id} in {own}" in places


def test_a_list_that_cannot_be_read(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.7: each command says so in one line, and it stays as it is; without it nothing is kept, and all is read."""
    run_id = settled_run(lab, FILES)
    mounted = mounting(*SMALL_CACHE)
    mounted.log.announce("the list of pins")
    shell.cli("pin", mounted.path("runs", run_id)).ok()
    path = Path(shell.path("cache"), "artifactfs", "pins.json")
    path.write_text("{")
    for words in (("pins",), ("unpin", "--all"), ("pin", mounted.path("runs", run_id))):
        done = shell.cli(*words)
        assert (done.code, done.err.count("\n")) == (ExitCode.CACHE_REFUSED, 1), done.err
        assert "is damaged; repair it, or move it away" in done.err
    assert path.read_text() == "{"
    read_much(lab, mounted, 50)
    assert sums(mounted, run_id) == truth(lab, run_id)


def test_the_list_has_no_key(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """6.1, 8.7: neither it nor an answer of the mount has a key or what stands for the account."""
    run_id = settled_run(lab, FILES)
    mounted = mounting(*SMALL_CACHE)
    shell.cli("pin", mounted.path("runs", run_id)).ok()
    text = Path(shell.path("cache"), "artifactfs", "pins.json").read_text()
    account = json.loads(text)["pins"][0]["account"]
    answer = mounted.sh('cat "$M/.artifactfs/pins/1"').ok().text
    assert f"runs/{run_id}" in answer
    for secret in (lab.api_key, lab.app_key, account):
        assert secret not in answer
    for secret in (lab.api_key, lab.app_key):
        assert secret not in text


def test_a_mount_without_a_cache(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6: it cannot keep anything, and says so."""
    run_id = settled_run(lab, FILES)
    mounted = mounting("--cache-size", "0")
    done = shell.cli("pin", mounted.path("runs", run_id))
    assert (done.code, done.err.count("\n")) == (ExitCode.CACHE_REFUSED, 1)
    assert "has no cache on disk" in done.err


@pytest.fixture
def small_disk(shell: Shell) -> Iterator[str]:
    """A disk of 8 MiB, which is unmounted after the mounts of the test."""
    place = shell.path("small")
    os.makedirs(place)
    run("mount", "-t", "tmpfs", "-o", "size=8M,mode=700", "tmpfs", place).ok()
    yield place
    for mounted in shell.mounts:
        mounted.umount()
    run("umount", place).ok()


@needs_root
def test_a_disk_that_is_too_small(lab: Lab, shell: Shell, mounting: Mounting, small_disk: str) -> None:
    """8.6: what pins need and the disk does not hold is refused with the figures, before anything is fetched."""
    run_id = settled_run(lab, {f"{number}": MIB for number in range(9)})
    mounted = mounting("--cache-dir", small_disk, "--cache-min-free", "1MiB")
    shell.cli("pin", *(mounted.path("runs", run_id, str(number)) for number in range(5))).ok()
    lab.reset()
    done = shell.cli("pin", mounted.path("runs", run_id))
    assert (done.code, done.err.count("\n")) == (ExitCode.INCOMPLETE, 1), done.err
    assert f"with 9 MiB in it all pins need 9.0 MiB, and the disk of {small_disk} has room for 6." in done.err
    assert (len(listed(shell)), "content" in lab.requests()) == (5, False)


@needs_root
def test_a_disk_that_becomes_full(lab: Lab, shell: Shell, mounting: Mounting, small_disk: str) -> None:
    """8.6: what waits to be written is not kept yet: a disk without room for it is said, and the pin is not done."""
    run_id = settled_run(lab, {f"{number}": 300_000 for number in range(20)})
    mounted = mounting("--cache-dir", small_disk, "--cache-min-free", "0")
    # So slowly that it is not all there before the other program has written.
    lab.switch(bytes_per_s=3e5)
    with shell.background("pin", mounted.path("runs", run_id)) as process:
        wait_until(lambda: lab.stats()["content_bytes"] > 300_000, "some content")
        Path(small_disk, "of another program").write_bytes(bytes(4 * MIB))
        lab.switch(bytes_per_s=0)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == ExitCode.INCOMPLETE, err
    assert b"could not be kept whole: the cache or its disk may be full" in err


@pytest.mark.parametrize("size", ["0", "64KiB"])
def test_listings_that_are_not_stored(size: str, lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6: a pin whose listings find no room is not done, since it would not be complete without the service."""
    run_id = settled_run(lab, {f"d{number}/{name:0>200}": 1 for number in range(40) for name in range(10)})
    mounted = mounting("--metadata-size", size)
    done = shell.cli("pin", mounted.path("runs", run_id))
    if size == "0":
        assert "this mount stores no listings" in done.ok().err
    else:
        assert done.code == ExitCode.INCOMPLETE
        assert "its listings could not be stored" in done.err


@pytest.mark.parametrize("is_running", [False, True])
def test_what_changes_is_fetched_again(is_running: bool, lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.8: a pinned run that changes is fetched as soon as the mount sees that; then it needs no request."""
    run_id = (running_run if is_running else settled_run)(lab, FILES)
    mounted = mounting(*SMALL_CACHE)
    shell.cli("pin", mounted.path("runs", run_id)).ok()
    lab.files(run_id, change={"config.json": {"size": 900}}, add={"model/new/c.bin": 3 * MIB}, remove=["model/b.bin"])
    lab.change_run(run_id, set={"updated_at": "2026-03-01T00:00:00Z"})
    lab.reset()
    shell.cli("refresh", mounted.path("runs", run_id)).ok()
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    new = lab.sha256(run_id, "model/new/c.bin")
    wait_until(lambda: listed(shell)[0]["current"] is True, "the new files")
    assert lab.stats()["content_bytes"] >= 3 * MIB + 900
    lab.reset()
    assert sums(mounted, run_id)["model/new/c.bin"] == new
    assert "content" not in lab.requests()


def test_what_is_gone_from_the_service(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.7, 8.8: `pins` says so, the log too, and it is unpinned without its place in the mount."""
    run_id = settled_run(lab, FILES)
    mounted = mounting(*SMALL_CACHE)
    mounted.log.announce("is pinned, and gone from the service")
    path = mounted.path("runs", run_id, "config.json")
    shell.cli("pin", path).ok()
    lab.files(run_id, remove=["config.json"])
    shell.cli("refresh", mounted.path("runs", run_id)).ok()
    (row,) = listed(shell)
    assert (row["current"], row["gone"]) == (False, True)
    assert shell.cli("pins").ok().text.splitlines()[1].split()[5] == "gone"
    wait_until(lambda: "gone from the service" in Path(mounted.log_file).read_text(), "the line in the log")
    done = shell.cli("unpin", path)
    assert (done.code, done.err.count("\n")) == (ExitCode.INCOMPLETE, 1)
    assert "is unpinned as RUN or RUN/PATH" in done.err
    shell.cli("unpin", f"{run_id}/config.json", env={"ARTIFACTFS_API_URL": lab.url}).ok()
    assert listed(shell) == []


def test_a_mount_of_another_account(lab: Lab, shell: Shell, mounting: Mounting) -> None:
    """8.6, 8.7: it keeps what is pinned, and does not say whether that is what the service has."""
    run_id = settled_run(lab, FILES)
    mounted = mounting("--account", "a", *SMALL_CACHE)
    shell.cli("pin", mounted.path("runs", run_id)).ok()
    other = mounting("--account", "b", *SMALL_CACHE, name="other")
    assert [(row["mountpoint"], row["current"]) for row in listed(shell)] == [(mounted.point, True)]
    mounted.umount()
    assert [(row["mountpoint"], row["current"]) for row in listed(shell)] == [(None, None)]
    done = shell.cli("unpin", other.path("runs", run_id))
    assert (done.code, "it is not pinned" in done.err) == (ExitCode.INCOMPLETE, True)
    read_much(lab, other, 50)
    lab.reset()
    mounted = mounting("--account", "a", *SMALL_CACHE)
    assert sums(mounted, run_id) == truth(lab, run_id)
    assert "content" not in lab.requests()


@pytest.mark.parametrize("switches", [{}, {"ranges": "ignored", "length": "chunked"}], ids=str)
@pytest.mark.parametrize("is_running", [False, True])
def test_files_whose_size_no_listing_gives(
    is_running: bool, switches: dict[str, str], lab: Lab, shell: Shell, mounting: Mounting
) -> None:
    """8.6, 8.7: they are kept as well; where no size is stored, `pins` has that of the last look and says `unknown`."""
    lab.switch(size_form="absent", index="404", **switches)
    run_id = (running_run if is_running else settled_run)(lab, FILES)
    mounted = mounting(*SMALL_CACHE)
    shell.cli("pin", mounted.path("runs", run_id)).ok()
    assert [(row["size_bytes"], row["here_bytes"], row["current"]) for row in listed(shell)] == [(ALL, ALL, True)]
    mounted = remount(mounted, mounting, *SMALL_CACHE)
    (row,) = listed(shell)
    assert isinstance(row["here_bytes"], int)
    # What the contents showed of a settled run is stored (2.2); a run that goes on is listed again.
    current = None if is_running else True
    assert (row["size_bytes"], row["here_bytes"] >= ALL, row["current"]) == (ALL, True, current)
    assert sums(mounted, run_id) == truth(lab, run_id)
    assert "content" not in lab.requests()
    assert [(row["here_bytes"], row["current"]) for row in listed(shell)] == [(ALL, True)]
