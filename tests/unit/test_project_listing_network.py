"""ModelLab.project_files: a project's listing from the network, encoded, cut off, too large (semantics.md 6.4)."""

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import IndexedFile, RequestUsage
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.size_limits import DEFAULTS, SizeLimits
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret
from tests.project_listings import body, row

# --- from the network ---------------------------------------------------------------------------------------


class Body(httpx.AsyncByteStream):
    """A body in pieces, with a pause between them, that may break off; notes how many were taken, and its end."""

    def __init__(self, pieces: Sequence[bytes | Exception], pause_s: float = 0.0) -> None:
        self._pieces = pieces
        self._pause_s = pause_s
        self.taken = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await trio.sleep(self._pause_s)
            if isinstance(piece, Exception):
                raise piece
            self.taken += 1
            yield piece

    async def aclose(self) -> None:
        self.closed = True


def lab(
    answer: httpx.Response | Exception, sizes: SizeLimits = DEFAULTS
) -> tuple[ModelLab, Transport, list[httpx.Request]]:
    asked: list[httpx.Request] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    keys = Credentials(Secret("a"), Secret("b"))
    sender = Transport(
        "https://api.test", keys, clock=trio.current_time, transport=httpx.MockTransport(handler), sizes=sizes
    )
    return ModelLab(sender, deadline_s=30.0, sizes=sizes), sender, asked


async def files_of(service: ModelLab, project_id: str = "10") -> list[str]:
    found: list[IndexedFile] = []
    await service.project_files(project_id, found.extend)
    return [file.path for file in found]


ROWS = [f"d{i}/f" for i in range(5000)]
LARGE = body([row(path) for path in ROWS])


async def test_the_endpoint(autojump_clock: MockClock) -> None:
    """One GET of /projects/{id}/artifacts, with the keys; the id is encoded, so that it leads nowhere else."""
    for project_id, path in (("10", "10"), ("a/../b?x#y", "a%2F..%2Fb%3Fx%23y")):
        service, sender, asked = lab(httpx.Response(200, content=LARGE))
        assert await files_of(service, project_id) == ROWS
        (request,) = asked
        assert request.url.raw_path.decode() == f"/api/v2/model-lab-api/projects/{path}/artifacts"
        assert request.headers["dd-api-key"] == "a"
        assert sender.cost().requests == {"index": 1}
        assert sender.cost().received_bytes == len(LARGE)


@pytest.mark.parametrize("size", [1, 1000, 16 << 10, 1 << 20])
async def test_in_pieces(size: int, autojump_clock: MockClock) -> None:
    """Rows come as the body does, however it is cut."""
    whole = LARGE if size > 1 else body([row("a"), row("b")])
    stream = Body([whole[start : start + size] for start in range(0, len(whole), size)])
    service, _, _ = lab(httpx.Response(200, stream=stream))
    assert await files_of(service) == (ROWS if size > 1 else ["a", "b"])
    assert stream.closed


RAW_DEFLATE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(LARGE)), ("GZIP", gzip.compress(LARGE)), ("x-gzip", gzip.compress(LARGE)),
        ("deflate", zlib.compress(LARGE)), ("deflate", RAW_DEFLATE.compress(LARGE) + RAW_DEFLATE.flush()),
        ("identity", LARGE), ("", LARGE), ("gzip", gzip.compress(LARGE) + b"behind the end" * 100),
        ("gzip", b"".join(gzip.compress(part) for part in (LARGE[:999], b"", LARGE[999:2000], LARGE[2000:])) + b"\x1f"),
    ],
    ids=["gzip", "GZIP", "x-gzip", "deflate", "bare", "identity", "none", "more", "members"],
)  # fmt: skip
@pytest.mark.parametrize("size", [100, 777, 1 << 20])
async def test_encoded(encoding: str, packed: bytes, size: int, autojump_clock: MockClock) -> None:
    """An answer that is compressed as we asked for is the same answer; so is a run's listing."""
    pieces = [packed[start : start + size] for start in range(0, len(packed), size)]
    service, sender, _ = lab(httpx.Response(200, headers={"Content-Encoding": encoding}, stream=Body(pieces)))
    assert await files_of(service) == ROWS
    service, sender, _ = lab(httpx.Response(200, headers={"Content-Encoding": encoding}, stream=Body(pieces)))
    assert await sender.get("listing", "/x", deadline_s=5) == LARGE


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", LARGE), ("deflate", b"\xff" * 100), ("br", b"x"), ("zstd", b"x"), ("gzip, gzip", gzip.compress(LARGE)),
        ("gzip", gzip.compress(LARGE)[:-500]), ("gzip", b""), ("gzip", gzip.compress(b"")),
        ("gzip", gzip.compress(LARGE)[:200] + b"\xff" * 500),
    ],
    ids=["plain", "nonsense", "br", "zstd", "twice", "half", "nothing", "empty", "broken"],
)  # fmt: skip
async def test_encoded_wrongly(encoding: str, packed: bytes, autojump_clock: MockClock) -> None:
    """What does not decompress, or to half of it, is refused."""
    service, _, asked = lab(httpx.Response(200, headers={"Content-Encoding": encoding}, stream=Body([packed])))
    with pytest.raises(errors.UnexpectedAnswer):
        await files_of(service)
    assert len(asked) == 1


