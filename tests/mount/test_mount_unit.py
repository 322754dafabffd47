"""Mount units, as lines of fstab become: a real systemd calls the real mount(8), which calls the helper."""

import os
from collections.abc import Iterator

import pytest

from artifactfs.emulator import sample
from tests.harness import ARTIFACTFS, FUSE_TYPE, Lab, Shell, mount_type, needs_root, wait_until
from tests.mount.test_service import Manager, manager, write_config
from tests.processes import command_line

pytestmark = needs_root
__all__ = ["manager"]

# The helper beside mount(8)'s others, in this namespace. $1: an empty directory; $2: the helper.
_INSTALLED = """
set -e
sbin=$(realpath /sbin)
mount --bind "$sbin" "$1"
mount -t tmpfs none "$sbin"
ln -s "$1"/* "$sbin"
ln -sf "$2" "$sbin/mount.artifactfs"
mount -t tmpfs none /mnt
mkdir /mnt/lab
"""


@pytest.fixture
def at_boot(manager: Manager, shell: Shell, lab: Lab) -> Iterator[Manager]:
    """A systemd that has the helper and units made of an fstab by systemd's own generator."""
    helper = os.path.join(os.path.dirname(ARTIFACTFS), "mount.artifactfs")
    manager.run("sh", "-c", _INSTALLED, "sh", shell.make_directory("sbin"), helper).ok()
    write_config(shell, lab)
    yield manager
    manager.systemctl("stop", "mnt-lab.mount")


def generate(manager: Manager, shell: Shell, line: str) -> str:
    """Have systemd make units of a line of fstab; returns the mount unit's text."""
    with open(shell.path("fstab"), "w", encoding="utf-8") as file:
        file.write(line + "\n")
    units = shell.make_directory("config/systemd/user")
    generator = "/lib/systemd/system-generators/systemd-fstab-generator"
    manager.run("env", f"SYSTEMD_FSTAB={shell.path('fstab')}", generator, units, units, units).ok()
    manager.systemctl("daemon-reload").ok()
    with open(os.path.join(units, "mnt-lab.mount"), encoding="utf-8") as file:
        return file.read()


def test_a_line_of_fstab(at_boot: Manager, shell: Shell, lab: Lab) -> None:
    """What systemd makes of an fstab line mounts; the mount outlives the start; `systemctl stop` ends it."""
    config = os.path.join(shell.path("config"), "artifactfs", "config.toml")
    text = generate(
        at_boot, shell, f"eu /mnt/lab artifactfs _netdev,nofail,config={config},x-systemd.mount-timeout=5min 0 0"
    )
    # Both words reach the helper, and the time systemd itself.
    assert f"Options=_netdev,nofail,config={config}" in text
    assert "TimeoutSec=5min" in text
    at_boot.systemctl("start", "mnt-lab.mount").ok()
    assert mount_type("/mnt/lab", at_boot.pid) == FUSE_TYPE
    assert at_boot.run("findmnt", "-n", "-o", "SOURCE", "/mnt/lab").ok().text == "eu\n"
    assert "lora_model\n" in at_boot.run("ls", f"/mnt/lab/runs/{sample.RUN}").ok().text
    assert at_boot.show("mnt-lab.mount", "ActiveState") == "active"
    at_boot.systemctl("stop", "mnt-lab.mount").ok()
    assert mount_type("/mnt/lab", at_boot.pid) is None
    wait_until(lambda: len(serving(shell)) == 0, "the end of the mount's process")


def _has_autofs() -> bool:
    with open("/proc/filesystems", encoding="ascii") as known:
        return "autofs" in known.read().split()


def serving(shell: Shell) -> list[int]:
    return [pid for pid in shell.processes() if "mount.artifactfs\0" in command_line(pid)]


def test_an_automount(at_boot: Manager, shell: Shell, lab: Lab) -> None:
    """With x-systemd.automount it is mounted at the first lookup, and not before.

    Some small kernels have no autofs: then systemd refuses that unit, and the one that it would start mounts.
    """
    config = os.path.join(shell.path("config"), "artifactfs", "config.toml")
    generate(at_boot, shell, f"eu /mnt/lab artifactfs _netdev,noauto,x-systemd.automount,config={config} 0 0")
    started = at_boot.systemctl("start", "mnt-lab.automount")
    if _has_autofs():
        started.ok()
        assert mount_type("/mnt/lab", at_boot.pid) == "autofs"
    else:
        assert "not supported" in started.err
        assert mount_type("/mnt/lab", at_boot.pid) is None
    assert lab.total() == 0
    if not _has_autofs():
        at_boot.systemctl("start", "mnt-lab.mount").ok()
    assert "lora_model\n" in at_boot.run("ls", f"/mnt/lab/runs/{sample.RUN}").ok().text
    assert mount_type("/mnt/lab", at_boot.pid) == FUSE_TYPE
    at_boot.systemctl("stop", "mnt-lab.automount", "mnt-lab.mount").ok()
    assert mount_type("/mnt/lab", at_boot.pid) is None


def test_systemd_ends_what_takes_too_long(at_boot: Manager, shell: Shell, own_lab: Lab) -> None:
    """5.8: the boot is not held up: past x-systemd.mount-timeout systemd ends a mount that waits; nothing is left."""
    own_lab.stop()
    write_config(shell, own_lab)
    config = os.path.join(shell.path("config"), "artifactfs", "config.toml")
    options = f"_netdev,nofail,wait,deadline=2s,config={config},x-systemd.mount-timeout=3s"
    generate(at_boot, shell, f"eu /mnt/lab artifactfs {options} 0 0")
    assert at_boot.systemctl("start", "mnt-lab.mount").code != 0
    assert at_boot.show("mnt-lab.mount", "Result") == "timeout"
    wait_until(lambda: len(serving(shell)) == 0, "the end of the helper")
    assert mount_type("/mnt/lab", at_boot.pid) is None
