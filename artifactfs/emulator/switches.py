"""A switch for every form of answer that the documentation leaves open.

Owns the names, the values and what they mean. The defaults are the recorded forms, else the likeliest.
Settable one by one as text (`--switch slash=required`) and together as JSON (`POST /_emulator/switches`).
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

SizeForm: TypeAlias = Literal["int", "string", "null_when_zero", "absent_when_zero", "absent", "null"]


class SwitchError(ValueError):
    """An unknown switch, or a value that it does not have: the sentence names those that exist."""


@dataclass(frozen=True, kw_only=True)
class Switches:
    """How the service behaves. Each field's docstring says what its values do."""

    slash: Literal["any", "required", "refused"] = "any"
    """The end of a listing's `path`. any: `dir` and `dir/` give the children. required: `dir` is a raw S3 prefix, which
    answers with `dir/` itself and its namesakes (`dirx/`, `dir.txt`). refused: `dir/` gives an empty answer."""

    dir_slash: bool = True
    """Whether a directory's path ends in a slash (as recorded)."""

    dir_flag: bool = True
    """Whether `is_dir` is true for a directory; false leaves it to the slash, so not both can be off."""

    base: Literal["root", "relative"] = "root"
    """What a row's path is relative to: the run's root, or the directory that was asked for."""

    depth: Literal["one", "recursive"] = "one"
    """Whether a listing holds the children, or everything below."""

    dir_rows: bool = True
    """Whether a recursive listing has rows for directories, or for files only."""

    self_marker: Literal["none", "slash", "bare"] = "none"
    """Whether a listing (but the root's) starts with a zero-byte file row that names the directory itself: `dir/` or
    `dir`. true and false are taken for slash and none."""

    size_form: SizeForm = "int"
    """The form of a file's size in a listing."""

    index_size_form: SizeForm = "int"
    """The same in a project's flat listing (the index)."""

    empty_form: Literal["list", "null", "absent"] = "list"
    """How an empty `files` arrives, in listing and index."""

    path_of_file: Literal["empty", "self", "400", "404", "500"] = "empty"
    """What a listing answers whose `path` names a file: no rows, the file's own row, or an error.
    Under slash=required, empty means the S3 answer: the file and its namesakes."""

    path_missing: Literal["empty", "400", "404", "500"] = "empty"
    """What a listing answers whose `path` names nothing."""

    path_start: Literal["none", "slash", "dot_slash", "mixed"] = "none"
    """What stands in front of paths in listing and index, which the schema allows: `/`, `./`, or any mixture of both.
    A listing's `path` is then taken with it and without."""

    path_in_project: Literal["hash", "empty", "slash"] = "hash"
    """A run's place in its project: as recorded, or, for projects of one run, the project's root: "" or "/"."""

    page_base: Literal[0, 1] = 0
    """The number of the first page: 0 as recorded, 1 as documented."""

    page_meta: Literal["full", "no_next", "null_next", "required", "none"] = "full"
    """The metadata of a page: all of it, without `next_number`, only what the schema requires (`number`,
    `size`, `total`), the same with a `next_number` of null, or without `meta`."""

    page_cap: int = 100
    """The most rows of a page, whatever `page[size]` asks for (the answer has the smaller `size`)."""

    extra_fields: bool = False
    """Whether answers hold undocumented fields."""

    null_params: bool = False
    """Whether every run's `params` is null."""

    facet_form: Literal["texts", "objects", "null", "empty"] = "texts"
    """How the keys and values of facets arrive: as texts, as objects with a `value`, or as null or an empty list
    although there are some (recorded)."""

    error_form: Literal["object", "strings", "title_only", "html", "empty", "nonsense"] = "object"
    """The body of an error. object: as recorded and documented; the others all occur near this API."""

    keys_refused: Literal["403", "401"] = "403"
    """The status for wrong keys."""

    rate_limit_headers: bool = True
    """Whether every answer has the X-RateLimit headers."""

    index: Literal["full", "404", "partial", "ghosts", "other", "empty", "no_sizes", "html", "stall", "cut"] = "full"
    """A project's flat listing. partial: every tenth file is missing. ghosts: every directory with files has one more,
    `gone.bin`. other: that of another project. html: a login page, 200. stall: never answered. cut: half of it."""

    ranges: Literal["granted", "ignored"] = "granted"
    """Whether content honours Range (206, 416), or answers 200 with the whole body."""

    length: Literal["content-length", "chunked"] = "content-length"
    """How a body marks its end."""

    etag: Literal["none", "strong", "weak", "changing"] = "none"
    """Content's ETag. changing: a different tag in every answer, for the same bytes."""

    last_modified: bool = False
    """Whether content has Last-Modified: the file's `created_at`, and a second for each change of its content since."""

    created_at: Literal["kept", "moves"] = "kept"
    """A file's time in the index after its content has changed: kept as it was, or the same as in Last-Modified."""

    listing_lag_s: float = 0.0
    """Seconds by which listings and index lag behind the sizes and times of files that change."""

    content_lag_s: float = 0.0
    """Seconds by which content lags behind files that change: listings run ahead of it."""

    content_type: str = "application/octet-stream"
    """Content's Content-Type."""

    encoding: Literal["identity", "gzip"] = "identity"
    """gzip: content is compressed without Accept-Encoding, as a whole (200) and chunked."""

    redirect: Literal["none", "same", "other", "loop"] = "none"
    """Whether content is a 302. same: to a place here that wants no keys. other: to that place at `redirect_to`.
    loop: to itself."""

    redirect_to: str = ""
    """The origin ("http://127.0.0.1:8081") for redirect=other; a served emulator sets it to its second port."""

    wrong_content: Literal["none", "html", "short", "wrong_range", "wrong_total", "surplus"] = "none"
    """html: 200 with a login page. short: half of the bytes and of the Content-Length. wrong_range: a 206 of
    another span. wrong_total: a Content-Range with another total. surplus: a 206 of other bytes, and of one more
    than it announces."""

    missing_content: Literal["400", "404", "500"] = "404"
    """What content answers for a file that is not there."""

    directory_content: Literal["empty", "404", "500"] = "empty"
    """What content answers for a directory; empty is 200 without a body."""

    clock_skew_s: int = 0
    """Seconds by which the Date header of every answer is wrong: more than 0 is ahead of time."""

    latency_s: float = 0.0
    """Seconds before every answer."""

    bytes_per_s: int = 0
    """How fast content drips, in ten portions a second; 0 is as fast as it goes."""

    def __post_init__(self) -> None:
        if not (self.dir_slash or self.dir_flag):
            raise SwitchError("dir_slash and dir_flag cannot both be off: nothing would mark a directory")
        if self.page_cap < 1:
            raise SwitchError("page_cap is at least 1")
        for name in ("latency_s", "bytes_per_s", "listing_lag_s", "content_lag_s"):
            if getattr(self, name) < 0:
                raise SwitchError(f"{name} cannot be negative")

    def changed(self, values: Mapping[str, object]) -> "Switches":
        """Return a copy with the named switches set; a value may be text or what JSON has for it.

        Raises SwitchError for an unknown name or a value that the switch does not have.
        """
        return dataclasses.replace(self, **{name: _value(name, value) for name, value in values.items()})  # type: ignore[arg-type]  # checked by _value


