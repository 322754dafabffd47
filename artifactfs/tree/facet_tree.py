"""Runs by what they have in common: `by/status/failed/`, `by/tag/team/vision/`, and searches (docs/semantics.md 1.7).

    by -> .by, projects/<id>/by -> .by   links, and the latter not listed, so that no traversal of runs enters it
    .by/project/<project>~<id>           a link to the choices in a project
    projects/<id>/.by/                   the kinds: status, tag, parameter, owner, parent
    projects/<id>/.by/tag/               the keys
    projects/<id>/.by/tag/team/          the values
    projects/<id>/.by/tag/team/vision/   links to the runs; `by` again, for a narrower choice
    search/<words>/                      the same for words; made by looking it up

Owns these names, and those beside the links of a project: `by`, `latest` and its kin, tables. run_lists.py owns what is
requested for them. A name that is looked up and not listed is a choice, too, if runs come of it.
"""

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.domain import STATUSES, ParamTest, Run, RunFilter
from artifactfs.logs import NOTICE
from artifactfs.tree import inode_numbers, listing, search_terms
from artifactfs.tree.inflight_fetch import CacheEntry
from artifactfs.tree.listing import TreeTimes
from artifactfs.tree.nodes import DirSnapshot, Entry, FacetDir, FacetLevel, GeneratedFile, LookupResult, Node, Symlink
from artifactfs.tree.run_lists import Records, RunLists
from artifactfs.tree.run_tables import FORMATS
from artifactfs.tree.safe_names import facet_name, named, number_of, parse_id, text_of

log = logging.getLogger(__name__)

BY, HIDDEN, SEARCH = b"by", b".by", b"search"
# The kind in `/by` that has links to the choices in each project. The catalog knows the projects.
PROJECT = "project"
# Names of ours never go away while the mount is there.
_FIXED_VALID_S = 3600.0
# Bytes of tables and of descriptions of runs that are kept until they are opened, or opened again.
_MAX_GENERATED_BYTES = 32 << 20
# What a generated file takes beside its contents. About.
_EACH_BYTES = 500
# A name that desktops look for everywhere. Those with a leading dot are no words and no values (text_of).
_PROBED = b"autorun.inf"
_NO_PARENT = "none"
# Choices within choices: each is part of a query. Arbitrary.
_MAX_DEPTH = 20
# By the name of a link to the newest run: the status of that run.
_LATEST: Mapping[bytes, str | None] = {b"latest": None, b"latest-completed": "completed", b"latest-failed": "failed"}


class Place(msgspec.Struct, frozen=True):
    """A directory of links to runs. `path`: from the mount's root; `number`: of its inode; `key`: as `path`, and the
    same whatever the project is called.
    """

    path: bytes
    key: bytes
    number: int
    chosen: RunFilter


class _Generated(msgspec.Struct, frozen=True):
    """A generated file and its contents. `source`: the runs that it was made from."""

    file: GeneratedFile
    made: bytes
    source: object


