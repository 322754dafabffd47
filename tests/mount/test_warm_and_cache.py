"""`artifactfs warm` and `artifactfs cache`: filling, looking at, checking and emptying the cache of contents."""

import glob
import os
import re
import signal
import time
from pathlib import Path

import pytest

from artifactfs.content import cache_dir
from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from artifactfs.metadata.metadata_store import MetadataStore, Record
from tests.harness import END_S, Lab, Shell, wait_until

DOWNLOADED = 29 << 20  # about what run 70158 holds


def blocks_of(shell: Shell) -> list[str]:
    """Return the block files of a shell's cache, largest first."""
    found = glob.glob(os.path.join(shell.path("cache"), "artifactfs", "blocks-1", "*", "*", "*"))
    return sorted(found, key=os.path.getsize, reverse=True)


def test_warm_fetches_what_is_then_read_without_a_request(lab: Lab, shell: Shell) -> None:
    """4.3: what `warm` fetched costs no content request, also of another mount."""
    mounted = shell.mount()
    done = shell.cli("warm", mounted.path("runs", sample.RUN)).ok()
    assert done.out == b"19 files, 29.6 MiB\n"
    mounted.umount()
    shell.mount()
    mounted.sh('find "$M/runs/$1" -type f -exec cat {} + | wc -c', sample.RUN).ok()
    assert "content" not in lab.stats()["requests"]


def test_a_dry_run_says_what_it_would_cost(lab: Lab, shell: Shell) -> None:
    """4.5: `warm --dry-run` lists and fetches nothing."""
    mounted = shell.mount()
    done = shell.cli("warm", "--dry-run", mounted.path("runs", sample.RUN, "lora_model")).ok()
    assert done.out.startswith(b"19 files in 2 directories, 29.6 MiB;")
    assert "content" not in lab.stats()["requests"]


@pytest.mark.parametrize(
    ("size", "code", "said"),
    [
        ("8MiB", ExitCode.INCOMPLETE, "this is 29.6 MiB, and the cache or its disk has room for "),
        ("0", ExitCode.CACHE_REFUSED, "this mount has no cache on disk; "),
    ],
)
def test_warm_of_what_does_not_fit(size: str, code: ExitCode, said: str, lab: Lab, shell: Shell) -> None:
    """5.8: what the cache cannot hold is not fetched in vain, and `warm` says so; a dry run, too."""
    run = shell.mount("--cache-size", size).path("runs", sample.RUN)
    for options in ([], ["--dry-run"]):
        done = shell.cli("warm", *options, run)
        assert (done.code, done.err.count("\n")) == (code, 1)
        assert said in done.err
    assert "content" not in lab.requests()


def test_warm_ends_only_when_the_disk_has_all(lab: Lab, shell: Shell) -> None:
    """4.3: what memory or the kernel had of a run is saved, too: where that fails, the exit code says so."""
    mounted = shell.mount()
    run = mounted.path("runs", sample.RUN)
    mounted.sh('cat "$1"/lora_model/*.json >/dev/null', run).ok()
    for block in blocks_of(shell):
        os.unlink(block)
    shell.cli("warm", run).ok()
    assert sum(map(os.path.getsize, blocks_of(shell))) > DOWNLOADED


def test_warm_names_what_it_could_not_read(lab: Lab, shell: Shell) -> None:
    """5.3: a file that fails (it is listed, so it is not gone) is named in one line, and the others are fetched."""
    mounted = shell.mount()
    mounted.log.announce("content of /runs/")
    lab.faults({"match": {"kind": "content", "query_contains": "run_config"}, "then": {"status": 404}})
    done = shell.cli("warm", mounted.path("runs", sample.RUN))
    assert done.code == ExitCode.INCOMPLETE
    assert done.err.count("\n") == 2
    assert "run_config.json: Input/output error" in done.err
    assert lab.stats()["content_bytes"] > DOWNLOADED


def test_warm_of_links_alone(lab: Lab, shell: Shell) -> None:
    """4.5: the links that `warm` finds are not followed, and it says so, with what to type in place of it."""
    mounted = shell.mount()
    project = mounted.path("projects", sample.PROJECT)
    done = shell.cli("warm", project).ok()
    assert f"to runs not followed; name the runs, as in `artifactfs warm {project}/*`\n" in done.err
    assert shell.cli("warm", "--dry-run", mounted.path("runs", sample.RUN)).ok().err == ""


