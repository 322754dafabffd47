"""5.1, simulated: a service with sick objects serves all others at once; a dead one is waited for once.

The parts of a mount that ask the service, on a virtual clock, and a service that is a function of the target. Sick
objects are asked for again and again, each by a program of its own; others rarely, or often.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ArtifactRef
from artifactfs.modellab.circuit_breaker import PROBE_INTERVAL_S, CircuitBreaker
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.liveness import Liveness
from artifactfs.modellab.rate_limits import RateLimits
from artifactfs.modellab.transport import Transport
from tests.transports import KEYS

SIZE = 100_000
BUCKET = "https://bucket.test"
# An answer may take so long on top of the service's own time: the places that sick objects hold are not all.
AT_ONCE_S = 0.01
AGAIN_S = 0.25


class Body(httpx.AsyncByteStream):
    """Pieces with pauses before them; nothing comes in time where one is longer than the request may wait."""

    def __init__(self, request: httpx.Request, pieces: Iterable[tuple[float, bytes]]) -> None:
        self._read_s: float = request.extensions["timeout"]["read"]
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for pause_s, piece in self._pieces:
            await trio.sleep(min(pause_s, self._read_s))
            if pause_s >= self._read_s:
                raise httpx.ReadTimeout("nothing came")
            yield piece


FOREVER_S = 1e6
# How a sick object is answered: seconds to the head as a share of the deadline, a status, and the body's pieces.
FORMS: dict[str, tuple[float, int, list[tuple[float, bytes]]]] = {
    "no head": (FOREVER_S, 200, []),
    "late head": (1.5, 200, [(0, bytes(SIZE))]),
    "late failure": (1.5, 500, []),
    "no body": (0.01, 200, [(FOREVER_S, b"x")]),
    "half a body": (0.01, 200, [(0, bytes(SIZE // 2)), (FOREVER_S, b"x")]),
    "a drip": (0.01, 200, [(0.1, b"x")] * SIZE),
    "failure": (0.01, 500, []),
    "lost": (0.01, 0, []),
}
# Those of which nothing comes any more once the service is dead: a drip is a sign of life.
SILENT_FORMS = ["no head", "no body", "half a body", "failure", "lost"]


class Service:
    """Answers by what the target's name says: `<form>-<number>`, or `well-<number>`."""

    def __init__(self, deadline_s: float, latency_s: float) -> None:
        self.deadline_s = deadline_s
        self.latency_s = latency_s
        self.dead = False
        # Of contents alone, nothing comes.
        self.dead_contents = False
        self.asked = 0
        # Whether content is where a redirect leads.
        self.redirects = False

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        target = request.url.params.get("artifact_path") or request.url.path.rpartition("/")[2]
        stored = request.url.host == "bucket.test" if self.redirects else "content" in request.url.path
        if self.dead or (self.dead_contents and stored):
            await trio.sleep_forever()
        if self.redirects and "content" in request.url.path:
            await self._take_time()
            return httpx.Response(302, headers={"Location": f"{BUCKET}/{target}?signature={self.asked}"})
        form = target.partition("-")[0].replace("_", " ")
        if form not in FORMS:
            await self._take_time()
            return httpx.Response(200, headers=self._length(), stream=Body(request, [(0, bytes(SIZE))]))
        head, status, pieces = FORMS[form]
        await trio.sleep(head * self.deadline_s)
        if not status:
            raise httpx.ReadError("reset")
        if status != 200:
            return httpx.Response(status)
        return httpx.Response(200, headers=self._length(), stream=Body(request, pieces))

    async def _take_time(self) -> None:
        await trio.sleep(self.latency_s)
        if self.dead:
            await trio.sleep_forever()

    @staticmethod
    def _length() -> dict[str, str]:
        return {"Content-Length": str(SIZE), "Content-Type": "application/octet-stream"}


class Mount:
    """The parts that ask: listings and contents, with a breaker and signs of life that they share."""

    def __init__(self, service: Service, nursery: trio.Nursery) -> None:
        self.breaker, limits = CircuitBreaker("api.test"), RateLimits()
        self.listings, contents, questions = (
            Transport(
                "https://api.test",
                KEYS,
                clock=trio.current_time,
                transport=httpx.MockTransport(service),
                limits=limits,
                breaker=self.breaker,
            )
            for _ in range(3)
        )
        self.contents = ContentEndpoint(contents, deadline_s=service.deadline_s)
        self.deadline_s = service.deadline_s
        Liveness(self.breaker, questions, nursery, clock=trio.current_time, limit_s=service.deadline_s)

    async def list(self, name: str) -> None:
        await self.listings.get("listing", f"/{name}", deadline_s=self.deadline_s)

    async def read(self, name: str) -> None:
        """Read an artifact as a reader does, which gives up without progress within the deadline."""
        with trio.move_on_after(self.deadline_s):
            async with self.contents.get(ArtifactRef("1", name), 0, None, size=SIZE) as body:
                came = 0
                async with aclosing(body.chunks) as chunks:  # type: ignore[type-var]  # a generator
                    async for chunk in chunks:
                        came += len(chunk)
            assert came == SIZE
            return
        raise errors.TimedOut("no progress")


async def again_and_again(ask: Callable[[str], Awaitable[None]], name: str) -> None:
    """Ask for a sick object, and each time that it fails again."""
    while True:
        with pytest.raises(errors.PassingError):
            await ask(name)
        await trio.sleep(AGAIN_S)


