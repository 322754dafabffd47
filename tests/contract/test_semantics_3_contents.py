"""3.6: `artifactfs refresh --contents PATH` and `artifactfs cache clear PATH`: contents are fetched again.

Every file is rewritten with its own size, and no time changes: without a validator nothing shows that to a mount.
"""

import errno
import glob
import json
import os
import re
import signal
import sys

import pytest

from artifactfs.errors import ExitCode
from tests.contract.reading import read
from tests.fixtures import Mounting
from tests.harness import ARTIFACTFS, CHECKOUT, LIMIT_S, Lab, Mount, Shell, holding, wait_until

LARGE = (9 << 20) + 12_345
FILES = {"a.bin": LARGE, "sub/b.txt": 5_000, "sub/deep/c.bin": 1 << 20, "subtle.txt": 4_000}
PARTS = {
    "runs/{run}/a.bin": {"a.bin"},
    "runs/{run}/sub": {"sub/b.txt", "sub/deep/c.bin"},
    "projects/{project}/{run}/sub/deep/c.bin": {"sub/deep/c.bin"},
    "names/{name}/sub": {"sub/b.txt", "sub/deep/c.bin"},
    "runs/{run}": set(FILES),
    "names/{name}": set(FILES),
    "projects/{project}": set(FILES),
}


@pytest.fixture
def cache(shell: Shell) -> str:
    return os.path.join(shell.path("cache"), "artifactfs")


def settled_run(lab: Lab, files: dict[str, int], project: int, name: str = "") -> int:
    """Make a run that was finished long ago."""
    times = {"completed_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:06Z"}
    return lab.new_run(files, project=project, name=name, status="completed", **times)


def rewrite(lab: Lab, run_id: int, files: dict[str, int]) -> None:
    lab.files(run_id, change={path: {"size": size} for path, size in files.items()})


def refresh_contents(mounted: Mount, *parts: object) -> str:
    done = mounted.shell.cli("refresh", "--contents", mounted.path(*parts)).ok()
    assert done.err == ""
    return done.text


def digests(mounted: Mount, run_id: int) -> dict[str, str]:
    done = mounted.sh('cd "$M/runs/$1" && shift && sha256sum "$@"', run_id, *FILES, limit_s=2 * LIMIT_S).ok()
    return {path: line.split()[0] for path, line in zip(FILES, done.text.splitlines(), strict=True)}


def truth(lab: Lab, run_id: int) -> dict[str, str]:
    return {path: lab.sha256(run_id, path) for path in FILES}


