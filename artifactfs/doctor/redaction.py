"""The redaction of a bundle: what is known to be harmless passes, and all else is replaced.

An allow-list by construction. Of text, the fixed parts of artifactfs' own messages pass (own_texts.py), measures
with a unit, the hosts of Datadog's API, and words that the caller names; of numbers, those under a key that the caller
names. Everything between is replaced by a name of its own, the same each time, so that the structure stays readable:
`name3` is the same file, user or project wherever it stands. Nothing of the original is in a replacement, not even its
length. Where the program's source is missing, more is replaced, and not less.
"""

import errno
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any

from artifactfs.doctor import own_texts
from artifactfs.util.urls import SITES, is_loopback

# Whole names: `acme.datadoghq.com` names a customer.
_HOSTS = frozenset(f"{front}{site}" for site in SITES for front in ("", "api.", "app."))
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:\d\d)?")
_MEASURE = re.compile(
    r"(?:in |after )?(?:\d+\.\d+|\d{1,3}(?:,\d{3})+|\d[\d,]*(?:\.\d+)?(?:(?:ms|s|min|m|h|d)|%|"
    r" ?(?:ms|s|min|h|d|B|bytes?|[KMGT]iB|files?|entries|entry|requests?|redirects?|mounts?|warnings?|rows?|times?)))"
)
_SPACE = re.compile(r"\s+")
# The blanks and signs around a text, which remain.
_EDGES = " \t\r\n:;,()[]'\"`"
# Parts of a message that no template holds are redacted one by one.
_SEPARATOR = re.compile(r"(: |; |, | \(|\) ?|['\"`]+)")
_URL = re.compile(r"(https?)://([^/?#\s]*)(\S*)")
_ANSWERED = re.compile(r"answered [1-5]\d\d")
_APART = re.compile(r"(https?://\S*|\banswered [1-5]\d\d\b)")
# Words that make sense of a message, and none of a name.
_GLUE = frozenset(
    {"with", "without", "none", "unknown", "yes", "no", "ok", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "nfs4"}
    | {"lookup", "getattr", "opendir", "readdir", "open", "read", "statfs", "access", "getxattr", "listxattr"}
    | set(errno.errorcode.values())
)
# Of requests to the service.
KINDS = frozenset({"runs", "run", "projects", "project", "listing", "content", "index", "facets"})
# The parts of a path that artifactfs itself, or the API, gives.
_PARTS = frozenset(
    {"", ".", "..", "~", "runs", "names", "projects", "artifacts", ".artifactfs", "status.json", "errors"}
)
# A template in a hole of a template, and so on. Arbitrary.
_DEPTH = 6
# A longer text is replaced as one: a message of artifactfs is shorter.
_MAX_TEXT = 4096

Kinds = Mapping[str, Collection[str]]


