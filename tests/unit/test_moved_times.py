"""Growth of a file whose own time moves with each append, where listings lag behind or tell no size (2.3, 2.4, 4.1)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ArtifactRef, ContentVersion, ListedChild
from artifactfs.tree import file_times, listing
from artifactfs.tree.listing import Listing, ListingSource
from artifactfs.tree.nodes import ArtifactDir, ArtifactFile, Entry
from artifactfs.tree.size_changes import DirectorySizes, SizeOverride
from artifactfs.tree.tree import Tree
from tests.content_harness import BLOCK, Server, bench, noise
from tests.fakes import NOW_NS, FakeService, directory, finished_run, run
from tests.walking import many, mounted, node, walk

WHOLE = noise(9 * BLOCK)
LOG = b"log"


async def made(size: int | None, at_ns: int, old: Listing | None, sizes: DirectorySizes, *, live: bool = True) -> Entry:
    """Return the entry of a log in a listing that gives it this size and time."""
    children = {LOG: ListedChild(LOG, False, size, at_ns)}
    the_run = run(1) if live else finished_run(1)
    built = await listing.build(children, the_run, "", old, b"t", NOW_NS, sizes)
    return built.by_name[LOG]


async def test_a_listing_that_lags_behind_has_the_time_of_a_shorter_file() -> None:
    """2.4: while it catches up with contents that grew, the file stays its version, whatever its times."""
    sizes = DirectorySizes(overrides={LOG: SizeOverride(1000, 1700)})
    entry = Entry(LOG, False, 7, NOW_NS, 1700, None)
    for size, at_ns in ((1000, 1), (1500, 2), (1700, 3)):
        entry = await made(size, at_ns, Listing({LOG: entry}), sizes)
        assert (entry.number, entry.size_bytes) == (7, 1700)
    assert entry.created_ns == 3


@pytest.mark.parametrize("live", [True, False])
async def test_a_moved_time_without_a_size(live: bool) -> None:
    """2.4: of a running run, the file may have grown: its size is unknown again; else it is another version."""
    old = Entry(LOG, False, 7, 1, 1000, 1)
    new = await made(None, 2, Listing({LOG: old}), DirectorySizes(), live=live)
    assert (new.number == 7, new.size_bytes, new.created_ns, new.mtime_ns) == (live, None, 2, 2)


@pytest.mark.parametrize("reopened", [True, False])
async def test_an_unlisted_size_is_learned_again(reopened: bool, autojump_clock: MockClock) -> None:
    """2.2, 2.4: a moved time has the larger contents compared, once; another file is another version."""

    def version(stamp: bytes) -> ContentVersion:
        return ContentVersion(ArtifactRef("10", "p/log"), None, stamp, settled=False, lineage=7, is_listed=False)

    server = Server(WHOLE[:700])
    async with bench(server) as bench_made:
        handle = await bench_made.files.open(version(b"1"))
        assert await bench_made.read_whole(handle) == WHOLE[:700]
        server.data = WHOLE
        if reopened:
            handle.close()
        again = await bench_made.files.open(version(b"2"))
        assert again.size == len(WHOLE)
        assert await bench_made.read_whole(again) == WHOLE
        asked = len(server.asked)
        (await bench_made.files.open(version(b"2"))).close()
        assert len(server.asked) == asked
        server.data = noise(10 * BLOCK, seed=3)
        with pytest.raises(errors.Superseded):
            await bench_made.files.open(version(b"3"))
        handle.close()
        again.close()


async def test_growth_that_an_answer_shows_has_no_time_of_its_own(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """2.3: it shows when the growth was seen, since the time that is known is that of the shorter file."""
    service = FakeService(runs={1: run(1)}, listings={(1, ""): directory({"log": 700})})
    tree = Tree(service, site="t", nursery=nursery, clock=trio.current_time, wall_clock_ns=lambda: NOW_NS)
    file = (await tree.lookup(await node(tree, 1), LOG)).node
    assert isinstance(file, ArtifactFile)
    for size, shown in ((600, file.entry.mtime_ns), (900, NOW_NS)):
        assert tree.record_size(file, size).entry.mtime_ns == shown


async def test_an_index_without_sizes_gives_times() -> None:
    """2.3: files whose sizes come from the contents show the index's times, too, not when they were seen."""
    held = Listing({LOG: Entry(LOG, False, 7, 5, 1000, None)})
    index = {LOG: ListedChild(LOG, False, None, 3)}
    clock, before = file_times.RunClock(True, 5), file_times.RunClock(False, 5)
    file_times.apply(await file_times.changes(held, clock, before, index, NOW_NS))
    assert held.by_name[LOG].mtime_ns == 3


async def test_an_evicted_listing_is_followed_further(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """2.4, 3.5: where growth rejects the index, files in all directories from it are followed, and stay the same."""
    service = FakeService(runs={1: run(1)}, latency_s=0.02)
    service.add_tree(1, many(40))
    tree = mounted(service, nursery)
    await walk(tree, 1)
    await trio.sleep(10)
    indexed = []
    for path in [path for _run_id, path in service.listings if "d" in path]:
        place = await node(tree, 1, path)
        assert isinstance(place, ArtifactDir)
        if (facts := tree.facts(place)) is not None and facts.source is not ListingSource.DIRECT:
            indexed.append((place, (await tree.contents(place)).entries[0]))
    assert len(indexed) > 10
    for place, entry in indexed:
        service.listings[1, place.path] = directory({entry.name.decode(): (entry.size_bytes or 0) + 100})
    for polled in (indexed[:1], indexed):
        for place, _entry in polled:
            assert tree.attributes_left_s(place, followed=True) <= 5
        await trio.sleep(5)
    for place, entry in indexed:
        now = tree.current(place, entry)
        assert (now.number, now.size_bytes) == (entry.number, (entry.size_bytes or 0) + 100)
