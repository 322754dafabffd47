"""Many files read at once through a real mount: more than there are connections, or room in memory."""

import pytest

from tests.fixtures import Mounting
from tests.harness import Lab, Mount

MIB = 1 << 20

# Reads each file whole, one thread a file, and prints their SHA-256.
_TOGETHER = """
import hashlib, json, sys, threading
paths, found = sys.argv[2:], {}
def read(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    found[path] = digest.hexdigest()
threads = [threading.Thread(target=read, args=(path,)) for path in paths]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([found.get(path) for path in paths]))
"""


def read_together(lab: Lab, mounted: Mount, count: int, size: int) -> float:
    """Read so many new files at once; returns the bytes that were sent, as a multiple of what they hold."""
    files = {f"f{number:02d}.bin": size + number for number in range(count)}
    run_id = lab.new_run(files)
    lab.reset()
    found = mounted.python(_TOGETHER, *(mounted.path("runs", run_id, name) for name in files), limit_s=120)
    sent: int = lab.stats()["content_bytes"]
    assert found == [lab.sha256(run_id, name) for name in files]
    return sent / sum(files.values())


@pytest.mark.parametrize("cache", ["10GiB", "0"])
@pytest.mark.parametrize("ranges", ["granted", "ignored"])
def test_as_many_files_as_connections(ranges: str, cache: str, lab: Lab, mounting: Mounting) -> None:
    """4.3: twelve readers of twelve files that fill memory twice over: each byte comes about once, with a cache or not.

    What was fetched ahead of one is not dropped for the others; without ranges it would all come again.
    """
    lab.switch(ranges=ranges)
    assert read_together(lab, mounting("--cache-size", cache), 12, 8 * MIB) <= (1.05 if cache != "0" else 1.5)


@pytest.mark.parametrize("length", ["content-length", "chunked"])
def test_more_files_than_connections_without_ranges(length: str, lab: Lab, mounting: Mounting) -> None:
    """4.2, 4.3: a body that waits for its reader blocks no read of another file, and comes once all the same.

    The kernel has twelve reads of a mount under way at most: those who wait for a connection may be in front of those
    who would make one free.
    """
    lab.switch(ranges="ignored", length=length)
    mounted = mounting()
    assert read_together(lab, mounted, 40, 3 * MIB) <= 1.05
    with open(f"/proc/{mounted.pid}/status", encoding="ascii") as status:
        peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak_kib < 200 << 10


def test_a_body_without_ranges_that_is_larger_than_memory(lab: Lab, mounting: Mounting) -> None:
    """4.2: without ranges and without a cache a sequential reader of 150 MiB is streamed to, once."""
    lab.switch(ranges="ignored")
    assert read_together(lab, mounting("--cache-size", "0"), 1, 150 * MIB) <= 1.05
