"""What was measured, as Markdown: tables, the machine they are of, and their place in README.md. For .ci/bench.py."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
TIMES = "\N{MULTIPLICATION SIGN}"


class Failed(Exception):
    """Something could not be measured, or put where it belongs; the message is one line."""


@dataclass
class Comparison:
    """What compare.py measured with one latency, with the project's listing or without.

    `rows`: as compare.py's JSON has them, by name. `failures`: why rows are missing, one line each.
    """

    delay_s: float
    index: bool
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return what sets it apart."""
        return f"{self.delay_s * 1000:g} ms a request" + ("" if self.index else ", without an index")


def machine(cpuinfo: str, meminfo: str) -> str:
    """Return the class of this machine: what figures depend on, and nothing that tells it from its like."""
    model = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    kernel = re.match(r"\d+(\.\d+)*", platform.release())
    count = len(os.sched_getaffinity(0))
    return ", ".join(
        [
            f"{count} CPU{'s' * (count > 1)} ({model[1].strip() if model else platform.machine()})",
            *([f"{round(int(memory[1]) / (1 << 20))} GiB of memory"] if memory else []),
            f"Linux {kernel[0]}" if kernel else "Linux",
        ]
    )


def versions(rclone: Path) -> str:
    """Return what was measured: the versions of artifactfs, of what it stands on, and of the program `rclone`."""
    found = [f"artifactfs {importlib.metadata.version('artifactfs')}", f"Python {platform.python_version()}"]
    found += [f"{name} {importlib.metadata.version(name)}" for name in ("pyfuse3", "trio", "httpx")]
    with contextlib.suppress(OSError):
        said = subprocess.run([rclone, "version"], capture_output=True, text=True, check=False)
        if match := re.match(r"rclone v(\S+)", said.stdout):
            found.append(f"rclone {match[1]}")
    return ", ".join(found)


def _amount(row: str, value: float) -> str:
    return f"{value / 1024:.0f} MiB" if "(KiB)" in row else f"{value:.0f} s" if value >= 100 else f"{value:#.3g} s"


def _ours(row: dict[str, Any] | None) -> str:
    if row is None or row["artifactfs"] is None:
        return ""
    parts = [_amount(row["row"], row["artifactfs"])]
    if row["requests"]:
        parts.append(f"{row['requests']:,.0f} request{'s' * (row['requests'] != 1)}")
    if row["rclone"]:
        ratio = row["rclone"] / row["artifactfs"]
        parts.append(f"{ratio:.0f}{TIMES}" if ratio >= 10 else f"{ratio:#.2g}{TIMES}")
    return ", ".join(parts)


def _parts(row: dict[str, Any]) -> list[str]:
    """Return how long the server was asked for a row, its latency included, and the CPU time of the mount."""
    return ["" if "(KiB)" in row["row"] else f"{row[name]:#.2g} s" for name in ("served_s", "cpu_s")]


def table(comparisons: Sequence[Comparison]) -> str:
    """Return what was measured with one latency, with an index, without one or both, as a table.

    The last two columns are of artifactfs, with an index where that was measured.
    """
    heads = ["artifactfs" if c.index else "artifactfs without an index" for c in comparisons]
    heads += ["rclone", "bare binding", "the server's part", "CPU of the mount"]
    lines = [[f"{comparisons[0].delay_s * 1000:g} ms a request", *heads]]
    lines.append(["---"] * len(lines[0]))
    for name in dict.fromkeys(row for c in comparisons for row in c.rows):
        found = [c.rows.get(name) for c in comparisons]
        others = next(row for row in found if row is not None)
        theirs = [_amount(name, others[peer]) if others[peer] is not None else "" for peer in ("rclone", "bare")]
        lines.append([name.replace(" (KiB)", ""), *map(_ours, found), *theirs, *_parts(others)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hot_table(found: Sequence[dict[str, Any]]) -> str:
    """Return the hot paths' figures as a table."""
    lines = ["| hot path | median | best | for each | held after it |", "|---|---|---|---|---|"]
    for one in found:
        median, told = one["stats"]["median"], one["extra_info"]
        entries, size, held = told["entries"], told["size_bytes"], told.get("held_bytes")
        each = f"{median / entries * 1e6:.2f} µs an entry" if entries else f"{size / median / (1 << 20):,.0f} MiB/s"
        what = f"{told['what']}, {f'{entries:,} entries' if entries else f'{size / (1 << 20):g} MiB'}"
        kept = f"{held / entries:.0f} bytes an entry" if held is not None and entries else ""
        lines.append(f"| {what} | {median * 1000:.2f} ms | {one['stats']['min'] * 1000:.2f} ms | {each} | {kept} |")
    return "\n".join(lines)


def report(caption: str, comparisons: Sequence[Comparison]) -> str:
    """Return the caption and a table for each latency."""
    delays_s = dict.fromkeys(c.delay_s for c in comparisons if c.rows)
    tables = [table([c for c in comparisons if c.rows and c.delay_s == delay_s]) for delay_s in delays_s]
    return "\n\n".join([caption, *tables]) + "\n"


# --- README.md --------------------------------------------------------------------------------------------


def between(readme: str) -> str:
    """Return what is between the markers. Raises Failed unless there is one pair."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(END) < readme.index(BEGIN):
        raise Failed(f"README.md does not have {BEGIN} and {END}, once and in this order")
    return readme[readme.index(BEGIN) + len(BEGIN) : readme.index(END)]


def reports(readme: str) -> list[str]:
    """Return the reports between the markers, one for each kind of processor."""
    return list(filter(None, re.split(r"\n\n(?=Measured )", between(readme).strip())))


def put_between(readme: str, text: str) -> str:
    """Return README.md with the report `text` between the markers, in place of the one of the same processors."""
    kept = [other for other in reports(readme) if is_report(other) and _processors(other) != _processors(text)]
    found = "\n\n".join([*kept, text.strip()])
    return f"{readme.partition(BEGIN)[0]}{BEGIN}\n{found}\n{END}{readme.partition(END)[2]}"


def _processors(report: str) -> str:
    """Return the processors of a report's caption, as `machine` names them; the report where it names none."""
    match = re.match(r"Measured .*?: (\d+ CPUs? \(.+?\)),", report)
    return match[1] if match else report


def is_report(text: str) -> bool:
    """Whether a text is what `report` makes: a caption with a date, and tables of which every row has all columns."""
    caption, *tables = text.strip().split("\n\n")
    if re.match(r"Measured \d{4}-\d\d-\d\d\b", caption) is None or not tables:
        return False
    for lines in (one.splitlines() for one in tables):
        columns = lines[0].count("|")
        whole = all(line.startswith("| ") and line.endswith(" |") and line.count("|") == columns for line in lines)
        if not whole or len(lines) < 3 or re.match(r"\| [\d.]+ ms a request \| artifactfs", lines[0]) is None:
            return False
    return True