class Redactor:
    """Replaces everything private, in the same way for the whole bundle."""

    def __init__(self) -> None:
        self._replaced: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._pass = cache(self._text)

    def name(self, text: str, kind: str = "name") -> str:
        """Return the replacement of a text, `name1` or the like: the same for the same text. "" stays."""
        if not text:
            return ""
        if (kind, text) not in self._replaced:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._replaced[kind, text] = f"{kind}{self._counts[kind]}"
        return self._replaced[kind, text]

    def one_of(self, text: str, known: Collection[str]) -> str:
        """Return a text that is one of the known ones, else its replacement."""
        return text if text in known else self.name(text)

    def path(self, path: str) -> str:
        """Return a path with each component replaced."""
        return "/".join(part if part in _PARTS else self.name(part) for part in path.split("/"))

    def host(self, host: str) -> str:
        """Return a host, with its port, as it is if it is Datadog's API or this machine's loopback; else replaced."""
        bare = re.sub(r":\d{1,5}$", "", host)
        if bare.lower() in _HOSTS:
            return bare.lower()
        return "loopback" if is_loopback(bare) else self.name(bare.lower())

    def text(self, text: str, source: str = "") -> str:
        """Return a text of which only the fixed parts of artifactfs' own messages remain, and measures.

        `source`: the module that wrote it, or its package.
        """
        if len(text) > _MAX_TEXT:
            return self.name(text)
        # A whole message says more, wherever it comes from.
        if source in own_texts.modules() and not _fitting(text) and (found := _fitting(text, source)):
            return self._filled(text, *found, lambda hole: self._pass(hole, _DEPTH - 1))
        return self._pass(text, _DEPTH)

    def value(self, value: Any, key: str = "", *, keys: Collection[str], numbers: Collection[str], words: Kinds) -> Any:
        """Return JSON, redacted. `keys`: those of objects that pass; `numbers`: those whose numbers pass.

        `words`: by the key, the texts that pass.
        """

        def within(inner: Any, key: str) -> Any:
            return self.value(inner, key, keys=keys, numbers=numbers, words=words)

        if isinstance(value, Mapping):
            return {name if name in keys else self.name(str(name)): within(each, name) for name, each in value.items()}
        if isinstance(value, list | tuple):
            if key in numbers and all(type(each) in (int, float) for each in value):
                # On one line.
                return " ".join(map(str, value))
            return [within(each, key) for each in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return value if key in numbers else self.name(str(value))
        text = str(value)
        return text if text in words.get(key, ()) or _TIME.fullmatch(text) else self.text(text)

    def _text(self, text: str, depth: int) -> str:
        inner = text.strip(_EDGES)
        if not inner:
            return _SPACE.sub(" ", text)
        lead, trail = text.split(inner, 1)
        return f"{_SPACE.sub(' ', lead)}{self._stripped(inner, depth)}{_SPACE.sub(' ', trail)}"

    def _stripped(self, text: str, depth: int) -> str:
        if (atom := self._atom(text)) is not None:
            return atom
        if depth > 0 and (found := _fitting(text)) is not None:
            return self._filled(text, *found, lambda hole: self._pass(hole, depth - 1))
        if depth > 0 and len(parts := _APART.split(text)) > 1:
            return "".join(self._pass(part, depth - 1) for part in parts)
        if depth > 0 and len(parts := _SEPARATOR.split(text)) > 1:
            # The separators are at the odd places.
            return "".join(part if at % 2 else self._pass(part, depth - 1) for at, part in enumerate(parts))
        return self.path(text) if "/" in text else self.name(text)

    def _atom(self, text: str) -> str | None:
        """Return a text that has no parts, redacted; None for one that has."""
        names = (own_texts.exceptions(), own_texts.paths(), own_texts.modules(), _GLUE)
        forms = (_MEASURE, _TIME, _ANSWERED)
        if any(text in known for known in names) or any(form.fullmatch(text) for form in forms):
            return text
        if match := _URL.fullmatch(text):
            # A URL's end holds names and, in a query, keys.
            scheme, host, rest = match.groups()
            return f"{scheme}://{self.host(host)}{self.path(rest) if rest else ''}"
        host = re.sub(r":\d{1,5}$", "", text)
        return self.host(text) if host.lower() in _HOSTS or (host and is_loopback(host)) else None

    def _filled(self, text: str, parts: own_texts.Template, places: list[int], redact: Callable[[str], str]) -> str:
        done, at = "", 0
        for part, place in zip(parts, places, strict=True):
            done += redact(text[at:place]) + part
            at = place + len(part)
        return done + redact(text[at:])


def _fitting(text: str, source: str = "") -> tuple[own_texts.Template, list[int]] | None:
    """Return the first template whose parts are in a text, and their places; None if none fits."""
    for parts in own_texts.templates_of(source) if source else own_texts.templates():
        if parts[0] in text and (places := _places(parts, text)) is not None:
            return parts, places
    return None


def _places(parts: own_texts.Template, text: str) -> list[int] | None:
    """Return where the parts of a template begin in a text, in their order; None if one is missing, or cuts a word."""
    places, at = [], 0
    for part in parts:
        place = text.find(part, at)
        at = place + len(part)
        if place < 0 or _cuts_a_word(text, place) or _cuts_a_word(text, at):
            return None
        places.append(place)
    return places


def _cuts_a_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


_RECORD = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:,\d{3})?) ([A-Z]+) ([\w.]+): (.*)", re.DOTALL)
_FRAME = re.compile(r'\s+File "(.*)", line (\d{1,6}), in .*')
_REQUESTS = "artifactfs.modellab.request_log"
_GET = re.compile(r"GET (\w+) (\S+): ([1-5]\d\d), (\d+ bytes, [\d.]+ ms)")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def log_lines(lines: list[str], redactor: Redactor) -> Iterator[str]:
    """Yield the lines of a log, in either format or none, redacted: times, levels, loggers and message texts remain."""
    for line in lines:
        if match := _RECORD.fullmatch(line):
            yield _record(redactor, *match.groups())
        elif match := _FRAME.fullmatch(line):
            yield f"  {_frame(match[1], redactor)}, line {match[2]}"
        elif record := _json_record(line):
            shown = (
                redactor.one_of(record["level"].upper(), _LEVELS),
                redactor.one_of(record["logger"], own_texts.modules()),
            )
            when = record["time"] if _TIME.fullmatch(record["time"]) else "?"
            yield f"{when} {shown[0]} {shown[1]}: {redactor.text(record['message'])}"
            yield from log_lines(record.get("exception", "").splitlines(), redactor)
        else:
            yield redactor.text(line)


def _record(redactor: Redactor, when: str, level: str, logger: str, message: str) -> str:
    shown = when if _TIME.fullmatch(when) else redactor.name(when)
    if logger == _REQUESTS and (match := _GET.fullmatch(message)):
        kind, target, status, cost = match.groups()
        message = f"GET {redactor.one_of(kind, KINDS)} {redactor.path(target)}: {status}, {cost}"
        return f"{shown} DEBUG {logger}: {message}"
    names = f"{redactor.one_of(level, _LEVELS)} {redactor.one_of(logger, own_texts.modules())}"
    return f"{shown} {names}: {redactor.text(message, logger)}"


def _json_record(line: str) -> dict[str, str] | None:
    """Return a record of logs.JsonFormatter; None for another line."""
    try:
        record = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not {"time", "level", "logger", "message"} <= record.keys():
        return None
    return record if all(isinstance(each, str) for each in record.values()) else None


def _frame(file: str, redactor: Redactor) -> str:
    """Return a module's name for a file of artifactfs; else the path, replaced."""
    module = "artifactfs" + file.rpartition("/artifactfs")[2].removesuffix(".py").replace("/", ".")
    return module if module in own_texts.modules() else redactor.path(file)
