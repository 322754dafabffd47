"""6.1 and 6.2: what other processes of the user learn from a mount's own, and its log; in all the ways to start one."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import Mounting
from tests.harness import END_S, FUSE_TYPE, Lab, Mount, Shell, mount_type, needs_root, run, wait_until

HELPER = os.path.join(os.path.dirname(sys.executable), "mount.artifactfs")
PASSWORD = "pass-word-of-proxy"


def environ_of(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()


def secret_env(lab: Lab) -> dict[str, str]:
    """Return an environment that gives the keys in every way that there is, with other secrets around them."""
    keys = {"DD": (lab.api_key, lab.app_key), "DATADOG": ("a" + uuid.uuid4().hex, "b" + uuid.uuid4().hex)}
    pairs = {
        f"{front}_{name}": key
        for front, pair in keys.items()
        for name, key in zip(("API_KEY", "APP_KEY"), pair, strict=True)
    }
    proxies = dict.fromkeys(("https_proxy", "ALL_PROXY"), f"http://me:{PASSWORD}@127.0.0.1:1")
    return {**pairs, "ARTIFACTFS_APP_KEY": lab.app_key, **proxies}


@contextlib.contextmanager
def started(way: str, shell: Shell, lab: Lab) -> Iterator[tuple[Mount, int]]:
    """Mount in one of the ways; yields the mount and the process that serves it."""
    mounted = shell.expected_mount()
    options = ("--api-url", lab.url, "--log-file", mounted.log_file)
    if way == "in front":
        with shell.background("mount", "-f", *options, mounted.point) as process:
            wait_until(lambda: mount_type(mounted.point) == FUSE_TYPE, "the mount")
            yield mounted, process.pid
            process.send_signal(signal.SIGTERM)
            process.wait(END_S)
        return
    if way == "helper":
        spec = f"log_file={mounted.log_file}"
        run(*shell.prefix, HELPER, lab.url, mounted.point, "-o", spec, env=shell.env).ok()
    elif way == "demo":
        shell.cli("demo", "--log-file", mounted.log_file, mounted.point).ok()
    else:
        shell.cli("mount", *options, mounted.point).ok()
    yield mounted, mounted.pid


@pytest.mark.parametrize("way", ["background", "in front", "helper", "demo"])
def test_no_secret_is_in_the_environment(way: str, lab: Lab, shell: Shell) -> None:
    """6.1: keys that the environment gave, and proxies' passwords, are not in the serving process's environment."""
    shell.more_env |= secret_env(lab)
    with started(way, shell, lab) as (mounted, pid):
        mounted.sh('ls "$M/runs"').ok()
        left = environ_of(pid)
        values = {value.encode() for name, value in secret_env(lab).items() if not name.lower().endswith("proxy")}
        assert [value for value in (*values, PASSWORD.encode()) if value in left] == []
        # The rest of it is as it was.
        assert f"HOME={shell.path('home')}".encode() in left.split(b"\0")


def test_a_variable_that_is_there_twice(lab: Lab, shell: Shell) -> None:
    """6.1: of a key that an environment holds twice, neither is left."""
    other = uuid.uuid4().hex
    # A shell or Python would make one of the two.
    code = (
        "import ctypes, os, sys\n"
        "env = [os.fsencode(f'{k}={v}') for k, v in os.environ.items()] + [sys.argv[1].encode()]\n"
        "words = [os.fsencode(word) for word in sys.argv[2:]]\n"
        "array = lambda items: (ctypes.c_char_p * (len(items) + 1))(*items, None)\n"
        "ctypes.CDLL(None).execve(words[0], array(words), array(env))"
    )
    shell.program = (sys.executable, "-c", code, f"DD_API_KEY={other}", *shell.program)
    left = environ_of(shell.mount().pid)
    assert left.count(b"DD_API_KEY=") == 2
    assert lab.api_key.encode() not in left
    assert other.encode() not in left


def test_commands_that_wait_have_no_keys(lab: Lab, shell: Shell, mounted: Mount) -> None:
    """6.1: a command that stays, and the one that waits for a mount, have no keys in their environment either."""
    waiting = shell.expected_mount("waiting")
    waiting.log.announce("", optional=True)
    # A port that no server listens at.
    never = ("mount", "--wait", "--api-url", "http://127.0.0.1:1", "--log-file", waiting.log_file, waiting.point)
    for command, said in ((("status", "--watch", mounted.point), "out"), (never, "err")):
        with shell.background(*command) as process:
            pipe = process.stdout if said == "out" else process.stderr
            assert pipe is not None
            assert pipe.readline()
            for pid in shell.processes():
                assert lab.api_key.encode() not in environ_of(pid)
                assert lab.app_key.encode() not in environ_of(pid)
            process.send_signal(signal.SIGINT)
            process.wait(END_S)


# As another process of the user's: what a debugger, or a thief, would read.
_READ = """
import os, sys
for name in ("environ", "mem", "maps", "fd", "auxv"):
    path = f"/proc/{sys.argv[2]}/{name}"
    try:
        os.listdir(path) if name == "fd" else open(path, "rb").close()
    except PermissionError:
        continue
    print(name)
