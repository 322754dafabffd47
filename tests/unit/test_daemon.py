"""artifactfs.mount.daemon: the error of the child reaches the parent with its fields."""

import subprocess
import sys

PROGRAM = """
from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import daemon

def serve(parent):
    raise UserError(ExitCode.NOT_WRITABLE, "a fact", "a fix", "a subject", "a command")

try:
    daemon.start(serve, "the log", on_waiting=print)
except UserError as error:
    print(error.code.name, error.fact, error.fix, error.subject, error.command, sep="|")
"""


def test_the_fields_of_the_childs_error_reach_the_parent() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "NOT_WRITABLE|a fact|a fix|a subject|a command\n"
