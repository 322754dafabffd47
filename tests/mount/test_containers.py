"""docs/containers.md: what a container engine does with mounts, done with the kernel alone.

A volume is a directory on a shared mount. A sidecar is a mount namespace that has it as a peer (Bidirectional or
rshared), a consumer is one that has it as a slave (HostToContainer, rslave); the node is the namespace around both.
"""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from artifactfs.emulator import sample
from tests.harness import CHECKOUT, END_S, Done, Lab, Shell, needs_root, run, start_process, wait_until
from tests.processes import LIMIT_S, command_line

pytestmark = needs_root

# How many mounts are there: 0 where all is gone.
COUNT = 'grep -F " $M " /proc/self/mountinfo | grep -c fuse.artifactfs'
# As the probes have it. Not `test -d`: of a mount whose process is gone the kernel still knows the answer.
READY = 'ls "$M" | grep -q runs'


@dataclass(frozen=True)
class Node:
    """A machine with a volume. `pid`: of a process in its namespace."""

    pid: int
    volume: str

    @property
    def enter(self) -> tuple[str, ...]:
        return ("nsenter", "-m", "-t", str(self.pid), "--")

    @property
    def point(self) -> str:
        return os.path.join(self.volume, "mnt")

    def container(self, propagation: str) -> tuple[str, ...]:
        """Return the commands in front of what runs in a container of its own."""
        return (*self.enter, "unshare", "-m", "--propagation", propagation, "--")

    def sees(self, script: str) -> Done:
        """Run a shell script in the namespace of the node, with the mount's place as $M."""
        return run(*self.enter, "sh", "-c", script, env={**os.environ, "M": self.point, "LC_ALL": "C.UTF-8"})


@contextlib.contextmanager
def holder(command: tuple[str, ...], ready: str) -> Iterator[int]:
    """Keep a namespace: a process that `command` puts into it, which says so and waits."""
    with start_process((*command, "sh", "-c", f"{ready} && echo ready && exec cat")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", process.stderr.read() if process.stderr else b""
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()
        process.wait(LIMIT_S)


@pytest.fixture
def node(user_shell: Shell) -> Iterator[Node]:
    volume = user_shell.path("volume")
    os.makedirs(volume)
    # As the kubelet makes it.
    make = f"mount -t tmpfs none '{volume}' && mount --make-rshared '{volume}' && chmod 0777 '{volume}'"
    # Of what else is mounted here, other tests' mounts too, it is a slave: what they take away is gone here as well.
    with holder(("unshare", "-m", "--propagation", "slave", "--"), make) as pid:
        yield Node(pid, volume)


@contextlib.contextmanager
def consumer(node: Node) -> Iterator[tuple[str, ...]]:
    """A container that reads; yields the commands in front of what runs in it, as another user than all others."""
    with holder(node.container("slave"), "true") as pid:
        yield ("nsenter", "-m", "-t", str(pid), "--", "setpriv", "--reuid=4711", "--regid=4711", "--clear-groups", "--")


def started_by(manifest: str) -> str:
    """Return the script that a manifest's container begins with: the mount point is $M, the mount the arguments."""
    with open(os.path.join(CHECKOUT, "docs/kubernetes", manifest), encoding="utf-8") as file:
        script = next(line for line in file if "exec artifactfs mount" in line)
    words = re.fullmatch(r'\s*args: \["(.*)exec artifactfs mount .* /model-lab/mnt"\]\n', script)
    assert words is not None, script
    return words[1].replace("/model-lab/mnt", '"$M"') + 'exec "$@"'


@contextlib.contextmanager
def sidecar(node: Node, shell: Shell, prefix: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A container that mounts, as docs/kubernetes/sidecar.yaml has it, up to where its probe succeeds."""
    assert shell.lab is not None
    mount = [*shell.program, "mount", "-f", "--allow-other", "--api-url", shell.lab.url, node.point]
    script = ("sh", "-c", started_by("sidecar.yaml"), "sh")
    env = shell.env | {"M": node.point}
    with start_process((*node.container("unchanged"), *prefix, *script, *mount), env=env) as process:
        yield process


def umount(node: Node, shell: Shell, prefix: Sequence[str]) -> None:
    """What preStop does."""
    run(*node.container("unchanged"), *prefix, *shell.program, "umount", node.point, env=shell.env).ok()


def look(prefix: tuple[str, ...], point: str, script: str) -> Done:
    return run(*prefix, "sh", "-c", script, env={**os.environ, "M": point, "LC_ALL": "C.UTF-8"})


@pytest.mark.parametrize("who", ["root", "user"])
def test_a_sidecar(who: str, node: Node, user_shell: Shell, lab: Lab) -> None:
    """A mount in one container is read in another that was there before; after a crash, the next one heals it.

    At its end it is gone from all of them, so that the volume can be taken away.
    """
    prefix = user_shell.prefix if who == "user" else ()
    if who == "user":
        # As in the image.
        conf = user_shell.path("fuse.conf")
        with open(conf, "w", encoding="ascii") as opened:
            opened.write("user_allow_other\n")
        node.sees(f"mount --bind '{conf}' /etc/fuse.conf").ok()
    file = f'sha256sum "$M/runs/{sample.RUN}/lora_model/README.md"'
    digest = lab.sha256(sample.RUN, "lora_model/README.md")
    with consumer(node) as reader:
        assert look(reader, node.point, 'ls "$M"').code != 0
        with sidecar(node, user_shell, prefix) as process:
            wait_until(lambda: node.sees(READY).code == 0, "the mount")
            assert digest in look(reader, node.point, file).ok().text
            assert look(reader, node.point, 'touch "$M/x"').code != 0
            # Out of memory.
            served = [pid for pid in user_shell.processes() if "mount\0-f" in command_line(pid)]
            assert len(served) == 1
            os.kill(served[0], signal.SIGKILL)
            process.wait(LIMIT_S)
        assert "not connected" in look(reader, node.point, file).err
        # Not at once, as a container that crashes again and again is not started at once.
        wait_until(lambda: node.sees('mkdir -p "$M"').code != 0, "the kernel to forget what it knew of the mount point")
        with sidecar(node, user_shell, prefix) as process:
            wait_until(lambda: node.sees(READY).code == 0, "the mount that heals it")
            assert digest in look(reader, node.point, file).ok().text
            umount(node, user_shell, prefix)
            assert process.wait(END_S) == 0
        for look_from in (reader, node.enter):
            assert look(look_from, node.point, COUNT).text == "0\n"
        node.sees('rmdir "$M"').ok()


def test_a_term_is_enough(node: Node, user_shell: Shell) -> None:
    """Without preStop: SIGTERM, as a container gets it, unmounts everywhere, a file open in a consumer or not."""
    with consumer(node) as reader, sidecar(node, user_shell, ()) as process:
        wait_until(lambda: node.sees(READY).code == 0, "the mount")
        held = ("sh", "-c", f'exec 3<"{node.point}/runs/{sample.RUN}/lora_model/README.md" && echo ready && read word')
        with start_process((*reader, *held)) as holding:
            assert holding.stdout is not None
            assert holding.stdout.readline() == b"ready\n"
            process.terminate()
            assert process.wait(END_S) == 0
            assert look(reader, node.point, COUNT).text == "0\n"