def cached_bytes(directory: str) -> int:
    """Return the bytes on disk of all block files."""
    found = [os.stat(path).st_size for path in glob.glob(os.path.join(directory, "blocks-1", "*", "*", "*"))]
    return sum(-(-size // 4096) * 4096 for size in found)


def usage(directory: str) -> int:
    with open(os.path.join(directory, "blocks-1", "usage"), "rb") as file:
        return int.from_bytes(file.read(8), "little")


def test_a_rewrite_of_the_same_size_shows(lab: Lab, mounting: Mounting, cache: str) -> None:
    """3.6, 3.3: a refresh keeps contents, with --contents it drops those of PATH, in the kernel and on disk as well.

    Blocks of what is beside PATH, and of other runs, stay, and over a remount everything is served from disk. Each PATH
    has a run of its own, all in one mount.
    """
    runs = {where: (project := lab.new_project(), settled_run(lab, FILES, project, name="fresh")) for where in PARTS}
    another = settled_run(lab, FILES, lab.new_project())
    mounted = mounting()
    before, other = {where: digests(mounted, run_id) for where, (_, run_id) in runs.items()}, digests(mounted, another)
    assert before == {where: truth(lab, run_id) for where, (_, run_id) in runs.items()}
    mounted.umount()
    mounted = mounting()
    expected = {where: only_a_part_shows(where, *runs[where], before[where], lab, mounted, cache) for where in PARTS}
    assert digests(mounted, another) == other
    mounted.umount()
    lab.reset()
    mounted = mounting()
    assert {where: digests(mounted, run_id) for where, (_, run_id) in runs.items()} == expected
    assert digests(mounted, another) == other
    assert "content" not in lab.requests()


def only_a_part_shows(
    where: str, project: int, run_id: int, before: dict[str, str], lab: Lab, mounted: Mount, cache: str
) -> dict[str, str]:
    """Rewrite a run and refresh a part of it; check that it shows and costs what it holds. Returns what shows."""
    whole = cached_bytes(cache)
    name = mounted.sh('cd "$M/names" && ls -d *~"$1"/*~"$2"', project, run_id).ok().text.strip()
    parts = where.format(run=run_id, project=project, name=name).split("/")
    assert digests(mounted, run_id) == before
    rewrite(lab, run_id, FILES)
    after = truth(lab, run_id)
    lab.reset()
    assert "--contents" in mounted.shell.cli("refresh", mounted.path(*parts)).ok().text
    assert digests(mounted, run_id) == before
    assert "content" not in lab.requests()
    said = refresh_contents(mounted, *parts)
    sizes = [FILES[path] for path in PARTS[where]]
    assert f"{sum(-(-size // (512 << 10)) for size in sizes)} blocks" in said
    assert usage(cache) == cached_bytes(cache)
    assert sum(sizes) <= whole - cached_bytes(cache) <= sum(sizes) + 8192 * 30
    expected = {path: after[path] if path in PARTS[where] else before[path] for path in FILES}
    assert digests(mounted, run_id) == expected
    assert lab.stats()["content_bytes"] == sum(sizes)
    wait_until(lambda: cached_bytes(cache) >= whole, "what was fetched again, on disk")
    return expected


@pytest.mark.parametrize("where", ["", "runs", "names"])
def test_of_the_whole_mount(where: str, lab: Lab, mounting: Mounting, cache: str) -> None:
    """3.6: of the mount, of /runs and of /names: every block is gone, and memory serves nothing either."""
    run_id = settled_run(lab, FILES, lab.new_project())
    mounted = mounting()
    digests(mounted, run_id)
    rewrite(lab, run_id, FILES)
    refresh_contents(mounted, *filter(None, [where]))
    assert (cached_bytes(cache), usage(cache)) == (0, 0)
    assert digests(mounted, run_id) == truth(lab, run_id)


def test_without_a_cache_on_disk(lab: Lab, mounting: Mounting) -> None:
    """3.6: what is in memory and in the kernel alone is dropped there."""
    run_id = settled_run(lab, FILES, lab.new_project())
    mounted = mounting("--cache-size", "0")
    digests(mounted, run_id)
    rewrite(lab, run_id, FILES)
    refresh_contents(mounted, "runs", run_id, "sub")
    after, found = truth(lab, run_id), digests(mounted, run_id)
    assert {path for path in FILES if found[path] == after[path]} >= PARTS["runs/{run}/sub"]
    assert found["subtle.txt"] != after["subtle.txt"]


@pytest.mark.parametrize("size", [5_000, 4_000, 700_000])
def test_a_size_that_no_listing_gives(size: int, lab: Lab, mounting: Mounting) -> None:
    """3.6, 2.2: a size that an answer gave was that of old contents, and is no reason for the next reader to fail."""
    lab.switch(size_form="absent", index="404")
    run_id = settled_run(lab, FILES, lab.new_project())
    mounted = mounting()
    mounted.log.announce("changed while it was read", optional=True)
    before = digests(mounted, run_id)
    lab.files(run_id, change={"sub/b.txt": {"size": size}})
    refresh_contents(mounted, "runs", run_id, "sub")
    assert digests(mounted, run_id) == before | {"sub/b.txt": lab.sha256(run_id, "sub/b.txt")}
    assert mounted.tree(run_id)[b"sub/b.txt"] == size


def test_contents_that_were_cut(lab: Lab, mounting: Mounting) -> None:
    """3.6, 4.1: a length that overrode the listing's was that of old contents: the next reader gets the whole file."""
    lab.switch(listing_lag_s=3600)
    run_id = settled_run(lab, FILES, lab.new_project())
    lab.files(run_id, change={"a.bin": {"size": 1_000}})
    mounted = mounting()
    mounted.log.announce("changed while it was read|came for", optional=True)
    read(mounted, "whole", "runs", run_id, "a.bin")
    assert read(mounted, "whole", "runs", run_id, "a.bin") == lab.sha256(run_id, "a.bin")
    rewrite(lab, run_id, {"a.bin": LARGE})
    refresh_contents(mounted, "runs", run_id)
    assert read(mounted, "whole", "runs", run_id, "a.bin") == lab.sha256(run_id, "a.bin")


def test_with_an_older_kernel(lab: Lab, shell: Shell) -> None:
    """3.6, 3.4: pages are dropped inode by inode, so a kernel that has no epochs (before Linux 6.16) does the same."""
    shell.program = (sys.executable, "-m", "tests.launch", "old-kernel")
    shell.more_env |= {"PYTHONPATH": CHECKOUT}
    run_id = settled_run(lab, FILES, lab.new_project())
    mounted = shell.mount()
    digests(mounted, run_id)
    rewrite(lab, run_id, FILES)
    refresh_contents(mounted, "runs", run_id)
    assert digests(mounted, run_id) == truth(lab, run_id)


def test_what_is_not_there(lab: Lab, mounting: Mounting) -> None:
    """3.6: unlike `refresh`, a path that does not exist drops nothing of the directory above."""
    run_id = settled_run(lab, FILES, lab.new_project())
    mounted = mounting()
    before = digests(mounted, run_id)
    done = mounted.shell.cli("refresh", "--contents", mounted.path("runs", run_id, "sub/no"), mounted.path("runs"))
    assert done.code == ExitCode.INCOMPLETE
    assert "there is no" in done.err
    assert done.text.count("deleted") == 1
    done = mounted.shell.cli("refresh", "--contents", mounted.path("runs", run_id, "sub/no"))
    lab.reset()
    assert digests(mounted, run_id) == before


# Reads a part, waits, then reads all by opening again, by the open file, by its mapping: digests, errno, signals.
HOLDER = """
import hashlib, json, mmap, os, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
size = os.fstat(fd).st_size
mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
os.pread(fd, 300_000, 0), mapped[:10]
print("ready", flush=True); sys.stdin.readline()
def whole(fd):
    hashed, at = hashlib.sha256(), 0
    try:
        while piece := os.pread(fd, 200_001, at):
            hashed.update(piece); at += len(piece)
    except OSError as error:
        return error.errno
    return hashed.hexdigest()
def touch(at):
    child = os.fork()
    if not child:
        os._exit(len(mapped[at:at + 1]) - 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
again = os.open(sys.argv[2], os.O_RDONLY)
now = whole(again)
held = [whole(fd), touch(0), touch(size - 1)]
print(json.dumps([held, now, os.fstat(again).st_ino == os.fstat(fd).st_ino]))
"""


@pytest.mark.parametrize(
    ("etag", "rewritten"),
    [("none", True), ("none", False), ("changing", False), ("changing", True), ("strong", True), ("strong", False)],
)
def test_a_file_that_is_open(etag: str, rewritten: bool, lab: Lab, mounting: Mounting) -> None:
    """3.6, 4.1: an open file goes on only where a validator proves that its bytes are the same; else it is ESTALE.

    A mapping gets SIGBUS then, not pages of both. Opening again works at once, and gives the new contents.
    """
    lab.switch(etag=etag)
    run_id = settled_run(lab, FILES, lab.new_project())
    mounted = mounting()
    mounted.log.announce("changed while it was read", optional=True)
    with holding(mounted.python_command(HOLDER, mounted.path("runs", run_id, "a.bin"))) as held:
        if rewritten:
            rewrite(lab, run_id, {"a.bin": LARGE})
        done = mounted.shell.cli("refresh", "--contents", mounted.path("runs", run_id)).ok()
        # Whether validators mean nothing may be known before.
        assert done.err.endswith("(Stale file handle): 1\n") == (etag == "none") or etag == "changing"
        answer = json.loads(held.go_on())
    now, goes_on = lab.sha256(run_id, "a.bin"), etag == "strong" and not rewritten
    assert answer == [[now, 0, 0] if goes_on else [errno.ESTALE, -signal.SIGBUS, -signal.SIGBUS], now, goes_on]


def test_readers_while_it_is_rewritten(lab: Lab, mounting: Mounting) -> None:
    """3.6, 4.1: of readers while a file is rewritten and refreshed, each gets one version whole, or ESTALE.

    Each version is cached before it is rewritten: without validators nothing shows what changes under a fetch.
    """
    run_id = settled_run(lab, {"a.bin": LARGE}, lab.new_project())
    mounted = mounting()
    code = """
import errno, hashlib, json, os, sys
seen = []
print("ready", flush=True)
while not os.path.exists(sys.argv[3]):
    hashed = hashlib.sha256()
    try:
        with open(sys.argv[2], "rb", buffering=0) as file:
            while piece := file.read(150_000):
                hashed.update(piece)
        seen.append(hashed.hexdigest())
    except OSError as error:
        assert error.errno == errno.ESTALE, error
        seen.append(None)
sys.stdin.readline()
print(json.dumps(seen))
"""
    end = mounted.shell.path("end")
    versions = [read(mounted, "whole", "runs", run_id, "a.bin")]
    command = mounted.python_command(code, mounted.path("runs", run_id, "a.bin"), end)
    with holding(command) as one, holding(command) as another:
        for _ in range(5):
            rewrite(lab, run_id, {"a.bin": LARGE})
            versions.append(lab.sha256(run_id, "a.bin"))
            mounted.shell.cli("refresh", "--contents", mounted.path("runs", run_id, "a.bin")).ok()
            assert read(mounted, "whole", "runs", run_id, "a.bin") == versions[-1]
        with open(end, "w", encoding="ascii"):
            pass
        seen = json.loads(one.go_on()) + json.loads(another.go_on())
    assert len(set(seen)) > 2
    assert set(seen) <= {None, *versions}


# --- cache clear --------------------------------------------------------------------------------------------


def test_clearing_a_place_in_a_mount(lab: Lab, mounting: Mounting) -> None:
    """3.6: `cache clear PATH` of a path in a mount, also through a link, is a refresh with --contents."""
    run_id = settled_run(lab, FILES, lab.new_project())
    mounted = mounting()
    before = digests(mounted, run_id)
    rewrite(lab, run_id, FILES)
    os.symlink(mounted.path("runs", run_id, "sub"), mounted.shell.path("link"))
    assert "2 blocks" not in mounted.shell.cli("cache", "clear", mounted.shell.path("link")).ok().text
    after, found = truth(lab, run_id), digests(mounted, run_id)
    assert found == {path: (after if path in PARTS["runs/{run}/sub"] else before)[path] for path in FILES}
    done = mounted.sh('cd "$1" && XDG_CACHE_HOME="$2" exec "$3" cache clear a.bin', mounted.path("runs", run_id),
                      mounted.shell.path("cache"), ARTIFACTFS).ok()  # fmt: skip
    assert "a.bin: deleted" in done.text
    assert digests(mounted, run_id) == found | {"a.bin": after["a.bin"]}


def test_clearing_a_run_without_a_mount(lab: Lab, mounting: Mounting, cache: str) -> None:
    """3.6: RUN and RUN/PATH are found in the cache of a site without a mount; another site's are not."""
    run_id = settled_run(lab, FILES, lab.new_project())
    mounted = mounting()
    before = digests(mounted, run_id)
    mounted.umount()
    rewrite(lab, run_id, FILES)
    shell, site = mounted.shell, {"ARTIFACTFS_API_URL": mounted.shell.lab.url if mounted.shell.lab else ""}
    assert "deleted 0 B in 0 blocks" in shell.cli("cache", "clear", str(run_id)).ok().text
    assert "deleted 0 B in 0 blocks" in shell.cli("cache", "clear", f"{run_id}0", env=site).ok().text
    done = shell.cli("cache", "clear", f"{run_id}/sub/", f"{run_id}/subtle.txt", env=site).ok()
    assert re.findall(r"(\S+): deleted .* in (\d+) blocks?", done.text) == [
        (f"{run_id}/sub/", "3"),
        (f"{run_id}/subtle.txt", "1"),
    ]
    assert usage(cache) == cached_bytes(cache) >= LARGE
    mounted = mounting()
    after = truth(lab, run_id)
    assert digests(mounted, run_id) == after | {"a.bin": before["a.bin"]}
    assert "in memory" in shell.cli("cache", "clear", str(run_id), env=site).ok().text
    assert cached_bytes(cache) == 0


@pytest.mark.parametrize("path", ["/tmp", "nothing", "70158/../70159", "projects/1", ""])
def test_clearing_what_is_no_place(path: str, shell: Shell) -> None:
    """3.6: a path that is in no mount and no run's is refused in one line that names both forms."""
    done = shell.cli("cache", "clear", path)
    assert done.code == ExitCode.NOT_MOUNTED
    assert done.err.count("\n") == 1
    assert "70158/checkpoints" in done.err


def test_clearing_a_mount_with_another_cache(mounted: Mount) -> None:
    """3.6: --cache-dir says which cache is meant, and a mount has its own: both are refused."""
    done = mounted.shell.cli("cache", "clear", "--cache-dir", mounted.shell.path("other"), mounted.path("runs"))
    assert done.code == ExitCode.USAGE
    assert done.err.count("\n") == 1
