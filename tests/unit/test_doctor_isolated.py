"""artifactfs.doctor.isolated: a function in a child process, for so long and no longer. And what text may be shown."""

import os
import signal
import time
from pathlib import Path

import pytest

from artifactfs.doctor.findings import Finding, Mark, good, refused
from artifactfs.doctor.isolated import run_isolated
from artifactfs.errors import ExitCode, UserError

# pytest-xdist has threads, which the program itself has not when it forks.
pytestmark = pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")

FOUND = Finding("x", Mark.WARNING, "a\N{SNOWMAN}", "mend")


def test_what_it_found() -> None:
    assert run_isolated(lambda: [FOUND], 30) == [FOUND]
    assert run_isolated(list, 30) == []


def test_much_that_it_found() -> None:
    """More than a pipe holds at once."""
    many = [Finding("x", Mark.GOOD, "y" * 1000)] * 500
    assert run_isolated(lambda: many, 30) == many


def test_it_is_another_process(tmp_path: Path) -> None:
    """What it does to itself stays there, and what it prints is nowhere."""

    def look() -> list[Finding]:
        os.chdir(tmp_path)
        os.write(1, b"printed")
        return [good("x", str(os.getpid()))]

    before = os.getcwd()
    found = run_isolated(look, 30)
    assert found is not None
    assert found[0].fact != str(os.getpid())
    assert os.getcwd() == before


def test_one_that_hangs(tmp_path: Path) -> None:
    """It is given up, killed and gone: reading from a pipe into which no process writes."""
    pipe, pid = tmp_path / "pipe", tmp_path / "pid"
    os.mkfifo(pipe)

    def look() -> list[Finding]:
        pid.write_text(str(os.getpid()))
        pipe.read_text()
        return []

    assert run_isolated(look, 0.5) is None
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_one_that_breaks() -> None:
    def look() -> list[Finding]:
        raise ValueError("oops")

    with pytest.raises(RuntimeError, match="ValueError: oops"):
        run_isolated(look, 30)


def test_one_that_dies() -> None:
    def look() -> list[Finding]:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        return []

    with pytest.raises(RuntimeError, match="without a result"):
        run_isolated(look, 30)


def test_what_is_shown() -> None:
    """A finding has a text as it is, except for halves of characters, which its JSON could not hold."""
    assert good("x", "a\x1b[31m\nb\udcff c späth ✓").fact == "a\x1b[31m\nb\\udcff c späth ✓"


@pytest.mark.parametrize(
    ("error", "fact", "fix"),
    [
        (UserError(ExitCode.USAGE, "/a: b; c is missing", "give it; or not"), "/a: b; c is missing", "give it; or not"),
        (UserError(ExitCode.USAGE, "it lacks", "run `x` as root", command="sudo x"), "it lacks", "sudo x"),
        (UserError(ExitCode.USAGE, "it is no size", subject="--x"), "--x: it is no size", None),
    ],
)
def test_an_error_of_mount(error: UserError, fact: str, fix: str | None) -> None:
    """The fact with its subject, whatever is in it; the command, or else the fix in words."""
    assert refused("x", error) == Finding("x", Mark.FAULT, fact, fix)
