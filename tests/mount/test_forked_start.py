"""How tests start most mounts (tests/forked.py): what comes of it is a mount as the command makes it."""

import os
import re

import pytest

from tests.harness import Mount, Shell


def shown(mounted: Mount) -> dict[str, object]:
    """Return what the kernel tells of a mount's process."""
    found: dict[str, object] = {}
    for name in ("cmdline", "comm", "environ", "status", "limits"):
        with open(f"/proc/{mounted.pid}/{name}", encoding="utf-8", errors="surrogateescape") as file:
            found[name] = file.read().rstrip("\0")
    # Those of the kernel's numbers that are not the process's own, or its memory's.
    found["status"] = re.findall(
        r"^(?:Umask|Uid|Groups|Seccomp|Sig\w+|NoNewPrivs|Cap\w+):.*$", str(found["status"]), re.MULTILINE
    )
    found["environ"] = sorted(str(found["environ"]).split("\0"))
    for name in ("cwd", "exe", "fd/0", "fd/1", "fd/2"):
        found[name] = os.readlink(f"/proc/{mounted.pid}/{name}")
    # The interpreter, where its own link may name it otherwise.
    found["cmdline"] = str(found["cmdline"]).split("\0")[1:]
    found["sid"] = os.getsid(mounted.pid) == mounted.pid
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount shows its environment to root alone")
def test_a_forked_start_is_the_command(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, environment without keys, signals, descriptors, session and working directory are the same."""
    mounted = shell.mount("--deadline", "7s")
    forked = shown(mounted)
    mounted.umount()
    monkeypatch.setenv("ARTIFACTFS_UNFORKED", "1")
    run = shown(shell.mount("--deadline", "7s", env={"ARTIFACTFS_UNFORKED": None}))
    assert forked == run
    assert shell.lab is not None
    assert not [pair for pair in forked["environ"] if shell.lab.api_key in pair]  # type: ignore[attr-defined]
