"""2.1: a copy out of a mount belongs to who made it: it is changed, written over and deleted like any other."""

import os
import stat
from pathlib import Path

import pytest

from artifactfs.emulator import sample
from tests.harness import Lab, Shell

# Each copies the run at $M/runs/$1 to $2, which may be there.
_WAYS = {
    "cp -r": 'mkdir -p "$2" && cp -r "$M/runs/$1/." "$2"',
    "cp -a": 'mkdir -p "$2" && cp -a "$M/runs/$1/." "$2"',
    "rsync -a": 'rsync -a "$M/runs/$1/" "$2"',
    "tar": 'mkdir -p "$2" && tar -C "$M/runs/$1" -cf - . | tar -C "$2" -xf -',
}


@pytest.mark.parametrize("way", _WAYS)
def test_a_copy_is_its_owners(way: str, lab: Lab, user_shell: Shell) -> None:
    """2.1: an ordinary user copies a run out, changes a file, copies over it again, and deletes it all, by any tool."""
    mounted = user_shell.mount()
    copy = Path(user_shell.path("home")) / "copy"
    mounted.sh(_WAYS[way], sample.RUN, copy).ok()
    for place in (copy, *copy.rglob("*")):
        shown = place.lstat()
        assert stat.S_IMODE(shown.st_mode) == (0o755 if stat.S_ISDIR(shown.st_mode) else 0o644), place
    file = copy / "lora_model" / "README.md"
    size = file.stat().st_size
    mounted.sh('echo mine >> "$1" && touch "${1%/*}/new"', file).ok()
    assert file.stat().st_size == size + 5

    mounted.sh(_WAYS[way], sample.RUN, copy).ok()
    assert file.stat().st_size == size
    found = {os.fsencode(path.relative_to(copy)): path.stat().st_size for path in copy.rglob("*") if path.is_file()}
    assert found == {b"lora_model/new": 0} | {path: s for path, s in lab.truth(sample.RUN).items() if s is not None}
    mounted.sh('rm -r "$1"', copy).ok()
    assert not copy.exists()
