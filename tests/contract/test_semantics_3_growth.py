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
