"""Sends the doctor's requests, within their time limits. service_findings.py interprets the answers.

Uses the client of a mount, so that TLS, proxy and retries are the same. Sends as few requests as possible:

    1  the runs last updated: keys, site, clock, rate limit
    1  the root of a run; of up to four more if it is empty
    1  a directory of that run, or 2 if the first form of its path finds nothing
    1  some bytes of a file, and its redirects
    1  the project's listing
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from artifactfs import errors
from artifactfs.doctor import service_findings
from artifactfs.doctor.answer_forms import Place
from artifactfs.doctor.findings import Tell, fault, skipped, warning
from artifactfs.doctor.service_findings import ANOTHER_RUN, Head, Heads
from artifactfs.domain import ArtifactRef, DirectoryListing, ListedChild, Run, below_prefix, is_finished
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.listing_dialects import Dialect
from artifactfs.modellab.transport import Transport
from artifactfs.mount.components import credentials
from artifactfs.settings import Settings
from artifactfs.util import foreground
from artifactfs.util.clock import boottime

AskMore = Callable[[Transport, Place], Awaitable[None]]

# One page: enough to find a finished run with files.
_RUNS = 20
# Runs that are searched for a file. Arbitrary.
_MAX_ROOTS = 5
# Read from the second byte on, which shows a server that ignores ranges.
_BYTES = 64


def ask(
    settings: Settings, tell: Tell, *, index: bool, run_id: int | None, more: AskMore | None = None
) -> dict[str, int]:
    """Query the service; returns the number of requests by kind. Takes two deadlines at most, and the time of `more`.

    `more` is called after the checks, where they found a run with a file or a directory.
    """
    return foreground.run(_ask, settings, tell, index, run_id, more)


async def _ask(settings: Settings, tell: Tell, index: bool, run_id: int | None, more: AskMore | None) -> dict[str, int]:
    heads = Heads()
    transport = Transport(
        settings.api_url,
        credentials(settings),
        proxy=settings.proxy,
        ca_file=settings.ca_file,
        clock=boottime,
        on_answer=lambda kind, status, headers: heads.append(Head(kind, status, headers, time.time())),
    )
    try:
        checks = ServiceChecks(settings, transport, heads, tell)
        rest = trio.CancelScope()
        with trio.move_on_after(2 * settings.deadline) as whole:
            if await checks.reach():
                rest.deadline = trio.current_time() + settings.deadline
                with rest:
                    await checks.look(run_id, index=index)
        if whole.cancelled_caught or rest.cancelled_caught:
            tell(service_findings.silent(checks.step, settings.deadline))
        if more is not None and checks.place is not None:
            await more(transport, checks.place)
        return transport.cost().requests
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await transport.aclose()


@dataclass
class _Found:
    """The run to try, and its listings."""

    run: Run
    root: DirectoryListing
    listings: dict[str, DirectoryListing] = field(default_factory=dict)

    def place(self, dialect: Dialect) -> Place:
        """Return the run as the requests of answer_forms.py need it."""
        children = self.root.children.by_name.values()
        directory = next((child.name.decode() for child in children if child.is_dir), None)
        size, path = self.smallest() or (None, "")
        file = (below_prefix(self.root.path_in_project, path), path, size) if size is not None else None
        return Place(self.run.run_id, self.run.project_id, directory, file, dialect)

    def smallest(self) -> tuple[int | None, str] | None:
        """Return the size and the path of the smallest file that has a middle, or of one whose size is not known."""
        sized = [(child.size_bytes, path) for path, child in self.files() if (child.size_bytes or 0) > 1]
        unsized = ((None, path) for path, child in self.files() if child.size_bytes is None)
        return min(sized) if sized else next(unsized, None)

    def files(self) -> list[tuple[str, ListedChild]]:
        """Return the listed files, by their path below the run's root."""
        return [
            (f"{path}/{child.name.decode()}".lstrip("/"), child)
            for path, listing in self.listings.items()
            for child in listing.children.by_name.values()
            if not child.is_dir
        ]


