"""artifactfs.settings.key_command: a program that prints a key, however it behaves, is over in time."""

import os
import sys
import threading
from pathlib import Path

import pytest

from artifactfs.settings.key_command import CommandFailed, answer
from tests.processes import wait_until

ENVIRON = {"PATH": os.environ["PATH"], "LC_ALL": "C"}


def run(script: str, *, limit_s: float = 30.0, terminal: bool = False, stop: threading.Event | None = None) -> bytes:
    return answer(("sh", "-c", script), ENVIRON, limit_s=limit_s, terminal=terminal, stop=stop)


def failure(script: str, **more: float | bool | threading.Event) -> str:
    with pytest.raises(CommandFailed) as caught:
        run(script, **more)  # type: ignore[arg-type]  # the tests' own arguments
    assert caught.value.__context__ is None or "s3cr3t" not in str(caught.value.__context__)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_it_printed() -> None:
    """All of its standard output, in one piece or in many; its standard error does not matter where it goes well."""
    assert run("printf one; echo two >&2; sleep 0.01; printf three") == b"onethree"
    assert run("head -c 65000 /dev/zero") == bytes(65000)
    assert run("true") == b""
    assert run("exec 1>&- 2>&-; sleep 0.01") == b""


def test_it_has_no_input_and_a_place_of_its_own() -> None:
    """Nothing to read, `/` to stand in, the environment that it is given."""
    assert run("cat; pwd; echo $0 ${HOME-none}") == b"/\nsh none\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_prompt_on_the_terminal(terminal: bool) -> None:
    """At the mount it stays in our session, and can; later it is in one of its own."""
    session = int(run("cut -d' ' -f6 /proc/$$/stat", terminal=terminal))
    assert (session == os.getsid(0)) == terminal


def test_failures() -> None:
    """Exit code or signal, and what it said of it on its standard error: printable, in one line, cut."""
    assert failure("echo s3cr3t; exit 3") == "it ended with exit code 3"
    assert failure("kill -TERM $$") == "it was ended by SIGTERM"
    assert failure("kill -40 $$") == "it was ended by signal 40"
    said = failure("printf 'a\\nb \\033[1mc\\377' >&2; exit 1", terminal=True)
    assert said == "it ended with exit code 1: a b [1mc\N{REPLACEMENT CHARACTER}"
    assert len(failure("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", terminal=True)) < 250
    # A mount that runs would keep it in its log, and it may be a key: `sh -x` prints those.
    assert failure("echo s3cr3t >&2; exit 1") == "it ended with exit code 1"
    assert failure("yes s3cr3t") == "it prints more than a key"
    with pytest.raises(CommandFailed, match="cannot be started: No such file"):
        answer(("/none/such",), ENVIRON, limit_s=1, terminal=False)
    with pytest.raises(CommandFailed, match="cannot be started: Permission denied"):
        answer(("/etc/passwd",), ENVIRON, limit_s=1, terminal=False)


def test_its_time_is_limited() -> None:
    """One that hangs is ended, and it is said after how long."""
    assert failure("exec sleep 600", limit_s=0.2).startswith("it did not end within 0.2 s")
    assert failure("exec sleep 600", limit_s=0.2, terminal=True).startswith("it did not end within 0.2 s")


def test_it_can_be_stopped(tmp_path: Path) -> None:
    """As when the mount ends: it is killed, with all that it started."""
    stop, place = threading.Event(), tmp_path / "pid"

    def stop_when_it_runs() -> None:
        wait_until(lambda: place.exists() and place.read_text().endswith("\n"), "the start of the command")
        stop.set()

    stopping = threading.Thread(target=stop_when_it_runs)
    stopping.start()
    assert failure(f"sleep 600 & echo $! > {place}; wait", stop=stop) == "its answer is not wanted any more"
    stopping.join()
    wait_until(lambda: gone(int(place.read_text())), "the end of what the command started")


def test_a_helper_that_keeps_the_pipes(tmp_path: Path) -> None:
    """An agent that stays behind (gpg-agent) does not keep us, and is left alone."""
    assert run(f"sleep 600 & echo $! > {tmp_path}/pid; echo key") == b"key\n"
    pid = int((tmp_path / "pid").read_text())
    assert not gone(pid)
    os.kill(pid, 9)


def test_nothing_of_ours_is_inherited() -> None:
    """No descriptor but the three."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        code = "import os; print(sorted(set(os.listdir('/proc/self/fd')) - {'0', '1', '2'}))"
        out = answer((sys.executable, "-c", code), ENVIRON, limit_s=30, terminal=False)
    finally:
        os.close(reader)
        os.close(writer)
    assert out == b"['3']\n"  # of the listing itself


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped by its new parent or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True
