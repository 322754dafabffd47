"""artifactfs.modellab.content_endpoint: every form of answer (model-lab-api.md, 9 to 13)."""

from collections.abc import AsyncIterator

import httpx
import pytest
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ArtifactRef
from artifactfs.modellab import places
from artifactfs.modellab.content_endpoint import ContentEndpoint
from tests.transports import ABANDONED, connect

DATA = bytes(range(100))
MODEL = ArtifactRef("10", "p/artifacts/a b%+&#ü/model.bin")

pytestmark = pytest.mark.filterwarnings(ABANDONED)


class Said:
    """An answer of the network, sent as it is: nothing is decoded, and no length is sent that is not in `headers`."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.status, self.headers, self.body = status, headers, body

    async def __call__(self, _request: httpx.Request) -> httpx.Response:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(self.body), 7):
                yield self.body[at : at + 7]

        return httpx.Response(self.status, headers=self.headers, content=pieces())

    def __repr__(self) -> str:
        return f"{self.status} {self.headers} {self.body[:20]!r}"


def said(status: int, body: bytes = b"", **headers: str) -> Said:
    return Said(status, {"Content-Length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()}, body)


def part(first: int, last: int, total: int | str = 100, body: bytes | None = None, **headers: str) -> Said:
    span = {"Content_Range": f"bytes {first}-{last}/{total}"}
    return said(206, DATA[first : last + 1] if body is None else body, **span, **headers)


def whole(body: bytes = DATA, **headers: str) -> Said:
    return said(200, body, **headers)


def chunked(body: bytes, **headers: str) -> Said:
    return said(200, body, Transfer_Encoding="chunked", **headers)


class Asked:
    """What one `get` gave."""

    def __init__(self, *answers: Said, url: str = "https://api.test", name_versions: bool = False) -> None:
        self.transport, self.network = connect(*answers, url=url)
        self.endpoint = ContentEndpoint(self.transport, deadline_s=30, name_versions=name_versions)

    async def get(
        self, start: int = 0, end: int | None = 100, size: int | None = 100, artifact: ArtifactRef = MODEL
    ) -> bytes:
        async with self.endpoint.get(artifact, start, end, size=size) as self.body:
            found = b"".join([chunk async for chunk in self.body.chunks])
        assert places.in_use(self.transport._places) == 0
        return found

    async def refused(self, kind: type[errors.ServiceError], **how: object) -> None:
        with pytest.raises(kind) as caught:
            await self.get(**how)  # type: ignore[arg-type]  # as get has them
        assert type(caught.value) is kind
        assert places.in_use(self.transport._places) == 0


async def test_what_is_asked(autojump_clock: MockClock) -> None:
    """4.2: project and path, encoded once, the range, and the bytes as they are."""
    asked = Asked(part(10, 19))
    assert await asked.get(10, 20) == DATA[10:20]
    (request,) = asked.network.requests
    assert request.url.raw_path == (
        b"/api/v2/model-lab-api/artifacts/content?project_id=10"
        b"&artifact_path=p%2Fartifacts%2Fa%20b%25%2B%26%23%C3%BC%2Fmodel.bin"
    )
    assert request.headers["range"] == "bytes=10-19"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["accept"] == "application/octet-stream, application/json"
    body = asked.body
    assert (body.start, body.end, body.total, body.whole, body.validator) == (10, 20, 100, False, None)
    assert asked.endpoint.ranges is True


@pytest.mark.parametrize("target", ["https://elsewhere.test/f", "https://api.test/other", "/other"])
@pytest.mark.parametrize("name_versions", [False, True])
async def test_a_version_is_named(target: str, name_versions: bool, autojump_clock: MockClock) -> None:
    """4.3: the version goes along where that is asked for, to the configured URL and never to a redirect's target."""
    known = ArtifactRef("10", "p/artifacts/f", version="00ff")
    asked = Asked(said(302, Location=target), part(10, 19), name_versions=name_versions)
    assert await asked.get(10, 20, artifact=known) == DATA[10:20]
    first = "00ff" if name_versions else None
    assert [request.headers.get("artifactfs-version") for request in asked.network.requests] == [first, None]
    asked = Asked(part(10, 19), name_versions=name_versions)
    await asked.get(10, 20)
    assert "artifactfs-version" not in asked.network.requests[0].headers


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (part(11, 20), errors.UnexpectedAnswer),
        (part(9, 18), errors.UnexpectedAnswer),
        (part(10, 20), errors.UnexpectedAnswer),
        (part(10, 19, 15), errors.UnexpectedAnswer),
        (part(10, 19, body=DATA[10:15]), errors.ShortBody),
        (part(10, 19, body=DATA[10:25]), errors.UnexpectedAnswer),
        (said(206, DATA[10:20]), errors.UnexpectedAnswer),
        (said(206, DATA[10:20], Content_Range="items 10-19/100"), errors.UnexpectedAnswer),
        (said(206, DATA[10:20], Content_Range="bytes 10-x/100"), errors.UnexpectedAnswer),
        (whole(DATA[50:60], Content_Range="bytes 50-59/100"), errors.UnexpectedAnswer),
        (whole(DATA[:60], Content_Range="bytes 0-59/100"), errors.UnexpectedAnswer),
        (part(10, 19, Content_Encoding="gzip"), errors.UnexpectedAnswer),
        (whole(Content_Encoding="gzip"), errors.UnexpectedAnswer),
        (whole(b"<html>", Content_Type="text/html; charset=utf-8"), errors.UnexpectedAnswer),
        (chunked(b"<html>", Content_Type="TEXT/HTML"), errors.UnexpectedAnswer),
        (whole(b"{}", Content_Type="application/json"), errors.UnexpectedAnswer),
        (chunked(b' {"errors": ["x"]}', Content_Type="application/json"), errors.UnexpectedAnswer),
        (said(416, Content_Range="bytes */100"), errors.UnexpectedAnswer),
        (said(404, b'{"errors": ["no"]}'), errors.NotFound),
        (said(403, b"<h1>no</h1>"), errors.AccessDenied),
        (said(422), errors.BadRequest),
        (said(204), errors.UnexpectedAnswer),
        (said(302), errors.UnexpectedAnswer),
    ],
)
async def test_what_is_not_the_artifact_is_refused(
    autojump_clock: MockClock, answer: Said, kind: type[errors.ServiceError]
) -> None:
    """4.1: an answer whose head does not fit raises before its first byte counts, and says nothing of ranges."""
    asked = Asked(answer)
    await asked.refused(kind, start=10, end=20)
    assert asked.endpoint.ranges is None


