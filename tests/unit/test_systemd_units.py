"""artifactfs.cli.systemd_units: the systemd units, as systemd itself reads them."""

import os
import re
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from artifactfs.cli import systemd_units
from artifactfs.errors import ExitCode, UserError

SHIPPED = ["artifactfs.service", "artifactfs@.service"]
# Exit codes that another try may fix: it is tried again. Everything else waits for the user.
TRIED_AGAIN = {ExitCode.BUG, ExitCode.UNREACHABLE, ExitCode.SERVICE_FAILED, ExitCode.SYSTEM_FAILED}
# Of commands that are no mount; and what is no failure.
NOT_OF_A_MOUNT = {ExitCode.OK, ExitCode.NOT_MOUNTED, ExitCode.UMOUNT_FAILED, ExitCode.INCOMPLETE}
AWKWARD = "a \"b\" %h $HOME \\n ü\n'c' ; x"


def shipped(name: str) -> str:
    return resources.files("artifactfs").joinpath("systemd", name).read_text(encoding="utf-8")


def verified(home: Path, *names: str) -> str:
    """Return what systemd has to say against units in `home`, nothing if it is content."""
    program = home / ".local" / "bin" / "artifactfs"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    paths = [str(home / name) for name in names]
    # Its own directories only: what else this machine has is not this test's matter.
    env = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": os.defpath, "SYSTEMD_LOG_LEVEL": "info"}
    done = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "--recursive-errors=yes", "verify", *paths],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr + done.stdout + (f"exit code {done.returncode}" if done.returncode else "")


@pytest.mark.parametrize("name", SHIPPED)
def test_systemd_takes_what_is_shipped(name: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing against the files that come with the package, and would say so."""
    (tmp_path / name).write_text(shipped(name))
    assert verified(tmp_path, name) == ""
    (tmp_path / name).write_text(shipped(name).replace("ExecReload=", "ExecRelaod="))
    assert "ExecRelaod" in verified(tmp_path, name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_lasting_failure_is_not_retried(name: str) -> None:
    """RestartPreventExitStatus has each exit code of a mount that the user has to act on."""
    (line,) = re.findall(r"(?m)^RestartPreventExitStatus=(.*)$", shipped(name))
    other = {code for code in ExitCode if code.name in ("UNHEALTHY", "NO_ANSWER", "DESKTOP_FAILED")}
    assert set(map(int, line.split())) == set(ExitCode) - TRIED_AGAIN - NOT_OF_A_MOUNT - other


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_that_breaks_fuse(name: str) -> None:
    """No setting that gives the service a mount namespace of its own, or takes fusermount3 its set-uid bit."""
    keys = set(re.findall(r"(?m)^(\w+)=", shipped(name)))
    assert keys & {"Type", "ExecReload", "Restart", "UMask"} == {"Type", "ExecReload", "Restart", "UMask"}
    breaking = r"Private|Protect|ReadOnly|ReadWrite|Inaccessible|Bind|Temporary|Root|NoNew|Restrict|SystemCall|Dynamic"
    assert not [key for key in keys if re.match(breaking + "|MemoryDeny|Lock|CapabilityBounding", key)]


@pytest.mark.parametrize("profile", [None, "eu", AWKWARD, "-a/b", ".x", "ü"])
def test_any_profile_and_place(profile: str | None, tmp_path: Path) -> None:
    """Whatever they are called, systemd takes the unit, and its name."""
    made = systemd_units.make(str(tmp_path), ("/bin/sh",), f"/tmp/{AWKWARD}", profile, f"/c {AWKWARD}")
    systemd_units.install(made)
    assert verified(tmp_path, made.name) == ""
    if profile is not None:
        unescaped = subprocess.run(
            ["systemd-escape", "--unescape", "--instance", made.name], capture_output=True, text=True, check=True
        ).stdout
        assert unescaped == profile + "\n"
    assert systemd_units.uninstall(str(tmp_path), profile) == made.path
    assert not os.path.exists(made.path)


def test_only_the_paths_are_other(tmp_path: Path) -> None:
    """What is written is what is shipped, with its own paths."""
    made = systemd_units.make(str(tmp_path), ("/opt/artifactfs",), "/mnt/lab", "eu", None)
    changed = [line for line in made.text.splitlines() if line not in shipped("artifactfs@.service").splitlines()]
    assert changed[1:] == [
        "Description=Artifacts of Datadog Model Lab at /mnt/lab, profile %I",
        'ExecStartPre=-mkdir -p "/mnt/lab"',
        'ExecStart="/opt/artifactfs" "mount" "-f" "--wait" "--profile" "eu" "/mnt/lab"',
    ]
    assert changed[0].startswith("# Written by `artifactfs service install`")


def test_a_foreign_unit_is_left_alone(tmp_path: Path) -> None:
    """A file that `install` did not write is neither written over nor deleted; its own is."""
    made = systemd_units.make(str(tmp_path), ("/bin/true",), "/mnt", None, None)
    systemd_units.install(made)
    systemd_units.install(made)
    (tmp_path / made.name).write_text("[Unit]\n")
    acts: list[Callable[[], object]] = [
        lambda: systemd_units.install(made),
        lambda: systemd_units.uninstall(str(tmp_path), None),
    ]
    for act in acts:
        with pytest.raises(UserError, match="was not written by") as caught:
            act()
        assert caught.value.code is ExitCode.NOT_WRITABLE
    assert (tmp_path / made.name).read_text() == "[Unit]\n"


@pytest.mark.parametrize("point", ["/mnt/a", f"/tmp/{AWKWARD}", "/tmp/\udcff\n", r"/a\x41\\"])
def test_what_a_unit_replaces(point: str, tmp_path: Path) -> None:
    """Where the unit before it mounted, unless that is the same place, or there was none."""

    def install(point: str, profile: str | None = None) -> str | None:
        return systemd_units.install(systemd_units.make(str(tmp_path), ("/bin/true",), point, profile, None))

    assert install(point) is None
    assert install(point) is None
    assert install("/mnt/b", "eu") is None
    assert install("/mnt/b") == point


def test_a_unit_that_is_not_there(tmp_path: Path) -> None:
    """`uninstall` of none says which there are."""
    with pytest.raises(UserError, match="there are none of artifactfs"):
        systemd_units.uninstall(str(tmp_path / "none"), None)
    systemd_units.install(systemd_units.make(str(tmp_path), ("/bin/true",), "/mnt", "eu", None))
    with pytest.raises(UserError, match=r"there is no unit .*artifactfs\.service; there are artifactfs@eu\.service"):
        systemd_units.uninstall(str(tmp_path), None)


def test_an_enabled_unit_goes_as_a_whole(tmp_path: Path) -> None:
    """What `systemctl enable` made is taken away with the unit."""
    made = systemd_units.make(str(tmp_path), ("/bin/true",), "/mnt", None, None)
    systemd_units.install(made)
    link = tmp_path / "default.target.wants" / made.name
    link.parent.mkdir()
    link.symlink_to(made.path)
    systemd_units.uninstall(str(tmp_path), None)
    assert not os.path.lexists(link)
