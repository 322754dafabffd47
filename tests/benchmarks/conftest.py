"""Micro-benchmarks: hot paths by themselves, below the kernel and the network.

`make bench` times them at full size, with pytest-benchmark. In every other run of the tests each is called once, at a
size that costs nothing, so that it does not rot; nothing is timed then, and pytest-benchmark need not be there.
"""

import gc
import threading
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
import trio

T = TypeVar("T")


def is_timed(config: pytest.Config) -> bool:
    """Whether this run is there to take times: pytest-benchmark's option says so."""
    return bool(config.getoption("benchmark_enable", default=False))


class Measure:
    """Times a call, or makes it once where nothing is timed. One to a test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self.timed = is_timed(request.config)

    def __call__(
        self,
        call: Callable[..., T],
        *,
        setup: Callable[[], tuple[Any, ...]] = lambda: (),
        rounds: int = 20,
        entries: int = 0,
        size_bytes: int = 0,
        memory: bool = False,
    ) -> T:
        """Return what `call(*setup())` returned last; `setup` is not timed.

        `entries` or `size_bytes`: what one call gets through, for a figure per entry or second. `memory`: also take
        what is allocated by the end of one more call and still held.
        """
        if not self.timed:
            return call(*setup())
        # Asked for here, not as an argument: without the plugin there is no such fixture.
        benchmark = self._request.getfixturevalue("benchmark")
        result: T = benchmark.pedantic(call, setup=lambda: (setup(), {}), rounds=rounds, warmup_rounds=1)
        said = self._request.function.__doc__ or self._request.node.name
        told = {"what": said.partition("\n")[0].rstrip("."), "entries": entries, "size_bytes": size_bytes}
        if memory:
            told["held_bytes"] = _held_bytes(call, setup())
        benchmark.extra_info.update(told)
        return result


def _held_bytes(call: Callable[..., object], arguments: tuple[Any, ...]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        # Held by this name until it was looked at.
        result = call(*arguments)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return held


class Loop:
    """A trio loop in a thread of its own: what a round needs (a tree, its nursery) outlives the round.

    A round costs two changes of threads besides, some 0.1 ms: let it do some milliseconds of work.
    """

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="loop")
        self._thread.start()
        self._begun.wait()

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._begun.set()
            await trio.sleep_forever()

    def run(self, call: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Return what an async function returns, once it has."""
        return trio.from_thread.run(call, *arguments, trio_token=self._token)

    def close(self) -> None:
        trio.from_thread.run_sync(self.nursery.cancel_scope.cancel, trio_token=self._token)
        self._thread.join()


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    return Measure(request)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def entries(measure: Measure) -> int:
    """How many entries the directory has."""
    return 10_000 if measure.timed else 100


@pytest.fixture
def mebibytes(measure: Measure) -> int:
    """The size of the file that is read."""
    return 64 if measure.timed else 2
