"""The endpoints of Model Lab that the tree needs. GET only.

Owns URLs, the decoding of bodies in steps, and the log lines about odd rows. `listing_dialects.py` owns how this server
writes its listings. Source: docs/dev/model-lab-api.md.
"""

import logging
import urllib.parse
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TypeVar

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import (
    Children,
    DirectoryListing,
    FacetKeys,
    IndexedFile,
    Project,
    ProjectDetails,
    RequestUsage,
    Run,
    RunDetails,
    RunFilter,
    RunRecord,
)
from artifactfs.logs import NOTICE
from artifactfs.modellab import details, facet_answers, models, pagination, run_filters, size_limits
from artifactfs.modellab.listing_dialects import (
    Dialect,
    Leads,
    ListingKind,
    NormalListing,
    PathBase,
    PathForm,
    fingerprint,
    forms,
    learn,
    learn_leads,
    learn_whole_run,
    normalize,
    nothing,
)
from artifactfs.modellab.models import Page
from artifactfs.modellab.project_decoder import ProjectDecoder
from artifactfs.modellab.run_finder import RunFinder
from artifactfs.modellab.transport import Transport
from artifactfs.modellab.turns import in_one_step, in_turns
from artifactfs.util.urls import API_PREFIX

log = logging.getLogger(__name__)

T = TypeVar("T")

# A large body with more values than these per permitted row is refused undecoded. A row has four fields today; names
# hold few brackets and commas.
_CONTAINERS_PER_ROW = 2
_VALUES_PER_ROW = 16
# A project's listing is decoded as a stream, in pieces of about 1 ms of work.
_INDEX_PIECE_BYTES = 64 << 10
# S3 ends a page at 1000 keys: a listing of exactly that may be cut (model-lab-api.md, 8).
_S3_PAGE = 1000
# The order of runs.
_NEWEST = {"sort": "-updated_at"}
# Directories whose logged oddities are remembered, and runs whose prefixes are. Arbitrary.
_MAX_LOGGED = 10_000
_MAX_LEADS = 10_000
# A run's root is listed without a path.
_ROOT_FORM = PathForm("", slash=False)
# A path that no run has.
_NOWHERE = ".artifactfs-nowhere"


class _Answer(msgspec.Struct, frozen=True):
    """A listing for one form of a directory's path. `rows`: how many there were.

    `fingerprint`: of their paths, where these are compared with those of another listing.
    """

    form: PathForm
    normal: NormalListing
    path_in_project: str
    rows: int
    fingerprint: int | None


