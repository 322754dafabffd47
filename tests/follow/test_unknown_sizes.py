"""Copies of files whose size nothing tells beforehand: each is right, or fails; none is short with exit code 0."""

import hashlib
import itertools
import os
import re
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.fixtures import Mounting
from tests.follow.programs import following, python
from tests.harness import Lab, run, wait_until

MIB = 1 << 20
LIMIT_S = 120.0
RCLONE = os.path.join(os.path.dirname(sys.executable), "rclone")
# No listing gives a size: not the run's own, and not the project's.
UNLISTED: Mapping[str, object] = {"size_form": "absent", "index_size_form": "absent"}


# Those that open a file before they ask for its size, and those that read until the end, whatever the size.
STREAMING = frozenset({"cat", "dd"})
BY_OPENING = STREAMING | {"cp", "cp-sparse", "rsync", "rsync-a", "tar", "copyfile", "copy2", "http.server"}
NAMES = sorted(BY_OPENING | {"tarfile", "rclone"})


@dataclass(frozen=True)
class Kind:
    """One way in which a size can be unknown. `options`: of the mount. `by`: programs whose copies must be right."""

    size: int
    switches: Mapping[str, object]
    options: tuple[str, ...] = ()
    by: frozenset[str] = BY_OPENING


NO_LENGTH: Mapping[str, object] = {**UNLISTED, "ranges": "ignored", "length": "chunked"}
SMALL_CACHE = ("--cache-size", str(4 * MIB))
KINDS = {
    "length": Kind(300_000, UNLISTED),
    "null": Kind(300_000, {"size_form": "null", "index_size_form": "null", "ranges": "ignored"}),
    "own-listing-only": Kind(300_000, {"index_size_form": "absent", "size_form": "string"}),
    "index-only": Kind(300_000, {"size_form": "absent", "ranges": "ignored", "length": "chunked"}),
    "chunked-ranges": Kind(3 * MIB, {**UNLISTED, "length": "chunked"}),
    "ignored-ranges": Kind(3 * MIB, {**UNLISTED, "ranges": "ignored"}),
    "no-length": Kind(300_000, NO_LENGTH),
    "no-length-large": Kind(3 * MIB, NO_LENGTH),
    "no-length-empty": Kind(0, NO_LENGTH),
    # A body that the mount does not accept.
    "gzip": Kind(300_000, {**NO_LENGTH, "encoding": "gzip"}, by=frozenset()),
    "redirected": Kind(300_000, {**NO_LENGTH, "redirect": "other"}),
    "empty": Kind(0, {"size_form": "absent_when_zero", "index_size_form": "null_when_zero"}),
    "larger-than-the-cache": Kind(24 * MIB, NO_LENGTH, SMALL_CACHE, STREAMING),
    "length-larger-than-the-cache": Kind(24 * MIB, UNLISTED, SMALL_CACHE, STREAMING),
    "no-cache": Kind(24 * MIB, NO_LENGTH, ("--cache-size", "0"), STREAMING),
    "drips": Kind(600_000, {**NO_LENGTH, "bytes_per_s": 400_000}),
}


@dataclass
class Copies:
    """Copies one file by each program. A copier returns the copy's path, or None where the program failed."""

    directory: str
    served: str
    address: str = ""
    made: dict[str, str] = field(default_factory=dict)

    def copiers(self) -> dict[str, Callable[[str, str], str | None]]:
        return {
            "cp": self.cp, "cp-sparse": self.cp_sparse, "cat": self.cat, "dd": self.dd, "rsync": self.rsync,
            "rsync-a": self.rsync_attributes, "tar": self.tar, "tarfile": self.tarfile, "copyfile": self.copyfile,
            "copy2": self.copy2, "rclone": self.rclone, "http.server": self.http_server,
        }  # fmt: skip

    def cp(self, source: str, target: str) -> str | None:
        return self._ran(target, "cp", source, target)

    def cp_sparse(self, source: str, target: str) -> str | None:
        return self._ran(target, "cp", "--sparse=always", source, target)

    def cat(self, source: str, target: str) -> str | None:
        return self._ran(target, "sh", "-c", 'cat "$1" >"$2"', "sh", source, target)

    def dd(self, source: str, target: str) -> str | None:
        return self._ran(target, "dd", f"if={source}", f"of={target}", "bs=64K", "status=none")

    def rsync(self, source: str, target: str) -> str | None:
        return self._ran(target, "rsync", source, target)

    def rsync_attributes(self, source: str, target: str) -> str | None:
        return self._ran(target, "rsync", "-a", "--no-o", "--no-g", source, target)

    def tar(self, source: str, target: str) -> str | None:
        return self._unpacked(
            target, "tar", "-C", os.path.dirname(source), "-cf", f"{target}.tar", os.path.basename(source)
        )

    def tarfile(self, source: str, target: str) -> str | None:
        code = "import sys, tarfile\nwith tarfile.open(sys.argv[2], 'w') as t: t.add(sys.argv[1], sys.argv[3])"
        return self._unpacked(target, *python(code, source, f"{target}.tar", os.path.basename(source)))

    def copyfile(self, source: str, target: str) -> str | None:
        return self._ran(target, *python("import shutil, sys; shutil.copyfile(*sys.argv[1:])", source, target))

    def copy2(self, source: str, target: str) -> str | None:
        return self._ran(target, *python("import shutil, sys; shutil.copy2(*sys.argv[1:])", source, target))

    def rclone(self, source: str, target: str) -> str | None:
        config = ("--config", os.path.join(self.directory, "rclone.conf"))
        return self._ran(target, RCLONE, *config, "--retries", "1", "copyto", source, target)

    def http_server(self, source: str, target: str) -> str | None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.address}/{os.path.relpath(source, self.served)}", timeout=LIMIT_S) as answer:
                body = answer.read()
        except (urllib.error.URLError, HTTPException, OSError):
            return None
        with open(target, "wb") as file:
            file.write(body)
        return target

    def _ran(self, target: str, *command: str) -> str | None:
        return target if run(*command, limit_s=LIMIT_S).code == 0 else None

    def _unpacked(self, target: str, *command: str) -> str | None:
        if run(*command, limit_s=LIMIT_S).code != 0:
            return None
        with tarfile.open(f"{target}.tar") as packed:
            (member,) = packed.getmembers()
            content = packed.extractfile(member)
            assert content is not None
            with open(target, "wb") as file:
                file.write(content.read())
        return target


