"""The forms of the service's answers, for a bundle: what docs/dev/model-lab-api.md leaves open, on a real account.

Requests each thing that is open once, and describes the answers: statuses, header names, the fields of JSON and the
form of their values, sizes. Of values only those pass that are the same for everyone.
"""

import email.utils
import json
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import trio

from artifactfs.doctor.redaction import Redactor
from artifactfs.errors import ServiceError
from artifactfs.modellab.listing_dialects import Dialect
from artifactfs.modellab.transport import Transport
from artifactfs.util.urls import API_PREFIX

# For one answer, and for all. Arbitrary.
_ANSWER_S = 10.0
_ALL_S = 60.0
# A longer body is not described. Arbitrary.
_MAX_BODY = 8 << 20
# Fields that are shown, forms of one, and levels of JSON. Arbitrary.
_MAX_FIELDS = 300
_MAX_FORMS = 20
_MAX_LEVELS = 8
_MISSING = "artifactfs-doctor-looks-for-what-is-not-there"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Headers of RFC 9110 and its like, of Datadog, and of the proxies and stores that may stand in front: no other name is
# shown, since an organisation's own proxy may add headers with names in them.
_HEADERS = _words(
    """accept-ranges age allow alt-svc cache-control connection content-disposition content-encoding content-language
    content-length content-range content-security-policy content-type cross-origin-resource-policy date etag expires
    keep-alive last-modified link location nel pragma report-to retry-after server server-timing set-cookie
    strict-transport-security transfer-encoding upgrade vary via warning www-authenticate x-cache
    x-content-type-options x-frame-options x-request-id x-ratelimit-limit x-ratelimit-name x-ratelimit-period
    x-ratelimit-remaining x-ratelimit-reset dd-request-id x-envoy-upstream-service-time x-amz-request-id x-amz-id-2
    x-amz-version-id x-amz-storage-class x-amz-server-side-encryption x-goog-generation x-goog-hash x-goog-storage-class
    cf-ray cf-cache-status"""
)
_TOKENS = _words(
    """bytes none gzip br deflate identity chunked close keep-alive no-cache no-store private public nginx amazons3
    envoy cloudflare uvicorn application/json application/vnd.api+json application/octet-stream text/plain text/html
    application/problem+json accept-encoding origin nosniff"""
)
_NUMBERS = _words(
    """age content-length retry-after x-ratelimit-limit x-ratelimit-period x-ratelimit-remaining x-ratelimit-reset
    x-envoy-upstream-service-time"""
)
_TIMES = frozenset({"date", "expires", "last-modified"})
# The fields of the API's document.
_FIELDS = _words(
    """data id type attributes files path_in_project path is_dir file_size filename artifact_path created_at name
    project_id status description owner_id external_url has_children is_pinned tags metric_summaries started_at
    updated_at completed_at duration deleted_at params key value meta page number size total first_number last_number
    next_number prev_number links first last next prev self errors title detail source artifact_storage_location
    mlflow_artifact_location parent_run_id latest_run_at min max mean count included relationships step timestamp
    experiment_id run_count"""
)
_PLAIN = {
    "type": frozenset({"artifacts", "runs", "run", "projects", "project"}),
    "status": frozenset({"pending", "running", "completed", "failed", "killed", "unresponsive", "paused"}),
    "title": frozenset({"Generic Error", "Forbidden", "Not Found", "Bad Request", "Unauthorized"}),
}
# These numbers of a page show where counting begins.
_PAGE = frozenset({"number", "size", "first_number", "next_number", "prev_number"})


@dataclass(frozen=True)
class Place:
    """A run that holds a file, its project, a directory below its root and a file, where there are some.

    `file`: (path in its project, path in its run, size or None). `dialect`: what the doctor's own listings have shown.
    """

    run_id: int
    project_id: str
    directory: str | None
    file: tuple[str, str, int | None] | None
    dialect: Dialect


