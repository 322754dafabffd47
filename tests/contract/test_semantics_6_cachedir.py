"""6.2, 4.4: which directory is a cache; every other is left as it is, by mounts and by commands."""

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from tests.contract.reading import read
from tests.contract.test_semantics_4_cache import MIB, blocks_in, cached_bytes, kept_bytes, settled_run
from tests.fixtures import User
from tests.harness import Lab, Mount, Shell, mount_type, needs_root, run, wait_until

SIZE = (3 << 20) + 77
TAG = "CACHEDIR.TAG"


def seen(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return modes, owners and sizes of a directory and all that is in it."""
    found = {}
    for each in [path, *path.rglob("*")]:
        status = each.lstat()
        found[str(each.relative_to(path))] = (status.st_mode, status.st_uid, status.st_size if each.is_file() else 0)
    return found


def refused_line(shell: Shell, lab: Lab, cache: Path, *commands: str) -> str:
    """See that a mount with a cache directory is refused in one line, and so are `cache` COMMANDS. Returns the line."""
    before = seen(cache)
    mounted = shell.expected_mount()
    done = shell.cli("mount", "--api-url", lab.url, "--cache-dir", str(cache), mounted.point)
    assert done.code == ExitCode.CACHE_REFUSED, done.err
    assert done.err.count("\n") == 1
    assert str(cache) in done.err
    assert mount_type(mounted.point) is None
    for command in commands:
        again = shell.cli("cache", command, "--cache-dir", str(cache))
        assert (again.code, again.err) == (ExitCode.CACHE_REFUSED, done.err)
    assert seen(cache) == before
    return done.err


def proposed(line: str) -> str:
    """Return the directory that a refusal proposes."""
    words = shlex.split(line.partition(", as in ")[2])
    assert words[0] == "--cache-dir"
    return words[1]


def fill(shell: Shell, lab: Lab, *options: str) -> Mount:
    """Mount, and read a file whole. Returns the mount."""
    run_id = settled_run(lab, {"a.bin": SIZE})
    mounted = shell.mount(*options)
    assert read(mounted, "whole", "runs", run_id, "a.bin") == lab.sha256(run_id, "a.bin")
    return mounted


# Every kind of directory that is none: tests/unit/test_cache_dir.py and test_cache_dir_links.py.
@pytest.mark.parametrize(("mode", "names"), [(0o1777, []), (0o777, ["theirs.txt"])], ids=str)
def test_a_shared_directory_stays_shared(lab: Lab, shell: Shell, tmp_path: Path, mode: int, names: list[str]) -> None:
    """6.2: `--cache-dir` of a directory that others write to is refused and keeps its mode; what is proposed works."""
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in names:
        (shared / name).touch()
    shared.chmod(mode)
    proposal = proposed(refused_line(shell, lab, shared, "info"))
    assert os.path.dirname(proposal) == str(shared)
    fill(shell, lab, "--cache-dir", proposal).umount()
    assert cached_bytes(proposal) >= SIZE
    assert stat.S_IMODE(shared.stat().st_mode) == mode
    assert stat.S_IMODE(os.stat(proposal).st_mode) == 0o700


def test_a_directory_of_ones_own_files(lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """6.2: a directory of the user's own that holds anything else is refused, and nothing of it is touched."""
    documents = tmp_path / "Documents"
    (documents / "blocks-1" / "mine").mkdir(parents=True)
    for name in ("thesis.tex", TAG, "blocks-1/mine/a.txt", "blocks-1/usage"):
        (documents / name).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# of another program\n")
    documents.chmod(0o755)
    refused_line(shell, lab, documents, "info", "verify", "clear")


@needs_root
def test_a_shared_directory_of_root_for_a_user(lab: Lab, user_shell: Shell, tmp_path: Path) -> None:
    """6.2: for an ordinary user /tmp belongs to another; a directory of the user's own in it is proposed, and works."""
    shared = Path(user_shell.directory) / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    proposal = proposed(refused_line(user_shell, lab, shared))
    fill(user_shell, lab, "--cache-dir", proposal).umount()
    assert cached_bytes(proposal) >= SIZE
    assert os.stat(proposal).st_uid == user_shell.owner
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


@needs_root
def test_a_users_directory_for_root(lab: Lab, shell: Shell, tmp_path: Path, user: User) -> None:
    """6.2: root, too, leaves a directory of another user alone, and goes behind none of that user's links."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    assert user.owner is not None
    os.chown(theirs, user.owner, user.owner)
    refused_line(shell, lab, theirs)
    etc = tmp_path / "etc"
    etc.mkdir()
    (tmp_path / "trap").symlink_to(etc)
    os.chown(tmp_path / "trap", user.owner, user.owner, follow_symlinks=False)
    refused_line(shell, lab, tmp_path / "trap")
    assert os.listdir(etc) == []


@pytest.mark.parametrize(("mode", "names"), [(0o700, []), (0o755, ["lost+found"])], ids=str)
def test_an_empty_directory_becomes_a_cache(
    lab: Lab, shell: Shell, tmp_path: Path, mode: int, names: list[str]
) -> None:
    """6.2: an empty directory of the user's own is closed, marked, and stays a cache whatever comes to lie in it."""
    cache = tmp_path / "my cache"
    cache.mkdir()
    for name in names:
        (cache / name).mkdir()
    cache.chmod(mode)
    fill(shell, lab, "--cache-dir", str(cache)).umount()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert (cache / TAG).read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    (cache / "note.txt").write_text("mine")
    fill(shell, lab, "--cache-dir", str(cache)).umount()
    assert cached_bytes(str(cache)) >= 2 * SIZE
    shell.cli("cache", "clear", "--cache-dir", str(cache)).ok()
    assert blocks_in(str(cache)) == []
    assert (cache / "note.txt").read_text() == "mine"


def test_a_cache_of_an_earlier_version(lab: Lab, shell: Shell) -> None:
    """6.2, 4.3: what earlier versions cached, in a directory without a mark, is found and used, and then marked."""
    run_id = settled_run(lab, {"a.bin": SIZE})
    mounted = shell.mount()
    read(mounted, "whole", "runs", run_id, "a.bin")
    mounted.umount()
    mark = Path(shell.path("cache"), "artifactfs", TAG)
    mark.unlink()
    assert "1 file" in shell.cli("cache", "info").ok().text
    assert not mark.exists()
    mounted = shell.mount()
    assert read(mounted, "whole", "runs", run_id, "a.bin") == lab.sha256(run_id, "a.bin")
    assert "content" not in lab.requests()
    assert mark.exists()


def test_a_link_of_ones_own_leads_to_the_cache(lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """6.2: a symbolic link to a directory of the user's own is a cache directory like any."""
    target = tmp_path / "disk" / "cache"
    target.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(target)
    fill(shell, lab, "--cache-dir", str(link)).umount()
    assert cached_bytes(str(target)) >= SIZE
    assert "1 file" in shell.cli("cache", "info", "--cache-dir", str(link)).ok().text
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("place", "way"),
    [("the cache", "moved"), ("the tree", "deleted"), ("a directory", "moved"), ("a block", "deleted")],
)
def test_a_link_that_appears_under_a_mount(place: str, way: str, lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """6.2, 4.4: a link that takes the place of a part of a cache in use is not followed, and no read fails."""
    files = {f"{name}.bin": SIZE for name in "abc"}
    run_id = settled_run(lab, files)
    mounted = shell.mount("--cache-size", "24MiB")
    mounted.log.announce("the cache", optional=True)
    cache = Path(shell.path("cache"), "artifactfs")
    read(mounted, "whole", "runs", run_id, "a.bin")
    wait_until(lambda: kept_bytes(str(cache)) >= SIZE, "the blocks of a.bin")
    # The victim has whatever would be looked for in it.
    victim = tmp_path / "victim"
    shutil.copytree(cache, victim)
    for each in [*(cache / "blocks-1").iterdir()]:
        if each.is_dir():
            shutil.copytree(each, victim, dirs_exist_ok=True)
    before = seen(victim)
    block = Path(blocks_in(str(cache))[0])
    tree = cache / "blocks-1"
    at = {"the cache": cache, "the tree": tree, "a directory": block.parent.parent, "a block": block}[place]
    if way == "moved":
        at.rename(tmp_path / "moved")
    else:
        run("rm", "-r", str(at)).ok()
    at.symlink_to(next(iter(victim.rglob(block.name))) if place == "a block" else victim)
    for name in files:
        assert read(mounted, "backwards", "runs", run_id, name) == lab.sha256(run_id, name)
    # Enough to have all that is kept evicted.
    more = settled_run(lab, {"large.bin": 40 * MIB})
    assert read(mounted, "whole", "runs", more, "large.bin") == lab.sha256(more, "large.bin")
    mounted.umount()
    shell.cli("cache", "verify")
    shell.cli("cache", "clear")
    assert seen(victim) == before if place != "the cache" else (victim / "blocks-1").exists()


@pytest.mark.parametrize("wiped", ["all", "inside", "the tree", "the mark"])
def test_wiped_in_use_it_is_made_again(wiped: str, lab: Lab, shell: Shell) -> None:
    """4.4, 6.2: a cache that is wiped under a mount, in whole or in part, is made again, 0700 and marked."""
    run_id = settled_run(lab, {f"{name}.bin": SIZE for name in "ab"})
    mounted = shell.mount()
    cache = Path(shell.path("cache"), "artifactfs")
    read(mounted, "whole", "runs", run_id, "a.bin")
    wait_until(lambda: kept_bytes(str(cache)) >= SIZE, "the blocks of a.bin")
    paths = {"all": [cache], "inside": [*cache.iterdir()], "the tree": [cache / "blocks-1"], "the mark": [cache / TAG]}
    run("rm", "-r", *map(str, paths[wiped])).ok()
    assert read(mounted, "whole", "runs", run_id, "b.bin") == lab.sha256(run_id, "b.bin")
    wait_until(lambda: kept_bytes(str(cache)) >= SIZE, "the blocks of b.bin")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    mounted.umount()
    shell.mount().umount()
    assert (cache / TAG).exists()


def test_many_mounts_begin_at_once(lab: Lab, shell: Shell) -> None:
    """6.2: eight mounts that begin at once with a new cache directory all have it for theirs."""
    mounts = [shell.expected_mount(f"mnt{number}") for number in range(8)]
    cache = shell.path("new/cache")
    command = [*shell.program, "mount", "--api-url", lab.url, "--cache-dir", cache, "--log-file"]
    started = [
        subprocess.Popen([*command, each.log_file, each.point], env=shell.env, stderr=subprocess.PIPE)
        for each in mounts
    ]
    for process in started:
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    run_id = settled_run(lab, {"a.bin": SIZE})
    lab.reset()
    for each in mounts[:3]:
        assert read(each, "whole", "runs", run_id, "a.bin") == lab.sha256(run_id, "a.bin")
        wait_until(lambda: kept_bytes(cache) >= SIZE, "the blocks of a.bin")
    assert lab.stats()["content_bytes"] <= SIZE * 1.2
