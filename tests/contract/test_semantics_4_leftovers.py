"""4.4: what killed mounts leave in the cache goes at the next start, and keeps no small cache from working."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contract.reading import read
from tests.contract.test_semantics_4_cache import MIB, cached_bytes, kept_bytes, settled_run
from tests.harness import CHECKOUT, END_S, Lab, Mount, Shell, start_process, wait_until
from tests.launch import tell

SIZE = 5 * MIB
SMALL = ("--cache-size", "24MiB")


def asides(cache: str) -> list[Path]:
    """Return the files that are being written, or were left."""
    return list(Path(cache).glob("blocks-1/*/*/.*"))


@pytest.fixture
def cache(shell: Shell) -> str:
    return os.path.join(shell.path("cache"), "artifactfs")


@contextmanager
def writing(lab: Lab, shell: Shell, cache: str, state: str) -> Iterator[Mount]:
    """Mount beside others, and have the mount stuck in the middle of writing to the cache. The cache may be large."""
    tell(shell.path("disk"), state)
    program, shell.program = shell.program, (sys.executable, "-m", "tests.launch", "stuck-disk")
    shell.more_env |= {"PYTHONPATH": CHECKOUT, "TEST_DISK": shell.path("disk")}
    mounted = shell.mount(name="beside")
    shell.program = program
    run_id = settled_run(lab, {"half.bin": SIZE})
    with start_process(["cat", mounted.path("runs", run_id, "half.bin")]):
        is_full = state == "full"
        wait_until(
            lambda: any(path.stat().st_size > 0 or not is_full for path in asides(cache)), "a file being written"
        )
        yield mounted


def leave(lab: Lab, shell: Shell, cache: str, state: str) -> None:
    """Have a mount killed in the middle of writing, eight times: once, and the rest as copies of what it left."""
    with writing(lab, shell, cache, state) as mounted:
        pid = mounted.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in shell.processes(), "its end", END_S)
    mounted.umount()
    (left,) = asides(cache)
    assert (left.stat().st_size > 0) == (state == "full")
    for number in range(7):
        # Another session's, of 4 MiB by its name.
        shutil.copyfile(left, left.with_name(f".{number:016x}-{number + 1}-400000"))


def check_keeps(lab: Lab, mounted: Mount, cache: str) -> None:
    """See that a mount keeps what is read of it, at once."""
    run_id = settled_run(lab, {"new.bin": SIZE})
    before = kept_bytes(cache)
    assert read(mounted, "whole", "runs", run_id, "new.bin") == lab.sha256(run_id, "new.bin")
    wait_until(lambda: kept_bytes(cache) >= before + SIZE, "the blocks of new.bin")


@pytest.mark.parametrize("state", ["empty", "full"])
def test_leftovers_go_at_the_next_start(state: str, lab: Lab, shell: Shell, cache: str) -> None:
    """4.4: what killed mounts left is deleted when the next one starts, which keeps what it reads."""
    leave(lab, shell, cache, state)
    mounted = shell.mount(*SMALL)
    wait_until(lambda: not asides(cache), "the end of the leftovers")
    check_keeps(lab, mounted, cache)


@pytest.mark.parametrize("state", ["empty", "full"])
def test_leftovers_of_a_neighbour(state: str, lab: Lab, shell: Shell, cache: str) -> None:
    """4.4: what a neighbour that was killed left does not keep a mount that goes on from keeping, and goes."""
    mounted = shell.mount(*SMALL)
    leave(lab, shell, cache, state)
    check_keeps(lab, mounted, cache)
    run_id = settled_run(lab, {"large.bin": 30 * MIB})
    assert read(mounted, "whole", "runs", run_id, "large.bin") == lab.sha256(run_id, "large.bin")
    # What was read may still be being written.
    wait_until(lambda: not asides(cache) and cached_bytes(cache) > 16 * MIB, "the end of the leftovers, and the blocks")
    assert cached_bytes(cache) <= 24 * MIB
    assert not mounted.log.has("no room left")


@pytest.mark.parametrize("state", ["empty", "full"])
def test_what_a_neighbour_writes_is_no_leftover(state: str, lab: Lab, shell: Shell, cache: str) -> None:
    """4.4: what a mount that lives is writing stays, while others start, evict and clear."""
    with writing(lab, shell, cache, state):
        before = asides(cache)
        mounted = shell.mount(*SMALL)
        run_id = settled_run(lab, {"large.bin": 40 * MIB})
        assert read(mounted, "whole", "runs", run_id, "large.bin") == lab.sha256(run_id, "large.bin")
        shell.cli("cache", "clear").ok()
        # Those that the other mount still writes come and go.
        assert set(before) <= set(asides(cache))
        tell(shell.path("disk"), "")
        wait_until(lambda: not asides(cache), "the end of writing")
        assert list(before[0].parent.iterdir())
