"""artifactfs.mount.mount_table: the kernel's mount table, whatever others have mounted and however they called it."""

import contextlib
import json
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artifactfs.mount import mount_table
from artifactfs.mount.mount_table import Mount
from tests.harness import needs_root, run

# Any name except for NUL, which no path has.
NAMES = st.binary(max_size=300).map(lambda name: name.replace(b"\0", b""))
FUSE = b"fuse.artifactfs"


def escaped(name: bytes) -> bytes:
    """Write a name as the kernel does (fs/proc_namespace.c): blanks, line feeds, "#" and backslashes in octal."""
    return re.sub(rb"[ \t\n\\#]", lambda match: b"\\%03o" % match[0][0], name)


def row(point: bytes = b"/mnt", fstype: bytes = FUSE, source: bytes = b"a", optional: bytes = b"", root: bytes = b"/",
        more: bytes = b"ro,user_id=7,group_id=7") -> bytes:  # fmt: skip
    fields = [b"40 22 0:50", escaped(root), escaped(point), b"ro,nosuid", *([optional] if optional else [])]
    return b" ".join([*fields, b"-", escaped(fstype), escaped(source), more])


@given(NAMES, NAMES, NAMES, st.integers(0, 5))
@example(b"x\ry", b" - fuse.artifactfs x", b"ext4", 0)
@example(b"x - fuse.artifactfs y ro,user_id=0", b"-", b"fuse.artifactfs - ", 1)
@example(b"\x85\x1c\x0b\x0c\xe2\x80\xa8", b"\xff\r\n", FUSE, 2)
@example(b"", b"", b"", 0)
def test_a_row_with_any_names(point: bytes, source: bytes, fstype: bytes, optional: int) -> None:
    """Mount point, source and type are reported as they are, none of them for another, whatever is in them."""
    marks = b" ".join([b"shared:1", b"master:2", b"propagate_from:3", b"unbindable", b"x:-"][:optional])
    found = mount_table.parse(row(b"/" + point, fstype, source, marks))
    assert found == Mount(
        "0:50", os.fsdecode(b"/" + point), os.fsdecode(fstype), os.fsdecode(source), 7, root="/"
    )  # fmt: skip


@given(st.binary(max_size=200))
@example(b"40 22 0:50 / /mnt ro - ")
@example(b"40 22 0:50 / /mnt ro fuse.artifactfs a ro")
@example(b"- - - - - - - - -")
@example(b"40 22 0:50 / /mnt\\777 ro - a b user_id=99999999999")
def test_rows_that_cannot_be_understood(text: bytes) -> None:
    """They are left out, or reported for what they are; none is an error."""
    found = mount_table.parse(text)
    assert found is None or isinstance(found.point, str)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\r", b"40", b"40 22 0:50 / /mnt", b"40 22 0:50 / /mnt ro", b"40 22 0:50 / /mnt ro -",
        b"40 22 0:50 / /mnt ro - fuse.artifactfs", b"y ro,relatime - tmpfs none rw", b"40 22 0:50 / - /mnt ro",
    ],
)  # fmt: skip
def test_halves_of_rows(text: bytes) -> None:
    assert mount_table.parse(text) is None


def test_provenance_of_a_file() -> None:
    """The kernel's own options of a mount do, and no other field that looks like them."""
    assert mount_table.parse(row(more=b"ro,user_id=1000,group_id=0,allow_other")) == Mount(
        "0:50", "/mnt", "fuse.artifactfs", "a", 1000, allow_other=True
    )
    spoofed = mount_table.parse(row(source=b"ro,user_id=0,allow_other", more=b"ro,xuser_id=0,user_id=8x,group_id=9"))
    assert spoofed is not None
    assert (spoofed.user_id, spoofed.allow_other) == (None, False)
    part = mount_table.parse(row(root=b"/runs/1"))
    assert part is not None
    assert part.root == "/runs/1"


ODD = (
    "cr\rx", "\r", "a b\tc\nd", "back\\slash\\040", "#", "ü", os.fsdecode(b"\xff\xfe"), "\x85\x1c\x0b\x0c\u2028", "-",
    "x - fuse.artifactfs y", "n" * 255,
)  # fmt: skip


@needs_root
def test_real_mounts(tmp_path: Path) -> None:
    """Of mounts with odd names and sources this process, the one that asks, and the tests' own reader see the same."""
    code = (
        "import json, sys; from artifactfs.mount import mount_table; from tests.processes import mount_type\n"
        "print(json.dumps([[m.point, m.source, mount_type(m.point)] for m in mount_table.mounts()]))"
    )
    script = 'cd "$1"; shift; for d in "$@"; do mkdir "$d" && mount -t tmpfs "$d" "$d" || exit 1; done; '
    script += f"exec '{sys.executable}' -c '{code}'"
    words = ("unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), *(f"./{name}" for name in ODD))
    checkout = str(Path(__file__).parents[2])
    told = json.loads(run(*words, env={**os.environ, "PYTHONPATH": checkout, "LC_ALL": "C.UTF-8"}).ok().out)
    found = {point: (source, kind) for point, source, kind in told}
    for name in ODD:
        assert found[os.path.join(tmp_path, name)] == (f"./{name}", "tmpfs")


@needs_root
def test_a_watch(tmp_path: Path) -> None:
    """It learns of a change, sees a mount come and go, and needs no descriptor for it."""
    with contextlib.closing(mount_table.Watch()) as watch:
        assert not watch.has("0:999999")
        root = os.stat("/proc").st_dev
        assert watch.has(f"{os.major(root)}:{os.minor(root)}")
        watch.changed()
        run("mount", "-t", "tmpfs", "watched", str(tmp_path)).ok()
        try:
            assert watch.changed()
            (mount,) = [each for each in mount_table.mounts() if each.source == "watched"]
            assert watch.has(mount.device)
            assert mount_table.places_of(mount.device) == [mount]
        finally:
            run("umount", str(tmp_path)).ok()
        assert watch.changed()
        assert mount not in mount_table.mounts()
