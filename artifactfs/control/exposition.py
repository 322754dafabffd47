"""The reports of a mount, as text: status.json, Prometheus' text format, and the last failures in sentences.

Prometheus' format is written by hand: version 0.0.4 is three kinds of line, and its library keeps registries that
nobody here needs. Names follow its rules: base units, `_total` for what only grows.
"""

import json
import re
from collections.abc import Iterable, Mapping

import msgspec

from artifactfs.control.status_schema import OK, Failed, Status
from artifactfs.util.escaping import one_line

_SURROGATE = re.compile("[\ud800-\udfff]")
_STATES = (OK, "degraded", "failing", "not_answering", "rate_limited", "keys_rejected")

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


def status_json(status: Status) -> bytes:
    """Return status.json: one object, indented."""
    return (json_text(msgspec.to_builtins(status)) + "\n").encode()


def json_text(value: object) -> str:
    """Return JSON that strict readers take: a lone surrogate, as of a path that is no UTF-8, is written out."""
    # The standard library's: msgspec's refuses lone surrogates. In its text they are within strings, so what a string
    # is to have is a backslash, twice.
    text = _SURROGATE.sub(_written_out, json.dumps(value, ensure_ascii=False))
    return json.dumps(json.loads(text), indent=2)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    # What Python makes of a byte that is no UTF-8 (PEP 383), and any other.
    return f"\\\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\\\u{code:04x}"


def errors_text(failures: Iterable[Failed], at: str) -> bytes:
    """Return the failures in sentences, the last first. `at`: now."""
    lines = []
    for failed in failures:
        often = "once" if failed.count == 1 else f"the last of {failed.count} since {failed.first}"
        lines.append(f"{failed.last}  {failed.message} ({often})")
        if failed.what_to_do:
            lines.append(f"    what to do: {failed.what_to_do}")
    return ("\n".join(map(one_line, lines or [f"no failures until {at}"])) + "\n").encode()


def metrics_text(status: Status) -> bytes:
    """Return all that can be counted, for Prometheus (text format 0.0.4)."""
    page = _Page()
    page.gauge("info", "What is mounted; always 1.", [({
        "version": status.version, "mountpoint": status.mountpoint, "origin": status.origin,
        "account": status.account or "",
    }, 1)])  # fmt: skip
    page.gauge("uptime_seconds", "Seconds since the mount began.", [({}, status.uptime_s)])
    page.gauge(
        "health",
        "1 for the state that the mount is in, 0 for each other.",
        [({"state": state}, float(status.health.state == state)) for state in _STATES],
    )
    _requests(page, status)
    _contents(page, status)
    listings, held = status.listings, status.open
    page.gauge("listings", "Listings that are remembered.", [({}, listings.remembered)])
    page.gauge("listing_entries", "Entries in remembered listings.", [({}, listings.entries)])
    page.gauge("runs", "Runs that are remembered.", [({}, listings.runs)])
    page.counter("old_listings_served", "Looks that were answered with an old listing.", [({}, listings.old_served)])
    page.counter("listed_ahead", "Directories listed ahead of who walks.", [({}, listings.listed_ahead)])
    page.counter("walks", "Walks through a run that are over.", [({}, listings.walks)])
    page.gauge("indexes", "Projects' listings by what became of them.", [
        ({"state": state}, sum(index.state == state for index in listings.indexes))
        for state in sorted({index.state for index in listings.indexes})
    ])  # fmt: skip
    page.gauge("inodes", "Inodes that the kernel holds.", [({}, held.inodes)])
    page.gauge("open_files", "Open files.", [({}, held.files)])
    page.gauge("open_directories", "Open directories.", [({}, held.directories)])
    page.counter("failures", "Failures, as in the errors report.", [({}, status.failures)])
    return page.text()


