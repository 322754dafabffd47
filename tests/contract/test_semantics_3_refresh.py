"""3.3, 3.4: `artifactfs refresh PATH`, and SIGHUP: refreshed asks the service, whatever the kernel remembers.

The kernel may cache names for an hour here, so these tests do not see its entries expire.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.contract.reading import read
from tests.fixtures import Mounting
from tests.harness import ARTIFACTFS, CHECKOUT, Lab, Mount, Shell, holding, start_process, wait_until
from tests.status import refresh

LONG = ("--listing-ttl", "1h", "--finished-ttl", "1h", "--negative-ttl", "1h")


@pytest.fixture(scope="module")
def _believing_mount(_shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    shell = Shell(str(tmp_path_factory.mktemp("believing")), _shared_lab)
    yield shell.mount(*LONG)
    shell.close()


@pytest.fixture
def believing(_believing_mount: Mount, lab: Lab) -> Iterator[Mount]:
    """One mount for all tests, whose listings stay fresh for an hour; each test has a run of its own."""
    with _believing_mount.log.watched():
        yield _believing_mount


def names(mounted: Mount, *parts: object) -> list[str]:
    return mounted.sh('ls "$1"', mounted.path("runs", *parts)).ok().text.split()


def size(mounted: Mount, *parts: object) -> int:
    return int(mounted.sh('stat -c %s "$1"', mounted.path("runs", *parts)).ok().text)


def change(lab: Lab, run_id: int) -> None:
    """Add, remove, rename and let grow: in the root and in `sub`."""
    lab.files(
        run_id,
        add={"new.txt": 1, "sub/new.bin": 2},
        remove=["gone.txt", "sub/gone.bin"],
        rename={"old.txt": "renamed.txt"},
        change={"a.txt": {"size": 77}, "sub/b.bin": {"size": 99}},
    )


FILES = {"a.txt": 10, "gone.txt": 1, "old.txt": 3, "sub/b.bin": 20, "sub/gone.bin": 1, "sub/deep/c.txt": 4}
AFTER = (["a.txt", "new.txt", "renamed.txt", "sub"], ["b.bin", "deep", "new.bin"])


def look_at_all(mounted: Mount, run_id: int) -> None:
    """Look at everything by name, and at what is not there yet, so that the kernel remembers it."""
    mounted.sh('find "$M/runs/$1" -type f -exec cat {} + > /dev/null', run_id).ok()
    for name in ("new.txt", "sub/new.bin", "renamed.txt"):
        assert mounted.error_of("runs", run_id, name) == errno.ENOENT
    assert (size(mounted, run_id, "a.txt"), size(mounted, run_id, "sub/b.bin")) == (10, 20)


def shows_it_all(mounted: Mount, lab: Lab, run_id: int) -> None:
    """Each by its name first: `ls` would tell the kernel of all of them."""
    assert mounted.error_of("runs", run_id, "new.txt") == 0
    assert mounted.error_of("runs", run_id, "gone.txt") == errno.ENOENT
    assert mounted.error_of("runs", run_id, "old.txt") == errno.ENOENT
    assert size(mounted, run_id, "a.txt") == 77
    assert size(mounted, run_id, "sub/b.bin") == 99
    assert mounted.error_of("runs", run_id, "sub/gone.bin") == errno.ENOENT
    assert mounted.error_of("runs", run_id, "sub/new.bin") == 0
    assert (names(mounted, run_id), names(mounted, run_id, "sub")) == AFTER
    for path in ("a.txt", "sub/b.bin"):
        assert read(mounted, "whole", "runs", run_id, path) == lab.sha256(run_id, path)


def asked_but_index(lab: Lab) -> dict[str, int]:
    """Return the requests except for one for the index: that rests twenty times as long as it took (section 7)."""
    asked = lab.requests()
    assert asked.pop("index", 0) <= 1
    return asked


@pytest.mark.parametrize("where", ["", "runs", "runs/{run}"])
def test_a_refresh_shows_what_is_new(where: str, lab: Lab, believing: Mount) -> None:
    """3.3: artifactfs refresh PATH of the mount, of /runs, of the run: all below is fresh, by name and content."""
    run_id = lab.new_run(FILES)
    look_at_all(believing, run_id)
    change(lab, run_id)
    assert size(believing, run_id, "a.txt") == 10
    refresh(believing, *filter(None, where.format(run=run_id).split("/")))
    shows_it_all(believing, lab, run_id)


def test_a_refresh_of_an_index(lab: Lab, believing: Mount) -> None:
    """3.3: artifactfs refresh PATH of a run whose directories came from the project's listing: it is asked again."""
    project = lab.new_project()
    run_id = lab.new_run(
        {f"d{n}/e{m}/f{k}.txt": 10 for n in range(4) for m in range(3) for k in range(2)}, project=project
    )
    assert believing.tree(run_id) == lab.truth(run_id)
    lab.files(
        run_id,
        add={"d1/e1/new.txt": 5, "d9/e9/x.txt": 6},
        remove=["d2/e2/f1.txt"],
        change={"d3/e2/f0.txt": {"size": 123}},
    )
    refresh(believing, "runs", run_id)
    assert believing.tree(run_id) == lab.truth(run_id)


