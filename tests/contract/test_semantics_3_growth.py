"""3.5, 2.4: a file that grows is the same file, and one that was replaced is not."""

import hashlib
import os
from functools import partial
from pathlib import Path

import pytest

from tests.fixtures import Mounting
from tests.harness import Lab, start_process, wait_until

_TAIL = 'exec tail "$1" -s 0.2 -n +1 "$2" >"$3" 2>"$4"'
# So that a program that polls sees growth within a second.
LIVE = ("--live-ttl", "0.5s", "--listing-ttl", "1h", "--negative-ttl", "0")


def _has(told: Path, digest: str) -> bool:
    return told.exists() and hashlib.sha256(told.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("forms", [{}, {"ranges": "ignored"}, {"etag": "strong"}], ids=str)
def test_tail_follows(lab: Lab, mounting: Mounting, tmp_path: Path, forms: dict[str, str]) -> None:
    """3.5: `tail -f` and `tail -F` show each byte once, and the inode stays."""
    lab.switch(**forms)
    run_id = lab.new_run({"sub/log.txt": 100_000}, status="running")
    mounted = mounting(*LIVE)
    path = mounted.path("runs", run_id, "sub/log.txt")
    number = os.stat(path).st_ino
    told = {option: tmp_path / option for option in ("-f", "-F")}
    errors = {option: tmp_path / f"errors{option}" for option in told}
    with (
        start_process(["sh", "-c", _TAIL, "sh", "-f", path, str(told["-f"]), str(errors["-f"])]),
        start_process(["sh", "-c", _TAIL, "sh", "-F", path, str(told["-F"]), str(errors["-F"])]),
    ):
        for out in told.values():
            wait_until(partial(_has, out, lab.sha256(run_id, "sub/log.txt")), "what was there first")
        for added in (1, 50, 700_000):
            lab.files(run_id, append={"sub/log.txt": added})
            for out in told.values():
                wait_until(partial(_has, out, lab.sha256(run_id, "sub/log.txt")), f"{added} bytes more")
    assert os.stat(path).st_ino == number
    assert [errors[option].read_bytes() for option in told] == [b"", b""]


NO_LENGTH = {"ranges": "ignored", "length": "chunked"}


@pytest.mark.parametrize("forms", [{}, {"ranges": "ignored"}, NO_LENGTH], ids=str)
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_opens_at_the_same_moment(lab: Lab, mounting: Mounting, size: int, forms: dict[str, str]) -> None:
    """3.5, 4.1: where the listing of a running run runs ahead of a file, each of many readers gets what there is."""
    run_id = lab.new_run({"sub/log.txt": size}, status="running")
    there = lab.sha256(run_id, "sub/log.txt")
    lab.files(run_id, append={"sub/log.txt": 500_000})
    lab.switch(content_lag_s=3600, **forms)
    mounted = mounting(*LIVE)
    path = mounted.path("runs", run_id, "sub/log.txt")
    assert int(mounted.sh('stat -c %s "$1"', path).ok().text) == size + 500_000
    lab.reset()
    done = mounted.sh('for i in $(seq 20); do sha256sum <"$1" & done; wait', path).ok()
    assert done.text.split() == [there, "-"] * 20
    # Not one for each: a reader may find the listing due again, every half second.
    assert lab.requests().get("listing", 0) < 5 + done.seconds / 0.5
    lab.switch(content_lag_s=0)
    wait_until(
        lambda: mounted.sh('sha256sum <"$1"', path).text.startswith(lab.sha256(run_id, "sub/log.txt")), "all of it"
    )


@pytest.mark.parametrize("forms", [{}, NO_LENGTH], ids=str)
def test_growth_without_sizes(lab: Lab, mounting: Mounting, tmp_path: Path, forms: dict[str, str]) -> None:
    """3.5, 7: where no listing gives a size, who polls sees growth, for a request a file and `live_ttl`."""
    run_id = lab.new_run({"sub/log.txt": 1000, "sub/other.txt": 1000}, status="running", project=lab.new_project())
    lab.switch(size_form="absent", index_size_form="absent", **forms)
    mounted = mounting("--live-ttl", "1s", "--listing-ttl", "1h", "--negative-ttl", "0")
    path, out, seen = mounted.path("runs", run_id, "sub/log.txt"), str(tmp_path / "out"), tmp_path / "seen"
    mounted.sh('stat "$1"', mounted.path("runs", run_id, "sub/other.txt")).ok()
    seen.touch()  # the program that writes to it may begin late
    sizes = 'while sleep 0.2; do stat -c %s "$1"; done >"$2"'
    with (
        start_process(["sh", "-c", _TAIL, "sh", "-f", path, out, "/dev/null"]),
        start_process(["sh", "-c", sizes, "sh", path, str(seen)]),
    ):
        size = 1000
        for added in (1, 50, 700_000):
            lab.files(run_id, append={"sub/log.txt": added})
            size += added
            wait_until(partial(_has, Path(out), lab.sha256(run_id, "sub/log.txt")), f"{added} bytes more")
            wait_until(lambda: seen.read_text().splitlines()[-1:] == [str(size)], "its size")  # noqa: B023
        lab.reset()
        wait_until(lambda: lab.requests().get("listing", 0) >= 5, "five listings")
        # A look that has just begun, and one that came with the first of these listings.
        assert lab.requests()["content"] <= lab.requests()["listing"] + 2
        assert {
            entry["args"]["artifact_path"].rpartition("/")[2]
            for entry in lab.stats()["log"]
            if entry["kind"] == "content"
        } == {"log.txt"}
    numbers = [int(line) for line in seen.read_text().split()]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("how", ["replaced", "appended"])
@pytest.mark.parametrize("forms", [{}, {"ranges": "ignored"}, NO_LENGTH], ids=str)
@pytest.mark.parametrize("program", ['cat "$1" >"$2"', 'cp "$1" "$2"', 'dd if="$1" of="$2" bs=4096 status=none'])
def test_larger_than_listed(
    lab: Lab, mounting: Mounting, tmp_path: Path, forms: dict[str, str], how: str, program: str
) -> None:
    """3.5, 4.1: contents that are larger than a listing that is still shown are read to their own end."""
    lab.switch(**forms)
    run_id = lab.new_run({"sub/log.txt": 10_000}, status="running")
    mounted = mounting("--live-ttl", "1h", "--listing-ttl", "1h")
    path, copy = mounted.path("runs", run_id, "sub/log.txt"), tmp_path / "copy"
    assert os.stat(path).st_size == 10_000
    if how == "replaced":
        lab.files(run_id, change={"sub/log.txt": {"size": 500_000, "created_at": "2026-05-16T09:00:00Z"}})
    else:
        lab.files(run_id, append={"sub/log.txt": 490_000})
    mounted.sh(program.replace("$2", str(copy)), path).ok()
    assert _has(copy, lab.sha256(run_id, "sub/log.txt"))
    assert os.stat(path).st_size == 500_000
