"""artifactfs.settings.bounded_read: whatever a setting names as a file, reading it is over in time."""

import array
import errno
import fcntl
import os
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import Secret, bounded_read
from tests.processes import wait_until

KEYS = {"DD_API_KEY": "api", "DD_APP_KEY": "app"}
# What an editor on Windows begins a file with.
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    """A named pipe without reader and writer."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    return str(tmp_path / "pipe")


@pytest.fixture
def silent(pipe: str) -> Iterator[str]:
    """A pipe whose writer says nothing."""
    fd = os.open(pipe, os.O_RDWR)
    yield pipe
    os.close(fd)


def through_a_pipe(text: bytes) -> str:
    """Return the path of a pipe with this in it, as `<(...)` makes one. It stays open in this process."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return f"/dev/fd/{reader}"


def waiting_in(pipe: int) -> int:
    """Return how many bytes a pipe holds."""
    return int(array.array("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])


def failure(path: str, limit_s: float = 30.0) -> OSError:
    with pytest.raises(OSError, match=r"it|its") as caught:
        bounded_read.read(path, most_bytes=100, limit_s=limit_s)
    return caught.value


def refusal(flags: dict[str, str | bool | None], config: str = os.devnull) -> UserError:
    with pytest.raises(UserError) as caught:
        settings.load(flags, config_file=config, environ=KEYS)
    return caught.value


def test_a_file_and_its_end(tmp_path: Path) -> None:
    """All of it, up to as much as it may have; a byte order mark is no part of it."""
    path = tmp_path / "file"
    for written, found in ((b"", b""), (b"x" * 100, b"x" * 100), (BOM + b"x", b"x")):
        path.write_bytes(written)
        assert bounded_read.read(str(path), most_bytes=100, limit_s=0)[0] == found
    path.write_bytes(b"x" * 101)
    assert failure(str(path)).strerror == "it is larger than 100 B"
    assert failure("/dev/zero").errno == errno.EFBIG
    assert bounded_read.read(os.devnull, most_bytes=100, limit_s=0)[0] == b""


def test_a_pipe_without_a_writer(pipe: str) -> None:
    """It is over at once: no writer that is not there yet is waited for."""
    assert failure(pipe).strerror == "it is a pipe without a writer"


def test_a_pipe_whose_writer_says_nothing(silent: str) -> None:
    """It is waited for as long as was said."""
    assert failure(silent, limit_s=0.05).strerror == "its end did not come within 0.05 s"


def test_a_pipe_that_is_not_wanted(silent: str) -> None:
    """Where it would be read twice, nothing is taken from it."""
    with open(silent, "r+b", buffering=0) as file:
        file.write(b"x")
        assert failure(silent, limit_s=0).strerror == "it is a pipe, not a regular file"
        assert file.read(1) == b"x"


def test_a_writer_that_takes_its_time() -> None:
    """What comes in pieces is one text, and ends when the writer has closed the pipe."""
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb", buffering=0) as file:
            file.write(b"one ")
            wait_until(lambda: waiting_in(reader) == 0, "the first piece to be taken")
            file.write(b"two")

    thread = threading.Thread(target=write)
    thread.start()
    assert bounded_read.read(f"/dev/fd/{reader}", most_bytes=100, limit_s=30)[0] == b"one two"
    thread.join()
    os.close(reader)


def test_a_config_file_that_is_none(pipe: str) -> None:
    """A pipe without a writer, a device without an end: said at once, and no memory is filled."""
    error = refusal({}, pipe)
    assert error.code is ExitCode.BAD_CONFIG
    assert str(error) == f"{pipe}: cannot read the config file: it is a pipe without a writer"
    error = refusal({}, "/dev/zero")
    assert error.code is ExitCode.BAD_CONFIG
    assert str(error) == "/dev/zero: cannot read the config file: it is larger than 1 MiB"


def test_a_config_file_through_a_pipe() -> None:
    """`--config <(...)`: it is read once, and what it says counts for good, a key as well."""
    text = b'site = "datadoghq.eu"\napi_key = "from-a-pipe"\n'
    found = settings.load({}, config_file=through_a_pipe(text), environ={"DD_APP_KEY": "app"})
    assert found.site == "datadoghq.eu"
    known, lasting = found.keys.read()
    assert known.api_key == Secret("from-a-pipe")
    assert lasting.read_again(known, commands=True, stop=threading.Event()) == known


def test_a_pipe_is_not_read_for_a_profiles_name(silent: str) -> None:
    """At a key press, and where the mount will read it: it is left alone, without a wait."""
    with pytest.raises(UserError, match="it is a pipe, not a regular file"):
        settings.find_profiles(silent, environ={})


def test_a_key_file_that_is_none(pipe: str) -> None:
    """A pipe without a writer, a device without an end."""
    error = refusal({"api_key_file": pipe})
    assert error.code is ExitCode.KEYS_MISSING
    assert str(error) == f"--api-key-file: cannot read the key from {pipe}: it is a pipe without a writer"
    assert "it is larger than 4 KiB" in str(refusal({"api_key_file": "/dev/zero"}))


def test_a_pipe_in_the_place_of_a_key_file(tmp_path: Path) -> None:
    """A mount that runs does not wait for it: programs would wait, too. It says what is wrong."""
    path = tmp_path / "key"
    path.write_text("first")
    found = settings.load({"api_key_file": str(path)}, config_file=os.devnull, environ=KEYS)
    known, _ = found.keys.read()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"cannot read the key from .*: it is a pipe, not a regular file"):
        found.keys.read_again(known, commands=True, stop=threading.Event())


def test_files_that_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Notepad writes one, in a config file and in a key file."""
    config, key = tmp_path / "config.toml", tmp_path / "key"
    config.write_bytes(BOM + b'site = "datadoghq.eu"\r\n')
    key.write_bytes(BOM + b"from-file\r\n")
    found = settings.load({"api_key_file": str(key)}, config_file=str(config), environ=KEYS)
    assert found.site == "datadoghq.eu"
    assert found.api_key == Secret("from-file")
