"""The registry of counters: status.json, the metrics and the table in docs/status.md are made from its rows.

A new counter is one row. `artifactfs status` shows a number of status.json under its key, so it needs no line there.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

import msgspec

from artifactfs.content.read_stats import CacheState, ReadStats
from artifactfs.control.status_schema import STATES, Health, Section, Times
from artifactfs.domain import RequestUsage
from artifactfs.fuse.handles import KernelState
from artifactfs.metadata.write_behind import MetadataState
from artifactfs.modellab.rate_limits import LimitState
from artifactfs.modellab.request_stats import HEAD_BOUNDS_S, StatsSnapshot
from artifactfs.tree.tree_stats import TreeState
from artifactfs.util.escaping import one_line

# A service can name any number of rate limits and projects; status.json and the metrics hold no more of each.
MAX_LISTED = 50


class Readings(msgspec.Struct, frozen=True):
    """What the components of a mount count, at one moment.

    `identity`: labels that name the mount. `cache`, `metadata`: None without one on disk. `kernel`: None before the
    mount.
    """

    identity: dict[str, str]
    uptime_s: float
    health: Health
    failures: int
    traffic: StatsSnapshot
    usage: RequestUsage
    limits: tuple[LimitState, ...]
    cache: CacheState | None
    metadata: MetadataState | None
    reading: ReadStats
    tree: TreeState
    kernel: KernelState | None


class Counter(msgspec.Struct, frozen=True):
    """A row of the registry.

    `path`: section and key in status.json; without a dot a field of its own; "" if status.json has a list instead.
    `kind`: Prometheus' type, or "" for text, which is no metric. `read`: returns the value: None for unknown, which
    `metrics` leaves out, or mappings of label values to it. `metric`: its name, if that is not made of the path.
    `labels`: names, in the order of the mappings; or `name=value` for the same label on each sample.
    """

    path: str
    kind: str
    help: str
    read: Callable[[Readings], Any]
    metric: str = ""
    labels: str = ""

    @property
    def family(self) -> str:
        suffix = "_total" if self.kind == "counter" else ""
        return f"artifactfs_{self.metric or self.path.replace('.', '_')}{suffix}"


def _cache(key: str, kind: str, about: str, read: Callable[[CacheState], Any], metric: str = "") -> Counter:
    return Counter(f"cache.{key}", kind, about, lambda r: None if r.cache is None else read(r.cache), metric)


def _metadata(key: str, kind: str, about: str, read: Callable[[MetadataState], Any], metric: str = "") -> Counter:
    return Counter(f"metadata.{key}", kind, about, lambda r: None if r.metadata is None else read(r.metadata), metric)


def _open(key: str, about: str, read: Callable[[KernelState], int], metric: str = "") -> Counter:
    return Counter(f"open.{key}", "gauge", about, lambda r: None if r.kernel is None else read(r.kernel), metric)


def _read_from(source: str, key: str, unit: str, read: Callable[[Readings], int]) -> Counter:
    about = f"{unit.capitalize()} of file contents by their source."
    return Counter(f"reading.{key}", "counter", about, read, f"read_{unit}", f"source={source}")


def _limit(metric: str, about: str, read: Callable[[LimitState], float | None]) -> Counter:
    return Counter("", "gauge", about, lambda r: {limit.name: read(limit) for limit in r.limits}, metric, "name")


COUNTERS = (
    Counter("uptime_s", "gauge", "Seconds since the mount began.", lambda r: r.uptime_s, "uptime_seconds"),
    Counter("", "gauge", "1 for the current state, 0 for each other state.",
            lambda r: {state: state == r.health.state for state in STATES}, "health", "state"),
    Counter("failures", "counter", "Failures, as in the report `errors`, without its notices.", lambda r: r.failures),
    Counter("requests.by_kind", "counter", "Requests by kind and outcome; each attempt counts.",
            lambda r: r.traffic.outcomes, "requests", "kind,outcome"),
    Counter("requests.times", "histogram", "Seconds from a request to the head of its response.",
            lambda r: _times(r.traffic), "answer_seconds", "kind"),
    Counter("requests.received_bytes", "counter", "Bytes of response bodies received.",
            lambda r: r.usage.received_bytes, "received_bytes"),
    Counter("requests.bodies_broken", "counter", "Response bodies that ended early.",
            lambda r: r.traffic.bodies_broken, "bodies_broken"),
    Counter("requests.paused_s", "counter", "Seconds that requests waited for rate limits.",
            lambda r: round(r.usage.paused_s, 3), "paused_seconds"),
    _limit("rate_limit", "Requests that a rate limit grants per period.", lambda limit: limit.limit),
    _limit("rate_limit_remaining", "Requests left until the reset.", lambda limit: limit.remaining),
    _limit("rate_limit_reset_seconds", "Seconds until the reset.", lambda limit: limit.reset_s),
    _cache("directory", "", "Directory of the cache on disk; `null`: there is none.", lambda c: c.directory),
    _cache("size_bytes", "gauge", "Bytes in the cache, of all mounts, when last counted.",
           lambda c: c.size_bytes, "cache_bytes"),
    _cache("limit_bytes", "gauge", "Bytes that the cache may hold.", lambda c: c.limit_bytes),
    _cache("disk_free_bytes", "gauge", "Bytes free on the disk, when last counted.", lambda c: c.free_bytes),
    _cache("evicted_files", "counter", "Cached files that this mount evicted.", lambda c: c.evicted_files),
    _cache("evicted_bytes", "counter", "Cached bytes that this mount evicted.", lambda c: c.evicted_bytes),
    _cache("waiting_bytes", "gauge", "Bytes that wait to be written to the cache.", lambda c: c.waiting_bytes),
    _cache("keeps_up", "gauge", "Whether the disk keeps up with the downloads.", lambda c: c.keeps_up),
    _metadata("path", "", "File of the metadata store; `null`: there is none.", lambda m: m.path),
    _metadata("size_bytes", "gauge", "Bytes in the metadata store, of all mounts, when last counted.",
              lambda m: m.size_bytes),
    _metadata("limit_bytes", "gauge", "Bytes that the metadata store may hold.", lambda m: m.limit_bytes),
    _metadata("runs", "gauge", "Runs of which the metadata store holds something.", lambda m: m.runs),
    _metadata("oldest_age_s", "gauge", "Age of the oldest record of the metadata store, in seconds.",
              lambda m: None if m.oldest_at is None else round(max(0.0, time.time() - m.oldest_at)),
              "metadata_oldest_age_seconds"),
    _metadata("waiting", "gauge", "Changes that wait to be written to the metadata store.", lambda m: m.waiting),
    _read_from("memory", "memory_bytes", "bytes", lambda r: r.reading.memory_bytes),
    _read_from("disk", "disk_bytes", "bytes", lambda r: r.reading.disk_bytes),
    _read_from("service", "fetched_bytes", "bytes", lambda r: r.reading.fetched_bytes),
    _read_from("disk", "disk_blocks", "blocks", lambda r: r.reading.disk_blocks),
    _read_from("service", "fetched_blocks", "blocks", lambda r: r.reading.fetched_blocks),
    Counter("reading.memory_reads", "counter", "Reads that memory answered at once.",
            lambda r: r.reading.memory_reads, "memory_reads"),
    Counter("reading.files_ahead", "counter", "Small files fetched ahead of a program that reads file by file.",
            lambda r: r.reading.files_ahead, "files_ahead"),
    Counter("reading.streamed", "counter", "Bodies read whole that fitted neither cache nor memory.",
            lambda r: r.reading.streamed, "streamed"),
    Counter("reading.restarted", "counter", "Streams that a read at an earlier offset restarted.",
            lambda r: r.reading.restarted, "streams_restarted"),
    Counter("", "gauge", "Entries of `streaming`.", lambda r: len(r.reading.streams), "streaming"),
    Counter("listings.cached", "gauge", "Cached listings.", lambda r: r.tree.listings, "listings"),
    Counter("listings.entries", "gauge", "Entries of cached listings.", lambda r: r.tree.entries, "listing_entries"),
    Counter("listings.runs", "gauge", "Cached runs.", lambda r: r.tree.runs, "runs"),
    Counter("listings.projects", "gauge", "Cached projects.", lambda r: r.tree.projects, "projects"),
    Counter("listings.stale_served", "counter", "Requests of the kernel answered from a stale listing.",
            lambda r: r.tree.stale_served, "stale_listings_served"),
    Counter("listings.prefetched", "counter", "Directories listed ahead of a traversal.",
            lambda r: r.tree.listed_ahead, "prefetched_directories"),
    Counter("listings.traversals", "counter", "Traversals of a run that have ended.",
            lambda r: r.tree.walks, "traversals"),
    Counter("listings.traversals_active", "gauge", "Traversals of a run that have not ended.",
            lambda r: r.tree.walking, "traversals_active"),
    Counter("", "gauge", "Entries of `indexes` by state.", lambda r: _index_states(r.tree), "indexes", "state"),
    _open("inodes", "Inodes that the kernel holds.", lambda k: k.inodes, "inodes"),
    _open("files", "Open files.", lambda k: k.open_files),
    _open("directories", "Open directories.", lambda k: k.open_directories),
    _open("files_without_size", "Open files of unknown size (direct I/O: mmap fails).", lambda k: k.open_without_size),
)  # fmt: skip


def sections(readings: Readings) -> dict[str, Section]:
    """Return the sections of status.json with their values."""
    found: dict[str, Section] = {}
    for counter in COUNTERS:
        section, dot, key = counter.path.partition(".")
        if dot:
            found.setdefault(section, {})[key] = counter.read(readings)
    return found


def metrics_text(readings: Readings) -> bytes:
    """Return the metrics for Prometheus, in its text format 0.0.4; `prometheus_client` would add registries."""
    lines = ["# HELP artifactfs_info Names the mount; always 1.", "# TYPE artifactfs_info gauge"]
    lines.append(_sample("artifactfs_info", readings.identity, 1))
    for family, rows in groupby((counter for counter in COUNTERS if counter.kind), lambda counter: counter.family):
        members = list(rows)
        samples = [line for counter in members for line in _samples(counter, readings)]
        if samples:
            lines += [f"# HELP {family} {members[0].help}", f"# TYPE {family} {members[0].kind}", *samples]
    return ("\n".join(lines) + "\n").encode()


def _samples(counter: Counter, readings: Readings) -> Iterator[str]:
    names = [] if "=" in counter.labels else counter.labels.split(",")
    fixed = dict([counter.labels.split("=")]) if "=" in counter.labels else {}
    for labels, value in _flattened(counter.read(readings), names):
        if isinstance(value, Times):
            for bound, count in zip(value.bounds_s, value.within, strict=True):
                yield _sample(f"{counter.family}_bucket", {**labels, "le": f"{bound:g}"}, count)
            yield _sample(f"{counter.family}_bucket", {**labels, "le": "+Inf"}, value.count)
            yield _sample(f"{counter.family}_sum", labels, value.sum_s)
            yield _sample(f"{counter.family}_count", labels, value.count)
        else:
            yield _sample(counter.family, {**fixed, **labels}, value)


def _flattened(value: Any, names: list[str]) -> Iterator[tuple[dict[str, str], Any]]:
    """Yield labels and value of each number in nested mappings; unknown ones are left out."""
    if isinstance(value, Mapping):
        for label, below in value.items():
            for labels, number in _flattened(below, names[1:]):
                yield {names[0]: label, **labels}, number
    elif value is not None:
        yield {}, value


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    text = ",".join(f'{label}="{_escaped(label_value)}"' for label, label_value in labels.items())
    number = str(int(value)) if value == int(value) else repr(float(value))
    return f"{name}{{{text}}} {number}" if text else f"{name} {number}"


def _escaped(text: str) -> str:
    # For terminals, too: control characters are escaped first. The format has its own escape for newlines.
    lines = text.encode("utf-8", "replace").decode().split("\n")
    return "\n".join(map(one_line, lines)).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _times(traffic: StatsSnapshot) -> dict[str, Times]:
    times = {}
    for kind, heads in traffic.heads.items():
        within = tuple(sum(heads.counts[: place + 1]) for place in range(len(HEAD_BOUNDS_S)))
        times[kind] = Times(heads.count, round(heads.sum_s, 6), HEAD_BOUNDS_S, within)
    return times


def _index_states(tree: TreeState) -> dict[str, int]:
    states = [index.state for index in tree.indexes[-MAX_LISTED:]]
    return {state: states.count(state) for state in sorted(set(states))}
