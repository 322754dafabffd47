"""A project's listing as a stream -> rows: it may be large, and must not block the event loop.

ijson's events find the list of rows. From there on msgspec decodes whole rows, in a fifth of the time: the bytes before
a `},{` are whole rows, or else, with a bracket, no JSON. Rows that msgspec refuses are decoded from events, with all
that follow, after a repair (lenient_json.py). ijson's own `items` would need 10 GB of memory for 100 KB of opening
brackets.
"""

from functools import lru_cache
from typing import Any

import ijson
import msgspec

from artifactfs.domain import IndexedFile
from artifactfs.errors import UnexpectedAnswer
from artifactfs.modellab.lenient_json import Repair
from artifactfs.modellab.listing_dialects import size_of
from artifactfs.modellab.models import NESTING_HINT, ProjectFile, parse_time_ns

# Where the rows of a project's listing stand, and how deep; None is a list.
_ROWS_AT = ["data", "attributes", "files", None]
_ROW_DEPTH = len(_ROWS_AT) + 1
# Deeper JSON, or longer texts, cannot hold a row.
_MAX_DEPTH = 64
_MAX_TEXT_BYTES = 1 << 20
# Rows are decoded by so many bytes at once, where that many come; one row may have as many as a path in JSON's escapes.
_MANY_BYTES = 4 << 10
_MAX_ROW_BYTES = 64 << 10
# Times that are remembered, since many files share one: in the recordings they are whole seconds. And the length of one
# at most: RFC 3339 needs 35 characters for nanoseconds and an offset.
_TIMES = 4096
_MAX_TIME_CHARS = 64
# How many lists may begin before that of the rows.
_MAX_LISTS = 16

_project_files_decoder = msgspec.json.Decoder(list[ProjectFile])


class ProjectDecoder:
    """Decodes one listing. Feed it in pieces of a millisecond of work; by events 64 KiB are half of one."""

    def __init__(self) -> None:
        self._repair = Repair()
        self._events = ijson.sendable_list()
        self._parser = ijson.basic_parse_coro(self._events, use_float=True)
        # The number of open containers; and the key of the next value in each of the outer ones: None in a list.
        self._depth = 0
        self._at: list[str | None] = [None] * (_ROW_DEPTH + 1)
        self._row: dict[str, Any] | None = None
        # Whether the last event was the beginning of the list of rows.
        self._is_before_rows = False
        # Bytes since the last event.
        self._silent_bytes = 0
        # Lists that began; and the bytes of rows that are not decoded yet, None where events decode them.
        self._lists = 0
        self._rest: bytes | None = None

    def feed(self, piece: bytes) -> list[IndexedFile]:
        """Return the rows that are complete now, each once, in order; rows without a usable path are left out.

        Raises UnexpectedAnswer.
        """
        files: list[IndexedFile] = []
        while self._rest is None and self._lists < _MAX_LISTS and len(piece) >= _MANY_BYTES:
            head, bracket, piece = piece.partition(b"[")
            files += self._by_events(head + bracket)
            self._lists += 1
            if self._is_before_rows:
                self._rest = b""
        return files + (self._by_events(piece) if self._rest is None else self._many(self._rest + piece))

    def _many(self, rest: bytes) -> list[IndexedFile]:
        """Decode bytes that begin with a row; keep the partial row at their end."""
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
                pass  # an odd row, or none at all: decoded from events, it costs only itself
            else:
                self._rest = rest[rest.index(b"{", end) :]
                return [indexed_file(file) for file in files]
        self._rest = None
        return self._by_events(rest)

    def _by_events(self, piece: bytes, *, final: bool = False) -> list[IndexedFile]:
        sound = self._repair.feed(piece, final=final)
        try:
            if sound:  # the parser takes an empty piece for the end
                self._parser.send(sound)
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
            raise UnexpectedAnswer(f"the project's listing is not the JSON expected: {NESTING_HINT}")
        return [indexed_file(file) for row in rows if (file := _project_file(row)) is not None]

    def _rows(self) -> list[dict[str, Any]]:
        """Return the rows that the parsed events complete, without what is deeper in them."""
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

    def finish(self) -> list[IndexedFile]:
        """Return the last rows. Raises UnexpectedAnswer unless the listing has come to its end."""
        files = self._by_events(self._rest or b"", final=True)
        try:
            self._parser.close()
        except ijson.JSONError as error:
            raise UnexpectedAnswer("the project's listing ends in the middle") from error
        return files


def indexed_file(row: ProjectFile) -> IndexedFile:
    """Return a row's file; a size or a time that cannot be read is unknown."""
    created_at = row.created_at
    if created_at is None or len(created_at) > _MAX_TIME_CHARS:
        return IndexedFile(row.path, size_of(row))
    return IndexedFile(row.path, size_of(row), _created_ns(created_at))


@lru_cache(_TIMES)
def _created_ns(text: str) -> int | None:
    # datetime reads past a NUL, and takes any letter between date and time.
    return parse_time_ns(text) if text.isascii() and "\0" not in text else None


def _project_file(row: dict[str, Any]) -> ProjectFile | None:
    if not isinstance(path := row.get("artifact_path"), str):
        return None
    size, created_at = row.get("file_size"), row.get("created_at")
    sized = isinstance(size, int | float | str) and not isinstance(size, bool)
    return ProjectFile(path, size if sized else None, created_at if isinstance(created_at, str) else None)