async def ask(transport: Transport, place: Place, redactor: Redactor) -> list[dict[str, object]]:
    """Return the form of each answer, or of its failure. Sends one request for each question, and none again."""
    base = place.dialect.base
    understood = {"about": "1, 2, 4: the listings as a mount understands them", "slash": place.dialect.slash}
    found: list[dict[str, Any]] = [understood | {"base": None if base is None else base.value}]
    end = trio.current_time() + _ALL_S
    for about, kind, target, headers in _requests(place):
        try:
            with trio.fail_after(min(_ANSWER_S, max(0.0, end - trio.current_time()))):
                answer = await _answer(transport, kind, target, headers, redactor, place)
        except ServiceError as error:
            answer = {"failed": type(error).__name__, "said": redactor.text(str(error))}
        except trio.TooSlowError:
            answer = {"failed": "no answer in time"}
        found.append({"about": about, **answer})
    tags = [each.pop("etag compared") for each in found if "etag compared" in each]
    if len(tags) > 1 and tags[0]:
        found.append({"about": "10: the ETag of two answers with the same bytes", "is_same": tags[0] == tags[1]})
    return found


def _requests(place: Place) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield (the open question, its kind, target, headers)."""

    def target(path: str, /, **query: str) -> str:
        encoded = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in query.items())
        return f"{API_PREFIX}{path}{'?' if encoded else ''}{encoded}"

    run = f"/runs/{place.run_id}"
    yield "runs: where pages begin", "runs", target("/runs", **{"page[size]": "2"}), {}
    yield "projects: where pages begin", "projects", target("/projects", **{"page[size]": "2"}), {}
    yield "a run", "run", target(run), {}
    yield "a project", "project", target(f"/projects/{_quoted(place.project_id)}"), {}
    yield "3 to 6: the root of a run", "listing", target(f"{run}/artifacts"), {}
    if place.directory is not None:
        yield "1, 2: a directory without a slash", "listing", target(f"{run}/artifacts", path=place.directory), {}
        yield "1, 2: a directory with a slash", "listing", target(f"{run}/artifacts", path=f"{place.directory}/"), {}
    yield "7: a path that names nothing", "listing", target(f"{run}/artifacts", path=_MISSING), {}
    yield "the listing of a project", "index", target(f"/projects/{_quoted(place.project_id)}/artifacts"), {}
    if place.file is None:
        return
    in_project, in_run, size = place.file
    yield "7: a path that names a file", "listing", target(f"{run}/artifacts", path=in_run), {}

    def content(path: str) -> str:
        return target("/artifacts/content", project_id=place.project_id, artifact_path=path)

    above = in_project[: len(in_project) - len(in_run)]
    identity = {"Accept": "application/octet-stream, application/json", "Accept-Encoding": "identity"}
    for which in ("10: the second byte of a file", "10: the same again"):
        yield which, "content", content(in_project), identity | {"Range": "bytes=1-1"}
    end = max(size or 0, 1) + 10
    yield "10: a range past the end of a file", "content", content(in_project), identity | {"Range": f"bytes={end}-"}
    yield "10: a file that is not there", "content", content(f"{above}{_MISSING}"), identity
    if place.directory is not None:
        yield "10: a directory's content", "content", content(f"{above}{place.directory}"), identity


async def _answer(
    transport: Transport,
    kind: str,
    target: str,
    headers: dict[str, str],
    redactor: Redactor,
    place: Place,
) -> dict[str, Any]:
    """Send one request, and describe its answer whatever its status. Redirects are described, and not followed."""
    stream = await transport.open(
        kind, target, headers=headers, deadline_s=_ANSWER_S, expected=range(200, 600), max_attempts=1
    )
    try:
        found: dict[str, Any] = {"status": stream.status, "headers": describe_headers(stream.headers, redactor)}
        if kind == "content" and "Range" in headers and stream.status < 300:
            found["etag compared"] = stream.headers.get("etag")
        body = b""
        async with aclosing(stream.chunks()) as chunks:
            async for chunk in chunks:
                body += chunk
                # A whole file after a range that was ignored is not read to its end.
                if len(body) > (_MAX_BODY if kind != "content" else 64 << 10):
                    return found | {"body": "longer than was read"}
        found["received_bytes"] = len(body)
        if kind != "content" or stream.status >= 400:
            directory = place.directory if "?path=" in target else None
            found["body"] = describe_body(body, redactor, directory)
        return found
    finally:
        await stream.aclose()


def describe_headers(headers: Mapping[str, str], redactor: Redactor) -> dict[str, str]:
    """Return the names of headers, and the form of each value."""
    found = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in _HEADERS:
            found[lower] = _header(lower, value, redactor)
        else:
            found[redactor.name(lower, "header")] = "text"
    return found


def _header(name: str, value: str, redactor: Redactor) -> str:
    if name in _NUMBERS and re.fullmatch(r"\d{1,15}", value):
        return value
    if name in _TIMES:
        return "a time" if email.utils.parsedate(value) else "text"
    if name == "etag":
        weak = "weak, " if value.startswith("W/") else ""
        quoted = "quoted" if re.fullmatch(r'(?:W/)?".*"', value) else "not quoted"
        digits = "hexadecimal" if re.fullmatch(r'(?:W/)?"?[0-9a-fA-F]+(?:-\d+)?"?', value) else "text"
        return f"{weak}{quoted}, {digits}, {len(value)} characters"
    if name == "content-range" and re.fullmatch(r"bytes (?:\d+-\d+|\*)/(?:\d+|\*)", value):
        return value
    if name == "location":
        url = urllib.parse.urlsplit(value)
        return f"{url.scheme}://{redactor.host(url.netloc)}" if url.scheme in ("http", "https") else "a path"
    tokens = [token.split(";")[0].strip().lower() for token in value.split(",")]
    return ", ".join(token if token in _TOKENS else "text" for token in tokens[:10])


def describe_body(body: bytes, redactor: Redactor, directory: str | None = None) -> dict[str, str]:
    """Return the fields of JSON, `data.attributes.files[].path`, with the forms of their values and their counts."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        start = body.lstrip()[:1].decode("latin-1")
        return {"not JSON": "HTML or XML" if start == "<" else "text" if body else "empty"}
    forms: dict[str, Counter[str]] = {}
    for field, form in _fields(value, "", "", redactor, directory, _MAX_LEVELS):
        if field not in forms and len(forms) == _MAX_FIELDS:
            continue
        counts = forms.setdefault(field, Counter())
        if form in counts or len(counts) < _MAX_FORMS:
            counts[form] += 1
    return {
        field or "all": "; ".join(f"{count} x {form}" for form, count in counts.items())
        for field, counts in forms.items()
    }


