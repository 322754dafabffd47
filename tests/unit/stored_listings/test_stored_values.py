"""artifactfs.tree over a metadata store: rows and pages that are requested again, and what others do to the store."""

import itertools
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from artifactfs.metadata.metadata_store import Change, MetadataStore, Record
from artifactfs.metadata.write_behind import Name, WriteBehind
from tests.fakes import FakeService
from tests.fakes import walk as go
from tests.unit.stored_listings.harness import Mount, seen
from tests.walking import entries, listed, look

ROW: Name = ("run", 1, b"")
PAGE: Name = ("runs", 0, b"")


async def stored(metadata: WriteBehind, name: Name) -> Record | None:
    found = await metadata.load(name)
    return found[0] if found else None


async def test_a_page_that_stays_the_same_is_stored_again_in_time(
    mount: Mount, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.2: a stale page is served for `stale_max` from when it was requested last, not from when it changed.

    It is not stored each time, either: it may be large.
    """
    written: list[float] = []
    write = MetadataStore.write

    def noted(self: MetadataStore, scope: int, changes: Sequence[Change]) -> bool:
        written.extend(trio.current_time() for each in changes if isinstance(each, Record) and each.kind == PAGE[0])
        return write(self, scope, changes)

    monkeypatch.setattr(MetadataStore, "write", noted)
    tree, _ = mount()
    for _ in range(40):
        await tree.contents(tree.runs)
        await trio.sleep(61)
    pauses = [after - before for before, after in itertools.pairwise([*written, 40 * 61.0])]
    assert min(pauses[:-1]) > 240
    assert max(pauses) < 400


async def test_a_mark_ends_with_an_answer_that_is_the_same(mount: Mount, autojump_clock: MockClock) -> None:
    """3.3, 8.2: what was refreshed, and requested since, is no more stale for the next mount than anything."""
    tree, metadata = mount()
    await tree.contents(tree.runs)
    await trio.sleep(1)
    tree.mark_all_stale()
    marked = await stored(metadata, PAGE)
    assert marked is not None
    assert marked.is_stale
    await trio.sleep(1)
    await tree.contents(tree.runs)
    renewed = await stored(metadata, PAGE)
    assert renewed is not None
    assert not renewed.is_stale


async def test_another_process_clears_the_store(
    mount: Mount, autojump_clock: MockClock, store: MetadataStore, service: FakeService
) -> None:
    """8.3: beside a mount that goes on, the store has the site again with the next thing that is stored."""
    await seen(mount, service)
    tree, metadata = mount()
    await tree.lookup(tree.runs, b"1")
    await metadata.flush()
    store.clear(keep_pinned=False)
    assert store.last_account("https://api.test") is None
    await trio.sleep(61)
    await tree.contents(tree.runs)
    await metadata.flush()
    assert store.last_account("https://api.test") == "one"
    # What is the same as before was stored before the store was cleared.
    await trio.sleep(61)
    await tree.contents(tree.runs)
    assert await stored(metadata, PAGE) is not None


async def test_what_is_cached_of_a_run_is_stored_again(
    mount: Mount, autojump_clock: MockClock, store: MetadataStore, service: FakeService
) -> None:
    """8.6: whatever another process deleted, a run that is pinned has its row and its listings in the store."""
    tree, metadata = mount("off")
    before = await entries(tree, 1)
    await metadata.flush()
    store.clear(keep_pinned=False)
    await tree.save_again(1)
    await metadata.flush()
    service.asked()
    later, _ = mount("off")
    assert await entries(later, 1) == before
    assert listed(service.asked()) == []


@pytest.mark.parametrize("place", ["projects/10", "names/first~10", "projects", "names"])
async def test_a_refresh_of_projects_outlives_the_mount(
    place: str, mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """3.3, 8.2: a project that was refreshed is asked for by the next mount, if it was not asked for since."""
    tree, metadata = mount()
    for name in ("projects/10", "names/first~10"):
        await tree.contents(await go(tree, name))
    await trio.sleep(1)
    tree.refresh(await go(tree, place))
    await metadata.flush()
    service.asked()
    later, _ = mount()
    await go(later, "projects/10")
    assert ("project", 10) in service.asked()


async def test_what_was_not_refreshed_is_fresh(mount: Mount, autojump_clock: MockClock, service: FakeService) -> None:
    """8.2: without a refresh, a project's row is fresh from its first use on."""
    tree, metadata = mount()
    await go(tree, "projects/10")
    await look(tree, 1)
    await metadata.flush()
    service.asked()
    later, _ = mount()
    await go(later, "projects/10")
    assert ("project", 10) not in service.asked()
