"""JSON of Model Lab -> frozen structs. What may be absent, null or odd is said per field.

The schemas are a preview and subject to change (model-lab-api.md): unknown fields are ignored, absent ones
tolerated. msgspec decodes the well-formed answer in one pass; what it refuses (lone surrogates, broken UTF-8,
a row of another type) goes the slow way, row by row, so that one odd row costs itself and nothing else.
"""

import datetime
import json
from typing import Any

import ijson
import msgspec

from artifactfs.errors import UnexpectedAnswer

# Deeper JSON than this is an attack on the recursion limit, not a listing.
_NESTING_HINT = "it is nested too deeply"

# Where the rows of a project's listing stand, and how deep; None is a list.
_ROWS_AT = ["data", "attributes", "files", None]
_ROW_DEPTH = len(_ROWS_AT) + 1
# Deeper than this, or in longer texts, nothing comes that could be a row.
_MAX_DEPTH = 64
_MAX_TEXT_BYTES = 1 << 20
# Rows are decoded by so many bytes at once, where that many come; one row may have as many as a path in JSON's escapes.
_MANY_BYTES = 4 << 10
_MAX_ROW_BYTES = 64 << 10
# How many lists may begin before that of the rows.
_MAX_LISTS = 16

FINISHED = frozenset({"completed", "failed", "killed"})


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


class Page(msgspec.Struct, frozen=True):
    """One page of runs. `next_number` None: it is the last, as far as the server lets one see."""

    runs: list[Run]
    number: int | None
    next_number: int | None


# --- the shapes on the wire -----------------------------------------------------------------------------


class _ListingAttributes(msgspec.Struct):
    files: list[FileRow] | None = None
    path_in_project: str | None = None


class _ListingData(msgspec.Struct):
    attributes: _ListingAttributes


class _ListingAnswer(msgspec.Struct):
    data: _ListingData


_listing_decoder = msgspec.json.Decoder(_ListingAnswer)
_project_files_decoder = msgspec.json.Decoder(list[ProjectFile])


def decode_run_listing(body: bytes) -> RunListing:
    """Decode the answer of `/runs/{id}/artifacts`. Raises UnexpectedAnswer."""
    try:
        attributes = _listing_decoder.decode(body).data.attributes
        files, prefix, odd = attributes.files or [], attributes.path_in_project, 0
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        files, prefix, odd = _listing_row_by_row(body)
    if prefix is None:
        raise UnexpectedAnswer("the listing holds no path_in_project, so nothing in it could be read")
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


class ProjectDecoder:
    """Decodes a project's listing as it streams: it may be large, and nothing may hold up the event loop.

    From ijson's events until the rows have begun. From there on msgspec decodes all rows that are there, in a fifth of
    the time: what stands before a `},{` is whole rows, or else, with its bracket, no JSON. What it refuses goes by
    events, with all that follows; ijson's ready-made `items` would take 10 GB of memory for 100 KB of opening brackets.
    """

    def __init__(self) -> None:
        self._events = ijson.sendable_list()
        self._parser = ijson.basic_parse_coro(self._events, use_float=True)
        # Containers that are open, and by what the value that comes next stands in each of the outer ones: None in
        # a list.
        self._depth = 0
        self._at: list[str | None] = [None] * (_ROW_DEPTH + 1)
        self._row: dict[str, Any] | None = None
        # Whether the last that came was the beginning of the list of rows.
        self._is_before_rows = False
        # Bytes since the last event.
        self._silent_bytes = 0
        # Lists that began; and what came of the rows and is not decoded yet, None where they go by events.
        self._lists = 0
        self._rest: bytes | None = None

    def feed(self, piece: bytes) -> list[ProjectFile]:
        """Return rows that came so far, each once, in order; one without a usable path is left out.

        Raises UnexpectedAnswer.
        """
        files: list[ProjectFile] = []
        while self._rest is None and self._lists < _MAX_LISTS and len(piece) >= _MANY_BYTES:
            head, bracket, piece = piece.partition(b"[")
            files += self._by_events(head + bracket)
            self._lists += 1
            if self._is_before_rows:
                self._rest = b""
        return files + (self._by_events(piece) if self._rest is None else self._many(self._rest + piece))

    def _many(self, rest: bytes) -> list[ProjectFile]:
        """Decode what begins where a row does; keep what is no whole row yet."""
        self._rest = rest
        if len(rest) < _MANY_BYTES:
            return []
        end = max(rest.rfind(b"},{"), rest.rfind(b"}, {"))
        if end < 0 and len(rest) <= _MAX_ROW_BYTES:
            return []
        if end >= 0:
            try:
                files = _project_files_decoder.decode(b"[%b]" % rest[: end + 1])
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                pass  # an odd row, or none at all: by events it costs itself and nothing else
            else:
                self._rest = rest[rest.index(b"{", end) :]
                return files
        self._rest = None
        return self._by_events(rest)

    def _by_events(self, piece: bytes) -> list[ProjectFile]:
        if not piece:
            return []  # for the parser that would be the end
        try:
            self._parser.send(piece)
        # Text that is no text (broken UTF-8) is refused as a whole here: which row it was in is not known.
        except (ijson.JSONError, UnicodeError, StopIteration) as error:
            raise UnexpectedAnswer("the project's listing is not the JSON expected") from error
        self._silent_bytes = 0 if self._events else self._silent_bytes + len(piece)
        if self._silent_bytes > _MAX_TEXT_BYTES:
            raise UnexpectedAnswer(f"a text in the project's listing is longer than {_MAX_TEXT_BYTES >> 20} MiB")
        rows = self._rows()
        self._is_before_rows = (
            bool(self._events)
            and self._events[-1][0] == "start_array"
            and self._depth == _ROW_DEPTH - 1
            and self._at[1:_ROW_DEPTH] == _ROWS_AT
        )
        self._events.clear()
        if self._depth > _MAX_DEPTH:
            raise UnexpectedAnswer(f"the project's listing is not the JSON expected: {_NESTING_HINT}")
        return [file for row in rows if (file := _project_file(row)) is not None]

    def _rows(self) -> list[dict[str, Any]]:
        """Return the rows that the events at hand complete, without what is deeper in them."""
        rows: list[dict[str, Any]] = []
        depth, at, row = self._depth, self._at, self._row
        for event, value in self._events:
            if event == "map_key":
                if depth <= _ROW_DEPTH:
                    at[depth] = value
            elif event in ("start_map", "start_array"):
                if depth == _ROW_DEPTH - 1 and event == "start_map" and at[1:_ROW_DEPTH] == _ROWS_AT:
                    row = {}
                depth += 1
                if depth <= _ROW_DEPTH:
                    at[depth] = None
            elif event in ("end_map", "end_array"):
                if row is not None and depth == _ROW_DEPTH:
                    rows.append(row)
                    row = None
                depth -= 1
            elif row is not None and depth == _ROW_DEPTH and (key := at[depth]) is not None:
                row[key] = value
        self._depth, self._row = depth, row
        return rows

    def finish(self) -> list[ProjectFile]:
        """Return the last rows. Raises UnexpectedAnswer unless the listing has come to its end."""
        files = self._by_events(self._rest or b"")
        try:
            self._parser.close()
        except ijson.JSONError as error:
            raise UnexpectedAnswer("the project's listing ends in the middle") from error
        return files


