"""The emulator as a child process, for `artifactfs demo`. It ends with the process that started it."""

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
    """Where the emulator is, and the keys that it takes."""

    url: str
    api_key: str = field(repr=False)
    app_key: str = field(repr=False)


@contextmanager
def emulator() -> Iterator[Lab]:
    """Run the emulator with its sample on a free port of loopback. Raises UserError if it does not start."""
    process = subprocess.Popen(
        # -P: a directory called artifactfs where the user stands is not our package.
        [sys.executable, "-P", "-m", "artifactfs.emulator", "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C on the terminal is for the mount, which then ends this.
        start_new_session=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else b""
        try:
            ready = json.loads(line)
        except ValueError:
            raise UserError(
                ExitCode.BUG, "the emulator did not start", command="python -m artifactfs.emulator"
            ) from None
        yield Lab(ready["url"], ready["api_key"], ready["app_key"])
    finally:
        # Its standard input closes, also when this process is killed; it ends by that.
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
