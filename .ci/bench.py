"""Measure: artifactfs beside rclone and the bare binding, and its hot paths by themselves. For `make bench`.

Runs tests/benchmarks/peers/compare.py, then tests/benchmarks; prints what they found as Markdown, and writes it to
OUT/result.md. What was measured in full is kept for `--readme`, which puts it into README.md.

What is hard is to leave nothing behind: compare.py mounts in the background. So it runs in a session of its own, with
its temporary files in a directory of ours: when it ends, however it does, its processes are ended, and what is mounted
there is unmounted. The user's keys, settings and caches are kept from it.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bench_tables import TIMES, Comparison, Failed, hot_table, is_report, machine, put_between, report, versions

CHECKOUT = Path(__file__).resolve().parents[1]
COMPARE = CHECKOUT / "tests" / "benchmarks" / "peers" / "compare.py"
# Where pip puts programs.
SCRIPTS = Path(sysconfig.get_path("scripts"))

# Rows of compare.py that can do without all others: what is tried by itself after one of them failed. "warm" rows need
# the cold one before them.
APART = ("find", "ls -l, ", "stat ", "cat ", "read ")
# What no other choice of rows would change.
_HOPELESS = re.compile(r"(FileNotFound|ModuleNotFound|Import|Permission|JSONDecode)Error\b|^usage: ")
# Of the environment, what would change the figures or the programs.
_NOT_OURS = re.compile(r"(ARTIFACTFS|DD|DATADOG|RCLONE|PYTEST|XDG)_|.*_proxy$", re.IGNORECASE)
# What compare.py gets to unmount after Ctrl-C (where it cannot, it walks what is mounted, to remove it), and a mount's
# process to end after it was unmounted.
_UNWIND_S = 5.0
_LINGER_S = 5.0
_POLL_S = 0.05

# Signals that asked us to end: looked at where nothing is left behind by ending.
_asked: list[int] = []


class Interrupted(Exception):
    """Ctrl-C, or another signal that asks to end."""


def _note(number: int, _frame: FrameType | None) -> None:
    _asked.append(number)
    if len(_asked) == 1:
        # A terminal that went away cannot be told.
        with contextlib.suppress(OSError):
            sys.stderr.write("bench: stopping, and unmounting what is mounted\n")


# --- children, and what they leave ------------------------------------------------------------------------


def run(command: Sequence[str | Path], scratch: Path, out: Path) -> tuple[int, str]:
    """Run a command to its end; its output is added to `out`. Returns its exit code and what it said on standard error.

    Nothing that it started is left when this returns. Raises Interrupted.
    """
    said = scratch / "stderr"
    environment = {name: value for name, value in os.environ.items() if not _NOT_OURS.match(name)}
    for name in ("HOME", "TMPDIR"):
        (scratch / name).mkdir(exist_ok=True)
        environment[name] = str(scratch / name)
    # Files, not pipes: a mount in the background would hold a pipe open.
    with said.open("wb") as stderr, out.open("ab") as stdout:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment, cwd=CHECKOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        while not _asked and not _has_ended(process.pid):
            time.sleep(_POLL_S)
        if not _has_ended(process.pid):
            os.kill(process.pid, signal.SIGINT)
            end = time.monotonic() + _UNWIND_S
            while not _has_ended(process.pid) and time.monotonic() < end:
                time.sleep(_POLL_S)
    finally:
        # It is not reaped yet, so the number of its session is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        clean(scratch)
    if _asked:
        raise Interrupted
    return process.returncode, said.read_text(errors="replace")


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; leaves it to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def clean(scratch: Path) -> None:
    """Unmount what is mounted below a directory of ours, and end the processes that serve it."""
    _unmount(scratch)
    # At first they get the time to end by themselves.
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            for pid in _processes_of(scratch):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        end = time.monotonic() + _LINGER_S
        while list(_processes_of(scratch)) and time.monotonic() < end:
            time.sleep(_POLL_S)
    _unmount(scratch)


def _unmount(scratch: Path) -> None:
    for point in reversed(mounted_below(scratch)):
        for command in (["umount", "--lazy", point], ["fusermount3", "-uz", point]):
            with contextlib.suppress(OSError):
                # In a session of its own: Ctrl-C once more does not end it.
                done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False, start_new_session=True)
                if done.returncode == 0:
                    break


def mounted_below(directory: Path) -> list[str]:
    """Return the mount points below a directory, in the order of their mounting. Does not touch them."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    points = [re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split()[4]) for line in lines]
    return [point for point in points if point.startswith(f"{directory}/")]


