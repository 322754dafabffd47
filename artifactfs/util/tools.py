"""Runs small programs of the system, which answer at once: with a time limit, and one sentence where they fail."""

import subprocess


class ToolFailed(Exception):
    """A program failed, is missing, or took too long. `str()`: "gsettings failed: …"."""

    def __init__(self, fact: str, *, is_missing: bool = False) -> None:
        super().__init__(fact)
        self.is_missing = is_missing


def output_of(program: str, *arguments: str, limit_s: float) -> str:
    """Return what a program prints on standard output. Raises ToolFailed."""
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
            text=True,
            errors="surrogateescape",
        )
    except FileNotFoundError:
        raise ToolFailed(f"{program} is missing", is_missing=True) from None
    except OSError as error:
        raise ToolFailed(f"{program} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ToolFailed(f"{program} did not end within {limit_s:g} s") from None
    if done.returncode != 0:
        raise ToolFailed(f"{program} failed: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout
