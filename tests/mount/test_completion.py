"""`artifactfs completion`, at the TAB key of real shells: bash, zsh and fish on a terminal of their own."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator

import pytest

from artifactfs.errors import ExitCode
from tests.harness import ARTIFACTFS, LIMIT_S, Shell, mount_type, wait_until

TAB = "\t"
# How each is started without the user's own configuration, and how it loads the completion.
STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(artifactfs completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(artifactfs completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "artifactfs completion fish | source"),
}
# What the shells write about the line besides the line: colours, cursor, titles.
_CONTROL = re.compile(
    r"\x1b\[[0-9;?>=]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-Z]|\x1b[=>78]|\x1bP[^\x1b]*\x1b\\|\r"
)


class Terminal:
    """A shell at a terminal: keys go in, and what it shows comes out."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                os.execvpe(command[0], command, env)
            finally:
                os._exit(127)
        # Wide, so that no line is broken.
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 250, 0, 0))
        self._shown = ""

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def expect(self, pattern: str) -> None:
        """Wait until what was shown since the last `expect` matches."""
        end = time.monotonic() + LIMIT_S
        while not (found := re.search(pattern, _CONTROL.sub("", self._shown))):
            ready, _, _ = select.select([self._fd], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"not shown: {pattern!r}; but {_CONTROL.sub('', self._shown)!r}")
            read = os.read(self._fd, 65536).decode(errors="replace")
            self._shown += read
            # What a terminal is asked, and has to answer before fish goes on: who it is.
            for _ in range(read.count("\x1b[c") + read.count("\x1b[0c")):
                os.write(self._fd, b"\x1b[?62c")
        self._shown = _CONTROL.sub("", self._shown)[found.end() :]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self._fd)
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def terminal(name: str, shell: Shell) -> Iterator[Terminal]:
    command, told = STARTS[name]
    env = {**shell.env, "PATH": f"{os.path.dirname(ARTIFACTFS)}:{os.environ['PATH']}", "TERM": "xterm", "PS1": "> "}
    it = Terminal(command, env, shell.directory)
    try:
        it.type(f"{told}; echo told''-of-it\n")
        it.expect("told-of-it")
        yield it
    finally:
        it.close()


@pytest.mark.parametrize("name", STARTS)
def test_commands_and_options(name: str, shell: Shell) -> None:
    """TAB completes a command, an option of it, and a value of that."""
    with terminal(name, shell) as it:
        it.type(f"artifactfs umo{TAB}")
        it.expect("artifactfs umount ")
        it.type("\x15")  # the line away
        it.type(f"artifactfs mount --log-f{TAB}")
        it.expect("--log-f")
        it.type(f"o{TAB}js{TAB}")
        it.expect("json")
        it.type(f"--api-u{TAB}")
        it.expect("--api-url ")


@pytest.mark.parametrize("name", STARTS)
def test_live_mounts_and_profiles(name: str, shell: Shell) -> None:
    """For `umount` the mounts there are, whatever they are called; for `--profile` those of the config file."""
    directory = os.path.join(shell.path("config"), "artifactfs")
    os.makedirs(directory)
    with open(os.path.join(directory, "config.toml"), "w", encoding="utf-8") as file:
        file.write("[profiles.staging]\nsite = 'datadoghq.eu'\n[profiles.production]\n")
    mounted = shell.mount(name="my lab's (1)")
    with terminal(name, shell) as it:
        it.type(f"artifactfs mount --profile sta{TAB}")
        it.expect("--profile staging ")
        it.type("\x15")
        # However it is quoted on the line, the shell itself has to read the mount's name.
        it.type(f"artifactfs umount {os.path.dirname(mounted.point)}/my{TAB}\n")
        wait_until(lambda: mount_type(mounted.point) is None, "the unmount")


@pytest.mark.parametrize("arguments", [(), ("tcsh",), ("",)], ids=str)
def test_a_shell_that_is_none(arguments: tuple[str, ...], shell: Shell) -> None:
    """Without a shell, or with an unknown one: one line with those that there are."""
    done = shell.cli("completion", *arguments)
    assert (done.code, done.out) == (ExitCode.USAGE, b"")
    assert all(name in done.err for name in STARTS)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("words", [{}, {"COMP_WORDS": "artifactfs m", "COMP_CWORD": "x"}], ids=["none", "odd"])
def test_a_completion_without_a_shell(words: dict[str, str], shell: Shell) -> None:
    """5.8: called by hand, without the words that a shell gives: one line, and no bug."""
    done = shell.cli("status", env={"_ARTIFACTFS_COMPLETE": "bash_complete"} | words)
    assert (done.code, done.out, done.err.count("\n")) == (ExitCode.USAGE, b"", 1)
    assert "COMP_WORDS" in done.err


def test_a_key_press_says_nothing_of_mistakes(shell: Shell) -> None:
    """A malformed config file: no values, no message into the line that is being typed."""
    directory = os.path.join(shell.path("config"), "artifactfs")
    os.makedirs(directory)
    with open(os.path.join(directory, "config.toml"), "w", encoding="utf-8") as file:
        file.write("profiles = 7\n")
    env = {"_ARTIFACTFS_COMPLETE": "bash_complete", "COMP_WORDS": "artifactfs mount --profile ", "COMP_CWORD": "3"}
    done = shell.cli(env=env)
    assert (done.code, done.out.strip(), done.err) == (0, b"", "")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("", "{point}"), ("/", "{point}"), ("~", "~/lab"), ("~/l", "~/lab"), ("la", None), ("/nowhere", None)],
)
def test_how_a_mount_is_written(typed: str, expected: str | None, shell: Shell) -> None:
    """As the word was begun: from the root, from home, or from here."""
    mounted = shell.mount(name="home/lab")
    env = {"_ARTIFACTFS_COMPLETE": "fish_complete", "COMP_WORDS": f"artifactfs umount {typed}", "COMP_CWORD": typed}
    offered = shell.cli(env=env).ok().text.splitlines()
    if expected is None:
        assert offered == [] or offered == [""]
    else:
        assert f"plain,{expected.format(point=mounted.point)}" in offered
