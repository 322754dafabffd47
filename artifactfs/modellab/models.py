"""JSON of Model Lab -> frozen structs. What may be absent, null or odd is said per field.

The schemas are a preview and subject to change (model-lab-api.md): unknown fields are ignored, absent ones
tolerated. msgspec decodes the well-formed answer in one pass; what it refuses (lone surrogates, broken UTF-8,
a row of another type) goes the slow way, row by row, so that one odd row costs itself and nothing else.
"""

import datetime
import json
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from artifactfs.errors import UnexpectedAnswer

# Deeper JSON than this is an attack on the recursion limit, not a listing.
NESTING_HINT = "it is nested too deeply"

FINISHED = frozenset({"completed", "failed", "killed"})
# Of a name no more is kept than a file name could show of it (255 bytes): 20,000 runs are remembered.
_MAX_NAME = 255

T = TypeVar("T")


class FileRow(msgspec.Struct, frozen=True, gc=False):
    """One row of `files` of a run's listing, as sent.

    `path`: relative to the run's root, or to the queried directory; a directory may end in a slash.
    `is_dir`: may be absent where the slash says it. `file_size`: bytes; absent, null, or numeric text.
    """

    path: str
    is_dir: bool | None = None
    file_size: int | float | str | None = None


class RunListing(msgspec.Struct, frozen=True):
    """The answer to a listing of a run: `files` in the server's order, and the opaque `path_in_project`."""

    files: list[FileRow]
    path_in_project: str
    odd_rows: int = 0


class ProjectFile(msgspec.Struct, frozen=True, gc=False):
    """One row of `files` of a project's listing (the index), as sent.

    `path`: what the content endpoint takes as `artifact_path`. `file_size`: as in FileRow. `created_at`: RFC 3339.
    """

    path: str = msgspec.field(name="artifact_path")
    file_size: int | float | str | None = None
    created_at: str | None = None


class Run(msgspec.Struct, frozen=True, gc=False):
    """A run. Times are nanoseconds since the epoch, None where the server gave none that can be read."""

    run_id: int
    project_id: str
    name: str = ""
    status: str = ""
    created_ns: int | None = None
    completed_ns: int | None = None
    updated_ns: int | None = None
    deleted: bool = False

    @property
    def finished(self) -> bool:
        """Whether the run has ended, for good as far as the service says."""
        return self.status in FINISHED