def _fields(
    value: Any, place: str, key: str, redactor: Redactor, directory: str | None, levels: int
) -> Iterator[tuple[str, str]]:
    if levels == 0:
        yield place, "deeper levels"
    elif isinstance(value, dict):
        yield place, "object" if value else "empty object"
        for name, inner in value.items():
            # Unknown fields may be keys of the user's own: of tags, or parameters.
            shown = name if name in _FIELDS else redactor.name(name, "field")
            yield from _fields(inner, f"{place}.{shown}".lstrip("."), name, redactor, directory, levels - 1)
    elif isinstance(value, list):
        yield place, f"list of {len(value)}"
        for inner in value:
            yield from _fields(inner, f"{place}[]", key, redactor, directory, levels - 1)
    else:
        is_page = key in _PAGE and place.startswith("meta.page.")
        yield place, str(value) if is_page and isinstance(value, int) else _scalar(value, key, directory)


def _scalar(value: Any, key: str, directory: str | None) -> str:
    """Return the form of a value, never the value but for the words of the API."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return "0" if value == 0 else "integer" if isinstance(value, int) else "number"
    if value in _PLAIN.get(key, ()):
        return str(value)
    if not value:
        return "empty text"
    if value.isascii() and value.isdecimal():
        return "digits"
    if match := re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?", value):
        return f"time, {len(match[1] or '')} digits of a second, {'Z' if match[2] == 'Z' else 'no Z'}"
    if re.fullmatch(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", value):
        return "UUID"
    if key in ("path", "artifact_path", "filename", "path_in_project"):
        return _path(value, directory if key == "path" else None)
    return "URL" if re.match(r"https?://", value) else "text"


def _path(path: str, directory: str | None) -> str:
    start = "./" if path.startswith("./") else "/" if path.startswith("/") else ""
    bare = path.removeprefix(start).rstrip("/")
    parts = [f"path of {bare.count('/') + 1}"]
    if start:
        parts.append(f"starts with {start}")
    if path.endswith("/"):
        parts.append("ends with /")
    if not bare.isascii() or re.search(r"[^\w./-]", bare):
        parts.append("special characters")
    if directory is not None:
        if bare == directory:
            parts.append("the tried directory itself")
        elif bare.startswith(f"{directory}/"):
            parts.append("below the tried directory")
        elif bare.startswith(directory):
            parts.append("a namesake of the tried directory")
    return ", ".join(parts)


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
