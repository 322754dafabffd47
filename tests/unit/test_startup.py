"""The modules that a command imports: help, the version and the Tab key are fast, and `mount` forks without threads."""

import os
import subprocess
import sys

import pytest

LATE = {"httpx", "trio", "pyfuse3", "ssl", "asyncio"}
TAB = {"_ARTIFACTFS_COMPLETE": "bash_complete", "COMP_WORDS": "artifactfs umount ", "COMP_CWORD": "2"}


def imported(*arguments: str, **env: str) -> set[str]:
    """Return the modules that `artifactfs` imports with these arguments."""
    command = [sys.executable, "-X", "importtime", "-m", "artifactfs", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **env})
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("mount", "--help"), ("completion", "bash")], ids=str
)
def test_what_prints_only_imports_no_service(arguments: tuple[str, ...]) -> None:
    """No client, no event loop, no FUSE; the modules of the commands are imported, and seen."""
    found = imported(*arguments)
    assert "artifactfs.cli.mounts" in found
    assert found & LATE == set()


def test_a_key_press_imports_no_service() -> None:
    """Tab after `umount`, which looks for live mounts."""
    found = imported(**TAB)
    assert "artifactfs.mount.mount_table" in found
    assert found & LATE == set()
