"""docs/operations.md, and README on fstab: its fstab lines, units and commands are taken by those that they are for."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from artifactfs.cli import cli
from artifactfs.cli.mount_helper import parse
from artifactfs.settings import SETTINGS

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
_INDENTED = re.findall(r"(?m)(?:^(?: {4}.*)?\n)+", PAGE)
BLOCKS = ["\n".join(line[4:] for line in block.splitlines()) for block in _INDENTED if block.strip()]
FSTAB = [line for line in PAGE.splitlines() if re.match(r"    \S+ +/\S+ +artifactfs ", line)]
# The line that README appends, as user alice.
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
[_appended] = re.findall(r'echo "(.* artifactfs .*)" \| sudo tee -a /etc/fstab', README)
APPENDED = _appended.replace("$USER", "alice").replace("$(id -gn)", "alice")
UNITS = {"mnt-lab.mount": "[Mount]", "mnt-lab.automount": "[Automount]"}


def test_there_is_something_to_test() -> None:
    assert len(FSTAB) == 4
    assert all(sum(mark in block for block in BLOCKS) == 1 for mark in UNITS.values())


@pytest.mark.parametrize("line", [*FSTAB, APPENDED])
def test_lines_of_fstab(line: str, tmp_path: Path) -> None:
    """systemd makes a unit of it, and the helper knows every option that would reach it."""
    (tmp_path / "fstab").write_text(line + "\n")
    generator = "/lib/systemd/system-generators/systemd-fstab-generator"
    env = {"SYSTEMD_FSTAB": str(tmp_path / "fstab"), "SYSTEMD_LOG_TARGET": "console"}
    done = subprocess.run([generator, *[str(tmp_path)] * 3], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    spec, point, _, options = line.split()[:4]
    unit = (tmp_path / f"{point.strip('/').replace('/', '-')}.mount").read_text()
    assert f"What={spec}\n" in unit
    known = {setting.name for setting in SETTINGS if setting.flag} | {"config", "nofail", "_netdev"}
    assert parse([spec, point, "-o", options]).names() <= known


def test_units(tmp_path: Path) -> None:
    """systemd has nothing against the units."""
    for name, mark in UNITS.items():
        (tmp_path / name).write_text(next(block for block in BLOCKS if mark in block))
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "info"}
    command = ["systemd-analyze", "--man=no", "verify", *[str(tmp_path / name) for name in UNITS]]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "mnt-lab" in line] == []


def test_commands() -> None:
    """Each command that is shown exists, with its options."""
    typed = re.findall(r"(?m)\bartifactfs ((?:service|completion|mount|umount) [^#`)>\n]*)", "\n".join(BLOCKS))
    assert len(typed) >= 5
    for line in typed:
        words = shlex.split(line.replace('"', ""))
        command: click.Command = cli
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        options = {name for param in command.params for name in param.opts}
        assert {word for word in words if word.startswith("-")} <= options, line
