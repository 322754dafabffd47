"""4.3 to 4.5 and 6.2, 6.3: each byte is fetched once, and the cache neither lies nor grows."""

import contextlib
import glob
import json
import os
import signal
import stat
import subprocess

import pytest

from artifactfs.content import block_format
from tests.contract.reading import read
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, Shell, needs_root, run, wait_until

SIZE = (9 << 20) + 12_345
MIB = 1 << 20


def blocks_in(directory: str) -> list[str]:
    """Return the block files of a cache directory."""
    return sorted(glob.glob(os.path.join(directory, "blocks-1", "*", "*", "*")))


def cached_bytes(directory: str) -> int:
    """Return the bytes in a cache directory, blocks that go in this moment left out."""
    total = 0
    for path in blocks_in(directory):
        with contextlib.suppress(FileNotFoundError):
            total += os.path.getsize(path)
    return total


def kept_bytes(directory: str) -> int:
    """Return the bytes of contents in a cache directory: those of its files without what else is in each.

    By their lengths alone the last few bytes of a file would seem to be there before they are written.
    """
    total = 0
    for path in blocks_in(directory):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            place = block_format.read_place(file.fileno())
            total += os.fstat(file.fileno()).st_size - block_format.HEADER_BYTES - (len(place) + 8 if place else 0)
    return total


@pytest.fixture
def cache(shell: Shell) -> str:
    return os.path.join(shell.path("cache"), "artifactfs")


def settled_run(lab: Lab, files: dict[str, int]) -> int:
    """Make a run that was finished long ago."""
    return lab.new_run(
        files, status="completed", completed_at="2026-01-02T03:04:05Z", updated_at="2026-01-02T03:04:06Z"
    )


def running_run(lab: Lab, files: dict[str, int]) -> int:
    run_id = lab.new_run(files)
    lab.change_run(run_id, set={"status": "running"}, unset=["completed_at"])
    return run_id


def remount(mounted: Mount, mounting: Mounting, *options: str) -> Mount:
    mounted.umount()
    return mounting(*options)


@pytest.mark.parametrize("ranges", ["granted", "ignored"])
def test_sixteen_readers_fetch_it_once(ranges: str, lab: Lab, mounting: Mounting) -> None:
    """4.3: 16 readers of one cold file cost its bytes once."""
    lab.switch(ranges=ranges)
    size = 40 * MIB  # more than is read ahead of one of them
    run_id = settled_run(lab, {"big.bin": size})
    mounted = mounting()
    script = 'for i in $(seq 16); do sha256sum < "$M/runs/$1/big.bin" & done; wait'
    sums = set(mounted.sh(script, run_id, limit_s=120).ok().text.split()) - {"-"}
    assert sums == {lab.sha256(run_id, "big.bin")}
    assert lab.stats()["content_bytes"] <= size * 1.05


def test_a_glance_costs_little(lab: Lab, standing: Mount) -> None:
    """4.5: a few KiB at the start of a large file fetch at most 128 KiB, in one request, and once."""
    run_id = settled_run(lab, {"big.bin": 64 * MIB})
    for _ in range(3):
        standing.sh('head -c 4096 "$M/runs/$1/big.bin" | wc -c', run_id).ok()
        run("sh", "-c", f"test $(id -u) != 0 || echo 3 > /proc/sys/vm/drop_caches; test -d {standing.point}").ok()
    stats = lab.stats()
    assert stats["requests"]["content"] == 1
    assert stats["content_bytes"] <= 128 << 10


def test_a_hundred_random_reads(lab: Lab, standing: Mount) -> None:
    """4.5: 4 KiB at 100 random places of 1 GiB cost at most 110 requests and 128 MiB."""
    run_id = settled_run(lab, {"huge.bin": 1 << 30})
    code = """
import json, os, random, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
places = random.Random(7)
print(json.dumps(sum(len(os.pread(fd, 4096, places.randrange((1 << 30) - 4096))) for _ in range(100))))
"""
    assert standing.python(code, standing.path("runs", run_id, "huge.bin"), limit_s=120) == 100 * 4096
    stats = lab.stats()
    assert stats["requests"]["content"] <= 110
    assert stats["content_bytes"] <= 128 * MIB