"""


@needs_root
@pytest.mark.parametrize("way", ["background", "in front"])
def test_another_process_of_the_user_cannot_read_it(way: str, lab: Lab, user_shell: Shell) -> None:
    """6.1: neither memory nor environment nor descriptors of the serving process are open to the same user."""
    with started(way, user_shell, lab) as (mounted, pid):
        command = mounted.python_command(_READ, pid)
        assert run(*command).ok().text == ""
        # Of an ordinary process of his they are.
        with subprocess.Popen([*user_shell.prefix, "sleep", "60"]) as other:
            assert "environ" in run(*mounted.python_command(_READ, other.pid)).ok().text
            other.kill()
        traced = run(
            *user_shell.prefix, "sh", "-c", "command -v strace >/dev/null && timeout 2 strace -p $1", "sh", str(pid)
        )
        assert traced.code != 124


@needs_root
def test_a_user_sees_and_debugs_his_mount_all_the_same(lab: Lab, user_shell: Shell) -> None:
    """6.1: with all that shut, the user's status, his SIGUSR1 and his umount work."""
    mounted = user_shell.mount()
    assert '"pid"' in user_shell.cli("status", "--json", mounted.point).ok().text
    run(*user_shell.prefix, "kill", "-USR1", str(mounted.pid)).ok()
    wait_until(lambda: mounted.log.has("most recent call first"), "the dump of where it stands")
    mounted.umount()


# --- the log ------------------------------------------------------------------------------------------


def mode(path: str) -> int:
    return os.stat(path).st_mode & 0o7777


@pytest.mark.parametrize(
    ("mask", "way"), [("000", "background"), ("0777", "background"), ("022", "in front"), ("027", "helper")]
)
def test_a_log_is_its_users_alone(mask: str, way: str, lab: Lab, shell: Shell) -> None:
    """6.2: a log is 0600 whatever the umask, and so are the directories that are made for it."""
    shell.prefix = ("sh", "-c", f'umask {mask}; exec "$@"', "sh", *shell.prefix)
    with started(way, shell, lab) as (mounted, _):
        assert mode(mounted.log_file) == 0o600


def test_a_log_in_its_default_place(lab: Lab, shell: Shell) -> None:
    """6.2: where the log has no place of its own, all that is made for it is the user's alone."""
    mounted = shell.expected_mount()
    shell.prefix = ("sh", "-c", 'umask 0; exec "$@"', "sh")
    shell.cli("mount", "--api-url", lab.url, mounted.point).ok()
    state = Path(shell.path("state"), "artifactfs")
    made = [state, *state.rglob("*")]
    assert {path.name for path in made} >= {"artifactfs", "log", "mounts"}
    assert {str(path): oct(mode(str(path))) for path in made if mode(str(path)) & 0o077} == {}


def test_a_log_that_is_there_keeps_its_mode(mounting: Mounting, shell: Shell) -> None:
    """6.2: a file that the user has made for the log, for a group that collects logs, stays as it is."""
    Path(shell.path("mnt.log")).touch(0o640)
    os.chmod(shell.path("mnt.log"), 0o640)
    assert mode(mounting().log_file) == 0o640
