"""Section 2 of the contract: attributes, versions and inode numbers, through a real mount."""

import errno
import os
import stat
import tarfile
import time
from datetime import datetime
from pathlib import Path

import pytest

from artifactfs.emulator import sample
from tests.contract.reading import read
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, Seen, Shell, holding, wait_until

AT_ONCE = ("--listing-ttl", "0", "--finished-ttl", "0", "--negative-ttl", "0")


def ns(timestamp: str) -> int:
    """Return nanoseconds since the epoch of an RFC 3339 time with at most six digits."""
    when = datetime.fromisoformat(timestamp)
    return int(when.replace(microsecond=0).timestamp()) * 10**9 + when.microsecond * 1000


def look(mounted: Mount, *parts: object) -> dict[str, int]:
    """Return every number that `lstat` of a path tells."""
    code = (
        "import json, os, sys\n"
        "s = os.lstat(sys.argv[2])\n"
        "print(json.dumps({n: getattr(s, n) for n in dir(s) if n.startswith('st_') and type(getattr(s, n)) is int}))"
    )
    found: dict[str, int] = mounted.python(code, mounted.path(*parts))
    return found


def test_kinds_and_permissions(standing: Mount) -> None:
    """2.1: a directory is 0755 with one link, a file 0644."""
    for seen in standing.walk("runs", sample.RUN).values():
        assert oct(seen.mode) == oct(stat.S_IFDIR | 0o755 if seen.is_dir else stat.S_IFREG | 0o644)
        assert seen.links == 1
    for place in ("", "runs", f"runs/{sample.RUN}"):
        assert look(standing, place)["st_mode"] == stat.S_IFDIR | 0o755
        assert look(standing, place)["st_nlink"] == 1


def test_everything_belongs_to_the_mounting_user(lab: Lab, standing: Mount) -> None:
    """2.1: uid and gid are those of the user who mounts."""
    for place in ("", "runs", f"runs/{sample.RUN}", f"runs/{sample.RUN}/lora_model/README.md"):
        told = look(standing, place)
        assert (told["st_uid"], told["st_gid"]) == (os.geteuid(), os.getegid())


def test_umask_uid_and_gid(mounting: Mounting) -> None:
    """2.1: modes, `umask`, `uid` and `gid` change what is shown, by flag and by -o."""
    mounted = mounting("--umask", "027", "--dir-mode", "775", "-o", "uid=1234,gid=2345,file_mode=0664")
    directory, file = look(mounted, "runs", sample.RUN), look(mounted, "runs", sample.RUN, "lora_model", "README.md")

    assert stat.S_IMODE(directory["st_mode"]) == 0o750
    assert stat.S_IMODE(file["st_mode"]) == 0o640
    assert {(told["st_uid"], told["st_gid"]) for told in (directory, file)} == {(1234, 2345)}


@pytest.mark.parametrize(("options", "mode"), [((), 0o640), (("--allow-other",), 0o604)], ids=["own", "shared"])
def test_copies_of_files_without_a_size(
    options: tuple[str, ...], mode: int, lab: Lab, mounting: Mounting, tmp_path: Path
) -> None:
    """2.1, 2.2: what marks a file without a size does not come along with the copies that docs/using.md names.

    Only a body that a lookup does not read to its end, and whose length no answer tells, is shown without a size.
    """
    lab.switch(size_form="absent", index="404", ranges="ignored", length="chunked")
    mounted = mounting(*options)
    size = 80 << 20
    run_id = lab.new_run({"cp/a.bin": size, "tar/b.bin": size})
    for name in ("cp/a.bin", "tar/b.bin"):
        shown = look(mounted, "runs", run_id, name)
        assert (shown["st_size"], stat.S_IMODE(shown["st_mode"])) == (0, mode)
    mounted.sh('cp -a --no-preserve=ownership "$M/runs/$1/cp" "$2/cp"', run_id, tmp_path).ok()
    mounted.sh('tar -C "$M/runs/$1/tar" -cf "$2/tar" .', run_id, tmp_path).ok()
    with tarfile.open(tmp_path / "tar") as archive:
        packed = archive.getmember("./b.bin")
    assert (packed.size, packed.mode, packed.gid) == (size, 0o644, os.getegid())
    copied = (tmp_path / "cp" / "a.bin").stat()
    assert (copied.st_size, stat.S_IMODE(copied.st_mode), copied.st_gid) == (size, 0o644, os.getegid())


