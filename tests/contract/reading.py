"""Ways to read a file, each as a program that prints the SHA-256 of what it read, or the errno it failed with."""

from typing import Any

from tests.harness import Mount

_HEAD = """
import errno, hashlib, json, mmap, os, random, shutil, subprocess, sys, tempfile, threading
path = sys.argv[2]

def digest(data):
    return hashlib.sha256(data).hexdigest()

def size_of(fd):
    return os.fstat(fd).st_size

def program(*command):
    with tempfile.TemporaryDirectory() as place:
        copy = os.path.join(place, "copy")
        subprocess.run([part.format(path=path, copy=copy) for part in command], check=True, capture_output=True)
        with open(copy, "rb") as file:
            return digest(file.read())

def reading():
    fd = os.open(path, os.O_RDONLY)
    try:
        return read(fd)
    finally:
        os.close(fd)
"""

_TAIL = """
try:
    print(json.dumps(reading()))
except OSError as error:
    print(json.dumps(error.errno))
"""

WAYS = {
    "whole": """
def read(fd):
    hashed = hashlib.sha256()
    while piece := os.read(fd, 1 << 20):
        hashed.update(piece)
    return hashed.hexdigest()
""",
    "backwards": """
def read(fd):
    at, pieces = size_of(fd), []
    while at > 0:
        step = min(at, 77_777)
        at -= step
        piece = os.pread(fd, step, at)
        assert len(piece) == step
        pieces.append(piece)
    return digest(b"".join(reversed(pieces)))
""",
    "eight threads at random": """
def read(fd):
    size, chunk = size_of(fd), 130_001
    found = bytearray(size)
    places = list(range(0, size, chunk))
    random.Random(1).shuffle(places)
    failed = []
    def work(mine):
        try:
            for at in mine:
                piece = os.pread(fd, chunk, at)
                assert len(piece) == min(chunk, size - at)
                found[at:at + len(piece)] = piece
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=work, args=(places[i::8],)) for i in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    if failed: raise failed[0]
    return digest(found)
""",
    "mmap": """
def read(fd):
    if not size_of(fd):
        return digest(b"")
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        return digest(mapped)
""",
    "sendfile": """
def read(fd):
    with tempfile.TemporaryFile() as copy:
        at = 0
        while sent := os.sendfile(copy.fileno(), fd, at, 1 << 20):
            at += sent
        copy.seek(0)
        return digest(copy.read())
""",
    "cp --sparse": "def reading(): return program('cp', '--sparse=always', '{path}', '{copy}')",
    "dd with O_DIRECT": "def reading(): return program('dd', 'if={path}', 'of={copy}', 'bs=1M', 'iflag=direct')",
    "tar": """
def reading():
    with tempfile.TemporaryDirectory() as place:
        archive = os.path.join(place, "a.tar")
        made = subprocess.run(["tar", "-C", os.path.dirname(path), "-cf", archive, os.path.basename(path)])
        # 1: its time changed meanwhile, as it may before the project's index has come (2.3).
        assert made.returncode in (0, 1)
        done = subprocess.run(["tar", "-xOf", archive], check=True, capture_output=True)
        return digest(done.stdout)
""",
}


def read(mounted: Mount, way: str, *place: object, limit_s: float = 60.0) -> Any:
    """Read a file of the mount in one of WAYS; returns its SHA-256, or the errno that reading failed with."""
    return mounted.python(_HEAD + WAYS[way] + _TAIL, mounted.path(*place), limit_s=limit_s)
