"""artifactfs.mount.sd_notify: the messages to systemd, at a socket like its own."""

import logging
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.mount.sd_notify import Notifier
from artifactfs.settings import take_notify_socket


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address as NOTIFY_SOCKET has it, and the socket that listens there."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@artifactfs-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1))
        listening.setblocking(False)
        yield address, listening


def test_the_words(systemd: tuple[str, socket.socket]) -> None:
    """Each word in its form (sd_notify(3)), the end said once."""
    address, listening = systemd
    notify = Notifier(address)
    notify.starting("asking a", 30.0)
    notify.ready("a at /b")
    notify.reloading()
    notify.failed("no")
    notify.stopping()
    notify.stopping()
    said = [listening.recv(4096).decode() for _ in range(5)]
    assert said[0] == "STATUS=asking a\nEXTEND_TIMEOUT_USEC=45000000"
    assert said[1] == "READY=1\nSTATUS=a at /b"
    assert said[2].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert said[3:] == ["STATUS=no", "STOPPING=1\nSTATUS=ending"]
    with pytest.raises(BlockingIOError):
        listening.recv(4096)


def test_no_text_is_a_field_of_its_own(systemd: tuple[str, socket.socket]) -> None:
    """A newline in a mount point or an error does not end a field."""
    address, listening = systemd
    Notifier(address).ready("a at /b\nMAINPID=1")
    assert listening.recv(4096).decode() == "READY=1\nSTATUS=a at /b\\nMAINPID=1"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative/path"])
def test_without_a_socket_nothing_is_sent(address: str | None) -> None:
    """Without an address, or with one of another kind, nothing is sent and nothing fails."""
    notify = Notifier(address)
    notify.starting("x", 1.0)
    notify.ready("x")
    notify.stopping()


def test_a_socket_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The mount goes on, and its log says so."""
    with caplog.at_level(logging.WARNING):
        Notifier(str(tmp_path / "none")).ready("x")
    assert "cannot write to systemd" in caplog.text


def test_the_address_is_taken_out_of_the_environment() -> None:
    """What the mount starts does not speak in its name."""
    environ = {"NOTIFY_SOCKET": "/run/x", "HOME": "/h"}
    assert take_notify_socket(environ) == "/run/x"
    assert environ == {"HOME": "/h"}
    assert take_notify_socket(environ) is None
