"""artifactfs.fuse.barging_lock: who has it, and in how many turns of the loop."""

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from artifactfs.fuse.barging_lock import BargingLock


async def test_the_worker_that_comes_back_in_the_same_turn_has_it_again() -> None:
    """Workers that wait are not woken while one of them answers each request in the turn in which it came."""
    lock, log = BargingLock(), []

    async def worker(name: str, turns: int) -> None:
        for _ in range(turns):
            async with lock:
                log.append(name)
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(worker, name, 5)
    assert len(log) == 15
    assert [log[0], log[5], log[10]] == [log[4], log[9], log[14]]


async def test_another_has_it_while_a_worker_waits_for_something_else() -> None:
    """The next turn of the loop is another worker's, where the one that had the lock does not come back."""
    lock, go_on, log = BargingLock(), trio.Event(), []

    async def worker(name: str) -> None:
        async with lock:
            log.append(name)
        await go_on.wait()
        async with lock:
            log.append(name)

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(worker, name)
        await wait_all_tasks_blocked()
        assert sorted(log) == ["a", "b", "c"]
        go_on.set()
    assert sorted(log[3:]) == ["a", "b", "c"]


async def test_a_free_lock_costs_no_turn() -> None:
    """A lock that no other worker waits for is taken without a checkpoint."""
    lock = BargingLock()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with lock:
            pass
        async with lock:
            pass
    assert not scope.cancelled_caught


async def test_a_call_that_was_heard_already_is_withdrawn() -> None:
    """A worker that was woken, and finds that another was quicker, waits again, and is called again."""
    lock, other, log = BargingLock(), trio.Event(), []

    async def first() -> None:
        async with lock:
            await wait_all_tasks_blocked()
        # Woken in the same turn as the worker that is called.
        await trio.lowlevel.checkpoint()
        async with lock:
            log.append("first")
            await other.wait()

    async def second() -> None:
        async with lock:
            log.append("second")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)
        await wait_all_tasks_blocked(0.01)
        other.set()
    assert sorted(log) == ["first", "second"]


async def test_a_worker_that_is_cancelled_passes_its_call_on() -> None:
    """The lock is not lost with a worker that is cancelled when it is called."""
    lock, log = BargingLock(), []
    scopes = [trio.CancelScope() for _ in range(3)]

    async def worker(number: int) -> None:
        with scopes[number]:
            async with lock:
                log.append(number)

    async with trio.open_nursery() as nursery:
        async with lock:
            for number in range(3):
                nursery.start_soon(worker, number)
            await wait_all_tasks_blocked()
            scopes[2].cancel()
        scopes[1].cancel()
    assert 0 in log


async def test_a_lack_of_memory_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that could not be woken for lack of memory is woken at the next step of the one that is busy."""
    lock, has_failed = BargingLock(), False
    reschedule = trio.lowlevel.reschedule

    def failing(task: trio.lowlevel.Task) -> None:
        nonlocal has_failed
        if not has_failed:
            has_failed = True
            raise MemoryError
        reschedule(task)

    async def worker() -> None:
        async with lock:
            pass

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            async with lock:
                nursery.start_soon(worker)
                await wait_all_tasks_blocked()
                monkeypatch.setattr(trio.lowlevel, "reschedule", failing)
            await trio.lowlevel.checkpoint()
            assert has_failed
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("seed", range(20))
async def test_one_at_a_time_and_none_is_forgotten(seed: int) -> None:
    """Whatever workers do, one has the lock, and each comes to have it."""
    rng, lock = random.Random(seed), BargingLock()
    held = 0
    taken = [0] * 6

    async def worker(number: int) -> None:
        nonlocal held
        while taken[number] < 20:
            with trio.CancelScope() as scope:
                if rng.random() < 0.2:
                    scope.cancel()
                async with lock:
                    held += 1
                    assert held == 1
                    taken[number] += 1
                    try:
                        for _ in range(rng.randrange(3)):
                            await trio.lowlevel.cancel_shielded_checkpoint()
                    finally:
                        held -= 1
            for _ in range(rng.randrange(4)):
                await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(worker, number)
    assert min(taken) == 20