def test_a_sequential_reader_fetches_nothing_twice(lab: Lab, standing: Mount) -> None:
    """4.3: from start to end costs the file's bytes once, in requests of some MiB each."""
    run_id = settled_run(lab, {"big.bin": 64 * MIB})
    assert read(standing, "whole", "runs", run_id, "big.bin") == lab.sha256(run_id, "big.bin")
    stats = lab.stats()
    assert stats["content_bytes"] == 64 * MIB
    assert stats["requests"]["content"] <= 32


def test_a_settled_run_is_read_again_without_a_request(lab: Lab, mounting: Mounting) -> None:
    """4.3: what belongs to a run finished for long is kept over a remount, until the run's times change."""
    run_id = settled_run(lab, {"big.bin": SIZE, "small.txt": 1_389})
    mounted = mounting()
    for name in ("big.bin", "small.txt"):
        read(mounted, "whole", "runs", run_id, name)
    mounted = remount(mounted, mounting)
    for name in ("big.bin", "small.txt"):
        assert read(mounted, "mmap", "runs", run_id, name) == lab.sha256(run_id, name)
    assert "content" not in lab.requests()
    lab.files(run_id, change={"small.txt": {"size": 1_389}})
    lab.change_run(run_id, set={"updated_at": "2026-03-01T00:00:00Z"})
    mounted = remount(mounted, mounting)
    assert read(mounted, "whole", "runs", run_id, "small.txt") == lab.sha256(run_id, "small.txt")
    assert lab.requests()["content"] == 1


def test_a_run_that_goes_on_is_fetched_again(lab: Lab, mounting: Mounting) -> None:
    """4.3: without a validator, what belongs to a run that goes on is kept over a remount for `listing_ttl` only."""
    lab.switch(index="404")  # which has the times of files
    run_id = running_run(lab, {"log.txt": 5_000})
    mounted = mounting("--listing-ttl", "1h")
    read(mounted, "whole", "runs", run_id, "log.txt")
    mounted = remount(mounted, mounting, "--listing-ttl", "1h")
    read(mounted, "whole", "runs", run_id, "log.txt")
    assert "content" not in lab.requests()
    lab.files(run_id, change={"log.txt": {"size": 5_000}})
    mounted = remount(mounted, mounting, "--listing-ttl", "0")
    assert read(mounted, "whole", "runs", run_id, "log.txt") == lab.sha256(run_id, "log.txt")
    assert lab.requests()["content"] == 1


def test_a_validator_keeps_a_block_over_a_remount(lab: Lab, mounting: Mounting) -> None:
    """4.3: what has a validator is kept over remounts, also of a run that goes on."""
    lab.switch(etag="strong")
    run_id = running_run(lab, {"log.bin": SIZE})
    mounted = mounting()
    read(mounted, "whole", "runs", run_id, "log.bin")
    mounted = remount(mounted, mounting, "--listing-ttl", "0")
    assert read(mounted, "whole", "runs", run_id, "log.bin") == lab.sha256(run_id, "log.bin")
    assert "content" not in lab.requests()


