"""artifactfs, rclone and a bare pyfuse3 mount side by side: the same tree, server, latency and commands.

Each command runs on a fresh mount of each, in turn; the medians of REPEAT rounds are printed, and written as JSON where
--json names a file. Ratios within one run are meaningful, absolute times on a shared machine are not. `make bench` runs
this program.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).parent
TREE = "wide:1001:{wide},grid:1002:{dirs}:20,deep:1003:40,big:1004:{big},wide:1005:1000"
_LIMIT_S = 20.0
_COMMAND_LIMIT_S = 300.0


class Row(NamedTuple):
    """One line of the table: `group` names the fresh mount that it shares with others.

    `command`: `{RUN:REST}` stands for a place of the tree; what is before `;;` is not timed. None: resident memory.
    `on_bare`: whether the bare mount can answer it.
    """

    name: str
    group: str
    command: str | None
    on_bare: bool


class Figure(NamedTuple):
    """What one row took once: seconds (KiB for memory), requests, and the most of them in flight.

    `sent_bytes`: file contents. `served_s`: seconds in which any request was in flight, the latency among them.
    `cpu_s`, `faults`: CPU seconds and page faults of the process that serves the mount.
    """

    value: float
    requests: int = 0
    peak: int = 0
    sent_bytes: int = 0
    served_s: float = 0.0
    cpu_s: float = 0.0
    faults: int = 0


def is_mounted(point: pathlib.Path) -> bool:
    """Ask the mount table, never the mount: a wedged mount would hang this process."""
    table = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return any(line.split(" ")[4] == str(point) for line in table.split("\n") if line)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds; end the program where that takes too long."""
    end = time.monotonic() + _LIMIT_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("a mount did not appear or go away in time")
        time.sleep(0.02)


class Process:
    """A process, by its directory in /proc."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def resident_kib(self) -> int:
        """Return its memory; 0 once it has ended."""
        status = (self._directory / "status").read_text(encoding="utf-8")
        return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)

    def usage(self) -> tuple[float, int]:
        """Return its CPU seconds and its page faults (proc(5), stat)."""
        fields = (self._directory / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[7])


class Contender:
    """A filesystem that is measured; mounts below `scratch`."""

    name = ""

    def __init__(self, options: argparse.Namespace, url: str, scratch: pathlib.Path) -> None:
        self.options, self.url, self.scratch = options, url, scratch
        self.point = scratch / f"mnt-{self.name}"
        self.point.mkdir()

    def start(self, cache: pathlib.Path) -> None:
        """Begin to mount, with an empty directory for a cache."""
        raise NotImplementedError

    def path(self, run: int, rest: str) -> pathlib.Path:
        """Return where a place of the tree is."""
        raise NotImplementedError

    def stop(self) -> None:
        """Unmount."""
        subprocess.run(["fusermount3", "-u", self.point], check=True)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Mount with an empty cache, and unmount at the end."""
        cache = self.scratch / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(mode=0o700)
        self.start(cache)
        wait_until(lambda: is_mounted(self.point))
        try:
            yield
        finally:
            self.stop()
            wait_until(lambda: not is_mounted(self.point))

    def process(self) -> Process:
        """Return the process that serves the mount: the largest that names it. No command runs there now."""
        found = []
        for directory in pathlib.Path("/proc").glob("[0-9]*"):
            # Processes end while they are looked at.
            with contextlib.suppress(OSError):
                if str(self.point).encode() in (directory / "cmdline").read_bytes():
                    found.append(Process(directory))
        return max(found, key=Process.resident_kib)


class Artifactfs(Contender):
    """Ours."""

    name = "artifactfs"

    def start(self, cache: pathlib.Path) -> None:
        env = os.environ | {"DD_API_KEY": "k", "DD_APP_KEY": "a"}
        command = [self.options.artifactfs, "mount", "--api-url", self.url, "--cache-dir", cache, self.point]
        subprocess.run(command, check=True, env=env)

    def stop(self) -> None:
        subprocess.run([self.options.artifactfs, "umount", self.point], check=True)

    def path(self, run: int, rest: str) -> pathlib.Path:
        return self.point / "runs" / str(run) / rest


class Rclone(Contender):
    """rclone on WebDAV, with its cache of whole files."""

    name = "rclone"

    def start(self, cache: pathlib.Path) -> None:
        command = [
            self.options.rclone, "mount", f":webdav,url='{self.url}/dav/':", self.point, "--read-only", "--daemon",
            "--config", "/dev/null", "--cache-dir", cache, "--dir-cache-time", "1h", "--attr-timeout", "1h",
            "--vfs-cache-mode", "full",
        ]  # fmt: skip
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def path(self, run: int, rest: str) -> pathlib.Path:
        return self.point / str(run) / rest


