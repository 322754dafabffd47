"""What the mount's process holds, what its cache directory holds, what its log says. Touches no mount."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_BLOCK = re.compile(r"blocks-1/[0-9a-f]{2}/[0-9a-f]{30}/[0-9a-f]+(-group)?")
_OWN = re.compile(r"CACHEDIR\.TAG|metadata-1\.(lock|sqlite(-wal|-shm)?)|blocks-1(/usage|/[0-9a-f]{2}(/[0-9a-f]{30})?)?")
_ASIDE = re.compile(r"(^|/)\.[^/]+$")


@dataclass(frozen=True)
class Holdings:
    """A process at rest: resident memory in KiB, threads, and descriptors by kind."""

    rss_kib: int
    threads: int
    fds: Counter[str]

    @property
    def sockets(self) -> int:
        return self.fds["socket"]

    @property
    def other_fds(self) -> int:
        return self.fds.total() - self.sockets


def holdings(pid: int) -> Holdings:
    """Return what a process holds."""
    told = {}
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            told[name] = value.split()
    kinds: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        kinds[target.partition(":")[0] if not target.startswith("/") else target] += 1
    return Holdings(int(told["VmRSS"][0]), int(told["Threads"][0]), kinds)


@dataclass(frozen=True)
class CacheState:
    """A cache directory: bytes on the disk, blocks, files set aside, and what does not belong there."""

    size_bytes: int
    blocks: int
    aside: list[str]
    strange: list[str]


def cache_state(directory: str) -> CacheState:
    """Look at a cache directory. What goes away meanwhile does not count."""
    size, blocks, aside, strange = 0, 0, [], []
    for above, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(above, name)
            relative = os.path.relpath(path, directory)
            if _BLOCK.fullmatch(relative) and name in files:
                try:
                    size += os.lstat(path).st_blocks * 512
                except FileNotFoundError:
                    continue
                blocks += 1
            elif _ASIDE.search(relative):
                aside.append(relative)
            elif not _OWN.fullmatch(relative):
                strange.append(relative)
    return CacheState(size, blocks, sorted(aside), sorted(strange))


_LEVEL = re.compile(r"^\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) (\S+): ")
_BAD = re.compile(r"Traceback \(most recent call last\)|this is a bug|Exception ignored in|was never retrieved")


def log_levels(lines: Iterable[str]) -> Counter[str]:
    """Count a log's lines by level."""
    return Counter(match[1] for line in lines if (match := _LEVEL.match(line)))


def log_faults(lines: Iterable[str]) -> list[str]:
    """Return what no trouble of the service's explains: tracebacks, admitted bugs, and what is critical."""
    found = []
    for line in lines:
        match = _LEVEL.match(line)
        if _BAD.search(line) or (match and match[1] == "CRITICAL"):
            found.append(line)
    return found
