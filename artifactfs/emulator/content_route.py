"""The content endpoint: whole bodies and ranges, right or wrong.

Owns ranges (RFC 9110 section 14), validators, redirects and every form of a wrong body.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import format_datetime

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from artifactfs.emulator.artifact_tree import File
from artifactfs.emulator.filters import number
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Run
from artifactfs.emulator.responses import LOGIN_PAGE, CutShort, error
from artifactfs.emulator.switches import Switches

# What each byte becomes in a body that is wrong throughout.
_OTHER_BYTES = bytes(reversed(range(256)))

STORAGE = "/_storage/content"  # target of redirects: like a signed URL of object storage, it needs no keys
PORTIONS_PER_S = 10  # of a dripping body; arbitrary


@dataclass(kw_only=True)
class Body:
    """An ASGI answer of pieces that are made while they are sent: at most one of them is in memory."""

    status: int
    headers: dict[str, str]
    pieces: Iterator[memoryview | bytes]
    length: int | None  # bytes promised; None: chunked
    bytes_per_s: int = 0
    _sent: int = field(default=0, init=False)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        sent = self.headers if self.length is None else self.headers | {"Content-Length": str(self.length)}
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for piece in self.pieces:
            await self._send(send, piece)
        if self.length is not None and self._sent < self.length:
            raise CutShort  # The file on the disk became shorter after the head was sent.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, piece: memoryview | bytes) -> None:
        step = max(1, self.bytes_per_s // PORTIONS_PER_S) if self.bytes_per_s else max(1, len(piece))
        for start in range(0, len(piece), step):
            portion = piece[start : start + step]
            if self.bytes_per_s:
                await anyio.sleep(len(portion) / self.bytes_per_s)
            await send({"type": "http.response.body", "body": portion, "more_body": True})
            self._sent += len(portion)


async def content(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer GET /artifacts/content?project_id=&artifact_path="""
    switches = emulator.switches
    if switches.redirect == "none":
        return await stored(emulator, request)
    query = request.scope["query_string"].decode("latin-1")
    if switches.redirect == "loop":
        return Response(status_code=302, headers={"Location": f"{request.url.path}?{query}"})
    if switches.redirect == "other" and not switches.redirect_to:
        return error(emulator, 500, "redirect=other needs redirect_to, the other origin")
    origin = switches.redirect_to.rstrip("/") if switches.redirect == "other" else ""
    return Response(status_code=302, headers={"Location": f"{origin}{STORAGE}?{query}"})


async def stored(emulator: Emulator, request: Request) -> ASGIApp:
    """Answer with the file that the query names, without any redirect."""
    switches = emulator.switches
    project, artifact_path = request.query_params.get("project_id"), request.query_params.get("artifact_path")
    if not project or not artifact_path:
        return error(emulator, 400, "project_id and artifact_path are required")
    found = _place(emulator, project, artifact_path)
    if found is None or str(found[0].project) != project:
        return _missing(emulator)
    run, path = found
    run = dataclasses.replace(run, tree=emulator.lagging(run.tree, switches.content_lag_s))
    if run.tree.is_dir(path.removesuffix("/")):
        if switches.directory_content == "empty":
            return Response(b"", headers={"Content-Type": switches.content_type})
        return error(emulator, int(switches.directory_content), "artifact is a directory")
    file = run.tree.find(path)
    if file is None:
        return _missing(emulator)
    if switches.wrong_content == "html":
        return Response(LOGIN_PAGE, media_type="text/html")
    emulator.answers += 1
    return _file(switches, request, run, path, file, emulator.answers)


def _place(emulator: Emulator, project: str, artifact_path: str) -> tuple[Run, str] | None:
    """Return the run that a path in a project belongs to, and the path below its root."""
    if emulator.switches.path_in_project == "hash":
        return emulator.lab.by_artifact_path(artifact_path)
    # All runs of a project share its root: the first that has something there.
    runs = emulator.lab.runs_of(number(project) or 0)
    bare = artifact_path.removesuffix("/")
    found = (run for run in runs if run.tree.find(artifact_path) is not None or run.tree.is_dir(bare))
    return next(((run, artifact_path) for run in found), None)