def harmed(harm: str, data: bytes) -> bytes:
    """Return what damage makes of a block file."""
    if harm == "flip":
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
    return {"cut": data[: len(data) // 3], "empty": b"", "other format": b"AFSBLK9\n" + data[8:]}[harm]


@pytest.mark.parametrize("grouped", [False, True])
def test_damage_is_noticed(grouped: bool, lab: Lab, mounting: Mounting, cache: str) -> None:
    """4.4: a flipped bit, a cut file, another format or a block in the wrong place is fetched again, never served.

    In a cache whose files are single blocks, since it is too small for groups, and in one of groups of eight.
    """
    size, options = (24 * MIB, ()) if grouped else (SIZE, ("--cache-size", "60MiB"))
    harms = ["flip", "cut", "empty", "other format", "swapped"]
    run_id = settled_run(lab, dict.fromkeys(harms, size))
    mounted = mounting(*options)
    blocks: dict[str, list[str]] = {}
    for count, harm in enumerate(harms, 1):
        read(mounted, "whole", "runs", run_id, harm)
        wait_until(lambda so_far=count: kept_bytes(cache) >= so_far * size, "the blocks")  # type: ignore[misc]
        before = {path for paths in blocks.values() for path in paths}
        blocks[harm] = [path for path in blocks_in(cache) if path not in before]
    mounted.umount()
    for harm, paths in blocks.items():
        chosen = [path for path in paths if path.endswith("-group") == grouped][:3]
        assert len(chosen) == 3
        if harm == "swapped":
            os.rename(chosen[0], chosen[0] + "x")
            os.rename(chosen[1], chosen[0])
            os.rename(chosen[0] + "x", chosen[1])
            continue
        for path in chosen:
            with open(path, "r+b") as file:
                data = harmed(harm, file.read())
                file.seek(0)
                file.truncate()
                file.write(data)
    mounted = mounting(*options)
    for harm in harms:
        lab.reset()
        assert read(mounted, "whole", "runs", run_id, harm) == lab.sha256(run_id, harm), harm
        assert 1 <= lab.requests()["content"] <= (6 if grouped else 3), harm
        # What was in those files.
        assert lab.stats()["content_bytes"] <= 3 * (4 if grouped else 0.5) * MIB, harm


def test_a_kill_in_the_middle_of_writing(lab: Lab, mounting: Mounting, cache: str) -> None:
    """4.4: a crash at any moment leaves nothing that is served wrongly."""
    run_id = settled_run(lab, {"big.bin": 64 * MIB})
    mounted = mounting()
    script = 'cat "$1" > /dev/null 2>&1; true'
    command = ["sh", "-c", script, "sh", mounted.path("runs", run_id, "big.bin")]
    with subprocess.Popen(command) as process:
        wait_until(lambda: cached_bytes(cache) > 4 * MIB, "the first blocks")
        os.kill(mounted.pid, signal.SIGKILL)
        process.wait(60)
    mounted = mounting()
    assert read(mounted, "whole", "runs", run_id, "big.bin") == lab.sha256(run_id, "big.bin")
    assert lab.stats()["content_bytes"] < 64 * MIB


def test_the_limit_holds(lab: Lab, mounting: Mounting, cache: str) -> None:
    """4.4: the cache holds at most `cache_size`, also while more is read through it."""
    run_id = settled_run(lab, {"big.bin": 160 * MIB})
    mounted = mounting("--cache-size", "32MiB")
    command = ["sh", "-c", 'cat "$1" | sha256sum', "sh", mounted.path("runs", run_id, "big.bin")]
    largest = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            largest = max(largest, cached_bytes(cache))
        # All of it may have come between two looks.
        largest = max(largest, cached_bytes(cache))
        assert process.stdout is not None
        assert process.stdout.read().split()[0].decode() == lab.sha256(run_id, "big.bin")
    assert 16 * MIB < largest <= 32 * MIB
    used = int(run("du", "-sB1", cache).ok().text.split()[0])
    assert used <= 32 * MIB


@needs_root
@pytest.mark.parametrize("min_free", ["0", "1GiB"])
def test_a_full_disk_costs_no_read(min_free: str, lab: Lab, mounting: Mounting, shell: Shell) -> None:
    """4.4: a cache directory on a full disk of 10 MiB costs no read."""
    place = shell.path("tiny")
    os.mkdir(place)
    run("mount", "-t", "tmpfs", "-o", "size=10M,mode=700", "tmpfs", place).ok()
    try:
        run_id = settled_run(lab, {"big.bin": 40 * MIB})
        mounted = mounting("--cache-dir", place, "--cache-min-free", min_free)
        mounted.log.announce("cache", optional=True)
        assert read(mounted, "whole", "runs", run_id, "big.bin") == lab.sha256(run_id, "big.bin")
        assert read(mounted, "backwards", "runs", run_id, "big.bin") == lab.sha256(run_id, "big.bin")
        mounted.umount()
    finally:
        run("umount", "-l", place)


def test_without_a_cache(lab: Lab, mounting: Mounting, cache: str) -> None:
    """4.4: `--cache-size 0` reads as well, and leaves nothing behind."""
    run_id = settled_run(lab, {"big.bin": SIZE})
    mounted = mounting("--cache-size", "0")
    assert read(mounted, "whole", "runs", run_id, "big.bin") == lab.sha256(run_id, "big.bin")
    assert not os.path.exists(cache)


def test_the_cache_is_the_users_alone(lab: Lab, mounting: Mounting, cache: str) -> None:
    """6.2: the cache is 0700, its files 0600, and 6.1: no key is in it."""
    run_id = settled_run(lab, {"a.bin": 5_000})
    mounted = mounting()
    read(mounted, "whole", "runs", run_id, "a.bin")
    mounted.umount()
    assert stat.S_IMODE(os.stat(cache).st_mode) == 0o700
    for path in blocks_in(cache):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert run("grep", "-rlE", f"{lab.api_key}|{lab.app_key}", cache).code == 1


def test_another_account_never_sees_it(lab: Lab, shell: Shell) -> None:
    """6.3: what was cached with one application key is not served to another."""
    run_id = settled_run(lab, {"a.bin": 5_000})
    mounted = shell.mount()
    read(mounted, "whole", "runs", run_id, "a.bin")
    mounted.umount()
    token: dict[str, str | None] = {"DD_API_KEY": None, "DD_APP_KEY": None, "DD_ACCESS_TOKEN": lab.access_token}
    mounted = shell.mount(env=token)
    assert read(mounted, "whole", "runs", run_id, "a.bin") == lab.sha256(run_id, "a.bin")
    assert lab.requests()["content"] == 1


def test_one_tensor_costs_one_tensor(lab: Lab, standing: Mount) -> None:
    """4.5: as safetensors does it: the header by mmap, then one tensor of 2 MiB in a file of 64 MiB."""
    run_id = settled_run(lab, {"model.safetensors": 64 * MIB})
    code = """
import hashlib, json, mmap, os, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
    header = mapped[:8] + mapped[8:3000]
    start = 40 * 2**20 + 4096
    print(json.dumps(hashlib.sha256(mapped[start:start + 2 * 2**20]).hexdigest()))
"""
    standing.python(code, standing.path("runs", run_id, "model.safetensors"))
    # The tensor, what a reader of so much gets ahead, and blocks at the ends; by the kernel's pieces a little more.
    assert lab.stats()["content_bytes"] <= 6 * MIB


def test_memory_and_descriptors_are_bounded(lab: Lab, mounting: Mounting) -> None:
    """4.4: 64 files read at once take less than 200 MiB, and leave no descriptor open."""
    files = {f"f{i:02d}.bin": 5 * MIB for i in range(64)}
    run_id = settled_run(lab, files)
    mounted = mounting()
    mounted.sh('ls "$M/runs/$1"', run_id).ok()
    pid = mounted.pid
    before = len(os.listdir(f"/proc/{pid}/fd"))
    script = 'for f in "$M/runs/$1"/*; do cat "$f" | wc -c & done; wait'
    counts = mounted.sh(script, run_id, limit_s=120).ok().text.split()
    assert counts == [str(5 * MIB)] * 64
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 200 << 10, json.dumps({"KiB": peak})
    # Connections stay for a while, in their pool: 16 at most.
    wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before + 16, "the descriptors")
