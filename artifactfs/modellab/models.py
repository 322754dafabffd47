"""JSON of Model Lab -> frozen structs. What may be absent, null or odd is said per field.

The schemas are a preview and subject to change (model-lab-api.md): unknown fields are ignored, absent ones
tolerated. msgspec decodes the well-formed answer in one pass; what it refuses (lone surrogates, broken UTF-8, NaN, a
number without end, a row of another type) goes the slow way, row by row, so that one odd row costs itself and nothing
else.
"""

import datetime
import re
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from artifactfs.domain import Project, Run
from artifactfs.errors import UnexpectedAnswer
from artifactfs.modellab import lenient_json
from artifactfs.modellab.size_limits import DEFAULTS

# Deeper JSON than this is an attack on the recursion limit, not a listing.
NESTING_HINT = "it is nested too deeply"

# Of a name no more is kept than a file name could show of it (255 bytes): 20,000 runs are remembered.
_MAX_NAME = 255
# Characters of an odd id that a log shows; arbitrary.
_MAX_ODD = 40
# Ids are int64 in the paths of requests: nothing else can be asked for.
_MAX_ID = 2**63 - 1
# Of a listing with something odd in it: bytes, and rows, between two looks at the event loop; some milliseconds.
_STEP_BYTES = 256 << 10
_STEP_ROWS = 2_000

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


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of runs or projects, and where it says that it stands; None where it does not.

    `next_number`: the next page's, `last_number`: the last one's, `size`: of every page, `total`: of all rows.
    `says_last`: it is said that no page follows. `odd`: the ids of rows that were sent and are not among `rows`.
    """

    rows: list[T]
    number: int | None = None
    next_number: int | None = None
    last_number: int | None = None
    total: int | None = None
    size: int | None = None
    says_last: bool = False
    odd: list[str] = []

    @property
    def sent(self) -> int:
        """How many rows came, odd ones too."""
        return len(self.rows) + len(self.odd)


# --- the shapes on the wire -----------------------------------------------------------------------------


class _ListingAttributes(msgspec.Struct, Generic[T]):
    files: list[T] | None = None
    path_in_project: str | None = None


class _ListingData(msgspec.Struct, Generic[T]):
    attributes: _ListingAttributes[T]


class _ListingAnswer(msgspec.Struct, Generic[T]):
    data: _ListingData[T]


_listing_decoder = msgspec.json.Decoder(_ListingAnswer[FileRow])
# The rows as they were sent, each to be decoded on its own.
_raw_listing_decoder = msgspec.json.Decoder(_ListingAnswer[msgspec.Raw])
_OBJECT_BEGINS = re.compile(rb"[ \t\r\n]*\{")
_row_decoder = msgspec.json.Decoder(FileRow)


def decode_run_listing(body: bytes, lenient_bytes: int = DEFAULTS.lenient_bytes) -> RunListing:
    """Decode the answer of `/runs/{id}/artifacts`. Raises UnexpectedAnswer."""
    return finish(run_listing_in_steps(body, lenient_bytes))


def finish(steps: Generator[None, None, T]) -> T:
    """Return the result of work in steps, for callers without an event loop to keep alive."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: T = done.value
            return found


def run_listing_in_steps(body: bytes, lenient_bytes: int = DEFAULTS.lenient_bytes) -> Generator[None, None, RunListing]:
    """Decode as `decode_run_listing`; yields every few milliseconds where an odd row makes it long."""
    try:
        attributes = _listing_decoder.decode(body).data.attributes
        files, prefix, odd = attributes.files or [], attributes.path_in_project, 0
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        files, prefix, odd = yield from _listing_row_by_row(body, lenient_bytes)
    if prefix is None:
        raise UnexpectedAnswer("the listing holds no path_in_project, so nothing in it could be read")
    if not _can_be_sent(prefix):
        raise UnexpectedAnswer("the listing's path_in_project is no text")
    return RunListing(files, prefix, odd)