class Bare(Contender):
    """The binding alone: bare.py."""

    name = "bare"

    def start(self, cache: pathlib.Path) -> None:
        command = [
            sys.executable,
            str(HERE / "bare.py"),
            str(self.point),
            str(self.options.dirs),
            "20",
            str(self.options.big),
        ]
        self._process = subprocess.Popen(command)

    def stop(self) -> None:
        super().stop()
        self._process.wait(_LIMIT_S)

    def path(self, run: int, rest: str) -> pathlib.Path:
        return self.point / ("big" if run == 1004 else "tree")


def rows(options: argparse.Namespace) -> list[Row]:
    """Return the rows whose names hold what --only asks for."""
    deep = "/".join(f"level{level:03d}" for level in range(40)) + "/leaf.txt"
    some = " ".join(f"{{1002:g000/d{number:05d}/f00000.json}}" for number in range(20))
    read = "dd if={1004:model/weights.safetensors} of=/dev/null bs=1M status=none"
    zipped = 'python3 -m zipfile -c "$(mktemp -d)/small.zip" {1005:flat}'
    found = [
        Row(f"find, cold ({options.dirs} directories)", "grid", "find {1002:} -type f", on_bare=False),
        Row("find, warm", "grid", "find {1002:} -type f", on_bare=True),
        Row("find with stat, warm", "grid", "find {1002:} -type f -size +0", on_bare=True),
        Row("ls -lR, warm", "grid", "ls -lR {1002:}", on_bare=True),
        Row("memory after it (KiB)", "grid", None, on_bare=True),
        Row(f"ls -l, cold ({options.wide} files)", "wide", "ls -l {1001:flat}", on_bare=False),
        Row("ls -l, warm", "wide", "ls -l {1001:flat}", on_bare=False),
        Row("stat 40 levels down, cold", "deep", "stat {1003:" + deep + "}", on_bare=False),
        Row("cat a small file, cold", "small", "cat {1002:g001/d00032/f00003.json}", on_bare=False),
        Row("cat it again", "small", "cat {1002:g001/d00032/f00003.json}", on_bare=False),
        Row("cat 20 small files, cold", "small", "cat " + some, on_bare=False),
        Row("cp -r 640 small files, cold", "copy", 'cp -r {1002:g000} "$(mktemp -d)"', on_bare=False),
        Row("grep -r 1,000 small files, cold", "grep", "grep -rc x {1005:flat}", on_bare=False),
        Row("tar 1,000 small files, cold", "tar", "tar -cf - {1005:flat} | cat", on_bare=False),
        Row("zip 1,000 small files, cold", "zip", zipped, on_bare=False),
        Row(f"read {options.big} MiB, cold", "big", read, on_bare=True),
    ]
    if os.geteuid() == 0:
        # Writing back and dropping pages is not timed: it would measure the disk.
        drop = "sync; echo 3 >/proc/sys/vm/drop_caches;; "
        found.append(Row(f"read {options.big} MiB, from its cache", "big", drop + read, on_bare=True))
    return [row for row in found if options.only in row.name]


def control(url: str, what: str) -> dict[str, Any]:
    """Ask the server for its counters, or reset them."""
    with urllib.request.urlopen(f"{url}/_ctl/{what}") as answer:
        counters: dict[str, Any] = json.load(answer)
    return counters


def command_for(contender: Contender, text: str) -> str:
    """Return a row's command with the paths of a contender."""
    while "{" in text:
        head, _, tail = text.partition("{")
        spec, _, tail = tail.partition("}")
        run, _, rest = spec.partition(":")
        text = f"{head}{contender.path(int(run), rest)}{tail}"
    return text


Results = dict[tuple[str, str], list[Figure]]