def outcomes(directory: Path, served: str, sources: Mapping[str, str], truth: Mapping[str, str]) -> dict[str, str]:
    """Copy each program's own source. Returns `right`, `failed`, or what is wrong with the copy, by program."""
    copies = Copies(str(directory), served)
    found: dict[str, str] = {}
    server = (sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", served, "0")
    with following(str(directory), *server) as serving:
        wait_until(lambda: b"port" in serving.printed(), "http.server's address", LIMIT_S)
        port = re.search(rb"port (\d+)", serving.printed())
        assert port is not None
        copies.address = f"http://127.0.0.1:{int(port[1])}"
        for name, copy in copies.copiers().items():
            made = copy(sources[name], str(directory / f"{name}.copy"))
            if made is None:
                found[name] = "failed"
                continue
            with open(made, "rb") as file:
                content = file.read()
            right = hashlib.sha256(content).hexdigest() == truth[name]
            found[name] = "right" if right else f"{len(content)} bytes that are wrong, with exit code 0"
    return found


def check(found: Mapping[str, str], by: Iterable[str]) -> None:
    """Check that no copy is wrong, and that those by these programs are right."""
    assert {name: outcome for name, outcome in found.items() if outcome not in ("right", "failed")} == {}
    assert {name for name in by if found[name] != "right"} == set()


@pytest.mark.parametrize("size", [0, 300_000])
def test_copies_of_a_local_file_are_right(tmp_path: Path, size: int) -> None:
    """What the programs do with files of a local directory: each copy is right, so a wrong one is the mount's."""
    served = tmp_path / "served"
    served.mkdir()
    content = os.urandom(size)
    for name in NAMES:
        (served / f"{name}.bin").write_bytes(content)
    sources = {name: str(served / f"{name}.bin") for name in NAMES}
    truth = dict.fromkeys(NAMES, hashlib.sha256(content).hexdigest())
    check(outcomes(tmp_path, str(served), sources, truth), NAMES)


@pytest.mark.parametrize(("kind", "status"), list(zip(KINDS, itertools.cycle(["running", "completed"]))))
def test_copies_are_right_or_fail(lab: Lab, mounting: Mounting, tmp_path: Path, kind: str, status: str) -> None:
    """Each program copies a file that it is the first to open. What fits the cache must come out right, except by those
    that go by what `stat` says of a file that they have not opened: they may fail."""
    form = KINDS[kind]
    files = {f"{name}/{name}.bin": form.size for name in NAMES}
    run_id = lab.new_run(files, project=lab.new_project(), status=status)
    lab.switch(**form.switches)
    mounted = mounting(*form.options)
    if form.by != BY_OPENING:
        # The log says that a body is streamed, that a step back starts it again, and that it is not accepted.
        mounted.log.announce("", optional=True)
    sources = {name: mounted.path("runs", run_id, name, f"{name}.bin") for name in NAMES}
    truth = {name: lab.sha256(run_id, f"{name}/{name}.bin") for name in NAMES}
    copied = tmp_path / "copied"
    copied.mkdir()
    found = outcomes(copied, mounted.path("runs", run_id), sources, truth)
    check(found, form.by)


@pytest.mark.parametrize("kind", ["no-length", "no-length-large", "no-length-empty"])
def test_a_size_that_was_found_is_known_from_then_on(lab: Lab, mounting: Mounting, kind: str) -> None:
    """What was read once to its end has its size for `stat`, `find -size` and `du`, without opening it."""
    form = KINDS[kind]
    run_id = lab.new_run({"sub/a.bin": form.size}, project=lab.new_project(), status="completed")
    lab.switch(**form.switches)
    mounted = mounting()
    path = mounted.path("runs", run_id, "sub/a.bin")
    assert len(run("cat", path).ok().out) == form.size
    assert int(run("stat", "-c", "%s", path).ok().out) == form.size
    found = run("find", os.path.dirname(path), "-type", "f", "-size", f"{form.size}c").ok().text
    assert found.splitlines() == [path]
    assert int(run("du", "-b", path).ok().text.split()[0]) == form.size
