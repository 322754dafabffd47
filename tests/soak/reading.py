"""Ways to read a file of the mount, each holding every byte of an open file against one version.

Each returns the bytes that were right. Raises Wrong for what no service ever held, and OSError for what the mount
refuses. Every system call on the mount goes through a Stopwatch: what hangs is a call, not a file.
"""

import contextlib
import errno
import mmap
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from tests.soak.journal import Journal, true_bytes

P = ParamSpec("P")
T = TypeVar("T")

PIECE = 128 << 10  # bytes of one read; the kernel's own
PAGE = 4096
RANDOM_READS = 24  # of one open file; arbitrary


class Wrong(Exception):
    """The mount reported something that is not so: the sentence says what."""


class Killed(Exception):
    """A process that read a mapping got a signal: SIGBUS is how a page that cannot be fetched is reported."""


class Stopwatch:
    """The longest system call so far: its name and its seconds."""

    def __init__(self) -> None:
        self.name, self.seconds = "", 0.0

    def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        start = time.monotonic()
        try:
            return call(*args, **kwargs)
        finally:
            took = time.monotonic() - start
            if took > self.seconds:
                self.name, self.seconds = call.__name__, took


@dataclass
class HeldFile:
    """An open file and the version that it is, by the bytes that were read: `size` bytes of content number `content`.

    It may turn out to be another one, as long as all bytes that were read are that one's too: a larger file that
    continues this one, or what took its place before the first byte was read (docs/semantics.md 2.4, 3.5).
    """

    fd: int
    run: int
    path: str
    journal: Journal
    size: int
    content: int
    was_read: list[tuple[int, int]] = field(default_factory=list)

    def check(self, offset: int, data: bytes, asked: int) -> int:
        """Hold what was read against the truth; returns its length. A short read is one that ends before an error."""
        end = offset + len(data)
        if not self._fits(self.size, self.content, offset, data):
            self._become(offset, data)
        if not data and asked and offset < self.size:
            raise Wrong(f"the end at {offset} of {self.path} in run {self.run}, which has {self.size} bytes")
        self.was_read.append((offset, end))
        return len(data)

    def _true(self, size: int, content: int, start: int, end: int) -> bytes:
        return true_bytes(self.run, self.path, content, size, start, end)

    def _fits(self, size: int, content: int, offset: int, data: bytes) -> bool:
        return self._true(size, content, offset, offset + len(data)) == data

    def _become(self, offset: int, data: bytes) -> None:
        """Be the version that has `data` at `offset`, and all that was read before."""
        self.journal.refresh()
        for size, content in self.journal.runs[self.run].sizes[self.path].items():
            if self._fits(size, content, offset, data) and all(
                self._true(size, content, *part) == self._true(self.size, self.content, *part) for part in self.was_read
            ):
                self.size, self.content = size, content
                return
        want = self._true(self.size, self.content, offset, offset + len(data)) + b"\0" * len(data)
        at = next(i for i, (a, b) in enumerate(zip(data, want, strict=False)) if a != b)
        zeros = len(data[at:]) - len(data[at:].lstrip(b"\0"))
        raise Wrong(
            f"wrong byte at {offset + at} of {self.path} in run {self.run} ({self.size} bytes, content "
            f"{self.content}), read {len(data)} at {offset}; {zeros} zeros from there"
        )