@asynccontextmanager
async def sick_service(
    sick: Sequence[tuple[str, str]], deadline_s: float, latency_s: float, *, redirects: bool = False
) -> AsyncIterator[tuple[Service, Mount]]:
    """A mount of a service with these sick objects (what, form), each of which a program asks for again and again."""
    service = Service(deadline_s, latency_s)
    service.redirects = redirects
    async with trio.open_nursery() as nursery:
        mount = Mount(service, nursery)
        for number, (what, form) in enumerate(sick):
            ask = mount.list if what == "list" else mount.read
            nursery.start_soon(again_and_again, ask, f"{form.replace(' ', '_')}-{number}")
        yield service, mount
        nursery.cancel_scope.cancel()


async def served(mount: Mount, number: int, service: Service) -> None:
    """Check that a directory and an artifact that nothing asked for before come as soon as the service answers."""
    for ask, answers in ((mount.list, 1), (mount.read, 2 if service.redirects else 1)):
        began = trio.current_time()
        await ask(f"well-{number}")
        assert trio.current_time() - began <= answers * service.latency_s + AT_ONCE_S


@pytest.mark.parametrize(("count", "deadline_s"), [(1, 4.0), (1, 30.0), (12, 4.0)])
@pytest.mark.parametrize("what", ["list", "read"])
@pytest.mark.parametrize("form", FORMS)
async def test_sick_objects_of_one_form(
    form: str, what: str, count: int, deadline_s: float, autojump_clock: MockClock
) -> None:
    """5.1: others are served at once, asked for every 5 s (as in issue 12), or less often than the deadline."""
    async with sick_service([(what, form)] * count, deadline_s, 0.05) as (service, mount):
        for number in range(9):
            await trio.sleep(5.0 if number % 2 else 1.3 * deadline_s)
            await served(mount, number, service)


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("form", FORMS)
async def test_sick_objects_elsewhere(form: str, count: int, autojump_clock: MockClock) -> None:
    """5.1: what object storage does not answer says nothing about the API, nor about others that are stored there."""
    async with sick_service([("read", form)] * count, 4.0, 0.05, redirects=True) as (service, mount):
        await trio.sleep(30)
        for number in range(9):
            await trio.sleep(5.1)
            await served(mount, number, service)


@given(
    sick=st.lists(st.tuples(st.sampled_from(["list", "read"]), st.sampled_from(sorted(FORMS))), max_size=8),
    deadline_s=st.sampled_from([1.0, 4.0, 30.0]),
    slow=st.sampled_from([0.0, 0.01, 0.2, 0.45]),
    pauses=st.lists(st.floats(0, 40), min_size=1, max_size=5),
)
@settings(max_examples=20)
def test_any_mixture(sick: list[tuple[str, str]], deadline_s: float, slow: float, pauses: list[float]) -> None:
    """5.1: whatever else is asked for, what the service answers is served, in the time that the service takes."""

    async def main() -> None:
        async with sick_service(sick, deadline_s, min(2.0, slow * deadline_s)) as (service, mount):
            for number, pause_s in enumerate(pauses):
                await trio.sleep(pause_s)
                await served(mount, number, service)

    run(main)


@given(
    sick=st.lists(st.tuples(st.sampled_from(["list", "read"]), st.sampled_from(SILENT_FORMS)), max_size=6),
    deadline_s=st.sampled_from([1.0, 4.0, 30.0]),
    reads=st.lists(st.booleans(), min_size=20, max_size=60),
    pause_s=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=20)
def test_any_service_that_dies(
    sick: list[tuple[str, str]], deadline_s: float, reads: list[bool], pause_s: float
) -> None:
    """5.1: a dead service costs one deadline, then requests fail at once except for probes; it is found again soon."""

    async def main() -> None:
        async with sick_service(sick, deadline_s, 0.05) as (service, mount):
            await served(mount, 0, service)
            service.dead = True
            began = trio.current_time()
            waits: list[float] = []
            for number, read in enumerate(reads):
                start = trio.current_time()
                with pytest.raises(errors.TimedOut):
                    await (mount.read if read else mount.list)(f"well-{number + 1}")
                waits.append(trio.current_time() - start)
                await trio.sleep(pause_s)
            probes = (trio.current_time() - began) / PROBE_INTERVAL_S + 1
            assert len([wait for wait in waits if wait > AT_ONCE_S]) <= 1 + probes
            assert len([wait for wait in waits if wait > deadline_s * 0.9]) <= 1 + probes / 2
            service.dead = False
            await found_again(mount)

    run(main)


@pytest.mark.parametrize("redirects", [False, True])
@pytest.mark.parametrize("deadline_s", [1.0, 4.0, 30.0])
async def test_contents_that_are_dead(deadline_s: float, redirects: bool, autojump_clock: MockClock) -> None:
    """5.1: where no content comes at all, a walk over files waits for two, and for probes; listings are served."""
    async with sick_service([], deadline_s, 0.05, redirects=redirects) as (service, mount):
        service.dead_contents = True
        waits = []
        for number in range(100):
            await mount.list(f"well-{number}")
            began = trio.current_time()
            with pytest.raises(errors.TimedOut):
                await mount.read(f"well-{number}")
            waits.append(trio.current_time() - began)
        # The walk itself takes ten seconds; between two probes there are at least two and a half.
        assert len([wait for wait in waits if wait > 2 * service.latency_s]) <= 2 + 8
        assert len([wait for wait in waits if wait > 0.9 * deadline_s]) <= 2 + 4
        service.dead_contents = False
        await trio.sleep(PROBE_INTERVAL_S)
        await served(mount, 200, service)


async def found_again(mount: Mount) -> None:
    """Check that a service that is back serves whatever is asked for next, or within two probes."""
    began = trio.current_time()
    for number in itertools.count():
        try:
            await mount.list(f"back-{number}")
            break
        except errors.TimedOut:
            await trio.sleep(0.5)
    assert trio.current_time() - began <= 2 * PROBE_INTERVAL_S


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test on a clock of its own, which jumps."""
    trio.run(main, clock=MockClock(autojump_threshold=0))