def _requests(page: "_Page", status: Status) -> None:
    asked = status.requests
    page.counter("requests", "Requests by kind and outcome.", [
        ({"kind": kind, "outcome": outcome}, count)
        for kind, outcomes in asked.by_kind.items() for outcome, count in outcomes.items()
    ])  # fmt: skip
    page.head("answer_seconds", "histogram", "Seconds from a request to its answer's head.")
    for kind, times in asked.times.items():
        for bound, count in zip(times.bounds_s, times.within, strict=True):
            page.sample("answer_seconds_bucket", {"kind": kind, "le": f"{bound:g}"}, count)
        page.sample("answer_seconds_bucket", {"kind": kind, "le": "+Inf"}, times.count)
        page.sample("answer_seconds_sum", {"kind": kind}, times.sum_s)
        page.sample("answer_seconds_count", {"kind": kind}, times.count)
    page.counter("received_bytes", "Bytes of bodies received.", [({}, asked.received_bytes)])
    page.counter("bodies_broken", "Bodies that did not come to their end.", [({}, asked.bodies_broken)])
    page.counter("paused_seconds", "Seconds that requests waited for rate limits.", [({}, asked.paused_s)])
    limits = status.rate_limits
    page.gauge("rate_limit", "Requests of a rate limit.", [({"name": limit.name}, limit.limit) for limit in limits])
    page.gauge(
        "rate_limit_remaining", "Requests that are left.", [({"name": limit.name}, limit.remaining) for limit in limits]
    )
    page.gauge(
        "rate_limit_reset_seconds",
        "Seconds to the reset.",
        [({"name": limit.name}, limit.reset_s) for limit in limits],
    )


def _contents(page: "_Page", status: Status) -> None:
    cache, reading = status.cache, status.reading
    page.gauge("cache_bytes", "Bytes in the cache on disk, all mounts together.", [({}, cache.size_bytes)])
    page.gauge("cache_limit_bytes", "Bytes that the cache may hold.", [({}, cache.limit_bytes)])
    page.gauge("cache_disk_free_bytes", "Bytes free on the cache's disk.", [({}, cache.disk_free_bytes)])
    page.counter("cache_evicted_files", "Files of the cache that this mount evicted.", [({}, cache.evicted_files)])
    page.counter("cache_evicted_bytes", "Bytes that this mount evicted.", [({}, cache.evicted_bytes)])
    page.counter("read_bytes", "Bytes of contents by where they came from.", [
        ({"source": "memory"}, reading.memory_bytes),
        ({"source": "disk"}, reading.disk_bytes),
        ({"source": "service"}, reading.fetched_bytes),
    ])  # fmt: skip
    page.counter("read_blocks", "Blocks of contents by where they came from.", [
        ({"source": "disk"}, reading.disk_blocks),
        ({"source": "service"}, reading.fetched_blocks),
    ])  # fmt: skip
    page.counter("memory_reads", "Reads that memory answered at once.", [({}, reading.memory_reads)])
    page.gauge("streaming", "Bodies that are read whole just now.", [({}, len(reading.streaming))])
    page.counter("streamed", "Bodies that fitted neither cache nor memory.", [({}, reading.streamed)])
    page.counter("streams_restarted", "Bodies that began anew for a step back.", [({}, reading.restarted)])


class _Page:
    """A page of metrics as it grows. A value of None is not known, and left out."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def gauge(self, name: str, about: str, samples: Iterable[tuple[Labels, float | None]]) -> None:
        self._family(name, "gauge", about, samples)

    def counter(self, name: str, about: str, samples: Iterable[tuple[Labels, float | None]]) -> None:
        self._family(f"{name}_total", "counter", about, samples)

    def head(self, name: str, kind: str, about: str) -> None:
        self._lines.append(f"# HELP artifactfs_{name} {about}")
        self._lines.append(f"# TYPE artifactfs_{name} {kind}")

    def sample(self, name: str, labels: Labels, value: float) -> None:
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        shown = str(int(value)) if value == int(value) else repr(float(value))
        self._lines.append(f"artifactfs_{name}{{{told}}} {shown}" if told else f"artifactfs_{name} {shown}")

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()

    def _family(self, name: str, kind: str, about: str, samples: Iterable[tuple[Labels, float | None]]) -> None:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            self.head(name, kind, about)
            for labels, value in known:
                self.sample(name, labels, value)


def _escaped(text: str) -> str:
    # People look at it, too: what a terminal would obey is escaped first, but for newlines, which the format escapes.
    lines = text.encode("utf-8", "replace").decode().split("\n")
    return "\n".join(map(one_line, lines)).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
