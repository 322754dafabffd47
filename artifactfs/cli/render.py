"""Status and info as text for a terminal: rows of a label and its text. Pure functions.

Rows hold the server's text exactly; `lines` escapes it, and leaves out rows without text.
"""

import datetime
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from artifactfs.control.place_info import FileInfo, Info, Listed, ProjectInfo, RunInfo
from artifactfs.control.status_schema import Section, Status, Streaming
from artifactfs.domain import Metric
from artifactfs.util.escaping import one_line
from artifactfs.util.humanize import counted, format_size, format_span

if TYPE_CHECKING:
    from artifactfs.run_search import FoundRun

Row = tuple[str, str | None]

# Parameters, tags and metrics that are shown; --json has all.
_MAX_ROWS = 200
# Characters of a name in a table. Arbitrary.
_MAX_NAME = 40


def lines(rows: Iterable[Row]) -> list[str]:
    """Return rows as lines of two columns, escaped. A row with an empty text has a line, one with None has not."""
    texts = [(one_line(label), one_line(text)) for label, text in rows if text is not None]
    width = max((len(label) for label, _ in texts), default=0)
    return [f"{label:<{width}}  {text}".rstrip() for label, text in texts]


def found_rows(found: "Iterable[FoundRun]") -> Iterator[Sequence[str]]:
    """Yield the head and the rows of the runs that a search found."""
    yield "run", "name", "status", "project", "updated", "created", "duration"
    for each in found:
        run, project = each.run, each.project_name
        named = run.project_id if project is None else f"{_short(project)} ({run.project_id})"
        duration = "" if run.duration_s is None else format_span(run.duration_s)
        times = (_second(run.updated_at), _second(run.created_at))
        yield str(run.run_id), _short(run.name), run.status, named, *times, duration


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def _second(moment: str | None) -> str:
    """Return an RFC 3339 time to the second, with a blank for the T: there it may wrap."""
    return re.sub(r"\.[0-9]+", "", moment or "").replace("T", " ", 1)


def health_line(status: Status) -> str:
    """Return the state of a mount, as status.json has it, and its start."""
    return f"{status.health.state}, since {ago(status.health.since, status.at)}"


def summary(status: Status) -> str:
    """Return the numbers of --watch in a line."""
    requests = sum(sum(outcomes.values()) for outcomes in status.requests["by_kind"].values())
    size_bytes = status.cache["size_bytes"]
    cached = "" if size_bytes is None else f", cache {format_size(size_bytes)}"
    received = format_size(status.requests["received_bytes"])
    state, failures = status.health.state, status.failures
    return f"{status.at}  {state}, {requests} requests, {received} received{cached}, {failures} failures"


def status_rows(status: Status) -> Iterator[Row]:
    """Yield the whole status of a mount. Raises KeyError, TypeError or ValueError for sections of another version."""
    yield "mount point", status.mountpoint
    yield "health", f"{health_line(status)}: {status.health.message}"
    yield "what to do", status.health.what_to_do or None
    yield "mounted", f"{ago(status.mounted_since, status.at)}, process {status.pid}, artifactfs {status.version}"
    yield "site", (status.site or status.origin) + (f", profile {status.profile}" if status.profile else "")
    yield "account", status.account or "not named"
    for kind, outcomes in status.requests["by_kind"].items():
        yield f"requests: {kind}", ", ".join(f"{count:,} {_words(outcome)}" for outcome, count in outcomes.items())
    for kind, times in status.requests["times"].items():
        if times["count"]:
            yield f"answers: {kind}", f"{times['sum_s'] / times['count'] * 1000:,.0f} ms on average"
    yield "requests", _counters(status.requests)
    for limit in status.rate_limits:
        left = "nothing known" if limit.remaining is None else f"{limit.remaining:,.0f} of {limit.limit:,.0f} left"
        reset = "" if limit.reset_s is None else f", reset in {limit.reset_s:.0f} s"
        paused = f", paused for {limit.paused_s:.0f} s" if limit.paused_s else ""
        yield f"rate limit: {limit.name or 'unnamed'}", left + reset + paused
    yield "cache", _counters(status.cache) or "none"
    yield "metadata", _counters(status.metadata) or "none"
    yield "reading", _counters(status.reading)
    for body in status.streaming:
        yield "streaming", _streaming(body)
    yield "listings", _counters(status.listings)
    if (last := status.last_traversal) is not None:
        cost = ", ".join(f"{count:,} {kind}" for kind, count in sorted(last.requests.items())) or "none"
        traversal = f"run {last.run_id}, {last.directories:,} directories in {last.seconds:.1f} s; requests: {cost}"
        yield "last traversal", traversal
    for index in status.indexes:
        yield f"index: {index.project_id}", f"{index.state}, {index.files:,} files, {index.age_s:.0f} s old"
    yield "open", _counters(status.open)
    if (failed := status.last_error) is not None:
        often = "" if failed.count == 1 else f", {failed.count:,} times since {ago(failed.first, status.at)}"
        yield "last error", f"{ago(failed.last, status.at)}: {failed.message}{often}"
        yield "what to do", failed.what_to_do or None
    yield "log", status.log_file or None


def _streaming(body: Streaming) -> str:
    size = "unknown size" if body.size_bytes is None else format_size(body.size_bytes)
    fits = "" if body.fits else "; fits neither cache nor memory: a read at an earlier offset restarts it"
    return f"{body.path}, {size}, {format_size(body.came_to)} so far{fits}"