def _listing_row_by_row(
    body: bytes, lenient_bytes: int
) -> Generator[None, None, tuple[list[FileRow], str | None, int]]:
    # A page of HTML, or megabytes of spaces, are not worth the work.
    if _OBJECT_BEGINS.match(body) is None:
        raise UnexpectedAnswer("the answer is not JSON")
    # What is repaired takes its size once more, and each row an object before it is looked at.
    if len(body) > lenient_bytes:
        raise UnexpectedAnswer("the answer is not the JSON expected, and too large to look closer")
    repair = lenient_json.Repair()
    sound = bytearray()
    for start in range(0, len(body), _STEP_BYTES):
        sound += repair.feed(body[start : start + _STEP_BYTES])
        yield
    sound += repair.feed(b"", final=True)
    try:
        attributes = _raw_listing_decoder.decode(sound).data.attributes
    except RecursionError:
        raise UnexpectedAnswer(f"the answer is not the JSON expected: {NESTING_HINT}") from None
    except msgspec.ValidationError as error:
        raise UnexpectedAnswer(f"the answer is no listing: {error}") from None
    except (msgspec.MsgspecError, UnicodeError):
        raise UnexpectedAnswer("the answer is not JSON") from None
    prefix = attributes.path_in_project
    if prefix is not None and "\0" in prefix:  # it was no text before the repair
        raise UnexpectedAnswer("the listing's path_in_project is no text")
    raw = attributes.files or []
    files = []
    for place, text in enumerate(raw, 1):
        if (row := _file_row(text)) is not None:
            files.append(row)
        if place % _STEP_ROWS == 0:
            yield
    return files, prefix, len(raw) - len(files)


def _file_row(text: msgspec.Raw) -> FileRow | None:
    """Return the row that a text is, odd fields left out; None for one without a path."""
    try:
        return _row_decoder.decode(text)
    except msgspec.MsgspecError:
        row = msgspec.json.decode(text)
    if not isinstance(row, dict) or not isinstance(path := row.get("path"), str):
        return None
    size = row.get("file_size")
    sized = isinstance(size, int | float | str) and not isinstance(size, bool)
    return FileRow(path, row.get("is_dir") in (True, "true"), size if sized else None)


def decode_run(body: bytes) -> Run:
    """Decode the answer of `/runs/{id}`. Raises UnexpectedAnswer."""
    return _run(_data(_lenient_json(body)))


def attributes_of(body: bytes) -> dict[str, Any]:
    """Return all that an answer about one run or project tells, as sent. Raises UnexpectedAnswer."""
    return _attributes(_data(_lenient_json(body)))


def decode_runs(body: bytes) -> Page[Run]:
    """Decode a page of `/runs`; a row without a usable id is left out and reported. Raises UnexpectedAnswer."""
    return _page(body, "runs", _run)


def decode_project(body: bytes) -> Project:
    """Decode the answer of `/projects/{id}`. Raises UnexpectedAnswer."""
    return _project(_data(_lenient_json(body)))


def decode_projects(body: bytes) -> Page[Project]:
    """Decode a page of `/projects`; a row without a usable id is left out and reported. Raises UnexpectedAnswer."""
    return _page(body, "projects", _project)


def _page(body: bytes, what: str, decode: Callable[[Any], T]) -> Page[T]:
    answer = _lenient_json(body)
    sent = answer.get("data") if isinstance(answer, dict) else None
    if sent is None and isinstance(answer, dict) and "data" in answer:
        sent = []
    if not isinstance(sent, list):
        raise UnexpectedAnswer(f"the page of {what} holds no list of {what}")
    rows = []
    odd = []
    for row in sent:
        try:
            rows.append(decode(row))
        except UnexpectedAnswer:
            odd.append(_written(row.get("id") if isinstance(row, dict) else row))
    meta = answer.get("meta")
    page = meta.get("page") if isinstance(meta, dict) else None
    page = page if isinstance(page, dict) else {}
    keys = ("number", "next_number", "last_number", "total", "size")
    number, following, last, total, size = (_whole(page.get(key)) for key in keys)
    if not sent or (number is not None and following is not None and following <= number):
        following = None
    if number is not None and last is not None and number >= last:
        following = None
    says_last = "next_number" in page and following is None
    return Page(rows, number, following, last, total, size, says_last, odd)


def _written(value: object) -> str:
    """Return how an odd value looks, for a log."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value[:_MAX_ODD]) if isinstance(value, str) else "null" if value is None else str(value)


def error_text(body: bytes, content_type: str, secrets: Iterable[str] = ()) -> str:
    """Return what an error body says, exact except for blanks, in one line; empty where it says nothing. Never raises.

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


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _since_epoch_ns(when: datetime.datetime) -> int:
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    since = when - _EPOCH
    return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000


def _lenient_json(body: bytes) -> Any:
    if len(body) > DEFAULTS.lenient_bytes:
        raise UnexpectedAnswer("the answer is not the JSON expected, and too large to look closer")
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass  # it takes neither lone surrogates nor NaN
    try:
        return lenient_json.loads(body)
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
    run_id = _id(data) if attributes is not None else None
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
    project_id = _id(data) if attributes is not None else None
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


def _id(data: dict[str, Any]) -> int | None:
    """Return the id of a run or project; None for one that cannot be asked for."""
    number = _whole(data.get("id"))
    return number if number is not None and 1 <= number <= _MAX_ID else None


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return None
