"""The reader under anything that a server does: every read is right or fails, nothing hangs, nothing is left over."""

import dataclasses
import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from artifactfs import errors
from tests.content_harness import BLOCK, Bench, Server, bench, noise


@dataclass(frozen=True)
class Plan:
    """What a test draws. `reads`: of each handle, (offset, size, seconds before it)."""

    size: int
    knows_size: bool
    granted: bool
    told: bool
    chunk: int
    pool_blocks: int
    budget_blocks: int
    cache_bytes: int | None
    is_saturated: bool
    validators: str
    reads: tuple[tuple[tuple[int, int, float], ...], ...]
    seed: int


def plans(max_size: int = 40 * BLOCK) -> st.SearchStrategy[Plan]:
    read = st.tuples(st.integers(0, max_size + 10), st.integers(1, 4 * BLOCK), st.sampled_from([0.0, 0.0, 0.3, 40.0]))
    sequential = st.builds(
        lambda start, step, count: tuple((start + step * i, step, 0.0) for i in range(count)),
        st.integers(0, max_size),
        st.integers(100, 1500),
        st.integers(1, 40),
    )
    # Runs at equal distances, also backwards.
    strided = st.builds(
        lambda start, step, size, count: tuple((max(0, start + step * i), size, 0.0) for i in range(count)),
        st.integers(0, max_size),
        st.integers(-4 * BLOCK, 4 * BLOCK),
        st.integers(1, 2 * BLOCK),
        st.integers(3, 40),
    )
    handle = st.one_of(st.lists(read, min_size=1, max_size=12).map(tuple), sequential, strided)
    return st.builds(
        Plan,
        size=st.one_of(st.integers(0, 3 * BLOCK), st.integers(0, max_size)),
        knows_size=st.booleans(),
        granted=st.booleans(),
        told=st.booleans(),
        chunk=st.sampled_from([1, 100, 700, BLOCK]),
        # At least what one chunk may complete, and what waits beside it.
        pool_blocks=st.sampled_from([4, 8, 64]),
        budget_blocks=st.sampled_from([1, 4, 64]),
        cache_bytes=st.sampled_from([None, 0, 20 << 10, 1 << 30]),
        is_saturated=st.booleans(),
        validators=st.sampled_from(["none", "strong", "noise"]),
        reads=st.lists(handle, min_size=1, max_size=4).map(tuple),
        seed=st.integers(0, 1 << 30),
    )


def validators(plan: Plan) -> Callable[[], bytes | None]:
    counter = itertools.count()
    return {
        "none": lambda: None,
        "strong": lambda: b"A" * 16,
        "noise": lambda: next(counter).to_bytes(16, "big"),
    }[plan.validators]