_KINDS: dict[str, object] = typing.get_type_hints(Switches)
_WORDS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


def assignment(text: str) -> tuple[str, str]:
    """Split `NAME=VALUE`. Raises SwitchError without a sign of equality."""
    name, sign, value = text.partition("=")
    if not sign:
        raise SwitchError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def _value(name: str, value: object) -> object:
    """Return `value` as what the switch `name` holds. Raises SwitchError."""
    kind = _KINDS.get(name)
    if kind is None:
        raise SwitchError(f"no switch {name!r}; there are: {', '.join(sorted(_KINDS))}")
    if name == "self_marker" and str(value).lower() in _WORDS:
        value = "slash" if _WORDS[str(value).lower()] else "none"
    if options := typing.get_args(kind):
        for option in options:
            if not isinstance(value, bool) and str(option) == str(value):
                return option
        raise SwitchError(f"{name} is one of {', '.join(map(str, options))}, not {value!r}")
    if kind is bool:
        if str(value).lower() not in _WORDS:
            raise SwitchError(f"{name} is true or false, not {value!r}")
        return _WORDS[str(value).lower()]
    if kind is str:
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise SwitchError(f"{name} is a number, not {value!r}")
    try:
        return int(value) if kind is int else float(value)
    except ValueError as problem:
        raise SwitchError(f"{name} is a number, not {value!r}") from problem