class Project(msgspec.Struct, frozen=True, gc=False):
    """A project. Times are nanoseconds since the epoch, None where the server gave none that can be read."""

    project_id: int
    name: str = ""
    updated_ns: int | None = None
    deleted: bool = False


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of runs or projects. `next_number` None: it is the last, as far as the server lets one see.

    `last_number`: the last page's, `total`: how many rows there are in all, where the server tells it.
    """

    rows: list[T]
    number: int | None
    next_number: int | None
    last_number: int | None
    total: int | None = None


# --- the shapes on the wire -----------------------------------------------------------------------------


class _ListingAttributes(msgspec.Struct):
    files: list[FileRow] | None = None
    path_in_project: str | None = None


class _ListingData(msgspec.Struct):
    attributes: _ListingAttributes


class _ListingAnswer(msgspec.Struct):
    data: _ListingData


_listing_decoder = msgspec.json.Decoder(_ListingAnswer)


def decode_run_listing(body: bytes) -> RunListing:
    """Decode the answer of `/runs/{id}/artifacts`. Raises UnexpectedAnswer."""
    try:
        attributes = _listing_decoder.decode(body).data.attributes
        files, prefix, odd = attributes.files or [], attributes.path_in_project, 0
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        files, prefix, odd = _listing_row_by_row(body)
    if prefix is None:
        raise UnexpectedAnswer("the listing holds no path_in_project, so nothing in it could be read")
    if not _can_be_sent(prefix):
        raise UnexpectedAnswer("the listing's path_in_project is no text")
    return RunListing(files, prefix, odd)


def _listing_row_by_row(body: bytes) -> tuple[list[FileRow], str | None, int]:
    attributes = _attributes(_data(_lenient_json(body)))
    raw = attributes.get("files") or []
    prefix = attributes.get("path_in_project")
    if not isinstance(raw, list) or not isinstance(prefix, str | None):
        raise UnexpectedAnswer("the listing's files are no list")
    files = []
    for row in raw:
        try:
            files.append(msgspec.convert(row, FileRow))
        except (msgspec.ValidationError, UnicodeError):
            # msgspec refuses text with lone surrogates; such names are the tree's to leave out and count.
            if isinstance(row, dict) and isinstance(path := row.get("path"), str):
                size = row.get("file_size")
                sized = isinstance(size, int | float | str) and not isinstance(size, bool)
                files.append(FileRow(path, row.get("is_dir") in (True, "true"), size if sized else None))
    return files, prefix, len(raw) - len(files)


def decode_run(body: bytes) -> Run:
    """Decode the answer of `/runs/{id}`. Raises UnexpectedAnswer."""
    return _run(_data(_lenient_json(body)))


def attributes_of(body: bytes) -> dict[str, Any]:
    """Return all that an answer about one run or project tells, as sent. Raises UnexpectedAnswer."""
    return _attributes(_data(_lenient_json(body)))


def decode_runs(body: bytes) -> Page[Run]:
    """Decode a page of `/runs`; a row without a usable id is left out. Raises UnexpectedAnswer."""
    return _page(body, "runs", _run)


def decode_project(body: bytes) -> Project:
    """Decode the answer of `/projects/{id}`. Raises UnexpectedAnswer."""
    return _project(_data(_lenient_json(body)))


def decode_projects(body: bytes) -> Page[Project]:
    """Decode a page of `/projects`; a row without a usable id is left out. Raises UnexpectedAnswer."""
    return _page(body, "projects", _project)


def _page(body: bytes, what: str, decode: Callable[[Any], T]) -> Page[T]:
    answer = _lenient_json(body)
    sent = answer.get("data") if isinstance(answer, dict) else None
    if sent is None and isinstance(answer, dict) and "data" in answer:
        sent = []
    if not isinstance(sent, list):
        raise UnexpectedAnswer(f"the page of {what} holds no list of {what}")
    rows = []
    for row in sent:
        try:
            rows.append(decode(row))
        except UnexpectedAnswer:
            continue
    meta = answer.get("meta")
    page = meta.get("page") if isinstance(meta, dict) else None
    page = page if isinstance(page, dict) else {}
    keys = ("number", "next_number", "last_number", "total")
    number, following, last, total = (_whole(page.get(key)) for key in keys)
    if not sent or (number is not None and following is not None and following <= number):
        following = None
    if number is not None and last is not None and number >= last:
        following = None
    return Page(rows, number, following, last, total)


def error_text(body: bytes, content_type: str, secrets: Iterable[str] = ()) -> str:
    """Return what an error body says, exact but for blanks, in one line; empty where it says nothing. Never raises.

    `secrets` are blotted out: an answer may repeat what it was sent.

    Seen shapes: a list of strings, a list of objects with title and detail, HTML, nothing.
    """
    try:
        answer = _lenient_json(body)
    except UnexpectedAnswer:
        return "" if not body.strip() else ("an HTML page" if b"<" in body[:200] or "html" in content_type else "")
    errors = answer.get("errors", answer.get("error", answer.get("message"))) if isinstance(answer, dict) else answer
    parts = []
    for error in errors if isinstance(errors, list) else [errors]:
        if isinstance(error, dict):
            text = error.get("detail") or error.get("title") or error.get("message") or error.get("status")
        else:
            text = error
        if text is not None:
            parts.append(" ".join(str(text).split()))
    said = "; ".join(dict.fromkeys(parts))
    for secret in secrets:
        said = said.replace(secret, "********")
    return said[:300]


def parse_time_ns(value: object) -> int | None:
    """Return nanoseconds since the epoch for an RFC 3339 time with 0 to 9 digits; None if it is none.

    Years are 1 to 9999 as they are written; by an offset the moment may lie in the year 0 or 10000 of UTC, and is kept.
    Without an offset it is UTC. Microseconds are what datetime keeps; the recordings have at most six digits.
    """
    if not isinstance(value, str):
        return None
    try:
        return _since_epoch_ns(datetime.datetime.fromisoformat(value))
    except ValueError:
        return _rare_time_ns(value)


def _rare_time_ns(text: str) -> int | None:
    """Return what RFC 3339 allows and datetime refuses: small letters, and a leap second at the end of a day of UTC."""
    text = text.upper()
    leap = text[16:19] == ":60"
    try:
        time_ns = _since_epoch_ns(datetime.datetime.fromisoformat(f"{text[:16]}:59{text[19:]}" if leap else text))
    except ValueError:
        return None
    if not leap:
        return time_ns
    # As POSIX counts, it is the second that follows.
    following_ns = time_ns + 10**9
    return following_ns if following_ns // 10**9 % 86400 == 0 else None


def _since_epoch_ns(when: datetime.datetime) -> int:
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    since = when - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000


def _lenient_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass  # the standard library's decoder takes lone surrogates; try it before giving up
    try:
        # Broken UTF-8 becomes lone surrogates, and with them names that are left out one by one.
        return json.loads(body.decode("utf-8", "surrogateescape"))
    except RecursionError:
        raise UnexpectedAnswer(f"the answer is not the JSON expected: {NESTING_HINT}") from None
    except ValueError:
        raise UnexpectedAnswer("the answer is not JSON") from None


def _data(answer: Any) -> dict[str, Any]:
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise UnexpectedAnswer("the answer holds no data")
    return data


def _attributes(data: dict[str, Any]) -> dict[str, Any]:
    attributes = data.get("attributes")
    if not isinstance(attributes, dict):
        raise UnexpectedAnswer("the answer's data holds no attributes")
    return attributes


def _run(data: Any) -> Run:
    attributes = _attributes(data) if isinstance(data, dict) else None
    run_id = _whole(data.get("id")) if attributes is not None else None
    if attributes is None or run_id is None:
        raise UnexpectedAnswer("the answer holds no run")
    project, name, status = (attributes.get(key) for key in ("project_id", "name", "status"))
    if isinstance(project, str) and not _can_be_sent(project):
        raise UnexpectedAnswer("the run's project_id is no text")
    return Run(
        run_id=run_id,
        project_id="" if project is None else str(project),
        name=name[:_MAX_NAME] if isinstance(name, str) else "",
        status=status.lower() if isinstance(status, str) else "",
        created_ns=parse_time_ns(attributes.get("created_at")),
        completed_ns=parse_time_ns(attributes.get("completed_at")),
        updated_ns=parse_time_ns(attributes.get("updated_at")),
        deleted=bool(attributes.get("deleted_at")),
    )


def _project(data: Any) -> Project:
    attributes = _attributes(data) if isinstance(data, dict) else None
    project_id = _whole(data.get("id")) if attributes is not None else None
    if attributes is None or project_id is None:
        raise UnexpectedAnswer("the answer holds no project")
    name = attributes.get("name")
    return Project(
        project_id=project_id,
        name=name[:_MAX_NAME] if isinstance(name, str) else "",
        updated_ns=parse_time_ns(attributes.get("updated_at")),
        deleted=bool(attributes.get("deleted_at")),
    )


def _can_be_sent(text: str) -> bool:
    """Whether a text can stand in a URL: one with a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return None
