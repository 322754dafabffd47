"""The emulator as a child process, for `artifactfs demo`; it ends with its parent."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from artifactfs.errors import ExitCode, UserError

_END_S = 3.0


@dataclass(frozen=True)
class Lab:
    """The address of the emulator, and the keys that it accepts."""

    url: str
    api_key: str = field(repr=False)
    app_key: str = field(repr=False)


@contextmanager
def emulator() -> Iterator[Lab]:
    """Run the emulator with its sample on a free port of loopback. Raises UserError if it does not start."""
    process = subprocess.Popen(
        # -P: an artifactfs in the working directory is not our package.
        [sys.executable, "-P", "-m", "artifactfs.emulator", "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C on the terminal is for the mount, which then ends the emulator.
        start_new_session=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else b""
        try:
            ready = json.loads(line)
        except ValueError:
            fact, command = "the emulator did not start", "python -m artifactfs.emulator"
            raise UserError(ExitCode.BUG, fact, command=command) from None
        yield Lab(ready["url"], ready["api_key"], ready["app_key"])
    finally:
        # The end of its standard input ends the emulator, also if this process is killed.
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
