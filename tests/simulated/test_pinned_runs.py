"""What is pinned follows the service: mounts without a kernel, the emulator and a disk, on a virtual clock."""

import logging
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.block_store import BlockStore
from artifactfs.pins import Pin
from artifactfs.tree.nodes import ArtifactFile
from tests.simulated.pinned_world import LATER_S, MIB, NOW_S, OTHER, RUN, SITE, World


@pytest.fixture
def caplog_info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "artifactfs.mount.pinned_runs")
    return caplog


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name.endswith("pinned_runs") and each.levelno > 20]


@pytest.mark.parametrize("switches", [{}, {"etag": "strong"}, {"index": "404"}], ids=str)
@pytest.mark.parametrize("status", ["completed", "running"])
async def test_a_run_that_changes_is_fetched(
    status: str, switches: dict[str, str], tmp_path: Path, autojump_clock: MockClock
) -> None:
    """8.8: files that are new, replaced, larger or gone, once a listing of the run shows any of that."""
    world = World(tmp_path, status, **switches)
    world.pin()
    await world.keep()
    async with world.mount() as mounted:
        await mounted.look()
        before = mounted.pinned
        world.files.add("d/new/f.bin", MIB)
        world.files.change("a.txt", size=5)
        world.files.change("d/big.bin", size=2 * MIB)
        world.files.remove("d/e/c.bin")
        world.change_run(updated_at="2026-05-20T09:10:00Z")
        await mounted.look()
        await trio.sleep(30.0)
        kept = await before.look(await before.find(RUN, ""), 20.0)
        assert (kept.kept_files, kept.files) == (4, 4)
        count = world.content_bytes
        assert await mounted.read_all() == world.truth()
        # Of a run that goes on, heads are compared.
        assert world.content_bytes - count <= (0 if status == "completed" else 4 * (128 << 10))
    if status == "completed":
        await world.check_is_here()


