"""The workers that receive requests: what a lack of memory does to them, with a binding that is played."""

import errno
from collections.abc import Awaitable, Callable

import pyfuse3
import pytest
import trio
import trio.testing

from artifactfs.fuse.request_loop import RequestLoop

Script = Callable[[], Awaitable[None]]


class Binding:
    """pyfuse3's loop as far as the receiver sees it: `requests` come in, `fails` are raised in place of taking one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, requests: int) -> None:
        self.left = requests
        self.fails: list[BaseException] = []
        self.begun = 0
        for name, made in (
            ("_session_loop", self.worker),
            ("_wait_fuse_readable", self.readable),
            ("main", self.main),
        ):
            monkeypatch.setattr(pyfuse3, name, made, raising=False)

    async def main(self, idle_workers: int, max_workers: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vars(pyfuse3)["_session_loop"], nursery, idle_workers, max_workers)

    async def worker(self, nursery: trio.Nursery, idle_workers: int, max_workers: int) -> None:
        self.begun += 1
        while await vars(pyfuse3)["_wait_fuse_readable"]():
            if self.fails:
                raise self.fails.pop(0)
            self.left -= 1

    async def readable(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.left > 0


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOMEM, "x"), OSError(errno.ENFILE, "x"), OSError(errno.EMFILE, "x"), MemoryError()],
    ids=["ENOMEM", "ENFILE", "EMFILE", "MemoryError"],
)
async def test_a_worker_that_fails_for_a_lack_begins_again(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A worker that cannot receive for a lack that passes pauses, and takes all requests."""
    binding = Binding(monkeypatch, requests=3)
    binding.fails = [failure] * 50
    await RequestLoop(lambda: True).main(1, 1)
    assert (binding.left, binding.begun) == (0, 51)
    assert trio.current_time() >= 1.0


async def test_another_failure_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the kernel's that does not pass ends the loop, as before."""
    binding = Binding(monkeypatch, requests=1)
    binding.fails = [OSError(errno.ECONNABORTED, "x")]
    with pytest.raises(ExceptionGroup) as raised:
        await RequestLoop(lambda: True).main(1, 1)
    assert raised.group_contains(OSError)


async def test_no_request_is_taken_without_room(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A worker without a buffer takes nothing before there is memory; one that has its buffer asks no more."""
    binding = Binding(monkeypatch, requests=3)
    asked: list[int] = []

    def has_room() -> bool:
        asked.append(binding.left)
        return len(asked) > 20

    await RequestLoop(has_room).main(1, 1)
    assert binding.left == 0
    assert asked == [3] * 21


async def test_the_binding_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for the binding's own workers is gone with the mount."""
    binding = Binding(monkeypatch, requests=1)
    await RequestLoop(lambda: True).main(1, 1)
    assert vars(pyfuse3)["_session_loop"] == binding.worker
    assert vars(pyfuse3)["_wait_fuse_readable"] == binding.readable
    assert vars(pyfuse3)["trio"] is trio
