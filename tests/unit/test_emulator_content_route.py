"""The emulator's content endpoint: ranges, validators, redirects and wrong bodies."""

import gzip

import pytest
import trio

from artifactfs.emulator.content_route import UNSATISFIABLE, byte_range
from artifactfs.emulator.sample import sample_lab
from tests.unit.test_emulator_middleware import PROJECT, Api


@pytest.mark.parametrize(
    ("header", "size", "span"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=2-5", 10, (2, 6)),
        ("bytes=2-", 10, (2, 10)),
        ("bytes=2-99", 10, (2, 10)),
        ("bytes=-3", 10, (7, 10)),
        ("bytes=-99", 10, (0, 10)),
        ("Bytes = 2 - 5", 10, (2, 6)),
        ("bytes=10-", 10, UNSATISFIABLE),
        ("bytes=10-20", 10, UNSATISFIABLE),
        ("bytes=-0", 10, UNSATISFIABLE),
        ("bytes=0-", 0, UNSATISFIABLE),
        ("bytes=-5", 0, UNSATISFIABLE),
        ("bytes=5-2", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("bytes=-", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=\u0661-", 10, None),
        ("items=0-1", 10, None),
        ("bytes", 10, None),
        ("", 10, None),
    ],
)
def test_range_arithmetic(header: str, size: int, span: tuple[int, int] | None) -> None:
    """A Range header is a span, unsatisfiable, or to be ignored (RFC 9110 section 14)."""
    assert byte_range(header, size) == span


async def test_a_file_comes_whole() -> None:
    """Without Range: 200, the length, the bytes."""
    async with Api() as api:
        answer = await api.content("big.bin")
        assert (answer.status_code, answer.headers["content-length"]) == (200, str((3 << 20) + 5))
        assert answer.content == api.bytes_of("big.bin")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert not {"etag", "last-modified", "content-range"} & set(answer.headers)


@pytest.mark.parametrize("range_", ["bytes=0-9", "bytes=1048570-2097160", "bytes=3145728-", "bytes=-7"])
async def test_a_range_is_granted(range_: str) -> None:
    """206 with the span, its length and the total, and the span's bytes."""
    async with Api() as api:
        whole = api.bytes_of("big.bin")
        start, end = byte_range(range_, len(whole)) or (0, 0)
        answer = await api.content("big.bin", range_)
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(whole)}"
        assert answer.headers["content-length"] == str(end - start)
        assert answer.content == whole[start:end]


async def test_a_range_past_the_end_is_416() -> None:
    """416 tells the size; so does any range of an empty file."""
    async with Api() as api:
        for path, size in (("dir.txt", 30), ("zero.bin", 0)):
            answer = await api.content(path, f"bytes={size}-")
            assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")


async def test_ranges_ignored() -> None:
    """ranges=ignored: 200 and the whole body to a ranged request."""
    async with Api(ranges="ignored") as api:
        answer = await api.content("dir.txt", "bytes=3-5")
        assert (answer.status_code, answer.content) == (200, api.bytes_of("dir.txt"))
        assert "accept-ranges" not in answer.headers


async def test_length_chunked_promises_nothing() -> None:
    """length=chunked: no Content-Length, for whole bodies and ranges."""
    async with Api(length="chunked") as api:
        for range_ in (None, "bytes=3-5"):
            answer = await api.content("dir.txt", range_)
            assert "content-length" not in answer.headers
        assert answer.content == api.bytes_of("dir.txt")[3:6]


async def test_an_etag_stands_for_the_content() -> None:
    """etag=strong and weak: the same for the same bytes, another after a change."""
    for form in ("strong", "weak"):
        async with Api(etag=form) as api:
            tags = [(await api.content("dir.txt", range_)).headers["etag"] for range_ in (None, "bytes=0-1")]
            assert tags[0] == tags[1]
            assert tags[0].startswith('W/"' if form == "weak" else '"')
            await api.order("files", {"run": 1, "change": {"dir.txt": {}}})
            assert (await api.content("dir.txt")).headers["etag"] != tags[0]


async def test_the_holder_is_named() -> None:
    """If-None-Match: 304 without a body where the tag is the same, as caches ask (RFC 9110, 13.1.2)."""
    async with Api(etag="strong") as api:
        tag = (await api.content("dir.txt")).headers["etag"]
        same = await api.content("dir.txt", "bytes=0-1", **{"If-None-Match": tag})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert (await api.content("dir.txt", **{"If-None-Match": '"other"'})).status_code == 200


async def test_a_changing_etag_differs_per_answer() -> None:
    """etag=changing: two answers of the same bytes have two tags."""
    async with Api(etag="changing") as api:
        one, other = await api.content("dir.txt"), await api.content("dir.txt")
        assert one.content == other.content
        assert one.headers["etag"] != other.headers["etag"]


async def test_if_range_with_the_right_validator_grants_the_range() -> None:
    """If-Range: 206 for the current strong tag, 200 for another, for a weak one and where there is none."""
    async with Api(etag="strong") as api:
        tag = (await api.content("dir.txt")).headers["etag"]
        for validator, status in ((tag, 206), ('"other"', 200), ("W/" + tag, 200)):
            answer = await api.content("dir.txt", "bytes=0-1", **{"If-Range": validator})
            assert answer.status_code == status
        await api.order("switches", {"etag": "none"})
        assert (await api.content("dir.txt", "bytes=0-1", **{"If-Range": tag})).status_code == 200


async def test_last_modified_is_the_files_time() -> None:
    """last_modified: the file's created_at as an HTTP date."""
    async with Api(last_modified=True) as api:
        await api.order("files", {"run": 1, "touch": {"dir.txt": "2026-05-15T02:57:03.9Z"}})
        assert (await api.content("dir.txt")).headers["last-modified"] == "Fri, 15 May 2026 02:57:03 GMT"


async def test_content_type() -> None:
    """content_type: as set."""
    async with Api(content_type="text/plain") as api:
        assert (await api.content("dir.txt")).headers["content-type"] == "text/plain"


async def test_gzip_without_a_request_for_it() -> None:
    """encoding=gzip: the whole file, compressed and chunked, to a ranged request with Accept-Encoding: identity."""
    async with Api(encoding="gzip") as api:
        query = {"project_id": str(PROJECT), "artifact_path": f"{api.run.prefix}/big.bin"}
        headers = {"Accept-Encoding": "identity", "Range": "bytes=0-9"}
        request = api.client.build_request(
            "GET", "/api/v2/model-lab-api/artifacts/content", params=query, headers=headers
        )
        answer = await api.client.send(request, stream=True)
        packed = b"".join([piece async for piece in answer.aiter_raw()])
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
        assert "content-length" not in answer.headers
        assert gzip.decompress(packed) == api.bytes_of("big.bin")


@pytest.mark.parametrize(("how", "origin"), [("same", ""), ("other", "http://elsewhere:1")])
async def test_a_redirect_leads_to_the_bytes(how: str, origin: str) -> None:
    """redirect=same and other: 302 to a place that gives the range without any key."""
    async with Api(redirect=how, redirect_to="http://elsewhere:1/") as api:
        answer = await api.content("dir.txt", "bytes=0-4")
        assert (answer.status_code, answer.content) == (302, b"")
        location = answer.headers["location"]
        assert location.startswith(f"{origin}/_storage/content?")
        bare = {"DD-API-KEY": "", "DD-APPLICATION-KEY": "", "Range": "bytes=0-4"}
        followed = await api.client.get(location.removeprefix(origin), headers=bare)
        assert (followed.status_code, followed.content) == (206, api.bytes_of("dir.txt")[:5])
        assert "x-ratelimit-limit" not in followed.headers
        assert (await api.stats())["requests"] == {"content": 1, "storage": 1}


async def test_a_redirect_loop_leads_to_itself() -> None:
    """redirect=loop: the target is what was asked for."""
    async with Api(redirect="loop") as api:
        answer = await api.content("dir.txt")
        assert api.client.base_url.join(answer.headers["location"]) == answer.request.url


async def test_a_redirect_elsewhere_needs_an_elsewhere() -> None:
    """redirect=other without redirect_to is a 500 that says so."""
    async with Api(redirect="other") as api:
        answer = await api.content("dir.txt")
        assert answer.status_code == 500
        assert "redirect_to" in answer.text


async def test_wrong_content_html() -> None:
    """wrong_content=html: 200 with a login page."""
    async with Api(wrong_content="html") as api:
        answer = await api.content("dir.txt", "bytes=0-1")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_wrong_content_short() -> None:
    """wrong_content=short: half of the bytes, and a Content-Length that agrees with them."""
    async with Api(wrong_content="short") as api:
        for range_, count in ((None, 15), ("bytes=0-9", 5)):
            answer = await api.content("dir.txt", range_)
            assert (answer.headers["content-length"], answer.content) == (str(count), api.bytes_of("dir.txt")[:count])
        assert answer.headers["content-range"] == "bytes 0-9/30"


@pytest.mark.parametrize(("range_", "told"), [("0-9", "1-10/30"), ("20-29", "19-28/30"), ("0-29", "0-28/30")])
async def test_wrong_content_wrong_range(range_: str, told: str) -> None:
    """wrong_content=wrong_range: a 206 that truthfully says to be another span."""
    async with Api(wrong_content="wrong_range") as api:
        answer = await api.content("dir.txt", f"bytes={range_}")
        assert (answer.status_code, answer.headers["content-range"]) == (206, f"bytes {told}")
        start, end = map(int, told.partition("/")[0].split("-"))
        assert answer.content == api.bytes_of("dir.txt")[start : end + 1]


async def test_wrong_content_wrong_total() -> None:
    """wrong_content=wrong_total: the right span of a file of another size."""
    async with Api(wrong_content="wrong_total") as api:
        answer = await api.content("dir.txt", "bytes=0-9")
        assert (answer.headers["content-range"], len(answer.content)) == ("bytes 0-9/31", 10)


async def test_wrong_content_surplus() -> None:
    """wrong_content=surplus: other bytes than the file's, and one more than the Content-Range says."""
    async with Api(wrong_content="surplus") as api:
        answer = await api.content("dir.txt", "bytes=0-9")
        assert (answer.headers["content-range"], len(answer.content)) == ("bytes 0-9/30", 11)
        assert "content-length" not in answer.headers
        assert all(sent != right for sent, right in zip(answer.content, api.bytes_of("dir.txt"), strict=False))


@pytest.mark.parametrize("status", ["404", "500"])
async def test_missing_content(status: str) -> None:
    """missing_content: the status for no such file, no such run, and a file of another project."""
    async with Api(missing_content=status) as api:
        assert (await api.content("none")).status_code == int(status)
        path = f"{api.run.prefix}/dir.txt"
        for project, artifact_path in (
            ("10", "0" * 32 + "/artifacts/x"),
            ("11", path),
            ("010", path),
            ("10", "dir.txt"),
        ):
            answer = await api.get("/artifacts/content", project_id=project, artifact_path=artifact_path)
            assert answer.status_code == int(status)


async def test_content_wants_both_values() -> None:
    """Without project_id or artifact_path: 400."""
    async with Api() as api:
        assert (await api.get("/artifacts/content", project_id="10")).status_code == 400
        assert (await api.get("/artifacts/content", artifact_path="x")).status_code == 400


@pytest.mark.parametrize(("how", "status"), [("empty", 200), ("404", 404), ("500", 500)])
async def test_directory_content(how: str, status: int) -> None:
    """directory_content: 200 without a body, or an error."""
    async with Api(directory_content=how) as api:
        for path in ("dir", "dir/", "empty"):
            answer = await api.content(path)
            assert answer.status_code == status
            assert answer.content == b"" or status != 200


async def test_bytes_per_s_drips(autojump_clock: object) -> None:
    """bytes_per_s: a body takes its length divided by the rate."""
    async with Api(bytes_per_s=1000) as api:
        await api.order("files", {"run": 1, "add": {"slow.bin": 2500}})
        before = trio.current_time()
        answer = await api.content("slow.bin")
        assert trio.current_time() - before == pytest.approx(2.5)
        assert answer.content == api.bytes_of("slow.bin")


async def test_every_awkward_name_can_be_read() -> None:
    """Each file of the sample's name runs is read by the path of its own listing row, encoded once."""
    async with Api(sample_lab()) as api:
        for run_id in (80001, 80002, 80003):
            run = api.emulator.lab.run(run_id)
            assert run is not None
            for path, file in run.tree.walk(""):
                if file is not None:
                    query = {"project_id": str(run.project), "artifact_path": f"{run.prefix}/{path}"}
                    answer = await api.get("/artifacts/content", **query)
                    assert answer.content == b"".join(run.tree.read(path, file, 0, file.size)), path
