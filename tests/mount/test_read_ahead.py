"""How much the kernel reads ahead of a program through a real mount."""

import os

from artifactfs.emulator import sample
from artifactfs.mount import mount_table
from tests.harness import Lab, Mount, Shell, needs_root, wait_until


def read_ahead_file(mounted: Mount) -> str:
    """Return where the kernel says, and root may say, how far ahead it reads (KiB)."""
    mount = mount_table.mounted_at(mounted.point)
    assert mount is not None
    return f"/sys/class/bdi/{mount.device}/read_ahead_kb"


def read_ahead_kib(mounted: Mount) -> int:
    with open(read_ahead_file(mounted), encoding="ascii") as file:
        return int(file.read())


@needs_root
def test_a_mount_of_root_reads_ahead_further(shell: Shell) -> None:
    """What README says of root: 512 KiB, set after INIT, and still so when files have been read.

    Not in a container, as a rule: /sys is read-only there.
    """
    mounted = shell.mount()
    expected = 512 if os.access(read_ahead_file(mounted), os.W_OK) else 128
    wait_until(lambda: read_ahead_kib(mounted) == expected, "the kernel's read-ahead to be set")
    mounted.sh('cat "$M/runs/$1/lora_model/adapter_model.safetensors" | wc -c', sample.RUN).ok()
    assert read_ahead_kib(mounted) == expected


def test_a_mount_of_a_user_reads_ahead_as_ever(user_shell: Shell, lab: Lab) -> None:
    """What README says of other users: the kernel's 128 KiB; that it cannot be set is no trouble."""
    mounted = user_shell.mount()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert read_ahead_kib(mounted) == 128