def server_of(plan: Plan) -> Server:
    return Server(
        noise(plan.size),
        granted=plan.granted,
        told=plan.told,
        chunk=max(plan.chunk, plan.size // 500),
        validator=validators(plan),
        is_saturated=plan.is_saturated,
    )


def play(plan: Plan, server: Server, scene: Callable[[Bench], object]) -> None:
    """Run a scene on a bench under a clock that jumps; one that hangs fails."""

    async def run() -> None:
        with trio.fail_after(20_000):
            async with bench(
                server,
                directory=directory if plan.cache_bytes is not None else None,
                pool=plan.pool_blocks * BLOCK,
                budget=plan.budget_blocks * BLOCK,
                cache=plan.cache_bytes or 0,
            ) as made:
                await scene(made)  # type: ignore[misc]  # a coroutine function

    directory = tempfile.mkdtemp(prefix="artifactfs-test-")
    try:
        trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        shutil.rmtree(directory)


async def reading(
    made: Bench, plan: Plan, reads: tuple[tuple[int, int, float], ...], versions: list[bytes], may_fail: bool
) -> None:
    """Read through one handle, and hold every answer against the versions that it may be of."""
    possible = list(versions)
    try:
        handle = await made.open(plan.size if plan.knows_size else None)
    except errors.ArtifactfsError:
        assert may_fail
        return
    try:
        for offset, size, pause_s in reads:
            await trio.sleep(pause_s)
            try:
                found = bytes(await handle.read(offset, size))
            except errors.ArtifactfsError:
                assert may_fail
                continue
            assert len(found) <= size
            possible = [data for data in possible if data[offset : offset + size] == found]
            assert possible, f"wrong bytes at {offset}, {size}: {len(found)} of them"
    finally:
        handle.close()


# Each answer has another validator, and none tells the size: nothing of that says that the file is another one.
NOTHING_TOLD = Plan(
    size=257,
    knows_size=False,
    granted=True,
    told=False,
    chunk=1,
    pool_blocks=4,
    budget_blocks=1,
    cache_bytes=None,
    is_saturated=False,
    validators="noise",
    reads=(((0, 100, 0.0), (100, 100, 0.0), (200, 100, 0.0)),),
    seed=0,
)


@settings(max_examples=150)
@given(plan=plans())
@example(plan=NOTHING_TOLD)
def test_every_read_is_right(plan: Plan) -> None:
    """4.1, 4.2: from a server that does what it says, in whatever form, every read by every handle is right."""
    server = server_of(plan)

    async def scene(made: Bench) -> None:
        async with trio.open_nursery() as nursery:
            for reads in plan.reads:
                nursery.start_soon(reading, made, plan, reads, [server.data], False)

    play(plan, server, scene)


@settings(max_examples=200)
@given(plan=plans(), data=st.data())
def test_every_read_is_right_or_fails(plan: Plan, data: st.DataObject) -> None:
    """4.1: bodies that break off, end early, are too long, fail or stall: a read is right, or it fails; never short."""
    server = server_of(plan)
    some = st.lists(st.one_of(st.none(), st.integers(0, plan.size)), max_size=12)
    server.cuts = data.draw(some)
    server.ends = data.draw(some)
    failure = st.sampled_from(
        [None, None, errors.ServerFailed("500", 500), errors.TimedOut("slow"), errors.UnexpectedAnswer("odd")]
    )
    server.failures = data.draw(st.lists(failure, max_size=5))
    server.extra = data.draw(st.sampled_from([b"", b"", b"x", b"y" * 3000]))
    server.pause_s = data.draw(st.sampled_from([0.0, 0.01, 45.0]))
    versions = [server.data]
    # A file that ends early, or has more in it, looks like one of that size.
    if not plan.knows_size and not plan.granted:
        versions += [server.data + server.extra]
        if not plan.told:
            versions += [(server.data + server.extra)[:at] for at in server.ends if at is not None]

    async def scene(made: Bench) -> None:
        async with trio.open_nursery() as nursery:
            for reads in plan.reads:
                nursery.start_soon(reading, made, plan, reads, versions, True)

    play(plan, server, scene)


@settings(max_examples=200)
@given(plan=plans(), data=st.data())
def test_one_handle_reads_one_version(plan: Plan, data: st.DataObject) -> None:
    """4.1: a file that changes while it is read, in size or by its validator: no handle sees two versions."""
    server = server_of(plan)
    old = server.data
    same_size = data.draw(st.booleans())
    new = noise(plan.size if same_size else data.draw(st.integers(0, 40 * BLOCK)), seed=1)
    at_answer = data.draw(st.integers(0, 10))
    server.cuts = data.draw(st.lists(st.one_of(st.none(), st.integers(0, plan.size)), max_size=6))
    # A change of size must be seen by size, one within it by its validator.
    server.told = True

    def change(number: int) -> None:
        if number == at_answer:
            server.data = new
            server.validator = lambda: b"B" * 16

    server.before_answer = change
    server.validator = lambda: b"A" * 16

    async def scene(made: Bench) -> None:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for reads in plan.reads:
                    nursery.start_soon(reading, made, plan, reads, [old, new], True)
        # A caller that opens it then reads one of them, once what was remembered of the other is out of the way.
        for attempt in range(3):
            handle = await made.open(len(server.data))
            try:
                assert await made.read_whole(handle) in (old, new)
                break
            except errors.ArtifactfsError:
                assert attempt < 2
            finally:
                handle.close()

    play(plan, server, scene)


@settings(max_examples=150)
@given(plan=plans())
def test_no_byte_is_fetched_twice(plan: Plan) -> None:
    """4.3: as long as a file is open and the cache has room, each byte of it is asked for once at most."""
    plan = dataclasses.replace(plan, knows_size=True, granted=True, told=True, validators="none", cache_bytes=1 << 30)
    server = server_of(plan)

    async def scene(made: Bench) -> None:
        kept_open = await made.open(plan.size)
        async with trio.open_nursery() as nursery:
            for reads in plan.reads:
                nursery.start_soon(reading, made, plan, reads, [server.data], False)
        kept_open.close()

    play(plan, server, scene)
    asked = sorted(server.asked)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(asked)), asked