def test_a_refresh_of_a_directory(lab: Lab, believing: Mount) -> None:
    """3.3: artifactfs refresh PATH of a directory: it and what is below is fresh, what is beside it is not."""
    run_id = lab.new_run(FILES)
    look_at_all(believing, run_id)
    change(lab, run_id)
    lab.files(run_id, add={"sub/deep/d.txt": 1})
    refresh(believing, "runs", run_id, "sub")
    lab.reset()
    assert names(believing, run_id, "sub") == AFTER[1]
    assert names(believing, run_id, "sub", "deep") == ["c.txt", "d.txt"]
    assert size(believing, run_id, "sub", "b.bin") == 99
    assert names(believing, run_id) == ["a.txt", "gone.txt", "old.txt", "sub"]
    assert asked_but_index(lab) == {"listing": 2, "run": 1}


def test_a_refresh_of_what_only_came(lab: Lab, believing: Mount) -> None:
    """3.3: artifactfs refresh PATH of what was not there at the last look: its directory is fresh."""
    run_id = lab.new_run(FILES)
    look_at_all(believing, run_id)
    change(lab, run_id)
    refresh(believing, "runs", run_id, "new.txt")
    shows_it_all(believing, lab, run_id)


@pytest.mark.parametrize("name", ["a.txt", "gone.txt"])
def test_a_refresh_of_a_file(name: str, lab: Lab, believing: Mount) -> None:
    """3.3: artifactfs refresh PATH of a file, or of one that is gone: its directory is fresh, what is below is not."""
    run_id = lab.new_run(FILES)
    look_at_all(believing, run_id)
    change(lab, run_id)
    refresh(believing, "runs", run_id, name)
    lab.reset()
    assert names(believing, run_id) == AFTER[0]
    assert size(believing, run_id, "a.txt") == 77
    assert names(believing, run_id, "sub") == ["b.bin", "deep", "gone.bin"]
    assert asked_but_index(lab) == {"listing": 1, "run": 1}


