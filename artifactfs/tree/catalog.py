"""What is above the runs: `/`, `/runs`, `/projects`, `/names` (docs/semantics.md 1), and what is known of runs and
projects. facet_tree.py has the choices among the runs of a project, and what else is beside them.

Owns the pages of runs and projects: requested when a directory is listed, 100 rows a request, never all unasked. The
rows of a page are cached one by one, so lookups of all link targets after a listing (`ls --color`, tab completion) cost
no request. A lookup uses the id in the name, so runs and projects that are not listed can be entered, too.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from artifactfs import errors
from artifactfs.domain import Project, Run, RunFilter, RunRecord
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.tree import inode_numbers, listing
from artifactfs.tree.caches import Caches
from artifactfs.tree.facet_tree import HIDDEN, PROJECT, Facets, Place, snapshot
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.inode_numbers import ROOT_NUMBER
from artifactfs.tree.listing import ListingSource, Service, TreeTimes
from artifactfs.tree.nodes import (
    ArtifactDir,
    DirSnapshot,
    Entry,
    FacetDir,
    GeneratedFile,
    LookupResult,
    Node,
    ProjectDir,
    StaticDir,
)
from artifactfs.tree.run_lists import RunLists
from artifactfs.tree.safe_names import is_id, named, number_of, parse_id
from artifactfs.tree.stored_values import StoredKinds
from artifactfs.tree.tree_stats import ListingFacts
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.util.clock import WallTimes

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_PROJECTS = 20_000
# As many projects are listed, with 10 requests; the organisation that was seen has 403. Others are entered by id.
_PROJECTS_LISTED = 1_000
# Names of ours never go away while the mount is there.
_FIXED_VALID_S = 3600.0
# The ending of the name of a run's description.
_DESCRIBED = b".json"
# Kind of the records of projects.
_PROJECT = "project"


class Catalog:
    """The upper part of a mount's tree. Every method raises TreeError or ServiceError.

    `now_ns` gives nanoseconds since the epoch, `clock` seconds that go on during sleep.
    """

    def __init__(
        self,
        service: Service,
        *,
        caches: Caches,
        site: bytes,
        times: TreeTimes,
        tuning: TreeTuning,
        runs_listed: int,
        clock: Callable[[], float],
        now_ns: Callable[[], int],
        store: WriteBehind | None,
    ) -> None:
        self._service = service
        self._site = site
        self._times = times
        self._runs_listed = runs_listed
        self._clock = clock
        self._mounted_ns = now_ns()
        self.root = self._fixed(b"", ROOT_NUMBER)
        self.runs = self._fixed(b"runs", inode_numbers.fixed(site, b"runs"))
        self._projects = self._fixed(b"projects", inode_numbers.fixed(site, b"projects"))
        self._names = self._fixed(b"names", inode_numbers.fixed(site, b"names"))

        self.known_runs = caches.make(
            lambda run_id: f"run {run_id}",
            fetch=self._fetch_run,
            ttl_s=lambda run: listing.ttl_s(times, run, now_ns()),
            max_weight=tuning.max_runs,
        )
        self._known_projects = caches.make(
            lambda project_id: f"project {project_id}",
            fetch=self._fetch_project,
            ttl_s=lambda _project: times.listing_ttl,
            max_weight=_MAX_PROJECTS,
        )
        self._page = caches.make(
            lambda _: "the runs last updated",
            fetch=self._fetch_runs,
            ttl_s=lambda _rows: times.listing_ttl,
            max_weight=1,
        )
        self._project_pages = caches.make(
            lambda _: "the projects",
            fetch=self._fetch_projects,
            ttl_s=lambda _rows: times.listing_ttl,
            max_weight=1,
        )

        self._lists = RunLists(
            service, self.known_runs, caches=caches, times=times, runs_listed=runs_listed, clock=clock
        )
        self._store = store
        if store is not None:
            kind = StoredKinds(store, clock, WallTimes(clock, now_ns), times.stale_max)
            self.known_runs.stored = kind("run", Run, lambda run_id: (run_id, b""))
            # By its id a project is found at once: its runs, which are requested then, are what changes.
            self._known_projects.stored = kind(
                _PROJECT, Project, lambda project_id: (0, _project_key(project_id)), fresh_s=times.listing_ttl
            )
            self._page.stored = kind("runs", tuple[Run, ...], lambda _: (0, b""))
            self._project_pages.stored = kind("projects", tuple[Project, ...], lambda _: (0, b""))
            self._lists.store_in(kind)
        self._facets = Facets(self._lists, site, times, self._mounted_ns, self.root.entry.number)
        self._caches = (self.known_runs, self._known_projects, self._page, self._project_pages, *self._lists.caches)
        top: list[Node] = [self.runs, self._projects, self._names, self._facets.by, self._facets.search]
        self._top = {place.entry.name: place for place in top}
        # Returns the description of a run, as `artifactfs info --json` has it: control/commands.py.
        self.describe_run: Callable[[int], Awaitable[bytes]] = _undescribed

    async def lookup(self, parent: Node, name: bytes) -> LookupResult:
        """Return the node called `name` in `parent`. Raises NoSuchEntry with the entry timeout."""
        found: LookupResult | None = None
        if parent is self.root:
            if (fixed := self._facets.kinds if name == HIDDEN else self._top.get(name)) is not None:
                found = LookupResult(fixed, _FIXED_VALID_S)
        elif parent is self.runs:
            if name.endswith(_DESCRIBED):
                found = await self._description(name)
            elif (run_id := parse_id(name)) is not None:
                run = await self.known_runs.get(run_id)
                found = LookupResult(self.run_directory(run.value), self.known_runs.ttl_left_s(run))
        elif parent is self._projects or parent is self._names:
            found = await self._find_shelf(parent, name)
        elif isinstance(parent, ProjectDir):
            place = self._place(parent)
            found = await self._facets.lookup_beside(place, name) or await self._facets.table(place, name)
            found = found or await self._find_link(parent, name)
        elif isinstance(parent, FacetDir) and parent.kind == PROJECT:
            shelf = await self._find_shelf(self._names, name)
            found = shelf and LookupResult(self._facets.project_link(parent, shelf.node.entry), shelf.valid_s)
        elif isinstance(parent, FacetDir):
            found = await self._facets.lookup(parent, name)
        else:
            raise errors.NotADirectory("not a directory")
        if found is None:
            # Probes of desktops, and typing errors: mostly without a request (docs/semantics.md 1.2).
            raise errors.NoSuchEntry("no such name", self._times.negative_ttl)
        return found

    async def contents(self, node: Node) -> DirSnapshot:
        """Return a directory's entries, in the order of `readdir`."""
        if node is self.root:
            return snapshot(self._top.values(), lambda: _FIXED_VALID_S)
        if node is self.runs:
            page = await self._page.get(None)
            return snapshot(map(self.run_directory, page.value), lambda: self._page.ttl_left_s(page))
        if node is self._projects or node is self._names or (isinstance(node, FacetDir) and node.kind == PROJECT):
            projects = await self._project_pages.get(None)
            shelves: Iterable[Node] = (self._shelf(each, by_name=node is not self._projects) for each in projects.value)
            if isinstance(node, FacetDir):
                shelves = [self._facets.project_link(node, shelf.entry) for shelf in shelves]
            return snapshot(shelves, lambda: self._project_pages.ttl_left_s(projects))
        if isinstance(node, ProjectDir):
            place = self._place(node)
            found = await self._lists.get(place.chosen)
            links = [self._facets.run_link(place, record.run, by_name=node.by_name) for record in found.value]
            others = [*self._facets.beside(place, found), *self._facets.tables(place, found)]
            return snapshot([*links, *others], lambda: self._lists.left_s(found))
        if isinstance(node, FacetDir):
            return await self._facets.contents(node)
        raise errors.NotADirectory("not a directory")

    def try_lookup(self, parent: Node, name: bytes) -> LookupResult | None:
        """Return the result of `lookup` for a run in `/runs` if it is cached: hundreds of links lead there."""
        if parent is self.runs and (run_id := parse_id(name)) is not None:
            run = self.known_runs.get_fresh(run_id)
            return (
                LookupResult(self.run_directory(run.value), self.known_runs.ttl_left_s(run))
                if run is not None
                else None
            )
        return None

    def mark_all_stale(self) -> None:
        """Make everything stale (docs/semantics.md 3.3)."""
        for cache in self._caches:
            cache.mark_all_stale()

    def clear(self) -> None:
        """Remove everything (docs/semantics.md 6.3)."""
        for cache in self._caches:
            cache.clear()
        self._facets.clear()

    def refresh(self, node: Node) -> None:
        """Make a project's links, a choice of runs, or the names of projects, stale (docs/semantics.md 3.3)."""
        chosen = self._chosen(node)
        if chosen is None:
            self._mark_projects(None)
            self._page.mark_stale_where(lambda _: True)
            self._project_pages.mark_stale_where(lambda _: True)
            self._lists.refresh(lambda _wanted: True, None)
            return
        held = self._lists.get_any(chosen)
        runs = {record.run.run_id for record in held.value} if held is not None else set()
        self.known_runs.mark_stale_where(lambda run_id: run_id in runs)
        project_id = chosen.project_id
        if isinstance(node, ProjectDir):
            self._mark_projects(project_id)
            self._lists.refresh(lambda wanted: wanted.project_id == project_id, project_id)
            if node.by_name:
                # Its name came from the list of projects, which would still have the stale one.
                self._project_pages.mark_stale_where(lambda _: True)
        else:
            # Choices within it are below it.
            self._lists.refresh(lambda wanted: project_id in (None, wanted.project_id), project_id)

    async def project_name(self, project_id: int) -> str:
        """Return a project's name; a request unless it is cached."""
        return (await self._known_projects.get(project_id)).value.name

    def _mark_projects(self, project_id: int | None) -> None:
        """Make the row of a project stale, or all rows: also what is stored, which alone counts as fresh there."""
        self._known_projects.mark_stale_where(lambda known: project_id in (None, known))
        if self._store is not None:
            self._store.mark_stale(0, _PROJECT, None if project_id is None else _project_key(project_id))

    def facts(self, node: Node) -> ListingFacts | None:
        """Return the facts of a directory's cached page; None without one. No request."""
        if node is self.runs:
            runs = self._page.get_any(None)
            return None if runs is None else self._facts(runs, self._page.ttl_left_s(runs))
        if (chosen := self._chosen(node)) is not None:
            found = self._lists.get_any(chosen)
            return None if found is None else self._facts(found, self._lists.left_s(found))
        if node is self._projects or node is self._names:
            projects = self._project_pages.get_any(None)
            return None if projects is None else self._facts(projects, self._project_pages.ttl_left_s(projects))
        return None

    def _facts(self, held: CacheEntry[tuple[T, ...]], left_s: float) -> ListingFacts:
        return ListingFacts(self._clock() - held.requested_at, ListingSource.DIRECT, len(held.value), left_s)

    def known(self) -> tuple[int, int]:
        """Return how many runs and how many projects are remembered."""
        return len(self.known_runs), len(self._known_projects)

    def listed_runs(self, project_id: str) -> list[Run]:
        """Return a project's runs in the order of a page that is cached; without a request."""
        number = parse_id(project_id.encode("utf-8", "replace"))
        held = self._lists.get_any(RunFilter(project_id=number)) if number is not None else None
        if held is not None and held.value:
            return [record.run for record in held.value]
        page = self._page.get_any(None)
        return [run for run in page.value if run.project_id == project_id] if page is not None else []

    def run_directory(self, run: Run) -> ArtifactDir:
        """Return the place of a run's artifacts."""
        entry = Entry(b"%d" % run.run_id, True, inode_numbers.of_run(self._site, run.run_id), listing.run_time_ns(run))
        return ArtifactDir(run.run_id, "", entry, self.runs.entry.number)

    # --- shelves and links ---------------------------------------------------------------------------------

    async def _find_shelf(self, parent: StaticDir, name: bytes) -> LookupResult | None:
        by_name = parent is self._names
        project_id = number_of(name) if by_name else parse_id(name)
        if project_id is None:
            return None
        project = await self._known_projects.get(project_id)
        shelf = self._shelf(project.value, by_name=by_name)
        # By another name than its own a project is not there: it would be there twice.
        return LookupResult(shelf, self._known_projects.ttl_left_s(project)) if shelf.entry.name == name else None

    async def _find_link(self, shelf: ProjectDir, name: bytes) -> LookupResult | None:
        run_id = number_of(name) if shelf.by_name else parse_id(name)
        if run_id is None:
            return None
        run = await self.known_runs.get(run_id)
        link = self._facets.run_link(self._place(shelf), run.value, by_name=shelf.by_name)
        if run.value.project_id != str(shelf.project_id) or link.entry.name != name:
            return None
        return LookupResult(link, self.known_runs.ttl_left_s(run))

    async def _description(self, name: bytes) -> LookupResult | None:
        """Return `/runs/<id>.json`, which is looked up and not listed."""
        if (run_id := parse_id(name.removesuffix(_DESCRIBED))) is None:
            return None
        run = await self.known_runs.get(run_id)
        made = await self.describe_run(run_id)
        place = Place(b"runs", b"runs", self.runs.entry.number, RunFilter())
        file = self._facets.generated(place, name, made, listing.run_time_ns(run.value))
        return LookupResult(file, min(self._times.listing_ttl, self.known_runs.ttl_left_s(run)))

    async def find_runs(self, wanted: RunFilter) -> tuple[RunRecord, ...]:
        """Return the runs that a filter chooses; a request unless they are cached."""
        return (await self._lists.get(wanted)).value

    def contents_of(self, file: GeneratedFile) -> bytes:
        """Return what is in a generated file. Raises Superseded where a new lookup is needed."""
        return self._facets.contents_of(file)

    def _place(self, shelf: ProjectDir) -> Place:
        above = b"names" if shelf.by_name else b"projects"
        # By the project's id: its name in /names may change, and what is in it is the same.
        key = b"%b/%d" % (above, shelf.project_id)
        chosen = RunFilter(project_id=shelf.project_id)
        return Place(above + b"/" + shelf.entry.name, key, shelf.entry.number, chosen)

    def _chosen(self, node: Node) -> RunFilter | None:
        """Return the choice that a directory shows the runs of, or narrows; None for no such directory."""
        if isinstance(node, ProjectDir):
            return RunFilter(project_id=node.project_id)
        return node.chosen if isinstance(node, FacetDir) and node.kind != PROJECT else None

    def _shelf(self, project: Project, *, by_name: bool) -> ProjectDir:
        parent = self._names if by_name else self._projects
        name = named(project.name, project.project_id) if by_name else b"%d" % project.project_id
        number = inode_numbers.fixed(self._site, parent.entry.name + b"/" + name)
        time_ns = self._mounted_ns if project.updated_ns is None else project.updated_ns
        return ProjectDir(project.project_id, by_name, Entry(name, True, number, time_ns), parent.entry.number)

    def _fixed(self, name: bytes, number: int) -> StaticDir:
        return StaticDir(Entry(name, True, number, self._mounted_ns), ROOT_NUMBER)

    # --- asking --------------------------------------------------------------------------------------------

    async def _fetch_run(self, run_id: int, _old: Run | None) -> Run:
        return await self._service.get_run(run_id)

    async def _fetch_project(self, project_id: int, _old: Project | None) -> Project:
        return await self._service.get_project(project_id)

    async def _fetch_runs(self, _key: None, _old: tuple[Run, ...] | None) -> tuple[Run, ...]:
        asked_at = self._clock()
        found = await _listed("runs", self._service.list_runs(self._runs_listed), errors.NoList)
        runs = [run for run in found if is_id(run.run_id)]
        for run in runs:
            self.known_runs.store(run.run_id, run, asked_at)
        return tuple(runs)

    async def _fetch_projects(self, _key: None, _old: tuple[Project, ...] | None) -> tuple[Project, ...]:
        asked_at = self._clock()
        found = await _listed("projects", self._service.list_projects(_PROJECTS_LISTED), errors.NoList)
        projects = [project for project in found if is_id(project.project_id)]
        for project in projects:
            self._known_projects.store(project.project_id, project, asked_at)
        if len(projects) == _PROJECTS_LISTED:
            log.info("there are more than %d projects: others are entered by id or name", _PROJECTS_LISTED)
        return tuple(projects)


def _project_key(project_id: int) -> bytes:
    return b"%d" % project_id


async def _undescribed(run_id: int) -> bytes:
    raise errors.NoSuchEntry(f"nothing describes run {run_id} here")


async def _listed(what: str, answer: Awaitable[list[T]], missing: type[errors.NotFound]) -> list[T]:
    try:
        return await answer
    except errors.NotFound as error:
        # For one run or project that is an ordinary answer; for the whole list the log says why it is missing.
        none = missing(f"the service has no list of {what}: {error}", error.status)
        log.warning("%s; %s", none, errors.what_to_do(none))
        raise none from error
