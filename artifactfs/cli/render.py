"""Status and info as text for a terminal: rows of a label and what it says. Pure functions.

Text of the server's is exact in rows, and escaped in lines.
"""

import datetime
from collections.abc import Iterable

from artifactfs.control.place_info import FileInfo, Info, Listed, ProjectInfo, RunInfo
from artifactfs.control.status_schema import OK, Section, Status
from artifactfs.modellab.details import Metric, Pair
from artifactfs.util.escaping import one_line
from artifactfs.util.humanize import format_size

Row = tuple[str, str]

# Parameters, tags and metrics that are shown; --json has all.
_MAX_ROWS = 200
_STATES = {
    OK: "ok",
    "degraded": "degraded: stale listings are served",
    "failing": "the service fails",
    "not_answering": "the service does not answer",
    "rate_limited": "rate limited",
    "keys_rejected": "keys rejected",
}


def health_line(status: Status) -> str:
    """Return how a mount is, in a few words."""
    said = _STATES.get(status.health.state, status.health.state)
    return f"{said}, since {ago(status.health.since, status.at)}"


def summary(status: Status) -> str:
    """Return a mount in a line: the numbers that change while it is watched."""
    requests = sum(sum(outcomes.values()) for outcomes in status.requests["by_kind"].values())
    size_bytes = status.cache["size_bytes"]
    cached = "" if size_bytes is None else f", cache {format_size(size_bytes)}"
    return (
        f"{status.at}  {_STATES.get(status.health.state, status.health.state)}, {requests} requests, "
        f"{format_size(status.requests['received_bytes'])} received{cached}, {status.failures} failures"
    )


def status_rows(status: Status) -> list[Row]:
    """Return all of a mount's status. Raises KeyError, TypeError or ValueError for sections of another version."""
    rows = [("mount point", status.mountpoint), ("health", f"{health_line(status)}: {status.health.message}")]
    rows += _given(("what to do", status.health.what_to_do))
    rows += [
        ("mounted", f"{ago(status.mounted_since, status.at)}, process {status.pid}, artifactfs {status.version}"),
        ("site", (status.site or status.origin) + (f", profile {status.profile}" if status.profile else "")),
        ("account", status.account or "not named"),
    ]
    rows += [
        (f"requests: {kind}", ", ".join(f"{count:,} {_words(outcome)}" for outcome, count in outcomes.items()))
        for kind, outcomes in status.requests["by_kind"].items()
    ]
    rows += [
        (f"answers: {kind}", f"{times['sum_s'] / times['count'] * 1000:,.0f} ms on average")
        for kind, times in status.requests["times"].items()
        if times["count"]
    ]
    rows.append(("requests", _counters(status.requests)))
    for limit in status.rate_limits:
        left = "nothing known" if limit.remaining is None else f"{limit.remaining:,.0f} of {limit.limit:,.0f} left"
        reset = "" if limit.reset_s is None else f", reset in {limit.reset_s:.0f} s"
        paused = f", paused for {limit.paused_s:.0f} s" if limit.paused_s else ""
        rows.append((f"rate limit: {limit.name or 'unnamed'}", left + reset + paused))
    rows += [("cache", _counters(status.cache) or "none"), ("reading", _counters(status.reading))]
    for body in status.streaming:
        size = "unknown size" if body.size_bytes is None else format_size(body.size_bytes)
        fits = "" if body.fits else "; fits neither cache nor memory: a read at an earlier offset restarts it"
        rows.append(("streaming", f"{body.path}, {size}, {format_size(body.came_to)} so far{fits}"))
    rows.append(("listings", _counters(status.listings)))
    if (last := status.last_traversal) is not None:
        cost = ", ".join(f"{count:,} {kind}" for kind, count in sorted(last.requests.items())) or "none"
        text = f"run {last.run_id}, {last.directories:,} directories in {last.seconds:.1f} s; requests: {cost}"
        rows.append(("last traversal", text))
    rows += [
        (f"index: {index.project_id}", f"{index.state}, {index.files:,} files, {index.age_s:.0f} s old")
        for index in status.indexes
    ]
    rows.append(("open", _counters(status.open)))
    if (failed := status.last_error) is not None:
        often = "" if failed.count == 1 else f", {failed.count:,} times since {ago(failed.first, status.at)}"
        rows.append(("last error", f"{ago(failed.last, status.at)}: {failed.message}{often}"))
        rows += _given(("what to do", failed.what_to_do))
    return rows + _given(("log", status.log_file))


def _counters(section: Section) -> str:
    """Return the numbers of a section that are known, each after its key."""
    return ", ".join(
        _counter(key, value) for key, value in section.items() if value is not None and not isinstance(value, dict)
    )


def _counter(key: str, value: object) -> str:
    name = _words(key)
    if isinstance(value, bool):
        return f"{name} {'yes' if value else 'no'}"
    if not isinstance(value, int | float):
        return f"{name} {value}"
    if key.endswith("_bytes"):
        return f"{_words(key.removesuffix('_bytes'))} {format_size(int(value))}"
    return f"{_words(key.removesuffix('_s'))} {value:.1f} s" if key.endswith("_s") else f"{name} {value:,}"


