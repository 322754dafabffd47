"""artifactfs.settings.trusted_files: which config files count (6.2). Other users' files are made by root."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import trusted_files
from artifactfs.settings.trusted_files import NotOurs
from tests.harness import needs_root, wait_until

OTHER = 12347
TEXT = 'api_url = "https://elsewhere.example"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


def load(path: str | Path) -> settings.Settings:
    return settings.load({}, config_file=str(path), environ={}, need_keys=False)


def refusal(path: str | Path | None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        settings.load({}, config_file=None if path is None else str(path), environ=environ or {}, need_keys=False)
    assert caught.value.code is ExitCode.BAD_CONFIG
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_file_of_ones_own(file: Path, tmp_path: Path) -> None:
    """It counts, by a link of one's own and by a chain of them too, relative or not, through directories and `..`."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "link").symlink_to("../config.toml")
    (tmp_path / "whole").symlink_to(tmp_path / "deep")
    (tmp_path / "chain").symlink_to("whole/./link")
    for path in (file, tmp_path / "deep/link", tmp_path / "whole/link", tmp_path / "chain"):
        assert load(path).origin == "elsewhere.example"
    # In /tmp, where all may write, and others may not take it away.
    (file.parent / "shared").mkdir()
    (file.parent / "shared").chmod(0o1777)
    assert load(file.rename(tmp_path / "shared" / "mine.toml")).origin == "elsewhere.example"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
@pytest.mark.parametrize(
    "text", [TEXT, "[profiles.p]\napp_key_command = 'x'", 'log_file = "/x"', "", "x =", "no_such = 1"]
)
def test_a_file_that_others_can_write(text: str, mode: int, file: Path) -> None:
    """6.2: whatever is in it, it is refused with the command that fixes it."""
    file.write_text(text)
    file.chmod(mode)
    assert f"run `chmod go-w {file}`" in refusal(file)
    # Where it holds keys as well, one command fixes both.
    file.write_text("api_key = 's3cr3t'")
    assert f"run `chmod 600 {file}`" in refusal(file)


def warnings(ca_file: Path) -> tuple[str, ...]:
    environ = {"DD_API_KEY": "k", "DD_APP_KEY": "k"}
    found = settings.load({"ca_file": str(ca_file)}, config_file=os.devnull, environ=environ)
    return tuple(map(str, found.warnings))


def test_certificates_that_others_can_change(file: Path) -> None:
    """They could have the keys sent to a server of theirs: the warning names the command."""
    assert warnings(file) == ()
    file.chmod(0o664)
    assert warnings(file) == (f"others can change the trusted certificates in {file}; run `chmod go-w {file}`",)
    file.unlink()
    assert warnings(file) == ()


@needs_root
def test_certificates_of_another_user(file: Path) -> None:
    """The same of a file that belongs to one."""
    os.chown(file, OTHER, OTHER)
    (warning,) = warnings(file)
    assert warning.startswith(f"another user (uid {OTHER}) can change the trusted certificates in ")


def test_what_can_be_opened_is_opened_as_ever(tmp_path: Path) -> None:
    """The errors are those of a plain `open`, in the same words."""
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("none")
    for path in ("file/x", "none", "none/x", "loop", "loop/x", "dangling", "x" * 300):
        with pytest.raises(OSError) as plain:
            os.open(tmp_path / path, os.O_RDONLY)
        with pytest.raises(OSError) as ours:
            trusted_files.open_ours(str(tmp_path / path))
        assert ours.value.errno == plain.value.errno, path
    for path in ("/", str(tmp_path), f"{tmp_path}/", f"{tmp_path}/."):
        fd = trusted_files.open_ours(path)
        with pytest.raises(OSError) as read:
            os.read(fd, 1)
        os.close(fd)
        assert read.value.errno == errno.EISDIR


def test_no_descriptor_is_left_open(file: Path, tmp_path: Path) -> None:
    """Neither where it counts nor where it does not."""
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir("/proc/self/fd"))
    for path in (file, tmp_path / "loop", tmp_path / "none", "/dev/fd/999"):
        try:
            os.close(trusted_files.open_ours(str(path)))
        except OSError:
            continue
    assert sorted(os.listdir("/proc/self/fd")) == before


@needs_root
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        'log_file = "/x"',
        'api_key_file = "/x"',
        'proxy = "http://x:1"',
        'ca_file = "/x"',
        'cache_dir = "/x"',
        'app_key_command = "true"',
        'listing_ttl = "5m"',
        "[profiles.x]",
        "",
        "broken =",
        "\xff",
        'api_key = "s3cr3t"',
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o400])
def test_another_users_file(text: str, mode: int, file: Path) -> None:
    """Whatever is in it, and whatever its mode is: it is named with its owner, and with what to type."""
    file.write_text(text, "latin-1")
    os.chown(file, OTHER, OTHER)
    file.chmod(mode)
    said = refusal(file)
    assert said.startswith(f"{file} belongs to another user (uid {OTHER}), so it is not used; ")
    assert f"`install -m 600 {file} COPY`" in said
    assert "s3cr3t" not in said