def test_warm_outside_a_mount_is_refused(shell: Shell, tmp_path: os.PathLike[str]) -> None:
    """5.8: what lies in no mount of ours is not read, and the answer is one line."""
    done = shell.cli("warm", os.fspath(tmp_path))
    assert done.code == ExitCode.NOT_MOUNTED
    assert done.err.count("\n") == 1


def test_warm_of_what_is_not_there(lab: Lab, shell: Shell) -> None:
    """5.8: a path that is not there, and a mount that is dead, are one line, as for `info`; one file is one file."""
    mounted = shell.mount()
    done = shell.cli("warm", mounted.path("runs", sample.RUN, "none"))
    assert (done.code, done.err.count("\n")) == (ExitCode.INCOMPLETE, 1)
    assert done.err.startswith("artifactfs: there is no ")
    assert f" in the mount at {mounted.point}; check its number or name; " in done.err
    done = shell.cli("warm", shell.path("none"))
    assert (done.code, done.err.count("\n")) == (ExitCode.NOT_MOUNTED, 1)
    one = mounted.path("runs", sample.RUN, "lora_model", "run_config.json")
    assert shell.cli("warm", one).ok().text.startswith("1 file, ")
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: not shell.processes(), "the end of the process", END_S)
    for path in (one, mounted.point):
        done = shell.cli("warm", path)
        assert (done.code, done.err.count("\n")) == (ExitCode.NO_ANSWER, 1), done.err
        assert "is gone; `artifactfs umount` it and mount again" in done.err
    shell.cli("umount", mounted.point).ok()


def test_warm_of_several_paths_of_which_some_fail(lab: Lab, shell: Shell) -> None:
    """5.8: as with cp and rsync, the others are fetched, each that fails is a line, and the exit code says it."""
    mounted = shell.mount()
    run_id = lab.new_run()
    gone, good = mounted.path("runs", run_id, "none"), mounted.path("runs", run_id)
    done = shell.cli("warm", shell.path("none"), good, gone)
    assert (done.code, done.text, done.err.count("\n")) == (ExitCode.INCOMPLETE, "2 files, 30 B\n", 2), done.err
    said = done.err.splitlines()
    assert (shell.path("none") in said[0], gone in said[1]) == (True, True)
    lab.reset()
    mounted.sh('cat "$M/runs/$1/a.txt" "$M/runs/$1/sub/b.bin"', run_id).ok()
    assert "content" not in lab.requests()
    done = shell.cli("warm", "-n", gone, gone)
    assert (done.code, done.out, done.err.count("\n")) == (ExitCode.INCOMPLETE, b"", 1)


def test_warm_ends_with_ctrl_c_and_goes_on_where_it_was(lab: Lab, shell: Shell) -> None:
    """4.3: interrupted, `warm` ends at once; called again, it fetches no byte twice."""
    mounted = shell.mount()
    run_id = lab.new_run({"big.bin": 64 << 20})
    lab.switch(bytes_per_s=2e6)
    with shell.background("warm", mounted.path("runs", run_id)) as process:
        wait_until(lambda: lab.stats()["content_bytes"] > 0, "some content")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=END_S)
        assert process.returncode == 130
        assert b"Traceback" not in err
    lab.switch(bytes_per_s=0)
    shell.cli("warm", mounted.path("runs", run_id)).ok()
    # What was under way when it stopped is not kept: some pieces of a few MiB.
    assert lab.stats()["content_bytes"] < (64 << 20) * 1.6