def _missing(emulator: Emulator) -> Response:
    details = {"400": "artifact_path is not valid", "404": "artifact not found", "500": "Internal Server Error"}
    form = emulator.switches.missing_content
    return error(emulator, int(form), details[form])


def _file(switches: Switches, request: Request, run: Run, path: str, file: File, answer: int) -> ASGIApp:
    headers = {"Content-Type": switches.content_type} | _validators(switches, file, answer)
    if request.headers.get("if-none-match") in (headers.get("ETag"), "*") and "ETag" in headers:
        return Response(status_code=304, headers=headers)
    start, end, status = 0, file.size, 200
    if switches.encoding == "gzip":
        packed = _gzip(run.tree.read(path, file, 0, file.size))
        return Body(
            status=200,
            headers=headers | {"Content-Encoding": "gzip"},
            pieces=packed,
            length=None,
            bytes_per_s=switches.bytes_per_s,
        )
    if switches.ranges == "granted":
        headers["Accept-Ranges"] = "bytes"
        asked = request.headers.get("range")
        if asked is not None and _unchanged(request.headers.get("if-range"), headers):
            span = byte_range(asked, file.size)
            if span == UNSATISFIABLE:
                return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{file.size}"})
            if span is not None:
                (start, end), status = span, 206
    if status == 206:
        if switches.wrong_content == "wrong_range":
            start, end = _another(start, end, file.size)
        total = file.size + 1 if switches.wrong_content == "wrong_total" else file.size
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
    if switches.wrong_content == "short":
        end = start + (end - start) // 2
    length = None if switches.length == "chunked" else end - start
    pieces = run.tree.read(path, file, start, end)
    if switches.wrong_content == "surplus" and status == 206:
        length, pieces = None, itertools.chain((bytes(piece).translate(_OTHER_BYTES) for piece in pieces), [b"!"])
    return Body(status=status, headers=headers, pieces=pieces, length=length, bytes_per_s=switches.bytes_per_s)


def _validators(switches: Switches, file: File, answer: int) -> dict[str, str]:
    tag = f"{file.seed:016x}-{file.size:x}"
    tags = {"none": None, "strong": f'"{tag}"', "weak": f'W/"{tag}"', "changing": f'"{tag}-{answer}"'}
    headers = {}
    if value := tags[switches.etag]:
        headers["ETag"] = value
    if switches.last_modified:
        headers["Last-Modified"] = format_datetime(file.modified_at().replace(microsecond=0), usegmt=True)
    return headers


def _unchanged(if_range: str | None, headers: dict[str, str]) -> bool:
    """Say whether a range may be answered. If-Range compares strongly (RFC 9110, 13.1.5): no weak tag fits."""
    if if_range is None:
        return True
    return not if_range.startswith("W/") and if_range in (headers.get("ETag"), headers.get("Last-Modified"))


UNSATISFIABLE = (-1, -1)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Return (start, end) in bytes, end excluded, that a Range header asks for of a file of `size` bytes.

    UNSATISFIABLE where that is 416; None where the header is to be ignored: another unit, several ranges, no sense.
    """
    unit, _, spec = header.partition("=")
    first, sign, last = (part.strip() for part in spec.partition("-"))
    if (
        unit.strip().lower() != "bytes"
        or not sign
        or not all(not part or (part.isascii() and part.isdecimal()) for part in (first, last))
    ):
        return None
    if first:
        start, end = int(first), int(last) + 1 if last else size
        if end <= start and last:
            return None
        return (start, min(end, size)) if start < size else UNSATISFIABLE
    if not last:
        return None
    return (max(0, size - int(last)), size) if int(last) and size else UNSATISFIABLE


def _another(start: int, end: int, size: int) -> tuple[int, int]:
    """Return a span beside the one asked for: a byte later, else a byte earlier, else one byte shorter."""
    if end < size:
        return start + 1, end + 1
    if start > 0:
        return start - 1, end - 1
    return start, max(start + 1, end - 1)


def _gzip(pieces: Iterator[memoryview | bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(level=1, wbits=31)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()