class ServiceChecks:
    """The steps in their order. `step` names the current one; `place` is the run that they were tried on."""

    def __init__(self, settings: Settings, transport: Transport, heads: Heads, tell: Tell) -> None:
        self.step = service_findings.FIRST
        self.place: Place | None = None
        self._settings = settings
        self._transport = transport
        self._service = ModelLab(transport, deadline_s=settings.deadline * 0.95)
        self._contents = ContentEndpoint(transport, deadline_s=settings.deadline)
        self._heads = heads
        self._tell = tell
        self._runs: list[Run] = []

    async def reach(self) -> bool:
        """List the last runs; returns whether other requests make sense."""
        start = boottime()
        try:
            self._runs = await self._service.list_runs(_RUNS)
        except errors.ServiceError as error:
            first, answered = service_findings.refused(self._settings, error), False
        else:
            took_s = boottime() - start
            first, answered = service_findings.answered(self._settings, took_s, self._heads.statuses("runs")), True
        self._tell(first)
        for finding in (service_findings.clock(self._heads), service_findings.rate_limit(self._heads)):
            if finding is not None:
                self._tell(finding)
        return answered

    async def look(self, run_id: int | None, *, index: bool) -> None:
        """Try listings, contents and the index."""
        found = await self._somewhere(run_id)
        if found is None:
            return
        self.place = found.place(self._service.dialect)
        await self._directory(found)
        self.place = found.place(self._service.dialect)
        await self._content(found)
        if index:
            await self._index(found)
        else:
            self._tell(skipped("index", "not asked for (--no-index)"))

    async def _somewhere(self, run_id: int | None) -> _Found | None:
        """Find a run that holds a file, and list its root."""
        self.step = "listing"
        # Finished runs first, since their files are complete.
        recent = [run.run_id for run in sorted(self._runs, key=lambda run: not is_finished(run))][:_MAX_ROOTS]
        candidates = recent if run_id is None else [run_id]
        for each in candidates:
            try:
                run = next((run for run in self._runs if run.run_id == each), None) or await self._service.get_run(each)
                root = await self._service.list_directory(each, "")
            except errors.NotFound as error:
                if run_id is not None:
                    self._tell(warning("listing", f"there is no run {run_id}: {error}", "artifactfs doctor --run ID"))
                    return None
                continue
            except errors.ServiceError as error:
                self._tell(fault("listing", f"run {each} cannot be listed: {error}", ANOTHER_RUN))
                return None
            if root.children.by_name:
                self._tell(service_findings.listing(each, root))
                return _Found(run, root, {"": root})
        looked = "the run has no file" if run_id is not None else f"of {len(candidates)} runs none has a file"
        if candidates:
            self._tell(skipped("listing", f"{looked}: nothing to try it on", "artifactfs doctor --run ID"))
        else:
            self._tell(skipped("listing", "this account has no run: nothing to try it on"))
        return None

    async def _directory(self, found: _Found) -> None:
        """List a directory below the root: its path may need a slash, and the answer may be relative to it."""
        self.step = "directories"
        child = next((each for each in found.root.children.by_name.values() if each.is_dir), None)
        if child is None:
            self._tell(skipped("directories", "the run has none: nothing to try it on"))
            return
        name = child.name.decode()
        before = self._transport.cost()
        try:
            listing = await self._service.list_directory(found.run.run_id, name)
        except errors.ServiceError as error:
            fact = f"a directory of run {found.run.run_id} cannot be listed: {error}"
            self._tell(fault("directories", fact, ANOTHER_RUN))
            return
        found.listings[name] = listing
        sent = (self._transport.cost() - before).requests.get("listing", 0)
        self._tell(service_findings.directories(self._service.dialect.slash, self._service.dialect.base, listing, sent))

    async def _content(self, found: _Found) -> None:
        """Read some bytes from the middle of the smallest file that has a middle."""
        self.step = "contents"
        if (smallest := found.smallest()) is None:
            self._tell(skipped("contents", "no listed file has a byte: nothing to try it on"))
            return
        size, path = smallest
        artifact = ArtifactRef(found.run.project_id, below_prefix(found.root.path_in_project, path))
        end = 1 + (min(_BYTES, size - 1) if size else _BYTES)
        try:
            async with self._contents.get(artifact, 1, end, size=size) as body:
                received = 0
                if not body.whole:
                    async for chunk in body.chunks:
                        received += len(chunk)
                for finding in service_findings.contents(body, size, end, received, self._heads):
                    self._tell(finding)
        except errors.ServiceError as error:
            self._tell(service_findings.unreadable(error))

    async def _index(self, found: _Found) -> None:
        """Fetch the project's listing, and compare it with the listed directories."""
        self.step = "index"
        prefix = found.root.path_in_project.rstrip("/") + "/"
        comparison = service_findings.Comparison(prefix, set(found.listings), dict(found.files()))
        start, before = boottime(), self._transport.cost()
        try:
            await self._service.project_files(found.run.project_id, comparison.add)
        except errors.ServiceError as error:
            self._tell(service_findings.no_index(error))
            return
        received_bytes = (self._transport.cost() - before).received_bytes
        self._tell(service_findings.index(comparison, boottime() - start, received_bytes))
