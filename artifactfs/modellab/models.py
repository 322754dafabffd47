"""JSON of Model Lab -> frozen structs. Each field says whether it may be absent, null or odd.

The schemas are a preview and subject to change (model-lab-api.md): unknown fields are ignored, absent ones
tolerated. msgspec decodes a well-formed answer in one pass. An answer that it refuses (lone surrogates, broken UTF-8,
NaN, a number without end, a row of another type) is decoded row by row, so that one odd row costs only itself.
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

# Names are cut to what a file name could show of them (255 bytes): 20,000 runs are cached.
_MAX_NAME = 255
# Characters of an odd id that a log shows; arbitrary.
_MAX_ODD = 40
# Ids are int64 in the paths of requests.
_MAX_ID = 2**63 - 1
# Of a listing with an odd row: bytes, and rows, between two turns of the event loop; some milliseconds.
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
    """One page of runs or projects, and its place in the list as far as it gives it.

    `next_number`, `last_number`: of the next and the last page. `size`: of every page. `total`: of all rows.
    `says_last`: it says that no page follows. `odd`: the ids of rows that were sent and are not among `rows`.
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
        """How many rows were sent, odd ones too."""
        return len(self.rows) + len(self.odd)


class _ListingAttributes(msgspec.Struct, Generic[T]):
    files: list[T] | None = None
    path_in_project: str | None = None


class _ListingData(msgspec.Struct, Generic[T]):
    attributes: _ListingAttributes[T]


class _ListingAnswer(msgspec.Struct, Generic[T]):
    data: _ListingData[T]


# The rows as they were sent, each to be decoded on its own, are msgspec.Raw.
_listing_decoder = msgspec.json.Decoder(_ListingAnswer[FileRow])
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
    if not can_be_sent(prefix):
        raise UnexpectedAnswer("the listing's path_in_project is no text")
    return RunListing(files, prefix, odd)


def _listing_row_by_row(
    body: bytes, lenient_bytes: int
) -> Generator[None, None, tuple[list[FileRow], str | None, int]]:
    # HTML, or megabytes of spaces.
    if _OBJECT_BEGINS.match(body) is None:
        raise UnexpectedAnswer("the answer is not JSON")
    # The repaired body takes its size once more, and each row an object.
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
    return run_of(one_of(body))


def decode_runs(body: bytes) -> Page[Run]:
    """Decode a page of `/runs`; a row without a usable id is left out and reported. Raises UnexpectedAnswer."""
    return page_of(body, "runs", run_of)


def decode_project(body: bytes) -> Project:
    """Decode the answer of `/projects/{id}`. Raises UnexpectedAnswer."""
    return project_of(one_of(body))


def decode_projects(body: bytes) -> Page[Project]:
    """Decode a page of `/projects`; a row without a usable id is left out and reported. Raises UnexpectedAnswer."""
    return page_of(body, "projects", project_of)


def one_of(body: bytes) -> Any:
    """Return the `data` of an answer about one run or project, as sent."""
    answer = _lenient_json(body)
    return answer.get("data") if isinstance(answer, dict) else None


def page_of(body: bytes, what: str, decode: Callable[[Any], T]) -> Page[T]:
    """Decode a page of `what`, row by row: what `decode` refuses with UnexpectedAnswer is left out, and reported."""
    answer = _lenient_json(body)
    sent = answer.get("data", answer) if isinstance(answer, dict) else answer
    if not isinstance(answer, dict) or not isinstance(sent, list | None):
        raise UnexpectedAnswer(f"the page of {what} holds no list of {what}")
    rows = []
    odd = []
    for row in sent or []:
        try:
            rows.append(decode(row))
        except UnexpectedAnswer:
            odd.append(_written(row.get("id") if isinstance(row, dict) else row))
    meta = answer.get("meta")
    page = meta.get("page") if isinstance(meta, dict) else None
    page = page if isinstance(page, dict) else {}
    keys = ("number", "next_number", "last_number", "total", "size")
    number, following, last, total, size = (_whole(page.get(key)) for key in keys)
    if number is not None and ((following or 0) <= number or (last is not None and number >= last)):
        following = None
    says_last = "next_number" in page and (following is None or not sent)
    return Page(rows, number, following if sent else None, last, total, size, says_last, odd)


def _written(value: object) -> str:
    """Return an odd value for a log."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value[:_MAX_ODD]) if isinstance(value, str) else "null" if value is None else str(value)


def error_text(body: bytes, content_type: str, secrets: Iterable[str] = ()) -> str:
    """Return the message of an error's body, in one line, exact except for blanks; empty without one. Never raises.

    `secrets` are redacted: an answer may repeat its request.
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
        return _since_epoch_ns(value)
    except ValueError:
        pass
    # RFC 3339 allows small letters, and a leap second at the end of a day of UTC; datetime refuses both.
    text = value.upper()
    is_leap = text[16:19] == ":60"
    try:
        time_ns = _since_epoch_ns(f"{text[:16]}:59{text[19:]}" if is_leap else text)
    except ValueError:
        return None
    # As POSIX counts, a leap second is the second that follows.
    time_ns += 10**9 if is_leap else 0
    return None if is_leap and time_ns // 10**9 % 86400 else time_ns


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _since_epoch_ns(text: str) -> int:
    when = datetime.datetime.fromisoformat(text)
    since = (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)) - _EPOCH
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


def attributes_of(data: Any, what: str) -> tuple[int, dict[str, Any]]:
    """Return the id and the attributes of a run or project, as sent. Raises UnexpectedAnswer."""
    attributes, number = (data.get("attributes"), _whole(data.get("id"))) if isinstance(data, dict) else (None, None)
    if not isinstance(attributes, dict) or number is None or not 1 <= number <= _MAX_ID:
        raise UnexpectedAnswer(f"the answer holds no {what}")
    return number, attributes


def run_of(data: Any) -> Run:
    """Return the run that `data` describes. Raises UnexpectedAnswer."""
    run_id, attributes = attributes_of(data, "run")
    project, status = attributes.get("project_id"), attributes.get("status")
    if isinstance(project, str) and not can_be_sent(project):
        raise UnexpectedAnswer("the run's project_id is no text")
    return Run(
        run_id=run_id,
        project_id="" if project is None else str(project),
        name=_name(attributes),
        status=status if isinstance(status, str) else "",
        created_ns=parse_time_ns(attributes.get("created_at")),
        completed_ns=parse_time_ns(attributes.get("completed_at")),
        updated_ns=parse_time_ns(attributes.get("updated_at")),
        deleted=bool(attributes.get("deleted_at")),
    )


def project_of(data: Any) -> Project:
    """Return the project that `data` describes. Raises UnexpectedAnswer."""
    project_id, attributes = attributes_of(data, "project")
    updated_ns = parse_time_ns(attributes.get("updated_at"))
    return Project(project_id, _name(attributes), updated_ns=updated_ns, deleted=bool(attributes.get("deleted_at")))


def _name(attributes: dict[str, Any]) -> str:
    name = attributes.get("name")
    return name[:_MAX_NAME] if isinstance(name, str) else ""


def can_be_sent(text: str) -> bool:
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