def _project_file(row: dict[str, Any]) -> ProjectFile | None:
    if not isinstance(path := row.get("artifact_path"), str):
        return None
    size, created_at = row.get("file_size"), row.get("created_at")
    sized = isinstance(size, int | float | str) and not isinstance(size, bool)
    return ProjectFile(path, size if sized else None, created_at if isinstance(created_at, str) else None)


def decode_run(body: bytes) -> Run:
    """Decode the answer of `/runs/{id}`. Raises UnexpectedAnswer."""
    return _run(_data(_lenient_json(body)))


def decode_runs(body: bytes) -> Page:
    """Decode a page of `/runs`; a row without a usable id is left out. Raises UnexpectedAnswer."""
    answer = _lenient_json(body)
    rows = answer.get("data") if isinstance(answer, dict) else None
    if rows is None and isinstance(answer, dict) and "data" in answer:
        rows = []
    if not isinstance(rows, list):
        raise UnexpectedAnswer("the page of runs holds no list of runs")
    runs = []
    for row in rows:
        try:
            runs.append(_run(row))
        except UnexpectedAnswer:
            continue
    meta = answer.get("meta")
    page = meta.get("page") if isinstance(meta, dict) else None
    page = page if isinstance(page, dict) else {}
    number, following, last = (_whole(page.get(key)) for key in ("number", "next_number", "last_number"))
    if not rows or (number is not None and following is not None and following <= number):
        following = None
    if number is not None and last is not None and number >= last:
        following = None
    return Page(runs, number, following)


def error_text(body: bytes, content_type: str) -> str:
    """Return what an error body says, in one line; empty where it says nothing. Never raises.

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
            parts.append(printable(str(text)))
    return "; ".join(dict.fromkeys(parts))[:300]


def printable(text: str) -> str:
    """Return server text for a log or terminal: one line, no control characters, no surrogates."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def parse_time_ns(value: object) -> int | None:
    """Return nanoseconds since the epoch for an RFC 3339 time with 0 to 9 digits; None if it is none.

    Microseconds are what datetime keeps; the recordings have at most six digits.
    """
    if not isinstance(value, str):
        return None
    try:
        when = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
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
        raise UnexpectedAnswer(f"the answer is not the JSON expected: {_NESTING_HINT}") from None
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
    return Run(
        run_id=run_id,
        project_id="" if project is None else str(project),
        name=name if isinstance(name, str) else "",
        status=status.lower() if isinstance(status, str) else "",
        created_ns=parse_time_ns(attributes.get("created_at")),
        completed_ns=parse_time_ns(attributes.get("completed_at")),
        updated_ns=parse_time_ns(attributes.get("updated_at")),
        deleted=bool(attributes.get("deleted_at")),
    )


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return None