def measure(contender: Contender, todo: list[Row], results: Results) -> None:
    """Run each row once on one contender, and add the figures to `results`."""
    env = os.environ | {"TMPDIR": str(contender.scratch)}
    for group in dict.fromkeys(row.group for row in todo):
        with contender.mounted():
            process = contender.process()
            for row in todo:
                if row.group != group or (contender.name == "bare" and not row.on_bare):
                    continue
                figures = results.setdefault((row.name, contender.name), [])
                if row.command is None:
                    figures.append(Figure(process.resident_kib()))
                    continue
                before, _, command = command_for(contender, row.command).rpartition(";;")
                if before:
                    subprocess.run(["sh", "-c", before], check=True)
                control(contender.url, "reset")
                cpu_s, faults = process.usage()
                with open(contender.scratch / "out", "wb") as sink:
                    start = time.monotonic()
                    done = subprocess.run(
                        ["sh", "-c", "exec " + command],
                        stdout=sink, stderr=subprocess.PIPE, timeout=_COMMAND_LIMIT_S, env=env,
                    )  # fmt: skip
                    seconds = time.monotonic() - start
                if done.returncode:
                    raise SystemExit(f"{contender.name}: {row.name}: {done.stderr.decode()[-300:]}")
                counters = control(contender.url, "stats")
                cpu_after_s, faults_after = process.usage()
                requests, peak, sent_bytes, served_s = (
                    counters[name] for name in ("requests", "peak", "bytes", "busy_s")
                )
                used = (cpu_after_s - cpu_s, faults_after - faults)
                figures.append(Figure(seconds, requests, peak, sent_bytes, served_s, *used))


def report(todo: list[Row], results: Results, delay_s: float) -> list[dict[str, object]]:
    """Print the table, and return it. The last four columns are of artifactfs: see Figure."""

    def median(row: Row, name: str, field: int = 0) -> float | None:
        found = results.get((row.name, name))
        return statistics.median(figure[field] for figure in found) if found else None

    def cell(row: Row, name: str) -> str:
        value = median(row, name)
        if value is None:
            return "-"
        return f"{value:.0f}" if row.command is None else f"{value:.3f} s {median(row, name, 1):.0f} rq"

    def ratio(above: float | None, below: float | None) -> str:
        return f"{above / below:.2f}" if above and below else "-"

    head = f"latency {delay_s * 1000:g} ms"
    lines = [
        f"{head:34} {'artifactfs':>18} {'rclone':>18} {'rclone/ours':>12} {'bare':>8} {'ours/bare':>10}"
        f" {'server':>8} {'CPU':>8} {'faults':>7} {'MB':>7}"
    ]
    found: list[dict[str, object]] = []
    for row in todo:
        ours, peer, bare = (median(row, name) for name in ("artifactfs", "rclone", "bare"))
        limit = "-" if bare is None else f"{bare:.0f}" if row.command is None else f"{bare:.3f}"
        counted = {name: median(row, "artifactfs", Figure._fields.index(name)) for name in Figure._fields[1:]}
        lines.append(
            f"{row.name:34} {cell(row, 'artifactfs'):>18} {cell(row, 'rclone'):>18} {ratio(peer, ours):>12} "
            f"{limit:>8} {ratio(ours, bare):>10}"
        )
        if row.command is not None and ours is not None:
            lines[-1] += (
                f" {counted['served_s']:6.3f} s {counted['cpu_s']:6.2f} s {counted['faults']:7.0f}"
                f" {(counted['sent_bytes'] or 0) / 1e6:7.1f}"
            )
        found.append({"row": row.name, "artifactfs": ours, "rclone": peer, "bare": bare, **counted})
    sys.stdout.write("\n".join(lines) + "\n")
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifactfs", default=".venv/bin/artifactfs", help="'' to leave it out")
    parser.add_argument("--rclone", default=str(pathlib.Path(sys.executable).with_name("rclone")))
    parser.add_argument("--delay", type=float, default=0.02, help="seconds before each answer")
    parser.add_argument("--dirs", type=int, default=1000)
    parser.add_argument("--wide", type=int, default=10_000)
    parser.add_argument("--big", type=int, default=512, help="MiB")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--no-index", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    command = [
        sys.executable,
        str(HERE / "server.py"),
        "--delay",
        str(options.delay),
        "--tree",
        TREE.format(**vars(options)),
    ]
    server = subprocess.Popen(command + ["--no-index"] * options.no_index, stdout=subprocess.PIPE)
    assert server.stdout is not None
    url = json.loads(server.stdout.readline())["url"]
    results: Results = {}
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="compare-"))
    try:
        todo = rows(options)
        kinds: list[type[Contender]] = [*([Artifactfs] if options.artifactfs else []), Rclone, Bare]
        contenders = [kind(options, url, scratch) for kind in kinds]
        for _ in range(options.repeat):
            for contender in contenders:
                measure(contender, todo, results)
    finally:
        server.terminate()
        shutil.rmtree(scratch, ignore_errors=True)
    found = report(todo, results, options.delay)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