def _processes_of(scratch: Path) -> Iterator[int]:
    """Yield the processes whose command line names a directory of ours: nobody else's can."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{scratch}/".encode() in file.read_bytes():
                yield int(file.parent.name)


def reason(said: str, code: int) -> str:
    """Return in one line why a program failed, from what it said."""
    before, _, traceback = said.rpartition("Traceback (most recent call last):")
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    if not lines:
        return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    if not before and said == traceback:
        return " ".join(lines)[:400]
    if match := re.match(r"subprocess\.CalledProcessError: Command '\[(.*)\]' (?:returned|died)", lines[-1]):
        # What a program that it called said stands before its own traceback.
        called = " ".join(re.findall(r"'([^']*)'", match[1])[:2]).rpartition("/")[2]
        return f"{called}: {(before.strip() or lines[-1]).splitlines()[-1].strip()}"[:400]
    return lines[-1][:400]


# --- what is run ------------------------------------------------------------------------------------------


def compare(program: Path, comparison: Comparison, options: argparse.Namespace, scratch: Path) -> None:
    """Run compare.py. Where a row fails, it ends with nothing: then what can is measured apart. Raises Interrupted."""
    said_to = options.out / f"compare-{comparison.delay_s * 1000:g}ms{'' if comparison.index else '-no-index'}.txt"
    said_to.unlink(missing_ok=True)
    file = scratch / "rows.json"

    def attempt(word: str) -> str | None:
        command: list[str | Path] = [sys.executable, program]
        command += ["--artifactfs", SCRIPTS / "artifactfs", "--rclone", SCRIPTS / "rclone"]
        command += ["--delay", str(comparison.delay_s), "--repeat", str(options.repeat), "--only", word, "--json", file]
        code, said = run(command if comparison.index else [*command, "--no-index"], scratch, said_to)
        if code != 0:
            return reason(said, code).replace(f"{scratch}/", "")
        comparison.rows |= {row["row"]: row for row in json.loads(file.read_text())}
        return None

    first = attempt(options.only)
    failures = [] if first is None else [first]
    if first is not None and not options.only and not _HOPELESS.search(first):
        failures += [why for word in APART if (why := attempt(word)) is not None and why != first]
    for why in failures:
        sys.stderr.write(f"bench: {comparison.name}: not measured: {why}\n")
    comparison.failures += failures


def hot_paths(scratch: Path, out: Path) -> list[dict[str, Any]]:
    """Run tests/benchmarks; returns pytest-benchmark's figures. Raises Failed, Interrupted."""
    said_to, file = out / "hot-paths.txt", scratch / "hot.json"
    said_to.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "tests/benchmarks", "-q", "--tb=short", "-p", "no:cacheprovider"]
    # That nothing was measured would hide why.
    command += ["-W", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning", "--benchmark-enable"]
    command += [f"--benchmark-json={file}", f"--basetemp={scratch / 'pytest'}"]
    code, said = run(command, scratch, said_to)
    if code != 0:
        lines = [line for line in said_to.read_text().splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
        raise Failed(lines[-1] if lines else reason(said, code))
    found: list[dict[str, Any]] = json.loads(file.read_text())["benchmarks"]
    return found


def measure(options: argparse.Namespace, scratch: Path) -> bool:
    """Measure, print, write; returns whether all went well. Raises Interrupted."""
    kinds = {"": (True, False), "1": (True,), "0": (False,)}[options.index]
    comparisons = [Comparison(delay, index) for delay in dict.fromkeys(options.delays) for index in kinds]
    for one in comparisons:
        sys.stderr.write(f"bench: measuring: {one.name}, median of {options.repeat}\n")
        compare(COMPARE, one, options, scratch)
    failures = [f"{c.name}: {why}" for c in comparisons for why in c.failures]
    sys.stderr.write("bench: measuring: the hot paths by themselves\n")
    hot = ""
    try:
        hot = hot_table(hot_paths(scratch, options.out))
    except Failed as error:
        sys.stderr.write(f"bench: the hot paths: not measured: {error}\n")
        failures.append(f"the hot paths: {error}")

    here = machine(Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text())
    caption = (
        f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d} with `make bench`, medians of {options.repeat}: "
        f"{here}; {versions(SCRIPTS / 'rclone')}. “9{TIMES}”: rclone's figure of the same run divided by ours."
    )
    compared = report(caption, comparisons)
    parts = [compared.strip(), hot, "\n".join(f"- not measured: {why}" for why in failures)]
    result = "\n\n".join(filter(None, parts)) + "\n"
    (options.out / "result.md").write_text(result, encoding="utf-8")
    if not options.only and not failures and is_report(compared):
        (options.out / "readme.md").write_text(compared, encoding="utf-8")
    sys.stdout.write(f"\n{result}")
    return not failures


# --- the command ------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong."""
        self.exit(2, f"bench: {message}\n")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="put what was last measured in full into README.md")
    parser.add_argument("--out", type=Path, default=CHECKOUT / ".bench", help="directory of the results")
    parser.add_argument("--repeat", type=int, default=3, help="times of which the median is taken")
    parser.add_argument("--only", default="", help="rows of the comparison whose names contain this")
    parser.add_argument("--delays", default="0.02", help="seconds before each answer, one or several")
    parser.add_argument("--index", choices=["", "0", "1"], default="", help="0: only without an index; 1: only with it")
    options = parser.parse_args(argv)
    try:
        options.delays = [float(one) for one in options.delays.split()]
    except ValueError:
        parser.error(f"--delays: {options.delays!r} is not seconds")
    if options.repeat < 1 or not options.delays or not all(0 <= delay < 60 for delay in options.delays):
        parser.error("--repeat takes 1 or more, --delays 0 to 60 seconds")
    return options


def _write_readme(out: Path) -> None:
    kept, readme = out / "readme.md", CHECKOUT / "README.md"
    if not kept.exists():
        raise Failed("nothing was measured in full yet: run `make bench`, without ONLY")
    text = put_between(readme.read_text(encoding="utf-8"), kept.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Return the exit code: 0, 1 where something was not measured, 130 after Ctrl-C."""
    options = _arguments(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _note)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if options.readme:
            _write_readme(options.out)
            return 0
        scratch = Path(tempfile.mkdtemp(prefix="artifactfs-bench-"))
        try:
            return 0 if measure(options, scratch) else 1
        finally:
            # A mount that would not go is no reason to walk into it.
            if not mounted_below(scratch):
                shutil.rmtree(scratch, ignore_errors=True)
    except Interrupted:
        return 130
    except (Failed, OSError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