class Facets:
    """The directories of choices. Every method raises TreeError or ServiceError. `mounted_ns`: since the epoch."""

    def __init__(self, lists: RunLists, site: bytes, times: TreeTimes, mounted_ns: int, root_number: int) -> None:
        self._lists = lists
        self._site = site
        self._times = times
        self._mounted_ns = mounted_ns
        self._root = Place(b"", b"", root_number, RunFilter())
        self.search = self._directory(self._root, SEARCH, FacetLevel.SEARCH, RunFilter())
        self.by = self._link(self._root, BY, HIDDEN, mounted_ns)
        # By path. A table that is larger than all are to be is kept alone.
        self._generated: cachetools.LRUCache[bytes, _Generated] = cachetools.LRUCache(
            _MAX_GENERATED_BYTES, getsizeof=lambda each: min(_MAX_GENERATED_BYTES, len(each.made) + _EACH_BYTES)
        )

    def clear(self) -> None:
        """Remove what was generated for another account (docs/semantics.md 6.3)."""
        self._generated.clear()

    @property
    def kinds(self) -> FacetDir:
        """`/.by`."""
        return self._directory(self._root, HIDDEN, FacetLevel.KINDS, RunFilter())

    # --- directories ---------------------------------------------------------------------------------------

    async def lookup(self, parent: FacetDir, name: bytes) -> LookupResult | None:
        """Return what a name in a directory of choices is; None for nothing."""
        here, chosen = _place(parent), parent.chosen
        if parent.level is FacetLevel.RUNS:
            return await self.lookup_beside(here, name) or await self._find_run(here, name)
        if parent.level is FacetLevel.SEARCH:
            return self._searched(here, name)
        if parent.level is FacetLevel.KINDS:
            kind = name.decode("utf-8", "replace")
            return LookupResult(self._kind(here, kind), _FIXED_VALID_S) if kind in _kinds(chosen) else None
        if parent.level is FacetLevel.KEYS:
            key = _called(name, await self._lists.keys(chosen, parent.kind))
            found = None if key is None else self._directory(here, name, FacetLevel.VALUES, chosen, parent.kind, key)
        else:
            narrower = await self._narrowed(parent, name)
            found = None if narrower is None else self._directory(here, name, FacetLevel.RUNS, narrower)
        return None if found is None else LookupResult(found, self._times.listing_ttl)

    async def contents(self, node: FacetDir) -> DirSnapshot:
        """Return the entries of a directory of choices."""
        here, chosen = _place(node), node.chosen
        if node.level is FacetLevel.RUNS:
            held = await self._lists.get(chosen)
            links = [self.run_link(here, record.run, by_name=True) for record in held.value]
            return snapshot([*links, *self.beside(here, held)], lambda: self._lists.left_s(held))
        if node.level is FacetLevel.SEARCH:
            return snapshot([], lambda: _FIXED_VALID_S)
        if node.level is FacetLevel.KINDS:
            return snapshot([self._kind(here, kind) for kind in _kinds(chosen)], lambda: _FIXED_VALID_S)
        if node.level is FacetLevel.KEYS:
            keys = await self._lists.keys(chosen, node.kind)
            found = [self._directory(here, facet_name(k), FacetLevel.VALUES, chosen, node.kind, k) for k in keys]
        else:
            values = {value: _with(chosen, node.kind, node.key, value) for value in await self._values(node)}
            found = [self._directory(here, facet_name(v), FacetLevel.RUNS, values[v]) for v in values]
        return snapshot(found, lambda: self._times.listing_ttl)

    async def _values(self, node: FacetDir) -> Iterable[str]:
        chosen = node.chosen
        if node.kind in ("parameter", "tag"):
            return await self._lists.values(chosen, node.kind, node.key)
        if node.kind == "status":
            return STATUSES
        if node.kind == "text":
            return ()
        found = await self._lists.details(chosen)
        if node.kind == "owner":
            return search_terms.owners_of(details.owner_id for details in found)
        return [_NO_PARENT, *(str(number) for number in sorted(each.run_id for each in found if each.has_children))]

    async def _narrowed(self, node: FacetDir, name: bytes) -> RunFilter | None:
        """Return the choice that a name among values stands for; None for none."""
        chosen, text = node.chosen, name.decode("utf-8", "replace")
        if node.kind == "status":
            return _with(chosen, node.kind, "", text) if text in STATUSES else None
        if node.kind == "text":
            return None if (words := text_of(name)) is None else msgspec.structs.replace(chosen, text=words)
        if node.kind == "parameter" and (compared := search_terms.comparison(text)) is not None:
            sign, number = compared
            return _with_param(chosen, ParamTest(node.key, number, sign))
        if (value := _called(name, await self._values(node))) is not None:
            return _with(chosen, node.kind, node.key, value)
        # The service need not name all.
        if (exact := text_of(name)) is None or name == _PROBED:
            return None
        try:
            narrower = _with(chosen, node.kind, node.key, exact)
        except search_terms.BadTerm:
            return None
        return narrower if (await self._lists.get(narrower)).value else None

    def _searched(self, here: Place, name: bytes) -> LookupResult | None:
        words = text_of(name)
        if words is None or name == _PROBED:
            return None
        try:
            chosen = search_terms.parse(words)
        except search_terms.BadTerm as problem:
            log.warning("/search/%s: %s", words, problem, extra=NOTICE)
            return None
        return LookupResult(self._directory(here, name, FacetLevel.RUNS, chosen), _FIXED_VALID_S)

    # --- what is beside links to runs ----------------------------------------------------------------------

    async def lookup_beside(self, here: Place, name: bytes) -> LookupResult | None:
        """Return what a name of ours is in a directory of links to runs; None for another name."""
        if name == BY and _kinds(here.chosen):
            return LookupResult(self._link(here, BY, HIDDEN, self._mounted_ns), _FIXED_VALID_S)
        if name == HIDDEN and _kinds(here.chosen):
            return LookupResult(self._directory(here, HIDDEN, FacetLevel.KINDS, here.chosen), _FIXED_VALID_S)
        if name in _LATEST:
            held = await self._lists.get(here.chosen)
            newest = _latest(held.value, _LATEST[name])
            link = None if newest is None else self._link_to(here, name, newest)
            return None if link is None else LookupResult(link, self._lists.left_s(held))
        return None

    def beside(self, here: Place, held: CacheEntry[Records]) -> Iterator[Node]:
        """Yield what is listed beside links to runs: links to the newest ones that there are. `by` is found alone."""
        for name, status in _LATEST.items():
            if (newest := _latest(held.value, status)) is not None:
                yield self._link_to(here, name, newest)

    def project_link(self, parent: FacetDir, shelf: Entry) -> Symlink:
        """Return the link to the choices in a project, by its directory in /names."""
        return self._link(_place(parent), shelf.name, b"../../names/%b/%b" % (shelf.name, HIDDEN), shelf.mtime_ns)

    def run_link(self, here: Place, run: Run, *, by_name: bool) -> Symlink:
        """Return the link to a run, called by its name or by its id."""
        return self._link_to(here, named(run.name, run.run_id) if by_name else b"%d" % run.run_id, run)

    async def _find_run(self, here: Place, name: bytes) -> LookupResult | None:
        held = await self._lists.get(here.chosen)
        run_id = number_of(name)
        for record in held.value:
            if record.run.run_id == run_id and named(record.run.name, run_id) == name:
                return LookupResult(self._link_to(here, name, record.run), self._lists.left_s(held))
        return None

    # --- generated files -----------------------------------------------------------------------------------

    def tables(self, here: Place, held: CacheEntry[Records]) -> Iterator[GeneratedFile]:
        """Yield the tables of a directory as they are listed: until a lookup makes them, without a size."""
        for name in FORMATS:
            path = here.path + b"/" + name
            if (known := self._generated.get(path)) is not None and known.source is held.value:
                yield known.file
                continue
            number = inode_numbers.fixed(self._site, here.key + b"/" + name)
            yield GeneratedFile(path, Entry(name, False, number, self._mounted_ns), here.number)

    async def table(self, here: Place, name: bytes) -> LookupResult | None:
        """Return a table with its size; None for another name."""
        if (make := FORMATS.get(name)) is None:
            return None
        held = await self._lists.get(here.chosen)
        path = here.path + b"/" + name
        if (known := self._generated.get(path)) is None or known.source is not held.value:
            pieces = []
            for piece in make(held.value):
                pieces.append(piece)
                await trio.lowlevel.checkpoint()
            updated_ns = max((record.run.updated_ns or 0 for record in held.value), default=0) or self._mounted_ns
            known = self._store(here, name, b"".join(pieces), updated_ns, held.value)
        return LookupResult(known.file, self._lists.left_s(held))

    def generated(self, here: Place, name: bytes, made: bytes, time_ns: int) -> GeneratedFile:
        """Return the file of what was generated: other contents have another inode number (docs/semantics.md 2.4)."""
        return self._store(here, name, made, time_ns, None).file

    def _store(self, here: Place, name: bytes, made: bytes, time_ns: int, source: object) -> _Generated:
        digest = hashlib.blake2b(made, digest_size=8).digest()
        number = inode_numbers.fixed(self._site, here.key + b"/" + name + b"\0" + digest)
        file = GeneratedFile(here.path + b"/" + name, Entry(name, False, number, time_ns, len(made)), here.number)
        stored = self._generated[file.path] = _Generated(file, made, source)
        return stored

    def contents_of(self, file: GeneratedFile) -> bytes:
        """Return what was generated. Raises Superseded where other contents took its place, or it was evicted."""
        known = self._generated.get(file.path)
        if known is None or known.file.entry.number != file.entry.number:
            raise errors.Superseded("it was generated again")
        return known.made

    # --- nodes ---------------------------------------------------------------------------------------------

    def _kind(self, here: Place, kind: str) -> FacetDir:
        level = FacetLevel.KEYS if kind in ("tag", "parameter") else FacetLevel.VALUES
        return self._directory(here, kind.encode(), level, here.chosen, kind)

    def _directory(
        self, above: Place, name: bytes, level: FacetLevel, chosen: RunFilter, kind: str = "", key: str = ""
    ) -> FacetDir:
        path, its_key = _below(above.path, name), _below(above.key, name)
        entry = Entry(name, True, inode_numbers.fixed(self._site, its_key), self._mounted_ns)
        return FacetDir(path, its_key, level, chosen, kind, key, entry, above.number)

    def _link_to(self, here: Place, name: bytes, run: Run) -> Symlink:
        up = b"../" * (here.path.count(b"/") + 1)
        return self._link(here, name, b"%bruns/%d" % (up, run.run_id), listing.run_time_ns(run))

    def _link(self, here: Place, name: bytes, target: bytes, time_ns: int) -> Symlink:
        entry = Entry(name, False, inode_numbers.fixed(self._site, _below(here.key, name)), time_ns)
        return Symlink(target, entry, here.number)


