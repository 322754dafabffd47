"""artifactfs.fuse.sibling_readahead, with a tree and contents: what is fetched ahead of whom, and what never is.

Time is trio's, and jumps. A request takes 20 ms, a program a millisecond for a file.
"""

import random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfuse3 import FUSEError
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.tree.inode_numbers import children
from tests import fakes
from tests.content_harness import GLANCE
from tests.simulated.siblings import LATENCY_S, MAX_FETCHES, sized, world

# In an order that is neither that of the names nor that of the numbers.
NAMES = random.Random(20261129).sample([f"d/f{number:03d}.json" for number in range(100)], 100)
GRID = [f"g/d{directory}/f{number}" for directory in range(8) for number in range(10)]


def in_orders(paths: list[str]) -> dict[str, list[str]]:
    number = children(b"test", 1, "d")
    sizes = sized(paths)
    by_number = sorted(paths, key=lambda path: number(path.removeprefix("d/").encode(), False, sizes[path]))
    return {"listed": paths, "by name": sorted(paths), "by number": by_number}


@pytest.mark.parametrize("order", ["listed", "by name", "by number"])
async def test_files_in_order(order: str, autojump_clock: MockClock) -> None:
    """4.5: a program that reads the files of a directory in order waits for few of them, and each is asked for once."""
    paths = in_orders(NAMES)[order]
    async with world(sized(NAMES)) as made:
        began = trio.current_time()
        await made.read_all(paths)
        took_s = trio.current_time() - began
        assert sorted(made.shelf.asked_for) == sorted(paths)
        assert made.shelf.peak <= MAX_FETCHES + 1
        # As fast as so many requests at once can be, and a few before that.
        assert took_s < (len(paths) / MAX_FETCHES + 8) * LATENCY_S


async def test_from_the_middle(autojump_clock: MockClock) -> None:
    """4.5: reading that begins in the middle is in order, too."""
    async with world(sized(NAMES)) as made:
        await made.read_all(sorted(NAMES)[40:])
        await made.rest()
        assert sorted(made.shelf.asked_for) == sorted(NAMES)[40:]
        assert made.fetched_ahead > 50


async def test_one_file(autojump_clock: MockClock) -> None:
    """4.5: one file that is read, however often, is no order; nor are two that do not follow each other."""
    async with world(sized(NAMES)) as made:
        orders = in_orders(NAMES)
        first = orders["listed"][0]
        far = next(
            path for path in NAMES if all(abs(names.index(path) - names.index(first)) > 1 for names in orders.values())
        )
        await made.read_all([first, first, first, far])
        await made.rest()
        assert not made.in_vain


async def test_random_order(autojump_clock: MockClock) -> None:
    """4.5: of a program that reads at random less is fetched in vain than it reads, and it is found out soon."""
    paths = random.Random(1).sample([f"d/f{number:04d}" for number in range(1000)], 100)
    async with world(sized(sorted(f"d/f{number:04d}" for number in range(1000)))) as made:
        await made.read_all(paths)
        await made.rest()
        assert len(made.in_vain) <= 8


@pytest.mark.parametrize("count", [2, 3, 5, 10, 40])
async def test_a_reader_that_turns_away(count: int, autojump_clock: MockClock) -> None:
    """4.5: what is fetched in vain stays under what was read, and ends when nothing more is read."""
    async with world(sized(NAMES)) as made:
        await made.read_all(sorted(NAMES)[:count])
        await made.rest()
        assert len(made.in_vain) <= count
        asked = len(made.shelf.asked_for)
        await made.read("d/" + "f099.json")
        await made.rest()
        assert len(made.shelf.asked_for) <= asked + 1


@pytest.mark.parametrize("prefetch", ["auto", "tree"])
async def test_the_next_directories(prefetch: str, autojump_clock: MockClock) -> None:
    """4.5: a program that has gone from one directory to the next is expected in those behind it."""
    async with world(sized(GRID), prefetch=prefetch) as made:
        began = trio.current_time()
        await made.read_all(GRID)
        took_s = trio.current_time() - began
        assert sorted(made.shelf.asked_for) == sorted(GRID)
        listed = [path for kind, *place in made.service.log if kind == "listing" for path in place[1:]]
        # The index is checked with some of them again.
        assert len(listed) <= 10
        assert took_s < (len(GRID) / MAX_FETCHES + 12) * LATENCY_S


