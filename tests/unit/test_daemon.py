"""artifactfs.mount.daemon: what the child reports reaches the parent."""

import subprocess
import sys

PROGRAM = """
from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import daemon

def serve(parent):
    parent.waiting("a reason")
    parent.warn("a warning")
    raise UserError(ExitCode.NOT_WRITABLE, "a fact", "a fix", "a subject", "a command")

try:
    daemon.start(serve, "the log", on_waiting=print, on_warning=print)
except UserError as error:
    print(error.code.name, error.fact, error.fix, error.subject, error.command, sep="|")
"""


def test_what_the_child_reports_reaches_the_parent() -> None:
    """What it waits for, its warnings, and the fields of its error, in their order."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "a reason\na warning\nNOT_WRITABLE|a fact|a fix|a subject|a command\n"
