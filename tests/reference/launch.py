"""`artifactfs` for the reference model: with time in the test's hands, and with a bug in it where one is asked for.

    python -m tests.reference.launch NAME… -- mount …

`time`: the mount's clock is ahead by the seconds in the file $TEST_CLOCK; a failed request is tried again at once; each
requested refresh shows in a count in the file $TEST_REFRESHES once open files were compared (the log does not tell).
`unrepeated`: the kernel learns that names hold for 0 s, so that what it may repeat (docs/semantics.md 3.4) is what we
say.

The rest are bugs, of the kinds that the model is there to find; store_plants.py has more.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pyfuse3

from artifactfs import cli, errors
from artifactfs.content import shared_file
from artifactfs.content.fetcher import Fetcher
from artifactfs.content.growth import Growth
from artifactfs.content.reader import OpenFile
from artifactfs.control.commands import Control
from artifactfs.fuse import inodes
from artifactfs.fuse.operations import Operations
from artifactfs.modellab import run_filters
from artifactfs.tree import facet_tree, listing, nodes
from artifactfs.tree.catalog import Catalog
from artifactfs.tree.nodes import DirSnapshot
from artifactfs.tree.swr_cache import StaleWhileRevalidateCache
from artifactfs.util import backoff
from tests.launch import clock
from tests.reference import store_plants


def time() -> None:
    """Let time pass when the test says so, and tell it what was taken in."""
    clock()
    vars(backoff)["_BASE_S"] = 0.001
    refresh_open, path = Control._refresh_open, os.environ["TEST_REFRESHES"]
    count = 0

    async def telling(self: Control, is_meant: Callable[[tuple[int, str]], bool]) -> None:
        nonlocal count
        await refresh_open(self, is_meant)
        count += 1
        _tell(path, str(count))

    _put(Control, "_refresh_open", telling)


def _tell(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(text)
    os.replace(path + ".new", path)


def unrepeated() -> None:
    """Let the kernel ask for each name each time."""
    lookup, contents = Operations.lookup, Operations._contents

    async def unrepeated_lookup(
        self: Operations, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        attributes = await lookup(self, parent, name, ctx)
        attributes.entry_timeout = 0.0
        return attributes

    async def unrepeated_contents(*args: Any) -> DirSnapshot:
        return msgspec.structs.replace(await contents(*args), left_s=lambda: 0.0)

    _put(Operations, "lookup", unrepeated_lookup)
    _put(Operations, "_contents", unrepeated_contents)


# --- bugs -------------------------------------------------------------------------------------------------


def never_refreshed() -> None:
    """A listing is kept whatever is asked for."""
    _put(StaleWhileRevalidateCache, "mark_all_stale", lambda _self: None)


def shifted() -> None:
    """A read that does not begin at the start gives the bytes from one further on."""
    read = OpenFile.read

    async def shifted_read(self: OpenFile, offset: int, size: int) -> bytes | memoryview:
        return await read(self, offset + (offset > 0), size)

    _put(OpenFile, "read", shifted_read)


def absent_after_failure() -> None:
    """What failed for a passing reason is taken for absent."""
    note_failure = StaleWhileRevalidateCache._note_failure

    def forgetful(self: Any, key: Any, fetch: Any, error: Exception, had_stale: bool) -> None:
        cause = errors.NotFound(str(error)) if isinstance(error, errors.PassingError) else error
        note_failure(self, key, fetch, cause, had_stale)

    _put(StaleWhileRevalidateCache, "_note_failure", forgetful)


def old_not_served() -> None:
    """A listing that is old is thrown away before another one is there."""
    get = StaleWhileRevalidateCache.get

    async def hasty_get(self: Any, key: Any) -> Any:
        if self.get_fresh(key) is None:
            self.evict(key)
        return await get(self, key)

    _put(StaleWhileRevalidateCache, "get", hasty_get)


def versions_mixed() -> None:
    """An answer is not compared with the version that was opened."""

    async def careless_check(self: Any, body: Any, _suspect: object) -> None:
        if self._blocks.size is None and body.total is not None:
            self._blocks.learn_size(body.total)

    _put(Fetcher, "_check", careless_check)


def growth_unproven() -> None:
    """A larger file is taken for a continued one."""

    async def trusting(_context: object, _artifact: object, _blocks: object, listed: int | None, **_: object) -> Growth:
        return Growth(listed or 0, 0)

    vars(shared_file)["prove"] = trusting


def growth_is_replacement() -> None:
    """A larger file is always another version."""
    for module in (inodes, listing, nodes):
        vars(module)["may_have_grown"] = lambda _old, _new: False


def rows_untested() -> None:
    """Each run of an answer is taken for one that was chosen."""
    vars(run_filters)["holds"] = lambda _wanted, _record: True
    vars(run_filters)["unproven"] = lambda _wanted, _record: set()


def latest_by_update() -> None:
    """The run that was updated last is taken for the newest."""
    vars(facet_tree)["_latest"] = lambda records, _status: records[0].run if records else None


def facets_kept() -> None:
    """Keys and values are kept whatever is asked for."""

    def forgetful(self: Catalog) -> None:
        for cache in self._caches:
            if cache not in self._lists.caches[1:]:
                cache.mark_all_stale()

    _put(Catalog, "mark_all_stale", forgetful)


def _put(owner: type, name: str, new: Callable[..., Any]) -> None:
    setattr(owner, name, functools.update_wrapper(new, cast("Callable[..., Any]", getattr(owner, name))))


if __name__ == "__main__":
    names = sys.argv[1 : sys.argv.index("--")]
    del sys.argv[1 : sys.argv.index("--") + 1]
    for each in names:
        (globals() | vars(store_plants))[each]()
    cli.main()