async def test_directories_below(autojump_clock: MockClock) -> None:
    """4.5: the same for files before their directory's directories, depth first, as `os.walk` reads them."""
    paths = [f"{place}/f{number}" for place in ("a", "a/x", "a/y", "a/y/z", "b", "b/x", "c") for number in range(6)]
    async with world(sized(paths)) as made:
        await made.read_all(paths)
        await made.rest()
        assert sorted(made.shelf.asked_for) == sorted(paths)
        assert made.fetched_ahead > len(paths) // 2


async def test_the_same_name_in_each_directory(autojump_clock: MockClock) -> None:
    """4.5: `cat */metrics.json` is such an order, too; nothing else of the directories is fetched."""
    files = sized(
        f"g/d{directory:02d}/{name}" for directory in range(40) for name in ("a.txt", "metrics.json", "z.txt")
    )
    paths = [f"g/d{directory:02d}/metrics.json" for directory in range(30)]
    async with world(files) as made:
        await made.read_all(paths)
        await made.rest()
        assert made.fetched_ahead > 20
        assert {path.rpartition("/")[2] for path in made.shelf.asked_for} == {"metrics.json"}
        assert len(made.in_vain) <= len(paths)


async def test_two_directories_show_nothing(autojump_clock: MockClock) -> None:
    """4.5: a file of one directory, and then one of the next under another name."""
    async with world(sized(GRID)) as made:
        await made.read_all(["g/d0/f3", "g/d1/f5", "g/d2/f1"])
        await made.rest()
        assert not made.in_vain


async def test_several_threads(autojump_clock: MockClock) -> None:
    """4.5: threads of one program that overtake each other are as good as one."""
    async with world(sized(NAMES)) as made:
        todo = iter(NAMES)

        async def work() -> None:
            for path in todo:
                await made.read_all([path])

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(work)
        assert trio.current_time() - began < (len(NAMES) / MAX_FETCHES + 8) * LATENCY_S
        assert sorted(made.shelf.asked_for) == sorted(NAMES)


async def test_large_files_are_passed_over(autojump_clock: MockClock) -> None:
    """4.5: what a glance would not fetch whole is not fetched ahead; nor is what is empty, or of unknown size."""
    files: dict[str, int | None] = {}
    for number in range(30):
        files |= {f"d/{number:02d}a": 100, f"d/{number:02d}b": 5000, f"d/{number:02d}c": 0, f"d/{number:02d}d": 100}
    async with world(files) as made:
        await made.read_all([path for path in list(files)[:80] if (files[path] or 0) < 1000])
        await made.rest()
        assert made.fetched_ahead > 20
        assert all(files[path] == 100 for path in made.in_vain)


async def test_larger_files_that_are_read_whole(autojump_clock: MockClock) -> None:
    """4.5: files of up to a block are fetched ahead of a program that reads such files whole, and of no other."""
    files = sized(NAMES, 600)
    async with world(files) as made:
        for path in NAMES[:40]:
            assert await made.read(path, size=100) == made.shelf.files[path][:100]
        await made.rest()
        assert not made.in_vain
        before = made.shelf.peak
        assert before == 1
        await made.read_all(NAMES[40:])
        assert made.shelf.peak > MAX_FETCHES // 2
        assert not made.in_vain


async def test_no_room(autojump_clock: MockClock) -> None:
    """5.4: nothing is fetched ahead where that would delay a program, or near the rate limit."""
    async with world(sized(NAMES), room=False) as made:
        await made.read_all(sorted(NAMES)[:20])
        await made.rest()
        assert not made.in_vain
        assert not made.fetched_ahead
        assert made.shelf.peak == 1


