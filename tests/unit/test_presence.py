"""artifactfs.mount.presence: a look at the mount table that fails ends no mount, and does not go round and round."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator

import pytest
import trio
from trio.testing import MockClock

from artifactfs.mount import mount_table, presence

# What a look may end with: no memory, no descriptor, /proc is gone, a row that nothing prepared for.
FAILURES = [MemoryError(), OSError(24, "Too many open files"), OSError(12, "x"), ValueError("x"), IndexError("x")]


class Table:
    """A mount table of the test's: the results of looks at it, the last for ever; and whether it changes meanwhile."""

    def __init__(self, *looks: bool | Exception, changing: int = 0, opening: int = 0) -> None:
        self.looks, self.changing, self.opening = list(looks), changing, opening
        self.tries = 0
        self.event = os.eventfd(0, os.EFD_NONBLOCK)

    def change(self) -> None:
        os.eventfd_write(self.event, 1)

    def __call__(self) -> "Table":
        self.tries += 1
        if self.opening > 0:
            self.opening -= 1
            raise OSError(28, "No space left on device")  # epoll(7), max_user_watches
        return self

    def fileno(self) -> int:
        return self.event

    def has(self, _device: str) -> bool:
        self.tries += 1
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        return look

    def changed(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self.event) > 0
        self.changing -= 1
        return self.changing >= 0

    def close(self) -> None:
        return


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Table], Table]]:
    events = []

    def give(made: Table) -> Table:
        monkeypatch.setattr(mount_table, "Watch", made)
        events.append(made.event)
        return made

    yield give
    for event in events:
        os.close(event)


async def ended() -> float:
    """Watch until the mount is asked to end; returns how long that took, in seconds of the clock."""
    calls = 0

    async def end() -> None:
        nonlocal calls
        await trio.lowlevel.checkpoint()
        calls += 1

    began = trio.current_time()
    await presence.end_when_unmounted("0:50", end)
    assert calls == 1
    return trio.current_time() - began


async def test_gone(given: Callable[[Table], Table], autojump_clock: MockClock) -> None:
    """A mount that is gone is ended at once."""
    given(Table(False))
    assert await ended() == 0


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_looks_that_fail(
    failure: Exception, given: Callable[[Table], Table], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """5.5: a look that fails is tried again, seldom, and said; the mount ends when one has found it gone."""
    caplog.set_level(logging.WARNING)
    made = given(Table(*[failure] * 8, False))
    assert await ended() > 30
    assert made.tries == 2 * 9
    assert len(caplog.records) == 8
    assert all("the mount table cannot be read" in record.getMessage() for record in caplog.records)


async def test_looks_that_always_fail(given: Callable[[Table], Table], autojump_clock: MockClock) -> None:
    """5.5: nothing ends, and it costs next to nothing."""
    made = given(Table(OSError(12, "Cannot allocate memory")))
    with trio.move_on_after(3600) as hour:
        await ended()
    assert hour.cancelled_caught
    assert made.tries < 1000


async def test_a_table_that_cannot_be_watched(given: Callable[[Table], Table], autojump_clock: MockClock) -> None:
    """Where the kernel does not tell of changes, the table is looked at now and then."""
    given(Table(False, opening=5))
    assert await ended() > 10


async def test_changes_of_others(given: Callable[[Table], Table], autojump_clock: MockClock) -> None:
    """Each is a look, many at once are one, and none of them ends anything."""
    made = given(Table(True))
    with trio.fail_after(4000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended)
            for _ in range(100):
                made.change()
                await trio.sleep(0.001)
            await trio.sleep(10)
            looks = made.tries
            await trio.sleep(3600)
            assert made.tries == looks <= 6
            made.looks = [False]
            made.change()


async def test_a_row_that_is_missed(given: Callable[[Table], Table], autojump_clock: MockClock) -> None:
    """5.5: a table that changed while it was read may lack our row, and is read again."""
    made = given(Table(False, True, changing=1))
    with trio.move_on_after(10) as scope:
        await ended()
    assert scope.cancelled_caught
    assert made.tries == 3


@pytest.mark.parametrize("failure", [OSError(24, "x"), MemoryError()], ids=repr)
def test_the_first_and_the_last_look(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """5.5: a mount table that cannot be read when a mount begins or ends breaks neither."""

    def fail(*_: object) -> list[mount_table.Mount]:
        raise failure

    ours = mount_table.Mount("0:50", "/mnt", mount_table.FUSE_TYPE, "x")
    monkeypatch.setattr(mount_table, "mounts", fail)
    monkeypatch.setattr("artifactfs.fuse.kernel_dentries.is_connected", lambda: True)
    assert presence.own_row("/mnt") is None
    assert presence.take_away("/mnt", None) is True
    assert presence.take_away("/mnt", ours) is True


def test_what_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place of ours but its own, which is the caller's; not what is below one, nor what others have mounted."""
    ours = mount_table.Mount("0:50", "/mnt", mount_table.FUSE_TYPE, "x")
    rows = [
        ours,
        mount_table.Mount("0:50", "/part", mount_table.FUSE_TYPE, "x", root="/runs/1"),
        mount_table.Mount("0:50", "/mnt/runs/2", mount_table.FUSE_TYPE, "x", root="/runs/1"),
        mount_table.Mount("0:51", "/other", mount_table.FUSE_TYPE, "x"),
    ]
    gone: list[str] = []
    monkeypatch.setattr(mount_table, "mounts", lambda *_: rows)
    monkeypatch.setattr(mount_table, "unmount", lambda point, lazy: gone.append(point) if lazy else "not lazy")
    monkeypatch.setattr("artifactfs.fuse.kernel_dentries.is_connected", lambda: True)
    assert presence.take_away("/mnt", ours) is True
    assert gone == ["/part"]
    # Something else lies on it, or it was moved.
    rows.append(mount_table.Mount("0:52", "/mnt", "tmpfs", "none"))
    assert presence.take_away("/mnt", ours) is False
    # The kernel has ended it, and another may have its number.
    gone.clear()
    monkeypatch.setattr("artifactfs.fuse.kernel_dentries.is_connected", lambda: False)
    assert presence.take_away("/mnt", ours) is False
    assert gone == []