@pytest.mark.parametrize("is_shared", [False, True])
async def test_older_versions_leave_the_disk(is_shared: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.8: no eviction would take them. What lies beside the pin, or may be of another account, is left alone."""
    world = World(tmp_path)
    world.pin("d")
    if is_shared:
        world.pin("d/e", owner=f"{SITE}\0=you")
    await world.keep()
    store = BlockStore(str(tmp_path), max_bytes=1 << 30, min_free_bytes=0)
    held = store.usage().files
    async with world.mount() as mounted:
        await mounted.look()
        world.files.change("d/big.bin", size=MIB)
        world.files.remove("d/e/c.bin")
        world.change_run(updated_at="2026-05-20T09:10:00Z")
        await mounted.look()
        await trio.sleep(30.0)
    # The larger one is replaced, and the other gone.
    assert store.usage().files == held + (1 if is_shared else -1)
    places = {place.decode().split("\0")[1] for place in store.bytes_by_place()}
    assert places == {f"{RUN}/a.txt", f"{RUN}/d/big.bin", *([f"{RUN}/d/e/c.bin"] if is_shared else [])}


@pytest.mark.parametrize("pinned", ["nothing", "another run", "another account", "a place beside"])
async def test_what_is_not_pinned_is_not_fetched(pinned: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.8: nor listed."""
    world = World(tmp_path)
    if pinned == "another run":
        world.pins.add(Pin(SITE, "=me", OTHER, "", NOW_S, is_settled=True))
    elif pinned == "another account":
        world.pin(owner=f"{SITE}\0=you")
    elif pinned == "a place beside":
        world.pin("a.txt")
    await world.keep()
    async with world.mount() as mounted:
        await mounted.look()
        world.files.change("d/big.bin", size=MIB)
        world.change_run(updated_at="2026-05-20T09:10:00Z")
        await mounted.look()
        await trio.sleep(LATER_S)
        # A place beside is looked at again: its file was fetched at another time of the run.
        assert world.requests("content") == (pinned == "a place beside")


async def test_it_waits_for_room(tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.8: while programs need the service, nothing is asked of it; then it goes on."""
    world = World(tmp_path)
    world.pin()
    await world.keep()
    async with world.mount() as mounted:
        await mounted.look()
        world.files.change("a.txt", size=5)
        world.has_room = lambda: False
        await mounted.look()
        count = world.requests("content"), world.requests("listing")
        await trio.sleep(LATER_S)
        assert (world.requests("content"), world.requests("listing")) == count
        world.has_room = lambda: True
        await trio.sleep(30.0)
        assert world.requests("content") > 0
    await world.check_is_here()


async def test_failures_are_logged_once(
    tmp_path: Path, autojump_clock: MockClock, caplog_info: pytest.LogCaptureFixture
) -> None:
    """8.8: and what failed is tried again until it succeeds."""
    world = World(tmp_path)
    world.pin()
    await world.keep()
    async with world.mount() as mounted:
        await mounted.look()
        world.files.change("a.txt", size=5)
        world.fault({"match": {"kind": "content"}, "then": {"status": 403}})
        await mounted.look()
        await trio.sleep(LATER_S)
        (said,) = warnings(caplog_info)
        assert said.startswith("/runs/7 is pinned and has changed, and not all of it could be fetched: /runs/7/a.txt: ")
        world.fault()
        await trio.sleep(LATER_S)
        assert len(warnings(caplog_info)) == 1
    await world.check_is_here()


async def test_a_run_that_is_gone(
    tmp_path: Path, autojump_clock: MockClock, caplog_info: pytest.LogCaptureFixture
) -> None:
    """8.8: that is logged once, and what is here of it stays."""
    world = World(tmp_path)
    world.pin("d")
    await world.keep()
    store = BlockStore(str(tmp_path), max_bytes=1 << 30, min_free_bytes=0)
    held = store.usage()
    async with world.mount() as mounted:
        await mounted.look()
        for path in ("d/big.bin", "d/e/c.bin", "d/e", "d"):
            world.files.remove(path)
        await mounted.look()
        await trio.sleep(LATER_S)
        with pytest.raises(errors.NoSuchEntry):
            await mounted.pinned.find(RUN, "d")
        (said,) = warnings(caplog_info)
        assert said == "/runs/7/d is pinned, and gone from the service; the cache keeps what it has of it"
    assert store.usage() == held


@pytest.mark.parametrize("switches", [{}, {"etag": "strong"}], ids=str)
async def test_a_run_that_ends_while_it_is_pinned(
    switches: dict[str, str], tmp_path: Path, autojump_clock: MockClock
) -> None:
    """8.8: once it is settled all of it is here for good; the next mount asks for nothing of it."""
    world = World(tmp_path, "running", **switches)
    world.pin(is_settled=False)
    await world.keep()
    async with world.mount() as mounted:
        await mounted.look()
        ended = "2026-06-01T00:02:00Z"
        world.change_run(status="completed", completed_at=ended, updated_at=ended)
        await trio.sleep(200.0)
        await mounted.look()
        await trio.sleep(LATER_S)
    assert [pin.is_settled for pin in world.pins.load()] == [True]
    await world.check_is_here()


async def test_a_run_that_was_not_over_is_looked_at_later(tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.8: by the next mount, as it may have changed while nothing was mounted. One that was over is not."""
    world = World(tmp_path)
    world.pin(is_settled=False)
    await world.keep()
    world.files.change("a.txt", size=5)
    world.change_run(updated_at="2026-05-20T09:10:00Z")
    async with world.mount():
        await trio.sleep(LATER_S)
        assert world.requests("content") > 0
    await world.check_is_here()
    async with world.mount():
        await trio.sleep(LATER_S)
        assert world.requests("run") == 0


async def test_a_run_that_changes_all_the_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.8: it is listed again once a minute at most, however often it changes."""
    world = World(tmp_path, "running", index="404")
    world.pin(is_settled=False)
    await world.keep()
    async with world.mount() as mounted:
        await mounted.look()
        for _ in range(300):
            world.files.append("a.txt", 1)
            await mounted.look()
            await trio.sleep(1.0)
        seen = world.requests("listing")
        # The root each second, and three directories of a pass each minute.
        assert seen <= 301 + 3 * 6


async def test_a_pin_of_a_running_mount(tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.8: what is pinned while a mount lives is followed as soon as it is said, or found in the list."""
    world = World(tmp_path)
    for said in (True, False):
        await world.keep()
        async with world.mount() as mounted:
            await mounted.look()
            await trio.sleep(1.0)
            world.pin()
            if said:
                mounted.runs.look_again()
                await trio.sleep(1.0)
            else:
                await trio.sleep(70.0)
            world.files.change("d/big.bin", size=2 * MIB if said else 3 * MIB)
            world.change_run(updated_at=f"2026-05-2{int(said)}T09:10:00Z")
            await mounted.look()
            await trio.sleep(30.0)
            assert world.requests("content") > 0
        await world.check_is_here()
        world.pins.remove(lambda _pin: True)


async def test_a_file_that_grew_before_its_run_ended(tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.8: it is under the key of its last size then, by which another mount looks for it."""
    world = World(tmp_path, "running", etag="strong")
    world.pin(is_settled=False)
    async with world.mount() as mounted:
        await mounted.read_all()
        world.files.append("a.txt", 500)
        await mounted.look()
        assert await mounted.read_all() == world.truth()
        ended = "2026-06-01T00:02:00Z"
        world.change_run(status="completed", completed_at=ended, updated_at=ended)
        await trio.sleep(200.0)
        await mounted.look()
        file = await mounted.pinned.find(RUN, "a.txt")
        assert isinstance(file, ArtifactFile)
        await trio.sleep(LATER_S)
        await mounted.look()
        version = await mounted.tree.locate_content(file)
        assert (version.settled, version.size_bytes) == (True, 510)
        assert await mounted.files.kept_bytes(version) == 510
        assert await mounted.read_all() == world.truth()