@needs_root
def test_a_home_that_another_user_has(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As under `sudo -E`: the config file of that home is refused, and the way out is named."""
    place = tmp_path / ".config" / "artifactfs"
    place.mkdir(parents=True)
    file = file.rename(place / "config.toml")
    for path in (tmp_path, place.parent, place, file):
        os.chown(path, OTHER, OTHER)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert "run `sudo -H artifactfs …`" in refusal(None)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.parent))
    assert "run `sudo -H artifactfs …`" in refusal(None)
    # One that root has put there is root's.
    os.chown(file, 0, 0)
    assert settings.load({}, environ={}, need_keys=False).origin == "elsewhere.example"


@needs_root
@pytest.mark.parametrize("where", ["file", "directory", "second link"])
def test_a_link_of_another_user(where: str, file: Path, tmp_path: Path) -> None:
    """A link to a file of root's is the choice of another user; so is one in the middle of a path, or of a chain."""
    place = tmp_path / "theirs"
    place.mkdir()
    target = tmp_path if where == "directory" else file
    (place / "link").symlink_to(target)
    os.chown(place / "link", OTHER, OTHER, follow_symlinks=False)
    (tmp_path / "mine").symlink_to("theirs/link")
    path = {"file": place / "link", "directory": place / "link" / "config.toml", "second link": tmp_path / "mine"}[
        where
    ]
    assert f"leads through a symbolic link of another user (uid {OTHER})" in refusal(path)
    os.chown(place / "link", 0, 0, follow_symlinks=False)
    assert load(path).origin == "elsewhere.example"


@needs_root
def test_a_link_to_what_root_owns_and_another_user_fills(tmp_path: Path) -> None:
    """The name of a set-uid program's process is a file of root's with a text of the user's: no way leads there."""
    (tmp_path / "site='a.test'").symlink_to("/bin/sleep")
    with subprocess.Popen([tmp_path / "site='a.test'", "60"]) as process:
        name = f"/proc/{process.pid}/comm"
        try:
            wait_until(lambda: Path(name).read_text() == "site='a.test'\n", "the new name")
            (tmp_path / "config.toml").symlink_to(name)
            os.chown(tmp_path / "config.toml", OTHER, OTHER, follow_symlinks=False)
            assert "symbolic link of another user" in refusal(tmp_path / "config.toml")
        finally:
            process.kill()


@needs_root
def test_a_pipe_of_another_user(tmp_path: Path) -> None:
    """What stands in it is that user's: it is refused before anything is waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    os.chown(pipe, OTHER, OTHER)
    with open(pipe, "r+b", buffering=0) as writer:
        writer.write(TEXT.encode())
        assert "belongs to another user" in refusal(pipe)
    for owner, mode, said in (
        (OTHER, 0o600, "belongs to another user"),
        (0, 0o622, "others can write to"),
        (0, 0o600, ""),
    ):
        reader, end = os.pipe()
        os.write(end, TEXT.encode())
        os.close(end)
        os.fchown(reader, owner, owner)
        os.fchmod(reader, mode)
        if said:
            assert said in refusal(f"/dev/fd/{reader}")
        else:
            assert load(f"/dev/fd/{reader}").origin == "elsewhere.example"
        os.close(reader)


@needs_root
def test_the_file_that_is_read_is_the_one_that_was_looked_at(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes places after it was opened is not read: what is asked is the descriptor."""
    theirs = tmp_path / "theirs.toml"
    theirs.write_text('api_url = "https://evil.example"\n')
    os.chown(theirs, OTHER, OTHER)
    look = os.fstat

    def swapped(fd: int) -> os.stat_result:
        found = look(fd)
        if theirs.exists() and os.readlink(f"/proc/self/fd/{fd}") == str(file):
            theirs.rename(file)
        return found

    monkeypatch.setattr(os, "fstat", swapped)
    assert load(file).origin == "elsewhere.example"
    assert "belongs to another user" in refusal(file)


@needs_root
def test_places_that_root_writes_to(tmp_path: Path) -> None:
    """A directory of another user anywhere above, or a link of one, may lead root elsewhere."""
    place = tmp_path / "home" / "a" / "b"
    place.mkdir(parents=True)
    trusted_files.refuse_foreign(str(place / "not" / "there"))
    os.chown(tmp_path / "home", OTHER, OTHER)
    for path in (tmp_path / "home", place, place / "not" / "there"):
        with pytest.raises(NotOurs, match=f"uid {OTHER}"):
            trusted_files.refuse_foreign(str(path))