def snapshot(places: Iterable[Node], left_s: Callable[[], float]) -> DirSnapshot:
    """Return the listing of places, each name once."""
    by_name = {place.entry.name: place for place in places}
    return DirSnapshot(tuple(place.entry for place in by_name.values()), lambda entry: by_name[entry.name], left_s)


def _called(name: bytes, texts: Iterable[str]) -> str | None:
    """Return the text of a name; None where none has it."""
    return _by_name(tuple(texts)).get(name)


# A program that looks each of some thousand values up does so in one directory, or in few.
@functools.lru_cache(maxsize=4)
def _by_name(texts: tuple[str, ...]) -> dict[bytes, str]:
    return {facet_name(text): text for text in texts}


def _place(node: FacetDir) -> Place:
    return Place(node.path, node.key_path, node.entry.number, node.chosen)


def _below(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _kinds(chosen: RunFilter) -> list[str]:
    """Return the kinds by which a choice can be made narrower: without a project, what the service can choose by."""
    if _narrowness(chosen) >= _MAX_DEPTH:
        return []
    kinds = ["status", "tag", "parameter", "owner", "parent"] if chosen.project_id is not None else ["status", "owner"]
    if chosen.project_id is None and not chosen.text:
        kinds.append("text")
    if chosen == RunFilter():
        kinds.insert(0, PROJECT)
    made = {"status": chosen.status, "owner": chosen.owner, "parent": chosen.parent}
    return [kind for kind in kinds if made.get(kind) is None]


def _narrowness(chosen: RunFilter) -> int:
    """Return how many things were chosen, beside the project."""
    single = (chosen.text or None, chosen.status, chosen.owner, chosen.parent)
    return sum(each is not None for each in single) + len(chosen.tags) + len(chosen.params)


def _with(chosen: RunFilter, kind: str, key: str, value: str) -> RunFilter:
    """Return a choice with one thing more. Raises BadTerm for a value that cannot be."""
    if kind == "tag":
        return msgspec.structs.replace(chosen, tags=(*chosen.tags, (key, value)))
    if kind == "parameter":
        return _with_param(chosen, ParamTest(key, value))
    if kind == "owner":
        return msgspec.structs.replace(chosen, owner=search_terms.owner_of(value))
    if kind == "parent":
        number = 0 if value == _NO_PARENT else parse_id(value.encode())
        if number is None:
            raise search_terms.BadTerm(f"{value} is no run")
        return msgspec.structs.replace(chosen, parent=number)
    return msgspec.structs.replace(chosen, status=value)


def _with_param(chosen: RunFilter, test: ParamTest) -> RunFilter:
    return msgspec.structs.replace(chosen, params=(*chosen.params, test))


def _latest(records: Records, status: str | None) -> Run | None:
    """Return the run that was created last, of those with a status; None where there is none."""
    of_status = [each.run for each in records if status is None or each.run.status.lower() == status]
    return max(of_status, key=lambda run: (run.created_ns or 0, run.run_id), default=None)
