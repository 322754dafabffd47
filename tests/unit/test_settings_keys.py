"""artifactfs.settings: the ways to give a key, which of them counts, and reading them again (semantics.md 6.1, 6.2)."""

import itertools
import os
import shutil
import tempfile
import threading
import traceback
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import Keys, Secret, Settings
from artifactfs.settings.keys import every_user_can_read

# From the strongest to the weakest.
LEVELS = ("flag", "-o", "environment", "credential", "profile", "top")
# Where a key itself may be given, and a file or command.
PLAIN = ("environment", "profile", "top")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no real configuration has a say."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


class Said:
    """What is said at each level of a setting; `load` is what comes of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.flags: dict[str, str | bool | None] = {}
        self.options: list[str] = []
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(directory)}
        self.profile: dict[str, str] = {}
        self.top: dict[str, str] = {}

    def file(self, name: str, text: str) -> str:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True, mode=0o700)
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def say(self, level: str, name: str, text: str) -> None:
        if level == "flag":
            self.flags[name] = text
        elif level == "-o":
            self.options.append(f"{name}={text}")
        elif level == "environment":
            self.environ[f"ARTIFACTFS_{name.upper()}"] = text
        elif level == "profile":
            self.profile[name] = text
        else:
            self.top[name] = text

    def give(self, level: str, key: str, value: str) -> None:
        """Give a key at a level, in the form that it has there."""
        if level == "credential":
            self.environ["CREDENTIALS_DIRECTORY"] = str(self.directory / "credentials")
            self.file(f"credentials/{key}", value)
        elif level in PLAIN:
            self.say(level, key, value)
        else:
            self.say(level, f"{key}_file", self.file(f"{level}-{key}", value))

    def config(self) -> str:
        tables = {"": self.top, "[profiles.p]\n": self.profile}
        text = "".join(head + "".join(f"{k} = '''{v}'''\n" for k, v in table.items()) for head, table in tables.items())
        return self.file("config.toml", text)

    def load(self, *, need_keys: bool = True) -> Settings:
        flags = self.flags | {"profile": "p"}
        options = ",".join(self.options)
        return settings.load(
            flags, options=options, config_file=self.config(), environ=self.environ, need_keys=need_keys
        )

    def refusal(self) -> UserError:
        with pytest.raises(UserError) as caught:
            self.load()
        assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
        assert len(str(caught.value).splitlines()) == 1
        return caught.value


@pytest.fixture
def said(tmp_path: Path) -> Said:
    return Said(tmp_path)


# --- which counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strong", "weak"), list(itertools.combinations(LEVELS, 2)))
def test_the_stronger_level_counts_for_a_key(said: Said, strong: str, weak: str) -> None:
    """Whatever its form: a file of a higher level beats a key of a lower one, and a key a file."""
    said.give(weak, "api_key", "weak")
    said.give(weak, "app_key", "weak-app")
    said.give(strong, "api_key", "strong")
    found = said.load()
    assert found.api_key == Secret("strong")
    assert found.app_key == Secret("weak-app")


@pytest.mark.parametrize(("one", "other"), list(itertools.product(LEVELS, LEVELS)))
def test_token_or_keys(said: Said, one: str, other: str) -> None:
    """The way that was given at the stronger level counts: keys by flags beat a token in the environment. In one
    level it is the token."""
    said.give(one, "api_key", "k1")
    said.give(one, "app_key", "k2")
    said.give(other, "access_token", "t")
    # A flag and -o are both the command line.
    rank = {level: max(1, LEVELS.index(level)) for level in LEVELS}
    found = said.load()
    if rank[one] < rank[other]:
        assert (found.api_key, found.app_key, found.access_token) == (Secret("k1"), Secret("k2"), None)
    else:
        assert found.access_token == Secret("t")


def test_half_a_pair_does_not_count_against_a_token(said: Said) -> None:
    """An API key that is in every environment leaves the config file's token alone; one given by a flag is missed."""
    said.give("environment", "api_key", "k1")
    said.give("profile", "access_token", "t")
    assert said.load().access_token == Secret("t")
    said.give("flag", "api_key", "k1")
    error = said.refusal()
    assert error.code is ExitCode.KEYS_MISSING
    assert "no application key" in str(error)
    assert "--app-key-command" in str(error)
    assert "[profiles.p]" in str(error)