def test_blocks_are_the_size_rounded_up(lab: Lab, standing: Mount) -> None:
    """2.2: st_size is `file_size`, st_blocks is it rounded up to 512."""
    sizes = {f"s{size}": size for size in (0, 1, 511, 512, 513, 1024, 2**31, 2**40 + 1, 2**62)}
    run_id = lab.new_run(sizes)

    found = standing.walk("runs", run_id)
    assert {name.decode(): seen.size for name, seen in found.items()} == sizes
    assert all(seen.blocks == (seen.size + 511) // 512 for seen in found.values())


def test_a_files_time_is_the_runs_end(lab: Lab, standing: Mount) -> None:
    """2.3: mtime is the run's `completed_at`, to the microsecond, and atime and ctime are the same."""
    run_id = lab.new_run(completed_at="2025-01-02T03:04:05.678901Z", created_at="2025-01-01T00:00:00Z")

    for path in ("a.txt", "sub", "sub/b.bin"):
        told = look(standing, "runs", run_id, path)
        times = {told["st_mtime_ns"], told["st_atime_ns"], told["st_ctime_ns"]}
        assert times == {ns("2025-01-02T03:04:05.678901Z")}


def test_a_file_of_a_run_that_goes_on_has_its_beginning(lab: Lab, standing: Mount) -> None:
    """2.3: without a `completed_at`, mtime is the run's `created_at`."""
    run_id = lab.new_run(status="running", created_at="2025-01-01T00:00:00.5Z")

    assert look(standing, "runs", run_id, "a.txt")["st_mtime_ns"] == ns("2025-01-01T00:00:00.5Z")


def test_a_runs_directory_has_its_last_update(lab: Lab, standing: Mount) -> None:
    """2.3: a run's directory has its `updated_at`, looked up by name and listed in /runs alike."""
    run_id = lab.new_run(updated_at="2099-02-03T04:05:06.000007Z")

    assert look(standing, "runs", run_id)["st_mtime_ns"] == ns("2099-02-03T04:05:06.000007Z")
    listed = standing.python(
        "import os, sys\n"
        "print([e.stat().st_mtime_ns for e in os.scandir(sys.argv[1] + '/runs') if e.name == sys.argv[2]][0])",
        run_id,
    )
    assert listed == ns("2099-02-03T04:05:06.000007Z")


def test_directories_of_ours_have_the_time_of_the_mount(mounting: Mounting) -> None:
    """2.3: the directories that are ours have the time of the mount."""
    before = time.time_ns()
    mounted = mounting()
    after = time.time_ns()

    for place in ("", "runs"):
        assert before <= look(mounted, place)["st_mtime_ns"] <= after


def test_a_run_that_ends(lab: Lab, mounting_patiently: Mounting) -> None:
    """2.3: without an index all files of a run that ends show the time of its end: those seen before, and new ones."""
    run_id = lab.new_run(status="running", created_at="2025-01-01T00:00:00Z")
    mounted = mounting_patiently(*AT_ONCE, "--prefetch", "off")
    first = look(mounted, "runs", run_id, "a.txt")
    assert first["st_mtime_ns"] == ns("2025-01-01T00:00:00Z")
    lab.change_run(run_id, set={"status": "completed", "completed_at": "2025-06-01T00:00:00Z"})
    lab.files(run_id, add={"new.txt": 5})

    ended = ns("2025-06-01T00:00:00Z")
    assert look(mounted, "runs", run_id, "new.txt")["st_mtime_ns"] == ended
    again = look(mounted, "runs", run_id, "a.txt")
    assert (again["st_ino"], again["st_mtime_ns"]) == (first["st_ino"], ended)


def test_a_runs_time_is_no_part_of_a_version(lab: Lab, mounting_patiently: Mounting) -> None:
    """2.4: a run that is updated leaves the inodes of its files and directories as they were."""
    run_id = lab.new_run()
    mounted = mounting_patiently(*AT_ONCE)
    before = {path: seen.inode for path, seen in mounted.walk("runs", run_id).items()}
    run_before = look(mounted, "runs", run_id)
    lab.change_run(run_id, set={"updated_at": "2025-06-01T00:00:00Z", "completed_at": "2025-06-01T00:00:00Z"})

    assert {path: seen.inode for path, seen in mounted.walk("runs", run_id).items()} == before
    run_after = look(mounted, "runs", run_id)
    assert run_after["st_ino"] == run_before["st_ino"]
    assert run_after["st_mtime_ns"] == ns("2025-06-01T00:00:00Z")


def test_a_changed_file_is_a_new_inode(lab: Lab, mounting_patiently: Mounting) -> None:
    """2.4: a file whose size shrank is another inode with the new size; its neighbours stay what they were."""
    run_id = lab.new_run({"changes": 10, "stays": 20})
    mounted = mounting_patiently(*AT_ONCE)
    changes, stays = look(mounted, "runs", run_id, "changes"), look(mounted, "runs", run_id, "stays")
    lab.files(run_id, change={"changes": {"size": 9}})

    changed = look(mounted, "runs", run_id, "changes")
    assert changed["st_size"] == 9
    assert changed["st_ino"] != changes["st_ino"]
    assert look(mounted, "runs", run_id, "stays") == stays


@pytest.mark.parametrize(("change", "same"), [("append", True), ("replace", False)])
def test_a_larger_file_is_compared_with_what_was_read(
    change: str, same: bool, lab: Lab, mounting_patiently: Mounting
) -> None:
    """2.4: once a larger file is opened, it is the same inode if it was appended to, and a new one if replaced."""
    run_id = lab.new_run({"log.txt": 1000})
    mounted = mounting_patiently(*AT_ONCE)
    assert read(mounted, "whole", "runs", run_id, "log.txt") == lab.sha256(run_id, "log.txt")
    before = look(mounted, "runs", run_id, "log.txt")
    if change == "append":
        lab.files(run_id, append={"log.txt": 500})
    else:
        lab.files(run_id, change={"log.txt": {"size": 1500}})

    assert read(mounted, "whole", "runs", run_id, "log.txt") == lab.sha256(run_id, "log.txt")
    after = look(mounted, "runs", run_id, "log.txt")
    assert after["st_size"] == 1500
    assert (after["st_ino"] == before["st_ino"]) is same


def test_a_file_that_becomes_a_directory_is_a_new_inode(lab: Lab, mounting_patiently: Mounting) -> None:
    """2.4: the kind is part of what an inode number stands for: a file that becomes a directory, and back, shows."""
    run_id = lab.new_run({"thing": 10})
    mounted = mounting_patiently(*AT_ONCE)
    as_file = look(mounted, "runs", run_id, "thing")
    lab.files(run_id, remove=["thing"])
    lab.files(run_id, add={"thing/inside": 5})
    as_directory = look(mounted, "runs", run_id, "thing")
    lab.files(run_id, remove=["thing"])
    lab.files(run_id, add={"thing": 10})

    assert stat.S_ISDIR(as_directory["st_mode"])
    assert as_directory["st_ino"] != as_file["st_ino"]
    assert look(mounted, "runs", run_id, "thing")["st_ino"] == as_file["st_ino"]


def test_a_directory_keeps_its_inode_when_its_contents_change(lab: Lab, mounting_patiently: Mounting) -> None:
    """2.4: what changes in a directory does not make it another one: a shell that stands in it sees the change."""
    run_id = lab.new_run()
    mounted = mounting_patiently(*AT_ONCE)
    before = look(mounted, "runs", run_id, "sub")["st_ino"]
    lab.files(run_id, add={"sub/new": 1})

    assert mounted.sh('ls "$M/runs/$1/sub"', run_id).text.split() == ["b.bin", "new"]
    assert look(mounted, "runs", run_id, "sub")["st_ino"] == before


def test_inode_numbers_are_the_same_after_a_remount(lab: Lab, mounting: Mounting) -> None:
    """2.4: the numbers of all places are the same after a remount, whatever order they are met in."""
    first = mounting()
    seen = {run_id: inodes(first.walk("runs", run_id)) for run_id in (sample.RUN, 80002)}
    fixed = [look(first, place)["st_ino"] for place in ("", "runs", f"runs/{sample.RUN}")]
    first.umount()
    second = mounting()

    assert {run_id: inodes(second.walk("runs", run_id)) for run_id in (80002, sample.RUN)} == seen
    assert [look(second, place)["st_ino"] for place in ("", "runs", f"runs/{sample.RUN}")] == fixed


def test_no_two_places_share_a_number(lab: Lab, standing: Mount) -> None:
    """2.4: an inode number is never shared: not by files of one directory, nor by equal paths of two runs."""
    twins = [lab.new_run({"same/name": 5}) for _ in range(2)]
    numbers = [
        number for run_id in (sample.RUN, 80002, 80003, 80012, *twins) for number in
        inodes(standing.walk("runs", run_id)).values()
    ]  # fmt: skip
    numbers += [look(standing, place)["st_ino"] for place in ("", "runs", f"runs/{sample.RUN}")]

    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 2**63 for number in numbers)


