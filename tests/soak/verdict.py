"""What a soak allows, and its report. Pure: figures in, sentences out.

The limits and why:

- a wait: twice the deadline is the contract with the margin that all tests give it; the kernel lets twelve buffered
  reads into the mount at a time, so a read may stand in a queue for as long again before the mount hears of it.
- a call: the same. A path is several waits, and a page that read-ahead could not fetch is asked for once more;
  but after a wait that ran into its deadline, the others fail at once while nothing comes.
- memory: the blocks that readers are at (48 MiB at most) may have been there at one look and not at the other, and
  what the allocator keeps in pieces, about as much again as a mount has at its beginning.
- sockets: idle connections of both pools may stay, and the binding's own. Other descriptors: none.
- the cache: blocks that came and went while it was looked at count twice during the run; at the end nothing is added.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.soak.crew import CrewStats
from tests.soak.watch import CacheState, Holdings

WAIT_DEADLINES = 4
RSS_SLACK_KIB = 64 << 10
POOLED_SOCKETS = 32
SCAN_SLACK_BYTES = 4 << 20
# What the table of errors lets the faults of the plan become; ENOENT only of what has gone, which the workers judge.
ALLOWED = frozenset(
    ("EIO", "ETIMEDOUT", "EBUSY", "ECONNREFUSED", "EHOSTUNREACH", "EBADMSG", "EACCES", "ESTALE", "ENOENT", "SIGBUS")
)


@dataclass(frozen=True)
class Ending:
    """How it ended: what differs from the service's truth, umount's exit code, what is left."""

    differences: Sequence[str]
    umount_code: int | None
    umount_s: float
    left: Sequence[str]


@dataclass(frozen=True)
class Verdict:
    """One statement: whether it holds, and the figure or the first findings."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Figures:
    """All that a soak measured."""

    tally: CrewStats
    deadline_s: float
    before: Holdings
    after: Holdings
    cache_size: int
    cache_most: int
    cache: CacheState
    log_faults: Sequence[str]
    ending: Ending


@dataclass(frozen=True)
class Result:
    """What is judged, and what is only reported."""

    figures: Figures
    events: Counter[str]
    faults: Counter[str]
    levels: Counter[str]
    rss_by_minute: Sequence[int]


def verdicts(found: Figures) -> list[Verdict]:
    """Return the statements of issue 5 about a soak, judged."""
    tally, before, after = found.tally, found.before, found.after
    limit_s = WAIT_DEADLINES * found.deadline_s
    slowest = max(tally.longest_call[0], tally.longest_wait[0], tally.longest_death[0])
    strange = sorted(set(tally.errors) - ALLOWED)
    grown_kib = after.rss_kib - before.rss_kib
    most = found.cache_size + SCAN_SLACK_BYTES
    return [
        _none("no wrong byte, nothing invented, nothing vanished", tally.wrong, f"{sum(tally.bytes.values()):,} bytes"),
        Verdict(
            "no hang",
            not tally.hung and slowest <= limit_s,
            "; ".join(tally.hung[:3]) or f"longest {slowest:.1f} s of {limit_s:g} s",
        ),
        _none("no errno but those of the table", strange, f"{tally.errors.total():,} errors"),
        _none("no worker died but those that were killed", tally.died, f"{tally.killed.total()} killed"),
        _none("no traceback, no bug in the log", found.log_faults, "none"),
        Verdict(
            "memory is back",
            grown_kib <= RSS_SLACK_KIB,
            f"{before.rss_kib >> 10} MiB, then {after.rss_kib >> 10} MiB; {RSS_SLACK_KIB >> 10} MiB more are allowed",
        ),
        Verdict(
            "descriptors are back",
            after.other_fds <= before.other_fds and after.sockets <= max(before.sockets, POOLED_SOCKETS),
            f"{_kinds(before)}; then {_kinds(after)}",
        ),
        _none("no file left in the cache beyond its format", [*found.cache.aside, *found.cache.strange], "none"),
        Verdict(
            "the cache keeps its size",
            found.cache.size_bytes <= found.cache_size and found.cache_most <= most,
            f"{found.cache.size_bytes >> 10:,} of {found.cache_size >> 10:,} KiB; at most {found.cache_most >> 10:,}",
        ),
        _none("at the end the mount is what the service is", found.ending.differences, "every name, every byte"),
        Verdict(
            "umount",
            found.ending.umount_code == 0,
            f"exit code {found.ending.umount_code} after {found.ending.umount_s:.1f} s",
        ),
        _none("nothing mounted, no process left", found.ending.left, "none"),
    ]


def _none(name: str, found: Sequence[str], fine: str) -> Verdict:
    if not found:
        return Verdict(name, True, fine)
    return Verdict(name, False, f"{len(found)}: " + "; ".join(found[:5]))


def _kinds(held: Holdings) -> str:
    return f"{held.sockets} sockets, {held.other_fds} others"


def report(result: Result, head: Sequence[str]) -> str:
    """Return the report: plain text, as it is kept in docs/soak.md. `head`: lines about when and with what."""
    found, tally = result.figures, result.figures.tally
    rows = [
        f"  {way:<12}{tally.done[way]:>9,}{tally.failed[way]:>9,}{tally.bytes[way] / (1 << 20):>12,.1f}"
        f"{tally.longest_s.get(way, 0.0):>11.2f}"
        for way in sorted(tally.done)
    ]
    lines = [
        *head,
        "",
        f"  {'operation':<12}{'times':>9}{'failed':>9}{'MiB':>12}{'longest s':>11}",
        *rows,
        f"  {'all':<12}{tally.done.total():>9,}{tally.failed.total():>9,}{tally.bytes.total() / (1 << 20):>12,.1f}",
        "",
        _counts("errors", tally.errors),
        _counts("faults met by requests", result.faults),
        _counts("plan", result.events),
        _counts("workers killed", tally.killed),
        _counts("log lines", result.levels),
        f"longest system call: {tally.longest_call[0]:.2f} s ({tally.longest_call[1]})",
        f"longest wait of a process: {tally.longest_wait[0]:.1f} s ({tally.longest_wait[1]})",
        f"longest death after a signal: {tally.longest_death[0]:.1f} s ({tally.longest_death[1]})",
        f"the mount's process at rest: before: {_held(found.before)}; after: {_held(found.after)}",
        f"its memory each minute, at work, in MiB: {' '.join(str(kib >> 10) for kib in result.rss_by_minute)}",
        "",
    ]
    judged = verdicts(found)
    lines += [f"{'ok  ' if each.holds else 'FAIL'}  {each.name}: {each.detail}" for each in judged]
    return "\n".join(lines)


def _held(held: Holdings) -> str:
    return f"{held.rss_kib / 1024:.1f} MiB, {held.threads} threads, {_kinds(held)}"


def _counts(name: str, counted: Counter[str]) -> str:
    return f"{name}: " + (", ".join(f"{each} {count:,}" for each, count in counted.most_common()) or "none")