def test_the_forms_at_one_level(said: Said) -> None:
    """A file before a command, both before the key itself."""
    said.give("top", "app_key", "app")
    said.say("profile", "api_key", "itself")
    assert said.load().api_key == Secret("itself")
    said.say("profile", "api_key_command", "echo command")
    assert said.load().api_key == Secret("command")
    said.say("profile", "api_key_file", said.file("k", "file"))
    assert said.load().api_key == Secret("file")


@pytest.mark.parametrize(
    "name",
    ["api_key", "dd_api_key", "DD_API_KEY", "access_token", "DD_ACCESS_TOKEN", "dd_bearer_token", "DD_BEARER_TOKEN"],
)
def test_names_of_credentials(said: Said, name: str) -> None:
    """systemd's credentials are looked for by the name of the setting and by those of its variables."""
    said.give("credential", "app_key", "app")
    said.file(f"credentials/{name}", "from-systemd\n")
    found = said.load()
    assert (found.access_token if "token" in name.lower() else found.api_key) == Secret("from-systemd")


def test_no_directory_of_credentials(said: Said) -> None:
    """A variable that names no directory, or a relative one, says nothing."""
    said.give("top", "app_key", "app")
    said.give("top", "api_key", "top")
    for directory in ("", "credentials", str(said.directory / "none")):
        said.environ["CREDENTIALS_DIRECTORY"] = directory
        assert said.load().api_key == Secret("top")


def test_a_credential_that_cannot_be_read(said: Said) -> None:
    """It is there, so it was meant: no weaker key takes its place."""
    said.give("top", "app_key", "app")
    said.give("top", "api_key", "top")
    said.give("credential", "api_key", "")
    error = said.refusal()
    assert error.code is ExitCode.KEYS_MISSING
    assert str(error).startswith("systemd credential api_key: ")


def test_without_keys_nothing_is_read_or_run(said: Said) -> None:
    """What needs no keys opens no key file and asks no password manager; what is given itself is known."""
    marker = said.directory / "was-run"
    said.say("top", "api_key_command", f"touch {marker}")
    said.say("top", "app_key_file", "/nonexistent/key")
    said.give("top", "access_token", "t")
    said.say("profile", "app_key", "itself")
    found = said.load(need_keys=False)
    assert (found.api_key, found.app_key, found.access_token) == (None, Secret("itself"), Secret("t"))
    assert not marker.exists()


def test_a_key_that_can_be_none_is_no_obstacle_without_need(said: Said) -> None:
    """`login`, which is how it is mended, and what needs no keys, go on with a warning."""
    said.say("top", "api_key", "paste your key")
    found = said.load(need_keys=False)
    assert found.api_key is None
    assert [each.fact for each in found.warnings if "the key holds spaces" in each.fact]


# --- commands -----------------------------------------------------------------------------------------------


def test_a_command_is_split_like_a_shell_does_and_run_without_one(said: Said) -> None:
    """Quotes hold words together; ~/ is the home; nothing else is a shell's. It runs in `/`, without any key."""
    program = said.file("show key", '#!/bin/sh\npwd >&2; env > "$HOME/env"; printf \'%s|\' "$@"; echo; echo note')
    os.chmod(program, 0o700)
    said.give("environment", "app_key", "app-s3cr3t")
    said.environ |= {
        "DD_API_KEY": "s3cr3t",
        "DATADOG_APP_KEY": "s3cr3t",
        "DD_ACCESS_TOKEN": "s3cr3t",
        "DD_BEARER_TOKEN": "s3cr3t",
        "OP_SESSION": "x",
    }
    said.say("flag", "api_key_command", r"~/show\ key 'a-b' $HOME *")
    # A second line is a note.
    assert said.load().api_key == Secret("a-b|$HOME|*|")
    environ = (said.directory / "env").read_text()
    assert "s3cr3t" not in environ
    assert "OP_SESSION=x" in environ
    assert "PWD=/\n" in environ


