"""5.5: where no thread can be had, reading goes on without the disk."""

import os
import resource
from pathlib import Path

from artifactfs.errors import ExitCode
from tests.contract.reading import read
from tests.contract.test_semantics_4_cache import cached_bytes, kept_bytes, settled_run
from tests.harness import CHECKOUT, Lab, Mount, Shell, run, wait_until
from tests.launch import tell

SIZE = (5 << 20) + 123
LACK = "no thread can be had"


def mount(shell: Shell, lab: Lab, *options: str) -> Mount:
    """Mount a lab by a name, which takes a thread to resolve, with threads that end at once."""
    shell.program = (shell.python, "-m", "tests.launch", "hasty-threads")
    shell.more_env.setdefault("PYTHONPATH", CHECKOUT)
    return shell.mount("--api-url", f"http://localhost:{lab.port}", *options)


def warm(shell: Shell, lab: Lab, run_id: int) -> str:
    """Have `kept.bin` in the cache before a mount begins. Returns the cache's directory."""
    mounted = mount(shell, lab)
    cache = os.path.join(shell.path("cache"), "artifactfs")
    read(mounted, "whole", "runs", run_id, "kept.bin")
    mounted.umount()
    assert cached_bytes(cache) > SIZE
    return cache


def check_without_threads(mounted: Mount, lab: Lab, run_id: int) -> None:
    """See that all is read, kept or not, in several ways, that the mount answers, and that it says why once."""
    lab.reset()
    for how in ("whole", "backwards", "mmap"):
        for name in ("kept.bin", f"{how}.bin"):
            assert read(mounted, how, "runs", run_id, name) == lab.sha256(run_id, name), (how, name)
    assert mounted.tree(run_id) == lab.truth(run_id)
    # `kept.bin` was there, and nothing of it could be had.
    assert lab.stats()["content_bytes"] >= 4 * SIZE
    shell = mounted.shell
    shell.cli("info", mounted.path("runs", run_id, "kept.bin")).ok()
    shell.cli("refresh", mounted.path("runs", run_id)).ok()
    assert shell.cli("status", "--json", mounted.point).text
    assert sum(LACK in line for line in mounted.log.lines()) == 1


FILES = {f"{name}.bin": SIZE for name in ("kept", "whole", "backwards", "mmap", "later")}


def test_no_thread_can_be_had(lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """5.5, 4.4, 5.6: without threads every byte is read from the service, nothing hangs or is called a bug, the mount
    ends as always, and with threads it keeps again."""
    said = str(tmp_path / "threads")
    tell(said, "any")
    shell.more_env["TEST_THREADS"] = said
    run_id = settled_run(lab, FILES)
    cache = warm(shell, lab, run_id)
    mounted = mount(shell, lab)
    mounted.log.announce(LACK)
    tell(said, "none")
    check_without_threads(mounted, lab, run_id)
    done = shell.cli("warm", mounted.path("runs", run_id))
    assert (done.code, done.err.count("\n")) == (ExitCode.INCOMPLETE, 1)
    assert "no thread left" in done.err
    before = kept_bytes(cache)
    tell(said, "any")
    assert read(mounted, "whole", "runs", run_id, "later.bin") == lab.sha256(run_id, "later.bin")
    wait_until(lambda: kept_bytes(cache) >= before + SIZE, "the blocks of later.bin")
    tell(said, "none")
    mounted.umount()
    wait_until(lambda: not shell.processes(), "the end of the mount")


def test_a_new_name_without_a_thread(own_lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """5.5: connections that have to be made again find the service's name as it was."""
    said = str(tmp_path / "threads")
    tell(said, "any")
    shell.more_env["TEST_THREADS"] = said
    shell.lab = own_lab
    run_id = settled_run(own_lab, {"a.bin": SIZE})
    mounted = mount(shell, own_lab)
    mounted.log.announce(LACK)
    mounted.log.announce("refuses connections|was lost|cannot reach", optional=True)
    tell(said, "none")
    own_lab.stop()
    assert mounted.error_of("runs", run_id) != 0
    own_lab.start()
    run_id = settled_run(own_lab, {"a.bin": SIZE})
    wait_until(lambda: mounted.error_of("runs", run_id, "a.bin") == 0, "the service")
    assert read(mounted, "whole", "runs", run_id, "a.bin") == own_lab.sha256(run_id, "a.bin")


def test_the_limit_on_processes_is_reached(user_shell: Shell, lab: Lab) -> None:
    """5.5: the same with the real thing: RLIMIT_NPROC of an ordinary user, reached under a running mount."""
    run_id = settled_run(lab, FILES)
    warm(user_shell, lab, run_id)
    mounted = mount(user_shell, lab)
    mounted.log.announce(LACK)
    pid = mounted.pid
    wait_until(lambda: len(os.listdir(f"/proc/{pid}/task")) == 1, "the end of all threads")
    limit = (*user_shell.prefix, "prlimit", "--pid", str(pid))
    run(*limit, "--nproc=1:").ok()
    check_without_threads(mounted, lab, run_id)
    run(*limit, f"--nproc={resource.getrlimit(resource.RLIMIT_NPROC)[1]}:").ok()
    assert read(mounted, "whole", "runs", run_id, "later.bin") == lab.sha256(run_id, "later.bin")
    wait_until(lambda: mounted.log.has("threads can be had again"), "the cache")