async def test_a_slow_reader(autojump_clock: MockClock) -> None:
    """4.5: as much is fetched ahead as is read within seconds: what is older may have changed."""
    async with world(sized(NAMES)) as made:
        await made.read_all(sorted(NAMES)[:20], pause_s=2.0)
        assert len(made.in_vain) <= 4


async def test_a_deleted_file(autojump_clock: MockClock) -> None:
    """4.1: a file that is gone, or shorter than listed, is found out by its reader, as without all this."""
    async with world(sized(NAMES)) as made:
        paths = sorted(NAMES)
        del made.shelf.files[paths[10]]
        await made.read_all(paths[:10])
        await made.rest()
        with pytest.raises(FUSEError):
            await made.read(paths[10])
        await made.read_all(paths[11:])


@pytest.mark.parametrize("failure", [errors.ServerFailed("500", 500), errors.ConnectionLost("lost")])
async def test_failures_reach_no_reader(failure: Exception, autojump_clock: MockClock) -> None:
    """4.5: what fails ahead of its reader is asked for again by that, whenever it comes."""
    for pause_s in (0.0, 0.005, 0.05):
        async with world(sized(NAMES)) as made:
            paths = sorted(NAMES)
            made.shelf.refusals = {path: [failure] for path in paths[4:]}
            # The first request for a file fails: that of the reader only where none was sent ahead of it.
            for path in paths[:30]:
                if made.shelf.refusals.get(path) and path not in made.shelf.asked_for:
                    with pytest.raises(FUSEError):
                        await made.read(path)
                await made.read_all([path], pause_s)


async def test_failures_stop_it_for_a_while(autojump_clock: MockClock) -> None:
    """4.5: after a failure nothing is fetched ahead for a second, and longer with each further one."""
    async with world(sized(NAMES)) as made:
        paths = sorted(NAMES)
        made.shelf.refusals = {path: [errors.ServerFailed("500", 500)] * 9 for path in paths[20:]}
        await made.read_all(paths[:20])
        await made.rest()
        assert len(made.shelf.asked_for) <= 20 + MAX_FETCHES


async def test_a_run_that_goes_on(autojump_clock: MockClock) -> None:
    """4.5: there a file that was fetched ahead, and not read soon, is asked for again by its reader."""
    async with world(sized(NAMES), run=fakes.run(1)) as made:
        paths = sorted(NAMES)
        await made.read_all(paths[:20])
        assert sorted(made.shelf.asked_for[:20]) == paths[:20]
        await made.rest()
        assert made.in_vain
        for path in made.in_vain:
            made.shelf.files[path] = bytes(len(made.shelf.files[path]))
        await made.read_all(paths)


@pytest.mark.parametrize("granted", [True, False])
async def test_where_ranges_are_ignored(granted: bool, autojump_clock: MockClock) -> None:
    """4.2: the same where the server ignores ranges, and where the run goes on."""
    for run in (fakes.run(1), fakes.finished_run(1)):
        async with world(sized(NAMES), run=run, granted=granted) as made:
            await made.read_all(NAMES)
            assert sorted(made.shelf.asked_for) == sorted(NAMES)
            assert made.fetched_ahead > 80


async def test_another_account(autojump_clock: MockClock) -> None:
    """6.3: after a switch nothing that was fetched ahead is served, and reading goes on."""
    async with world(sized(NAMES)) as made:
        paths = sorted(NAMES)
        await made.read_all(paths[:30])
        made.contents.files.switch_account("site\0another")
        made.tree.switch_account("another")
        made.operations.switch_account()
        made.shelf.files = {path: bytes(len(data)) for path, data in made.shelf.files.items()}
        await made.read_all(paths[30:])
        await made.rest()
        await made.read_all(paths)


async def test_dropped_contents(autojump_clock: MockClock) -> None:
    """3.6: what was fetched ahead is dropped like all else, and asked for again."""
    async with world(sized(NAMES)) as made:
        paths = sorted(NAMES)
        await made.read_all(paths[:30])

        def is_meant(_place: bytes) -> bool:
            return True

        made.contents.files.drop(is_meant)
        await made.contents.keeper.delete(is_meant)
        made.shelf.files = {path: bytes(len(data)) for path, data in made.shelf.files.items()}
        await made.read_all(paths[30:])


