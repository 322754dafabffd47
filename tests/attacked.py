"""A mount of a hostile server, and what is true of it whatever the server does: it works, its memory is bounded."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.answers import FILES
from tests.harness import ARTIFACTFS, FUSE_TYPE, Done, Mount, Shell, mount_type
from tests.hostile import HostileServer, hostile_server

# No key is judged by its shape: these look otherwise in a URL, in JSON and in a page.
KEYS = {"DD_API_KEY": "k/+=%&-hostile-api", "DD_APP_KEY": "k<\"'>-hostile-app"}
# By how much the process of a mount may grow, where nothing else is said. Generous: an answer of 256 MiB is far above.
GROWTH_BYTES = 128 << 20


def mount(shell: Shell, url: str, *options: str, name: str = "mnt") -> Mount:
    """Mount what is at `url` in the background."""
    mounted = shell.expected_mount(name)
    shell.run_forked("mount", "--api-url", url, "--log-file", mounted.log_file, *options, mounted.point).ok()
    assert mount_type(mounted.point) == FUSE_TYPE
    return mounted


@dataclass(frozen=True)
class Attacked:
    """A hostile server, and a mount of it."""

    server: HostileServer
    mounted: Mount

    @contextlib.contextmanager
    def survives(self, growth_bytes: int = GROWTH_BYTES) -> Iterator[None]:
        """Check that the mount takes whatever is done meanwhile: its memory stays bounded, and afterwards it works.

        Warnings are what such a server deserves; a bug is none.
        """
        with self.mounted.log.watched(), bounded(self.mounted.pid, growth_bytes):
            self.mounted.log.announce("^\\S+ \\S+ WARNING ", optional=True)
            yield
            self.works()
            assert not self.mounted.log.has("this is a bug|Traceback")

    def works(self) -> None:
        """Check that a directory that no caller has seen is listed and read as it should be."""
        run_id = self.server.plant()
        done = self.mounted.sh('cd "$M/runs/$1" && find . -mindepth 1 | sort && cat a.bin sub/b.txt', run_id).ok()
        assert done.out == b"./a.bin\n./sub\n./sub/b.txt\n" + b"".join(FILES.values())


@contextlib.contextmanager
def attacked(directory: str, *options: str, program: Sequence[str] = (ARTIFACTFS,)) -> Iterator[Attacked]:
    """Run a hostile server and mount it."""
    shell = Shell(directory, None, program, more_env=dict(KEYS))
    with hostile_server() as server:
        try:
            yield Attacked(server, mount(shell, server.url, *options))
        finally:
            shell.close()


@contextlib.contextmanager
def bounded(pid: int, growth_bytes: int) -> Iterator[None]:
    """Check that a process's memory (resident, at its most) grows by no more than this meanwhile."""
    with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the high-water mark starts again from here (proc(5))
    before = memory(pid, "VmRSS")
    yield
    grown = memory(pid, "VmHWM") - before
    assert grown <= growth_bytes, f"grew by {grown >> 20} MiB"


def memory(pid: int, name: str) -> int:
    """Return bytes of a process's memory, by their name in /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        row = next(line for line in file if line.startswith(name + ":"))
    return int(row.split()[1]) << 10


def check_failed(done: Done, code: int) -> None:
    """Check that a command failed with this errno, and said so."""
    assert done.code != 0, done.text[:200]
    assert os.strerror(code) in done.err, (errno.errorcode[code], done.err)


# --- fixtures, which conftest.py of tests/contract takes from here ------------------------------------


@pytest.fixture(scope="module")
def _standing_attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with attacked(str(tmp_path_factory.mktemp("hostile"))) as each:
        yield each


@pytest.fixture
def attack(_standing_attack: Attacked) -> Iterator[Attacked]:
    """One mount of one hostile server for all tests of a module: what one attack leaves, the next one meets."""
    with _standing_attack.survives():
        yield _standing_attack


@pytest.fixture
def own_attack(tmp_path: Path) -> Iterator[Attacked]:
    """A hostile server and a mount for one test: its memory is what this test makes of it."""
    with attacked(str(tmp_path)) as each:
        yield each
