"""artifactfs.tree.walk.project_index: a wrong index is rejected; versions by its times (docs/semantics.md 1.6)."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import IndexedFile
from artifactfs.tree import listing
from artifactfs.tree.nodes import ArtifactFile
from artifactfs.tree.tree import Tree
from tests.fakes import CREATED_NS, MINUTE_NS, NOW_NS, FakeService, directory, finished_run, run, until
from tests.unit.project_index.harness import sample
from tests.walking import count, entries, is_there, listed, look, many, mounted, node, truth, walk

BASE = "prefix/artifacts/"


def says_distrust(caplog: pytest.LogCaptureFixture, words: str = "is wrong about run") -> list[str]:
    return [record.message for record in caplog.records if words in record.message]


# --- a wrong one --------------------------------------------------------------------------------------------


def without(path: str) -> Callable[[list[IndexedFile]], list[IndexedFile]]:
    return lambda rows: [row for row in rows if row.path != BASE + path]


def with_more(path: str, size: int | None = 1) -> Callable[[list[IndexedFile]], list[IndexedFile]]:
    return lambda rows: [*rows, IndexedFile(BASE + path, size, CREATED_NS)]


def replaced(path: str, by: IndexedFile) -> Callable[[list[IndexedFile]], list[IndexedFile]]:
    return lambda rows: [by if row.path == BASE + path else row for row in rows]


WRONG: dict[str, Callable[[list[IndexedFile]], list[IndexedFile]]] = {
    "a file more": with_more("g3/d30/ghost"),
    "a file less": without("g3/d30/f1"),
    "another size": replaced("g3/d30/f1", IndexedFile(BASE + "g3/d30/f1", 77, CREATED_NS)),
    "another name": replaced("g3/d30/f1", IndexedFile(BASE + "g3/d30/F1", 3001, CREATED_NS)),
    "a file that is a directory": replaced("g3/d30/f1", IndexedFile(BASE + "g3/d30/f1/x", 3001, CREATED_NS)),
    "a directory more": with_more("g3/d30/more/x"),
    "a tenth of the files less": lambda rows: [row for place, row in enumerate(rows, 1) if place % 10],
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_sample_that_disagrees(
    how: str, tree: Tree, service: FakeService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """1.6: where a directory chosen at random disagrees, the index counts for nothing in that run."""
    caplog.set_level("INFO")
    service.projects["10"] = WRONG[how](service.projects["10"])
    sample(service, "g1/d10", "g3/d30", "g3/d33", "g2/d29")
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert len(says_distrust(caplog)) == 1
    assert count(asked, "index") == 1
    assert sorted(listed(asked)) == sorted(path for _, path in service.listings)


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("settled", [True, False])
async def test_a_walked_directory_that_disagrees(
    settled: bool,
    how: str,
    tree: Tree,
    service: FakeService,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1.6: what was listed directly is compared with the index, too; a run that still changes may only be newer."""
    caplog.set_level("INFO")
    service.runs[1] = finished_run(1) if settled else run(1)
    service.projects["10"] = WRONG[how](service.projects["10"])
    sample(service)
    for path in ("g3/d30", "g3/d33", "g3/d39"):
        await look(tree, 1, path)
        await trio.sleep(3)
    assert await walk(tree, 1) == truth(service, 1)
    assert len(says_distrust(caplog)) == settled
    assert len(says_distrust(caplog, "has changed since")) == (not settled)
    assert len(listed(service.asked())) == 45