def test_cache_info_verify_and_clear(shell: Shell) -> None:
    """4.4: `cache` says what there is, finds what is damaged, and empties; a mount in use goes on."""
    mounted = shell.mount()
    shell.cli("warm", mounted.path("runs", sample.RUN)).ok()
    wait_until(lambda: sum(map(os.path.getsize, blocks_of(shell))) > DOWNLOADED, "the blocks on the disk")
    info = shell.cli("cache", "info").ok().text
    assert f"directory  {shell.path('cache')}/artifactfs\n" in info
    assert "of 19 files\n" in info
    # A block by itself: a damaged group goes as a whole.
    with open(next(path for path in blocks_of(shell) if not path.endswith("-group")), "r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    assert "1 were damaged" in shell.cli("cache", "verify").ok().text
    assert "0 were damaged" in shell.cli("cache", "verify").ok().text
    assert shell.cli("cache", "clear").ok().text.startswith("deleted 29")
    assert not blocks_of(shell)
    assert mounted.sh('cat "$M/runs/$1/lora_model/README.md" | wc -c', sample.RUN).text == "1389\n"


def metadata_of(shell: Shell) -> Path:
    """Make metadata of three runs in a shell's cache, the oldest of two days ago; returns the database."""
    directory = os.path.join(shell.path("cache"), "artifactfs")
    cache_dir.claim(directory)
    store = MetadataStore(directory, max_bytes=64 << 20)
    assert store.open()
    scope = store.scope("https://api.datadoghq.com", "me")
    for run_id in (1, 2, 3):
        assert store.write(scope, [Record("listing", run_id, b"", b"kept" * 2500, time.time() - 2 * 86400)])
    store.close()
    return Path(store.path)


def test_cache_info_verify_and_clear_metadata(shell: Shell) -> None:
    """8.9: the `cache` commands show, check and empty the metadata as they do the blocks."""
    database = metadata_of(shell)
    info = shell.cli("cache", "info").ok().text
    assert re.search(
        r"^metadata   [0-9]+ KiB of 256 MiB: 3 records of 3 runs, the oldest 2 d 0 h old$", info, re.MULTILINE
    )
    assert "\nmetadata   turned off\n" in shell.cli("cache", "info", env={"ARTIFACTFS_METADATA_SIZE": "0"}).ok().text
    content = bytearray(database.read_bytes())
    content[content.index(b"keptkept")] ^= 1
    database.write_bytes(content)
    verified = shell.cli("cache", "verify").ok()
    assert (verified.text.splitlines()[1], verified.err) == ("metadata: 2 records intact, 1 damaged and deleted", "")
    assert "metadata: 2 records intact, 0 damaged and deleted\n" in shell.cli("cache", "verify").ok().text
    cleared = shell.cli("cache", "clear").ok().text
    assert re.fullmatch(r"deleted 0 B in 0 blocks\ndeleted [0-9]+ KiB of metadata\n", cleared)
    assert ": 0 records of 0 runs\n" in shell.cli("cache", "info").ok().text
    assert b"keptkept" not in database.read_bytes()


def test_cache_commands_with_damaged_metadata(shell: Shell) -> None:
    """8.9: a database that is none is deleted, and the command says so; a directory in its place is named."""
    database = metadata_of(shell)
    database.write_bytes(b"garbage" * 10_000)
    done = shell.cli("cache", "verify").ok()
    assert (done.text.splitlines()[1], done.err) == ("metadata: the database was damaged, and is deleted", "")
    database.unlink()
    database.mkdir()
    fact = f"{database} is no file of yours; delete it with `rm -r {database}`"
    assert f"metadata   not usable: {fact}\n" in shell.cli("cache", "info").ok().text
    verified = shell.cli("cache", "verify")
    assert verified.code == ExitCode.INCOMPLETE
    assert f"metadata: not usable: {fact}\n" in verified.text
    done = shell.cli("cache", "clear")
    assert (done.code, done.err) == (
        ExitCode.INCOMPLETE,
        f"artifactfs: the metadata could not be deleted: {fact}\n",
    )


def test_cache_commands_without_a_cache(shell: Shell) -> None:
    """4.4: where nothing was cached yet, each command says so and makes no trouble."""
    info = shell.cli("cache", "info").ok().text
    assert "cache/artifactfs (does not exist yet: the first mount makes it)\n" in info
    assert "holds      0 B in 0 blocks of 0 files" in info
    assert "\nmetadata   none yet\n" in info
    assert "0 were damaged" in shell.cli("cache", "verify").ok().text
    assert "deleted 0 B" in shell.cli("cache", "clear").ok().text


def test_a_demo_that_fails_leaves_no_directory(shell: Shell) -> None:
    """5.8: a demo that is refused takes away the mount point that it made."""
    point = shell.path("new")
    done = shell.cli("demo", "--log-file", "/proc/nothing/log", point)
    assert done.code == ExitCode.NOT_WRITABLE
    assert not os.path.exists(point)