def inodes(found: dict[bytes, Seen]) -> dict[bytes, int]:
    return {path: seen.inode for path, seen in found.items()}


def test_what_is_known_answers_without_the_network(own_lab: Lab, shell: Shell) -> None:
    """2.5: `df`, and getattr of an inode that is known, answer at once while the server is gone."""
    shell.lab = own_lab
    # Attributes that are never trusted: each look at the open directory asks the mount, not the kernel's memory.
    mounted = shell.mount("--listing-ttl", "0", "--finished-ttl", "0")
    code = (
        "import json, os, sys\n"
        "fds = [os.open(sys.argv[1] + p, os.O_RDONLY | os.O_DIRECTORY) for p in sys.argv[2:]]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(json.dumps([[os.fstat(fd).st_ino, os.fstat(fd).st_mode, os.fstatvfs(fd).f_namemax] for fd in fds]))"
    )
    places = ("", "/runs", f"/runs/{sample.RUN}", f"/runs/{sample.RUN}/lora_model")
    with holding(mounted.python_command(code, *places)) as held:
        own_lab.stop()
        out = held.go_on()
    assert out.count(str(stat.S_IFDIR | 0o755).encode()) == len(places)
    mounted.sh('df "$M" && df -i "$M" && stat -f "$M"').ok()


