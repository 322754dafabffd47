"""`artifactfs login`, typed at a terminal: what it asks, where the keys go and where they do not (6.1, 6.2)."""

import contextlib
import os
import pty
import select
import signal
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.harness import LIMIT_S, Lab, Shell, needs_root, run

NO_KEYS = {"DD_API_KEY": None, "DD_APP_KEY": None}
API, APP = "Your API key (not shown): ", "Your application key (not shown): "


class Dialog:
    """A command at a terminal of its own, whose questions are answered one by one."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            try:
                os.execve(command[0], command, env)
            finally:
                os._exit(127)
        self.shown = ""
        self._answered = 0

    def answer(self, question: str, text: str | bytes) -> None:
        """Wait for a question, and type the answer."""
        end = time.monotonic() + LIMIT_S
        while question not in self.shown[self._answered :]:
            assert self._read(end), f"not asked: {question!r}; but {self.shown!r}"
        self._answered = self.shown.index(question, self._answered) + len(question)
        os.write(self._terminal, (text if isinstance(text, bytes) else text.encode()) + b"\n")

    def ends(self) -> int:
        """Return the exit code, once all is read."""
        while self._read(time.monotonic() + LIMIT_S):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, end: float) -> bool:
        if not select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0]:
            raise AssertionError(f"nothing more was shown: {self.shown!r}")
        try:
            piece = os.read(self._terminal, 65536)
        except OSError:
            return False  # EIO: the other end is closed
        self.shown += piece.decode().replace("\r\n", "\n")
        return bool(piece)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._terminal)


@contextlib.contextmanager
def login(shell: Shell, *options: str, **env: str) -> Iterator[Dialog]:
    """Type `artifactfs login`, in an environment without keys."""
    without = {name: value for name, value in shell.env.items() if name not in NO_KEYS}
    dialog = Dialog([*shell.prefix, *shell.program, "login", *options], {**without, **env})
    try:
        yield dialog
    finally:
        dialog.close()


@pytest.fixture
def config(shell: Shell) -> Path:
    return Path(shell.path("config/artifactfs/config.toml"))


def test_keys_are_asked_for_checked_and_kept(shell: Shell, lab: Lab, config: Path) -> None:
    """One request; a file of 0600 with what was in it before; and a mount needs nothing more."""
    config.parent.mkdir()
    config.write_text("# mine\nlisting_ttl = '5m'\n")
    with login(shell, "--api-url", lab.url) as dialog:
        dialog.answer(API, lab.api_key)
        dialog.answer(APP, lab.app_key)
        assert dialog.ends() == 0
    # What is typed goes over plain http, to this machine alone: it says so, before the first question.
    warning = f"the keys will be sent without TLS to 127.0.0.1:{lab.port}, which is not Datadog's; Ctrl-C ends this"
    assert dialog.shown.index(warning) < dialog.shown.index(API)
    assert f"the keys are accepted, and are in {config}, which you alone can read" in dialog.shown
    assert "mount: mkdir -p ~/model-lab && artifactfs mount ~/model-lab" in dialog.shown
    assert lab.total() == 1
    assert config.read_text().startswith("# mine\n")
    kept = {"listing_ttl": "5m", "api_url": lab.url, "api_key": lab.api_key, "app_key": lab.app_key}
    assert tomllib.loads(config.read_text()) == kept
    assert config.stat().st_mode & 0o777 == 0o600
    mounted = shell.expected_mount()
    shell.cli("mount", "--log-file", mounted.log_file, mounted.point, env=NO_KEYS).ok()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)


def test_a_new_file_for_a_machine(shell: Shell, lab: Lab) -> None:
    """--config names a file, and a directory, that are not there yet; and the command that follows can be pasted."""
    path = shell.path("etc/art fs/config.toml")
    with login(shell, "--api-url", lab.url, "--config", path, "--profile", 'a "b"') as dialog:
        dialog.answer(API, lab.api_key)
        dialog.answer(APP, lab.app_key)
        assert dialog.ends() == 0
    assert f"artifactfs mount --config '{path}' --profile 'a \"b\"' ~/model-lab" in dialog.shown
    kept = {"api_url": lab.url, "api_key": lab.api_key, "app_key": lab.app_key}
    assert tomllib.loads(Path(path).read_text()) == {"profiles": {'a "b"': kept}}
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_no_text(shell: Shell, lab: Lab, config: Path) -> None:
    """5.8: what is not UTF-8 was typed or pasted wrongly: one line says so, and nothing is written."""
    with login(shell, "--api-url", lab.url) as dialog:
        dialog.answer(API, b"caf\xe9")
        assert dialog.ends() == ExitCode.USAGE
    assert dialog.shown.splitlines()[-1].startswith("artifactfs: what was typed is not valid UTF-8; ")
    assert not config.exists()


@needs_root
def test_keys_are_shown_nowhere(shell: Shell, lab: Lab, config: Path) -> None:
    """6.1: not on the terminal, not in `ps`, not in the environment; and no file but the config file holds one."""
    with login(shell, "--api-url", lab.url, "--profile", "new one") as dialog:
        dialog.answer(API, lab.api_key)
        dialog.answer(APP, "x" * 40)
        assert dialog.ends() == ExitCode.KEYS_REJECTED
    assert not config.exists()
    with login(shell, "--api-url", lab.url, "--profile", "new one") as dialog:
        dialog.answer(API, lab.api_key)
        # It has the first key now, and waits for the second.
        dialog.answer(APP, "")
        for name in ("cmdline", "environ"):
            assert lab.api_key.encode() not in Path(f"/proc/{dialog.pid}/{name}").read_bytes()
        # An empty answer is asked for again.
        dialog.answer(APP, lab.app_key)
        assert dialog.ends() == 0
    assert lab.api_key not in dialog.shown
    assert lab.app_key not in dialog.shown
    assert tomllib.loads(config.read_text())["profiles"]["new one"]["app_key"] == lab.app_key
    holders = [
        path for path in Path(shell.directory).rglob("*") if path.is_file() and lab.app_key in path.read_text("latin-1")
    ]
    assert holders == [config]


def test_the_site_is_asked_for(shell: Shell, config: Path) -> None:
    """6.1: a mistyped one is refused and asked for again; keys go to none but what was said."""
    with login(shell, "--proxy", "http://127.0.0.1:9", ARTIFACTFS_DEADLINE="2s") as dialog:
        dialog.answer("Your site [datadoghq.com]: ", "datadoghq.co")
        dialog.answer("Your site [datadoghq.com]: ", "eu")
        dialog.answer("Your site [datadoghq.com]: ", "https://app.datadoghq.eu/")
        dialog.answer(API, "1" * 32)
        dialog.answer(APP, "2" * 40)
        # No proxy is there: nothing left this machine, and nothing is written.
        assert dialog.ends() == ExitCode.UNREACHABLE
    assert "Datadog's sites are datadoghq.com, us3.datadoghq.com, " in dialog.shown
    assert "did you mean datadoghq.com?" in dialog.shown
    assert "which is not Datadog's" not in dialog.shown
    assert not config.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--api-url", "http://datadoghq.example"], "plain http would show the keys to the network"),
        (["--site", "datadoghq.co"], "did you mean datadoghq.com?"),
        (["--profile", os.fsdecode(b"\xff")], "a profile's name has printable characters only"),
    ],
)
def test_where_no_key_is_asked_for(options: list[str], said: str, shell: Shell) -> None:
    """6.1: before a question, where the keys could not go, or could not be kept."""
    with login(shell, *options) as dialog:
        assert dialog.ends() == ExitCode.USAGE
    assert said in dialog.shown
    assert "Your" not in dialog.shown


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_a_foreign_host_is_named_first(quiet: list[str], shell: Shell) -> None:
    """6.1: the keys go to no host but Datadog's unless it is named before the first question; Ctrl-C then ends it."""
    with login(shell, *quiet, "--api-url", "https://api.lab.example") as dialog:
        dialog.answer(API, "\x03")
        assert dialog.ends() == 130
    assert "the keys will be sent to api.lab.example, which is not Datadog's; Ctrl-C ends this" in dialog.shown


