"""The lists of runs that filters choose, and the keys and values that occur in them (docs/semantics.md 1.7).

Owns their caches: a list is the pages of one filter, requested 100 rows at a time. Keys and values come from the
service's facets; where these fail, or are empty though there are some (recorded), from the rows of a list.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import FacetKeys, Pair, Run, RunDetails, RunFilter, RunRecord
from artifactfs.logs import NOTICE
from artifactfs.tree.caches import Caches
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.listing import Service, TreeTimes
from artifactfs.tree.safe_names import is_id
from artifactfs.tree.search_terms import words_of
from artifactfs.tree.stored_values import StoredKinds, without_urls
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache

log = logging.getLogger(__name__)

T = TypeVar("T")

Records = tuple[RunRecord, ...]
# Bytes of the details of all cached lists: some 20,000 runs.
_MAX_BYTES = 32 << 20
# Facets: of a key some thousand values, of 20 bytes each.
_MAX_FACETS_BYTES = 8 << 20
# What a run, or a text, takes beside its bytes. About.
_EACH_BYTES = 100
# Rows that are decoded before the event loop has its turn: some milliseconds.
_ROWS_PER_TURN = 500
# Facets that the service refuses, or fails at: the rows say what they can then. Keys may be good for runs alone.
_REFUSED = (
    errors.AccessDenied,
    errors.AnswerTooLarge,
    errors.BadRequest,
    errors.NotFound,
    errors.ServerFailed,
    errors.UnexpectedAnswer,
)

_decoder = msgspec.json.Decoder(RunDetails)


class RunLists:
    """The lists of one mount. `runs_listed`: how many runs a list has at most. Methods raise ServiceError.

    `known_runs`: the runs of a list are stored there, so that lookups of them cost nothing.
    """

    def __init__(
        self,
        service: Service,
        known_runs: StaleWhileRevalidateCache[int, Run],
        *,
        caches: Caches,
        times: TreeTimes,
        runs_listed: int,
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._known_runs = known_runs
        self._clock = clock
        self._runs_listed = runs_listed
        self._lists: StaleWhileRevalidateCache[RunFilter, Records] = caches.make(
            lambda wanted: f"the runs of {words_of(wanted)}",
            fetch=self._fetch,
            ttl_s=lambda _records: times.listing_ttl,
            weight=_weight_of_runs,
            max_weight=_MAX_BYTES,
        )
        self._keys: StaleWhileRevalidateCache[int, FacetKeys] = caches.make(
            lambda project_id: f"the keys of runs of project {project_id}",
            fetch=self._fetch_keys,
            ttl_s=lambda _keys: times.listing_ttl,
            weight=lambda keys: _weight((*keys.params, *keys.tags)),
            max_weight=_MAX_FACETS_BYTES,
        )
        self._values: StaleWhileRevalidateCache[tuple[int, str, str], tuple[str, ...]] = caches.make(
            lambda key: f"the values of {key[1]} {key[2]} in project {key[0]}",
            fetch=self._fetch_values,
            ttl_s=lambda _values: times.listing_ttl,
            weight=_weight,
            max_weight=_MAX_FACETS_BYTES,
        )
        self.caches = (self._lists, self._keys, self._values)

    def store_in(self, kind: StoredKinds) -> None:
        """Store lists, keys and values for the next mount."""
        self._lists.stored = kind("list", Records, lambda wanted: (0, _key_of(wanted)), to_form=without_urls)
        self._keys.stored = kind("keys", FacetKeys, lambda project_id: (0, b"%d" % project_id))
        self._values.stored = kind("values", tuple[str, ...], lambda key: (0, _key_of(key)))

    async def get(self, wanted: RunFilter) -> CacheEntry[Records]:
        """Return the runs of a filter, the last updated first."""
        return await self._lists.get(wanted)

    async def details(self, wanted: RunFilter) -> list[RunDetails]:
        """Return the details of the runs of a filter, in the same order."""
        found = []
        for place, record in enumerate((await self.get(wanted)).value):
            if place % _ROWS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            found.append(_decoder.decode(record.details))
        return found

    def get_any(self, wanted: RunFilter) -> CacheEntry[Records] | None:
        """Return the same if it is cached, fresh or stale. No request."""
        return self._lists.get_any(wanted)

    def left_s(self, held: CacheEntry[Records]) -> float:
        """Return for how long a list is fresh."""
        return self._lists.ttl_left_s(held)

    def refresh(self, applies: Callable[[RunFilter], bool], project_id: int | None) -> None:
        """Make lists stale, and the facets of a project; of all, where that is None."""
        self._lists.mark_stale_where(applies)
        self._keys.mark_stale_where(lambda key: project_id in (None, key))
        self._values.mark_stale_where(lambda key: project_id in (None, key[0]))

    async def keys(self, chosen: RunFilter, kind: str) -> tuple[str, ...]:
        """Return the keys of a kind (parameter or tag) that occur in runs of one project, sorted."""
        if chosen.project_id is not None and _is_whole_project(chosen):
            keys: FacetKeys = (await self._keys.get(chosen.project_id)).value
            if found := keys.params if kind == "parameter" else keys.tags:
                return tuple(sorted(found))
        return await self._of_rows(chosen, kind, lambda pair: pair.key)

    async def values(self, chosen: RunFilter, kind: str, key: str) -> tuple[str, ...]:
        """Return the values of a key that occur in runs of one project, sorted."""
        if chosen.project_id is not None and _is_whole_project(chosen):
            found: tuple[str, ...] = (await self._values.get((chosen.project_id, kind, key))).value
            if found:
                return tuple(sorted(found))
        return await self._of_rows(chosen, kind, lambda pair: pair.value if pair.key == key else None)

    async def _of_rows(self, chosen: RunFilter, kind: str, text_of: Callable[[Pair], str | None]) -> tuple[str, ...]:
        """Return what occurs in the rows of a list: the service's facets are of a whole project, and may fail."""
        found = set()
        for details in await self.details(chosen):
            found |= {text_of(pair) for pair in (details.params if kind == "parameter" else details.tags)} - {None}
        if found and _is_whole_project(chosen):
            log.warning(
                "the service names none of the keys or values in runs of project %s: those of the %d runs last updated "
                "are shown",
                chosen.project_id,
                self._runs_listed,
                extra=NOTICE,
            )
        return tuple(sorted(text for text in found if text is not None))

    async def _fetch(self, wanted: RunFilter, _old: Records | None) -> Records:
        asked_at, has_older = self._clock(), self._lists.get_any(wanted) is not None
        found = await self._service.find_runs(self._runs_listed, wanted, has_older=has_older)
        records = tuple(record for record in found if is_id(record.run.run_id))
        for record in records:
            self._known_runs.store(record.run.run_id, record.run, asked_at)
        return records

    async def _fetch_keys(self, project_id: int, _old: FacetKeys | None) -> FacetKeys:
        answer, stale = self._service.facet_keys(project_id), self._keys.get_any(project_id)
        return await _or_none(answer, FacetKeys(), stale, f"keys of project {project_id}")

    async def _fetch_values(self, key: tuple[int, str, str], _old: tuple[str, ...] | None) -> tuple[str, ...]:
        project_id, kind, name = key
        answer, stale = self._service.facet_values(project_id, kind, name), self._values.get_any(key)
        return await _or_none(answer, (), stale, f"values of {kind} {name} in project {project_id}")


def _key_of(value: object) -> bytes:
    """Return the key of a choice in the metadata store, in ASCII: texts of a service may have no other form."""
    return ascii(value).encode()


async def _or_none(answer: Awaitable[T], none: T, stale: CacheEntry[T] | None, what: str) -> T:
    try:
        return await answer
    except _REFUSED as error:
        if stale is not None and stale.value and isinstance(error, errors.PassingError):
            raise  # the stale ones are served
        log.warning("the %s: %s", what, error, extra=NOTICE)
        return none


def _is_whole_project(chosen: RunFilter) -> bool:
    return chosen == RunFilter(project_id=chosen.project_id)


def _weight_of_runs(found: Records) -> int:
    # A list that is larger than all are to be is kept alone: it was asked for.
    return min(_MAX_BYTES, _EACH_BYTES + sum(_EACH_BYTES + len(record.details) for record in found))


def _weight(texts: Iterable[str]) -> int:
    return min(_MAX_FACETS_BYTES, _EACH_BYTES + sum(_EACH_BYTES + len(text) for text in texts))
