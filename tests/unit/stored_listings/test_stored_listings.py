"""artifactfs.tree over a metadata store: what a tree knows of what an earlier one saw (semantics.md 8.1, 8.2)."""

from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.metadata.metadata_store import MetadataStore
from artifactfs.tree import stored_listings
from tests.fakes import MINUTE_NS, NOW_NS, FakeService, finished_run, run
from tests.fakes import directory as listed_directory
from tests.fakes import walk as go
from tests.unit.stored_listings.harness import Mount, seen
from tests.walking import count, entries, listed, look, node


@pytest.mark.parametrize("prefetch", ["auto", "tree", "off"])
async def test_a_finished_run_costs_its_row_after_a_remount(
    mount: Mount, autojump_clock: MockClock, service: FakeService, prefetch: str
) -> None:
    """8.2: every listing of a settled run is served without a request once the run's row was seen, all as before."""
    before = await seen(mount, service, prefetch=prefetch)
    tree, _ = mount(prefetch)
    assert await entries(tree, 1) == before
    assert service.asked() == [("run", 1)]


async def test_a_page_of_runs_counts_as_having_seen_the_row(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """8.2: after a project's page, which has the run's row, a walk over the run costs nothing."""
    before = await seen(mount, service)
    tree, _ = mount()
    await tree.contents(await go(tree, "projects/10"))
    assert count(service.asked(), "runs") == 1
    assert await entries(tree, 1) == before
    assert service.asked() == []


@pytest.mark.parametrize(
    "changed",
    [
        {"completed_ns": NOW_NS - 30 * MINUTE_NS},
        {"updated_ns": NOW_NS - 1},
        {"status": "failed"},
        {"project_id": "11"},
        {"status": "running", "completed_ns": None},
    ],
    ids=lambda changed: "+".join(changed),
)
async def test_a_run_whose_row_changed_is_listed_again(
    mount: Mount, autojump_clock: MockClock, service: FakeService, changed: dict[str, object]
) -> None:
    """8.2: where the row says something else, no stored listing of the run is shown, not even if the service fails."""
    await seen(mount, service)
    service.runs[1] = msgspec.structs.replace(service.runs[1], **changed)
    service.listings[1, ""] = listed_directory({"new": 1})
    tree, _ = mount("off")
    service.refusals["listing", 1, ""] = errors.ServerFailed("no", 500)
    with pytest.raises(errors.ServerFailed):
        await look(tree, 1)
    service.refusals.clear()
    assert set(await look(tree, 1)) == {"new"}


async def test_a_row_that_nothing_confirmed_changes_no_listing(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """8.2: a listing that was shown beside a newer row while the service failed is not taken for one of that row."""
    await seen(mount, service, prefetch="off")
    service.runs[1] = finished_run(minutes_ago=30.0)
    service.listings[1, "g0/d0"] = listed_directory({"new": 1})
    tree, metadata = mount("off")
    await node(tree, 1)  # its row alone
    await metadata.flush()

    tree, metadata = mount("off")
    service.refusals["run", 1] = errors.ServerFailed("no", 500)
    for path in ("", "g0", "g0/d0"):
        service.refusals["listing", 1, path] = errors.ServerFailed("no", 500)
    assert set(await look(tree, 1, "g0/d0")) != {"new"}
    service.refusals.clear()
    await trio.sleep(10.0)  # the service may be asked again
    await look(tree, 1)  # now the times of all files change, also of those that are not listed again
    await metadata.flush()

    tree, _ = mount("off")
    assert set(await look(tree, 1, "g0/d0")) == {"new"}


async def test_a_run_that_is_gone_leaves_the_store(
    mount: Mount, autojump_clock: MockClock, service: FakeService, store: MetadataStore
) -> None:
    """8.2: a run that the service has no more is not shown, and nothing of it stays."""
    await seen(mount, service)
    assert store.usage().runs == 1
    gone = service.runs.pop(1)
    tree, metadata = mount()
    with pytest.raises(errors.NoSuchEntry):
        await node(tree, 1)
    await metadata.flush()
    assert store.usage().runs == 0
    service.runs[1] = gone


async def test_a_running_run_is_listed_again_and_served_as_it_was_if_that_fails(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """8.2: a stored listing of a run that goes on is stale: refreshed, and served where that fails."""
    service.runs[1] = run()
    before = await seen(mount, service)
    service.listings[1, ""] = listed_directory({"new": 1}, ["g0"])
    tree, _ = mount()
    assert set(await look(tree, 1)) == {"new", "g0"}
    failing, _ = mount()
    await node(failing, 1)
    service.refusals["listing", 1, "g0"] = errors.ServerFailed("no", 500)
    assert set(await look(failing, 1, "g0")) == {
        path[3:] for path in before if path.startswith("g0/") and path.count("/") == 1
    }


async def test_a_listing_of_just_after_the_end_is_not_trusted(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """8.2: a run is settled ten minutes after its end; what was listed before that is asked for again."""
    service.runs[1] = finished_run(minutes_ago=5)
    await seen(mount, service)
    tree, _ = mount("off")
    await look(tree, 1)
    assert listed(service.asked()) == [""]


async def test_a_name_that_a_stored_listing_lacks_is_absent(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """1.1, 8.2: a stored direct listing answers for names that are not there; one from an index never does."""
    await seen(mount, service, prefetch="off")
    tree, _ = mount("off")
    with pytest.raises(errors.NoSuchEntry):
        await node(tree, 1, "g0/d0/missing")
    assert service.asked() == [("run", 1)]


@pytest.mark.parametrize("of_all", [True, False])
async def test_a_refresh_outlives_the_mount(
    of_all: bool, mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """3.3, 8.2: what was refreshed and not listed since is asked for by the next mount, too."""
    await seen(mount, service)
    tree, metadata = mount()
    tree.mark_all_stale() if of_all else tree.refresh(await node(tree, 1))
    await metadata.flush()
    service.asked()
    later, _ = mount("off")
    await look(later, 1, "g0")
    assert listed(service.asked()) == ["", "g0"]


@pytest.mark.parametrize("of_all", [True, False])
async def test_a_refresh_outlives_what_changes_the_listings(
    of_all: bool, mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """3.3, 8.2: a listing that is stored again, with other times, say, and was not listed since, is as stale."""
    tree, metadata = mount()
    await entries(tree, 1)
    await tree.wait_for_indexes()
    await trio.sleep(1)
    tree.mark_all_stale() if of_all else tree.refresh(await node(tree, 1))
    await trio.sleep(1)
    await look(tree, 1)
    await trio.sleep(10)  # until the index is checked
    await metadata.flush()
    service.asked()
    later, _ = mount("off")
    await look(later, 1, "g2/d25")
    assert listed(service.asked()) == ["g2/d25"]


async def test_another_account_sees_nothing(mount: Mount, autojump_clock: MockClock, service: FakeService) -> None:
    """6.3, 8.1: what one account saw is not shown to another; nor after a switch of accounts in one mount."""
    await seen(mount, service)
    other, _ = mount("off", account="two")
    await look(other, 1, "g0")
    assert listed(service.asked()) == ["", "g0"]
    tree, _ = mount("off")
    await look(tree, 1, "g0")
    assert listed(service.asked()) == []
    tree.switch_account("https://api.test\0three")
    await look(tree, 1, "g0")
    assert listed(service.asked()) == ["", "g0"]


async def test_an_account_changes_while_a_stored_listing_is_read(
    mount: Mount, autojump_clock: MockClock, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6.3: nothing is known of a run of the account before, which the account of now has not."""
    await seen(mount, service, prefetch="off")
    reading, gate = trio.Event(), trio.Event()

    async def run_in_thread(call: Callable[[], object]) -> object:
        reading.set()
        await gate.wait()
        return call()

    monkeypatch.setattr(stored_listings, "_AT_ONCE_BYTES", 0)
    monkeypatch.setattr(stored_listings, "threads", SimpleNamespace(run=run_in_thread))
    tree, _ = mount("off")
    root = await node(tree, 1)

    async def look_in_vain() -> None:
        with pytest.raises(errors.NoSuchEntry):
            await tree.contents(root)

    async with trio.open_nursery() as callers:
        callers.start_soon(look_in_vain)
        await reading.wait()
        del service.runs[1]
        tree.switch_account("https://api.test\0two")
        gate.set()
    assert tree.known_run(1) is None


async def test_rows_and_pages_are_served_while_the_service_fails(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """8.2: stored pages, projects and lists are stale ones: served where a refresh fails, and refreshed otherwise."""
    tree, metadata = mount()
    paths = ["runs", "projects", "names", "projects/10", "names/first~10"]
    before = {path: (await tree.contents(await go(tree, path))).entries for path in paths}
    await metadata.flush()
    service.broken = errors.ServerFailed("no", 500)
    later, _ = mount()
    for path in paths:
        assert [entry.name for entry in (await later.contents(await go(later, path))).entries] == [
            entry.name for entry in before[path]
        ]


async def test_a_project_costs_only_its_pages_after_a_remount(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """8.2: a project's row is fresh from its first use on: `ls -l /names/PROJECT` asks for pages alone."""
    tree, metadata = mount()
    await tree.contents(await go(tree, "names/first~10"))
    await metadata.flush()
    service.asked()
    later, _ = mount()
    links = (await later.contents(await go(later, "names/first~10"))).entries
    for entry in links:
        if entry.name.startswith(b"run"):
            await later.lookup(later.runs, b"1")
    assert service.asked() == [("runs", 200, 10)]


async def test_offline_everything_stored_is_shown_and_nothing_is_asked(
    mount: Mount, autojump_clock: MockClock, service: FakeService
) -> None:
    """8.3: offline a tree shows what is stored, also of runs that go on; going online it asks again."""
    service.runs[1] = run()
    before = await seen(mount, service)
    tree, _ = mount()
    service.broken = errors.Offline("no network")
    tree.go_offline()
    assert await entries(tree, 1) == before
    assert service.asked() == []
    with pytest.raises(errors.Offline):
        await node(tree, 2)
    service.broken = None
    tree.go_online()
    service.listings[1, ""] = listed_directory({"new": 1})
    assert set(await look(tree, 1)) == {"new"}


async def test_the_state_follows_what_is_written(mount: Mount, autojump_clock: MockClock) -> None:
    """8.9: the figures of a status are those of a moment ago."""
    _, metadata = mount()
    for run_id in (1, 2, 3):
        metadata.put(("run", run_id, b""), NOW_NS / 1e9, lambda: lambda: b"x")
        await metadata.flush()
        metadata.look_soon()
        await trio.sleep(2.0)
        assert metadata.state().runs == run_id