def test_other_ways_to_give_keys(shell: Shell, lab: Lab, config: Path) -> None:
    """A password manager in the file is left as it is; variables that would win are named."""
    config.parent.mkdir()
    text = "app_key_command = 'pass show app'\n"
    config.write_text(text)
    with login(shell, "--api-url", lab.url) as dialog:
        assert dialog.ends() == ExitCode.USAGE
    assert f"{config}: app_key_command gives the keys already; remove that first, or " in dialog.shown
    assert config.read_text() == text
    with login(shell, "--api-url", lab.url, "--profile", "lab", DD_API_KEY="old", DD_SITE="datadoghq.eu") as dialog:
        dialog.answer(API, lab.api_key)
        dialog.answer(APP, lab.app_key)
        assert dialog.ends() == 0
    assert "warning: DD_SITE, DD_API_KEY of the environment takes precedence over the file" in dialog.shown
    assert config.read_text().startswith(text)


@pytest.mark.parametrize("closed", ["", "<&-"])
def test_without_a_terminal(closed: str, shell: Shell) -> None:
    """One line, with the ways that need none; also without a standard input."""
    done = run("sh", "-c", f'exec "$@" {closed}', "sh", *shell.program, "login", env=shell.env)
    assert (done.code, done.out) == (ExitCode.USAGE, b"")
    assert "DD_API_KEY" in done.err
    assert done.err.count("\n") == 1