def test_a_command_as_a_list(said: Said, tmp_path: Path) -> None:
    """In TOML a command may be a list of words."""
    said.give("top", "app_key", "app")
    path = Path(said.config())
    path.write_text(path.read_text() + 'api_key_command = ["printf", "%s", "a b\'c"]\n')
    with pytest.raises(UserError, match="spaces"):
        settings.load({}, config_file=str(path), environ=said.environ | {"ARTIFACTFS_PROFILE": "p"})
    path.write_text(path.read_text().replace("a b'c", "a'c"))
    assert settings.load({"profile": "p"}, config_file=str(path), environ=said.environ).api_key == Secret("a'c")


def test_a_program_is_found_at_once(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount leaves its directory: what was found on a relative PATH is run by its whole path, later too."""
    program = said.file("bin/getkey", "#!/bin/sh\ncat ~/key")
    os.chmod(program, 0o700)
    said.file("key", "one")
    monkeypatch.chdir(said.directory)
    said.environ["PATH"] = "bin:" + said.environ["PATH"]
    said.give("top", "app_key", "app")
    said.say("top", "api_key_command", "getkey")
    found = said.load()
    monkeypatch.chdir("/")
    said.file("key", "two")
    assert found.api_key == Secret("one")
    assert found.keys.read_again(keys_of(found), commands=True, stop=threading.Event()).api_key == Secret("two")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("s3cr3t" * 5, ExitCode.KEYS_MISSING, "its program (not shown: it may be a key) was not found"),
        ("a/s3cr3t/b s3cr3t", ExitCode.KEYS_MISSING, "its program (not shown: it may be a key) was not found"),
        ("pas show s3cr3t", ExitCode.KEYS_MISSING, "its program 'pas' was not found"),
        ("/opt/none-such/bin/pass s3cr3t", ExitCode.KEYS_MISSING, "'/opt/none-such/bin/pass' was not found"),
        ("cd /s3cr3t && pass", ExitCode.KEYS_MISSING, "its program 'cd' was not found"),
        ("'s3cr3t", ExitCode.USAGE, "not a command: no closing quotation"),
        (" ", None, "no API key"),
        ("false s3cr3t", ExitCode.KEYS_MISSING, "exit code 1"),
        ("sh -c 'echo s3cr3t two; echo why >&2; exit 7'", ExitCode.KEYS_MISSING, "exit code 7: why"),
        ("echo one s3cr3t", ExitCode.KEYS_MISSING, "spaces or characters"),
        ("true", ExitCode.KEYS_MISSING, "printed nothing"),
        ("yes s3cr3t", ExitCode.KEYS_MISSING, "more than a key"),
        (r"printf '\377\376'", ExitCode.KEYS_MISSING, "spaces or characters"),
        ("/", ExitCode.KEYS_MISSING, "its program '/' was not found"),
    ],
)
def test_bad_commands(said: Said, command: str, code: ExitCode | None, words: str) -> None:
    """Each is one line that names who gave the command, and shows neither the command nor what it printed."""
    said.give("top", "app_key", "app")
    said.say("environment", "api_key_command", command)
    error = said.refusal()
    assert words in str(error)
    if code is not None:
        assert error.code is code
        assert str(error).startswith("ARTIFACTFS_API_KEY_COMMAND: ")


# --- who may touch what -------------------------------------------------------------------------------------


def test_a_config_file_with_keys_in_a_profile(said: Said) -> None:
    """6.2: keys in any profile make the file one that holds keys."""
    said.say("profile", "app_key", "s3cr3t")
    path = said.config()
    os.chmod(path, 0o640)
    with pytest.raises(UserError, match=f"chmod 600 {path}") as caught:
        settings.load({}, config_file=path, environ={}, need_keys=False)
    assert "s3cr3t" not in str(caught.value)


def test_a_key_file_that_every_user_can_read_is_warned_of(said: Said) -> None:
    """6.2: it is read, since Kubernetes and Docker hand out secrets like that; the mount warns."""
    said.give("top", "app_key", "app")
    # tmp_path is closed to others, and closes all that is in it.
    place = tempfile.mkdtemp(dir="/tmp")
    try:
        path = os.path.join(place, "key")
        Path(path).write_text("k")
        said.say("flag", "api_key_file", path)
        for directory, mode, warned in ((0o755, 0o644, True), (0o755, 0o640, False), (0o750, 0o644, False)):
            os.chmod(place, directory)
            os.chmod(path, mode)
            assert every_user_can_read(path) == warned
            sentence = f"all users of this machine can read the key in {path}; run `chmod 600 {path}`"
            assert [*map(str, said.load().warnings)] == ([sentence] if warned else [])
        assert not every_user_can_read(path + ".none")
    finally:
        shutil.rmtree(place)


# --- reading again ------------------------------------------------------------------------------------------


def keys_of(found: Settings) -> Keys:
    return Keys(found.api_key, found.app_key, found.access_token)


def again(found: Settings, *, commands: bool = True) -> Keys:
    return found.keys.read_again(keys_of(found), commands=commands, stop=threading.Event())


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_read_again(said: Said, level: str) -> None:
    """Files, credentials and the config file are; what the environment said stays as it was."""
    said.give(level, "api_key", "one")
    said.give("environment", "app_key", "app")
    found = said.load()
    said.give(level, "api_key", "two")
    said.config()
    changed = level != "environment"
    assert again(found, commands=False) == Keys(Secret("two" if changed else "one"), Secret("app"))
    assert found.keys.has_files == changed
    assert not found.keys.has_commands


def test_keys_of_the_environment_alone(said: Said) -> None:
    """Nothing is worth reading again then."""
    said.give("environment", "api_key", "one")
    said.give("environment", "app_key", "two")
    found = said.load()
    assert not found.keys.has_files
    assert not found.keys.has_commands
    assert again(found) == keys_of(found)


def test_commands_are_run_again_only_when_it_is_their_turn(said: Said) -> None:
    """Beside a file, a command's key stays as it is known."""
    said.give("flag", "api_key", "one")
    said.say("top", "app_key_command", f"cat {said.file('app', 'first')}")
    found = said.load()
    said.give("flag", "api_key", "two")
    said.file("app", "second")
    assert again(found, commands=False) == Keys(Secret("two"), Secret("first"))
    assert again(found) == Keys(Secret("two"), Secret("second"))
    assert found.keys.has_commands


def test_a_key_that_is_gone_when_it_is_read_again(said: Said) -> None:
    """One line that names where it was; the profile or the line may be gone, too."""
    said.give("flag", "api_key", "s3cr3t")
    said.give("profile", "app_key", "s3cr3t")
    found = said.load()
    said.profile.clear()
    path = said.config()
    with pytest.raises(UserError, match=r"app_key in \[profiles.p\] in .*: the key is gone"):
        again(found)
    Path(path).write_text("")
    with pytest.raises(UserError, match="no profile 'p'"):
        again(found)
    os.unlink(said.directory / "flag-api_key")
    with pytest.raises(UserError, match=r"--api-key-file: cannot read the key from .*: No such file"):
        again(found)


def test_a_pipe_is_read_once(said: Said) -> None:
    """`--api-key-file <(pass show key)`: what it said counts for good."""
    reader, writer = os.pipe()
    os.write(writer, b"from-a-pipe\n")
    os.close(writer)
    said.give("top", "app_key", "app")
    said.say("flag", "api_key_file", f"/dev/fd/{reader}")
    found = said.load()
    os.close(reader)
    assert found.api_key == Secret("from-a-pipe")
    assert again(found).api_key == Secret("from-a-pipe")


def test_nothing_shows_a_key_or_a_command(said: Said) -> None:
    """6.1: neither settings nor where keys come from show a key, or a command, which may hold one."""
    said.say("top", "api_key_command", "echo s3cr3t")
    said.give("environment", "app_key", "s3cr3t")
    found = said.load()
    assert found.api_key == Secret("s3cr3t")
    assert "s3cr3t" not in repr(found) + repr(found.keys) + repr(keys_of(found))
    assert sorted(found.secrets()) == ["s3cr3t", "s3cr3t"]