@dataclass
class Reader:
    """Reads files below `point`, in ways that `rng` varies."""

    point: str
    journal: Journal
    watch: Stopwatch
    rng: random.Random
    scratch: str

    def place(self, run: int, path: str) -> str:
        return os.path.join(self.point, "runs", str(run), path)

    @contextlib.contextmanager
    def opened(self, run: int, path: str, flags: int = 0) -> Iterator[HeldFile]:
        """Open a file, and find out which version it is."""
        fd = self.watch(os.open, self.place(run, path), os.O_RDONLY | os.O_CLOEXEC | flags)
        try:
            size = self.watch(os.fstat, fd).st_size
            content = self.journal.content_of(run, path, size)
            if content is None:
                raise Wrong(f"{path} in run {run} is open with {size} bytes, which it never had")
            if self.rng.random() < 0.5:
                # What the kernel has kept of it would never be asked of the mount again.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            yield HeldFile(fd, run, path, self.journal, size, content)
        finally:
            self.watch(os.close, fd)

    def _at(self, held: HeldFile, offset: int, count: int) -> int:
        return held.check(offset, self.watch(os.pread, held.fd, count, offset), count)

    # --- ways -------------------------------------------------------------------------------------

    def sequential(self, run: int, path: str) -> int:
        """From the beginning to an end that must be where the size says."""
        with self.opened(run, path) as held:
            offset = 0
            while got := held.check(offset, self.watch(os.read, held.fd, PIECE), PIECE):
                offset += got
            return offset

    def backwards(self, run: int, path: str) -> int:
        """A few steps on, a step back, now and then to the beginning; or from the end to the beginning."""
        with self.opened(run, path) as held:
            total = 0
            if self.rng.random() < 0.5:
                for offset in range(max(0, held.size - PIECE), -1, -PIECE):
                    total += self._at(held, offset, PIECE)
                return total
            offset = 0
            for _ in range(RANDOM_READS):
                total += self._at(held, offset, PIECE)
                step = self.rng.choice((PIECE, PIECE, 4 * PIECE, -PIECE, -3 * PIECE, -held.size))
                offset = min(max(0, offset + step), held.size)
            return total

    def random(self, run: int, path: str) -> int:
        """Pieces of any size at any place, across the end too."""
        with self.opened(run, path) as held:
            total = 0
            for _ in range(RANDOM_READS):
                offset = self.rng.randrange(held.size + 1)
                total += self._at(held, offset, self.rng.choice((1, 100, PAGE, 50_000, PIECE)))
            return total

    def direct(self, run: int, path: str) -> int:
        """Past the kernel's page cache."""
        buffer = mmap.mmap(-1, PIECE)
        try:
            with self.opened(run, path, os.O_DIRECT) as held:
                total = 0
                for offset in range(0, held.size, PIECE):
                    got = self.watch(os.preadv, held.fd, [buffer], offset)
                    total += held.check(offset, buffer[:got], PIECE)
                    if got < PIECE:
                        break
                return total
        finally:
            buffer.close()

    def sendfile(self, run: int, path: str) -> int:
        """Copied by the kernel into a file, and read there."""
        with self.opened(run, path) as held, tempfile.TemporaryFile(dir=self.scratch) as copy:
            offset = 0
            while got := self.watch(os.sendfile, copy.fileno(), held.fd, offset, 1 << 20):
                offset += got
            held.check(0, os.pread(copy.fileno(), offset, 0), offset)
            return offset + held.check(offset, b"", PIECE)

    def mapped(self, run: int, path: str) -> int:
        """Through a mapping, by a child: a page that cannot be fetched ends who touches it."""
        with self.opened(run, path) as held:
            if not held.size:
                return 0
            told, tell = os.pipe()
            child = os.fork()
            if child == 0:
                self._map_and_exit(held, tell)
            os.close(tell)
            with open(told, "rb") as pipe:
                said = pipe.read()
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status < 0:
                raise Killed(signal.Signals(-status).name)
            if status:
                raise Wrong(said.decode())
            return int(said)

    def _map_and_exit(self, held: HeldFile, tell: int) -> None:
        code = 2
        try:
            with mmap.mmap(held.fd, held.size, prot=mmap.PROT_READ) as mapping:
                total = 0
                for _ in range(RANDOM_READS):
                    offset = self.rng.randrange(held.size)
                    total += held.check(offset, mapping[offset : offset + PIECE], PIECE)
            os.write(tell, str(total).encode())
            code = 0
        except BaseException as error:
            os.write(tell, f"mapped: {error}".encode())
        finally:
            os._exit(code)

    # --- programs ---------------------------------------------------------------------------------

    def cat(self, run: int, path: str) -> int:
        """`cat`, into a file."""
        with tempfile.TemporaryFile(dir=self.scratch) as copy:
            done = subprocess.run(["cat", self.place(run, path)], stdout=copy, stderr=subprocess.PIPE, check=False)
            copied = os.pread(copy.fileno(), os.fstat(copy.fileno()).st_size, 0)
        self._check_copy(run, path, copied, complete=done.returncode == 0)
        raise_of(done, self.journal.always(run))
        return len(copied)

    def cp(self, run: int, path: str) -> int:
        """`cp`."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as directory:
            target = os.path.join(directory, "copy")
            done = subprocess.run(["cp", self.place(run, path), target], stderr=subprocess.PIPE, check=False)
            copied = b""
            if os.path.exists(target):
                with open(target, "rb") as file:
                    copied = file.read()
        self._check_copy(run, path, copied, complete=done.returncode == 0)
        raise_of(done, self.journal.always(run))
        return len(copied)

    def _check_copy(self, run: int, path: str, copied: bytes, *, complete: bool) -> None:
        """A whole copy is one version; a part of one is the beginning of one."""
        self.journal.refresh()
        sizes = self.journal.runs[run].sizes[path]
        if complete and len(copied) not in sizes:
            raise Wrong(f"the copy of {path} in run {run} has {len(copied)} bytes, which it never had")
        possible = {len(copied): sizes[len(copied)]} if complete else sizes
        if not any(
            copied == true_bytes(run, path, content, size, 0, len(copied)) for size, content in possible.items()
        ):
            raise Wrong(f"the copy of {path} in run {run}, {len(copied)} bytes, is no version of it")


def raise_of(done: "subprocess.CompletedProcess[bytes]", always: frozenset[str]) -> None:
    """Raise the OSError that a program reported, if any. Raises Wrong where it missed what is always there."""
    if done.returncode == 0:
        return
    told = done.stderr.decode("utf-8", "replace")
    for line in told.splitlines():
        if not line.endswith(os.strerror(errno.ENOENT)):
            continue
        name = line.rpartition(":")[0].strip("'\u2018\u2019").rpartition("/runs/")[2].partition("/")[2]
        if name and any(f"{path}/".startswith(f"{name}/") for path in always):
            raise Wrong(f"vanished: {line}")
    if "replaced while being copied" in told:
        raise OSError(errno.ESTALE, told)  # As cp says it, that looks again before it opens.
    for number in errno.errorcode:
        if told.rstrip().endswith(os.strerror(number)):
            raise OSError(number, told)
    raise OSError(0, f"{done.args[0]} exited with {done.returncode}: {told[-300:]}")
