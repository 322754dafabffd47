"""How much the kernel reads ahead of a program through a real mount."""

from artifactfs.emulator import sample
from artifactfs.mount import mount_table
from tests.harness import Lab, Mount, Shell, needs_root


def read_ahead_file(mounted: Mount) -> str:
    """Return where the kernel says, and root may say, how far ahead it reads (KiB)."""
    mount = mount_table.mounted_at(mounted.point)
    assert mount is not None
    return f"/sys/class/bdi/{mount.device}/read_ahead_kb"


def read_ahead_kib(mounted: Mount) -> int:
    with open(read_ahead_file(mounted), encoding="ascii") as file:
        return int(file.read())


@needs_root
def test_a_mount_of_root_reads_ahead_as_ever(shell: Shell) -> None:
    """What docs/using.md says: 128 KiB, which a random page of a mapping costs."""
    mounted = shell.mount()
    mounted.sh('cat "$M/runs/$1/lora_model/adapter_model.safetensors" | wc -c', sample.RUN).ok()
    assert read_ahead_kib(mounted) == 128


def test_a_mount_of_a_user_reads_ahead_as_ever(user_shell: Shell, lab: Lab) -> None:
    """The same in other users' mounts."""
    mounted = user_shell.mount()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert read_ahead_kib(mounted) == 128