@pytest.mark.parametrize(
    "answer",
    [
        whole(DATA, Content_Type="text/html"),
        whole(DATA, Content_Type="application/json"),
        chunked(DATA, Content_Type="application/json"),
        chunked(DATA),
    ],
)
async def test_a_type_alone_is_no_reason(autojump_clock: MockClock, answer: Said) -> None:
    """13: what has the length of the artifact, or does not begin like an error, is taken whatever it is called."""
    assert await Asked(answer).get() == DATA


@pytest.mark.parametrize(("name", "kind"), [("page.HTML", "text/html"), ("config.json", "application/json")])
async def test_pages_and_json_that_are_artifacts(autojump_clock: MockClock, name: str, kind: str) -> None:
    """13: a page is a page, also of another length than was listed: that is for the reader to judge."""
    asked = Asked(whole(b"<p>", Content_Type=kind))
    assert await asked.get(artifact=ArtifactRef("10", f"p/{name}")) == b"<p>"
    assert asked.body.total == 3


async def test_an_error_with_a_good_status_for_a_file_of_unknown_size(autojump_clock: MockClock) -> None:
    """4.1: where the size is unknown an error's JSON is known by how it begins; other JSON is taken."""
    await Asked(whole(b'{"errors":[]}', Content_Type="application/json")).refused(errors.UnexpectedAnswer, size=None)
    assert await Asked(whole(b'{"a": 1}', Content_Type="application/json")).get(size=None) == b'{"a": 1}'