@pytest.mark.parametrize(
    "path",
    ["x", "x/y", "g0", "g4/new/x"],
)
async def test_a_root_that_disagrees(
    path: str, tree: Tree, service: FakeService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """1.6: the run's root is among what is compared: an index that has more, or another kind, is wrong."""
    caplog.set_level("INFO")
    rows = [row for row in service.projects["10"] if path != "g0" or not row.path.startswith(BASE + "g0/")]
    service.projects["10"] = [*rows, IndexedFile(BASE + path, 1, CREATED_NS)]
    sample(service)
    assert await walk(tree, 1) == truth(service, 1)
    assert len(says_distrust(caplog)) == 1


async def test_the_root_is_asked_for_where_it_is_forgotten(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.6: a process at work far below for longer than a listing lives: the root is compared all the same."""
    places = [await node(tree, 1, f"g0/d{i}") for i in range(6)]
    await trio.sleep(100)
    service.projects["10"] = with_more("ghost")(service.projects["10"])
    sample(service)
    service.asked()
    for place in places:
        shown = {entry.name.decode() for entry in (await tree.contents(place)).entries}
        assert shown == {"f0", "f1", "f2"}
    assert "" in listed(service.asked())


@pytest.mark.parametrize("error", [errors.NotFound("gone", 404), errors.BadRequest("no such path", 400)])
async def test_a_directory_that_is_gone(
    error: errors.ServiceError,
    tree: Tree,
    service: FakeService,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1.6: an index that names a directory which the service refuses to list is wrong."""
    caplog.set_level("INFO")
    service.projects["10"] = with_more("g3/gone/x")(service.projects["10"])
    service.refusals["listing", 1, "g3/gone"] = error
    sample(service, "g3/gone", "g1/d10")
    assert await walk(tree, 1) == truth(service, 1)
    (said,) = says_distrust(caplog)
    assert "directory g3/gone" in said


@pytest.mark.parametrize("rows", [[IndexedFile("other/artifacts/f", 1)], [IndexedFile("prefix/artifactsx/f", 1)]])
async def test_the_index_of_something_else(
    rows: list[IndexedFile], tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.6: an index that has nothing of a run does not count for it, and is not checked at a cost."""
    service.projects["10"] = rows
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert count(asked, "index") == 1
    assert len(listed(asked)) == 45


async def test_an_index_that_is_found_wrong_late(
    tree: Tree, service: FakeService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """1.6: one disagreement drops the index and all that came from it, at any time; the next look is the truth."""
    caplog.set_level("INFO")
    service.runs[1] = finished_run(1)
    service.projects["10"] = with_more("g3/d35/ghost")(without("g3/d36/f1")(service.projects["10"]))
    sample(service, "g1/d10")
    shown = await walk(tree, 1)
    assert "g3/d35/ghost" in shown
    assert "g3/d36/f1" not in shown
    assert len(service.asked()) <= 9
    await trio.sleep(3)
    # A name that it lacks is asked of its own directory, and found.
    assert (await node(tree, 1, "g3/d36/f1")).entry.size_bytes == 3601
    assert service.asked() == [("listing", 1, "g3/d36")]
    assert len(says_distrust(caplog)) == 1
    assert await walk(tree, 1) == truth(service, 1)
    asked = service.asked()
    assert count(asked, "index") == 0
    # Only direct listings stay cached: the three before the walk, the sample, and this one.
    assert len(listed(asked)) == 45 - 5


async def test_a_name_that_it_lacks(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: what is nowhere is asked of its own directory once, before it is ENOENT; then it costs nothing."""
    sample(service, "g1/d10")
    await walk(tree, 1)
    service.asked()
    for _ in range(3):
        assert not await is_there(tree, 1, "g3/d35/.hidden")
    assert service.asked() == [("listing", 1, "g3/d35")]
    # The index agreed, and still counts.
    assert await look(tree, 1, "g3/d36")
    assert service.asked() == []


async def test_a_directory_that_it_lacks(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6: empty directories are in no index: they show with their parent's own listing, and can be looked up."""
    service.listings[1, "g3"] = directory({}, [f"d{i}" for i in range(30, 40)] + ["empty"])
    service.listings[1, "g3/empty"] = directory()
    sample(service, "g3/d30")
    assert "g3/empty" not in await walk(tree, 1)
    assert await look(tree, 1, "g3/empty") == {}
    assert await walk(tree, 1) == truth(service, 1)


async def test_an_index_without_sizes(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.6, 2.2: where the directories' listings have the sizes, one without them would show files as empty."""
    service.projects["10"] = [IndexedFile(row.path, None, row.created_ns) for row in service.projects["10"]]
    assert await walk(tree, 1) == truth(service, 1)


async def test_a_run_that_changes_while_it_is_walked(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.6: a listing that is newer than the index and disagrees ends it for this run."""
    sample(service, "g1/d10")
    await walk(tree, 1)
    await trio.sleep(30)
    service.listings[1, "g3/d35"] = directory({"f0": 3500, "f1": 3501, "f2": 9999, "f3": 1})
    assert await is_there(tree, 1, "g3/d35/f3")
    service.asked()
    assert await walk(tree, 1) == truth(service, 1)
    assert len(listed(service.asked())) == 45 - 5


async def test_distrust_while_a_listing_is_made(
    tree: Tree, service: FakeService, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.6: what is being made of an index when it turns out to be wrong is not shown."""
    rows = with_more("g3/d35/ghost")(without("g3/d36/f1")(service.projects["10"]))
    service.projects["10"] = rows
    sample(service, "g1/d10")
    await look(tree, 1, "g0/d0")
    await look(tree, 1, "g0/d1")
    await look(tree, 1, "g3")
    go_on, real_build, waiting = trio.Event(), listing.build, []

    async def build(children: object, run: object, path: str, *rest: object) -> object:
        if path == "g3/d35" and not go_on.is_set():
            waiting.append(path)
            await go_on.wait()
        return await real_build(children, run, path, *rest)  # type: ignore[arg-type]  # whatever they are

    monkeypatch.setattr(listing, "build", build)
    # As for a directory that is too large to be made at once.
    monkeypatch.setattr(listing, "build_at_once", lambda *_: None)
    shown: list[str] = []

    async def late() -> None:
        shown.extend(await look(tree, 1, "g3/d35"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late)
        await until(lambda: bool(waiting))
        assert await is_there(tree, 1, "g3/d36/f1")
        go_on.set()
    assert shown == ["f0", "f1", "f2"]


async def test_a_listing_that_comes_while_it_is_checked(
    tree: Tree, service: FakeService, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.6: a directory that comes to hand during the check is compared before anything is trusted."""
    service.projects["10"] = with_more("g2/d20/ghost")(service.projects["10"])
    sample(service, "g1/d10")
    await look(tree, 1, "g0/d0")
    await trio.sleep(3)
    index = tree._index
    assert index is not None
    real_build = listing.build

    async def build(children: object, run: object, path: str, *rest: object) -> object:
        # What is known of it when it is answered is not what is known when it is cached.
        while path == "g2/d20" and not index._validations:  # noqa: ASYNC110
            await trio.sleep(0.001)
        return await real_build(children, run, path, *rest)  # type: ignore[arg-type]  # whatever they are

    monkeypatch.setattr(listing, "build", build)
    place = await node(tree, 1, "g2/d20")
    service.index_s = 0.1
    async with trio.open_nursery() as nursery:
        for path in ("g0/d2", "g0/d3"):  # a walk: asks for the index
            nursery.start_soon(look, tree, 1, path)
        nursery.start_soon(tree._directories.get_direct, place)  # type: ignore[arg-type]  # it is a directory
    await trio.sleep(1)
    assert not index.is_trusted(service.runs[1])
    assert await walk(tree, 1) == truth(service, 1)


# --- versions -----------------------------------------------------------------------------------------------


async def versions(tree: Tree, service: FakeService, *changes: tuple[int, int | None]) -> list[tuple[int, int, int]]:
    """Walk, change size and time of a file, wait until all is old, and again; returns number, time and variant."""
    seen = []
    for size, created_ns in changes:
        service.projects.clear()
        service.add_tree(1, {**many(40), "g3/d35/f1": size}, created_ns=created_ns)
        await walk(tree, 1)
        found = await node(tree, 1, "g3/d35/f1")
        assert isinstance(found, ArtifactFile)
        assert found.entry.size_bytes == size
        version = await tree.locate_content(found)
        seen.append((found.entry.number, found.entry.mtime_ns, version.variant))
        await trio.sleep(61)
    return seen


async def test_the_same_size_at_another_time(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.4: a file that has another `created_at` is another version: another inode, other blocks in the cache."""
    times = [CREATED_NS + minutes * MINUTE_NS for minutes in (0, 1, 2, 0)]
    seen = await versions(tree, service, *((5, time) for time in times))
    numbers, shown, variants = zip(*seen, strict=True)
    assert list(shown) == times
    assert len(set(numbers)) == 4
    assert len(set(variants)) == 4
    # The first is what a mount that never saw another has.
    assert variants[0] == 0


async def test_a_time_comes_and_goes(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3, 2.4: a time that is learned later, or not known any more, does not change the version; it is shown."""
    seen = await versions(tree, service, (5, None), (5, CREATED_NS), (5, None), (5, CREATED_NS))
    assert len({(number, variant) for number, _, variant in seen}) == 1
    assert [time_ns for _, time_ns, _ in seen] == [service.runs[1].created_ns, *[CREATED_NS] * 3]


async def test_one_run_one_clock(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3: an index that comes late, or turns out to be wrong, changes the times of all files of its run at once."""
    service.runs[1] = finished_run(1)
    service.index_s, service.room = 7.0, False
    told: list[int] = []
    tree.watch_times(told.append)
    changed: list[set[int]] = []
    for _ in range(40):
        for path in ("", "g0", "g0/d0", "g1/d10", "g3/d33"):
            await look(tree, 1, path)
        shown = {e.mtime_ns for at in ("g0/d0", "g1/d10", "g3/d33") for e in (await look(tree, 1, at)).values()}
        changed += [shown] if not changed or changed[-1] != shown else []
        await trio.sleep(0.25)
    assert changed == [{service.runs[1].completed_ns}, {CREATED_NS}]
    assert told == [1]
    # A directory that was never listed has a file more than the index, and the run will not change any more.
    service.listings[1, "g2/d20"] = directory({"f0": 2000, "f1": 2001, "f2": 2002, "new": 1})
    assert await is_there(tree, 1, "g2/d20/new")
    assert told == [1, 1]
    found = await entries(tree, 1)
    assert {entry.mtime_ns for entry in found.values() if not entry.is_dir} == {service.runs[1].completed_ns}


async def test_a_run_that_completes(service: FakeService, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """2.3: without an index all files of a run show the time of its end, once it has one; its updates move nothing."""
    tree = mounted(service, nursery, "off")
    service.runs[1] = run(1, created_ns=None, updated_ns=5)
    for told, shown in ((run(1, created_ns=None, updated_ns=6), 5), (finished_run(1), finished_run(1).completed_ns)):
        await look(tree, 1, "g0/d0")
        service.runs[1] = told
        await trio.sleep(61)
        await look(tree, 1, "g0/d1")
        times = {entry.mtime_ns for at in ("g0/d0", "g0/d1") for entry in (await look(tree, 1, at)).values()}
        assert times == {shown}


async def test_a_new_file_of_a_live_run(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.3: a file that came after the index shows when it was first seen, and its own time once the index has it."""
    await look(tree, 1, "g0/d0")
    await trio.sleep(30)
    service.listings[1, "g1/d10"] = directory({"f0": 1000, "f1": 1001, "f2": 1002, "new": 1})
    assert {name: e.mtime_ns for name, e in (await look(tree, 1, "g1/d10")).items()} == {
        "f0": CREATED_NS, "f1": CREATED_NS, "f2": CREATED_NS, "new": NOW_NS,
    }  # fmt: skip
    service.projects["10"].append(IndexedFile(f"{BASE}g1/d10/new", 1, NOW_NS - MINUTE_NS))
    await trio.sleep(31)
    await look(tree, 1, "g0/d0")
    assert (await look(tree, 1, "g1/d10"))["new"].mtime_ns == NOW_NS - MINUTE_NS


async def test_another_size_and_back(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """2.4: a smaller size is another version, whatever the times."""
    seen = await versions(tree, service, (7, CREATED_NS), (6, CREATED_NS), (6, None), (5, CREATED_NS))
    assert len({number for number, *_ in seen}) == 3
    assert seen[1] == seen[2]