class ModelLab:
    """Model Lab behind one `Transport`. Every method waits at most `deadline_s` seconds and raises ServiceError."""

    def __init__(
        self, transport: Transport, *, deadline_s: float, sizes: size_limits.SizeLimits = size_limits.DEFAULTS
    ) -> None:
        self._transport = transport
        self._deadline_s = deadline_s
        self._sizes = sizes
        self.dialect = Dialect()
        # Of the runs whose root was listed, or that have paths with a prefix.
        self._leads: cachetools.LRUCache[int, Leads] = cachetools.LRUCache(_MAX_LEADS)
        # Lenient decoding needs the size of the body once more, so only one runs at a time.
        self._long_decoding = trio.Lock()
        # The lists (runs, projects) that the log already reports as cut.
        self._cut: set[str] = set()
        # The oddities already logged of each directory: once, not at every refresh (docs/semantics.md 1.3).
        self._logged: cachetools.LRUCache[tuple[int, str], tuple[int, int, bool]] = cachetools.LRUCache(_MAX_LOGGED)
        # The lists whose left-out rows are already logged.
        self._odd_logged: cachetools.LRUCache[str, bool] = cachetools.LRUCache(_MAX_LOGGED)
        self._finder = RunFinder(self._records)

    async def check_keys(self) -> None:
        """Make one cheap call that needs valid keys and a Model Lab on the other side."""
        await self._ask("runs", "/runs", {"page[size]": "1"}, models.decode_runs)

    async def get_run(self, run_id: int) -> Run:
        """Return one run. Raises NotFound for one that is not there or is deleted."""
        run = await self._ask("run", f"/runs/{run_id}", {}, models.decode_run)
        _check("run", run_id, run.run_id, run)
        return run

    async def run_details(self, run_id: int) -> tuple[Run, RunDetails]:
        """Return one run with its parameters, tags and metrics. Raises NotFound as `get_run` does."""
        run, found = await self._ask("run", f"/runs/{run_id}", {}, details.decode_run)
        _check("run", run_id, run.run_id, run)
        return run, found

    async def get_project(self, project_id: int) -> Project:
        """Return one project. Raises NotFound for one that is not there or is deleted."""
        project = await self._ask("project", f"/projects/{project_id}", {}, models.decode_project)
        _check("project", project_id, project.project_id, project)
        return project

    async def project_details(self, project_id: int) -> ProjectDetails:
        """Return one project with its tags and links. Raises NotFound as `get_project` does."""
        project, found = await self._ask("project", f"/projects/{project_id}", {}, details.decode_project)
        _check("project", project_id, project.project_id, project)
        return found

    async def list_runs(self, count: int) -> list[Run]:
        """Return the `count` runs last updated, newest first."""
        return await self._pages(
            "runs", "runs", _NEWEST, models.decode_runs, count, lambda run: run.run_id, lambda run: run.deleted
        )

    async def find_runs(self, count: int, wanted: RunFilter, *, has_older: bool = False) -> list[RunRecord]:
        """Return the `count` runs last updated of those that are wanted, newest first; fewer see RunFinder."""
        return await self._finder.find(count, wanted, has_older=has_older)

    async def _records(self, count: int, query: dict[str, str]) -> list[RunRecord]:
        what = f"runs by {run_filters.shown(query)}" if query else "runs"
        return await self._pages(
            "runs",
            what,
            _NEWEST | query,
            details.decode_records,
            count,
            lambda record: record.run.run_id,
            lambda record: record.run.deleted,
        )

    async def facet_keys(self, project_id: int) -> FacetKeys:
        """Return the keys of parameters and tags that occur in a project's runs."""
        query = {"filter[project_id]": str(project_id)}
        return await self._ask("facets", "/facet-keys", query, facet_answers.decode_keys)

    async def facet_values(self, project_id: int, kind: str, key: str) -> tuple[str, ...]:
        """Return the values of a key that occur in a project's runs. `kind`: parameter or tag."""
        query = {"filter[project_id]": str(project_id), "facet_type": kind, "facet_name": key}
        return await self._ask("facets", "/facet-values", query, facet_answers.decode_values)

    async def list_projects(self, count: int) -> list[Project]:
        """Return `count` projects in the server's own order: the last updated first, as recorded."""
        return await self._pages(
            "projects",
            "projects",
            {},
            models.decode_projects,
            count,
            lambda project: project.project_id,
            lambda project: project.deleted,
        )

    async def _pages(
        self,
        endpoint: str,
        what: str,
        query: dict[str, str],
        decode: Callable[[bytes], Page[T]],
        count: int,
        id_of: Callable[[T], int],
        is_deleted: Callable[[T], bool],
    ) -> list[T]:
        """Return a list's first `count` rows that are not deleted. `what`: the list, in the log."""
        odd: list[str] = []

        async def ask(page: dict[str, str]) -> Page[T]:
            answer = await self._ask(endpoint, f"/{endpoint}", query | page, decode)
            odd.extend(answer.odd)
            return answer

        found = await pagination.fetch_pages(endpoint, ask, count, id_of, is_deleted, self._cut)
        # Once per list: the next refresh brings the same rows.
        if odd and what not in self._odd_logged:
            self._odd_logged[what] = True
            # A sentence of its own for runs and for projects: the list of errors counts the same sentence once.
            sentence = (
                f"{what}: left out %d rows that cannot be asked for: an id is a whole number from 1 to 2^63-1, the "
                "first of theirs is %s"
            )
            log.warning(sentence, len(odd), odd[0], extra=NOTICE)
        return found

    async def list_directory(self, run_id: int, path: str) -> DirectoryListing:
        """Return one directory of a run: one request, or two while the server's form is unknown.

        Four requests, once, where the run's paths begin with `/` or `./`; one for each such prefix where they differ.
        One or two more where only these show how to read the answer: see `_forms_by_root`, `_list_below`.

        `path`: relative to the run's root, without slashes at its ends, "" for the root.
        """
        todo = forms(self.dialect, self._leads.get(run_id, Leads()))
        if not path:
            return self._adopt(run_id, path, await self._list(run_id, path, todo[0]))
        tried: list[PathForm] = []
        answers: list[_Answer] = []
        refusal: errors.ServiceError | None = None
        while todo:
            tried.append(form := todo.pop(0))
            try:
                answer = await self._list_below(run_id, path, form)
            except (errors.NotFound, errors.BadRequest) as error:
                # An unknown `path` may be a 400 or 404 here; the other form may be the known one.
                refusal = refusal or error
            else:
                found = answer.normal
                if found.kind is ListingKind.CHILDREN and not (found.evidence.echoed and not form.slash):
                    return self._adopt(run_id, path, answer)
                answers.append(answer)
            if not todo and run_id not in self._leads:
                todo = [form for form in await self._forms_by_root(run_id) if form not in tried]
        if refusal is not None and not answers:
            raise refusal
        # Children that came with an echo of the prefix count if the other form brought none.
        best = next((each for each in answers if each.normal.kind is ListingKind.CHILDREN), answers[0])
        return self._adopt(run_id, path, best)

    async def _forms_by_root(self, run_id: int) -> list[PathForm]:
        """List a run's root, which shows the prefixes of its paths, and return the forms of its directories.

        The root of a run that an earlier mount listed was not listed by this one.
        """
        with suppress(errors.NotFound, errors.BadRequest):
            self._adopt(run_id, "", await self._list(run_id, "", _ROOT_FORM))
        return forms(self.dialect, self._leads.get(run_id, Leads()))

    async def _list_below(self, run_id: int, path: str, form: PathForm) -> _Answer:
        """List a directory below the root. The first answer whose paths seem relative to it is compared with the root.

        Where they are the same, as for a path of no run, the server ignores `path`: the directory is empty, or gone.
        """
        answer = await self._list(run_id, path, form)
        if answer.fingerprint is None:
            return answer
        root = await self._list(run_id, "", _ROOT_FORM, is_compared=True)
        is_whole = root.fingerprint == answer.fingerprint and await self._is_everywhere(run_id, answer)
        self._adopt(run_id, "", root)
        self.dialect = learn_whole_run(self.dialect, is_whole=is_whole)
        return answer if not is_whole else msgspec.structs.replace(answer, normal=nothing())

    async def _is_everywhere(self, run_id: int, answer: _Answer) -> bool:
        with suppress(errors.NotFound, errors.BadRequest):
            nowhere = await self._list(run_id, _NOWHERE, answer.form, is_compared=True)
            return nowhere.fingerprint == answer.fingerprint
        return False

    async def project_files(self, project_id: str, add: Callable[[Sequence[IndexedFile]], None]) -> None:
        """Stream a project's listing: pass its files to `add` as they arrive.

        Raises AnswerTooLarge past `sizes.index_bytes`, and what `add` raises. Waits `deadline_s` for each piece.
        """
        target = f"{API_PREFIX}/projects/{urllib.parse.quote(project_id, safe='')}/artifacts"
        # One attempt: the index is of use only now, and its size may be the reason of the failure.
        stream = await self._transport.open("index", target, headers={}, deadline_s=self._deadline_s, max_attempts=1)
        try:
            decoder = ProjectDecoder()
            size_bytes = 0
            async with aclosing(stream.chunks()) as pieces:
                async for piece in pieces:
                    size_bytes += len(piece)
                    if size_bytes > self._sizes.index_bytes:
                        limit = f"{self._sizes.index_bytes >> 20} MiB"
                        raise errors.AnswerTooLarge(f"a project's listing of more than {limit}")
                    for start in range(0, len(piece), _INDEX_PIECE_BYTES):
                        add(decoder.feed(bytes(piece[start : start + _INDEX_PIECE_BYTES])))
                        await trio.lowlevel.checkpoint()
            add(decoder.finish())
        finally:
            await stream.aclose()

    def can_prefetch(self) -> bool:
        """Whether a prefetch may be sent: no request queues, and the rate limit is not near."""
        return self._transport.can_prefetch("listing")

    def cost(self) -> RequestUsage:
        """Return the requests made so far, and their cost."""
        return self._transport.cost()

    def _adopt(self, run_id: int, path: str, answer: _Answer) -> DirectoryListing:
        """Take an answer as the directory's, learn the server's dialect from it, and log its oddities."""
        found = answer.normal
        # Names that were left out prove nothing: they may come from anywhere.
        accepted = answer.form if path and found.kind is ListingKind.CHILDREN and found.children.by_name else None
        self.dialect = learn(self.dialect, path, found.evidence, accepted)
        leads = learn_leads(self._leads.get(run_id, Leads()), found.evidence, accepted)
        if any(leads.written) or not path:
            self._leads[run_id] = leads
        self._report(run_id, path, found.children, answer.rows)
        return DirectoryListing(found.children, answer.path_in_project)

    async def _list(self, run_id: int, path: str, form: PathForm, *, is_compared: bool = False) -> _Answer:
        query = {"path": f"{form.lead}{path}{'/' if form.slash else ''}"} if path else {}
        # Rows take as much memory as their body, so its memory is held until they are sorted.
        async with self._asked("listing", f"/runs/{run_id}/artifacts", query, self._run_listing) as answer:
            known = self.dialect
            steps = normalize(answer.files, path, sent_slash=form.slash, known=known.base, is_proven=known.is_proven)
            found = await in_turns(steps)
            is_compared |= found.evidence.base is PathBase.DIRECTORY is not known.base and not known.has_own_answers
            seen = await in_turns(fingerprint(answer.files)) if is_compared else None
        found.children.bad_names += answer.odd_rows
        return _Answer(form, found, answer.path_in_project, len(answer.files), seen)

    def _report(self, run_id: int, path: str, children: Children, rows: int) -> None:
        cut = bool(rows) and rows % _S3_PAGE == 0
        seen = (children.bad_names, len(children.shadowed), cut)
        if seen == self._logged.get((run_id, path), (0, 0, False)):
            return
        self._logged[run_id, path] = seen
        where = f"run {run_id}, directory {path or '/'}"
        if children.bad_names:
            left_out = "%s: left out %d entries whose names no filesystem can hold"
            log.warning(left_out, where, children.bad_names, extra=NOTICE)
        for name in children.shadowed[:1]:
            both = "%s: %d names are both file and directory, the directories are shown; one is %s"
            log.warning(both, where, len(children.shadowed), name.decode(), extra=NOTICE)
        if cut:
            may_be_cut = "%s: exactly %d entries: the server may have cut the listing at a page's end"
            log.warning(may_be_cut, where, rows, extra=NOTICE)

    async def _ask(self, endpoint: str, path: str, query: dict[str, str], decode: Callable[[bytes], T]) -> T:
        async with self._asked(endpoint, path, query, in_one_step(decode)) as found:
            return found

    @asynccontextmanager
    async def _asked(
        self, endpoint: str, path: str, query: dict[str, str], decode: Callable[[bytes], Generator[None, None, T]]
    ) -> AsyncIterator[T]:
        # Each value is encoded exactly once, by us; names hold %, #, +, & and ? (model-lab-api.md, 9).
        encoded = urllib.parse.urlencode(query, safe="", quote_via=urllib.parse.quote)
        target = f"{API_PREFIX}{path}" + (f"?{encoded}" if encoded else "")
        async with self._transport.get_buffered(endpoint, target, deadline_s=self._deadline_s) as body:
            found, failure = await self._decoded(decode, body)
            del body
            if isinstance(failure, errors.UnexpectedAnswer) or failure is None:
                self._transport.record_origin(endpoint, is_foreign=failure is not None)
            if failure is not None:
                raise failure
            yield found  # type: ignore[misc]  # there is one where there is no failure

    async def _decoded(
        self, decode: Callable[[bytes], Generator[None, None, T]], body: bytes
    ) -> tuple[T | None, errors.ServiceError | None]:
        """Decode a body; a failure is returned without its traceback, which would keep the body (semantics.md 6.4).

        Values are counted before they are made: a body of 256 MiB can become 10 GB of empty lists.
        """
        max_rows = self._sizes.rows
        if len(body) > self._sizes.uncounted_bytes and (
            body.count(b"{") + body.count(b"[") > _CONTAINERS_PER_ROW * max_rows
            or body.count(b",") > _VALUES_PER_ROW * max_rows
        ):
            return None, errors.AnswerTooLarge(f"a listing has more than {max_rows:,} entries")
        try:
            return await in_turns(decode(body), self._long_decoding), None
        except (errors.UnexpectedAnswer, errors.AnswerTooLarge) as error:
            return None, type(error)(error.fact, error.status)

    def _run_listing(self, body: bytes) -> Generator[None, None, models.RunListing]:
        listing = yield from models.run_listing_in_steps(body, self._sizes.lenient_bytes)
        if len(listing.files) > self._sizes.rows:
            raise errors.AnswerTooLarge(f"a listing has more than {self._sizes.rows:,} entries")
        return listing


def _check(kind: str, requested_id: int, found_id: int, found: Run | Project) -> None:
    if found_id != requested_id:
        raise errors.UnexpectedAnswer(f"asked for {kind} {requested_id}, got {kind} {found_id}")
    if found.deleted:
        raise errors.NotFound(f"{kind} {requested_id} is deleted")