def test_df_says_how_long_a_name_may_be(standing: Mount) -> None:
    """2.5: `statfs` tells the longest name, and asks the server nothing."""
    assert standing.sh('stat -f -c %l "$M"').text == "255\n"


@pytest.mark.parametrize("name", ["a.txt", "sub"])
def test_extended_attributes_are_off(name: str, lab: Lab, standing: Mount) -> None:
    """2.6: extended attributes are not answered unless asked for."""
    run_id = lab.new_run()
    code = "import os, sys\ntry: print(os.listxattr(sys.argv[2]) and 1 or 0)\nexcept OSError as e: print(e.errno)"
    assert standing.python(code, standing.path("runs", run_id, name)) in (0, errno.EOPNOTSUPP)


def test_the_version_shows_after_its_time(lab: Lab, mounting: Mounting) -> None:
    """2.4, 3.4: within a TTL a changed file is the old version, after it the new one."""
    run_id = lab.new_run({"grows": 10})
    mounted = mounting("--listing-ttl", "1s", "--finished-ttl", "1s")
    assert look(mounted, "runs", run_id, "grows")["st_size"] == 10
    lab.files(run_id, change={"grows": {"size": 12}})

    wait_until(lambda: look(mounted, "runs", run_id, "grows")["st_size"] == 12, "the new size", limit_s=4.0)