def test_a_refresh_keeps_contents(lab: Lab, believing: Mount) -> None:
    """3.3: what was read, and is still valid, is not fetched again after a refresh."""
    run_id = lab.new_run({"model.bin": 3 << 20})
    assert read(believing, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")
    refresh(believing)
    lab.reset()
    believing.sh("sync; echo 1 > /proc/sys/vm/drop_caches 2> /dev/null || true")
    assert read(believing, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")
    assert lab.requests().get("content", 0) == 0
    assert lab.requests()["listing"] == 1


def test_a_refresh_while_files_are_held(lab: Lab, believing: Mount) -> None:
    """3.3, 3.4: who is in a directory, or holds a file open, keeps it, and sees what is new by name after a refresh."""
    run_id = lab.new_run(FILES)
    look_at_all(believing, run_id)
    code = """
import os, sys
os.chdir(sys.argv[2]); old = open("a.txt", "rb"); before = os.fstat(old.fileno())
print("ready", flush=True); sys.stdin.readline()
assert os.path.exists("new.txt") and not os.path.exists("gone.txt")
assert os.stat("a.txt").st_size == 77 and os.fstat(old.fileno()).st_ino == before.st_ino
assert sorted(os.listdir()) == ["a.txt", "new.txt", "renamed.txt", "sub"], os.listdir()
print("seen")
"""
    with holding(believing.python_command(code, believing.path("runs", run_id))) as held:
        change(lab, run_id)
        refresh(believing, "runs", run_id)
        assert held.go_on() == b"seen\n"


def test_a_refresh_through_links(lab: Lab, believing: Mount) -> None:
    """3.3: artifactfs refresh PATH through /names, through a link of the user's, and of `.`: the run is meant."""
    shell = believing.shell
    project = lab.new_project()
    run_id = lab.new_run(FILES, project=project, name="my run")
    look_at_all(believing, run_id)
    by_name = believing.sh('ls -d "$M"/names/*~"$1"/*~"$2"', project, run_id).ok().text.strip()
    os.symlink(believing.path("runs", run_id), shell.path("mine"))
    for step, path in enumerate((by_name, shell.path("mine"), None)):
        lab.files(run_id, change={"a.txt": {"size": 100 + step}})
        if path is None:
            believing.sh('cd "$1" && exec "$2" refresh .', by_name, ARTIFACTFS).ok()
        else:
            shell.cli("refresh", path).ok()
        assert size(believing, run_id, "a.txt") == 100 + step


def test_a_refresh_of_a_project(lab: Lab, believing: Mount) -> None:
    """3.3: artifactfs refresh PATH of a project, and of all of them: what came since is among its runs."""
    project = lab.new_project()
    run_id = lab.new_run({"a": 1}, project=project)
    place = believing.path("projects", project)
    assert believing.sh('ls "$1"', place).ok().text.split()[0] == str(run_id)
    for where in (("projects", project), ("projects",)):
        another = lab.new_run({"a": 1}, project=project)
        assert str(another) not in believing.sh('ls "$1"', place).ok().text.split()
        refresh(believing, *where)
        assert str(another) in believing.sh('ls "$1"', place).ok().text.split()


def test_a_refresh_of_a_choice(lab: Lab, believing: Mount) -> None:
    """3.3: of runs by a facet or a search: what came since is among them. 3.6: no contents are dropped with it."""
    project = lab.new_project()
    run_id = lab.new_run({"a": 1}, project=project)
    lab.change_run(run_id, set={"tags": [{"key": "k", "value": "v"}]})
    for place in (f"projects/{project}/by/tag/k/v", f"search/project:{project} tag:k=v"):
        path = believing.path(place)
        assert f"~{run_id}" in believing.sh('ls "$1"', path).ok().text
        believing.sh('cat "$1"/*~*/a', path).ok()
        another = lab.new_run({"a": 1}, project=project)
        lab.change_run(another, set={"tags": [{"key": "k", "value": "v"}]})
        assert f"~{another}" not in believing.sh('ls "$1"', path).ok().text
        believing.shell.cli("refresh", "--contents", path).ok()
        lab.reset()
        assert f"~{another}" in believing.sh('ls "$1"', path).ok().text
        believing.sh('cat "$1"/*~"$2"/a', path, run_id).ok()
        assert "content" not in lab.requests()


def test_a_refresh_of_what_a_run_is(lab: Lab, believing: Mount) -> None:
    """3.3: a run that was changed, deleted, or that only came: the look after a refresh knows."""
    run_id = lab.new_run(FILES, updated_at="2026-01-01T00:00:00Z")
    coming = run_id + 500_000
    stamp = 'stat -c %Y "$1"'
    before = int(believing.sh(stamp, believing.path("runs", run_id)).ok().text)
    assert believing.error_of("runs", coming) == errno.ENOENT
    lab.change_run(run_id, set={"updated_at": "2026-01-02T00:00:00Z"})
    lab.files(coming, add={"x": 1})
    refresh(believing, "runs", run_id)
    assert int(believing.sh(stamp, believing.path("runs", run_id)).ok().text) == before + 86400
    refresh(believing, "runs", coming)
    assert believing.error_of("runs", coming) == 0
    lab.change_run(run_id, delete=True)
    refresh(believing, "runs", run_id)
    assert believing.error_of("runs", run_id) == errno.ENOENT


def test_sighup_is_a_refresh_of_all(lab: Lab, believing: Mount) -> None:
    """3.3: SIGHUP to a mount in the background does what a refresh of the mount does, for the kernel's names, too."""
    run_id = lab.new_run(FILES)
    look_at_all(believing, run_id)
    change(lab, run_id)
    os.kill(believing.pid, signal.SIGHUP)
    wait_until(lambda: believing.log.has("SIGHUP: refreshed"), "the signal's line in the log")
    shows_it_all(believing, lab, run_id)


def test_a_slow_service_is_waited_for_after_a_refresh(lab: Lab, believing: Mount) -> None:
    """3.3: who asked for what is there now gets it from a service that takes two seconds, not what was there before."""
    run_id = lab.new_run(FILES)
    look_at_all(believing, run_id)
    change(lab, run_id)
    lab.fault("any", {"delay_s": 1.2})
    refresh(believing, "runs", run_id)
    assert names(believing, run_id) == AFTER[0]


def test_a_refresh_while_the_service_stalls(lab: Lab, mounting: Mounting) -> None:
    """3.3, 3.2: a refresh returns while the service stalls; what is known is served, and the new once it answers."""
    mounted = mounting(*LONG, "--deadline", "3s", "--prefetch", "off")
    mounted.log.announce("not answer|no answer within")
    run_id = lab.new_run(FILES)
    look_at_all(mounted, run_id)
    lab.fault("any", {"stall": True})
    change(lab, run_id)
    refresh(mounted, "runs", run_id)
    assert names(mounted, run_id) == ["a.txt", "gone.txt", "old.txt", "sub"]
    lab.faults()
    wait_until(lambda: names(mounted, run_id) == AFTER[0], "the new names")


@pytest.fixture
def old_kernel(shell: Shell) -> Shell:
    """Mounts of a kernel without epochs (before Linux 6.16), as far as they can tell."""
    shell.program = (sys.executable, "-m", "tests.launch", "old-kernel")
    shell.more_env |= {"PYTHONPATH": CHECKOUT}
    return shell


@pytest.mark.parametrize("where", ["", "runs", "runs/{run}"])
def test_a_refresh_with_an_older_kernel(where: str, lab: Lab, old_kernel: Shell) -> None:
    """3.3, 3.4: where the kernel can only drop names one by one, a refresh shows the same."""
    mounted = old_kernel.mount(*LONG)
    run_id = lab.new_run(FILES)
    look_at_all(mounted, run_id)
    change(lab, run_id)
    refresh(mounted, *filter(None, where.format(run=run_id).split("/")))
    shows_it_all(mounted, lab, run_id)


def test_an_older_kernel_that_waits(lab: Lab, old_kernel: Shell) -> None:
    """3.4, 5.6: a refresh of a directory that a process waits in does not stop the loop, and the mount ends in time."""
    mounted = old_kernel.mount("--deadline", "20s")
    run_id = lab.new_run(FILES)
    mounted.sh('stat "$M/runs/$1"', run_id).ok()
    lab.fault("run", {"stall": True})
    mounted.log.announce("no longer answers|not answer|no answer within", optional=True)
    with start_process(["stat", mounted.path("runs", run_id + 400_000)]):
        wait_until(lambda: lab.requests().get("run", 0) > 0, "the lookup that waits")
        done = mounted.shell.cli("refresh", mounted.path("runs", run_id))
        assert done.code == 0
        assert "old names" in done.err
        assert mounted.sh('cat "$M/.artifactfs/status.json"', limit_s=5.0).code == 0
        mounted.umount()