async def test_a_bomb(autojump_clock: MockClock) -> None:
    """6.4: a megabyte that decompresses to a gigabyte is inflated a piece at a time, and given up at the bound."""
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(64)) + packer.flush()
    service, sender, _ = lab(
        httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=packed),
        SizeLimits(body_bytes=8 << 20, index_bytes=8 << 20),
    )
    tracemalloc.start()
    with pytest.raises((errors.AnswerTooLarge, errors.UnexpectedAnswer)):
        await files_of(service)
    with pytest.raises(errors.AnswerTooLarge):
        await sender.get("listing", "/x", deadline_s=30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20


async def test_past_the_bound(autojump_clock: MockClock) -> None:
    """6.4: an index of more than so many bytes is given up in the middle, and its connection with it."""
    stream = Body([LARGE[start : start + 1000] for start in range(0, len(LARGE), 1000)] + [b" " * 1000] * 1000)
    service, sender, _ = lab(httpx.Response(200, stream=stream), SizeLimits(index_bytes=len(LARGE) - 1))
    with pytest.raises(errors.AnswerTooLarge):
        await files_of(service)
    assert stream.taken < len(LARGE) // 1000 + 3
    assert stream.closed
    # Its place is free again.
    assert sender.can_prefetch("listing")
    service, _, _ = lab(httpx.Response(200, content=LARGE), SizeLimits(index_bytes=len(LARGE)))
    assert await files_of(service) == ROWS


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404, json={"errors": ["no"]}), errors.NotFound), (httpx.Response(500), errors.ServerFailed),
        (httpx.Response(403), errors.AccessDenied), (httpx.Response(200, content=b"<html>"), errors.UnexpectedAnswer),
        (httpx.Response(429, headers={"X-RateLimit-Reset": "1", "X-RateLimit-Name": "x"}), errors.RateLimited),
        (httpx.Response(503), errors.ServerFailed),
        (httpx.Response(302, headers={"Location": "/"}), errors.UnexpectedAnswer),
        (httpx.Response(204), errors.UnexpectedAnswer),
        (httpx.ConnectError("no"), errors.Unreachable), (httpx.ReadTimeout("no"), errors.TimedOut),
        (httpx.Response(200, stream=Body([LARGE[:1000], httpx.ReadError("reset")])), errors.ConnectionLost),
        (httpx.Response(200, stream=Body([LARGE[:1000]])), errors.UnexpectedAnswer),
    ],
)  # fmt: skip
async def test_failures_are_ours_and_cost_one_request(
    answer: httpx.Response | Exception, error: type[Exception], autojump_clock: MockClock
) -> None:
    """1.6: an index that fails is asked for once: what fails it may be its size."""
    service, sender, asked = lab(answer)
    with pytest.raises(error):
        await files_of(service)
    assert len(asked) == 1
    assert trio.current_time() == 0
    # 5.1: an index that ran into its deadline says nothing about listings.
    assert sender.can_prefetch("listing")


async def test_what_add_raises_ends_it(autojump_clock: MockClock) -> None:
    """6.4: who takes the rows may have enough; the connection is closed, and its place is free."""
    stream = Body([LARGE[start : start + 1000] for start in range(0, len(LARGE), 1000)])
    service, sender, _ = lab(httpx.Response(200, stream=stream))

    def add(_rows: object) -> None:
        raise errors.AnswerTooLarge("enough")

    with pytest.raises(errors.AnswerTooLarge, match="enough"):
        await service.project_files("10", add)
    assert stream.taken == 1
    assert stream.closed
    assert sender.can_prefetch("listing")


async def test_given_up_by_its_caller(autojump_clock: MockClock) -> None:
    """5.1: an index that drips is given up when a caller that asked has waited enough; its place is free again."""
    stream = Body([b" "] * 1000, pause_s=10.0)
    service, sender, _ = lab(httpx.Response(200, stream=stream))
    with trio.move_on_after(60) as scope:
        await files_of(service)
    assert scope.cancelled_caught
    assert stream.closed
    assert sender.can_prefetch("listing")


async def test_others_go_on_meanwhile(autojump_clock: MockClock) -> None:
    """5.1: between two pieces of a millisecond others have their turn, also where all came at once."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    service, _, _ = lab(httpx.Response(200, content=LARGE))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await files_of(service)
        nursery.cancel_scope.cancel()
    assert turns >= len(LARGE) // (64 << 10) > 5


def test_costs_add_and_subtract() -> None:
    """7: what was asked between two moments is the difference; kinds of which there was none are left out."""
    before = RequestUsage({"run": 1, "listing": 5}, 100, 1.5)
    after = RequestUsage({"run": 1, "listing": 7, "index": 1}, 350, 2.0)
    spent = after - before
    assert spent == RequestUsage({"listing": 2, "index": 1}, 250, 0.5)
    assert before + spent == after
    assert after - after == RequestUsage({})
    assert RequestUsage({}) + after == after
    # Both are values: nothing was changed by it.
    assert before == RequestUsage({"run": 1, "listing": 5}, 100, 1.5)