def _counters(section: Section) -> str:
    """Return the known numbers of a section, each after its key."""
    known = [(key, value) for key, value in section.items() if value is not None and not isinstance(value, dict)]
    return ", ".join(_counter(key, value) for key, value in known)


def _counter(key: str, value: object) -> str:
    name, _, unit = key.rpartition("_")
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, int | float) and unit in ("bytes", "s"):
        text = format_size(int(value)) if unit == "bytes" else f"{value:.1f} s"
        key = name
    else:
        text = f"{value:,}" if isinstance(value, int | float) else str(value)
    return f"{_words(key)} {text}"


def info_rows(info: Info) -> Iterator[Row]:
    """Yield what is known of a path in a mount."""
    yield "path", info.path or "/"
    if info.file is not None:
        yield from _file_rows(info.file)
    if info.project is not None:
        yield from _project_rows(info.project)
    if info.run is not None:
        yield from _run_rows(info.run, whole=info.kind == "run")
    if info.listing is not None:
        yield "listing", _listing(info.listing)
    yield "pinned", "yes: it is kept on this disk" if info.pinned else None
    if info.app_url is not None and info.kind in ("run", "project"):
        yield "Datadog", f"{info.app_url} (the address of a single one is not documented)"
    yield "incomplete", f"the service did not tell all: {info.error}" if info.error else None


def _file_rows(file: FileInfo) -> Iterator[Row]:
    yield (
        "size",
        "not known" if file.size_bytes is None else f"{format_size(file.size_bytes)} ({file.size_bytes:,} bytes)",
    )
    yield "time", file.modified + ("" if file.created_at is None else f", created {file.created_at}")
    yield "version", file.version
    cached = f"{format_size(file.cached_bytes)} on disk, {format_size(file.memory_bytes)} in memory"
    share = f" ({min(100, 100 * file.cached_bytes // file.size_bytes)}% on disk)" if file.size_bytes else ""
    yield "cached", cached + share + (f", open {file.open_handles} times" if file.open_handles else "")


def _project_rows(project: ProjectInfo) -> Iterator[Row]:
    yield "name", (project.name or "").strip() or "(none)"
    yield "id", str(project.id)
    yield "description", project.description or None
    yield "created", project.created_at
    yield "updated", project.updated_at
    yield "owner", project.owner_id or None
    yield "link", link(project.external_url)
    yield from _limited("tag", [f"{tag.key} = {tag.value}" for tag in project.tags])


def _run_rows(run: RunInfo, *, whole: bool) -> Iterator[Row]:
    yield "run", f"{run.name.strip() or '(no name)'} ({run.id})"
    yield "status", run.status
    yield "project", f"{run.project.name} ({run.project.id})" if run.project.name else run.project.id
    if not whole:
        return
    yield "description", run.description or None
    yield "created", run.created_at
    yield "started", run.started_at
    yield "updated", run.updated_at
    yield "completed", run.completed_at
    yield "duration", None if run.duration_s is None else format_span(run.duration_s)
    yield "owner", run.owner_id or None
    yield "link", link(run.external_url)
    yield from _limited(
        "child", [f"{each.name.strip() or '(no name)'} ({each.id}), {each.status}" for each in run.children]
    )
    yield from _limited("parameter", [f"{param.key} = {param.value}" for param in run.params])
    yield from _limited("tag", [f"{tag.key} = {tag.value}" for tag in run.tags])
    yield from _limited("metric", [f"{metric.key} = {_metric(metric)}" for metric in run.metrics])


def _metric(metric: Metric) -> str:
    values = (metric.latest, metric.min, metric.max)
    latest, low, high = ["?" if each is None else each if isinstance(each, str) else f"{each:g}" for each in values]
    steps = f", {metric.count:,} values" if metric.count is not None else ""
    return f"{latest} (from {low} to {high}{steps})"


def _limited(what: str, texts: list[str]) -> Iterator[Row]:
    yield from ((what, text) for text in texts[:_MAX_ROWS])
    if len(texts) > _MAX_ROWS:
        yield "", f"and {len(texts) - _MAX_ROWS:,} {what}s more: see --json"


def _listing(listing: Listed) -> str:
    origin = "from the directory's own listing" if listing.origin == "own" else "from the project's listing"
    entries = "" if listing.entries is None else f"{counted(listing.entries, 'entry', 'entries')}, "
    fresh = (
        f"fresh for {listing.fresh_for_s:.0f} s more" if listing.fresh_for_s > 0 else "stale: the next access renews it"
    )
    # A listing of before the mount may be days old.
    age = f"listed {format_span(listing.age_s)} ago and stored" if listing.stored else f"{listing.age_s:.0f} s old"
    return f"{entries}{age}, {origin}, {fresh}"


def link(url: str | None) -> str | None:
    """Return an address of the server's if a browser would open it as a page; None for any other."""
    return url if url is not None and url.startswith(("https://", "http://")) and one_line(url) == url else None


def ago(moment: str, now: str) -> str:
    """Return a moment and its age; both are RFC 3339."""
    try:
        seconds = (datetime.datetime.fromisoformat(now) - datetime.datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return moment
    return f"{moment} ({format_span(max(0.0, seconds))} ago)"


def _words(key: str) -> str:
    return key.replace("_", " ")