async def test_a_server_that_ignores_ranges_is_not_asked_for_them_again(autojump_clock: MockClock) -> None:
    """10: a 200 to a part means that ranges are ignored; a 200 to all of it means nothing."""
    asked = Asked(whole())
    assert await asked.get(0, 100) == DATA
    known = [asked.endpoint.ranges]
    for _ in range(2):
        assert await asked.get(50, 60) == DATA
        assert asked.body.whole
        known.append(asked.endpoint.ranges)
    assert known == [None, False, False]
    assert [request.headers.get("range") for request in asked.network.requests] == ["bytes=0-99", "bytes=50-59", None]


async def test_a_length_that_is_not_sent(autojump_clock: MockClock) -> None:
    """2.2: a chunked body tells no total, whatever else its head says."""
    asked = Asked(chunked(DATA))
    await asked.get()
    assert (asked.body.total, asked.body.end) == (None, None)


async def test_past_the_end(autojump_clock: MockClock) -> None:
    """10: 416 past the end is the end, and tells the total."""
    asked = Asked(said(416, b"no such range", Content_Range="bytes */100"))
    async with asked.endpoint.get(MODEL, 100, 200, size=None) as body:
        assert (body.start, body.end, body.total, body.whole) == (100, 100, 100, False)


async def test_past_the_end_without_a_total(autojump_clock: MockClock) -> None:
    """10: a 416 that tells no total is asked about without a range: the length shows how much is left of the file."""
    asked = Asked(said(416), whole(DATA))
    async with asked.endpoint.get(MODEL, 2 * len(DATA), 3 * len(DATA), size=4 * len(DATA)) as body:
        assert (body.start, body.total, body.whole) == (0, len(DATA), True)
    assert asked.endpoint.ranges is None


async def test_an_empty_file_of_unknown_size(autojump_clock: MockClock) -> None:
    """10: an empty file has no first byte: a 416 that tells no total is asked about without a range."""
    asked = Asked(said(416), whole(b""))
    assert await asked.get(0, 128, size=None) == b""
    assert asked.body.total == 0
    assert asked.endpoint.ranges is None
    assert [request.headers.get("range") for request in asked.network.requests] == ["bytes=0-127", None]
    told = Asked(said(416, Content_Range="bytes */0"))
    async with told.endpoint.get(MODEL, 0, 128, size=None) as body:
        assert body.total == 0


async def test_validators(autojump_clock: MockClock) -> None:
    """4.1: a strong ETag, or else Last-Modified, names a version; a weak ETag promises nothing."""

    async def validator(**headers: str) -> bytes | None:
        asked = Asked(whole(DATA, **headers))
        await asked.get()
        return asked.body.validator

    strong, other = await validator(ETag='"a"'), await validator(ETag='"b"')
    modified = await validator(Last_Modified="Sat, 16 May 2026 09:00:00 GMT")
    assert None not in (strong, other, modified)
    assert len({strong, other, modified}) == 3
    assert await validator(ETag='"a"', Last_Modified="Sat, 16 May 2026 09:00:00 GMT") == strong
    assert await validator(ETag='W/"a"', Last_Modified="Sat, 16 May 2026 09:00:00 GMT") == modified
    assert await validator(ETag='W/"a"') is None
    assert await validator(ETag="unquoted") is None


def to(place: str, status: int = 302) -> Said:
    return said(status, b"over there", Location=place)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_elsewhere_gets_no_keys(autojump_clock: MockClock, status: int) -> None:
    """6.1: object storage gets the range, and neither keys nor cookies; the API's own origin gets the keys."""
    asked = Asked(to("/moved", status), to("https://storage.test/x?sig=1", status), part(10, 19))
    assert await asked.get(10, 20) == DATA[10:20]
    first, second, third = asked.network.requests
    for ours in (first, second):
        assert ours.headers["dd-api-key"] == "api-s3cr3t"
    assert str(third.url) == "https://storage.test/x?sig=1"
    assert third.headers["range"] == "bytes=10-19"
    assert "s3cr3t" not in str(third.headers.raw)


@pytest.mark.parametrize(
    ("api", "place"),
    [
        ("https://api.test", "http://api.test/x"),
        ("https://api.test", "http://127.0.0.1/x"),
        ("https://api.test", "ftp://storage.test/x"),
        ("https://api.test", "file:///etc/passwd"),
        ("https://api.test", "https://user:pass@storage.test/x"),
        ("https://api.test", "https://storage.test/" + "x" * (16 << 10)),
        ("http://127.0.0.1:1", "http://storage.test/x"),
    ],
)
async def test_redirects_that_are_not_followed(autojump_clock: MockClock, api: str, place: str) -> None:
    """6.1, 6.4: only https, or loopback to loopback; no names in it, no endless address."""
    asked = Asked(to(place), whole(), url=api)
    await asked.refused(errors.UnexpectedAnswer)
    assert len(asked.network.requests) == 1


