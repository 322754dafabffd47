"""`artifactfs warm`: reads trees and files through their mount, so that the cache holds them.

It reads through the kernel like any reader, so it needs no keys, and the mount limits the requests. Cached blocks are
read from the cache, so a second call continues where the first one stopped.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import control_client, mount_owner, mount_table
from artifactfs.mount.mount_table import Mount
from artifactfs.util.humanize import counted, format_size

_READ_BYTES = 256 << 10


@dataclass
class Plan:
    """The files to fetch with their sizes in bytes, their directories, and those that could not be listed.

    `links`: how many links to runs were not followed, by the path of the plan that they lie below. `mounts`: the bytes
    in each mount, by its mount point. `errors`: why a path as a whole is not in the plan, by path.
    """

    files: list[tuple[str, int]] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    links: dict[str, int] = field(default_factory=dict)
    mounts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, UserError] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes in all, as the listings give them."""
        return sum(size for _, size in self.files)


def plan(paths: Iterable[str]) -> Plan:
    """List the files at and below `paths`, each once. One in no mount of ours that answers is an error of the plan."""
    found = Plan()
    seen: set[str] = set()
    # By device: why a mount does not answer. It is asked once, and not for each path in it.
    silent: dict[str, UserError | None] = {}
    for path in paths:
        try:
            mount = _mount_of(path)
            if mount.device not in silent:
                silent[mount.device] = _silence(mount)
            if (error := silent[mount.device]) is not None:
                raise error
            for file, size in _walk(path, found):
                if file not in seen:
                    seen.add(file)
                    found.files.append((file, size))
                    found.mounts[mount.point] = found.mounts.get(mount.point, 0) + size
        except UserError as error:
            found.errors[path] = error
    return found


def _silence(mount: Mount) -> UserError | None:
    try:
        control_client.check_answers(mount)
    except UserError as error:
        return error
    return None


def fetch(todo: Plan, *, jobs: int, advance: Callable[[int], object], drop_pages: bool = False) -> int:
    """Read all files of a plan, `jobs` at once; returns the bytes that were read.

    `drop_pages`: what the kernel has of a file is dropped first, so that the mount is asked, whose disk may lack it.
    `advance`: called by the reading threads with each number of bytes. Adds unreadable files to the plan's failures.
    """
    stop = threading.Event()
    read_bytes = 0
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="warm")
    try:
        queue = iter(todo.files)
        running: dict[Future[int], str] = {}
        while True:
            # A few more than run, not one future for each of 200,000 files.
            while len(running) < 2 * jobs and (item := next(queue, None)) is not None:
                running[pool.submit(_read, item[0], stop, advance, drop_pages)] = item[0]
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                path = running.pop(done)
                if isinstance(error := done.exception(), OSError):
                    todo.failures.append(f"{path}: {error.strerror}")
                else:
                    read_bytes += done.result()
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        fix = "end some processes of this user, or raise the limit (`ulimit -u`), and call again"
        raise UserError(ExitCode.INCOMPLETE, "the system has no thread left", fix) from None
    finally:
        # Ctrl-C does not wait for the readers: a read may be waiting for the service.
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return read_bytes


def describe(todo: Plan) -> str:
    """Return the cost of a plan, in one line."""
    unknown = sum(1 for _, size in todo.files if size == 0)
    directories = counted(len(todo.directories), "directory", "directories")
    line = f"{counted(len(todo.files), 'file')} in {directories}, {format_size(todo.size_bytes)}"
    if unknown:
        line += f" (and {counted(unknown, 'file')} empty or of unknown size)"
    return line + "; cached files cost no request"


def _mount_of(path: str) -> Mount:
    control_client.check_is_path(path)
    inner = mount_table.innermost(path)
    if inner is None or not inner.is_ours:
        raise UserError(ExitCode.NOT_MOUNTED, f"{path} is in no mount of artifactfs", "give a path in one")
    return inner


def _check_admits(path: str) -> None:
    """Raise NotMountOwner where the kernel refuses this user the mount itself, and not a path in it."""
    inner = mount_table.innermost(path)
    try:
        if inner is not None:
            os.stat(inner.point)
    except PermissionError:
        raise mount_owner.access_denied(path, inner) from None


def _walk(path: str, found: Plan) -> Iterator[tuple[str, int]]:
    """Yield files with sizes, without recursion: a tree may be deeper than Python's stack."""
    try:
        status = os.stat(path)
        # For a dead mount the kernel may answer stat from its cache; statvfs always fails.
        os.statvfs(path)
        if not stat.S_ISDIR(status.st_mode):
            yield path, status.st_size
            return
    except FileNotFoundError as error:
        if (point := control_client.point_of(path)) is not None:
            raise control_client.unreadable(error.errno or errno.ENOENT, path, point) from None
        raise UserError(ExitCode.NOT_MOUNTED, f"there is no {path}", "give a path in a mount of artifactfs") from None
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise control_client.process_gone(path) from None
        if error.errno == errno.EACCES:
            _check_admits(path)
        found.failures.append(f"{path}: {error.strerror}")
        return
    pending = [path]
    while pending:
        directory = pending.pop()
        found.directories.append(directory)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        if (size := _size(entry, found)) is not None:
                            yield entry.path, size
                    elif entry.is_symlink():
                        found.links[path] = found.links.get(path, 0) + 1
        except OSError as error:
            found.failures.append(f"{directory}: {error.strerror}")


def _size(entry: os.DirEntry[str], found: Plan) -> int | None:
    """Return the size of a file; None for one that is gone, or fails: others are there. Raises OSError of the mount."""
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise
        found.failures.append(f"{entry.path}: {error.strerror}")
        return None


def _read(path: str, stop: threading.Event, advance: Callable[[int], object], drop_pages: bool) -> int:
    total = 0
    with open(path, "rb", buffering=0) as file:
        if drop_pages:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffer = bytearray(_READ_BYTES)
        while not stop.is_set() and (count := file.readinto(buffer)):
            total += count
            advance(count)
    return total