async def test_a_request_that_stalls(autojump_clock: MockClock) -> None:
    """5.1: a stall ahead of a reader costs that reader no more than its own request would."""
    async with world(sized(NAMES)) as made:
        paths = sorted(NAMES)
        await made.read_all(paths[:10])
        made.shelf.latency_s = 25.0
        for path in paths[10:40]:
            began = trio.current_time()
            await made.read_all([path])
            assert trio.current_time() - began < 26.0


async def test_polling_shows_no_order(autojump_clock: MockClock) -> None:
    """4.5: the same files over and over count once."""
    async with world(sized(NAMES)) as made:
        paths = sorted(NAMES)
        for _ in range(20):
            await made.read_all([paths[0], paths[1]])
        await made.rest()
        assert len(made.in_vain) <= 2


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_reading(data: st.DataObject) -> None:
    """4.1, 4.3, 4.5: however a tree is read: all is right, each file is asked for once, less in vain than is read."""
    paths = [f"{place}f{number}" for place in ("", "a/", "a/x/", "b/", "b/x/", "c/") for number in range(12)]
    files: dict[str, int | None] = {path: data.draw(st.sampled_from([60, 100, 150, 200, 700, 0])) for path in paths}
    segment = st.builds(
        lambda start, count, step: paths[start::step][:count],
        st.integers(0, len(paths) - 1), st.integers(1, 20), st.sampled_from([1, 1, 1, 2, -1]),
    )  # fmt: skip
    segments = data.draw(st.lists(segment, min_size=1, max_size=8))
    pause_s = data.draw(st.sampled_from([0.0, 0.001, 0.3, 3.0]))
    at_once = data.draw(st.booleans())

    async def scene() -> None:
        async with world(files, granted=data.draw(st.booleans())) as made:
            async with trio.open_nursery() as nursery:
                for each in segments:
                    if at_once:
                        nursery.start_soon(made.read_all, each, pause_s)
                    else:
                        await made.read_all(each, pause_s)
            await made.rest()
            assert not made.asked_twice
            assert made.shelf.peak <= MAX_FETCHES + len(segments)
            assert len(made.in_vain) <= len(set(made.read_paths))
            ahead_bytes = sum(files[path] or 0 for path in made.in_vain)
            assert ahead_bytes <= sum(files[path] or 0 for path in set(made.read_paths)) + GLANCE

    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_in_vain_all_in_all(autojump_clock: MockClock) -> None:
    """4.5: a program that passes most files by has no more fetched in vain, all in all, than it reads."""
    paths = [f"d/f{number:03d}" for number in range(400)]
    read = [*paths[:4], *paths[4::8]]
    async with world({path: 200 if path in read else 10 for path in paths}) as made:
        await made.read_all(read, pause_s=0.05)
        await made.rest()
        assert 10 < len(made.in_vain) <= len(made.read_paths)


async def test_in_vain_by_bytes(autojump_clock: MockClock) -> None:
    """4.5: the same for bytes: tiny files that are read do not have larger ones fetched."""
    files: dict[str, int | None] = {f"d/f{number:02d}": 10 if number < 10 else 250 for number in range(40)}
    async with world(files) as made:
        await made.read_all(list(files)[:9])
        await made.rest()
        assert sum(files[path] or 0 for path in made.in_vain) <= 9 * 10 + GLANCE


async def test_what_is_left_behind_grows_old(autojump_clock: MockClock) -> None:
    """4.5: in a run that goes on, also while the program reads elsewhere: then its reader asks for it again."""
    paths = [f"{place}/f{number:02d}" for place in ("a", "b") for number in range(60)]
    async with world(sized(paths), run=fakes.run(1)) as made:
        await made.read_all(paths[60:66])
        ahead = [path for path in made.shelf.asked_for if path not in made.read_paths]
        await made.read_all(paths[:40], pause_s=0.5)
        assert ahead
        for path in ahead:
            made.shelf.files[path] = bytes(len(made.shelf.files[path]))
        await made.read_all(ahead)
