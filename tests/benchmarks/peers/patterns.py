"""What each pattern of reading costs a mount of artifactfs: requests, bytes and seconds, on a server with latency.

Each pattern reads a file of its own (200 MiB), that nothing has read before, in a process of its own. The readers of
tensors need torch, safetensors or gguf, and are left out without. `--only` names patterns; `--json` writes the figures.
"""

import argparse
import contextlib
import importlib
import json
import mmap
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

HERE = pathlib.Path(__file__).parent
MIB = 1 << 20
SIZE = 200 * MIB
_TENSORS, _SIDE = 50, 1024
_LIMIT_S = 300.0


def _at(offsets: list[int], count: int) -> Callable[[str], None]:
    def read(path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        for offset in offsets:
            assert len(os.pread(fd, count, offset)) == min(count, SIZE - offset)
        os.close(fd)

    return read


def _mapped(offsets: list[int], count: int) -> Callable[[str], None]:
    def read(path: str) -> None:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            for offset in offsets:
                assert len(mapped[offset : offset + count]) == count

    return read


def _alternating(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    for offset in range(0, 16 * MIB, MIB // 4):
        os.pread(fd, MIB // 4, 20 * MIB + offset)
        os.pread(fd, MIB // 4, 120 * MIB + offset)
    os.close(fd)


def _command(*words: str) -> Callable[[str], None]:
    def read(path: str) -> None:
        subprocess.run([*words, path], check=True, stdout=subprocess.DEVNULL)

    return read


def _torch(path: str) -> None:
    found = importlib.import_module("torch").load(path, mmap=True)["layer.20"]
    assert float(found.sum()) != 1.0


def _safetensors(framework: str) -> Callable[[str], None]:
    def read(path: str) -> None:
        with importlib.import_module("safetensors").safe_open(path, framework=framework) as file:
            assert float(file.get_tensor("layer.20").sum()) != 1.0

    return read


def _gguf(path: str) -> None:
    tensors = importlib.import_module("gguf").GGUFReader(path).tensors
    assert float(next(tensor for tensor in tensors if tensor.name == "layer.20").data.sum()) != 1.0


_RANDOM = random.Random(1)
_PLACES = [_RANDOM.randrange(SIZE - 2048) for _ in range(64)]
# By name: the reader, and the suffix of its file where that is a real one.
PATTERNS: dict[str, tuple[Callable[[str], None], str]] = {
    "64 x 2 KiB, random, mapped": (_mapped(_PLACES, 2048), ""),
    "64 x 2 KiB, random": (_at(_PLACES, 2048), ""),
    "64 x 1 MiB, random": (_at([place // MIB * MIB for place in _PLACES], MIB), ""),
    "64 KiB every 1 MiB": (_at([*range(0, SIZE, MIB)], MIB // 16), ""),
    "1 MiB every 4 MiB": (_at([*range(0, SIZE, 4 * MIB)], MIB), ""),
    "1 MiB every 4 MiB, from the middle": (_at([*range(2 * MIB, SIZE, 4 * MIB)], MIB), ""),
    "backwards, 1 MiB": (_at([*range(SIZE - MIB, -1, -MIB)], MIB), ""),
    "backwards, 64 KiB": (_at([*range(SIZE - MIB // 16, 150 * MIB, -MIB // 16)], MIB // 16), ""),
    "backwards, mapped": (_mapped([*range(SIZE - 4096, 150 * MIB, -4096)], 4096), ""),
    "forwards, 1 MiB": (_at([*range(0, SIZE, MIB)], MIB), ""),
    "forwards, mapped": (_mapped([*range(0, SIZE, 4096)], 4096), ""),
    "forwards, from the middle": (_at([*range(SIZE // 2, SIZE, MIB)], MIB), ""),
    "two places in turn, 256 KiB": (_alternating, ""),
    "file": (_command("file"), ""),
    "cat": (_command("cat"), ""),
    "one tensor, safetensors": (_safetensors("np"), "safetensors"),
    "one tensor, safetensors, torch": (_safetensors("pt"), "safetensors"),
    "one tensor, gguf": (_gguf, "gguf"),
    "one tensor, torch": (_torch, "pt"),
}


def write_checkpoints(directory: pathlib.Path) -> None:
    """Write a checkpoint in each format that has its library here: 50 tensors of 4 MiB."""
    with contextlib.suppress(ImportError):
        numpy = importlib.import_module("numpy")
        tensors = {
            f"layer.{number}": numpy.full((_SIDE, _SIDE), number + 0.5, dtype=numpy.float32)
            for number in range(_TENSORS)
        }
        with contextlib.suppress(ImportError):
            importlib.import_module("safetensors.numpy").save_file(tensors, directory / "checkpoint.safetensors")
        with contextlib.suppress(ImportError):
            writer = importlib.import_module("gguf").GGUFWriter(directory / "checkpoint.gguf", "llama")
            for name, data in tensors.items():
                writer.add_tensor(name, data)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        with contextlib.suppress(ImportError):
            torch = importlib.import_module("torch")
            torch.save({name: torch.from_numpy(data) for name, data in tensors.items()}, directory / "checkpoint.pt")


class Server:
    """The server beside this program, in a process of its own."""

    def __init__(self, tree: str, delay_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), "--delay", str(delay_s), "--tree", tree],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url: str = json.loads(self._process.stdout.readline())["url"]

    def stats(self) -> tuple[int, int]:
        """Return the requests for contents and the bytes of them that were sent."""
        with urllib.request.urlopen(f"{self.url}/_ctl/stats", timeout=10) as answer:
            found = json.load(answer)
        return found["count"].get("content", 0), found["bytes"]

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


@contextlib.contextmanager
def mounted(artifactfs: str, url: str, scratch: pathlib.Path) -> Iterator[pathlib.Path]:
    """Mount with an empty cache, and unmount at the end."""
    point = scratch / "mnt"
    point.mkdir()
    env = os.environ | {"DD_API_KEY": "k", "DD_APP_KEY": "a"}
    command = [artifactfs, "mount", "--api-url", url, "--cache-dir", str(scratch / "cache"), str(point)]
    subprocess.run(command, check=True, env=env)
    try:
        yield point
    finally:
        subprocess.run([artifactfs, "umount", point], check=True)


def cpu_s(point: pathlib.Path) -> float:
    """Return the CPU seconds of the process that serves a mount."""
    total = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        # Processes end while they are looked at.
        with contextlib.suppress(OSError):
            if str(point).encode() in (stat.parent / "cmdline").read_bytes():
                total = max(total, sum(map(int, stat.read_text(encoding="utf-8").rpartition(")")[2].split()[11:13])))
    return total / os.sysconf("SC_CLK_TCK")


def measure(name: str, path: pathlib.Path, server: Server, point: pathlib.Path) -> dict[str, Any] | None:
    """Let a process read a file; None where it lacks its library."""
    subprocess.run(["stat", path], check=True, stdout=subprocess.DEVNULL)
    (requests, sent), cpu = server.stats(), cpu_s(point)
    done = subprocess.run(
        [sys.executable, __file__, "--read", name, path],
        stdout=subprocess.PIPE,
        text=True,
        timeout=_LIMIT_S,
        check=True,
    )
    if not done.stdout:
        return None
    # What is still on its way then was asked for, too.
    time.sleep(0.5)
    requests_then, sent_then = server.stats()
    return {
        "name": name,
        "requests": requests_then - requests,
        "bytes": sent_then - sent,
        "seconds": float(done.stdout),
        "cpu_s": cpu_s(point) - cpu,
    }


def read(name: str, path: str) -> None:
    """Read a file in a pattern; print the seconds, or nothing where a library is lacking."""
    for library in ("torch", "safetensors", "gguf"):
        if library in name:
            try:
                importlib.import_module(library)
            except ImportError:
                return
    began = time.perf_counter()
    PATTERNS[name][0](path)
    print(time.perf_counter() - began)  # noqa: T201


def main() -> None:
    """Read the options, and measure each pattern."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifactfs", default="artifactfs")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds before each answer")
    parser.add_argument("--only", default="", help="patterns whose names hold this")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(*options.read)
        return
    todo = [name for name in PATTERNS if options.only in name]
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="patterns-"))
    found = []
    try:
        (scratch / "files").mkdir()
        write_checkpoints(scratch / "files")
        tree = []
        for run, name in enumerate(todo, 1000):
            suffix = PATTERNS[name][1]
            tree.append(f"disk:{run}:{scratch}/files/checkpoint.{suffix}" if suffix else f"big:{run}:{SIZE // MIB}")
        server = Server(",".join(tree), options.delay)
        try:
            with mounted(options.artifactfs, server.url, scratch) as point:
                print(f"{'':38}{'requests':>9}{'MB':>8}{'s':>8}{'CPU s':>8}")  # noqa: T201
                for run, name in enumerate(todo, 1000):
                    suffix = PATTERNS[name][1]
                    path = (
                        point / "runs" / str(run) / (f"checkpoint.{suffix}" if suffix else "model/weights.safetensors")
                    )
                    if (row := measure(name, path, server, point)) is not None:
                        found.append(row)
                        figures = f"{row['bytes'] / 1e6:8.1f}{row['seconds']:8.2f}{row['cpu_s']:8.2f}"
                        print(f"{name:38}{row['requests']:9}{figures}", flush=True)  # noqa: T201
        finally:
            server.stop()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
