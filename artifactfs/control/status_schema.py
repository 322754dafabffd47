"""The schema of status.json, as values; docs/status.md describes it, and scripts rely on it.

Fields are only added; `schema` counts the changes that break a reader. Nothing in it is a key, nor made of one.
"""

import json
import re
from typing import Any

import msgspec

SCHEMA = 1

OK = "ok"
STATES = (OK, "degraded", "failing", "not_answering", "rate_limited", "keys_rejected", "offline")

# A section of counters (control/counters.py): a number, text, None for unknown, or mappings by kind.
Section = dict[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")


class Health(msgspec.Struct, frozen=True):
    """One of STATES, its start (RFC 3339), its meaning, and its fix."""

    state: str
    since: str
    message: str
    what_to_do: str = ""


class Times(msgspec.Struct, frozen=True):
    """Seconds from requests to the heads of their responses: `within[i]` of them took at most `bounds_s[i]`."""

    count: int
    sum_s: float
    bounds_s: tuple[float, ...]
    within: tuple[int, ...]


class RateLimit(msgspec.Struct, frozen=True):
    """The state of a rate limit; None for a value that no valid response has named."""

    name: str
    limit: float | None
    remaining: float | None
    reset_s: float | None
    paused_s: float


class Streaming(msgspec.Struct, frozen=True):
    """A full body and its progress: `came_to` of `size_bytes`. `path`: from the project.

    `fits`: into cache or memory; otherwise a read at an earlier offset restarts it.
    """

    project_id: str
    path: str
    size_bytes: int | None
    came_to: int
    fits: bool


class IndexStatus(msgspec.Struct, frozen=True):
    """The index of a project. `runs_right`, `runs_wrong`: runs whose own listings agree, or disagree, with it."""

    project_id: str
    state: str
    files: int
    age_s: float
    runs_right: int
    runs_wrong: int


class LastTraversal(msgspec.Struct, frozen=True):
    """The last traversal of a run: directories read, and the requests by kind of the whole mount meanwhile."""

    run_id: int
    directories: int
    seconds: float
    requests: dict[str, int]
    received_bytes: int


class Failed(msgspec.Struct, frozen=True):
    """A failure that happened `count` times; times are RFC 3339."""

    message: str
    what_to_do: str
    count: int
    first: str
    last: str


class Status(msgspec.Struct, frozen=True):
    """A mount, at one moment. `origin`: the host of the service; `site`: None with --api-url."""

    schema: int
    version: str
    mountpoint: str
    pid: int
    user_id: int
    mounted_since: str
    at: str
    uptime_s: float
    health: Health
    origin: str
    site: str | None
    account: str | None
    profile: str | None
    ranges: bool | None
    requests: Section
    rate_limits: tuple[RateLimit, ...]
    cache: Section
    metadata: Section
    reading: Section
    streaming: tuple[Streaming, ...]
    listings: Section
    indexes: tuple[IndexStatus, ...]
    last_traversal: LastTraversal | None
    open: Section
    failures: int
    last_error: Failed | None
    log_file: str | None = None


def status_json(status: Status) -> bytes:
    return (json_text(msgspec.to_builtins(status)) + "\n").encode()


def exact_json(value: object) -> bytes:
    """Return the JSON of a command's answer, which is exact: the server's text and paths may hold lone surrogates."""
    # The standard library's encoder, which escapes them.
    return (json.dumps(msgspec.to_builtins(value), indent=2) + "\n").encode()


def json_text(value: object) -> str:
    r"""Return JSON that strict readers accept: a lone surrogate, as of a path that is not UTF-8, becomes `\xff`."""
    # The standard library's encoder: msgspec's refuses lone surrogates. They occur only within strings of the text,
    # where a backslash is written twice.
    text = _SURROGATE.sub(_written_out, json.dumps(value, ensure_ascii=False))
    return json.dumps(json.loads(text), indent=2)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    # U+DC80 to U+DCFF are Python's for bytes that are not UTF-8 (PEP 383).
    return f"\\\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\\\u{code:04x}"