# --- info -------------------------------------------------------------------------------------------------


def info_rows(info: Info) -> list[Row]:
    """Return what is known of a place."""
    rows = [("path", info.path or "/")]
    if info.file is not None:
        rows += _file_rows(info.file)
    if info.project is not None:
        rows += _project_rows(info.project)
    if info.run is not None:
        rows += _run_rows(info.run, whole=info.kind == "run")
    if info.listing is not None:
        rows.append(("listing", _listing(info.listing)))
    if info.app_url is not None and info.kind in ("run", "project"):
        rows.append(("Datadog", f"{info.app_url} (the address of a single one is not documented)"))
    if info.error:
        rows.append(("not all", f"the service did not tell all: {info.error}"))
    return rows


def _file_rows(file: FileInfo) -> list[Row]:
    size = "not known" if file.size_bytes is None else f"{format_size(file.size_bytes)} ({file.size_bytes:,} bytes)"
    cached = f"{format_size(file.cached_bytes)} on disk, {format_size(file.memory_bytes)} in memory"
    if file.size_bytes:
        cached += f" ({min(100, 100 * file.cached_bytes // file.size_bytes)}% on disk)"
    opened = f", open {file.open_handles} times" if file.open_handles else ""
    created = "" if file.created_at is None else f", created {file.created_at}"
    return [
        ("size", size),
        ("time", f"{file.modified}{created}"),
        ("version", file.version),
        ("cached", cached + opened),
    ]


def _project_rows(project: ProjectInfo) -> list[Row]:
    rows = [("name", (project.name or "").strip() or "(none)"), ("id", str(project.id))]
    rows += _given(
        ("description", project.description),
        ("created", project.created_at),
        ("updated", project.updated_at),
        ("owner", project.owner_id),
        ("link", link(project.external_url)),
    )
    return rows + _pairs("tag", project.tags)


def _run_rows(run: RunInfo, *, whole: bool) -> list[Row]:
    project = f"{run.project.name} ({run.project.id})" if run.project.name else run.project.id
    rows = [("run", f"{run.name.strip() or '(no name)'} ({run.id})"), ("status", run.status)]
    rows.append(("project", project))
    if not whole:
        return rows
    rows += _given(
        ("description", run.description),
        ("created", run.created_at),
        ("started", run.started_at),
        ("updated", run.updated_at),
        ("completed", run.completed_at),
        ("duration", None if run.duration_s is None else span(run.duration_s)),
        ("owner", run.owner_id),
        ("link", link(run.external_url)),
    )
    rows += _pairs("parameter", run.params) + _pairs("tag", run.tags)
    shown = [("metric", f"{metric.key} = {_metric(metric)}") for metric in run.metrics[:_MAX_ROWS]]
    return rows + shown + _more("metrics", len(run.metrics))


def _metric(metric: Metric) -> str:
    values = (metric.latest, metric.min, metric.max)
    shown = ["?" if value is None else value if isinstance(value, str) else f"{value:g}" for value in values]
    steps = f", {metric.count:,} values" if metric.count is not None else ""
    return f"{shown[0]} (from {shown[1]} to {shown[2]}{steps})"


def _pairs(what: str, pairs: tuple[Pair, ...]) -> list[Row]:
    rows = [(what, f"{pair.key} = {pair.value}") for pair in pairs[:_MAX_ROWS]]
    return rows + _more(f"{what}s", len(pairs))


def _more(what: str, count: int) -> list[Row]:
    return [("", f"and {count - _MAX_ROWS:,} {what} more: see --json")] if count > _MAX_ROWS else []


def _given(*rows: tuple[str, str | None]) -> list[Row]:
    return [(label, text) for label, text in rows if text]


def _listing(listing: Listed) -> str:
    origin = "the directory's own" if listing.origin == "own" else "from the project's listing"
    entries = "" if listing.entries is None else f"{listing.entries:,} entries, "
    fresh = (
        f"fresh for {listing.fresh_for_s:.0f} s more" if listing.fresh_for_s > 0 else "old: asked for at the next look"
    )
    return f"{entries}{listing.age_s:.0f} s old, {origin}, {fresh}"


def link(url: str | None) -> str | None:
    """Return an address of the server's if it is one that a browser would open, and nothing else."""
    return url if url is not None and url.startswith(("https://", "http://")) and one_line(url) == url else None


# --- words ------------------------------------------------------------------------------------------------


def lines(rows: Iterable[Row]) -> list[str]:
    """Return rows as lines of two columns, escaped."""
    rows = [(one_line(label), one_line(text)) for label, text in rows]
    width = max((len(label) for label, _ in rows), default=0)
    return [f"{label:<{width}}  {text}".rstrip() for label, text in rows]


def span(seconds: float) -> str:
    """Return `12 s`, `5 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(moment: str, now: str) -> str:
    """Return a moment and how long ago it was; both RFC 3339."""
    try:
        seconds = (datetime.datetime.fromisoformat(now) - datetime.datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return moment
    return f"{moment} ({span(max(0.0, seconds))} ago)"


def _words(key: str) -> str:
    return key.replace("_", " ")