@pytest.mark.parametrize(
    "place",
    [
        "https://[oops",
        "//[oops",
        "https://[::1",
        "https://[::g]/",
        "https://a b/",
        "https://x:y/",
        "https://x:0/",
        "https://x:65536/",
        "https://.../",
        "https://.x/",
        "https://xn--/",
        "https://xn--a.b/",
        "https://" + "a" * 300 + "/",
        "https://1.2.3.400/",
        "https://x/\x7f",
    ],
)
async def test_a_redirect_to_what_is_no_url(autojump_clock: MockClock, place: str) -> None:
    """4.1: no connection is attempted to it, and it fails as the odd answer that it is."""
    asked = Asked(to(place), whole())
    await asked.refused(errors.UnexpectedAnswer)
    assert len(asked.network.requests) == 1


@pytest.mark.parametrize(
    "place",
    [
        "https://xn--bcher-kva.test/x",
        "https://[2001:DB8::1]:8443/x",
        "https://X_1.test.:443/x",
        "https://192.0.2.1/x",
        "?a#b",
    ],
)
async def test_odd_redirects_that_are_good(autojump_clock: MockClock, place: str) -> None:
    """4.2: names in any script, addresses, ports and relative references are followed."""
    asked = Asked(to(place), whole())
    assert await asked.get() == DATA
    assert len(asked.network.requests) == 2


async def test_redirects_without_end(autojump_clock: MockClock) -> None:
    """6.4: the number of redirects has a bound."""
    asked = Asked(to("/again"))
    await asked.refused(errors.UnexpectedAnswer)
    assert len(asked.network.requests) == 6


async def test_a_body_that_is_left_gives_its_place_back(autojump_clock: MockClock) -> None:
    """4.4: a caller that stops reading in the middle holds no connection."""
    asked = Asked(whole())
    with pytest.raises(RuntimeError):
        async with asked.endpoint.get(MODEL, 0, 100, size=100):
            raise RuntimeError
    assert places.in_use(asked.transport._places) == 0
    assert not asked.endpoint.is_saturated


@pytest.mark.parametrize("span", ["bytes 0-99/100", "bytes 0-99/*", "bytes", "items 5-9/100"])
async def test_a_whole_body_that_says_so(autojump_clock: MockClock, span: str) -> None:
    """9: a good 200 may have a Content-Range, which counts only where it contradicts."""
    assert await Asked(whole(Content_Range=span)).get() == DATA


@pytest.mark.parametrize("body", [b"", DATA[:3]], ids=["empty", "three bytes"])
async def test_a_short_file_of_unknown_size_shows_nothing_of_ranges(autojump_clock: MockClock, body: bytes) -> None:
    """9: servers that grant ranges answer a range of an empty file with 200, say."""
    asked = Asked(whole(body), part(10, 19))
    assert await asked.get(0, 100, size=None) == body
    assert asked.endpoint.ranges is None
    assert await asked.get(10, 20) == DATA[10:20]
    assert asked.endpoint.ranges


async def test_the_body_of_a_redirect_is_read(autojump_clock: MockClock) -> None:
    """10: or its connection would be closed, and each read would make a new one."""
    read: list[int] = []

    async def redirect(_request: httpx.Request) -> httpx.Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"moved"
            read.append(5)

        headers = {"Location": "https://store.test/blob", "Content-Length": "5"}
        return httpx.Response(302, headers=headers, content=pieces())

    transport, _ = connect(redirect, whole(), url="https://api.test")
    endpoint = ContentEndpoint(transport, deadline_s=30, name_versions=False)
    async with endpoint.get(MODEL, 0, 100, size=100) as body:
        assert b"".join([chunk async for chunk in body.chunks]) == DATA
    assert read == [5]
    assert places.in_use(transport._places) == 0
